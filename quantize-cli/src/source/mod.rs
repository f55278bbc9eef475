//! Checkpoints to convert: a safetensors file, or a Hugging Face folder with one or with shards.
//!
//! ```no_run
//! use quantize_cli::source::Source;
//!
//! let source = Source::open("models/tiny".as_ref())?;
//! for tensor in source.tensors().iter().filter(|tensor| tensor.is_float()) {
//!     let mut row = vec![0.0; tensor.cols()];
//!     for r in 0..tensor.rows() {
//!         source.read_f32(tensor, r * tensor.cols()..(r + 1) * tensor.cols(), &mut row)?;
//!     }
//! }
//! # Ok::<(), quantize_cli::source::SourceError>(())
//! ```
//!
//! Opening reads headers and small JSON files only. Tensors are then read in pieces, by positioned
//! reads into the caller's buffers from any number of threads, so a converter's memory does not
//! grow with the model.
//!
//! Every byte is untrusted. What [`Source::open`] lets through is whole: each file is as long as
//! its header says, its tensors tile it, and index and shards agree on who holds what.
//!
//! 8-bit floating-point tensors (`F8_E4M3`, `F8_E5M2`) come with their scales applied; the scales
//! are not listed as tensors.

mod error;
mod float;
mod folder;
mod scale;
mod shard;
mod stamp;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qruntime::checkpoint::{Checkpoint, refuse_foreign};
use qruntime::container::{Entry, Header};
use qruntime::{Dtype, Error, FileErrorKind};
use serde_json::Value;

use self::float::Float;
use self::scale::Scales;
use self::shard::Shard;
use self::stamp::Stamp;
use crate::companions;

pub use self::error::{SourceError, SourceErrorKind};
pub(crate) use self::shard::is_described;

/// Bytes that are read before they are converted: enough to hide the cost of a system call, and
/// they stay in cache.
const PIECE: usize = 64 * 1024;

/// An open checkpoint.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: Vec<SourceTensor>,
    positions: HashMap<String, usize>,
    total_bytes: u64,
    config: Option<Value>,
    companions: Vec<PathBuf>,
    /// The companions as they were at first.
    stamps: Vec<Stamp>,
    dropped: Vec<String>,
    warnings: Vec<String>,
}

/// A tensor of a [`Source`].
#[derive(Debug)]
pub struct SourceTensor {
    entry: Entry,
    /// Number of the file in `Source::shards`.
    file: usize,
    scales: Option<Scales>,
}

impl Source {
    /// Opens a `.safetensors` file, or a folder with `model.safetensors`, with
    /// `model.safetensors.index.json` and its shards, or with exactly one `.safetensors` file; the
    /// first of these wins.
    ///
    /// # Errors
    ///
    /// If a file cannot be read; is malformed, truncated or too long; if a shard is missing, or
    /// index and shards disagree; if there are no tensors; if it is quantized already, except as
    /// 8-bit floats with scales; or if the scales of an 8-bit tensor are missing or do not fit it.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        if path.is_file() && path.extension().is_none_or(|extension| extension != "safetensors") {
            // Says what the file is, where its beginning tells.
            return Err(match Header::read(path) {
                Err(Error::File(error)) if error.kind() == FileErrorKind::Foreign => Error::File(error).into(),
                _ => SourceError::checkpoint(path, None, "expected a .safetensors file or a folder with one"),
            });
        }
        let checkpoint = Checkpoint::find(path)?;
        let mut shards = Vec::with_capacity(checkpoint.files().len());
        let mut tensors = Vec::new();
        for (file, path) in checkpoint.files().iter().enumerate() {
            let (shard, entries) = Shard::open(path.clone())?;
            shards.push(shard);
            tensors.extend(entries.into_iter().map(|entry| SourceTensor { entry, file, scales: None }));
        }
        checkpoint.check(tensors.iter().map(|tensor| (tensor.file, tensor.name())))?;
        if tensors.is_empty() {
            return Err(SourceError::checkpoint(path, None, "no tensors"));
        }

        let is_folder = path.is_dir();
        let folder = if is_folder { path } else { path.parent().unwrap_or(path) };
        // Of a single file, too, the config beside it says what the weights are; but it does not
        // belong to what was named.
        let config = folder::config(folder)?;
        let companions = if is_folder { companions::find(path)? } else { Vec::new() };
        let described = tensors.iter().map(|tensor| (tensor.name(), tensor.dtype(), tensor.shape()));
        refuse_foreign(path, |field| config.as_ref()?.get(field), described)?;
        let refuse = |problem| SourceError::checkpoint(&folder.join(companions::CONFIG), None, problem);
        let block = scale::block_size(config.as_ref()).map_err(refuse)?;
        let config = config.filter(|_| is_folder);
        let stamps = companions.iter().map(|companion| Stamp::at(&path.join(companion))).collect::<Result<_, _>>()?;
        let warnings = checkpoint.warnings().to_vec();
        let total_bytes = tensors.iter().map(|tensor| tensor.bytes() as u64).sum();
        let dropped = scale::absorb(&shards, &mut tensors, block)?;
        let positions = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect();
        Ok(Self {
            path: path.to_path_buf(),
            shards,
            tensors,
            positions,
            total_bytes,
            config,
            companions,
            stamps,
            dropped,
            warnings,
        })
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The tensors: file by file as in [`files`](Self::files), within a file in the order of their
    /// data.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&SourceTensor> {
        self.positions.get(name).map(|&i| &self.tensors[i])
    }

    /// Bytes of all tensors in the files, scales and dropped ones included.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The folder's `config.json`.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// Files of the folder that a converted model needs too (config, tokenizer, licence), relative
    /// to the folder.
    pub fn companions(&self) -> &[PathBuf] {
        &self.companions
    }

    /// Checks that no file of the source was written to, cut off or replaced since it was opened:
    /// that what was read of it belongs together.
    ///
    /// # Errors
    ///
    /// If one was, or is gone.
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        self.shards.iter().map(|shard| &shard.stamp).chain(&self.stamps).try_for_each(Stamp::check)
    }

    /// Names of tensors that are not among [`tensors`](Self::tensors) and not used: scales of the
    /// activations of 8-bit layers.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// What a person should know although it is no error: files that are left out, each warning a
    /// sentence.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether any tensor is 8-bit floating point. The config's `quantization_config` then speaks
    /// of these tensors, and is no longer true of what [`read_f32`](Self::read_f32) returns.
    pub fn has_fp8(&self) -> bool {
        self.tensors.iter().any(SourceTensor::is_fp8)
    }

    /// Reads elements, in row-major order, as `f32`. `F64` is rounded to the nearest; the others
    /// are exact, except that the product of an 8-bit element and its scale is rounded once.
    ///
    /// # Errors
    ///
    /// If the file cannot be read; the tensor is not of this source or not floating point; the
    /// range is not within it; or `out` is not as long as the range.
    pub fn read_f32(&self, tensor: &SourceTensor, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        self.check_own(tensor)?;
        tensor.read_f32(&self.shards, elements, out)
    }

    /// Reads bytes of a tensor as they are in the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read; the tensor is not of this source; the range is not within it; or
    /// `out` is not as long as the range.
    pub fn read_bytes(&self, tensor: &SourceTensor, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        self.check_own(tensor)?;
        tensor.check_range(&self.shards, "bytes", &bytes, tensor.bytes(), out.len())?;
        self.shards[tensor.file].read_at(tensor.name(), out, tensor.offset() + bytes.start as u64)
    }

    /// Another source's tensor would be read from the wrong file.
    fn check_own(&self, tensor: &SourceTensor) -> Result<(), SourceError> {
        if self.tensors.as_ptr_range().contains(&std::ptr::from_ref(tensor)) {
            return Ok(());
        }
        Err(SourceError::request(&self.path, tensor.name(), "not a tensor of this source"))
    }
}

