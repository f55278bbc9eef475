//! The methods of Python's strings.

use std::borrow::Cow;

use super::Fault;
use super::calls::Args;
use super::digits::{is_decimal, is_digit};
use super::format::format;
use super::lexer::is_space;
use super::operators::{escape, items};
use super::print::is_printable;
use super::value::{Heap, Text, Value};

/// The names of the methods.
pub(super) const METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Calls a method of a string.
pub(super) fn call(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    heap.scan(text.len())?;
    match name {
        "format" | "format_map" => {
            let args = if name == "format" { args } else { args.mapping(heap)? };
            let formatted = format(heap, text, &args)?;
            return heap.text_as(text, formatted);
        }
        "join" => {
            let [list] = args.exactly(name, ["iterable"])?;
            return join(heap, text, &list);
        }
        "split" | "rsplit" => return split(heap, text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => return find(heap, text, name, args),
        "startswith" | "endswith" => return starts(heap, text, name, args),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| expect_text(name, chars)).transpose()?;
            return strip(heap, text, chars, name != "rstrip", name != "lstrip");
        }
        "replace" => return replace_method(heap, text, args),
        "partition" | "rpartition" => return partition(heap, text, name, args),
        "removeprefix" | "removesuffix" => {
            let [affix] = args.exactly(name, ["affix"])?;
            let affix = expect_text(name, &affix)?;
            let rest = if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            return match rest {
                Some(rest) => heap.text_as(text, rest),
                None => Ok(Value::Text(text.clone())),
            };
        }
        "center" | "ljust" | "rjust" | "zfill" => return pad(heap, text, name, args),
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let keep = keep.is_some_and(|keep| keep.truth());
            let lines = lines(text, keep).into_iter().map(|line| heap.text_as(text, line));
            let lines = lines.collect::<Result<_, _>>()?;
            return heap.list(lines);
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = usize::try_from(size.map_or(Ok(8), |size| expect_int(name, &size))?).unwrap_or(0);
            let (mut out, mut column) = (String::new(), 0);
            for c in text.chars() {
                match c {
                    '\t' if size == 0 => {}
                    '\t' => {
                        heap.fill(&mut out, ' ', size - column % size)?;
                        column += size - column % size;
                    }
                    c => {
                        heap.fill(&mut out, c, 1)?;
                        column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
            }
            return heap.text_as(text, out);
        }
        _ => {}
    }
    let [] = args.bind(name, [])?;
    if let Some(answer) = question(text, name) {
        return Ok(Value::Bool(answer));
    }
    // These become at most three times as long.
    heap.take(text.len())?;
    let out = match name {
        "lower" => text.to_lowercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss"),
        "upper" => text.to_uppercase(),
        "capitalize" => capitalized(text),
        "title" => title(text),
        "swapcase" => text
            .chars()
            .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
                if c.is_uppercase() { Box::new(c.to_lowercase()) } else { Box::new(c.to_uppercase()) }
            })
            .collect(),
        _ => return Err(Fault::new(format!("'str object' has no attribute '{name}'"))),
    };
    heap.text_as(text, out)
}

/// Converts the first character to upper case, the others to lower case.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    title_case(first) + &chars.as_str().to_lowercase()
}

/// Converts a character at the beginning of a word. If it becomes several letters, only the first
/// is upper case: `ß`, `Ss`.
fn title_case(c: char) -> String {
    let mut upper = c.to_uppercase();
    let first = upper.next();
    first.into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
}

/// Converts letters after letters to lower case, others to upper case.
fn title(text: &str) -> String {
    let (mut out, mut in_word) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out += &title_case(c),
        }
        in_word = is_cased(c);
    }
    out
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// Answers the methods that return a boolean.
fn question(text: &str, name: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let cased = |wrong: fn(char) -> bool| text.chars().any(is_cased) && !text.chars().any(wrong);
    Some(match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            let first = text.chars().next();
            first.is_some_and(|c| c == '_' || c.is_alphabetic())
                && text.chars().all(|c| c == '_' || c.is_alphanumeric())
        }
        "islower" => cased(char::is_uppercase),
        "isupper" => cased(char::is_lowercase),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        "istitle" => {
            let (mut any, mut in_word) = (false, false);
            for c in text.chars() {
                if c.is_uppercase() && in_word || c.is_lowercase() && !in_word {
                    return Some(false);
                }
                in_word = is_cased(c);
                any |= in_word;
            }
            any
        }
        _ => return None,
    })
}

