//! Attributes and items of values, and the methods of lists and mappings. Methods that would change
//! a value are refused, as in Jinja2's immutable sandbox.

use std::sync::Arc;

use super::Fault;
use super::ast::Signature;
use super::calls::Args;
use super::operators::{equal, get, get_text, insert, items};
use super::strings;
use super::value::{Dict, Heap, Kind, Loop, Missing, Sequence, Value};

const DICT: [&str; 6] = ["items", "keys", "values", "get", "copy", "fromkeys"];
const DICT_CHANGING: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const LIST: [&str; 3] = ["count", "index", "copy"];
const LIST_CHANGING: [&str; 8] = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];
const LOOP: [&str; 2] = ["cycle", "changed"];
const CYCLER: [&str; 2] = ["next", "reset"];

/// Returns whether values of this type have such a method, and if so, whether it may be called.
fn method(value: &Value, name: &str) -> Option<bool> {
    let (methods, changing): (&[&str], &[&str]) = match value {
        Value::Text(_) => (&strings::METHODS, &[]),
        Value::Dict(_) => (&DICT, &DICT_CHANGING),
        Value::Sequence(sequence) => match sequence.kind {
            Kind::List => (&LIST, &LIST_CHANGING),
            Kind::Tuple => (&LIST[..2], &[]),
            _ => (&[], &[]),
        },
        Value::Range(_) => (&LIST[..2], &[]),
        Value::Loop(_) => (&LOOP, &[]),
        Value::Cycler(_) => (&CYCLER, &[]),
        Value::Function("dict") => (&["fromkeys"], &[]),
        _ => return None,
    };
    match (methods.contains(&name), changing.contains(&name)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Returns whether `value.name(...)` calls a method.
pub(super) fn has_method(value: &Value, name: &str) -> bool {
    method(value, name) == Some(true)
}

/// Evaluates `value.name`: an attribute, or else an item.
pub(super) fn attribute(heap: &mut Heap, value: &Value, name: &Arc<str>) -> Result<Value, Fault> {
    heap.steps(1)?;
    if let Some(found) = own_attribute(heap, value, name)? {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = get_text(heap, dict, name)?
    {
        return Ok(found);
    }
    Ok(Value::Undefined(Missing::Attribute(value.type_name(), name.clone())))
}

/// Returns an attribute that Python's object has.
pub(super) fn own_attribute(heap: &mut Heap, value: &Value, name: &Arc<str>) -> Result<Option<Value>, Fault> {
    match method(value, name) {
        Some(true) => return heap.method(value, name).map(Some),
        Some(false) => return Ok(Some(Value::Undefined(Missing::Forbidden(value.type_name(), name.clone())))),
        None => {}
    }
    Ok(match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        Value::Namespace(place) => {
            heap.look_for(*place, name)?;
            heap.namespaces[*place].iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
        }
        Value::Loop(of) => loop_attribute(of, name),
        Value::Macro(closure) => macro_attribute(heap, &closure.signature, name)?,
        Value::Cycler(cycler) if &**name == "current" => Some(cycler.0.items[cycler.1.get()].clone()),
        _ => None,
    })
}

fn loop_attribute(of: &Loop, name: &str) -> Option<Value> {
    let (index, len) = (of.index.get(), of.items.items.len());
    let at = |place: Option<usize>, message| {
        let item = place.and_then(|place| of.items.items.get(place));
        item.cloned().unwrap_or(Value::Undefined(Missing::Other(message)))
    };
    let number = |number: usize| Value::Int(number as i128);
    Some(match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 == len),
        "length" => number(len),
        "revindex" => number(len - index),
        "revindex0" => number(len - index - 1),
        "depth" => number(of.depth0 + 1),
        "depth0" => number(of.depth0),
        "previtem" => at(index.checked_sub(1), "there is no previous item"),
        "nextitem" => at(Some(index + 1), "there is no next item"),
        _ => return None,
    })
}

fn macro_attribute(heap: &mut Heap, of: &Signature, name: &str) -> Result<Option<Value>, Fault> {
    Ok(Some(match name {
        "name" => of.name.as_ref().map_or(Value::None, Value::literal),
        "arguments" => heap.tuple(of.arguments.iter().map(Value::literal).collect())?,
        "caller" => Value::Bool(of.caller),
        "explicit_caller" => Value::Bool(of.explicit_caller),
        "catch_kwargs" => Value::Bool(of.catch_kwargs),
        "catch_varargs" => Value::Bool(of.catch_varargs),
        _ => return Ok(None),
    }))
}

