//! Runs a template: statements and expressions.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::ast::{Expr, Kind, SPECIAL, Statement, Suffix, Symbol, Target, Tree};
use super::attributes::{attribute, has_method, item};
use super::calls::{CLOCK, FUNCTIONS, namespace_field};
use super::operators::{calculate, compare, insert, items, negate, slice};
use super::print::print;
use super::strings::expect_int;
use super::value::{Closure, Heap, Kind as Order, Loop, Missing, Value};
use super::{Fault, Limits, MAX_DEPTH};
use crate::text::date::Date;

/// Renders a template as text.
pub(super) fn render(
    tree: &Tree,
    variables: &Map<String, Json>,
    date: Option<Date>,
    limits: Limits,
) -> Result<String, Fault> {
    let mut heap = Heap::new(limits);
    let mut globals = Vec::new();
    for (symbol, name) in tree.names.iter().enumerate() {
        let value = match variables.get(&**name) {
            Some(json) => heap.json(json)?,
            None => match FUNCTIONS.iter().find(|function| ***function == **name) {
                Some(function) => Value::Function(function),
                None if &**name == CLOCK && date.is_some() => Value::Function(CLOCK),
                None => continue,
            },
        };
        globals.push((symbol, value));
    }
    let scopes = vec![Scope { variables: globals, parent: 0, captured: true }];
    let special = [SPECIAL[0], SPECIAL[1], SPECIAL[2], "loop"];
    let special = special.map(|special| tree.names.iter().position(|name| **name == *special));
    let mut rendering =
        Rendering { tree, heap, date, special, scopes, scope: 0, depth: 0, loops: 0, changed: Vec::new() };
    let mut out = String::new();
    rendering.body(&tree.body, &mut out)?;
    Ok(out)
}

/// A scope of variables, and its parent.
#[derive(Debug)]
struct Scope {
    variables: Vec<(Symbol, Value)>,
    parent: usize,
    /// Whether a macro refers to the scope.
    captured: bool,
}

