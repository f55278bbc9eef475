//! The file format: safetensors, with packed tensors as bytes and a description of what they mean.
//!
//! `docs/file-format.md` is normative. `header` reads safetensors' own header, `parse` reads this
//! library's description on top of it, and `write` writes both.

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

/// The version of the description; a reader refuses later ones.
pub const VERSION: u32 = 1;

/// The only panel layout, of 16 rows; see [`kernels::panel`].
pub const LAYOUT: &str = "panel16";

/// Most bytes of the header of a file: what other safetensors readers accept.
pub(crate) const MAX_HEADER: usize = 100_000_000;

/// Most bytes of a recipe's text; as a tree of values, it takes about a hundred times as many.
pub(crate) const MAX_RECIPE: usize = 1 << 20;

/// The key of the metadata in the header: no tensor can have this name.
pub(crate) const METADATA: &str = "__metadata__";

/// The key of the description in the safetensors metadata.
pub(crate) const KEY: &str = "qruntime";

/// The alignment of packed tensors in the file.
pub(crate) const ALIGNMENT: usize = 64;

/// The description in the metadata of a file, as JSON under the key `qruntime`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    tensors: Vec<TensorDescription>,
    /// How the file was made. Writers choose the content, and readers keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipe: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TensorDescription {
    name: String,
    /// XXH3-64 of the tensor's bytes, as 16 lower-case hexadecimal digits.
    xxh3: String,
    /// The meaning of the bytes, if they are packed blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packed: Option<PackedDescription>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedDescription {
    format: String,
    layout: String,
    /// The logical shape: rows and columns last, after any number of dimensions of matrices.
    shape: Vec<usize>,
}
