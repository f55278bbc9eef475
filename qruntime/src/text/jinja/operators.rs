//! Operators on values.

use std::cmp::Ordering;
use std::rc::Rc;

use super::Fault;
use super::ast::{Comparison, Operator};
use super::format::percent;
use super::value::{Dict, Heap, Kind, Missing, Range, Sequence, Text, Value};

/// Evaluates `a == b`.
pub(super) fn equal(heap: &mut Heap, a: &Value, b: &Value) -> Result<bool, Fault> {
    heap.steps(1)?;
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Text(a), Value::Text(b)) => {
            heap.scan(a.len().min(b.len()))?;
            **a == **b
        }
        (Value::Sequence(a), Value::Sequence(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.kind != b.kind || a.items.len() != b.items.len() || matches!(a.kind, Kind::Generator | Kind::Values) {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(heap, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match get(heap, b, key)? {
                    Some(other) if equal(heap, value, &other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => a.len == b.len && (a.len == 0 || a == b),
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => a.number == b.number,
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((a.as_float(), b.as_float()), (Some(a), Some(b)) if a == b),
        },
    })
}

/// Returns the order of two values, if they have one. `sign` is for the error if they cannot be
/// compared.
pub(super) fn order(heap: &mut Heap, a: &Value, b: &Value, sign: &str) -> Result<Option<Ordering>, Fault> {
    heap.steps(1)?;
    match (a, b) {
        (Value::Undefined(missing), _) | (_, Value::Undefined(missing)) => Err(missing.fault()),
        (Value::Text(a), Value::Text(b)) => {
            heap.scan(a.len().min(b.len()))?;
            Ok(Some((**a).cmp(&**b)))
        }
        (Value::Sequence(a), Value::Sequence(b)) if a.kind == b.kind && matches!(a.kind, Kind::List | Kind::Tuple) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(heap, a, b)? {
                    return order(heap, a, b, sign);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => Err(Fault::new(format!(
                "'{sign}' not supported between instances of '{}' and '{}'",
                a.type_name(),
                b.type_name()
            ))),
        },
    }
}

/// Evaluates `a < b` and other comparisons.
pub(super) fn compare(heap: &mut Heap, comparison: Comparison, a: &Value, b: &Value) -> Result<bool, Fault> {
    match comparison {
        Comparison::Equal => equal(heap, a, b),
        Comparison::NotEqual => equal(heap, a, b).map(|equal| !equal),
        Comparison::Less => Ok(order(heap, a, b, "<")?.is_some_and(Ordering::is_lt)),
        Comparison::LessOrEqual => Ok(order(heap, a, b, "<=")?.is_some_and(Ordering::is_le)),
        Comparison::Greater => Ok(order(heap, a, b, ">")?.is_some_and(Ordering::is_gt)),
        Comparison::GreaterOrEqual => Ok(order(heap, a, b, ">=")?.is_some_and(Ordering::is_ge)),
        Comparison::In => contains(heap, b, a),
        Comparison::NotIn => contains(heap, b, a).map(|contains| !contains),
    }
}

/// Evaluates `item in container`.
fn contains(heap: &mut Heap, container: &Value, item: &Value) -> Result<bool, Fault> {
    match container {
        Value::Text(text) => match item {
            Value::Text(part) => {
                heap.scan(text.len())?;
                Ok(text.contains(&**part))
            }
            other => {
                Err(Fault::new(format!("'in <string>' requires string as left operand, not {}", other.type_name())))
            }
        },
        Value::Dict(dict) => Ok(get(heap, dict, item)?.is_some()),
        Value::Range(range) => {
            match item.as_int().or(item.as_float().filter(|x| x.fract() == 0.0).map(|x| x as i128)) {
                Some(number) => {
                    let (offset, step) = (number.saturating_sub(range.start.into()), i128::from(range.step));
                    // `None` if the quotient would not fit: the item is far outside the range.
                    Ok(offset.checked_rem(step) == Some(0) && (0..range.len as i128).contains(&(offset / step)))
                }
                None => Ok(false),
            }
        }
        other => {
            let items = items(heap, other)?;
            for one in &items.items {
                if equal(heap, one, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Returns the value of a key.
pub(super) fn get(heap: &mut Heap, dict: &Dict, key: &Value) -> Result<Option<Value>, Fault> {
    if let Value::Text(key) = key {
        return get_text(heap, dict, key);
    }
    hashable(key)?;
    for (one, value) in &dict.entries {
        if equal(heap, one, key)? {
            return Ok(Some(value.clone()));
        }
    }
    Ok(None)
}

/// Returns the value of a string key.
pub(super) fn get_text(heap: &mut Heap, dict: &Dict, key: &str) -> Result<Option<Value>, Fault> {
    let alike = dict.entries.iter().filter(|(one, _)| one.as_text().is_some_and(|one| one.len() == key.len()));
    heap.search(key, dict.entries.len(), alike.count())?;
    let found = dict.entries.iter().find(|(one, _)| one.as_text() == Some(key));
    Ok(found.map(|(_, value)| value.clone()))
}

fn hashable(key: &Value) -> Result<(), Fault> {
    match key {
        Value::Dict(_) => Err(Fault::new("unhashable type: 'dict'")),
        Value::Sequence(sequence) if sequence.kind == Kind::List => Err(Fault::new("unhashable type: 'list'")),
        _ => Ok(()),
    }
}

/// Sets the value of a key among the entries of a mapping under construction.
pub(super) fn insert(
    heap: &mut Heap,
    entries: &mut Vec<(Value, Value)>,
    key: Value,
    value: Value,
) -> Result<(), Fault> {
    hashable(&key)?;
    heap.steps(1 + entries.len() / 8)?;
    for (one, old) in entries.iter_mut() {
        let same = match (one.as_text(), key.as_text()) {
            (Some(one), Some(key)) if one.len() == key.len() => {
                heap.scan(key.len())?;
                one == key
            }
            (None, None) => equal(heap, one, &key)?,
            _ => false,
        };
        if same {
            *old = value;
            return Ok(());
        }
    }
    heap.take(size_of::<(Value, Value)>())?;
    entries.push((key, value));
    Ok(())
}

/// Returns the items of iterating over a value.
pub(super) fn items(heap: &mut Heap, value: &Value) -> Result<Rc<Sequence>, Fault> {
    let items = match value {
        Value::Sequence(sequence) if sequence.kind == Kind::Generator => {
            let from = sequence.given.replace(sequence.items.len());
            if from == 0 {
                return Ok(sequence.clone());
            }
            sequence.items[from..].to_vec()
        }
        Value::Sequence(sequence) => return Ok(sequence.clone()),
        Value::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
        Value::Text(text) => {
            heap.scan(text.len())?;
            text.chars().map(|c| heap.text_as(text, c.encode_utf8(&mut [0; 4]))).collect::<Result<_, _>>()?
        }
        Value::Range(range) => {
            heap.steps(range.len)?;
            (0..range.len).map(|index| range.item(index)).collect()
        }
        Value::Undefined(_) => Vec::new(),
        Value::Loop(of) => return Ok(of.items.clone()),
        other => return Err(Fault::new(format!("'{}' object is not iterable", other.type_name()))),
    };
    heap.sequence(Kind::List, items)
}

/// Evaluates an operator with two operands.
pub(super) fn calculate(heap: &mut Heap, operator: Operator, a: &Value, b: &Value) -> Result<Value, Fault> {
    heap.steps(1)?;
    match (operator, a, b) {
        (_, Value::Undefined(missing), _) => return Err(missing.fault()),
        (Operator::Remainder, Value::Text(text), _) => {
            let formatted = percent(heap, text, b)?;
            return heap.text_as(text, formatted);
        }
        (_, _, Value::Undefined(missing)) => return Err(missing.fault()),
        (Operator::Add, Value::Text(a), Value::Text(b)) => return add_texts(heap, a, b),
        (Operator::Add, Value::Sequence(a), Value::Sequence(b))
            if a.kind == b.kind && matches!(a.kind, Kind::List | Kind::Tuple) =>
        {
            heap.steps(a.items.len() + b.items.len())?;
            let items = a.items.iter().chain(&b.items).cloned().collect();
            return heap.sequence(a.kind, items).map(Value::Sequence);
        }
        (Operator::Multiply, value @ (Value::Text(_) | Value::Sequence(_)), count)
        | (Operator::Multiply, count, value @ (Value::Text(_) | Value::Sequence(_))) => {
            if let Some(count) = count.as_int() {
                return repeat(heap, value, usize::try_from(count.max(0)).unwrap_or(usize::MAX));
            }
        }
        _ => {}
    }
    let numbers = match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
        (Some(a), Some(b), ..) => integers(operator, a, b),
        (_, _, Some(a), Some(b)) => floats(operator, a, b),
        _ => Err(format!(
            "unsupported operand type(s) for {}: '{}' and '{}'",
            operator.sign(),
            a.type_name(),
            b.type_name()
        )),
    };
    numbers.map_err(Fault::new)
}

fn add_texts(heap: &mut Heap, a: &Text, b: &Text) -> Result<Value, Fault> {
    let mut text = String::new();
    let safe = a.safe || b.safe;
    for part in [a, b] {
        match safe && !part.safe {
            true => escape(heap, part, &mut text)?,
            false => heap.push(&mut text, part)?,
        }
    }
    Ok(Value::Text(Text { text: text.into(), safe }))
}

/// Appends a text with HTML's special characters escaped.
pub(super) fn escape(heap: &mut Heap, text: &str, out: &mut String) -> Result<(), Fault> {
    heap.take(text.len())?;
    for c in text.chars() {
        let escaped = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            c => {
                out.push(c);
                continue;
            }
        };
        heap.push(out, escaped)?;
    }
    Ok(())
}

fn repeat(heap: &mut Heap, value: &Value, count: usize) -> Result<Value, Fault> {
    match value {
        Value::Text(text) => {
            heap.take(text.len().saturating_mul(count))?;
            heap.text_as(text, text.repeat(count))
        }
        Value::Sequence(sequence) if matches!(sequence.kind, Kind::List | Kind::Tuple) => {
            let len = sequence.items.len().saturating_mul(count);
            heap.take(len.saturating_mul(size_of::<Value>()))?;
            let items = (0..if len == 0 { 0 } else { count }).flat_map(|_| sequence.items.iter().cloned()).collect();
            heap.sequence(sequence.kind, items).map(Value::Sequence)
        }
        other => Err(Fault::new(format!("unsupported operand type(s) for *: '{}' and 'int'", other.type_name()))),
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value, String> {
    let large = || "an integer that is too large".to_owned();
    let zero = || "division by zero".to_owned();
    Ok(Value::Int(match operator {
        Operator::Add => a.checked_add(b).ok_or_else(large)?,
        Operator::Subtract => a.checked_sub(b).ok_or_else(large)?,
        Operator::Multiply => a.checked_mul(b).ok_or_else(large)?,
        Operator::Divide if b == 0 => return Err(zero()),
        Operator::Divide => return Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDivide | Operator::Remainder if b == 0 => return Err(zero()),
        // Python rounds down, and the remainder has the sign of the divisor.
        Operator::FloorDivide => {
            let (quotient, rest) = (a.checked_div(b).ok_or_else(large)?, a.checked_rem(b).ok_or_else(large)?);
            if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient }
        }
        Operator::Remainder => {
            let rest = a.checked_rem(b).ok_or_else(large)?;
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        Operator::Power if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Power => match a {
            0 | 1 => {
                if b == 0 {
                    1
                } else {
                    a
                }
            }
            -1 => {
                if b % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).ok_or_else(large)?,
        },
    }))
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<Value, String> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if divides && b == 0.0 || operator == Operator::Power && a == 0.0 && b < 0.0 {
        return Err("division by zero".to_owned());
    }
    let remainder = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
    };
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - remainder()) / b).round(),
        Operator::Remainder => remainder(),
        Operator::Power if a < 0.0 && b.fract() != 0.0 => return Err("a root of a negative number".to_owned()),
        Operator::Power => libm::pow(a, b),
    }))
}

/// Evaluates `-a`.
pub(super) fn negate(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        Value::Float(number) => Ok(Value::Float(-number)),
        other => match other.as_int().and_then(i128::checked_neg) {
            Some(number) => Ok(Value::Int(number)),
            None => Err(Fault::new(format!("bad operand type for unary -: '{}'", other.type_name()))),
        },
    }
}

