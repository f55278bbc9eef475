//! Values of a template, as in Python, and the accounting of a rendering.
//!
//! Values form no cycles: lists and mappings never change, and everything that changes
//! (namespaces, the values that `loop.changed` saw) is in separate tables. A value's depth is known
//! when it is made, so dropping, printing and comparing it recurse to a bounded depth.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::Signature;
use super::{Fault, Limits, MAX_VALUE_DEPTH};

#[derive(Clone, Debug)]
pub(super) enum Value {
    Undefined(Missing),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    Sequence(Rc<Sequence>),
    Dict(Rc<Dict>),
    Range(Range),
    /// A namespace, by its index in [`Heap::namespaces`].
    Namespace(usize),
    Macro(Rc<Closure>),
    /// A function by its name.
    Function(&'static str),
    /// A method with its receiver.
    Method(Rc<(Self, Arc<str>)>),
    Loop(Rc<Loop>),
    Cycler(Rc<(Rc<Sequence>, Cell<usize>)>),
    Joiner(Rc<(Self, Cell<bool>)>),
}

/// Why a value is undefined.
#[derive(Clone, Debug)]
pub(super) enum Missing {
    Name(Arc<str>),
    /// An attribute that values of a type do not have.
    Attribute(&'static str, Arc<str>),
    /// An attribute that templates may not use.
    Forbidden(&'static str, Arc<str>),
    Other(&'static str),
}

impl Missing {
    /// Makes the error of using the value.
    pub(super) fn fault(&self) -> Fault {
        Fault::new(match self {
            Self::Name(name) => format!("'{name}' is undefined"),
            Self::Attribute(kind, name) => format!("'{kind} object' has no attribute '{name}'"),
            Self::Forbidden(kind, name) => format!("access to attribute '{name}' of '{kind}' object is unsafe"),
            Self::Other(message) => (*message).to_owned(),
        })
    }
}

/// A string; a safe one escapes text that is added to it, as Python's `Markup` does.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: Arc<str>,
    pub(super) safe: bool,
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Tuple,
    /// Views of a mapping.
    Keys,
    Values,
    Items,
    /// An iterator, which can be used once.
    Generator,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) kind: Kind,
    pub(super) items: Vec<Value>,
    pub(super) depth: usize,
    /// The number of items that a generator has already returned.
    pub(super) given: Cell<usize>,
}

/// A mapping, in the order of insertion.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    pub(super) depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) step: i64,
    pub(super) len: usize,
}

impl Range {
    /// Returns an existing item.
    pub(super) fn item(self, index: usize) -> Value {
        Value::Int(i128::from(self.start) + i128::from(self.step) * index as i128)
    }
}

/// A macro with its enclosing variables: indices in the tree and in the table of scopes.
#[derive(Debug)]
pub(super) struct Closure {
    pub(super) place: usize,
    pub(super) scope: usize,
    pub(super) signature: Arc<Signature>,
}

/// A loop, as seen from inside.
#[derive(Debug)]
pub(super) struct Loop {
    /// The number that identifies the loop.
    pub(super) number: usize,
    pub(super) items: Rc<Sequence>,
    pub(super) index: Cell<usize>,
    /// The number of enclosing loops of the same statement.
    pub(super) depth0: usize,
    /// The loop statement, if it may be called.
    pub(super) recursive: Option<usize>,
    /// The enclosing scope.
    pub(super) scope: usize,
}

impl Value {
    /// Makes a string of the template.
    pub(super) fn literal(text: &Arc<str>) -> Self {
        Self::Text(Text { text: text.clone(), safe: false })
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Sequence(sequence) => sequence.kind == Kind::Generator || !sequence.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.len > 0,
            Self::Loop(of) => !of.items.items.is_empty(),
            _ => true,
        }
    }

    /// Returns the name of the value's type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(Text { safe: true, .. }) => "Markup",
            Self::Text(_) => "str",
            Self::Sequence(sequence) => match sequence.kind {
                Kind::List => "list",
                Kind::Tuple => "tuple",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Items => "dict_items",
                Kind::Generator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Range(_) => "range",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "method",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    /// Returns the number of nested levels of values.
    fn depth(&self) -> usize {
        match self {
            Self::Sequence(sequence) => sequence.depth,
            Self::Dict(dict) => dict.depth,
            Self::Method(method) => method.0.depth() + 1,
            Self::Loop(of) => of.items.depth + 1,
            Self::Cycler(cycler) => cycler.0.depth + 1,
            Self::Joiner(joiner) => joiner.0.depth() + 1,
            _ => 0,
        }
    }

    /// Returns the value as an integer, if Python's arithmetic treats it as one.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some(i128::from(*value)),
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            other => other.as_int().map(|number| number as f64),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The limits of a rendering and what it has used of them, and the values that change.
#[derive(Debug)]
pub(super) struct Heap {
    limits: Limits,
    steps: u64,
    bytes: usize,
    pub(super) namespaces: Vec<Vec<(Arc<str>, Value)>>,
}

/// Bytes of text that are read in one step.
const BYTES_PER_STEP: usize = 32;

impl Heap {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, steps: 0, bytes: 0, namespaces: Vec::new() }
    }

