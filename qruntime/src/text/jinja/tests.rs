//! Tests, the names after `is`.

use super::Fault;
use super::ast::Comparison;
use super::calls::Args;
use super::eval::Rendering;
use super::filters::FILTERS;
use super::operators::{calculate, compare};
use super::print::printed;
use super::value::{Kind, Value};

/// The names of the tests.
pub(super) const TESTS: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

impl Rendering<'_> {
    /// Evaluates `value is name(...)`.
    pub(super) fn test(&mut self, name: &str, value: &Value, args: Args) -> Result<bool, Fault> {
        let heap = &mut self.heap;
        heap.steps(1)?;
        let comparison = match name {
            "==" | "eq" | "equalto" => Some(Comparison::Equal),
            "!=" | "ne" => Some(Comparison::NotEqual),
            "<" | "lt" | "lessthan" => Some(Comparison::Less),
            "<=" | "le" => Some(Comparison::LessOrEqual),
            ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
            ">=" | "ge" => Some(Comparison::GreaterOrEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let [other] = args.exactly(name, ["other"])?;
            return compare(heap, comparison, value, &other);
        }
        match name {
            "divisibleby" | "odd" | "even" => {
                let (divisor, rest) = match name {
                    "divisibleby" => (args.exactly(name, ["num"])?[0].clone(), 0),
                    name => (Value::Int(2), i128::from(name == "odd")),
                };
                let found = calculate(heap, super::ast::Operator::Remainder, value, &divisor)?;
                return compare(heap, Comparison::Equal, &found, &Value::Int(rest));
            }
            "sameas" => {
                let [other] = args.exactly(name, ["other"])?;
                heap.scan(other.as_text().map_or(0, str::len))?;
                return Ok(same(value, &other));
            }
            _ => {}
        }
        let [] = args.bind(name, [])?;
        Ok(match name {
            "defined" => !matches!(value, Value::Undefined(_)),
            "undefined" => matches!(value, Value::Undefined(_)),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => value.as_text().is_some(),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" => match value {
                Value::Undefined(_) | Value::Text(_) | Value::Dict(_) | Value::Range(_) => true,
                Value::Sequence(sequence) => matches!(sequence.kind, Kind::List | Kind::Tuple),
                _ => false,
            },
            "iterable" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Text(_)
                    | Value::Dict(_)
                    | Value::Range(_)
                    | Value::Sequence(_)
                    | Value::Loop(_)
            ),
            "callable" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Macro(_)
                    | Value::Function(_)
                    | Value::Method(_)
                    | Value::Loop(_)
                    | Value::Joiner(_)
            ),
            "escaped" => matches!(value, Value::Text(text) if text.safe),
            "lower" | "upper" => {
                let text = printed(heap, value)?;
                let wrong = if name == "lower" { char::is_uppercase } else { char::is_lowercase };
                text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(wrong)
            }
            "filter" => value.as_text().is_some_and(|name| FILTERS.contains(&name)),
            "test" => value.as_text().is_some_and(|name| TESTS.contains(&name)),
            other => return Err(Fault::new(format!("no test named {other:?}"))),
        })
    }
}

/// Evaluates Python's `a is b`. Small integers and strings of the template are identical there,
/// too.
fn same(a: &Value, b: &Value) -> bool {
    use std::rc::Rc;
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a.text == b.text && a.safe == b.safe,
        (Value::Sequence(a), Value::Sequence(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}
