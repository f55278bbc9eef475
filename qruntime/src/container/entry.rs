//! A tensor in a table of contents.

use std::ops::Range;

use kernels::Format;
use safetensors::Dtype;

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Packed blocks of a format.
    Packed(Format),
    /// Plain elements, row-major.
    Plain(Dtype),
}

impl Storage {
    /// Returns the type in safetensors: packed blocks are bytes.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Packed(_) => Dtype::U8,
            Self::Plain(dtype) => *dtype,
        }
    }
}

/// An entry of the table of contents: one tensor of a file.
///
/// Invariant: `range` is within the file. For a packed tensor, it begins at a multiple of 64 and
/// holds exactly the panels of `shape`'s matrices; for a plain one, exactly its elements.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
    pub(crate) checksum: Option<u64>,
}

impl Entry {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how the tensor is stored.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Returns the logical shape. Rows (outputs) and columns (inputs) come last.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the range of the tensor's bytes in the file, padding included.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the size in the file in bytes, padding included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.range.len()
    }

    /// Returns the number of elements, without padding.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
