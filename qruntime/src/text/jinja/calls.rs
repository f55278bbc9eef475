//! Calls: arguments, the functions that templates know, macros, and loops that their own bodies
//! call.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::Fault;
use super::ast::{Arguments, SPECIAL};
use super::attributes;
use super::eval::Rendering;
use super::operators::{equal, insert, items};
use super::print::printed;
use super::strings::expect_text;
use super::value::{Closure, Heap, Kind, Loop, Missing, Range, Value};

/// The functions that templates know.
pub(super) const FUNCTIONS: [&str; 6] = ["range", "dict", "namespace", "joiner", "cycler", "raise_exception"];

/// The function that exists only with a date.
pub(super) const CLOCK: &str = "strftime_now";

/// Most items of a range, as in Jinja2's sandbox.
const MAX_RANGE: usize = 100_000;

/// The arguments of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    pub(super) list: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// Returns the arguments by their names; `None` for those that are not given.
    pub(super) fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value>; N], Fault> {
        if self.list.len() > N {
            return Err(Fault::new(format!("{what}: {} arguments, expected at most {N}", self.list.len())));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.list) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|known| **known == *name);
            let place = place.filter(|place| bound[*place].is_none());
            let place = place.ok_or_else(|| Fault::new(format!("{what}: unexpected argument {name}")))?;
            bound[place] = Some(value);
        }
        Ok(bound)
    }

    /// Returns the arguments by their names; all must be given.
    pub(super) fn exactly<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Value; N], Fault> {
        let bound = self.bind(what, names)?;
        match bound.iter().position(Option::is_none) {
            Some(missing) => Err(Fault::new(format!("{what}: the argument {} is missing", names[missing]))),
            None => Ok(bound.map(|value| value.unwrap_or(Value::None))),
        }
    }

    /// Turns the entries of the only argument into named arguments, for `format_map`.
    pub(super) fn mapping(self, heap: &mut Heap) -> Result<Self, Fault> {
        let [mapping] = self.exactly("format_map", ["mapping"])?;
        let Value::Dict(dict) = mapping else {
            return Err(Fault::new(format!("format_map: a {}, expected a dict", mapping.type_name())));
        };
        heap.steps(dict.entries.len())?;
        let named = dict.entries.iter().filter_map(|(key, value)| match key {
            Value::Text(key) => Some((key.text.clone(), value.clone())),
            _ => None,
        });
        Ok(Self { list: Vec::new(), named: named.collect() })
    }
}

/// Returns the entries of `dict(...)` and `namespace(...)`: from a mapping or pairs, then the named
/// ones.
fn entries(heap: &mut Heap, args: Args) -> Result<Vec<(Value, Value)>, Fault> {
    let mut entries = Vec::new();
    if args.list.len() > 1 {
        return Err(Fault::new(format!("dict: {} arguments, expected at most 1", args.list.len())));
    }
    match args.list.first() {
        None => {}
        Some(Value::Dict(dict)) => {
            heap.take(dict.entries.len() * size_of::<(Value, Value)>())?;
            entries = dict.entries.clone();
        }
        Some(pairs) => {
            for pair in &items(heap, pairs)?.items {
                match &items(heap, pair)?.items[..] {
                    [key, value] => insert(heap, &mut entries, key.clone(), value.clone())?,
                    other => {
                        return Err(Fault::new(format!("dict: {} values, expected a key and a value", other.len())));
                    }
                }
            }
        }
    }
    for (name, value) in args.named {
        insert(heap, &mut entries, Value::literal(&name), value)?;
    }
    Ok(entries)
}

/// Checks that a namespace may hold a name.
pub(super) fn namespace_field(name: &str) -> Result<(), Fault> {
    match name.starts_with('_') {
        true => Err(Fault::new(format!("a namespace cannot hold {name:?}, which begins with an underscore"))),
        false => Ok(()),
    }
}

