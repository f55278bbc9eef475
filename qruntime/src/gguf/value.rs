//! The metadata of a GGUF file: keys with values, and readers that check a value's type.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::error::FileError;

/// A value of the metadata. The widths of numbers are not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A number of 32 or 64 bits.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    Array(Array),
}

/// A list of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Integers of any width, all within the range of `i64`.
    Integers(Vec<i64>),
    /// Numbers; those of 64 bits are rounded.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
    /// Lists, each of its own type.
    Arrays(Vec<Self>),
}

impl Array {
    /// Returns the number of values; a list within the list counts as one.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Integers(list) => list.len(),
            Self::Floats(list) => list.len(),
            Self::Bools(list) => list.len(),
            Self::Texts(list) => list.len(),
            Self::Arrays(list) => list.len(),
        }
    }

    /// Returns whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names the type of the values, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Integers(_) => "integers",
            Self::Floats(_) => "numbers",
            Self::Bools(_) => "truth values",
            Self::Texts(_) => "texts",
            Self::Arrays(_) => "lists",
        }
    }
}

/// Shows a value in a message, abbreviated if it is long.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 40;
        match self {
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Bool(flag) => flag.fmt(f),
            Self::Text(text) => match text.char_indices().nth(LONGEST) {
                Some((end, _)) => write!(f, "{:?}…", &text[..end]),
                None => write!(f, "{text:?}"),
            },
            Self::Array(array) => write!(f, "a list of {} {}", array.len(), array.kind()),
        }
    }
}

/// The metadata of a GGUF file, sorted by key.
///
/// The readers return `None` where a key is missing. Their errors name the file, the key, what was
/// found and what was expected.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
    /// The file, for messages; `None` if it was in memory.
    path: Option<PathBuf>,
}

const ARCHITECTURE: &str = "general.architecture";

impl Metadata {
    pub(super) fn new(values: BTreeMap<String, Value>) -> Self {
        Self { values, path: None }
    }

    pub(super) fn in_file(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Returns all keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Makes the error of a key.
    pub(crate) fn refuse(&self, key: &str, found: impl Display, expected: impl Display) -> FileError {
        let error = FileError::field(key, found, expected);
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }

    /// Reads a value. `read` converts it, and `expected` describes it.
    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: impl Display,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.refuse(key, value, expected)),
        }
    }

    /// Returns the name of the architecture, `general.architecture`.
    ///
    /// # Errors
    /// If it is missing, empty or no text.
    pub fn architecture(&self) -> Result<&str, FileError> {
        const EXPECTED: &str = "the name of an architecture";
        match self.text(ARCHITECTURE)? {
            Some("") => Err(self.refuse(ARCHITECTURE, "\"\"", EXPECTED)),
            Some(name) => Ok(name),
            None => Err(self.refuse(ARCHITECTURE, "missing", EXPECTED)),
        }
    }

    /// Returns the key of this architecture that ends with `suffix`: `llama.block_count` for
    /// `block_count`.
    ///
    /// # Errors
    /// Those of [`architecture`](Self::architecture).
    pub fn key(&self, suffix: &str) -> Result<String, FileError> {
        Ok(format!("{}.{suffix}", self.architecture()?))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>, FileError> {
        self.optional(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Reads an integer within a range.
    ///
    /// # Errors
    /// If the value is of another type, or not in the range.
    pub fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, FileError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.optional(key, expected, |value| size(value).filter(|size| range.contains(size)))
    }

    /// Reads a number, which may be an integer.
    ///
    /// # Errors
    /// If the value is of another type, or not finite.
    pub fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        self.optional(key, "a finite number", |value| match *value {
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            Value::Unsigned(number) => Some(number as f64),
            Value::Signed(number) => Some(number as f64),
            _ => None,
        })
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.optional(key, "true or false", |value| match *value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, FileError> {
        self.optional(key, "a list of texts", |value| match value {
            Value::Array(Array::Texts(list)) => Some(list.as_slice()),
            Value::Array(list) if list.is_empty() => Some(&[][..]),
            _ => None,
        })
    }

    /// Reads a list of integers, or a single one as a list. None may be negative.
    ///
    /// # Errors
    /// If the value is of another type, or an integer is negative.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, FileError> {
        self.optional(key, "integers from 0", |value| match value {
            Value::Array(Array::Integers(list)) => list.iter().map(|&number| usize::try_from(number).ok()).collect(),
            Value::Array(list) => list.is_empty().then(Vec::new),
            value => size(value).map(|size| vec![size]),
        })
    }

    /// Reads a list of integers.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, FileError> {
        self.optional(key, "a list of integers", |value| match value {
            Value::Array(Array::Integers(list)) => Some(list.as_slice()),
            Value::Array(list) if list.is_empty() => Some(&[][..]),
            _ => None,
        })
    }

    /// Reads a list of numbers. They may be NaN or infinite.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, FileError> {
        self.optional(key, "a list of numbers", |value| match value {
            Value::Array(Array::Floats(list)) => Some(list.clone()),
            Value::Array(Array::Integers(list)) => Some(list.iter().map(|&number| number as f32).collect()),
            Value::Array(list) => list.is_empty().then(Vec::new),
            _ => None,
        })
    }

    /// Reads a list of truth values, or a single one as a list.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, FileError> {
        self.optional(key, "truth values", |value| match value {
            Value::Array(Array::Bools(list)) => Some(list.clone()),
            Value::Array(list) => list.is_empty().then(Vec::new),
            Value::Bool(flag) => Some(vec![*flag]),
            _ => None,
        })
    }
}

fn size(value: &Value) -> Option<usize> {
    match *value {
        Value::Unsigned(number) => usize::try_from(number).ok(),
        Value::Signed(number) => usize::try_from(number).ok(),
        _ => None,
    }
}
