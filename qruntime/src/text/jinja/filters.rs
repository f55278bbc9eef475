//! Filters, the names after `|`. Those that select and order items are in `select.rs`.

use super::Fault;
use super::calls::Args;
use super::eval::Rendering;
use super::format::percent;
use super::operators::{escape, items, negate};
use super::print::{Style, json, print, printed};
use super::strings::{self, capitalized, expect_int, expect_text, lines, replaced, strip};
use super::value::{Heap, Kind, Missing, Text, Value};
use super::{attributes, select};

/// The filters of Jinja2. Those that chat templates have no use for are refused when they are
/// reached.
pub(super) const FILTERS: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

impl Rendering<'_> {
    /// Evaluates `value | name(...)`.
    pub(super) fn filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value, Fault> {
        let heap = &mut self.heap;
        heap.steps(1)?;
        match name {
            "map" => self.deeper(|this| this.map(&value, args)),
            "select" | "reject" | "selectattr" | "rejectattr" => self.choose(name, &value, args),
            "sort" | "dictsort" | "unique" | "groupby" | "batch" | "slice" | "sum" | "min" | "max" => {
                select::filter(heap, name, &value, args)
            }
            "default" | "d" => {
                let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
                let replace = match &value {
                    Value::Undefined(_) => true,
                    value => boolean.is_some_and(|boolean| boolean.truth()) && !value.truth(),
                };
                match (replace, default) {
                    (false, _) => Ok(value),
                    (true, Some(default)) => Ok(default),
                    (true, None) => heap.text(""),
                }
            }
            "length" | "count" => {
                let [] = args.bind(name, [])?;
                length(heap, &value)
            }
            "first" | "last" => {
                let [] = args.bind(name, [])?;
                end(heap, name, &value)
            }
            "items" => {
                let [] = args.bind(name, [])?;
                let pairs = match &value {
                    Value::Undefined(_) => return heap.sequence(Kind::Generator, Vec::new()).map(Value::Sequence),
                    Value::Dict(dict) => attributes::view(heap, dict, name)?,
                    _ => return Err(Fault::new("Can only get item pairs from a mapping.")),
                };
                let pairs = items(heap, &pairs)?.items.clone();
                heap.sequence(Kind::Generator, pairs).map(Value::Sequence)
            }
            "list" => {
                let [] = args.bind(name, [])?;
                let list = items(heap, &value)?;
                heap.list(list.items.clone())
            }
            "reverse" => {
                let [] = args.bind(name, [])?;
                if let Value::Text(text) = &value {
                    heap.scan(text.len())?;
                    return heap.text_as(text, text.chars().rev().collect::<String>());
                }
                let mut reversed = items(heap, &value)?.items.clone();
                reversed.reverse();
                heap.sequence(Kind::Generator, reversed).map(Value::Sequence)
            }
            "join" => join(heap, &value, args),
            "attr" => {
                let [name] = args.exactly(name, ["name"])?;
                let name = expect_text("attr", &name)?.into();
                let own = attributes::own_attribute(heap, &value, &name)?;
                Ok(own.unwrap_or(Value::Undefined(Missing::Attribute(value.type_name(), name))))
            }
            "tojson" => to_json(heap, &value, args),
            "abs" | "int" | "float" | "round" | "filesizeformat" => number(heap, name, value, args),
            _ => text_filter(heap, name, &value, args),
        }
    }
}

fn length(heap: &mut Heap, value: &Value) -> Result<Value, Fault> {
    let len = match value {
        Value::Text(text) => {
            heap.scan(text.len())?;
            text.chars().count()
        }
        Value::Sequence(sequence) if sequence.kind != Kind::Generator => sequence.items.len(),
        Value::Dict(dict) => dict.entries.len(),
        Value::Range(range) => range.len,
        Value::Undefined(_) => 0,
        Value::Loop(of) => of.items.items.len(),
        other => return Err(Fault::new(format!("object of type '{}' has no len()", other.type_name()))),
    };
    Ok(Value::Int(len as i128))
}

