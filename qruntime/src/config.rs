//! Reads `config.json` and similar files. They are untrusted: every value is checked before it is
//! used, and errors name the file, the field, what was found and what was expected.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, FileError, FileErrorKind};
use crate::files::MAX_CONFIG;
use crate::json;

/// The permitted numbers of tokens or positions: far beyond any network, and small enough that
/// `f32` represents every position.
pub(crate) const SIZES: RangeInclusive<usize> = 1..=1 << 24;

/// The permitted numbers of elements of a row: far beyond any network, and small enough that some
/// hundred rows fit in memory.
pub(crate) const WIDTHS: RangeInclusive<usize> = 1..=1 << 18;

/// Most layers of a network. Each needs tensors, but a list of layers is made before the tensors
/// are looked up.
pub(crate) const LAYERS: usize = 4096;

/// Most names in a list of [`Config::some_of`]: each may make a row of results longer.
const MAX_NAMES: usize = 16;

/// A JSON object, and the file that it is from.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    path: PathBuf,
    /// The prefix of field names in messages.
    scope: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Takes an object, and the file that it is from.
    pub(crate) fn new(path: PathBuf, fields: Map<String, Value>) -> Self {
        Self { path, scope: String::new(), fields }
    }

    /// Parses the bytes of `config.json`.
    pub(crate) fn from_bytes(text: &[u8]) -> Result<Self, Error> {
        let path = Path::new("config.json");
        let refuse = |kind, message: String| FileError::new(kind, message).in_file(path);
        if text.len() > MAX_CONFIG {
            let message = format!("{} bytes, expected at most {MAX_CONFIG}", text.len());
            return Err(refuse(FileErrorKind::TooLong, message).into());
        }
        let bad = |error| refuse(FileErrorKind::Json, format!("not the JSON that is expected here: {error}"));
        let fields = json::parse(text).map_err(bad)?;
        Ok(Self { path: path.into(), scope: String::new(), fields })
    }

    /// Returns a field, unless it is null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Returns whether a field exists and is not null.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// Makes the error of a field.
    pub(crate) fn refuse(&self, field: &str, found: impl Display, expected: impl Display) -> Error {
        FileError::field(&format!("{}{field}", self.scope), found, expected).in_file(&self.path).into()
    }

    fn missing(&self, field: &str, expected: impl Display) -> Error {
        self.refuse(field, "missing", expected)
    }

    /// Reads a field that may be missing. `read` converts the value, and `expected` describes it.
    fn optional<'a, T>(
        &'a self,
        field: &str,
        expected: impl Display,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.refuse(field, shown(value), expected)),
        }
    }

    /// Reads an integer within a range.
    pub(crate) fn size(&self, field: &str, range: RangeInclusive<usize>) -> Result<usize, Error> {
        self.size_if(field, range.clone())?.ok_or_else(|| self.missing(field, whole(&range)))
    }

    /// Reads an integer within a range, if the field exists.
    pub(crate) fn size_if(&self, field: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        self.optional(field, whole(&range), |value| {
            let size = value.as_u64().and_then(|n| usize::try_from(n).ok())?;
            range.contains(&size).then_some(size)
        })
    }

    /// Reads a number within a range.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<f64>) -> Result<f64, Error> {
        self.number_if(field, range.clone())?.ok_or_else(|| self.missing(field, real(&range)))
    }

    /// Reads a number within a range, if the field exists.
    pub(crate) fn number_if(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        self.optional(field, real(&range), |value| value.as_f64().filter(|number| range.contains(number)))
    }

    /// Reads a boolean, if the field exists.
    pub(crate) fn flag_if(&self, field: &str) -> Result<Option<bool>, Error> {
        self.optional(field, "true or false", Value::as_bool)
    }

    /// Reads a string, if the field exists.
    pub(crate) fn text_if(&self, field: &str) -> Result<Option<&str>, Error> {
        self.optional(field, "text", Value::as_str)
    }

    /// Reads the first of a list of strings, if the field exists.
    pub(crate) fn first_text(&self, field: &str) -> Result<Option<String>, Error> {
        let list = self.optional(field, "a list of texts", Value::as_array)?;
        Ok(list.and_then(|list| list.first()).and_then(Value::as_str).map(str::to_owned))
    }

    /// Returns the same object with a family's defaults for missing fields. Null stays null.
    pub(crate) fn with_defaults(&self, defaults: Value) -> Self {
        let mut config = self.clone();
        for (field, value) in defaults.as_object().into_iter().flatten() {
            config.fields.entry(field.clone()).or_insert_with(|| value.clone());
        }
        config
    }

    /// Returns the same object with `to` where a field of a section says `from`.
    pub(crate) fn with_renamed(&self, section: &str, field: &str, from: &str, to: &str) -> Self {
        let mut config = self.clone();
        if let Some(value) = config.fields.get_mut(section).and_then(|section| section.get_mut(field))
            && value == from
        {
            *value = to.into();
        }
        config
    }

    /// Returns the same object with the fields of `other` added or replaced.
    pub(crate) fn overlaid(&self, other: &Self) -> Self {
        let mut config = self.clone();
        config.fields.extend(other.fields.clone());
        config
    }

    /// Returns whether there are no fields.
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns the names of the fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Looks up a name in a table, if the field exists.
    pub(crate) fn one_of<T: Copy>(&self, field: &str, table: &[(&str, T)]) -> Result<Option<T>, Error> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        self.optional(field, names.join(", "), |value| {
            let text = value.as_str()?;
            table.iter().find(|(name, _)| *name == text).map(|(_, meaning)| *meaning)
        })
    }

    /// Looks up a name or a list of names in a table; there must be at least one.
    pub(crate) fn some_of<T: Copy>(&self, field: &str, table: &[(&str, T)]) -> Result<Vec<T>, Error> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        let expected = format!("{}, or a list of such", names.join(", "));
        let meaning = |value: &Value| table.iter().find(|(name, _)| value == name).map(|(_, meaning)| *meaning);
        let found = self.optional(field, &expected, |value| match value {
            Value::Array(list) => (1..=MAX_NAMES).contains(&list.len()).then(|| list.iter().map(meaning).collect())?,
            value => meaning(value).map(|meaning| vec![meaning]),
        });
        found?.ok_or_else(|| self.missing(field, expected))
    }

    /// Looks up a list of `count` names in a table, if the field exists.
    pub(crate) fn each_of<T: Copy>(
        &self,
        field: &str,
        count: usize,
        table: &[(&str, T)],
    ) -> Result<Option<Vec<T>>, Error> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        self.optional(field, format!("{count} of: {}", names.join(", ")), |value| {
            let list = value.as_array().filter(|list| list.len() == count)?;
            let meaning = |value: &Value| table.iter().find(|(name, _)| value == name).map(|(_, meaning)| *meaning);
            list.iter().map(meaning).collect()
        })
    }

    /// Reads a list of `count` numbers within a range.
    pub(crate) fn numbers(&self, field: &str, count: usize, range: RangeInclusive<f64>) -> Result<Vec<f64>, Error> {
        let expected = format!("{count} numbers from {} to {}", range.start(), range.end());
        let numbers = self.optional(field, &expected, |value| {
            let list = value.as_array().filter(|list| list.len() == count)?;
            list.iter().map(|value| value.as_f64().filter(|number| range.contains(number))).collect()
        });
        numbers?.ok_or_else(|| self.missing(field, expected))
    }

    /// Reads an integer or a list of at most [`LAYERS`] integers; the list is empty if the field is
    /// missing.
    pub(crate) fn sizes(&self, field: &str, range: RangeInclusive<usize>) -> Result<Vec<usize>, Error> {
        let size =
            |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|size| range.contains(size));
        let sizes =
            self.optional(
                field,
                format!("{}, or a list of at most {LAYERS} such", whole(&range)),
                |value| match value {
                    Value::Array(list) => list.iter().map(size).collect::<Option<_>>().filter(|_| list.len() <= LAYERS),
                    value => size(value).map(|size| vec![size]),
                },
            );
        Ok(sizes?.unwrap_or_default())
    }

    /// Reads tokens: an integer or a list of at most [`LAYERS`] integers. Those outside the range
    /// are left out: `-1` means "none" in some files.
    pub(crate) fn tokens(&self, field: &str, range: RangeInclusive<usize>) -> Result<Vec<usize>, Error> {
        let token = |value: &Value| match value.as_i64() {
            Some(token) => Some(usize::try_from(token).ok().filter(|token| range.contains(token))),
            None => value.as_u64().map(|_| None),
        };
        let expected = format!("a whole number, or a list of at most {LAYERS} such");
        let tokens = self.optional(field, expected, |value| match value {
            Value::Array(list) => list.iter().map(token).collect::<Option<Vec<_>>>().filter(|_| list.len() <= LAYERS),
            value => token(value).map(|token| vec![token]),
        });
        Ok(tokens?.into_iter().flatten().flatten().collect())
    }

    /// Reads an object within this one.
    pub(crate) fn section(&self, field: &str) -> Result<Self, Error> {
        self.section_if(field)?.ok_or_else(|| self.missing(field, "an object"))
    }

    /// Reads an object within this one, if the field exists.
    pub(crate) fn section_if(&self, field: &str) -> Result<Option<Self>, Error> {
        let fields = self.optional(field, "an object", Value::as_object)?;
        let scope = format!("{}{field}.", self.scope);
        Ok(fields.map(|fields| Self { path: self.path.clone(), scope, fields: fields.clone() }))
    }
}

fn whole(range: &RangeInclusive<usize>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn real(range: &RangeInclusive<f64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

/// Formats a value for a message, abbreviated if it is long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
        value => {
            let text = value.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
