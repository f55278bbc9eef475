//! Filters that choose, order and group items.

use super::Fault;
use super::calls::Args;
use super::eval::Rendering;
use super::operators::{calculate, equal, items, order};
use super::strings::{expect_int, expect_text};
use super::value::{Heap, Kind, Missing, Value};
use super::{ast::Operator, attributes};

/// Returns the indices of values in ascending or descending order. Equal values keep their order.
pub(super) fn sorted(heap: &mut Heap, keys: &[Value], reverse: bool) -> Result<Vec<usize>, Fault> {
    heap.take(keys.len() * 4 * size_of::<usize>())?;
    let mut places: Vec<usize> = (0..keys.len()).collect();
    let mut merged = places.clone();
    // Merge sort with runs of doubling length. The standard library's sort cannot be stopped, and
    // may panic if the order is not total (NaN).
    let mut width = 1;
    while width < places.len() {
        for start in (0..places.len()).step_by(width.saturating_mul(2)) {
            let middle = (start + width).min(places.len());
            let end = middle.saturating_add(width).min(places.len());
            let (mut left, mut right) = (start, middle);
            for out in &mut merged[start..end] {
                let takes_right = left == middle
                    || right < end && {
                        let (a, b) = (&keys[places[left]], &keys[places[right]]);
                        let (a, b) = if reverse { (a, b) } else { (b, a) };
                        order(heap, a, b, "<")?.is_some_and(std::cmp::Ordering::is_lt)
                    };
                let from = if takes_right { &mut right } else { &mut left };
                *out = places[*from];
                *from += 1;
            }
        }
        std::mem::swap(&mut places, &mut merged);
        width = width.saturating_mul(2);
    }
    Ok(places)
}

/// Returns the parts of an attribute's path, `a.b.0`.
fn path(heap: &mut Heap, attribute: &Value) -> Result<Vec<Value>, Fault> {
    match attribute {
        Value::None => Ok(Vec::new()),
        Value::Text(text) => {
            let part = |part: &str| match part.parse::<i64>() {
                Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Value::Int(number.into())),
                _ => heap.text(part),
            };
            text.split('.').map(part).collect()
        }
        other => Ok(vec![other.clone()]),
    }
}

/// Returns the value at a path within a value.
fn at(heap: &mut Heap, value: &Value, path: &[Value], default: Option<&Value>) -> Result<Value, Fault> {
    let mut value = value.clone();
    for part in path {
        value = attributes::item(heap, &value, part)?;
        if let (Value::Undefined(_), Some(default)) = (&value, default) {
            value = default.clone();
        }
    }
    Ok(value)
}

/// Returns a string in lower case unless case matters; anything else unchanged.
fn key(heap: &mut Heap, value: Value, case_sensitive: bool) -> Result<Value, Fault> {
    match &value {
        Value::Text(text) if !case_sensitive => {
            heap.scan(text.len())?;
            heap.text_as(text, text.to_lowercase())
        }
        _ => Ok(value),
    }
}

/// Returns the key of each item.
fn keys(
    heap: &mut Heap,
    items: &[Value],
    attribute: &Value,
    case_sensitive: bool,
    default: Option<&Value>,
) -> Result<Vec<Value>, Fault> {
    let path = path(heap, attribute)?;
    let mut keys = Vec::new();
    for item in items {
        let value = at(heap, item, &path, default)?;
        keys.push(key(heap, value, case_sensitive)?);
    }
    Ok(keys)
}

fn flag(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.truth())
}

/// Runs `map(attribute=...)`; returns `None` if the call is `map` with a filter.
pub(super) fn map_attribute(heap: &mut Heap, value: &Value, args: &Args) -> Result<Option<Value>, Fault> {
    let named = |name: &str| args.named.iter().find(|(known, _)| &**known == name).map(|(_, value)| value);
    let Some(attribute) = named("attribute").filter(|_| args.list.is_empty()) else { return Ok(None) };
    if let Some((name, _)) = args.named.iter().find(|(name, _)| !matches!(&**name, "attribute" | "default")) {
        return Err(Fault::new(format!("map: unexpected argument {name}")));
    }
    let path = path(heap, attribute)?;
    let default = named("default").filter(|default| !matches!(default, Value::None));
    let mut mapped = Vec::new();
    for item in &items(heap, value)?.items {
        mapped.push(at(heap, item, &path, default)?);
    }
    heap.sequence(Kind::Generator, mapped).map(|items| Some(Value::Sequence(items)))
}

