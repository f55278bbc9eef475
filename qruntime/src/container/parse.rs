//! Bytes of a file into a table of contents, every entry checked. Never panics, never allocates more than a few times the header.

use std::collections::HashMap;
use std::ops::Range;

use kernels::Format;
use safetensors::{Dtype, SafeTensors};

use super::write::packed_bytes;
use super::{ALIGNMENT, Description, KEY, LAYOUT, TensorDescription, VERSION};
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
/// The crate `safetensors` checks that the tensors' ranges follow each other without gap or overlap to the very end of the file, and agree with their shapes.
pub(crate) fn parse(file: &[u8]) -> Result<Contents, FileError> {
    let (header_len, metadata) = SafeTensors::read_metadata(file)
        .map_err(|e| FileError::new(FileErrorKind::NotSafetensors, format!("not a whole safetensors file: {e}")))?;
    let data = header_len + size_of::<u64>();
    let mut entries = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let range = data + info.data_offsets.0..data + info.data_offsets.1;
        entries.push(Entry {
            name,
            storage: Storage::Plain(info.dtype),
            shape: info.shape.clone(),
            range,
            checksum: None,
        });
    }
    let description = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let recipe = match description {
        Some(description) => describe(&mut entries, description)?,
        None => serde_json::Value::Null,
    };
    Ok(Contents { entries, recipe, described: description.is_some() })
}

/// Applies the description to the tensors it names. Returns the recipe.
fn describe(entries: &mut [Entry], description: &str) -> Result<serde_json::Value, FileError> {
    let bad = |message: String| FileError::new(FileErrorKind::Metadata, format!("metadata \"{KEY}\": {message}"));
    // The version comes first, so that a later version is named as such and not as damage.
    let value: serde_json::Value = serde_json::from_str(description).map_err(|e| bad(e.to_string()))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            let message =
                format!("version {version} of the file format, expected {VERSION}: a newer release may read it");
            return Err(FileError::new(FileErrorKind::Version, message));
        }
        None => return Err(bad("no version".into())),
    }
    let Description { tensors, recipe, .. } = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;

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
