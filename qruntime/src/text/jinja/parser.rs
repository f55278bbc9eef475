//! Parses the statements of a template: tokens to tree. Expressions are in `expression.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Expr, For, Kind, Macro, SPECIAL, Signature, Statement, Suffix, Symbol, Target, Tree};
use super::lexer::{Token, tokens};
use super::{Fault, MAX_NESTING, MAX_TEMPLATE};

/// Parses a template into its tree.
pub(super) fn parse(source: &str) -> Result<Tree, Fault> {
    if source.len() > MAX_TEMPLATE {
        return Err(Fault::new(format!("{} bytes, expected at most {MAX_TEMPLATE}", source.len())));
    }
    let mut parser = Parser { tokens: tokens(source)?, ..Parser::default() };
    let (body, _) = parser.body(&[])?;
    if let Some(unknown) = parser.unknown.pop() {
        return Err(unknown);
    }
    parser.tree.body = body;
    Ok(parser.tree)
}

#[derive(Debug, Default)]
pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    tree: Tree,
    /// The indices of names in the tree.
    symbols: HashMap<Arc<str>, Symbol>,
    /// The current level of nesting.
    depth: usize,
    /// For each macro that is being read, which of the special names it has used.
    uses: Vec<[bool; 3]>,
    /// The number of enclosing loops, without those outside the enclosing macro.
    loops: usize,
    /// Whether an unknown filter or test is an error only when it is reached, as within `if`.
    pub(super) soft: bool,
    /// Filters and tests that do not exist.
    pub(super) unknown: Vec<Fault>,
}