/// Runs `first` and `last`.
fn end(heap: &mut Heap, name: &str, value: &Value) -> Result<Value, Fault> {
    let found = match value {
        Value::Text(text) => {
            let c = if name == "first" { text.chars().next() } else { text.chars().next_back() };
            c.map(|c| heap.text_as(text, c.encode_utf8(&mut [0; 4]))).transpose()?
        }
        Value::Sequence(sequence) if sequence.kind == Kind::Generator && name == "last" => {
            return Err(Fault::new("'generator' object is not reversible"));
        }
        Value::Sequence(sequence) if sequence.kind == Kind::Generator => {
            let at = sequence.given.get();
            sequence.given.set(at + usize::from(at < sequence.items.len()));
            sequence.items.get(at).cloned()
        }
        other => {
            let items = items(heap, other)?;
            if name == "first" { items.items.first() } else { items.items.last() }.cloned()
        }
    };
    let empty =
        if name == "first" { "No first item, sequence was empty." } else { "No last item, sequence was empty." };
    Ok(found.unwrap_or(Value::Undefined(Missing::Other(empty))))
}

fn join(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or_else(|| Ok(String::new()), |separator| printed(heap, &separator))?;
    let list = match attribute.filter(|attribute| !matches!(attribute, Value::None)) {
        Some(attribute) => {
            let args = Args { list: Vec::new(), named: vec![("attribute".into(), attribute)] };
            select::map_attribute(heap, value, &args)?.unwrap_or(Value::None)
        }
        None => value.clone(),
    };
    let mut out = String::new();
    for (i, item) in items(heap, &list)?.items.iter().enumerate() {
        if i > 0 {
            heap.push(&mut out, &separator)?;
        }
        print(heap, item, &mut out)?;
    }
    heap.text(out)
}

/// Runs `tojson` as in transformers: Python's `json.dumps` without escaping letters.
fn to_json(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = args.bind("tojson", names)?;
    let given = |value: Option<Value>| value.filter(|value| !matches!(value, Value::None));
    let indent = match given(indent) {
        None => None,
        Some(Value::Text(text)) => {
            heap.take(text.len())?;
            Some(text.to_string())
        }
        Some(width) => {
            let mut text = String::new();
            heap.fill(&mut text, ' ', usize::try_from(expect_int("tojson", &width)?).unwrap_or(0))?;
            Some(text)
        }
    };
    let mut style = Style {
        ascii: ascii.is_some_and(|ascii| ascii.truth()),
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        indent,
        sorted: sorted.is_some_and(|sorted| sorted.truth()),
    };
    if let Some(separators) = given(separators) {
        match &items(heap, &separators)?.items[..] {
            [item, key] => {
                let (item, key) = (expect_text("tojson", item)?, expect_text("tojson", key)?);
                heap.take(item.len() + key.len())?;
                (style.item, style.key) = (item.to_owned(), key.to_owned());
            }
            other => return Err(Fault::new(format!("tojson: {} separators, expected 2", other.len()))),
        }
    }
    let mut out = String::new();
    json(heap, value, &style, &mut out, 0)?;
    heap.text(out)
}