impl Rendering<'_> {
    /// Runs `map` with a filter.
    pub(super) fn map(&mut self, value: &Value, args: Args) -> Result<Value, Fault> {
        let mut args = args;
        // A false value of any type has no items.
        if !value.truth() {
            return self.heap.sequence(Kind::Generator, Vec::new()).map(Value::Sequence);
        }
        if let Some(mapped) = map_attribute(&mut self.heap, value, &args)? {
            return Ok(mapped);
        }
        if args.list.is_empty() {
            return Err(Fault::new("map: no filter"));
        }
        let name = args.list.remove(0);
        let name = expect_text("map", &name)?;
        let mut mapped = Vec::new();
        for item in &items(&mut self.heap, value)?.items {
            self.heap.steps(args.list.len() + args.named.len())?;
            mapped.push(self.filter(name, item.clone(), args.clone())?);
        }
        self.heap.sequence(Kind::Generator, mapped).map(Value::Sequence)
    }

    /// Runs `select`, `reject`, `selectattr`, `rejectattr`.
    pub(super) fn choose(&mut self, name: &str, value: &Value, args: Args) -> Result<Value, Fault> {
        let (wanted, of_attribute) = (name.starts_with("select"), name.ends_with("attr"));
        let mut args = args;
        if !value.truth() {
            return self.heap.sequence(Kind::Generator, Vec::new()).map(Value::Sequence);
        }
        let mut on = Vec::new();
        if of_attribute {
            if args.list.is_empty() {
                return Err(Fault::new(format!("{name}: no attribute")));
            }
            on = path(&mut self.heap, &args.list.remove(0))?;
        }
        let test = if args.list.is_empty() { None } else { Some(args.list.remove(0)) };
        let mut chosen = Vec::new();
        for item in &items(&mut self.heap, value)?.items {
            let asked = at(&mut self.heap, item, &on, None)?;
            let is = match &test {
                None => asked.truth(),
                Some(test) => {
                    self.heap.steps(args.list.len() + args.named.len())?;
                    self.test(expect_text(name, test)?, &asked, args.clone())?
                }
            };
            if is == wanted {
                chosen.push(item.clone());
            }
        }
        self.heap.sequence(Kind::Generator, chosen).map(Value::Sequence)
    }
}

/// Runs the filters of this file that need only their values.
pub(super) fn filter(heap: &mut Heap, name: &str, value: &Value, args: Args) -> Result<Value, Fault> {
    match name {
        "sort" => sort(heap, value, args),
        "dictsort" => dictsort(heap, value, args),
        "unique" => unique(heap, value, args),
        "groupby" => groupby(heap, value, args),
        "batch" => batch(heap, value, args),
        "slice" => slice(heap, value, args),
        "sum" => sum(heap, value, args),
        _ => extreme(heap, name, value, args),
    }
}

fn sort(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [reverse, case_sensitive, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case_sensitive = flag(case_sensitive);
    let of = items(heap, value)?;
    let attributes = match attribute.unwrap_or(Value::None) {
        Value::Text(text) if text.contains(',') => {
            text.split(',').map(|part| heap.text(part)).collect::<Result<Vec<_>, _>>()?
        }
        one => vec![one],
    };
    let mut columns = Vec::new();
    for attribute in &attributes {
        columns.push(keys(heap, &of.items, attribute, case_sensitive, None)?);
    }
    let keys = match &mut columns[..] {
        [keys] => std::mem::take(keys),
        columns => {
            let row = |row: usize| heap.tuple(columns.iter().map(|column| column[row].clone()).collect());
            (0..of.items.len()).map(row).collect::<Result<_, _>>()?
        }
    };
    let places = sorted(heap, &keys, flag(reverse))?;
    heap.list(places.into_iter().map(|place| of.items[place].clone()).collect())
}

fn dictsort(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = value else {
        return Err(Fault::new(format!("dictsort: a {}, expected a dict", value.type_name())));
    };
    let by_value = match by.as_ref().map(Value::as_text) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => return Err(Fault::new("dictsort: by is neither \"key\" nor \"value\"")),
    };
    let case_sensitive = flag(case_sensitive);
    let mut keys = Vec::new();
    for (name, value) in &dict.entries {
        keys.push(key(heap, if by_value { value } else { name }.clone(), case_sensitive)?);
    }
    let mut pairs = Vec::new();
    for place in sorted(heap, &keys, flag(reverse))? {
        let (name, value) = &dict.entries[place];
        pairs.push(heap.tuple(vec![name.clone(), value.clone()])?);
    }
    heap.list(pairs)
}

