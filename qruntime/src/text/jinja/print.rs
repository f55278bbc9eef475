//! Values as text: Python's `str`, `repr` and `json.dumps`.

use std::fmt::Write;

use super::Fault;
use super::value::{Heap, Kind, Value};

/// Appends Python's `str` of a value.
pub(super) fn print(heap: &mut Heap, value: &Value, out: &mut String) -> Result<(), Fault> {
    match value {
        Value::Undefined(_) => heap.steps(1),
        Value::Text(text) => heap.push(out, text),
        other => repr(heap, other, out, 0),
    }
}

/// Returns Python's `str` of a value.
pub(super) fn printed(heap: &mut Heap, value: &Value) -> Result<String, Fault> {
    let mut out = String::new();
    print(heap, value, &mut out)?;
    Ok(out)
}

/// Appends Python's `repr` of a value.
pub(super) fn repr(heap: &mut Heap, value: &Value, out: &mut String, level: usize) -> Result<(), Fault> {
    heap.steps(1)?;
    // Namespaces may contain themselves.
    if level > super::MAX_VALUE_DEPTH {
        return Err(Fault::new(format!("a value with more than {} levels", super::MAX_VALUE_DEPTH)));
    }
    match value {
        Value::Undefined(_) => heap.push(out, "Undefined"),
        Value::None => heap.push(out, "None"),
        Value::Bool(true) => heap.push(out, "True"),
        Value::Bool(false) => heap.push(out, "False"),
        Value::Int(number) => heap.push(out, &number.to_string()),
        Value::Float(number) => heap.push(out, &float(*number)),
        Value::Text(text) if text.safe => {
            heap.push(out, "Markup(")?;
            quoted(heap, text, out)?;
            heap.push(out, ")")
        }
        Value::Text(text) => quoted(heap, text, out),
        Value::Sequence(sequence) => {
            let (open, close) = match sequence.kind {
                Kind::List => ("[", "]"),
                Kind::Tuple if sequence.items.len() == 1 => ("(", ",)"),
                Kind::Tuple => ("(", ")"),
                Kind::Keys => ("dict_keys([", "])"),
                Kind::Values => ("dict_values([", "])"),
                Kind::Items => ("dict_items([", "])"),
                Kind::Generator => return heap.push(out, "<generator object>"),
            };
            heap.push(out, open)?;
            for (i, item) in sequence.items.iter().enumerate() {
                if i > 0 {
                    heap.push(out, ", ")?;
                }
                repr(heap, item, out, level + 1)?;
            }
            heap.push(out, close)
        }
        Value::Dict(dict) => {
            heap.push(out, "{")?;
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    heap.push(out, ", ")?;
                }
                repr(heap, key, out, level + 1)?;
                heap.push(out, ": ")?;
                repr(heap, value, out, level + 1)?;
            }
            heap.push(out, "}")
        }
        Value::Range(range) => {
            let end = i128::from(range.start) + i128::from(range.step) * range.len as i128;
            match range.step {
                1 => heap.push(out, &format!("range({}, {end})", range.start)),
                step => heap.push(out, &format!("range({}, {end}, {step})", range.start)),
            }
        }
        Value::Namespace(place) => {
            heap.push(out, "<Namespace {")?;
            let fields = heap.namespaces[*place].clone();
            for (i, (name, value)) in fields.iter().enumerate() {
                heap.push(out, if i > 0 { ", " } else { "" })?;
                quoted(heap, name, out)?;
                heap.push(out, ": ")?;
                repr(heap, value, out, level + 1)?;
            }
            heap.push(out, "}>")
        }
        Value::Loop(of) => {
            let (index, len) = (of.index.get() + 1, of.items.items.len());
            heap.push(out, &format!("<LoopContext {index}/{len}>"))
        }
        Value::Macro(closure) => match &closure.signature.name {
            Some(name) => heap.push(out, &format!("<Macro '{name}'>")),
            None => heap.push(out, "<Macro anonymous>"),
        },
        Value::Function(_) | Value::Method(_) | Value::Cycler(_) | Value::Joiner(_) => {
            heap.push(out, &format!("<{}>", value.type_name()))
        }
    }
}