fn range(args: Args) -> Result<Value, Fault> {
    let numbers: Vec<i64> =
        args.list
            .iter()
            .map(|value| match value {
                Value::Undefined(missing) => Err(missing.fault()),
                other => other.as_int().and_then(|number| number.try_into().ok()).ok_or_else(|| {
                    Fault::new(format!("range: a {}, expected an integer of 64 bits", other.type_name()))
                }),
            })
            .collect::<Result<_, _>>()?;
    let (start, end, step) = match (&numbers[..], args.named.is_empty()) {
        ([end], true) => (0, *end, 1),
        ([start, end], true) => (*start, *end, 1),
        ([start, end, step], true) if *step != 0 => (*start, *end, *step),
        _ => return Err(Fault::new("range: expected an end, or a start and an end, and perhaps a step, not 0")),
    };
    let (span, width) = match step > 0 {
        true => (i128::from(end) - i128::from(start), i128::from(step)),
        false => (i128::from(start) - i128::from(end), -i128::from(step)),
    };
    let len = if span > 0 { (span + width - 1) / width } else { 0 };
    match usize::try_from(len) {
        Ok(len) if len <= MAX_RANGE => Ok(Value::Range(Range { start, step, len })),
        _ => Err(Fault::new(format!("range: {len} items, expected at most {MAX_RANGE}"))),
    }
}

impl<'t> Rendering<'t> {
    /// Evaluates the arguments of a call.
    pub(super) fn args(&mut self, arguments: &'t Arguments) -> Result<Args, Fault> {
        let mut args = Args::default();
        for value in &arguments.list {
            let value = self.eval(value)?;
            args.list.push(value);
        }
        for (name, value) in &arguments.named {
            let value = self.eval(value)?;
            args.named.push((name.clone(), value));
        }
        let [list, named] = &arguments.rest;
        if let Some(list) = list {
            let list = self.eval(list)?;
            let list = items(&mut self.heap, &list)?;
            args.list.extend(list.items.iter().cloned());
        }
        if let Some(named) = named {
            match self.eval(named)? {
                Value::Dict(dict) => {
                    for (key, value) in &dict.entries {
                        let key = expect_text("an argument's name", key)?;
                        self.heap.take(key.len())?;
                        args.named.push((key.into(), value.clone()));
                    }
                }
                other => return Err(Fault::new(format!("** before a {}, expected a dict", other.type_name()))),
            }
        }
        self.heap.take((args.list.len() + args.named.len()) * size_of::<(Arc<str>, Value)>())?;
        Ok(args)
    }