    /// Takes steps: one for each operation, and for each value that it touches.
    pub(super) fn steps(&mut self, count: usize) -> Result<(), Fault> {
        self.steps += count as u64;
        match self.steps > self.limits.steps {
            true => Err(Fault::new(format!("more than {} steps", self.limits.steps))),
            false => Ok(()),
        }
    }

    /// Takes the steps of reading this many bytes of text.
    pub(super) fn scan(&mut self, bytes: usize) -> Result<(), Fault> {
        self.steps(1 + bytes / BYTES_PER_STEP)
    }

    /// Takes the steps of finding a text among `count` others. Only the `alike` ones of the same
    /// length are read to their ends.
    pub(super) fn search(&mut self, text: &str, count: usize, alike: usize) -> Result<(), Fault> {
        self.scan(count.saturating_mul(4).saturating_add(text.len().saturating_mul(1 + alike)))
    }

    /// Takes the steps of finding a field of a namespace.
    pub(super) fn look_for(&mut self, namespace: usize, name: &str) -> Result<(), Fault> {
        let fields = &self.namespaces[namespace];
        let alike = fields.iter().filter(|(field, _)| field.len() == name.len()).count();
        self.search(name, fields.len(), alike)
    }

    /// Takes memory before it is used.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(Fault::new(format!("more than {} MiB of values and text", self.limits.bytes >> 20)));
        }
        self.scan(bytes)
    }

    /// Appends to a text under construction.
    pub(super) fn push(&mut self, out: &mut String, text: &str) -> Result<(), Fault> {
        self.take(text.len())?;
        out.push_str(text);
        Ok(())
    }

    /// Appends a character `count` times.
    pub(super) fn fill(&mut self, out: &mut String, c: char, count: usize) -> Result<(), Fault> {
        self.take(count.saturating_mul(c.len_utf8()))?;
        out.extend(std::iter::repeat_n(c, count));
        Ok(())
    }

    pub(super) fn text(&mut self, text: impl AsRef<str>) -> Result<Value, Fault> {
        let text = text.as_ref();
        self.take(text.len() + 32)?;
        Ok(Value::Text(Text { text: text.into(), safe: false }))
    }

    /// Makes a text that is as safe as the one that it came from.
    pub(super) fn text_as(&mut self, from: &Text, text: impl AsRef<str>) -> Result<Value, Fault> {
        let text = text.as_ref();
        self.take(text.len() + 32)?;
        Ok(Value::Text(Text { text: text.into(), safe: from.safe }))
    }

    fn level(depth: Option<usize>) -> Result<usize, Fault> {
        let depth = depth.map_or(1, |depth| depth + 1);
        match depth > MAX_VALUE_DEPTH {
            true => Err(Fault::new(format!("a value with more than {MAX_VALUE_DEPTH} levels"))),
            false => Ok(depth),
        }
    }

    pub(super) fn sequence(&mut self, kind: Kind, items: Vec<Value>) -> Result<Rc<Sequence>, Fault> {
        self.take(64 + items.len() * size_of::<Value>())?;
        self.steps(items.len())?;
        let depth = Self::level(items.iter().map(Value::depth).max())?;
        Ok(Rc::new(Sequence { kind, items, depth, given: Cell::new(0) }))
    }

    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value, Fault> {
        self.sequence(Kind::List, items).map(Value::Sequence)
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Result<Value, Fault> {
        self.sequence(Kind::Tuple, items).map(Value::Sequence)
    }

    /// Makes a mapping; keys must be different.
    pub(super) fn dict(&mut self, entries: Vec<(Value, Value)>) -> Result<Value, Fault> {
        self.take(64 + entries.len() * size_of::<(Value, Value)>())?;
        self.steps(entries.len())?;
        let depth = Self::level(entries.iter().map(|(key, value)| key.depth().max(value.depth())).max())?;
        Ok(Value::Dict(Rc::new(Dict { entries, depth })))
    }

    /// Makes a method with its receiver.
    pub(super) fn method(&mut self, receiver: &Value, name: &Arc<str>) -> Result<Value, Fault> {
        self.take(64)?;
        Self::level(Some(receiver.depth()))?;
        Ok(Value::Method(Rc::new((receiver.clone(), name.clone()))))
    }

    /// Converts a value of the caller.
    pub(super) fn json(&mut self, json: &Json) -> Result<Value, Fault> {
        self.json_at(json, 0)
    }

    fn json_at(&mut self, json: &Json, level: usize) -> Result<Value, Fault> {
        if level > MAX_VALUE_DEPTH {
            return Err(Fault::new(format!("a variable with more than {MAX_VALUE_DEPTH} levels")));
        }
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i128() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => self.text(text)?,
            Json::Array(items) => {
                let items = items.iter().map(|item| self.json_at(item, level + 1)).collect::<Result<_, _>>()?;
                self.list(items)?
            }
            Json::Object(fields) => {
                let entry = |(key, value): (&String, &Json)| Ok((self.text(key)?, self.json_at(value, level + 1)?));
                let entries = fields.iter().map(entry).collect::<Result<_, _>>()?;
                self.dict(entries)?
            }
        })
    }
}