/// Evaluates `a[from:to:by]`.
pub(super) fn slice(heap: &mut Heap, value: &Value, parts: [Option<i128>; 3]) -> Result<Value, Fault> {
    let len = match value {
        Value::Text(text) => {
            heap.scan(text.len())?;
            text.chars().count()
        }
        Value::Sequence(sequence) if matches!(sequence.kind, Kind::List | Kind::Tuple) => sequence.items.len(),
        Value::Range(range) => range.len,
        Value::Undefined(missing) => return Err(missing.fault()),
        _ => return Ok(Value::Undefined(Missing::Other("a value that has no slices"))),
    };
    let (start, step, count) = slice_indices(parts, len)?;
    let indices = (0..count).map(|i| (start + step * i as i128) as usize);
    match value {
        Value::Text(text) if step == 1 => {
            let part: String = text.chars().skip(start as usize).take(count).collect();
            heap.text_as(text, part)
        }
        Value::Text(text) => {
            heap.take(len * 4)?;
            let chars: Vec<char> = text.chars().collect();
            heap.text_as(text, indices.map(|i| chars[i]).collect::<String>())
        }
        Value::Sequence(sequence) => {
            heap.steps(count)?;
            let items = indices.map(|i| sequence.items[i].clone()).collect();
            heap.sequence(sequence.kind, items).map(Value::Sequence)
        }
        Value::Range(range) => {
            let first = i128::from(range.start) + i128::from(range.step) * start;
            let wide = || Fault::new("a range that is too wide");
            let step = i64::try_from(i128::from(range.step).checked_mul(step).ok_or_else(wide)?).map_err(|_| wide())?;
            Ok(Value::Range(Range { start: i64::try_from(first).map_err(|_| wide())?, step, len: count }))
        }
        _ => Ok(Value::None),
    }
}

/// Returns the first index, step and count of a slice by Python's rules.
fn slice_indices(parts: [Option<i128>; 3], len: usize) -> Result<(i128, i128, usize), Fault> {
    let len = len as i128;
    let step = parts[2].unwrap_or(1).clamp(-(1 << 64), 1 << 64);
    if step == 0 {
        return Err(Fault::new("slice step cannot be zero"));
    }
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |part: Option<i128>, default| match part {
        None => default,
        Some(index) if index < 0 => index.saturating_add(len).clamp(lowest, highest),
        Some(index) => index.clamp(lowest, highest),
    };
    let (start, end) = match step > 0 {
        true => (bound(parts[0], lowest), bound(parts[1], highest)),
        false => (bound(parts[0], highest), bound(parts[1], lowest)),
    };
    let span = if step > 0 { end - start } else { start - end };
    let count = if span > 0 { (span + step.abs() - 1) / step.abs() } else { 0 };
    Ok((start, step, count as usize))
}