    /// Evaluates `callee(...)`.
    pub(super) fn call(&mut self, callee: &Value, args: Args) -> Result<Value, Fault> {
        self.heap.steps(1)?;
        match callee {
            Value::Undefined(missing) => Err(missing.fault()),
            Value::Function(name) => self.function(name, args),
            Value::Method(method) => self.call_method(&method.0, &method.1, args),
            Value::Macro(closure) => self.call_macro(closure, args),
            Value::Joiner(joiner) => {
                let [] = args.bind("joiner", [])?;
                match joiner.1.replace(true) {
                    true => Ok(joiner.0.clone()),
                    false => self.heap.text(""),
                }
            }
            Value::Loop(of) => self.call_loop(of, args),
            other => Err(Fault::new(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    /// Evaluates `receiver.name(...)`.
    pub(super) fn call_method(&mut self, receiver: &Value, name: &str, args: Args) -> Result<Value, Fault> {
        if let (Value::Loop(of), "changed") = (receiver, name) {
            let now = self.heap.tuple(args.list)?;
            self.heap.steps(self.changed.len() / 8)?;
            let before = self.changed.iter_mut().find(|(number, _)| *number == of.number);
            return match before {
                Some((_, before)) => {
                    let same = equal(&mut self.heap, before, &now)?;
                    *before = now;
                    Ok(Value::Bool(!same))
                }
                None => {
                    self.changed.push((of.number, now));
                    Ok(Value::Bool(true))
                }
            };
        }
        attributes::call(&mut self.heap, receiver, name, args)
    }

    fn function(&mut self, name: &'static str, args: Args) -> Result<Value, Fault> {
        match name {
            "range" => range(args),
            "dict" => {
                let entries = entries(&mut self.heap, args)?;
                self.heap.dict(entries)
            }
            "namespace" => {
                let mut fields = Vec::new();
                for (name, value) in entries(&mut self.heap, args)? {
                    let name = expect_text("a namespace's field", &name)?;
                    namespace_field(name)?;
                    fields.push((name.into(), value));
                }
                self.heap.take(64)?;
                self.heap.namespaces.push(fields);
                Ok(Value::Namespace(self.heap.namespaces.len() - 1))
            }
            "joiner" => {
                let [separator] = args.bind(name, ["sep"])?;
                let separator = separator.map_or_else(|| self.heap.text(", "), Ok)?;
                expect_text(name, &separator)?;
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            "cycler" if args.list.is_empty() => Err(Fault::new("cycler: no items")),
            "cycler" => {
                let items = self.heap.sequence(Kind::Tuple, args.list)?;
                Ok(Value::Cycler(Rc::new((items, Cell::new(0)))))
            }
            "raise_exception" => {
                let [message] = args.exactly(name, ["message"])?;
                Err(Fault::new(printed(&mut self.heap, &message)?))
            }
            _ => {
                let [format] = args.exactly(name, ["format"])?;
                let format = expect_text(name, &format)?;
                self.heap.take(format.len().saturating_mul(32))?;
                let text = self.date.map(|date| date.format(format)).unwrap_or_default();
                self.heap.text(text)
            }
        }
    }

    fn call_macro(&mut self, closure: &Closure, args: Args) -> Result<Value, Fault> {
        let of = &self.tree.macros[closure.place];
        let scope = self.enter(closure.scope)?;
        let Args { list, mut named } = args;
        self.heap.steps(of.parameters.len().saturating_mul(named.len()))?;
        let given = list.len();
        let mut list = list.into_iter();
        let mut takes_caller = false;
        for (symbol, default) in &of.parameters {
            let name = &self.tree.names[*symbol];
            takes_caller |= &**name == SPECIAL[0];
            let by_name = named.iter().position(|(argument, _)| argument == name);
            let value = match (list.next(), by_name, default) {
                (Some(value), ..) => value,
                (None, Some(at), _) => named.remove(at).1,
                (None, None, Some(default)) => self.eval(default)?,
                (None, None, None) => Value::Undefined(Missing::Name(name.clone())),
            };
            self.assign(*symbol, value)?;
        }
        let rest: Vec<Value> = list.collect();
        let declares = |special: &str| of.parameters.iter().any(|(symbol, _)| &*self.tree.names[*symbol] == special);
        let [caller, kwargs, varargs] = [0, 1, 2].map(|i| of.uses[i] && !declares(SPECIAL[i]));
        if caller && !takes_caller {
            let by_name = named.iter().position(|(argument, _)| &**argument == SPECIAL[0]);
            let missing = Value::Undefined(Missing::Other("No caller defined"));
            let value = by_name.map_or(missing, |at| named.remove(at).1);
            self.assign_special(0, value)?;
        }
        if kwargs {
            let entries = named.drain(..).map(|(name, value)| (Value::literal(&name), value)).collect();
            let value = self.heap.dict(entries)?;
            self.assign_special(1, value)?;
        }
        if varargs {
            let value = self.heap.tuple(rest)?;
            self.assign_special(2, value)?;
        } else if !rest.is_empty() {
            let most = of.parameters.len();
            return Err(Fault::new(format!("macro '{}': {given} arguments, expected at most {most}", of.name)));
        }
        if let Some((name, _)) = named.first() {
            return Err(Fault::new(format!("macro '{}' takes no keyword argument '{name}'", of.name)));
        }
        let mut out = String::new();
        self.body(&of.body, &mut out)?;
        self.leave(scope);
        self.heap.text(out)
    }

    fn call_loop(&mut self, of: &Loop, args: Args) -> Result<Value, Fault> {
        let Some(place) = of.recursive else {
            return Err(Fault::new("a loop without the word recursive cannot be called"));
        };
        let [over] = args.exactly("loop", ["iterable"])?;
        let mut out = String::new();
        let scope = self.enter(of.scope)?;
        self.run_loop(place, &over, of.depth0 + 1, &mut out)?;
        self.leave(scope);
        self.heap.text(out)
    }
}
