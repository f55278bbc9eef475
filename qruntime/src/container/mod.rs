//! The file: safetensors, with packed tensors as bytes and a description of what they mean.
//!
//! `docs/file-format.md` is normative. [`parse`] and [`write`] are the two directions.

pub(crate) mod parse;
mod write;

pub use parse::{Entry, Storage};
pub use write::{Writer, packed_bytes};

use serde::{Deserialize, Serialize};

/// Version of the description; a reader refuses later ones.
pub const VERSION: u32 = 1;

/// The one panel layout there is: 16 rows, see [`kernels::panel`].
pub const LAYOUT: &str = "panel16";

/// The key of the description in the safetensors metadata.
pub(crate) const KEY: &str = "qruntime";

/// Packed tensors begin at multiples of this in the file.
pub(crate) const ALIGNMENT: usize = 64;

/// What the metadata of a file says, as JSON under the key `qruntime`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    tensors: Vec<TensorDescription>,
    /// How the file was made; free for the writer, kept by readers.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    recipe: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct TensorDescription {
    name: String,
    /// XXH3-64 of the tensor's bytes, 16 lower-case hexadecimal digits.
    xxh3: String,
    /// What the bytes mean, if they are packed blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packed: Option<PackedDescription>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedDescription {
    format: String,
    layout: String,
    /// The logical shape: rows and columns last, any number of matrices before them.
    shape: Vec<usize>,
}
