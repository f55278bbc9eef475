//! Parses the header of one file.
//!
//! Every count and length is compared with the bytes that are left before anything is allocated.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::io::{self, Read};
use std::ops::Range;

use super::element::ElementType;
use super::value::{Array, Value};
use crate::error::{FileError, FileErrorKind};
use crate::recognize::{BEGINNING, by_beginning};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Most bytes of a header: ten times the largest known. As values it takes up to some ten times as
/// many.
const MAX_HEADER: u64 = 128 << 20;

/// Most bytes of a key, and of a tensor's name.
const MAX_KEY: u64 = 65535;
const MAX_NAME: u64 = 64;

/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;

/// Most lists within each other.
const MAX_NESTING: usize = 4;

/// The alignment of a file that gives none, and those permitted.
const ALIGNMENT: usize = 32;
const ALIGNMENTS: Range<usize> = 8..65537;
const ALIGNMENT_KEY: &str = "general.alignment";

/// Least bytes of a key with its value, and of a tensor's description.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;

/// A tensor of one file.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) element_type: ElementType,
    pub(super) range: Range<u64>,
}

/// The header of one file, its tensors in the order of their data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Info>,
}

/// Why a header could not be parsed.
pub(super) enum Fault {
    Io(io::Error),
    File(FileError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

fn bad(message: impl Display) -> FileError {
    FileError::new(FileErrorKind::NotGguf, format!("not a whole GGUF file: {message}"))
}

/// The unread rest of a file.
struct Rest<R> {
    from: R,
    at: u64,
    file_bytes: u64,
}

/// Parses the header of a file of `file_bytes`, which `from` reads from its beginning.
pub(super) fn header(from: impl Read, file_bytes: u64) -> Result<Header, Fault> {
    let mut rest = Rest { from, at: 0, file_bytes };
    let version = rest.version()?;
    let tensors = rest.number("the number of tensors")?;
    let entries = rest.number("the number of keys")?;
    let values = rest.values(entries)?;
    let alignment = alignment(&values)?;
    let tensors = rest.tensors(tensors)?;
    let start = rest.at.next_multiple_of(alignment as u64);
    let tensors = place(tensors, alignment as u64, start, file_bytes)?;
    Ok(Header { version, values, tensors })
}

impl<R: Read> Rest<R> {
    /// Checks that there are this many more bytes.
    fn need(&self, bytes: u64, what: impl Display) -> Result<(), FileError> {
        let left = self.file_bytes - self.at;
        if bytes > left {
            let missing = bytes - left;
            let at = self.at;
            return Err(bad(format!("{what} takes {bytes} bytes from byte {at} on: {missing} bytes are missing")));
        }
        if bytes > MAX_HEADER.saturating_sub(self.at) {
            let message = format!("its header exceeds {MAX_HEADER} bytes in {what}");
            return Err(FileError::new(FileErrorKind::TooLong, message));
        }
        Ok(())
    }

    /// Checks that there is room for `count` things of at least this many bytes, and returns the
    /// count.
    fn room(&self, count: u64, least: u64, what: impl Display) -> Result<usize, FileError> {
        self.need(count.saturating_mul(least), what)?;
        Ok(usize::try_from(count).expect("at most the length of a header"))
    }

    fn bytes<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], Fault> {
        self.need(N as u64, what)?;
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn number(&mut self, what: impl Display) -> Result<u64, Fault> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn short(&mut self, what: impl Display) -> Result<u32, Fault> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    /// Reads a text of at most `most` bytes.
    fn text(&mut self, most: u64, what: impl Display) -> Result<String, Fault> {
        let len = self.number(format_args!("the length of {what}"))?;
        if len > most {
            return Err(bad(format!("{what} of {len} bytes, expected at most {most}")).into());
        }
        let len = self.room(len, 1, &what)?;
        let mut text = vec![0; len];
        self.from.read_exact(&mut text)?;
        self.at += len as u64;
        Ok(String::from_utf8(text).map_err(|error| bad(format!("{what}: {}", error.utf8_error())))?)
    }

    /// Reads a text that must not be empty or hold a zero byte.
    fn name(&mut self, most: u64, what: impl Display) -> Result<String, Fault> {
        let name = self.text(most, &what)?;
        if name.is_empty() || name.contains('\0') {
            return Err(bad(format!("{what} is {name:?}, expected a name")).into());
        }
        Ok(name)
    }

    /// Reads the magic number and the version.
    fn version(&mut self) -> Result<u32, Fault> {
        let mut beginning = vec![0; self.file_bytes.min(8) as usize];
        self.from.read_exact(&mut beginning)?;
        self.at = beginning.len() as u64;
        if beginning.len() < 8 && MAGIC.starts_with(&beginning[..beginning.len().min(4)]) {
            let missing = 8 - beginning.len();
            return Err(bad(format!("magic number and version take 8 bytes: {missing} bytes are missing")).into());
        }
        let Some(version) = beginning.strip_prefix(&MAGIC) else {
            (&mut self.from).take((BEGINNING - beginning.len()) as u64).read_to_end(&mut beginning)?;
            let start = &beginning[..beginning.len().min(4)];
            return Err(by_beginning(&beginning)
                .unwrap_or_else(|| bad(format!("begins with \"{}\", expected \"GGUF\"", start.escape_ascii())))
                .into());
        };
        let version = u32::from_le_bytes(version.try_into().expect("four bytes"));
        let foreign = |message: &str| Err(FileError::new(FileErrorKind::Foreign, message).into());
        match version {
            2 | 3 => Ok(version),
            1 => foreign("version 1 of GGUF, which is not read: convert the original checkpoint again"),
            _ if (1..=3).contains(&version.swap_bytes()) => {
                foreign("a big-endian GGUF file, which is not read: convert the original checkpoint again")
            }
            0 => Err(bad("version 0, expected 2 or 3").into()),
            later => {
                let message = format!("version {later} of GGUF, expected 2 or 3");
                Err(FileError::new(FileErrorKind::Version, message).into())
            }
        }
    }

    /// Reads the keys and values.
    fn values(&mut self, count: u64) -> Result<BTreeMap<String, Value>, Fault> {
        self.need(count.saturating_mul(LEAST_ENTRY), format_args!("metadata of {count} keys"))?;
        let mut values = BTreeMap::new();
        for i in 1..=count {
            let key = self.name(MAX_KEY, format_args!("key {i} of {count}"))?;
            let what = Shown(&key);
            let number = self.short(format_args!("the type of {what}"))?;
            let value = match scalar(number).ok_or_else(|| unknown_type(number, &what))? {
                Scalar::Array => Value::Array(self.array(1, &what)?),
                Scalar::Text => Value::Text(self.text(MAX_HEADER, &what)?),
                Scalar::Bool => Value::Bool(self.flag(&what)?),
                Scalar::Float(width) => Value::Float(self.float(width, &what)?),
                Scalar::Unsigned(width) => Value::Unsigned(self.integer(width, false, &what)? as u64),
                Scalar::Signed(width) => Value::Signed(self.integer(width, true, &what)? as i64),
            };
            if values.insert(key.clone(), value).is_some() {
                return Err(bad(format!("{} is there twice", Shown(&key))).into());
            }
        }
        Ok(values)
    }

    /// Reads an integer of this many bytes.
    fn integer(&mut self, width: usize, signed: bool, what: impl Display) -> Result<i128, Fault> {
        Ok(match (width, signed) {
            (1, false) => u8::from_le_bytes(self.bytes(what)?).into(),
            (1, true) => i8::from_le_bytes(self.bytes(what)?).into(),
            (2, false) => u16::from_le_bytes(self.bytes(what)?).into(),
            (2, true) => i16::from_le_bytes(self.bytes(what)?).into(),
            (4, false) => u32::from_le_bytes(self.bytes(what)?).into(),
            (4, true) => i32::from_le_bytes(self.bytes(what)?).into(),
            (_, false) => u64::from_le_bytes(self.bytes(what)?).into(),
            (_, true) => i64::from_le_bytes(self.bytes(what)?).into(),
        })
    }

    fn float(&mut self, width: usize, what: impl Display) -> Result<f64, Fault> {
        match width {
            4 => self.bytes(what).map(|bytes| f32::from_le_bytes(bytes).into()),
            _ => self.bytes(what).map(f64::from_le_bytes),
        }
    }

    fn flag(&mut self, what: impl Display) -> Result<bool, Fault> {
        match self.bytes(&what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(bad(format!("{what} is {byte}, expected 0 or 1 for false or true")).into()),
        }
    }

    /// Reads a list, which is the `depth`th that it is within, itself included.
    fn array(&mut self, depth: usize, what: &dyn Display) -> Result<Array, Fault> {
        let number = self.short(format_args!("the type of the list {what}"))?;
        let count = self.number(format_args!("the length of the list {what}"))?;
        let scalar = scalar(number).ok_or_else(|| unknown_type(number, what))?;
        let room = self.room(count, scalar.least_bytes(), format_args!("the list {what} of {count}"))?;
        // Lists of an exact size: a vector that grows would hold the old and the new one.
        Ok(match scalar {
            Scalar::Bool => Array::Bools(self.list(room, |rest| rest.flag(what))?),
            Scalar::Float(width) => Array::Floats(self.list(room, |rest| Ok(rest.float(width, what)? as f32))?),
            Scalar::Text => {
                Array::Texts(self.list(room, |rest| rest.text(MAX_HEADER, format_args!("a text of {what}")))?)
            }
            Scalar::Unsigned(width) => Array::Integers(self.list(room, |rest| {
                let found = rest.integer(width, false, what)?;
                let refuse = |_| bad(format!("{what} holds {found}, expected at most {}", i64::MAX));
                Ok(i64::try_from(found).map_err(refuse)?)
            })?),
            Scalar::Signed(width) => {
                Array::Integers(self.list(room, |rest| Ok(rest.integer(width, true, what)? as i64))?)
            }
            Scalar::Array if depth == MAX_NESTING => {
                return Err(bad(format!("{what} has more than {MAX_NESTING} lists within each other")).into());
            }
            Scalar::Array => Array::Arrays(self.list(room, |rest| rest.array(depth + 1, what))?),
        })
    }

    fn list<T>(&mut self, count: usize, mut read: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// Reads the descriptions of the tensors; their ranges are those of the data.
    fn tensors(&mut self, count: u64) -> Result<Vec<Described>, Fault> {
        let room = self.room(count, LEAST_TENSOR, format_args!("the description of {count} tensors"))?;
        let mut i = 0;
        self.list(room, |rest| {
            i += 1;
            let name = rest.name(MAX_NAME, format_args!("the name of tensor {i} of {count}"))?;
            let what = |part: &'static str| format!("the {part} of tensor {i} of {count}");
            let dimensions = rest.short(what("dimensions"))?;
            if dimensions > MAX_DIMENSIONS {
                return Err(
                    bad_tensor(&name, format!("{dimensions} dimensions, expected at most {MAX_DIMENSIONS}")).into()
                );
            }
            let mut shape = Vec::with_capacity(dimensions as usize);
            for _ in 0..dimensions {
                shape.push(rest.number(what("dimensions"))?);
            }
            // The length of a row comes first.
            shape.reverse();
            let element_type = rest.short(what("type"))?;
            let offset = rest.number(what("offset"))?;
            Ok(Described { name, shape, element_type, offset })
        })
    }
}

/// A tensor as the file describes it.
struct Described {
    name: String,
    shape: Vec<u64>,
    element_type: u32,
    offset: u64,
}

fn bad_tensor(name: &str, message: String) -> FileError {
    FileError { kind: FileErrorKind::NotGguf, ..FileError::tensor(name, message) }
}

/// Checks that the tensors follow each other, each aligned, from `start` on, and that the file
/// holds them all.
fn place(described: Vec<Described>, alignment: u64, start: u64, file_bytes: u64) -> Result<Vec<Info>, FileError> {
    let mut placed = Vec::with_capacity(described.len());
    for Described { name, shape, element_type, offset } in described {
        let (info, bytes) = info(name, &shape, element_type)?;
        if !offset.is_multiple_of(alignment) {
            let message = format!("begins at byte {offset} of the data, expected a multiple of {alignment}");
            return Err(bad_tensor(&info.name, message));
        }
        placed.push((offset, bytes, info));
    }
    placed.sort_by_key(|(offset, ..)| *offset);

    let mut at = 0;
    let mut tensors: Vec<Info> = Vec::with_capacity(placed.len());
    for (offset, bytes, info) in placed {
        let refuse = |message: String| Err(bad_tensor(&info.name, message));
        if offset != at {
            let before = tensors.last().map_or("the beginning".into(), |before| Shown(&before.name).to_string());
            let what = if offset < at { "within" } else { "not next to" };
            return refuse(format!("begins at byte {offset} of the data, {what} {before}, expected {at}"));
        }
        let end = at.checked_add(bytes).filter(|end| end.checked_next_multiple_of(alignment).is_some());
        let Some(end) = end.filter(|end| start.checked_add(*end).is_some()) else {
            return refuse(format!(
                "{bytes} bytes from byte {offset} of the data on, which is more than a file can hold"
            ));
        };
        tensors.push(Info { range: start + at..start + end, ..info });
        at = end.next_multiple_of(alignment);
    }

    let end = tensors.last().map_or(0, |info| info.range.end);
    if let Some(missing) = end.checked_sub(file_bytes).filter(|missing| *missing > 0) {
        let info = tensors.iter().find(|info| info.range.end > file_bytes).expect("the last one");
        let Range { start, end } = info.range;
        let message = format!(
            "bytes {start}..{end} of the file, which has {file_bytes}: {missing} bytes are missing: download it again"
        );
        return Err(bad_tensor(&info.name, message));
    }
    let mut names = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|info| !names.insert(&info.name)) {
        Some(info) => Err(bad_tensor(&info.name, "there twice".into())),
        None => Ok(tensors),
    }
}

/// Checks type and shape of a tensor. Also returns its bytes.
fn info(name: String, shape: &[u64], element_type: u32) -> Result<(Info, u64), FileError> {
    let unread = |error: super::UnreadType| FileError { kind: error.kind(), ..bad_tensor(&name, error.to_string()) };
    let element_type = ElementType::from_ggml(element_type).map_err(unread)?;
    let bad = |expected: &str| bad_tensor(&name, format!("{element_type} {shape:?}, expected {expected}"));
    let sizes: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    let sizes = sizes.ok_or_else(|| bad("dimensions of a representable size"))?;
    if sizes.contains(&0) {
        return Err(bad("no dimension to be empty"));
    }
    let (cols, outer) = sizes.split_last().map_or((1, &[][..]), |(cols, outer)| (*cols, outer));
    if !cols.is_multiple_of(element_type.block_len()) {
        return Err(bad(&format!("rows of whole blocks of {}", element_type.block_len())));
    }
    // Also the number of elements must be representable, not only that of bytes.
    let times = |product: usize, size: &usize| product.checked_mul(*size);
    let elements = outer.iter().try_fold(cols, times);
    let bytes = element_type.row_bytes(cols).and_then(|row| outer.iter().try_fold(row, times));
    match (elements, bytes) {
        (Some(_), Some(bytes)) => Ok((Info { name, shape: sizes, element_type, range: 0..0 }, bytes as u64)),
        _ => Err(bad("a representable size")),
    }
}

/// Returns the alignment of the data.
fn alignment(values: &BTreeMap<String, Value>) -> Result<usize, FileError> {
    let Some(value) = values.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT) };
    let alignment = match *value {
        Value::Unsigned(number) => usize::try_from(number).ok(),
        Value::Signed(number) => usize::try_from(number).ok(),
        _ => None,
    };
    alignment.filter(|alignment| alignment.is_power_of_two() && ALIGNMENTS.contains(alignment)).ok_or_else(|| {
        let (first, last) = (ALIGNMENTS.start, ALIGNMENTS.end - 1);
        bad(format!("\"{ALIGNMENT_KEY}\": {value}, expected a power of two from {first} to {last}"))
    })
}

