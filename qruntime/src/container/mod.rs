//! The file: safetensors, with packed tensors as bytes and a description of what they mean.
//!
//! `docs/file-format.md` is normative. `header` reads what safetensors says, `parse` what this
//! library says on top of it; `write` is the other direction.

mod entry;
mod header;
pub(crate) mod parse;
mod recipe;
mod write;

pub use entry::{Entry, Storage};
pub use header::Header;
pub use recipe::replace_recipe;
pub use write::{Writer, packed_bytes};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Version of the description; a reader refuses later ones.
pub const VERSION: u32 = 1;

/// The one panel layout there is: 16 rows, see [`kernels::panel`].
pub const LAYOUT: &str = "panel16";

/// Bytes that the header of a file may have: what other safetensors readers accept.
pub(crate) const MAX_HEADER: usize = 100_000_000;

/// Bytes of text that a recipe may have; as a tree of values it takes about a hundred times as
/// many.
pub(crate) const MAX_RECIPE: usize = 1 << 20;

/// The key of the metadata in the header: no tensor can have this name.
pub(crate) const METADATA: &str = "__metadata__";

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipe: Option<Box<RawValue>>,
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