impl Parser {
    // Tokens.

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(super) fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(token, _)| token.clone());
        self.at += 1;
        token
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::at(self.line(), message)
    }

    pub(super) fn unexpected(&self, expected: &str) -> Fault {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(Token::Data(_)) => "text".to_owned(),
            Some(Token::BeginPrint) => "'{{'".to_owned(),
            Some(Token::EndPrint) => "'}}'".to_owned(),
            Some(Token::BeginBlock) => "'{%'".to_owned(),
            Some(Token::EndBlock) => "'%}'".to_owned(),
            Some(Token::Name(name)) => format!("{name:?}"),
            Some(Token::Text(_)) => "a string".to_owned(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".to_owned(),
            Some(Token::Operator(operator)) => format!("'{operator}'"),
        };
        self.fault(format!("{found}, expected {expected}"))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<(), Fault> {
        match self.skip_operator(operator) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("'{operator}'"))),
        }
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if &**found == name)
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_name(&mut self) -> Result<Arc<str>, Fault> {
        match self.peek() {
            Some(Token::Name(_)) => {}
            _ => return Err(self.unexpected("a name")),
        }
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(self.unexpected("a name")),
        }
    }

    fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        match self.skip_name(word) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("{word:?}"))),
        }
    }

    fn end_block(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(&Token::EndBlock) {
            return Err(self.unexpected("'%}'"));
        }
        self.at += 1;
        Ok(())
    }

    /// Runs `read` one level deeper.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == MAX_NESTING {
            return Err(self.fault(format!("nested more than {MAX_NESTING} levels deep")));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Returns the index of a variable.
    pub(super) fn symbol(&mut self, name: &Arc<str>) -> Symbol {
        if let Some(special) = SPECIAL.iter().position(|special| **special == **name) {
            for uses in &mut self.uses {
                uses[special] = true;
            }
        }
        let Self { symbols, tree, .. } = self;
        *symbols.entry(name.clone()).or_insert_with(|| {
            tree.names.push(name.clone());
            tree.names.len() - 1
        })
    }

    // Statements.

    /// Reads statements up to a block that begins with one of these words, which it takes and
    /// returns; without words, up to the end.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str), Fault> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.next() {
                None if ends.is_empty() => return Ok((body, "")),
                None => return Err(self.fault(format!("the end of the template, expected {}", ends.join(" or ")))),
                Some(Token::Data(text)) => Kind::Text(text),
                Some(Token::BeginPrint) => {
                    let value = self.tuple(true, &[])?;
                    if self.peek() != Some(&Token::EndPrint) {
                        return Err(self.unexpected("'}}'"));
                    }
                    self.at += 1;
                    Kind::Print(vec![value])
                }
                Some(_) => {
                    if let Some(end) = ends.iter().find(|end| self.is_name(end)) {
                        self.at += 1;
                        return Ok((body, end));
                    }
                    let kind = self.deeper(Self::statement)?;
                    self.end_block()?;
                    kind
                }
            };
            body.push(Statement { line, kind });
        }
    }

    /// Reads the body of a statement, which ends with one of these words. A colon may precede it.
    fn inner(&mut self, soft: bool, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str), Fault> {
        self.skip_operator(":");
        self.end_block()?;
        let before = std::mem::replace(&mut self.soft, soft);
        let body = self.body(ends);
        self.soft = before;
        body
    }

    /// Reads a body that runs as a function: it cannot leave an enclosing loop.
    fn function(&mut self, end: &'static str) -> Result<Vec<Statement>, Fault> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.inner(false, &[end])?.0;
        self.loops = loops;
        Ok(body)
    }

    fn statement(&mut self) -> Result<Kind, Fault> {
        let word = self.expect_name()?;
        match &*word {
            "set" => self.set(),
            "if" => self.condition(),
            "for" => self.for_loop(),
            "macro" => {
                let name = self.expect_name()?;
                let place = self.reserve_macro(name);
                self.tree.macros[place].parameters = self.parameters()?;
                self.macro_body(place, "endmacro")?;
                Ok(Kind::Macro(place))
            }
            "call" => self.call_block(),
            "filter" => {
                let filters = self.filters(true)?;
                Ok(Kind::Filter(filters, self.inner(false, &["endfilter"])?.0))
            }
            "with" => self.with(),
            "generation" => Ok(Kind::Scope(self.function("endgeneration")?)),
            "block" => {
                let name = self.expect_name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let body = self.function("endblock")?;
                self.skip_name(&name);
                Ok(Kind::Scope(body))
            }
            "print" => {
                let mut values = Vec::new();
                while self.peek() != Some(&Token::EndBlock) {
                    if !values.is_empty() {
                        self.expect_operator(",")?;
                    }
                    values.push(self.expression()?);
                }
                Ok(Kind::Print(values))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.fault(format!("{word} outside of a loop")));
                }
                Ok(if &*word == "break" { Kind::Break } else { Kind::Continue })
            }
            "include" | "import" | "from" | "extends" | "autoescape" => {
                while !matches!(self.peek(), None | Some(Token::EndBlock)) {
                    self.at += 1;
                }
                if &*word == "autoescape" {
                    self.inner(false, &["endautoescape"])?;
                }
                Ok(Kind::Refuse(format!("{word} is not possible here: a chat template is one file, of plain text")))
            }
            other => Err(self.fault(format!("unknown tag {other:?}"))),
        }
    }

    fn set(&mut self) -> Result<Kind, Fault> {
        let target = self.targets(true, &[])?;
        if self.skip_operator("=") {
            return Ok(Kind::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filters(false)?;
        Ok(Kind::SetBlock(target, filters, self.inner(false, &["endset"])?.0))
    }

    fn condition(&mut self) -> Result<Kind, Fault> {
        let soft = std::mem::replace(&mut self.soft, true);
        let mut branches = Vec::new();
        let otherwise = loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.inner(true, &["elif", "else", "endif"])?;
            branches.push((test, body));
            match end {
                "elif" => {}
                "else" => break self.inner(true, &["endif"])?.0,
                _ => break Vec::new(),
            }
        };
        self.soft = soft;
        Ok(Kind::If(branches, otherwise))
    }

    fn for_loop(&mut self) -> Result<Kind, Fault> {
        let target = self.targets(false, &["in"])?;
        self.expect_word("in")?;
        let over = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.inner(false, &["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if end == "else" { self.inner(false, &["endfor"])?.0 } else { Vec::new() };
        self.tree.loops.push(For { target, over, test, recursive, body, otherwise });
        Ok(Kind::For(self.tree.loops.len() - 1))
    }

    fn with(&mut self) -> Result<Kind, Fault> {
        let mut targets = Vec::new();
        while !matches!(self.peek(), None | Some(Token::EndBlock)) {
            if !targets.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target(false)?;
            self.expect_operator("=")?;
            targets.push((target, self.expression()?));
        }
        Ok(Kind::With(targets, self.inner(false, &["endwith"])?.0))
    }

    fn call_block(&mut self) -> Result<Kind, Fault> {
        let place = self.reserve_macro("caller".into());
        if self.is_operator("(") {
            self.tree.macros[place].parameters = self.parameters()?;
        }
        let call = self.expression()?;
        if !matches!(&call, Expr::Suffixed(_, suffixes) if matches!(suffixes.last(), Some(Suffix::Call(_)))) {
            return Err(self.unexpected("a call"));
        }
        self.macro_body(place, "endcall")?;
        Ok(Kind::Call(call, place))
    }

    fn reserve_macro(&mut self, name: Arc<str>) -> usize {
        let symbol = self.symbol(&name);
        self.tree.macros.push(Macro { name, symbol, ..Macro::default() });
        self.tree.macros.len() - 1
    }

    fn macro_body(&mut self, place: usize, end: &'static str) -> Result<(), Fault> {
        self.uses.push([false; 3]);
        self.tree.macros[place].body = self.function(end)?;
        let uses = self.uses.pop().unwrap_or_default();
        let of = &mut self.tree.macros[place];
        of.uses = uses;
        let arguments: Vec<_> = of.parameters.iter().map(|(symbol, _)| self.tree.names[*symbol].clone()).collect();
        let [explicit_caller, kwargs, varargs] =
            SPECIAL.map(|name| arguments.iter().any(|argument| **argument == *name));
        of.signature = Arc::new(Signature {
            name: (end == "endmacro").then(|| of.name.clone()),
            caller: uses[0],
            explicit_caller,
            catch_kwargs: uses[1] && !kwargs,
            catch_varargs: uses[2] && !varargs,
            arguments,
        });
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<(Symbol, Option<Expr>)>, Fault> {
        self.expect_operator("(")?;
        let mut parameters: Vec<(Symbol, Option<Expr>)> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.expect_name()?;
            let symbol = self.symbol(&name);
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return Err(self.fault("a parameter without a default after one that has one"));
            }
            parameters.push((symbol, default));
        }
        self.expect_operator(")")?;
        Ok(parameters)
    }

    // Targets of assignments.

    /// Reads one target, or several separated by commas.
    fn targets(&mut self, attributes: bool, ends: &[&str]) -> Result<Target, Fault> {
        let first = self.target(attributes)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_operator(",") {
            let ended = ends.iter().any(|end| self.is_name(end)) || self.is_operator(")") || self.is_operator("=");
            if ended || self.peek() == Some(&Token::EndBlock) {
                break;
            }
            targets.push(self.target(attributes)?);
        }
        Ok(Target::Tuple(targets))
    }

    fn target(&mut self, attributes: bool) -> Result<Target, Fault> {
        if self.skip_operator("(") {
            let target = self.deeper(|parser| parser.targets(attributes, &[]))?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let name = self.expect_name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(self.fault(format!("cannot assign to {name:?}")));
        }
        let symbol = self.symbol(&name);
        if attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(symbol, self.expect_name()?));
        }
        Ok(Target::Name(symbol))
    }
}