fn number(heap: &mut Heap, name: &str, value: Value, args: Args) -> Result<Value, Fault> {
    heap.scan(value.as_text().map_or(0, str::len))?;
    match name {
        "abs" => {
            let [] = args.bind(name, [])?;
            match &value {
                Value::Float(number) => Ok(Value::Float(number.abs())),
                other if other.as_int().is_some_and(|number| number >= 0) => {
                    Ok(Value::Int(other.as_int().unwrap_or(0)))
                }
                other => negate(other),
            }
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = base.map_or(Ok(10), |base| expect_int(name, &base))?;
            Ok(to_int(&value, base)?.map_or(default.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            if let Value::Undefined(missing) = &value {
                return Err(missing.fault());
            }
            let number = value.as_float().or_else(|| value.as_text().and_then(parse_float));
            Ok(number.map_or(default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"])?;
            let bytes = value.as_float().or_else(|| value.as_text().and_then(parse_float));
            let bytes = bytes.ok_or_else(|| Fault::new("filesizeformat: no number"))?;
            let (base, letter) =
                if binary.is_some_and(|binary| binary.truth()) { (1024.0, "iB") } else { (1000.0, "B") };
            if bytes == 1.0 {
                return heap.text("1 Byte");
            }
            if bytes < base {
                return heap.text(format!("{} Bytes", bytes.trunc()));
            }
            let mut unit = base;
            let prefixes = if letter == "B" { "kMGTPEZY" } else { "KMGTPEZY" };
            let mut prefix = ' ';
            for next in prefixes.chars() {
                prefix = next;
                unit *= base;
                if bytes < unit {
                    break;
                }
            }
            heap.text(format!("{:.1} {prefix}{letter}", base * bytes / unit))
        }
        _ => round(&value, args),
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::lexer::is_space).replace('_', "");
    let bare = text.trim_start_matches(['+', '-']);
    let known = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["inf", "infinity", "nan"].contains(&&*bare.to_ascii_lowercase());
    if known { text.parse().ok() } else { None }
}

/// Converts a value as the filter `int` does, if possible.
fn to_int(value: &Value, base: i128) -> Result<Option<i128>, Fault> {
    let from_float = |number: f64| number.is_finite().then(|| number.trunc() as i128);
    Ok(match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        Value::Float(number) => from_float(*number),
        Value::Text(text) => {
            let digits = text.trim_matches(super::lexer::is_space).replace('_', "");
            let (sign, bare) = match digits.strip_prefix('-') {
                Some(bare) => ("-", bare),
                None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
            };
            let lower = bare.to_ascii_lowercase();
            let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, radix)| {
                lower.strip_prefix(prefix).filter(|_| base == radix || base == 0).map(|bare| (bare, radix))
            });
            let (bare, radix) = prefixed.unwrap_or((&lower, if base == 0 { 10 } else { base }));
            let radix = u32::try_from(radix).ok().filter(|radix| (2..=36).contains(radix));
            let signed_twice = bare.starts_with(['+', '-']);
            let number = radix.filter(|_| !signed_twice);
            let number = number.and_then(|radix| i128::from_str_radix(&format!("{sign}{bare}"), radix).ok());
            number.or_else(|| parse_float(text).and_then(from_float))
        }
        other => other.as_int(),
    })
}

fn round(value: &Value, args: Args) -> Result<Value, Fault> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| expect_int("round", &precision))?.clamp(-400, 400) as i32;
    let method = method.as_ref().map_or(Ok("common"), |method| expect_text("round", method))?;
    if let Value::Undefined(missing) = value {
        return Err(missing.fault());
    }
    let number = value.as_float().ok_or_else(|| Fault::new(format!("round: a {}", value.type_name())))?;
    let power = libm::pow(10.0, precision.into());
    match method {
        "common" => match value.as_int() {
            Some(number) if precision >= 0 => Ok(Value::Int(number)),
            Some(number) => {
                let unit = 10_i128.checked_pow(precision.unsigned_abs()).filter(|unit| *unit > 0);
                let Some(unit) = unit else { return Ok(Value::Int(0)) };
                let (down, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
                let (up, even) = (rest.cmp(&(unit - rest)), down % 2 == 0);
                let up = up.is_gt() || up.is_eq() && !even;
                let rounded = (down + i128::from(up)).checked_mul(unit);
                rounded.map(Value::Int).ok_or_else(|| Fault::new("an integer that is too large"))
            }
            // The decimal digits are exact, and a half rounds to even, as in Python.
            None if !number.is_finite() || precision > 340 => Ok(Value::Float(number)),
            None if precision >= 0 => {
                let text = format!("{number:.*}", precision as usize);
                Ok(Value::Float(text.parse().unwrap_or(number)))
            }
            None => Ok(Value::Float((number * power).round_ties_even() / power)),
        },
        "ceil" => Ok(Value::Float((number * power).ceil() / power)),
        "floor" => Ok(Value::Float((number * power).floor() / power)),
        other => Err(Fault::new(format!("round: method {other:?}, expected common, ceil or floor"))),
    }
}