/// Evaluates `value[key]`: an item, or else an attribute.
pub(super) fn item(heap: &mut Heap, value: &Value, key: &Value) -> Result<Value, Fault> {
    heap.steps(1)?;
    let found = match (value, key) {
        (Value::Undefined(missing), _) => return Err(missing.fault()),
        (Value::Dict(_), Value::Dict(_)) => None,
        (Value::Dict(_), Value::Sequence(sequence)) if sequence.kind == Kind::List => None,
        (Value::Dict(dict), key) => get(heap, dict, key)?,
        (Value::Sequence(sequence), _) if matches!(sequence.kind, Kind::List | Kind::Tuple) => {
            place(key, sequence.items.len()).map(|place| sequence.items[place].clone())
        }
        (Value::Range(range), _) => place(key, range.len).map(|place| range.item(place)),
        (Value::Text(text), _) if key.as_int().is_some() => {
            heap.scan(text.len())?;
            match place(key, text.chars().count()).and_then(|place| text.chars().nth(place)) {
                Some(c) => Some(heap.text_as(text, c.encode_utf8(&mut [0; 4]))?),
                None => None,
            }
        }
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match key {
        Value::Text(name) => {
            let own = own_attribute(heap, value, &name.text)?;
            Ok(own.unwrap_or_else(|| Value::Undefined(Missing::Attribute(value.type_name(), name.text.clone()))))
        }
        _ => Ok(Value::Undefined(Missing::Other("a value has no such item"))),
    }
}

/// Returns the position that an index refers to.
fn place(index: &Value, len: usize) -> Option<usize> {
    let index = index.as_int()?;
    let index = if index < 0 { index.checked_add(len as i128)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

/// Calls a method of anything but a loop's `changed`.
pub(super) fn call(heap: &mut Heap, receiver: &Value, name: &str, args: Args) -> Result<Value, Fault> {
    heap.steps(1)?;
    match receiver {
        Value::Text(text) => strings::call(heap, text, name, args),
        Value::Dict(dict) => dict_method(heap, dict, name, args),
        Value::Function(_) => from_keys(heap, args),
        Value::Sequence(sequence) if name == "copy" => {
            let [] = args.bind(name, [])?;
            Ok(Value::Sequence(sequence.clone()))
        }
        Value::Sequence(_) | Value::Range(_) => {
            let items = items(heap, receiver)?;
            list_method(heap, &items, name, args)
        }
        Value::Loop(of) if args.list.is_empty() => Err(Fault::new(format!("loop {}: no items", of.depth0 + 1))),
        Value::Loop(of) => Ok(args.list[of.index.get() % args.list.len()].clone()),
        Value::Cycler(cycler) if name == "reset" => {
            cycler.1.set(0);
            Ok(Value::None)
        }
        Value::Cycler(cycler) => {
            let at = cycler.1.get();
            cycler.1.set((at + 1) % cycler.0.items.len());
            Ok(cycler.0.items[at].clone())
        }
        other => Err(Fault::new(format!("'{} object' has no attribute '{name}'", other.type_name()))),
    }
}

fn dict_method(heap: &mut Heap, dict: &Dict, name: &str, args: Args) -> Result<Value, Fault> {
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["key", "default"])?;
            let key = key.ok_or_else(|| Fault::new("get: no key"))?;
            Ok(get(heap, dict, &key)?.or(default).unwrap_or(Value::None))
        }
        "fromkeys" => from_keys(heap, args),
        "copy" => {
            let [] = args.bind(name, [])?;
            heap.dict(dict.entries.clone())
        }
        _ => {
            let [] = args.bind(name, [])?;
            view(heap, dict, name)
        }
    }
}

/// Returns `items`, `keys` or `values` of a mapping.
pub(super) fn view(heap: &mut Heap, dict: &Dict, name: &str) -> Result<Value, Fault> {
    let entries = dict.entries.iter();
    let (kind, items) = match name {
        "keys" => (Kind::Keys, entries.map(|(key, _)| key.clone()).collect()),
        "values" => (Kind::Values, entries.map(|(_, value)| value.clone()).collect()),
        _ => {
            let pair = |(key, value): &(Value, Value)| heap.tuple(vec![key.clone(), value.clone()]);
            (Kind::Items, entries.map(pair).collect::<Result<_, _>>()?)
        }
    };
    heap.sequence(kind, items).map(Value::Sequence)
}

fn from_keys(heap: &mut Heap, args: Args) -> Result<Value, Fault> {
    let [keys, value] = args.bind("fromkeys", ["iterable", "value"])?;
    let keys = keys.ok_or_else(|| Fault::new("fromkeys: no keys"))?;
    let mut entries = Vec::new();
    for key in &items(heap, &keys)?.items {
        insert(heap, &mut entries, key.clone(), value.clone().unwrap_or(Value::None))?;
    }
    heap.dict(entries)
}

fn list_method(heap: &mut Heap, sequence: &Sequence, name: &str, args: Args) -> Result<Value, Fault> {
    let [what] = args.exactly(name, ["value"])?;
    let mut count = 0;
    for (i, item) in sequence.items.iter().enumerate() {
        if equal(heap, item, &what)? {
            if name == "index" {
                return Ok(Value::Int(i as i128));
            }
            count += 1;
        }
    }
    match name {
        "count" => Ok(Value::Int(count)),
        _ => Err(Fault::new("index: the list has no such item")),
    }
}
