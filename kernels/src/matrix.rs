//! Matrices of packed weights.

use core::fmt;
use core::ops::Range;

use crate::encode::Encoding;
use crate::error::{EncodeError, ShapeError};
use crate::format::{BlockFormat, Format, FormatVisitor, LONGEST_BLOCK, LONGEST_BLOCK_BYTES, PANEL_ROWS, Rounding};
use crate::isa::Isa;
use crate::panel;

/// A view of a matrix of packed weights: a format, a shape, and the panels.
///
/// Invariant: `panels` is exactly [`Format::matrix_bytes`]`(rows, cols)` long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MatrixRef<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    panels: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// Makes a view of `panels`.
    ///
    /// # Errors
    /// If the length is not [`Format::matrix_bytes`]`(rows, cols)`.
    pub fn new(format: Format, rows: usize, cols: usize, panels: &'a [u8]) -> Result<Self, ShapeError> {
        let expected = format.matrix_bytes(rows, cols).unwrap_or(usize::MAX);
        ShapeError::check("bytes of a packed matrix", panels.len(), expected)?;
        Ok(Self { format, rows, cols, panels })
    }

    /// Returns the format.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// Returns the number of rows: outputs of a linear layer.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Returns the number of columns: inputs of a linear layer.
    #[must_use]
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.panels
    }

    /// Returns the number of panels of 16 rows; the last one may be partly padding.
    #[must_use]
    pub fn panel_count(self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Returns the matrix of the rows of some panels.
    ///
    /// # Panics
    /// If the range is not within `0..panel_count()`.
    #[must_use]
    pub fn panels(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.panel_count(),
            "panels {range:?} of {}",
            self.panel_count()
        );
        let bytes = self.panel_bytes();
        Self {
            rows: self.rows.min(range.end * PANEL_ROWS) - (range.start * PANEL_ROWS).min(self.rows),
            panels: &self.panels[range.start * bytes..range.end * bytes],
            ..self
        }
    }

    /// Returns the bytes of a panel.
    pub(crate) fn panel_bytes(self) -> usize {
        self.panels.len() / self.panel_count().max(1)
    }

    /// Decodes one row.
    ///
    /// # Errors
    /// If `weights` is not `cols` long, or there is no such row.
    pub fn decode_row(self, row: usize, weights: &mut [f32]) -> Result<(), ShapeError> {
        ShapeError::check("weights of a row", weights.len(), self.cols)?;
        if row >= self.rows {
            return Err(ShapeError {
                what: "rows, counted up to the one asked for",
                found: row + 1,
                expected: self.rows,
            });
        }
        let bytes = self.panel_bytes();
        let panel = &self.panels[row / PANEL_ROWS * bytes..][..bytes];
        self.format.visit(DecodeRow { format: self.format, panel, row: row % PANEL_ROWS, weights });
        Ok(())
    }
}

impl fmt::Debug for MatrixRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatrixRef({} {} x {})", self.format, self.rows, self.cols)
    }
}

struct DecodeRow<'a> {
    format: Format,
    panel: &'a [u8],
    row: usize,
    weights: &'a mut [f32],
}

impl FormatVisitor for DecodeRow<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        let mut block = [0; LONGEST_BLOCK_BYTES];
        let mut tail = [0.0; LONGEST_BLOCK];
        for (bytes, weights) in self.panel.chunks_exact(F::PANEL_BYTES).zip(self.weights.chunks_mut(F::LEN)) {
            let block = &mut block[..F::BYTES];
            panel::unpack_row(self.format, bytes, self.row, block);
            if weights.len() == F::LEN {
                F::decode(block, weights);
            } else {
                F::decode(block, &mut tail[..F::LEN]);
                weights.copy_from_slice(&tail[..weights.len()]);
            }
        }
    }
}

/// A matrix of packed weights that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    panels: Vec<u8>,
}

impl Matrix {
    /// Encodes a row-major `rows x cols` matrix.
    ///
    /// # Errors
    /// If the length is not `rows · cols`, a weight is not finite, or a scale overflows; the row is
    /// the matrix's.
    pub fn encode(
        isa: Isa,
        format: Format,
        rounding: Rounding,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Self, EncodeError> {
        ShapeError::check("weights of a matrix", weights.len(), rows.saturating_mul(cols))?;
        let too_large =
            ShapeError { what: "bytes of a packed matrix, more than memory has", found: usize::MAX, expected: 0 };
        let bytes = format.matrix_bytes(rows, cols).ok_or(too_large)?;
        let mut panels = vec![0; bytes];
        Encoding { isa, format, rounding, importance: None }.encode(weights, cols, &mut panels)?;
        Ok(Self { format, rows, cols, panels })
    }

    /// Returns a view of the matrix.
    #[must_use]
    pub fn view(&self) -> MatrixRef<'_> {
        MatrixRef { format: self.format, rows: self.rows, cols: self.cols, panels: &self.panels }
    }
}
