//! The action on a tensor, and its layout in an output.

use std::fmt;

use kernels::Format;

use crate::source::Dtype;

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is packed.
    Pack(Format),
    /// It stays as it is.
    Keep,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pack(format) => format.fmt(f),
            Self::Keep => f.pad("keep"),
        }
    }
}

/// How the elements of a tensor lie in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Panels of 16 rows, those of each matrix one after the other.
    Panels(Format),
    /// Blocks row by row.
    Rows(Format),
    /// Elements of a plain type, row by row.
    Plain(Dtype),
}

/// The form of a tensor in an output, and what it takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How the elements lie.
    pub form: Form,
    /// Bytes of the tensor.
    pub bytes: usize,
    /// Of these, bytes that hold no weight: they fill up rows to whole blocks, matrices to whole
    /// panels, tensors to whole units of the output.
    pub padding: usize,
}
