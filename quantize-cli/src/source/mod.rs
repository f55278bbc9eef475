//! Checkpoints to convert, whatever container their tensors lie in.
//!
//! ```no_run
//! let source = quantize_cli::source::open("models/tiny".as_ref())?;
//! for (i, tensor) in source.tensors().iter().enumerate().filter(|(_, tensor)| tensor.is_float()) {
//!     let mut row = vec![0.0; tensor.cols()];
//!     for r in 0..tensor.rows() {
//!         source.read_f32(i, r * tensor.cols()..(r + 1) * tensor.cols(), &mut row)?;
//!     }
//! }
//! # Ok::<(), quantize_cli::source::SourceError>(())
//! ```
//!
//! Opening reads headers and small JSON files only. Tensors are then read in pieces, by positioned
//! reads into the caller's buffers from any number of threads, so a converter's memory does not
//! grow with the model.
//!
//! Every byte is untrusted. What [`open`] lets through is whole: each file is as long as its header
//! says, its tensors tile it, and index and shards agree on who holds what.
//!
//! A GGUF file is read as what a Hugging Face folder holds: tensors have the names and the order of
//! rows that they have there, and the other files of the folder are made of its metadata.
//!
//! A *container* is a kind of file, and has one line in the table `CONTAINERS`. A *scheme* says how
//! weights are made of several tensors of a container, as 8-bit floats are of codes and scales; it
//! has one line in the table `SCHEMES`. Tensors that a scheme uses are not listed.

mod companions;
mod error;
mod float;
mod gguf;
mod regrouped;
mod safetensors;
mod scheme;
mod shard;
mod stamp;
mod tensor;

use std::fmt;
use std::ops::Range;
use std::path::Path;

pub use self::companions::Companions;
pub(crate) use self::companions::{CONFIG, WEIGHTS, is_written};
pub use self::error::{SourceError, SourceErrorKind};
pub(crate) use self::float::plain_bytes;
pub(crate) use self::regrouped::Regrouped;
pub(crate) use self::safetensors::is_described;
pub use self::tensor::{Dtype, Stored, TensorInfo};

/// An open checkpoint.
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns the file or folder that was opened.
    fn path(&self) -> &Path;

    /// Returns the files that hold the tensors, sorted by name.
    fn files(&self) -> Vec<&Path>;

    /// Returns the tensors: file by file as in [`files`](Self::files), within a file in the order
    /// of their data. Their positions in this slice are what the other methods take.
    fn tensors(&self) -> &[TensorInfo];

    /// Returns the position of the tensor of this name.
    fn position(&self, name: &str) -> Option<usize>;

    /// Reads elements, in row-major order, as `f32`. `F64` is rounded to the nearest; the others
    /// are exact, except that the product of an 8-bit element and its scale is rounded once.
    ///
    /// # Errors
    /// If the file cannot be read; there is no such tensor, or it is not floating point; the range
    /// is not within it; or `out` is not as long as the range.
    fn read_f32(&self, tensor: usize, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError>;

    /// Reads bytes of a tensor, row by row. Only those of a [`Stored::Plain`] or
    /// [`Stored::Blocks`] mean something by themselves.
    ///
    /// # Errors
    /// If the file cannot be read; there is no such tensor, or it is made of several; the range is
    /// not within it; or `out` is not as long as the range.
    fn read_stored(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError>;

    /// Returns the bytes of all tensors in the files, scales and dropped ones included.
    fn total_bytes(&self) -> u64;

    /// Returns what belongs to the model besides its tensors.
    fn companions(&self) -> &Companions;

    /// Checks that no file of the source was written to, cut off or replaced since it was opened:
    /// that what was read of it belongs together.
    ///
    /// # Errors
    /// If one was, or is gone.
    fn check_unchanged(&self) -> Result<(), SourceError>;

    /// Returns the names of tensors that are not among [`tensors`](Self::tensors) and not used:
    /// scales of the activations of 8-bit layers.
    fn dropped(&self) -> &[String];

    /// Returns what a person should know although it is no error: files that are left out, each
    /// warning a sentence.
    fn warnings(&self) -> &[String];
}

/// A kind of file or folder that holds tensors.
struct Container {
    /// Whether a path names one, as far as that can be told without opening it.
    recognizes: fn(&Path) -> bool,
    open: fn(&Path) -> Result<Box<dyn Source>, SourceError>,
}

/// The containers; the first that recognizes a path opens it.
const CONTAINERS: &[Container] = &[
    Container { recognizes: gguf::recognizes, open: gguf::open },
    Container { recognizes: safetensors::recognizes, open: safetensors::open },
];

/// Opens a checkpoint: a `.safetensors` file, or a folder with `model.safetensors`, with
/// `model.safetensors.index.json` and its shards, or with exactly one `.safetensors` file; the
/// first of these wins. Or a GGUF file, or one of the files of a split one.
///
/// # Errors
/// If a file cannot be read; is malformed, truncated or too long; if a shard is missing, or index
/// and shards disagree; if there are no tensors; if safetensors are quantized already, except as
/// 8-bit floats with scales; if the scales of an 8-bit tensor are missing or do not fit it; or if a
/// GGUF file is of an architecture that is not known.
pub fn open(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    match CONTAINERS.iter().find(|container| (container.recognizes)(path)) {
        Some(container) => (container.open)(path),
        None => Err(safetensors::refuse(path)),
    }
}