/// A template that is being rendered.
#[derive(Debug)]
pub(super) struct Rendering<'t> {
    pub(super) tree: &'t Tree,
    pub(super) heap: Heap,
    pub(super) date: Option<Date>,
    /// The symbols of `caller`, `kwargs`, `varargs` and `loop`, if the template uses them.
    special: [Option<Symbol>; 4],
    /// All scopes that may still be used; values refer to them by index.
    scopes: Vec<Scope>,
    scope: usize,
    depth: usize,
    /// The number of loops so far.
    loops: usize,
    /// The last value that `loop.changed` saw in each loop.
    pub(super) changed: Vec<(usize, Value)>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Rendering<'t> {
    // Scopes.

    /// Begins a scope within another one. Returns the one to go back to.
    pub(super) fn enter(&mut self, parent: usize) -> Result<usize, Fault> {
        self.heap.take(size_of::<Scope>())?;
        self.scopes.push(Scope { variables: Vec::new(), parent, captured: false });
        Ok(std::mem::replace(&mut self.scope, self.scopes.len() - 1))
    }

    /// Ends a scope, and forgets it unless a macro refers to it.
    pub(super) fn leave(&mut self, back: usize) {
        if self.scope + 1 == self.scopes.len() && !self.scopes[self.scope].captured {
            self.scopes.pop();
        }
        self.scope = back;
    }

    pub(super) fn assign(&mut self, symbol: Symbol, value: Value) -> Result<(), Fault> {
        let variables = &mut self.scopes[self.scope].variables;
        self.heap.steps(1 + variables.len() / 8)?;
        match variables.iter_mut().find(|(known, _)| *known == symbol) {
            Some((_, old)) => *old = value,
            None => {
                self.heap.take(size_of::<(Symbol, Value)>())?;
                variables.push((symbol, value));
            }
        }
        Ok(())
    }

    /// Assigns to one of the special names: `caller`, `kwargs`, `varargs`, `loop`.
    pub(super) fn assign_special(&mut self, special: usize, value: Value) -> Result<(), Fault> {
        self.special[special].map_or(Ok(()), |symbol| self.assign(symbol, value))
    }

    fn variable(&mut self, symbol: Symbol) -> Result<Value, Fault> {
        let mut at = self.scope;
        loop {
            let scope = &self.scopes[at];
            self.heap.steps(1 + scope.variables.len() / 8)?;
            if let Some((_, value)) = scope.variables.iter().find(|(known, _)| *known == symbol) {
                return Ok(value.clone());
            }
            if at == 0 {
                return Ok(Value::Undefined(Missing::Name(self.tree.names[symbol].clone())));
            }
            at = scope.parent;
        }
    }

    /// Assigns a value to each name of a target.
    fn unpack(&mut self, target: &'t Target, value: Value) -> Result<(), Fault> {
        match target {
            Target::Name(symbol) => self.assign(*symbol, value),
            Target::Attribute(symbol, field) => {
                let Value::Namespace(place) = self.variable(*symbol)? else {
                    return Err(Fault::new(format!(
                        "cannot assign to an attribute of '{}': it is no namespace",
                        self.tree.names[*symbol]
                    )));
                };
                namespace_field(field)?;
                self.heap.take(size_of::<(Arc<str>, Value)>())?;
                self.heap.look_for(place, field)?;
                let fields = &mut self.heap.namespaces[place];
                match fields.iter_mut().find(|(known, _)| known == field) {
                    Some((_, old)) => *old = value,
                    None => fields.push((field.clone(), value)),
                }
                Ok(())
            }
            Target::Tuple(targets) => {
                let values = items(&mut self.heap, &value)?;
                if values.items.len() != targets.len() {
                    let (found, expected) = (values.items.len(), targets.len());
                    return Err(Fault::new(format!("{found} values to unpack, expected {expected}")));
                }
                for (target, value) in targets.iter().zip(&values.items) {
                    self.unpack(target, value.clone())?;
                }
                Ok(())
            }
        }
    }

    /// Runs `run` one level deeper.
    pub(super) fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::new(format!("more than {MAX_DEPTH} levels of expressions, statements and macros")));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    // Statements.

    pub(super) fn body(&mut self, body: &'t [Statement], out: &mut String) -> Result<Flow, Fault> {
        self.deeper(|this| {
            for statement in body {
                let flow = this.statement(statement, out).map_err(|fault| fault.in_line(statement.line))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    /// Runs a body in its own scope.
    fn scoped(&mut self, body: &'t [Statement], out: &mut String) -> Result<Flow, Fault> {
        let back = self.enter(self.scope)?;
        let flow = self.body(body, out)?;
        self.leave(back);
        Ok(flow)
    }

    /// Runs a body and passes its text through filters.
    fn filtered(&mut self, body: &'t [Statement], filters: &'t [Suffix]) -> Result<(Value, Flow), Fault> {
        let mut text = String::new();
        let flow = self.scoped(body, &mut text)?;
        let value = self.heap.text(text)?;
        Ok((self.suffixes(value, filters)?, flow))
    }

    fn statement(&mut self, statement: &'t Statement, out: &mut String) -> Result<Flow, Fault> {
        self.heap.steps(1)?;
        match &statement.kind {
            Kind::Text(text) => self.heap.push(out, text)?,
            Kind::Print(values) => {
                for value in values {
                    let value = self.eval(value)?;
                    print(&mut self.heap, &value, out)?;
                }
            }
            Kind::Set(target, value) => {
                let value = self.eval(value)?;
                self.unpack(target, value)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let (value, flow) = self.filtered(body, filters)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                self.unpack(target, value)?;
            }
            Kind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test)?.truth() {
                        return self.body(body, out);
                    }
                }
                return self.body(otherwise, out);
            }
            Kind::For(place) => {
                let over = self.eval(&self.tree.loops[*place].over)?;
                return self.run_loop(*place, &over, 0, out);
            }
            Kind::With(targets, body) => {
                let mut values = Vec::new();
                for (_, value) in targets {
                    values.push(self.eval(value)?);
                }
                let back = self.enter(self.scope)?;
                for ((target, _), value) in targets.iter().zip(values) {
                    self.unpack(target, value)?;
                }
                let flow = self.body(body, out)?;
                self.leave(back);
                return Ok(flow);
            }
            Kind::Scope(body) => return self.scoped(body, out),
            Kind::Filter(filters, body) => {
                let (value, flow) = self.filtered(body, filters)?;
                print(&mut self.heap, &value, out)?;
                return Ok(flow);
            }
            Kind::Macro(place) => {
                let closure = self.closure(*place)?;
                self.assign(self.tree.macros[*place].symbol, closure)?;
            }
            Kind::Call(call, place) => {
                let caller = self.closure(*place)?;
                let value = self.call_with(call, caller)?;
                print(&mut self.heap, &value, out)?;
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
            Kind::Refuse(reason) => return Err(Fault::new(reason.as_str())),
        }
        Ok(Flow::Next)
    }

    fn closure(&mut self, place: usize) -> Result<Value, Fault> {
        self.scopes[self.scope].captured = true;
        self.heap.take(64)?;
        let signature = self.tree.macros[place].signature.clone();
        Ok(Value::Macro(Rc::new(Closure { place, scope: self.scope, signature })))
    }

    /// Evaluates the call of a call block.
    fn call_with(&mut self, call: &'t Expr, caller: Value) -> Result<Value, Fault> {
        let Expr::Suffixed(value, suffixes) = call else { return Err(Fault::new("a call block without a call")) };
        let Some((Suffix::Call(arguments), before)) = suffixes.split_last() else {
            return Err(Fault::new("a call block without a call"));
        };
        let callee = self.eval(value)?;
        let callee = self.suffixes(callee, before)?;
        let mut args = self.args(arguments)?;
        args.named.push(("caller".into(), caller));
        self.call(&callee, args)
    }

    /// Runs the body of a loop for each item.
    pub(super) fn run_loop(
        &mut self,
        place: usize,
        over: &Value,
        depth0: usize,
        out: &mut String,
    ) -> Result<Flow, Fault> {
        let of = &self.tree.loops[place];
        let around = self.scope;
        let mut over = items(&mut self.heap, over)?;
        if let Some(test) = &of.test {
            let mut chosen = Vec::new();
            for item in &over.items {
                let back = self.enter(around)?;
                self.unpack(&of.target, item.clone())?;
                if self.eval(test)?.truth() {
                    chosen.push(item.clone());
                }
                self.leave(back);
            }
            over = self.heap.sequence(Order::List, chosen)?;
        }
        if over.items.is_empty() {
            return self.scoped(&of.otherwise, out);
        }
        self.loops += 1;
        self.heap.take(size_of::<Loop>())?;
        let state = Rc::new(Loop {
            number: self.loops,
            items: over.clone(),
            index: Cell::new(0),
            depth0,
            recursive: of.recursive.then_some(place),
            scope: around,
        });
        for (index, item) in over.items.iter().enumerate() {
            state.index.set(index);
            let back = self.enter(around)?;
            self.assign_special(3, Value::Loop(state.clone()))?;
            self.unpack(&of.target, item.clone())?;
            let flow = self.body(&of.body, out)?;
            self.leave(back);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    // Expressions.

    pub(super) fn eval(&mut self, expr: &'t Expr) -> Result<Value, Fault> {
        self.heap.steps(1)?;
        match expr {
            Expr::None => Ok(Value::None),
            Expr::Bool(value) => Ok(Value::Bool(*value)),
            Expr::Int(number) => Ok(Value::Int(*number)),
            Expr::Float(number) => Ok(Value::Float(*number)),
            Expr::Text(text) => Ok(Value::literal(text)),
            Expr::Name(symbol) => self.variable(*symbol),
            _ => self.deeper(|this| this.composed(expr)),
        }
    }

    fn all(&mut self, exprs: &'t [Expr]) -> Result<Vec<Value>, Fault> {
        exprs.iter().map(|expr| self.eval(expr)).collect()
    }

    /// Evaluates an expression that contains others.
    fn composed(&mut self, expr: &'t Expr) -> Result<Value, Fault> {
        match expr {
            Expr::List(list) => {
                let list = self.all(list)?;
                self.heap.list(list)
            }
            Expr::Tuple(list) => {
                let list = self.all(list)?;
                self.heap.tuple(list)
            }
            Expr::Dict(pairs) => {
                let mut entries = Vec::new();
                for (key, value) in pairs {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    insert(&mut self.heap, &mut entries, key, value)?;
                }
                self.heap.dict(entries)
            }
            Expr::If(value, conditions) => {
                for (test, otherwise) in conditions.iter().rev() {
                    if !self.eval(test)?.truth() {
                        return match otherwise {
                            Some(otherwise) => self.eval(otherwise),
                            None => Ok(Value::Undefined(Missing::Other("an if without else was not met"))),
                        };
                    }
                }
                self.eval(value)
            }
            Expr::Or(operands) => self.first(operands, true),
            Expr::And(operands) => self.first(operands, false),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.truth())),
            Expr::Negate(value) => negate(&self.eval(value)?),
            Expr::Plus(value) => match self.eval(value)? {
                Value::Bool(value) => Ok(Value::Int(value.into())),
                value @ (Value::Int(_) | Value::Float(_)) => Ok(value),
                Value::Undefined(missing) => Err(missing.fault()),
                other => Err(Fault::new(format!("bad operand type for unary +: '{}'", other.type_name()))),
            },
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in rest {
                    let right = self.eval(right)?;
                    if !compare(&mut self.heap, *comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Math(first, rest) => {
                let mut left = self.eval(first)?;
                for (operator, right) in rest {
                    let right = self.eval(right)?;
                    left = calculate(&mut self.heap, *operator, &left, &right)?;
                }
                Ok(left)
            }
            Expr::Concat(operands) => {
                let mut text = String::new();
                for operand in operands {
                    let value = self.eval(operand)?;
                    print(&mut self.heap, &value, &mut text)?;
                }
                self.heap.text(text)
            }
            Expr::Suffixed(value, suffixes) => {
                let value = self.eval(value)?;
                self.suffixes(value, suffixes)
            }
            simple => self.eval(simple),
        }
    }

    /// Evaluates operands up to the first decisive one; returns it, or else the last one.
    fn first(&mut self, operands: &'t [Expr], decisive: bool) -> Result<Value, Fault> {
        let mut value = Value::None;
        for operand in operands {
            value = self.eval(operand)?;
            if value.truth() == decisive {
                break;
            }
        }
        Ok(value)
    }

    fn suffixes(&mut self, value: Value, suffixes: &'t [Suffix]) -> Result<Value, Fault> {
        let mut value = value;
        let mut rest = suffixes.iter().peekable();
        while let Some(suffix) = rest.next() {
            self.heap.steps(1)?;
            value = match suffix {
                Suffix::Attribute(name) => match rest.peek() {
                    Some(Suffix::Call(arguments)) if has_method(&value, name) => {
                        rest.next();
                        let args = self.args(arguments)?;
                        self.call_method(&value, name, args)?
                    }
                    _ => attribute(&mut self.heap, &value, name)?,
                },
                Suffix::Item(key) => {
                    let key = self.eval(key)?;
                    item(&mut self.heap, &value, &key)?
                }
                Suffix::Slice(parts) => {
                    let mut bounds = [None; 3];
                    for (bound, part) in bounds.iter_mut().zip(&**parts) {
                        if let Some(part) = part {
                            let part = self.eval(part)?;
                            *bound = match part {
                                Value::None => None,
                                part => Some(expect_int("a slice", &part)?),
                            };
                        }
                    }
                    slice(&mut self.heap, &value, bounds)?
                }
                Suffix::Call(arguments) => {
                    let args = self.args(arguments)?;
                    self.call(&value, args)?
                }
                Suffix::Filter(name, arguments) => {
                    let args = self.args(arguments)?;
                    self.filter(name, value, args)?
                }
                Suffix::Test(name, arguments, negated) => {
                    let args = self.args(arguments)?;
                    Value::Bool(self.test(name, &value, args)? != *negated)
                }
            };
        }
        Ok(value)
    }
}
