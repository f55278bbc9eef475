//! Python's two ways to format values into strings: `"%s" % x` and `"{}".format(x)`.

use super::Fault;
use super::attributes::{attribute, item};
use super::calls::Args;
use super::operators::get_text;
use super::print::{float, printed, repr};
use super::value::{Heap, Kind, Value};

/// The largest width or precision. The standard library counts in 16 bits.
const MAX_WIDTH: usize = 1 << 15;

/// The format of a value.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+` or a space before numbers that are not negative.
    sign: Option<char>,
    /// A prefix for hexadecimal numbers and the like.
    alternate: bool,
    width: usize,
    /// The separator of groups of digits.
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Evaluates `text % value`.
pub(super) fn percent(heap: &mut Heap, text: &str, value: &Value) -> Result<String, Fault> {
    let mut values = match value {
        Value::Sequence(sequence) if sequence.kind == Kind::Tuple => sequence.items.clone(),
        single => vec![single.clone()],
    }
    .into_iter();
    let mut mapped = matches!(value, Value::Dict(_));
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        heap.push(&mut out, &rest[..at])?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            heap.push(&mut out, "%")?;
            rest = after;
            continue;
        }
        let mut of = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (name, after) = after.split_once(')').ok_or_else(|| Fault::new("incomplete format key"))?;
            let Value::Dict(dict) = value else { return Err(Fault::new("format requires a mapping")) };
            let found = get_text(heap, dict, name)?;
            of = Some(found.ok_or_else(|| Fault::new(format!("no value named {name:?} to format")))?);
            mapped = true;
            rest = after;
        }
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' if spec.align == Some('>') => spec.align = Some('='),
                '0' => {}
                '#' => spec.alternate = true,
                sign => spec.sign = Some(sign),
            }
            rest = &rest[1..];
        }
        let mut next = |heap: &mut Heap| {
            heap.steps(1)?;
            values.next().ok_or_else(|| Fault::new("not enough arguments for format string"))
        };
        spec.width = number_or_star(heap, &mut rest, &mut next)?.unwrap_or(0);
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(number_or_star(heap, &mut rest, &mut next)?.unwrap_or(0));
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest.chars().next().ok_or_else(|| Fault::new("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        let value = match of {
            Some(value) => value,
            None => next(heap)?,
        };
        let formatted = match kind {
            's' => printed(heap, &value)?,
            'r' | 'a' => {
                let mut text = String::new();
                repr(heap, &value, &mut text, 0)?;
                text
            }
            'c' => match value.as_int() {
                Some(code) => u32::try_from(code).ok().and_then(char::from_u32).map(String::from).unwrap_or_default(),
                None => printed(heap, &value)?,
            },
            'd' | 'i' | 'u' => {
                let number = match &value {
                    Value::Float(number) => Some(number.trunc() as i128),
                    other => other.as_int(),
                };
                let kind = value.type_name();
                let number =
                    number.ok_or_else(|| Fault::new(format!("%d format: a real number is required, not {kind}")))?;
                spec.kind = Some('d');
                padded(heap, &spec, &Value::Int(number), &mut out)?;
                continue;
            }
            'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                spec.kind = Some(kind);
                padded(heap, &spec, &value, &mut out)?;
                continue;
            }
            other => return Err(Fault::new(format!("unsupported format character {other:?}"))),
        };
        let cut: String = formatted.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
        if spec.align == Some('=') {
            spec.align = Some('>');
        }
        align(heap, &spec, "", &cut, '>', &mut out)?;
    }
    heap.push(&mut out, rest)?;
    if values.next().is_some() && !mapped {
        return Err(Fault::new("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// Reads a number of a format, or the next value for a `*`.
fn number_or_star(
    heap: &mut Heap,
    rest: &mut &str,
    next: &mut impl FnMut(&mut Heap) -> Result<Value, Fault>,
) -> Result<Option<usize>, Fault> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        let width = next(heap)?.as_int().and_then(|width| usize::try_from(width).ok());
        return within(width.ok_or_else(|| Fault::new("* wants an integer that is not negative"))?).map(Some);
    }
    number(rest)
}

/// Reads a number at the beginning of a text.
fn number(rest: &mut &str) -> Result<Option<usize>, Fault> {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    match number {
        "" => Ok(None),
        number => within(number.parse().unwrap_or(usize::MAX)).map(Some),
    }
}

fn within(width: usize) -> Result<usize, Fault> {
    match width > MAX_WIDTH {
        true => Err(Fault::new(format!("a width of more than {MAX_WIDTH}"))),
        false => Ok(width),
    }
}

/// Evaluates `text.format(...)`.
pub(super) fn format(heap: &mut Heap, text: &str, args: &Args) -> Result<String, Fault> {
    let mut out = String::new();
    let mut counter = 0;
    format_into(heap, text, args, &mut counter, true, &mut out)?;
    Ok(out)
}

fn format_into(
    heap: &mut Heap,
    text: &str,
    args: &Args,
    counter: &mut usize,
    outer: bool,
    out: &mut String,
) -> Result<(), Fault> {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        heap.push(out, &rest[..at])?;
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            heap.push(out, brace)?;
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(Fault::new("Single '}' encountered in format string"));
        }
        let mut depth = 1;
        let end = rest.char_indices().find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let Some((end, _)) = end else { return Err(Fault::new("expected '}' before end of string")) };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let cut = field.find(['!', ':']).unwrap_or(field.len());
        let mut value = field_value(heap, &field[..cut], args, counter)?;
        let mut spec = &field[cut..];
        if let Some(after) = spec.strip_prefix('!') {
            let conversion = after.chars().next();
            let text = match conversion {
                Some('s') => printed(heap, &value)?,
                Some('r' | 'a') => {
                    let mut text = String::new();
                    repr(heap, &value, &mut text, 0)?;
                    text
                }
                _ => return Err(Fault::new("an unknown conversion after '!'")),
            };
            value = heap.text(text)?;
            spec = &after[1..];
        }
        let mut inner = String::new();
        let spec = spec.strip_prefix(':').unwrap_or(spec);
        if outer && spec.contains('{') {
            format_into(heap, spec, args, counter, false, &mut inner)?;
        } else {
            heap.push(&mut inner, spec)?;
        }
        if inner.is_empty() {
            let text = printed(heap, &value)?;
            heap.push(out, &text)?;
        } else {
            padded(heap, &parse_spec(&inner)?, &value, out)?;
        }
    }
    heap.push(out, rest)
}