/// Runs the filters from text to text.
fn text_filter(heap: &mut Heap, name: &str, value: &Value, args: Args) -> Result<Value, Fault> {
    let text = match value {
        Value::Text(text) => text.clone(),
        other => Text { text: printed(heap, other)?.into(), safe: false },
    };
    heap.scan(text.len())?;
    match name {
        "string" => {
            let [] = args.bind(name, [])?;
            Ok(Value::Text(text))
        }
        "safe" => {
            let [] = args.bind(name, [])?;
            Ok(Value::Text(Text { safe: true, ..text }))
        }
        "escape" | "e" | "forceescape" => {
            let [] = args.bind(name, [])?;
            if text.safe && name != "forceescape" {
                return Ok(Value::Text(text));
            }
            let mut out = String::new();
            escape(heap, &text, &mut out)?;
            Ok(Value::Text(Text { text: out.into(), safe: true }))
        }
        "lower" | "upper" => strings::call(heap, &text, name, args),
        "capitalize" => {
            let [] = args.bind(name, [])?;
            heap.text_as(&text, capitalized(&text))
        }
        "title" => {
            let [] = args.bind(name, [])?;
            title(heap, &text)
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| expect_text(name, chars)).transpose()?;
            strip(heap, &text, chars, true, true)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else { return Err(Fault::new("replace: expected two strings")) };
            let (old, new) = (printed(heap, &old)?, printed(heap, &new)?);
            let count = count.filter(|count| !matches!(count, Value::None));
            let count = count.map_or(Ok(-1), |count| expect_int(name, &count))?;
            let out = replaced(heap, &text, &old, &new, count)?;
            heap.text(out)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let args = Args { list: vec![width.unwrap_or(Value::Int(80))], named: Vec::new() };
            strings::call(heap, &text, name, args)
        }
        "format" => {
            let with = match (args.list.is_empty(), args.named.is_empty()) {
                (false, false) => return Err(Fault::new("format: arguments by position and by name")),
                (true, false) => {
                    let entries = args.named.iter().map(|(name, value)| (Value::literal(name), value.clone()));
                    let entries = entries.collect();
                    heap.dict(entries)?
                }
                _ => heap.tuple(args.list)?,
            };
            let out = percent(heap, &text, &with)?;
            heap.text_as(&text, out)
        }
        "indent" => indent(heap, &text, args),
        "truncate" => truncate(heap, &text, args),
        "wordcount" => {
            let [] = args.bind(name, [])?;
            let words = text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
        "urlencode" => {
            let [] = args.bind(name, [])?;
            let mut out = String::new();
            for byte in text.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                        heap.fill(&mut out, byte.into(), 1)?;
                    }
                    byte => heap.push(&mut out, &format!("%{byte:02X}"))?,
                }
            }
            heap.text(out)
        }
        known if FILTERS.contains(&known) => Err(Fault::new(format!("the filter {known:?} is not possible here"))),
        other => Err(Fault::new(format!("no filter named {other:?}"))),
    }
}

/// Converts the first letters of words to upper case. In this filter, words end only at spaces,
/// hyphens and opening brackets.
fn title(heap: &mut Heap, text: &Text) -> Result<Value, Fault> {
    heap.take(text.len())?;
    let (mut out, mut begins) = (String::new(), true);
    for c in text.chars() {
        let separates = super::lexer::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        match begins && !separates {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = separates;
    }
    heap.text_as(text, out)
}

fn indent(heap: &mut Heap, text: &Text, args: Args) -> Result<Value, Fault> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let mut indent = String::new();
    match width {
        Some(Value::Text(text)) => heap.push(&mut indent, &text)?,
        None => heap.fill(&mut indent, ' ', 4)?,
        Some(width) => {
            heap.fill(&mut indent, ' ', usize::try_from(expect_int("indent", &width)?).unwrap_or(0))?;
        }
    }
    let [first, blank] = [first, blank].map(|flag| flag.is_some_and(|flag| flag.truth()));
    // With one more newline, a final newline gives an empty line.
    let mut whole = String::new();
    heap.push(&mut whole, text)?;
    heap.push(&mut whole, "\n")?;
    let mut out = String::new();
    for (i, line) in lines(&whole, false).into_iter().enumerate() {
        if i > 0 {
            heap.push(&mut out, "\n")?;
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            heap.push(&mut out, &indent)?;
        }
        heap.push(&mut out, line)?;
    }
    heap.text_as(text, out)
}

fn truncate(heap: &mut Heap, text: &Text, args: Args) -> Result<Value, Fault> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let number = |value: Option<Value>, default: i128| {
        let value = value.filter(|value| !matches!(value, Value::None));
        value.map_or(Ok(default), |value| expect_int("truncate", &value))
    };
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let end = end.as_ref().map_or(Ok("..."), |end| expect_text("truncate", end))?;
    heap.scan(end.len())?;
    let room = length.saturating_sub(end.chars().count() as i128);
    if room < 0 || leeway < 0 {
        return Err(Fault::new("truncate: shorter than what ends it"));
    }
    if text.chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(Value::Text(text.clone()));
    }
    let mut cut: String = text.chars().take(room as usize).collect();
    if !kill.is_some_and(|kill| kill.truth())
        && let Some(at) = cut.rfind(' ')
    {
        cut.truncate(at);
    }
    heap.text_as(text, cut + end)
}