/// A quoted name in a message.
struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "\"{}…\"", &self.0[..end]),
            None => write!(f, "\"{}\"", self.0),
        }
    }
}

/// The type of a value, with its width in bytes.
#[derive(Clone, Copy)]
enum Scalar {
    Unsigned(usize),
    Signed(usize),
    Float(usize),
    Bool,
    Text,
    Array,
}

impl Scalar {
    fn least_bytes(self) -> u64 {
        match self {
            Self::Unsigned(width) | Self::Signed(width) | Self::Float(width) => width as u64,
            Self::Bool => 1,
            Self::Text => 8,
            Self::Array => 12,
        }
    }
}

/// Returns the type with this number.
fn scalar(number: u32) -> Option<Scalar> {
    Some(match number {
        0 => Scalar::Unsigned(1),
        1 => Scalar::Signed(1),
        2 => Scalar::Unsigned(2),
        3 => Scalar::Signed(2),
        4 => Scalar::Unsigned(4),
        5 => Scalar::Signed(4),
        6 => Scalar::Float(4),
        7 => Scalar::Bool,
        8 => Scalar::Text,
        9 => Scalar::Array,
        10 => Scalar::Unsigned(8),
        11 => Scalar::Signed(8),
        12 => Scalar::Float(8),
        _ => return None,
    })
}

fn unknown_type(number: u32, what: impl Display) -> FileError {
    bad(format!("{what} has values of type {number}, expected one from 0 to 12"))
}
