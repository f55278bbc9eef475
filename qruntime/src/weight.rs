//! The matrix of a linear layer: packed, or of plain numbers.

use std::ops::Range;

use kernels::{MatrixRef, PlainRef, ShapeError};

/// A view of a matrix of weights, which is multiplied where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight<'a> {
    /// In blocks that share scales. Activations are rounded to 8 bits, unless the layer says
    /// otherwise.
    Packed(MatrixRef<'a>),
    /// As checkpoints have it: `F32`, `F16` or `BF16`. Activations are never rounded.
    Plain(PlainRef<'a>),
}

impl<'a> Weight<'a> {
    /// Rows: outputs of a linear layer.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.rows(),
            Self::Plain(matrix) => matrix.rows(),
        }
    }

    /// Columns: inputs of a linear layer.
    #[must_use]
    pub fn cols(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.cols(),
            Self::Plain(matrix) => matrix.cols(),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Packed(matrix) => matrix.as_bytes(),
            Self::Plain(matrix) => matrix.as_bytes(),
        }
    }

    /// Panels of 16 rows; the last may have fewer.
    #[must_use]
    pub fn panel_count(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.panel_count(),
            Self::Plain(matrix) => matrix.panel_count(),
        }
    }

    /// The matrix of the rows of some panels.
    ///
    /// # Panics
    /// If the range is not within `0..panel_count()`.
    #[must_use]
    pub fn panels(self, range: Range<usize>) -> Self {
        match self {
            Self::Packed(matrix) => Self::Packed(matrix.panels(range)),
            Self::Plain(matrix) => Self::Plain(matrix.panels(range)),
        }
    }

    /// Decodes one row.
    ///
    /// # Errors
    /// If `weights` is not `cols` long, or there is no such row.
    pub fn decode_row(self, row: usize, weights: &mut [f32]) -> Result<(), ShapeError> {
        match self {
            Self::Packed(matrix) => matrix.decode_row(row, weights),
            Self::Plain(matrix) => matrix.decode_row(row, weights),
        }
    }
}

impl<'a> From<MatrixRef<'a>> for Weight<'a> {
    fn from(matrix: MatrixRef<'a>) -> Self {
        Self::Packed(matrix)
    }
}

impl<'a> From<PlainRef<'a>> for Weight<'a> {
    fn from(matrix: PlainRef<'a>) -> Self {
        Self::Plain(matrix)
    }
}