impl SourceTensor {
    /// The name, as in the file.
    pub fn name(&self) -> &str {
        self.entry.name()
    }

    /// The type of the elements in the file.
    pub fn dtype(&self) -> Dtype {
        self.entry.storage().dtype()
    }

    /// The dimensions; none for a scalar.
    pub fn shape(&self) -> &[usize] {
        self.entry.shape()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.entry.elements()
    }

    /// Product of all dimensions but the last; 1 for a vector or scalar.
    pub fn rows(&self) -> usize {
        // Does not overflow: the header's reader multiplied all of them.
        self.shape().split_last().map_or(1, |(_, leading)| leading.iter().product())
    }

    /// The last dimension; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// Length in the file.
    pub fn bytes(&self) -> usize {
        self.entry.bytes()
    }

    /// Of the first byte in the file.
    fn offset(&self) -> u64 {
        self.entry.range().start as u64
    }

    /// Whether [`Source::read_f32`] can convert it: `F64`, `F32`, `F16`, `BF16`, `F8_E4M3` or
    /// `F8_E5M2`.
    pub fn is_float(&self) -> bool {
        Float::of(self.dtype()).is_some()
    }

    /// Whether its elements are 8-bit floats, which come with scales.
    pub(crate) fn is_fp8(&self) -> bool {
        matches!(self.dtype(), Dtype::F8_E4M3 | Dtype::F8_E5M2)
    }

    fn read_f32(&self, shards: &[Shard], elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        let shard = &shards[self.file];
        let Some(float) = Float::of(self.dtype()) else {
            let problem = format!("{} elements, expected a floating-point type", self.dtype());
            return Err(SourceError::request(&shard.path, self.name(), problem));
        };
        self.check_range(shards, "elements", &elements, self.elements(), out.len())?;
        let size = float.size();
        let mut start = elements.start;
        let mut scratch = vec![0; PIECE.min(out.len() * size)];
        for piece in out.chunks_mut(PIECE / size) {
            let bytes = &mut scratch[..piece.len() * size];
            shard.read_at(self.name(), bytes, self.offset() + (start * size) as u64)?;
            float.decode(bytes, piece);
            if let Some(scales) = &self.scales {
                scales.apply(start, self.cols(), piece);
            }
            start += piece.len();
        }
        Ok(())
    }

    /// Refuses a range that is not within `len`, or not as long as the buffer it is read into.
    fn check_range(
        &self,
        shards: &[Shard],
        what: &str,
        range: &Range<usize>,
        len: usize,
        out: usize,
    ) -> Result<(), SourceError> {
        if range.start <= range.end && range.end <= len && range.len() == out {
            return Ok(());
        }
        let problem = format!("{what} {range:?} of {len} into a buffer of {out}");
        Err(SourceError::request(&shards[self.file].path, self.name(), problem))
    }

    /// An error of the file that speaks of this tensor.
    fn refused(&self, shards: &[Shard], problem: String) -> SourceError {
        SourceError::checkpoint(&shards[self.file].path, Some(self.name()), problem)
    }
}
