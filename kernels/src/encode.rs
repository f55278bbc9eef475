//! Encoding: rows of `f32` into a panel, one row per lane.

use crate::error::{EncodeError, ShapeError};
use crate::format::{BlockFormat, Format, FormatVisitor, Lanes, PANEL_ROWS, Rounding};
use crate::isa::{Isa, Kernel, Simd};

/// Encodes up to 16 rows of `cols` weights, row-major, into a panel. Rows that are missing become zero.
///
/// The bytes do not depend on the instruction set.
///
/// # Errors
/// If `panel` is not [`Format::panel_bytes`]`(cols)` long or `weights` no whole number of rows up to 16; if a weight is not finite;
/// if a block's scale overflows half precision. `panel` may then be partly written.
pub fn encode_panel(
    isa: Isa,
    format: Format,
    rounding: Rounding,
    weights: &[f32],
    cols: usize,
    panel: &mut [u8],
) -> Result<(), EncodeError> {
    ShapeError::check("bytes of a panel", panel.len(), format.panel_bytes(cols).unwrap_or(usize::MAX))?;
    let rows = weights.len().checked_div(cols).unwrap_or(0).min(PANEL_ROWS);
    ShapeError::check("weights of a panel", weights.len(), rows * cols)?;
    format.visit(EncodePanel { isa, rounding, weights, cols, panel })
}

impl EncodeError {
    /// The error with its row counted from the start of the matrix instead of that of panel `panel`.
    #[must_use]
    pub fn in_panel(self, panel: usize) -> Self {
        let first = panel * PANEL_ROWS;
        match self {
            Self::NotFinite { row, col, value } => Self::NotFinite { row: first + row, col, value },
            Self::ScaleOverflow { row, col, magnitude } => Self::ScaleOverflow { row: first + row, col, magnitude },
            Self::Shape(_) => self,
        }
    }
}

struct EncodePanel<'a> {
    isa: Isa,
    rounding: Rounding,
    weights: &'a [f32],
    cols: usize,
    panel: &'a mut [u8],
}

impl FormatVisitor for EncodePanel<'_> {
    type Output = Result<(), EncodeError>;

    fn visit<F: BlockFormat>(self) -> Self::Output {
        let cols = self.cols;
        let weights = self.weights;
        if !self.isa.run(AllFinite(weights)) {
            let at = weights.iter().position(|w| !w.is_finite()).unwrap_or_default();
            return Err(EncodeError::NotFinite { row: at / cols, col: at % cols, value: weights[at] });
        }
        let mut columns = vec![[0.0; PANEL_ROWS]; F::LEN];
        for (i, block) in self.panel.chunks_exact_mut(F::PANEL_BYTES).enumerate() {
            let first = i * F::LEN;
            let len = F::LEN.min(cols - first);
            columns[len..].fill([0.0; PANEL_ROWS]);
            let encode = EncodeBlock::<F> {
                rounding: self.rounding,
                weights,
                cols,
                first,
                columns: &mut columns,
                block,
                format: core::marker::PhantomData,
            };
            let overflow = self.isa.run(encode);
            if overflow != 0 {
                let row = overflow.trailing_zeros() as usize;
                let magnitude = columns.iter().fold(0.0f32, |max, column| max.max(column[row].abs()));
                return Err(EncodeError::ScaleOverflow { row, col: first, magnitude });
            }
        }
        Ok(())
    }
}

struct AllFinite<'a>(&'a [f32]);

impl Kernel for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        self.0.iter().fold(0, |max: u32, w| max.max(w.to_bits() & 0x7fff_ffff)) < f32::INFINITY.to_bits()
    }
}

struct EncodeBlock<'a, F> {
    rounding: Rounding,
    weights: &'a [f32],
    cols: usize,
    /// The block's first column.
    first: usize,
    columns: &'a mut [Lanes],
    block: &'a mut [u8],
    format: core::marker::PhantomData<F>,
}

impl<F: BlockFormat> Kernel for EncodeBlock<'_, F> {
    type Output = u16;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u16 {
        let len = F::LEN.min(self.cols - self.first);
        for (row, weights) in self.weights.chunks_exact(self.cols).enumerate() {
            for (column, &weight) in self.columns.iter_mut().zip(&weights[self.first..self.first + len]) {
                column[row] = weight;
            }
        }
        F::encode(self.rounding, &self.columns[..F::LEN], self.block)
    }
}