pub(super) fn expect_text<'v>(what: &str, value: &'v Value) -> Result<&'v str, Fault> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Undefined(missing) => Err(missing.fault()),
        other => Err(Fault::new(format!("{what}: a {}, expected a string", other.type_name()))),
    }
}

pub(super) fn expect_int(what: &str, value: &Value) -> Result<i128, Fault> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        other => {
            other.as_int().ok_or_else(|| Fault::new(format!("{what}: a {}, expected an integer", other.type_name())))
        }
    }
}

/// Returns a string to insert into another one, escaped if only the other one is safe.
fn part<'t>(heap: &mut Heap, into: &Text, value: &'t Text) -> Result<Cow<'t, str>, Fault> {
    if !into.safe || value.safe {
        return Ok(Cow::Borrowed(value));
    }
    let mut out = String::new();
    escape(heap, value, &mut out)?;
    Ok(Cow::Owned(out))
}

fn join(heap: &mut Heap, separator: &Text, list: &Value) -> Result<Value, Fault> {
    let mut out = String::new();
    for (i, item) in items(heap, list)?.items.iter().enumerate() {
        if i > 0 {
            heap.push(&mut out, separator)?;
        }
        let Value::Text(item) = item else {
            let kind = item.type_name();
            return Err(Fault::new(format!("sequence item {i}: expected str instance, {kind} found")));
        };
        let item = part(heap, separator, item)?;
        heap.push(&mut out, &item)?;
    }
    heap.text_as(separator, out)
}

/// Strips characters at the ends of a string: those of another string, or spaces.
pub(super) fn strip(
    heap: &mut Heap,
    text: &Text,
    chars: Option<&str>,
    left: bool,
    right: bool,
) -> Result<Value, Fault> {
    heap.scan(text.len())?;
    if let Some(chars) = chars {
        // Each character may be compared with every other.
        heap.scan(chars.len().saturating_mul(1 + text.len()))?;
    }
    let chars: Option<Vec<char>> = chars.map(|chars| chars.chars().collect());
    let goes = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c));
    let mut rest: &str = text;
    if left {
        rest = rest.trim_start_matches(goes);
    }
    if right {
        rest = rest.trim_end_matches(goes);
    }
    heap.text_as(text, rest)
}

fn split(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
    let most = usize::try_from(most.map_or(Ok(-1), |most| expect_int(name, &most))?).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match separator.filter(|separator| !matches!(separator, Value::None)) {
        Some(separator) => {
            let separator = expect_text(name, &separator)?;
            heap.scan(separator.len())?;
            if separator.is_empty() {
                return Err(Fault::new("empty separator"));
            }
            match name {
                "split" => text.splitn(most.saturating_add(1), separator).collect(),
                _ => text.rsplitn(most.saturating_add(1), separator).collect(),
            }
        }
        None => {
            let (mut parts, mut rest) = (Vec::new(), &**text);
            loop {
                rest =
                    if name == "split" { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) };
                if rest.is_empty() {
                    break;
                }
                let cut = if name == "split" { rest.find(is_space) } else { rest.rfind(is_space) };
                let Some(cut) = cut.filter(|_| parts.len() < most) else {
                    // If no more cuts are allowed, the rest keeps the spaces at its other end.
                    parts.push(rest);
                    break;
                };
                if name == "split" {
                    parts.push(&rest[..cut]);
                    rest = &rest[cut..];
                } else {
                    let after = cut + rest[cut..].chars().next().map_or(0, char::len_utf8);
                    parts.push(&rest[after..]);
                    rest = &rest[..after];
                }
            }
            parts
        }
    };
    if name == "rsplit" {
        parts.reverse();
    }
    let parts = parts.into_iter().map(|part| heap.text_as(text, part)).collect::<Result<_, _>>()?;
    heap.list(parts)
}

/// Returns the part of a string between two positions, with the position where it begins, in
/// characters.
fn region<'t>(text: &'t str, name: &str, from: Option<Value>, to: Option<Value>) -> Result<(&'t str, usize), Fault> {
    if from.is_none() && to.is_none() {
        return Ok((text, 0));
    }
    let len = text.chars().count() as i128;
    let place = |value: Option<Value>, default: i128| -> Result<i128, Fault> {
        let index = match value {
            None | Some(Value::None) => default,
            Some(value) => expect_int(name, &value)?,
        };
        Ok(if index < 0 { index.saturating_add(len).max(0) } else { index })
    };
    let (from, to) = (place(from, 0)?, place(to, len)?.min(len));
    let byte = |index: i128| text.char_indices().nth(index as usize).map_or(text.len(), |(at, _)| at);
    if from > to {
        // Beyond the end, not even the empty string is found.
        return Ok(("", usize::MAX));
    }
    Ok((&text[byte(from)..byte(to)], from as usize))
}

