//! Bytes of a file into a table of contents, every entry checked. Never panics, never allocates more than a few times the header.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use kernels::Format;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::write::{packed_bytes, plain_bytes};
use super::{ALIGNMENT, Description, KEY, LAYOUT, MAX_HEADER, MAX_RECIPE, METADATA, TensorDescription, VERSION};
use crate::error::{FileError, FileErrorKind};

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Packed blocks of a format.
    Packed(Format),
    /// Plain numbers, row-major.
    Plain(Dtype),
}

/// One tensor of a file.
///
/// Invariant: `range` is within the file. For a packed tensor it begins at a multiple of 64 and holds exactly the panels of
/// `shape`'s matrices; for a plain one exactly its numbers.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
    pub(crate) checksum: Option<u64>,
}

impl Entry {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the tensor is stored.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The logical shape; rows are outputs, columns inputs, and they come last.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes in the file, padding included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.range.len()
    }

    /// Numbers in the tensor, padding not included.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file's table of contents.
#[derive(Debug)]
pub(crate) struct Contents {
    /// In the order of the data.
    pub(crate) entries: Vec<Entry>,
    /// How the file was made, if it says so.
    pub(crate) recipe: serde_json::Value,
    /// Whether the file is one of ours, rather than any safetensors file.
    pub(crate) described: bool,
}

/// Reads the table of contents of a safetensors file, with or without packed tensors.
///
/// The header is read here, not by the crate `safetensors`: that one builds a tree of the whole text first, which takes up to fifty times its size, and
/// adds up the ends of tensors unchecked.
pub(crate) fn parse(file: &[u8]) -> Result<Contents, FileError> {
    let bad = |message: String| {
        FileError::new(FileErrorKind::NotSafetensors, format!("not a whole safetensors file: {message}"))
    };
    let (len, rest) = file.split_first_chunk().ok_or_else(|| bad("shorter than the length of its header".into()))?;
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    if len > MAX_HEADER {
        return Err(bad(format!("header of {len} bytes, expected at most {MAX_HEADER}")));
    }
    let (header, data) = rest
        .split_at_checked(len)
        .ok_or_else(|| bad(format!("header of {len} bytes, of which {} are there", rest.len())))?;
    let header = std::str::from_utf8(header).map_err(|e| bad(format!("header: {e}")))?;
    let Header { metadata, tensors } = serde_json::from_str(header).map_err(|e| bad(format!("header: {e}")))?;

    let mut entries = tile(tensors, file.len() - data.len(), data.len())?;
    let description = metadata.as_ref().and_then(|metadata| metadata.get(KEY));
    let recipe = match description {
        Some(description) => describe(&mut entries, description)?,
        None => serde_json::Value::Null,
    };
    Ok(Contents { entries, recipe, described: description.is_some() })
}

/// The header as it stands in the file. A tensor that is there twice is in the list twice.
#[derive(Default)]
struct Header {
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                header.tensors.push((name, map.next_value()?));
            } else if header.metadata.is_some() {
                return Err(A::Error::custom("metadata is there twice"));
            } else {
                header.metadata = map.next_value()?;
            }
        }
        Ok(header)
    }
}

/// Checks that the tensors follow each other without gap or overlap to the very end of the data, that their ranges agree with their shapes and
/// that no name is there twice. `data` is where in the file the data begins.
fn tile(mut tensors: Vec<(String, TensorInfo)>, data: usize, data_len: usize) -> Result<Vec<Entry>, FileError> {
    let kind = FileErrorKind::NotSafetensors;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut entries = Vec::with_capacity(tensors.len());
    let mut at = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in tensors {
        let bad = |message: String| FileError { kind, ..FileError::tensor(&name, message) };
        if start != at || end < start {
            return Err(bad(format!(
                "bytes {start}..{end} of the data, expected to begin at {at}, after the one before"
            )));
        }
        if plain_bytes(dtype, &shape) != Some(end - start) {
            return Err(bad(format!("{} bytes, expected those of {dtype} {shape:?}", end - start)));
        }
        at = end;
        // One that goes beyond the end makes `at` do so, too, and is refused below.
        if end <= data_len {
            let range = data + start..data + end;
            entries.push(Entry { name, storage: Storage::Plain(dtype), shape, range, checksum: None });
        }
    }
    if at != data_len {
        return Err(FileError::new(kind, format!("its tensors end at byte {at} of {data_len} bytes of data")));
    }
    let mut names = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !names.insert(&entry.name)) {
        Some(Entry { name, .. }) => Err(FileError { kind, ..FileError::tensor(name, "there twice") }),
        None => Ok(entries),
    }
}

