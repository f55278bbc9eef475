//! Parses the expressions of a template with Jinja2's precedence.

use std::sync::Arc;

use super::Fault;
use super::ast::{Arguments, Comparison, Expr, Operator, Suffix};
use super::filters::FILTERS;
use super::lexer::Token;
use super::parser::Parser;
use super::tests::TESTS;

impl Parser {
    /// Reads an expression, or several separated by commas: a tuple. `conditional` says whether
    /// `a if b else c` is accepted; `ends` are words that end a tuple after a comma.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr, Fault> {
        let first = self.tuple_item(conditional)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_operator(",") {
            let ended = matches!(self.peek(), None | Some(Token::EndPrint | Token::EndBlock));
            if ended || self.is_operator(")") || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            items.push(self.tuple_item(conditional)?);
        }
        Ok(Expr::Tuple(items))
    }

    fn tuple_item(&mut self, conditional: bool) -> Result<Expr, Fault> {
        match conditional {
            true => self.expression(),
            false => self.deeper(Self::or),
        }
    }

    pub(super) fn expression(&mut self) -> Result<Expr, Fault> {
        self.deeper(Self::conditional)
    }

    fn conditional(&mut self) -> Result<Expr, Fault> {
        let unknown = self.unknown.len();
        let value = self.or()?;
        let mut conditions = Vec::new();
        while self.skip_name("if") {
            // Unknown filters and tests here may never be reached.
            self.unknown.truncate(unknown);
            let soft = std::mem::replace(&mut self.soft, true);
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(self.expression()?) } else { None };
            self.soft = soft;
            conditions.push((test, otherwise));
        }
        Ok(if conditions.is_empty() { value } else { Expr::If(Box::new(value), conditions) })
    }

    /// Reads operands separated by a word.
    fn chain(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Result<Expr, Fault>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, Fault> {
        let first = operand(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name(word) {
            operands.push(operand(self)?);
        }
        Ok(make(operands))
    }

    fn or(&mut self) -> Result<Expr, Fault> {
        self.chain("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, Fault> {
        self.chain("and", Self::not, Expr::And)
    }

    fn not(&mut self) -> Result<Expr, Fault> {
        match self.skip_name("not") {
            true => Ok(Expr::Not(Box::new(self.deeper(Self::not)?))),
            false => self.compare(),
        }
    }

    fn compare(&mut self) -> Result<Expr, Fault> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Operator("==")) => Comparison::Equal,
                Some(Token::Operator("!=")) => Comparison::NotEqual,
                Some(Token::Operator("<")) => Comparison::Less,
                Some(Token::Operator("<=")) => Comparison::LessOrEqual,
                Some(Token::Operator(">")) => Comparison::Greater,
                Some(Token::Operator(">=")) => Comparison::GreaterOrEqual,
                Some(Token::Name(name)) if &**name == "in" => Comparison::In,
                Some(Token::Name(name)) if &**name == "not" => match self.peek_second() {
                    Some(Token::Name(name)) if &**name == "in" => {
                        self.next();
                        Comparison::NotIn
                    }
                    _ => break,
                },
                _ => break,
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    /// Reads operands separated by operators of one precedence.
    fn math(&mut self, operand: fn(&mut Self) -> Result<Expr, Fault>, operators: &[Operator]) -> Result<Expr, Fault> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(Token::Operator(sign)) = self.peek() {
            let Some(operator) = operators.iter().find(|operator| operator.sign() == *sign) else { break };
            self.next();
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Math(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expr, Fault> {
        self.math(Self::concat, &[Operator::Add, Operator::Subtract])
    }

    fn concat(&mut self) -> Result<Expr, Fault> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_operator("~") {
            operands.push(self.product()?);
        }
        Ok(Expr::Concat(operands))
    }

    fn product(&mut self) -> Result<Expr, Fault> {
        use Operator::{Divide, FloorDivide, Multiply, Remainder};
        self.math(Self::power, &[Multiply, Divide, FloorDivide, Remainder])
    }

    fn power(&mut self) -> Result<Expr, Fault> {
        self.math(|parser| parser.unary(true), &[Operator::Power])
    }

    fn unary(&mut self, filters: bool) -> Result<Expr, Fault> {
        let value = if self.skip_operator("-") {
            Expr::Negate(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.skip_operator("+") {
            Expr::Plus(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        self.suffixed(value, filters)
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        if !matches!(self.peek(), Some(Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_)))
            && !["(", "[", "{"].into_iter().any(|open| self.is_operator(open))
        {
            return Err(self.unexpected("an expression"));
        }
        Ok(match self.next() {
            Some(Token::Name(name)) => match &*name {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => Expr::Name(self.symbol(&name)),
            },
            Some(Token::Text(text)) if matches!(self.peek(), Some(Token::Text(_))) => {
                let mut text = text.to_string();
                while let Some(Token::Text(more)) = self.peek() {
                    text += more;
                    self.next();
                }
                Expr::Text(text.into())
            }
            Some(Token::Text(text)) => Expr::Text(text),
            Some(Token::Int(number)) => Expr::Int(number),
            Some(Token::Float(number)) => Expr::Float(number),
            Some(Token::Operator("(")) if self.skip_operator(")") => Expr::Tuple(Vec::new()),
            Some(Token::Operator("(")) => {
                let value = self.tuple(true, &[])?;
                self.expect_operator(")")?;
                value
            }
            Some(Token::Operator("[")) => Expr::List(self.listed("]", Self::expression)?),
            _ => Expr::Dict(self.listed("}", |parser| {
                let key = parser.expression()?;
                parser.expect_operator(":")?;
                Ok((key, parser.expression()?))
            })?),
        })
    }

    /// Reads items separated by commas, with an optional comma at the end, up to a bracket.
    fn listed<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut items = Vec::new();
        while !self.is_operator(end) {
            if !items.is_empty() {
                self.expect_operator(",")?;
                if self.is_operator(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_operator(end)?;
        Ok(items)
    }

    /// Reads what follows a value: attributes, items and calls, then filters and tests.
    fn suffixed(&mut self, value: Expr, filters: bool) -> Result<Expr, Fault> {
        let mut suffixes = Vec::new();
        self.plain_suffixes(&mut suffixes)?;
        loop {
            if !filters {
                break;
            } else if self.is_operator("|") {
                suffixes.extend(self.filters(false)?);
            } else if self.is_name("is") {
                suffixes.push(self.test()?);
            } else if self.is_operator("(") {
                suffixes.push(Suffix::Call(self.arguments()?));
            } else {
                break;
            }
        }
        Ok(if suffixes.is_empty() { value } else { Expr::Suffixed(Box::new(value), suffixes) })
    }

    fn plain_suffixes(&mut self, suffixes: &mut Vec<Suffix>) -> Result<(), Fault> {
        loop {
            if self.skip_operator(".") {
                suffixes.push(match self.peek() {
                    Some(Token::Int(number)) => {
                        let number = *number;
                        self.next();
                        Suffix::Item(Expr::Int(number))
                    }
                    _ => Suffix::Attribute(self.expect_name()?),
                });
            } else if self.skip_operator("[") {
                suffixes.push(self.subscript()?);
            } else if self.is_operator("(") {
                suffixes.push(Suffix::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Result<Suffix, Fault> {
        let mut parts = [None, None, None];
        let mut colons = 0;
        let mut items = Vec::new();
        while !self.is_operator("]") {
            if self.skip_operator(":") {
                colons += 1;
                if colons == 3 || !items.is_empty() {
                    return Err(self.unexpected("']'"));
                }
            } else if self.skip_operator(",") {
                if colons > 0 {
                    return Err(self.unexpected("']'"));
                }
                items.extend(parts[0].take());
            } else if parts[colons].is_none() {
                parts[colons] = Some(self.expression()?);
            } else {
                return Err(self.unexpected("']'"));
            }
        }
        self.expect_operator("]")?;
        if colons > 0 {
            return Ok(Suffix::Slice(Box::new(parts)));
        }
        let [last, ..] = parts;
        match last {
            Some(item) if items.is_empty() => Ok(Suffix::Item(item)),
            None if items.is_empty() => Err(self.fault("[] without an item")),
            last => {
                items.extend(last);
                Ok(Suffix::Item(Expr::Tuple(items)))
            }
        }
    }

    fn arguments(&mut self) -> Result<Arguments, Fault> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut any = false;
        while !self.is_operator(")") {
            if any {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            any = true;
            let [list, named] = [arguments.rest[0].is_some(), arguments.rest[1].is_some()];
            let is_named = matches!(self.peek_second(), Some(Token::Operator("=")));
            let wrong = if self.skip_operator("*") {
                arguments.rest[0] = Some(Box::new(self.expression()?));
                list || named
            } else if self.skip_operator("**") {
                arguments.rest[1] = Some(Box::new(self.expression()?));
                named
            } else if is_named && matches!(self.peek(), Some(Token::Name(_))) {
                let name = self.expect_name()?;
                self.next();
                arguments.named.push((name, self.expression()?));
                named
            } else {
                arguments.list.push(self.expression()?);
                list || named || !arguments.named.is_empty()
            };
            if wrong {
                return Err(self.fault("arguments of a call in the wrong order"));
            }
        }
        self.expect_operator(")")?;
        Ok(arguments)
    }

    /// Reads filters, each after a `|`; with `inline`, the first one without.
    pub(super) fn filters(&mut self, inline: bool) -> Result<Vec<Suffix>, Fault> {
        let mut filters = Vec::new();
        let mut inline = inline;
        while inline || self.skip_operator("|") {
            inline = false;
            let name = self.dotted_name()?;
            self.known("filter", &FILTERS, &name);
            let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
            filters.push(Suffix::Filter(name, arguments));
        }
        Ok(filters)
    }

    fn test(&mut self) -> Result<Suffix, Fault> {
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        self.known("test", &TESTS, &name);
        let ends = ["else", "or", "and"].iter().any(|word| self.is_name(word));
        let begins = matches!(self.peek(), Some(Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_)))
            || self.is_operator("[")
            || self.is_operator("{");
        let mut arguments = Arguments::default();
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if begins && !ends {
            if self.is_name("is") {
                return Err(self.fault("two tests in a row"));
            }
            let value = self.deeper(Self::primary)?;
            arguments.list.push(self.suffixed(value, false)?);
        }
        Ok(Suffix::Test(name, arguments, negated))
    }

    fn dotted_name(&mut self) -> Result<Arc<str>, Fault> {
        let name = self.expect_name()?;
        if !self.is_operator(".") {
            return Ok(name);
        }
        let mut name = name.to_string();
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name.into())
    }

    /// Records a filter or test that does not exist.
    fn known(&mut self, what: &str, names: &[&str], name: &str) {
        if !self.soft && !names.contains(&name) {
            let fault = self.fault(format!("no {what} named {name:?}"));
            self.unknown.push(fault);
        }
    }
}