/// Returns the value that a field names: `0`, `name.attribute`, `[item]`.
fn field_value(heap: &mut Heap, field: &str, args: &Args, counter: &mut usize) -> Result<Value, Fault> {
    let cut = field.find(['.', '[']).unwrap_or(field.len());
    let (first, mut rest) = field.split_at(cut);
    let index = match first {
        "" => {
            *counter += 1;
            Some(*counter - 1)
        }
        name => name.parse::<usize>().ok(),
    };
    if index.is_none() {
        let alike = args.named.iter().filter(|(name, _)| name.len() == first.len());
        heap.search(first, args.named.len(), alike.count())?;
    }
    let named = || args.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value);
    let value = index.map_or_else(named, |index| args.list.get(index));
    let mut value = value.cloned().ok_or_else(|| Fault::new(format!("no value for the field {{{field}}}")))?;
    while !rest.is_empty() {
        heap.steps(1)?;
        if let Some(after) = rest.strip_prefix('[') {
            let (key, after) = after.split_once(']').ok_or_else(|| Fault::new("Missing ']' in format string"))?;
            let key = key.parse::<i64>().map_or_else(|_| heap.text(key), |key| Ok(Value::Int(key.into())))?;
            value = item(heap, &value, &key)?;
            rest = after;
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            if end == 0 {
                return Err(Fault::new("Empty attribute in format string"));
            }
            value = attribute(heap, &value, &after[..end].into())?;
            rest = &after[end..];
        }
    }
    Ok(value)
}

fn parse_spec(text: &str) -> Result<Spec, Fault> {
    let mut spec = Spec::default();
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let is_align = |c: Option<char>| c.filter(|c| "<>^=".contains(*c));
    let mut rest = text;
    if let (Some(fill), Some(align)) = (first, is_align(second)) {
        (spec.fill, spec.align) = (Some(fill), Some(align));
        rest = &text[fill.len_utf8() + 1..];
    } else if let Some(align) = is_align(first) {
        spec.align = Some(align);
        rest = &text[1..];
    }
    let mut take = |set: &str| {
        let c = rest.chars().next().filter(|c| set.contains(*c));
        rest = &rest[c.map_or(0, char::len_utf8)..];
        c
    };
    spec.sign = take("+- ").filter(|sign| *sign != '-');
    spec.alternate = take("#").is_some();
    if take("0").is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    spec.width = number(&mut rest)?.unwrap_or(0);
    let mut take = |set: &str| {
        let c = rest.chars().next().filter(|c| set.contains(*c));
        rest = &rest[c.map_or(0, char::len_utf8)..];
        c
    };
    spec.group = take(",_");
    if take(".").is_some() {
        spec.precision = Some(number(&mut rest)?.ok_or_else(|| Fault::new("Format specifier missing precision"))?);
    }
    let mut chars = rest.chars();
    spec.kind = chars.next();
    match chars.next() {
        None => Ok(spec),
        Some(_) => Err(Fault::new(format!("Invalid format specifier {text:?}"))),
    }
}

