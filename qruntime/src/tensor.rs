//! Typed views of tensors.

use std::sync::Arc;

use half::{bf16, f16};
use kernels::{Format, MatrixRef, PlainRef, PlainType};
use safetensors::Dtype;

use crate::bytes::Bytes;
use crate::container::{Entry, Storage};
use crate::error::Error;
use crate::weight::{Kind, SharedWeight};

/// A packed tensor of a model: one matrix, or several of the same shape (the experts of a
/// mixture).
#[derive(Clone, Copy, Debug)]
pub struct PackedTensor<'a> {
    entry: &'a Entry,
    format: Format,
    bytes: &'a [u8],
}

impl<'a> PackedTensor<'a> {
    /// `bytes` is what `entry.range` says.
    pub(crate) fn new(entry: &'a Entry, bytes: &'a [u8]) -> Option<Self> {
        match entry.storage {
            Storage::Packed(format) => Some(Self { entry, format, bytes }),
            Storage::Plain(_) => None,
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'a str {
        &self.entry.name
    }

    /// Returns the format of the blocks.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// Returns the shape: rows (outputs) and columns (inputs) last.
    #[must_use]
    pub fn shape(self) -> &'a [usize] {
        &self.entry.shape
    }

    /// Returns how many matrices the tensor holds.
    #[must_use]
    pub fn matrix_count(self) -> usize {
        matrix_count(&self.entry.shape)
    }

    /// Returns one of the matrices.
    ///
    /// # Panics
    /// If `index` is not below [`matrix_count`](Self::matrix_count).
    #[must_use]
    pub fn matrix(self, index: usize) -> MatrixRef<'a> {
        assert!(index < self.matrix_count(), "matrix {index} of {}", self.matrix_count());
        let &[rows, cols] = self.entry.shape.last_chunk().expect("a packed tensor has rows and columns");
        let bytes = self.format.matrix_bytes(rows, cols).expect("checked when the file was opened");
        MatrixRef::new(self.format, rows, cols, &self.bytes[index * bytes..(index + 1) * bytes])
            .expect("a slice of the matrix's length")
    }
}

/// A plain tensor of a model.
#[derive(Clone, Copy, Debug)]
pub struct PlainTensor<'a> {
    entry: &'a Entry,
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> PlainTensor<'a> {
    /// `bytes` is what `entry.range` says.
    pub(crate) fn new(entry: &'a Entry, bytes: &'a [u8]) -> Option<Self> {
        match entry.storage {
            Storage::Plain(dtype) => Some(Self { entry, dtype, bytes }),
            Storage::Packed(_) => None,
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'a str {
        &self.entry.name
    }

    /// Returns the type of the elements.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        self.dtype
    }

    /// Returns the shape.
    #[must_use]
    pub fn shape(self) -> &'a [usize] {
        &self.entry.shape
    }

    /// Returns the bytes, little-endian and row-major.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns how many matrices of the last two dimensions the tensor holds; 0 if it has fewer
    /// dimensions or no elements.
    #[must_use]
    pub fn matrix_count(self) -> usize {
        matrix_count(&self.entry.shape)
    }

    /// Returns one of the matrices.
    ///
    /// # Errors
    /// If the elements are not `F32`, `F16` or `BF16`.
    ///
    /// # Panics
    /// If `index` is not below [`matrix_count`](Self::matrix_count).
    pub fn matrix(self, index: usize) -> Result<PlainRef<'a>, Error> {
        assert!(index < self.matrix_count(), "matrix {index} of {}", self.matrix_count());
        let ty = plain_type(self.dtype).ok_or_else(|| not_floats(self.entry, self.dtype))?;
        let &[rows, cols] = self.entry.shape.last_chunk().expect("a tensor of matrices");
        let bytes = self.bytes.len() / self.matrix_count();
        Ok(PlainRef::new(ty, rows, cols, &self.bytes[index * bytes..(index + 1) * bytes])?)
    }

    /// Returns the position of the first NaN or infinity; `None` if all elements are finite, or not
    /// floating point.
    #[must_use]
    pub fn first_not_finite(self) -> Option<usize> {
        first_not_finite(self.dtype, self.bytes)
    }

    /// Converts the elements to `f32`.
    ///
    /// # Errors
    /// If they are not `F32`, `F16` or `BF16`.
    pub fn to_f32(self) -> Result<Vec<f32>, Error> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter().copied();
        match self.dtype {
            Dtype::F32 => Ok(self.bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect()),
            Dtype::F16 => Ok(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            Dtype::BF16 => Ok(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            dtype => Err(not_floats(self.entry, dtype)),
        }
    }
}

