//! Applies the description of packed tensors to the header's entries and checks every one. It never
//! panics and never allocates more than a few times the size of the header.

use std::collections::HashMap;

use kernels::Format;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::write::packed_bytes;
use super::{ALIGNMENT, Description, Entry, Header, KEY, LAYOUT, MAX_RECIPE, Storage, TensorDescription, VERSION};
use crate::error::{FileError, FileErrorKind};

/// A file's table of contents.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The tensors, in the order of their data.
    pub(crate) entries: Vec<Entry>,
    /// How the file was made, if recorded.
    pub(crate) recipe: serde_json::Value,
    /// Whether this library's description is in the file.
    pub(crate) described: bool,
}

/// Reads the table of contents of a safetensors file, with or without packed tensors.
pub(crate) fn parse(file: &[u8]) -> Result<Contents, FileError> {
    let Header { metadata, mut entries } = Header::of(file)?;
    let description = metadata.get(KEY);
    let recipe = match description {
        Some(description) => describe(&mut entries, description)?,
        None => serde_json::Value::Null,
    };
    Ok(Contents { entries, recipe, described: description.is_some() })
}

/// Applies the description to the tensors it names. Returns the recipe.
fn describe(entries: &mut [Entry], description: &str) -> Result<serde_json::Value, FileError> {
    /// The fields that every version of the description has, so that a later version is reported as
    /// such and not as damage.
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
        // Removed, so that a second description of the same tensor finds none.
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