/// Applies the description to the tensors it names. Returns the recipe.
fn describe(entries: &mut [Entry], description: &str) -> Result<serde_json::Value, FileError> {
    /// What every version of the description begins with, so that a later version is named as such and not as damage.
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }

    let bad = |message: String| FileError::new(FileErrorKind::Metadata, format!("metadata \"{KEY}\": {message}"));
    let Versioned { version } = serde_json::from_str(description).map_err(|e| bad(e.to_string()))?;
    if version != u64::from(VERSION) {
        let error = bad(format!("version {version} of the file format, expected {VERSION}"));
        let later = version > u64::from(VERSION);
        return Err(FileError { kind: if later { FileErrorKind::Version } else { FileErrorKind::Metadata }, ..error });
    }
    let Description { tensors, recipe, .. } = serde_json::from_str(description).map_err(|e| bad(e.to_string()))?;
    let recipe = recipe.as_deref().map_or("null", RawValue::get);
    if recipe.len() > MAX_RECIPE {
        return Err(bad(format!("recipe of {} bytes, expected at most {MAX_RECIPE}", recipe.len())));
    }
    let recipe = serde_json::from_str(recipe).map_err(|e| bad(format!("recipe: {e}")))?;

    let mut by_name: HashMap<String, &mut Entry> =
        entries.iter_mut().map(|entry| (entry.name.clone(), entry)).collect();
    for tensor in tensors {
        // Taken out, so that a second description of the same tensor finds none.
        let entry = by_name.remove(&tensor.name).ok_or_else(|| {
            FileError::tensor(&tensor.name, "described in the metadata, but not in the file, or described twice")
        })?;
        apply(entry, tensor)?;
    }
    Ok(recipe)
}

fn apply(entry: &mut Entry, tensor: TensorDescription) -> Result<(), FileError> {
    let bad = |message: String| FileError::tensor(&tensor.name, message);
    let digits = &tensor.xxh3;
    let plain_hex = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let checksum = u64::from_str_radix(digits, 16).ok().filter(|_| plain_hex);
    entry.checksum = Some(checksum.ok_or_else(|| bad(format!("checksum {digits:?}, expected 16 hexadecimal digits")))?);

    let Some(packed) = tensor.packed else { return Ok(()) };
    let format: Format = packed.format.parse().map_err(|e| bad(format!("{e}")))?;
    if packed.layout != LAYOUT {
        return Err(bad(format!("layout {:?}, expected {LAYOUT:?}", packed.layout)));
    }
    let bytes = packed_bytes(format, &packed.shape).ok_or_else(|| {
        bad(format!("shape {:?}, expected two or more dimensions, none empty, of a representable size", packed.shape))
    })?;
    if entry.storage != Storage::Plain(Dtype::U8) || entry.shape != [bytes] {
        let Storage::Plain(dtype) = entry.storage else { return Err(bad("described twice".into())) };
        let expected = format!("U8 [{bytes}] for {format} {:?}", packed.shape);
        return Err(bad(format!("stored as {dtype:?} {:?}, expected {expected}", entry.shape)));
    }
    if !entry.range.start.is_multiple_of(ALIGNMENT) {
        return Err(bad(format!(
            "begins at byte {} of the file, expected a multiple of {ALIGNMENT}",
            entry.range.start
        )));
    }
    entry.storage = Storage::Packed(format);
    entry.shape = packed.shape;
    Ok(())
}