/// Returns the position of the first NaN or infinity among elements as safetensors stores them;
/// `None` if all are finite, or not floating point.
///
/// Floats of 8 bits and fewer count as finite.
#[must_use]
pub fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    /// Searches piece by piece, because the compiler vectorizes only loops without an early exit.
    fn find<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> Option<usize> {
        const PIECE: usize = 1024;
        let mut start = 0;
        for piece in bytes.as_chunks::<N>().0.chunks(PIECE) {
            if piece.iter().fold(false, |found, &number| found | !is_finite(number)) {
                return piece.iter().position(|&number| !is_finite(number)).map(|i| start + i);
            }
            start += piece.len();
        }
        None
    }
    match dtype {
        Dtype::F64 => find(bytes, |b| f64::from_le_bytes(b).is_finite()),
        Dtype::F32 => find(bytes, |b| f32::from_le_bytes(b).is_finite()),
        Dtype::F16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
        Dtype::BF16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        _ => None,
    }
}

/// A tensor of weight matrices, packed or plain, in a file that its layers share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrices<'a> {
    entry: &'a Entry,
    file: &'a Arc<Bytes>,
}

impl<'a> Matrices<'a> {
    /// `entry` describes a part of `file`.
    pub(crate) fn new(entry: &'a Entry, file: &'a Arc<Bytes>) -> Self {
        Self { entry, file }
    }

    /// Returns the name of the tensor.
    pub(crate) fn name(self) -> &'a str {
        &self.entry.name
    }

    /// Returns how many matrices the tensor holds.
    pub(crate) fn count(self) -> usize {
        matrix_count(&self.entry.shape)
    }

    /// Returns one of the matrices.
    ///
    /// # Panics
    /// If `index` is not below [`count`](Self::count).
    pub(crate) fn get(self, index: usize) -> Result<SharedWeight, Error> {
        assert!(index < self.count(), "matrix {index} of {}", self.count());
        let &[rows, cols] = self.entry.shape.last_chunk().expect("a tensor of matrices");
        let (kind, bytes) = match self.entry.storage {
            Storage::Packed(format) => {
                (Kind::Packed(format), format.matrix_bytes(rows, cols).expect("checked when the file was opened"))
            }
            Storage::Plain(dtype) => {
                let ty = plain_type(dtype).ok_or_else(|| not_floats(self.entry, dtype))?;
                (Kind::Plain(ty), self.entry.range.len() / self.count())
            }
        };
        let start = self.entry.range.start + index * bytes;
        Ok(SharedWeight::new(Arc::clone(self.file), start..start + bytes, kind, rows, cols)?)
    }
}

/// Returns how many matrices of the last two dimensions a shape holds; 0 if it has fewer dimensions
/// or no elements.
fn matrix_count(shape: &[usize]) -> usize {
    match shape.split_last_chunk::<2>() {
        Some((rest, matrix)) if !rest.contains(&0) && !matrix.contains(&0) => rest.iter().product(),
        _ => 0,
    }
}

fn plain_type(dtype: Dtype) -> Option<PlainType> {
    match dtype {
        Dtype::F32 => Some(PlainType::F32),
        Dtype::F16 => Some(PlainType::F16),
        Dtype::BF16 => Some(PlainType::Bf16),
        _ => None,
    }
}

fn not_floats(entry: &Entry, dtype: Dtype) -> Error {
    Error::WrongKind { name: entry.name.clone(), found: format!("{dtype:?}"), expected: "F32, F16 or BF16" }
}