fn find(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    let [what, from, to] = args.bind(name, ["sub", "start", "end"])?;
    let what = what.ok_or_else(|| Fault::new(format!("{name}: no string to look for")))?;
    let what = expect_text(name, &what)?;
    heap.scan(text.len() + what.len())?;
    let (within, start) = region(text, name, from, to)?;
    let beyond = start == usize::MAX;
    if name == "count" {
        let count = if beyond { 0 } else { within.matches(what).count() };
        return Ok(Value::Int(count as i128));
    }
    let at = if name.starts_with('r') { within.rfind(what) } else { within.find(what) };
    match at.filter(|_| !beyond) {
        Some(at) => Ok(Value::Int((start + within[..at].chars().count()) as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Fault::new("substring not found")),
    }
}

fn starts(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    let [affix, from, to] = args.bind(name, ["affix", "start", "end"])?;
    let affix = affix.ok_or_else(|| Fault::new(format!("{name}: no string to compare with")))?;
    let (within, start) = region(text, name, from, to)?;
    let mut is = |affix: &Value| -> Result<bool, Fault> {
        let affix = expect_text(name, affix)?;
        heap.scan(affix.len())?;
        let starts = if name == "startswith" { within.starts_with(affix) } else { within.ends_with(affix) };
        Ok(starts && start != usize::MAX)
    };
    if let Value::Sequence(affixes) = &affix
        && affixes.kind == super::value::Kind::Tuple
    {
        for affix in &affixes.items {
            if is(affix)? {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    is(&affix).map(Value::Bool)
}

fn replace_method(heap: &mut Heap, text: &Text, args: Args) -> Result<Value, Fault> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
    let (Some(Value::Text(old)), Some(Value::Text(new))) = (&old, &new) else {
        return Err(Fault::new("replace: expected two strings"));
    };
    let count = count.map_or(Ok(-1), |count| expect_int("replace", &count))?;
    let new = part(heap, text, new)?;
    let out = replaced(heap, text, old, &new, count)?;
    heap.text_as(text, out)
}

/// Replaces parts of a string, at most `count` or all.
pub(super) fn replaced(heap: &mut Heap, text: &str, old: &str, new: &str, count: i128) -> Result<String, Fault> {
    heap.scan(text.len() + old.len())?;
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(old).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        heap.push(&mut out, &text[from..at])?;
        heap.push(&mut out, new)?;
        from = at + old.len();
    }
    heap.push(&mut out, &text[from..])?;
    Ok(out)
}

fn partition(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    let [separator] = args.exactly(name, ["sep"])?;
    let separator = expect_text(name, &separator)?;
    heap.scan(separator.len())?;
    if separator.is_empty() {
        return Err(Fault::new("empty separator"));
    }
    let cut = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    let parts = parts.into_iter().map(|part| heap.text_as(text, part)).collect::<Result<_, _>>()?;
    heap.tuple(parts)
}

fn pad(heap: &mut Heap, text: &Text, name: &str, args: Args) -> Result<Value, Fault> {
    let [width, fill] = args.bind(name, ["width", "fillchar"])?;
    let width = width.ok_or_else(|| Fault::new(format!("{name}: no width")))?;
    let width = usize::try_from(expect_int(name, &width)?).unwrap_or(0);
    let fill = fill.map_or(Ok(None), |fill| expect_text(name, &fill).map(|fill| fill.chars().next()))?.unwrap_or(' ');
    let missing = width.saturating_sub(text.chars().count());
    let mut out = String::new();
    let (before, after) = match name {
        "ljust" => (0, missing),
        "rjust" | "zfill" => (missing, 0),
        // As in CPython.
        _ => (missing / 2 + (missing & width & 1), missing - missing / 2 - (missing & width & 1)),
    };
    if name == "zfill" {
        let sign = text.starts_with(['+', '-']);
        heap.push(&mut out, &text[..usize::from(sign)])?;
        heap.fill(&mut out, '0', before)?;
        heap.push(&mut out, &text[usize::from(sign)..])?;
    } else {
        heap.fill(&mut out, fill, before)?;
        heap.push(&mut out, text)?;
        heap.fill(&mut out, fill, after)?;
    }
    heap.text_as(text, out)
}

/// Splits a string into lines, as Python's `splitlines` does.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let (mut lines, mut from) = (Vec::new(), 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[from..if keep { end } else { at }]);
        from = end;
    }
    if from < text.len() {
        lines.push(&text[from..]);
    }
    lines
}