/// Appends a value in a format.
fn padded(heap: &mut Heap, spec: &Spec, value: &Value, out: &mut String) -> Result<(), Fault> {
    let is_text = !matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_));
    if is_text || matches!(value, Value::Bool(_)) && matches!(spec.kind, None | Some('s')) {
        if let Value::Undefined(missing) = value {
            return Err(missing.fault());
        }
        if !matches!(spec.kind, None | Some('s')) || spec.align == Some('=') {
            let kind = value.type_name();
            return Err(Fault::new(format!("a format of numbers for an object of type '{kind}'")));
        }
        let text = printed(heap, value)?;
        let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
        return align(heap, spec, "", &text, '<', out);
    }
    let (negative, digits) = digits(spec, value)?;
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(_)) => " ",
        _ => "",
    };
    let prefix = match spec.kind {
        Some('x') if spec.alternate => "0x",
        Some('X') if spec.alternate => "0X",
        Some('o') if spec.alternate => "0o",
        Some('b') if spec.alternate => "0b",
        _ => "",
    };
    align(heap, spec, &format!("{sign}{prefix}"), &grouped(&digits, spec.group), '>', out)
}

/// Returns whether a number is negative, and the digits of its absolute value.
fn digits(spec: &Spec, value: &Value) -> Result<(bool, String), Fault> {
    if let (Some(number), None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X')) = (value.as_int(), spec.kind) {
        let size = number.unsigned_abs();
        let digits = match spec.kind {
            Some('b') => format!("{size:b}"),
            Some('o') => format!("{size:o}"),
            Some('x') => format!("{size:x}"),
            Some('X') => format!("{size:X}"),
            _ => size.to_string(),
        };
        return Ok((number < 0, digits));
    }
    let number = value.as_float().unwrap_or(f64::NAN);
    let size = number.abs();
    let negative = number.is_sign_negative() && !number.is_nan();
    if !size.is_finite() {
        return Ok((negative, float(size)));
    }
    let precision = spec.precision.unwrap_or(6);
    let digits = match spec.kind {
        Some('f' | 'F') => format!("{size:.precision$}"),
        Some('%') => format!("{:.precision$}%", size * 100.0),
        Some(kind @ ('e' | 'E')) => scientific(size, precision, kind),
        Some('g' | 'G' | 'n') => general(size, precision.max(1), spec.alternate),
        None if spec.precision.is_none() => float(size),
        None => {
            let text = general(size, precision.max(1), false);
            if text.contains(['.', 'e']) { text } else { text + ".0" }
        }
        Some(kind) => return Err(Fault::new(format!("format code {kind:?} for a {}", value.type_name()))),
    };
    Ok((negative, if spec.kind == Some('G') { digits.to_uppercase() } else { digits }))
}

fn scientific(size: f64, precision: usize, letter: char) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    format!("{digits}{letter}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Writes a number with `precision` significant digits, and with an exponent if it is large or
/// small.
fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let text = scientific(size, precision - 1, 'e');
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i64 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision as i64 {
        return format!("{}e{exponent}", trimmed(digits));
    }
    let decimals = (precision as i64 - 1 - power).max(0) as usize;
    trimmed(&format!("{size:.decimals$}"))
}

/// Groups the digits before the point by three.
fn grouped(digits: &str, group: Option<char>) -> String {
    let Some(group) = group else { return digits.to_owned() };
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut out = String::new();
    for (i, c) in digits[..whole].chars().enumerate() {
        if i > 0 && (whole - i) % 3 == 0 {
            out.push(group);
        }
        out.push(c);
    }
    out + &digits[whole..]
}

fn align(heap: &mut Heap, spec: &Spec, sign: &str, text: &str, default: char, out: &mut String) -> Result<(), Fault> {
    let missing = spec.width.saturating_sub(sign.chars().count() + text.chars().count());
    let align = spec.align.unwrap_or(default);
    let fill = spec.fill.unwrap_or(if align == '=' { '0' } else { ' ' });
    let before = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    if align == '=' {
        heap.push(out, sign)?;
    }
    heap.fill(out, fill, before)?;
    if align != '=' {
        heap.push(out, sign)?;
    }
    heap.push(out, text)?;
    heap.fill(out, fill, missing - before)
}
