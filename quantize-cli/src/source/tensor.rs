//! A tensor as a converter sees it, whatever container it lies in.

use std::fmt;

use kernels::Format;
use qruntime::gguf::ElementType;

use super::float::Float;

pub use qruntime::Dtype;

/// How the elements of a tensor lie in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Elements of a plain type, row by row.
    Plain(Dtype),
    /// Codes of a plain type that mean something together with their scales.
    Scaled(Dtype),
    /// Blocks of a format, row by row; every row is whole blocks.
    Blocks(Format),
    /// Elements that are only decoded, into `f32`: blocks of a format that is only read, or that
    /// have a factor beside them, or in a vector.
    Decoded(ElementType),
}

impl Stored {
    /// The type of the elements or codes in the file; `F32`, to which they are decoded, for blocks.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Plain(dtype) | Self::Scaled(dtype) => dtype,
            Self::Blocks(_) | Self::Decoded(_) => Dtype::F32,
        }
    }

    /// Whether the elements are quantized in blocks.
    #[must_use]
    pub fn is_blocks(self) -> bool {
        match self {
            Self::Blocks(_) => true,
            Self::Decoded(element_type) => !matches!(element_type, ElementType::Plain(_)),
            Self::Plain(_) | Self::Scaled(_) => false,
        }
    }
}

/// Shows the name of the type or of the blocks' format.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) | Self::Scaled(dtype) => write!(f, "{dtype:?}"),
            Self::Blocks(format) => format.fmt(f),
            Self::Decoded(element_type) => element_type.fmt(f),
        }
    }
}

/// The description of a tensor of a [`Source`](super::Source).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    stored: Stored,
    bytes: usize,
    name_in_gguf: Option<String>,
}

impl TensorInfo {
    /// Describes a tensor that takes so many bytes in its file. The product of `shape` must not
    /// overflow.
    pub(super) fn new(name: &str, shape: &[usize], stored: Stored, bytes: usize) -> Self {
        Self { name: name.into(), shape: shape.into(), stored, bytes, name_in_gguf: None }
    }

    /// Describes the same tensor, stored in another way.
    pub(super) fn stored_as(&self, stored: Stored) -> Self {
        Self { stored, ..self.clone() }
    }

    /// Gives it a name in a GGUF file.
    pub(super) fn named_in_gguf(self, name: &str) -> Self {
        Self { name_in_gguf: Some(name.into()), ..self }
    }

    /// Returns its name in a GGUF file, if it is arranged for one.
    pub(crate) fn name_in_gguf(&self) -> Option<&str> {
        self.name_in_gguf.as_deref()
    }

    /// Returns the name that Hugging Face's checkpoints have for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how its elements lie in the file.
    #[must_use]
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// Returns the type of its elements in the file; `F32` if it consists of blocks.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.stored.dtype()
    }

    /// Returns the type that its elements have where the tensor is kept as plain elements: their
    /// own, except that codes with scales and 8-bit floats become BF16. Without its scales a code
    /// means nothing, and few readers know such a float. Blocks become F32, exactly.
    #[must_use]
    pub fn kept_dtype(&self) -> Dtype {
        match self.stored {
            Stored::Scaled(_) | Stored::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2) => Dtype::BF16,
            stored => stored.dtype(),
        }
    }

    /// Whether its bytes in the file are its elements as `dtype`, so that they can be copied.
    #[must_use]
    pub fn is_plain(&self, dtype: Dtype) -> bool {
        self.stored == Stored::Plain(dtype)
    }

    /// Returns its dimensions; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of its elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the product of all dimensions but the last; 1 for a vector or scalar.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, leading)| leading.iter().product())
    }

    /// Returns the last dimension; 1 for a scalar.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns how many bytes it takes in its file, scales not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether [`read_f32`](super::Source::read_f32) can convert it: `F64`, `F32`, `F16`, `BF16`,
    /// `F8_E4M3`, `F8_E5M2`, codes with scales, or blocks.
    #[must_use]
    pub fn is_float(&self) -> bool {
        match self.stored {
            Stored::Plain(dtype) => Float::of(dtype).is_some(),
            Stored::Scaled(_) | Stored::Blocks(_) | Stored::Decoded(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_with_scales_are_never_copied() {
        for dtype in [Dtype::I8, Dtype::F8_E4M3, Dtype::BF16] {
            let info = TensorInfo::new("x", &[2, 3], Stored::Scaled(dtype), 6);
            assert!(info.is_float() && !info.is_plain(info.kept_dtype()), "{dtype}");
            assert_eq!(info.kept_dtype(), Dtype::BF16);
        }
        let info = TensorInfo::new("x", &[2, 3], Stored::Plain(Dtype::I8), 6);
        assert!(!info.is_float() && info.is_plain(info.kept_dtype()));
    }
}