fn unique(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let of = items(heap, value)?;
    let keys = keys(heap, &of.items, &attribute.unwrap_or(Value::None), flag(case_sensitive), None)?;
    let (mut seen, mut chosen) = (Vec::<&Value>::new(), Vec::new());
    for (key, item) in keys.iter().zip(&of.items) {
        let mut is_new = true;
        for one in &seen {
            if equal(heap, one, key)? {
                is_new = false;
                break;
            }
        }
        if is_new {
            seen.push(key);
            chosen.push(item.clone());
        }
    }
    heap.sequence(Kind::Generator, chosen).map(Value::Sequence)
}

fn groupby(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [attribute, default, case_sensitive] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = attribute.ok_or_else(|| Fault::new("groupby: no attribute"))?;
    let default = default.filter(|default| !matches!(default, Value::None));
    let of = items(heap, value)?;
    let plain = keys(heap, &of.items, &attribute, true, default.as_ref())?;
    let keys = keys(heap, &of.items, &attribute, flag(case_sensitive), default.as_ref())?;
    let mut groups: Vec<(usize, Vec<Value>)> = Vec::new();
    for place in sorted(heap, &keys, false)? {
        let item = of.items[place].clone();
        match groups.last_mut() {
            Some((first, group)) if equal(heap, &keys[*first], &keys[place])? => group.push(item),
            _ => groups.push((place, vec![item])),
        }
    }
    let mut pairs = Vec::new();
    for (first, group) in groups {
        let group = heap.list(group)?;
        pairs.push(heap.tuple(vec![plain[first].clone(), group])?);
    }
    heap.list(pairs)
}

fn count(name: &str, value: Option<Value>) -> Result<usize, Fault> {
    let value = value.ok_or_else(|| Fault::new(format!("{name}: no count")))?;
    match usize::try_from(expect_int(name, &value)?) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Fault::new(format!("{name}: a count that is not positive"))),
    }
}

fn batch(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [size, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let size = count("batch", size)?;
    let of = items(heap, value)?;
    let mut rows = Vec::new();
    for row in of.items.chunks(size) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            heap.take(size.saturating_sub(row.len()).saturating_mul(size_of::<Value>()))?;
            row.resize(size, fill.clone());
        }
        rows.push(heap.list(row)?);
    }
    heap.sequence(Kind::Generator, rows).map(Value::Sequence)
}

fn slice(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let slices = count("slice", slices)?;
    let of = items(heap, value)?;
    let (each, extra) = (of.items.len() / slices, of.items.len() % slices);
    heap.take(slices.saturating_mul(size_of::<Value>()))?;
    let (mut columns, mut from) = (Vec::new(), 0);
    for slice in 0..slices {
        let len = each + usize::from(slice < extra);
        let mut column = of.items[from..from + len].to_vec();
        from += len;
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None) && slice >= extra) {
            column.push(fill.clone());
        }
        columns.push(heap.list(column)?);
    }
    heap.sequence(Kind::Generator, columns).map(Value::Sequence)
}

fn sum(heap: &mut Heap, value: &Value, args: Args) -> Result<Value, Fault> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let of = items(heap, value)?;
    let values = keys(heap, &of.items, &attribute.unwrap_or(Value::None), true, None)?;
    let mut sum = start.unwrap_or(Value::Int(0));
    if sum.as_text().is_some() {
        return Err(Fault::new("sum: strings cannot be summed, see join"));
    }
    for value in &values {
        sum = calculate(heap, Operator::Add, &sum, value)?;
    }
    Ok(sum)
}

/// Runs `min` and `max`.
fn extreme(heap: &mut Heap, name: &str, value: &Value, args: Args) -> Result<Value, Fault> {
    let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let of = items(heap, value)?;
    let keys = keys(heap, &of.items, &attribute.unwrap_or(Value::None), flag(case_sensitive), None)?;
    let mut best = 0;
    for (i, key) in keys.iter().enumerate().skip(1) {
        let (a, b) = if name == "min" { (key, &keys[best]) } else { (&keys[best], key) };
        if order(heap, a, b, "<")?.is_some_and(std::cmp::Ordering::is_lt) {
            best = i;
        }
    }
    let empty = || Value::Undefined(Missing::Other("No aggregated item, sequence was empty."));
    Ok(of.items.get(best).cloned().unwrap_or_else(empty))
}