/// Writes a float as Python does: the shortest text that reads as the same number.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan".to_owned() } else { format!("{number}") };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Appends a string in quotes, as Python's `repr` does.
fn quoted(heap: &mut Heap, text: &str, out: &mut String) -> Result<(), Fault> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    heap.take(text.len() + 2)?;
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                heap.take(10)?;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    Ok(())
}

/// Returns whether Python considers a character printable. Rust's table is the same, except for
/// marks that it escapes at the beginning.
pub(super) fn is_printable(c: char) -> bool {
    let mut text = ['a', c].iter().collect::<String>();
    text.retain(|c| c != '"' && c != '\'' && c != '\\');
    text.len() < 2 || text.escape_debug().nth(1) == Some(c)
}

/// Options of `tojson`.
#[derive(Debug)]
pub(super) struct Style {
    pub(super) ascii: bool,
    /// The indentation of a level, if each value is on its own line.
    pub(super) indent: Option<String>,
    pub(super) item: String,
    pub(super) key: String,
    pub(super) sorted: bool,
}

/// Appends a value as JSON.
pub(super) fn json(heap: &mut Heap, value: &Value, style: &Style, out: &mut String, level: usize) -> Result<(), Fault> {
    heap.steps(1)?;
    match value {
        Value::None => heap.push(out, "null"),
        Value::Bool(value) => heap.push(out, if *value { "true" } else { "false" }),
        Value::Int(_) => repr(heap, value, out, 0),
        Value::Float(number) => heap.push(out, &json_float(*number)),
        Value::Text(text) => json_text(heap, text, style, out),
        Value::Sequence(sequence) if matches!(sequence.kind, Kind::List | Kind::Tuple) => {
            if sequence.items.is_empty() {
                return heap.push(out, "[]");
            }
            heap.push(out, "[")?;
            for (i, item) in sequence.items.iter().enumerate() {
                separate(heap, style, out, i, level + 1)?;
                json(heap, item, style, out, level + 1)?;
            }
            line(heap, style, out, level)?;
            heap.push(out, "]")
        }
        Value::Dict(dict) if dict.entries.is_empty() => heap.push(out, "{}"),
        Value::Dict(dict) => {
            let mut order: Vec<usize> = (0..dict.entries.len()).collect();
            if style.sorted {
                let keys: Vec<Value> = dict.entries.iter().map(|(key, _)| key.clone()).collect();
                order = super::select::sorted(heap, &keys, false)?;
            }
            heap.push(out, "{")?;
            for (i, at) in order.into_iter().enumerate() {
                let (key, value) = &dict.entries[at];
                separate(heap, style, out, i, level + 1)?;
                let key = match key {
                    Value::Text(text) => text.to_string(),
                    Value::None => "null".to_owned(),
                    Value::Bool(value) => value.to_string(),
                    Value::Int(number) => number.to_string(),
                    Value::Float(number) => json_float(*number),
                    other => return Err(Fault::new(format!("tojson: a key that is a {}", other.type_name()))),
                };
                json_text(heap, &key, style, out)?;
                heap.push(out, &style.key)?;
                json(heap, value, style, out, level + 1)?;
            }
            line(heap, style, out, level)?;
            heap.push(out, "}")
        }
        other => Err(Fault::new(format!("Object of type {} is not JSON serializable", other.type_name()))),
    }
}

fn json_float(number: f64) -> String {
    match number {
        number if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        number => float(number),
    }
}

fn separate(heap: &mut Heap, style: &Style, out: &mut String, item: usize, level: usize) -> Result<(), Fault> {
    if item > 0 {
        heap.push(out, &style.item)?;
    }
    line(heap, style, out, level)
}

/// Begins a line, if the style has lines.
fn line(heap: &mut Heap, style: &Style, out: &mut String, level: usize) -> Result<(), Fault> {
    let Some(indent) = &style.indent else { return Ok(()) };
    heap.take(1 + indent.len().saturating_mul(level))?;
    out.push('\n');
    out.extend(std::iter::repeat_n(indent.as_str(), level));
    Ok(())
}

fn json_text(heap: &mut Heap, text: &str, style: &Style, out: &mut String) -> Result<(), Fault> {
    heap.take(text.len() + 2)?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if c < ' ' || (style.ascii && c > '~') => {
                heap.take(6)?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}
