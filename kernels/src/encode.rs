//! Encoding: rows of `f32` into a panel, one row per lane.

use core::marker::PhantomData;

use crate::activations::ACTIVATION_BLOCK;
use crate::error::{EncodeError, ShapeError};
use crate::format::{
    BlockFormat, Format, FormatVisitor, LONGEST_BLOCK, LONGEST_BLOCK_BYTES, Lanes, PANEL_ROWS, Rounding, Tile,
};
use crate::isa::{Isa, Kernel, Simd};
use crate::panel;

/// How far encoded weights are from the original ones: sums over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distortion {
    /// `Σ (w - q)²` over the weights `w` and what they decode to, `q`.
    pub error: f64,
    /// `Σ w²`.
    pub signal: f64,
}

impl Distortion {
    /// Relative RMS error, `√(error / signal)`; 0 where nothing differs.
    #[must_use]
    pub fn relative_rms(self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.signal).sqrt() }
    }

    /// Signal to quantization noise in decibels; infinite where nothing differs.
    #[must_use]
    pub fn sqnr_db(self) -> f64 {
        if self.error == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.error).log10() }
    }
}

impl core::ops::AddAssign for Distortion {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.signal += other.signal;
    }
}

/// Encodes up to 16 rows of `cols` weights, row-major, into a panel. Rows that are missing become
/// zero bytes.
///
/// Returns what that cost. Neither that nor the bytes depend on the instruction set.
///
/// # Errors
/// If `panel` is not [`Format::panel_bytes`]`(cols)` long or `weights` no whole number of rows up
/// to 16; if a weight is not finite; if a block's scale overflows half precision. `panel` may then
/// be partly written.
pub fn encode_panel(
    isa: Isa,
    format: Format,
    rounding: Rounding,
    weights: &[f32],
    cols: usize,
    panel: &mut [u8],
) -> Result<Distortion, EncodeError> {
    ShapeError::check("bytes of a panel", panel.len(), format.panel_bytes(cols).unwrap_or(usize::MAX))?;
    let rows = weights.len().checked_div(cols).unwrap_or(0).min(PANEL_ROWS);
    ShapeError::check("weights of a panel", weights.len(), rows * cols)?;
    let distortion = format.visit(EncodePanel { isa, rounding, weights, cols, panel })?;
    // A block of zero weights has codes of zero, and a sign at its scale; a row that is not there
    // is zero bytes.
    (rows..PANEL_ROWS).for_each(|row| panel::clear_row(format, panel, row));
    Ok(distortion)
}

impl EncodeError {
    /// The error with its row counted from the start of the matrix instead of that of panel
    /// `panel`.
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
    type Output = Result<Distortion, EncodeError>;

    fn visit<F: BlockFormat>(self) -> Self::Output {
        self.isa.run_without_dots(EncodeAs::<F>(self, PhantomData))
    }
}

struct EncodeAs<'a, F>(EncodePanel<'a>, PhantomData<F>);

impl<F: BlockFormat> Kernel for EncodeAs<'_, F> {
    type Output = Result<Distortion, EncodeError>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let EncodePanel { rounding, weights, cols, panel, .. } = self.0;
        if !all_finite(weights) {
            let at = weights.iter().position(|w| !w.is_finite()).unwrap_or_default();
            return Err(EncodeError::NotFinite { row: at / cols, col: at % cols, value: weights[at] });
        }
        let mut distortion = Distortion::default();
        let mut columns = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
        let columns = &mut columns[..F::LEN];
        let mut first_try = [0; PANEL_ROWS * LONGEST_BLOCK_BYTES];
        let first_try = &mut first_try[..F::PANEL_BYTES];
        for (i, block) in panel.chunks_exact_mut(F::PANEL_BYTES).enumerate() {
            let first = i * F::LEN;
            let len = F::LEN.min(cols - first);
            columns[len..].fill([0.0; PANEL_ROWS]);
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                for (column, &weight) in columns.iter_mut().zip(&weights[first..first + len]) {
                    column[row] = weight;
                }
            }
            let one = core::slice::from_ref(&rounding);
            let mut tries = one;
            if !F::HAS_ZERO && !len.is_multiple_of(ACTIVATION_BLOCK) {
                repeat(columns, len);
                // Some columns count twice now, so that a search may do better by them and worse by
                // the block.
                if rounding == Rounding::Search {
                    tries = Rounding::ALL;
                }
            }
            let mut kept = RowDistortions::default();
            // In a loop so that the encoder is inlined only once.
            for (again, &rounding) in tries.iter().enumerate() {
                if again > 0 {
                    first_try.copy_from_slice(block);
                }
                let overflow = F::encode(simd, rounding, columns, block);
                if overflow != 0 {
                    let row = overflow.trailing_zeros() as usize;
                    let magnitude = columns.iter().fold(0.0f32, |max, column| max.max(column[row].abs()));
                    return Err(EncodeError::ScaleOverflow { row, col: first, magnitude });
                }
                let found = distort::<F, S>(simd, &columns[..len], block);
                if again == 0 {
                    kept = found;
                } else {
                    kept.replace_or_restore::<F>(&found, block, first_try);
                }
            }
            distortion += kept.sum();
        }
        Ok(distortion)
    }
}

/// Fills the tile in which column `len` lies with the columns it has, over and over.
///
/// Where zero is not among the values of a format, zeros would draw scales and offsets away from
/// the weights.
#[inline(always)]
fn repeat(columns: &mut [Lanes], len: usize) {
    let start = len - len % ACTIVATION_BLOCK;
    for i in len..start + ACTIVATION_BLOCK {
        columns[i] = columns[i - len + start];
    }
}

/// [`Distortion`] of each row of a block.
#[derive(Clone, Copy, Default)]
struct RowDistortions {
    error: [f64; PANEL_ROWS],
    signal: [f64; PANEL_ROWS],
}

impl RowDistortions {
    /// Takes over the errors of rows that are less in `other`, those of `block`; the other rows of
    /// `block` become those of `before` again.
    #[inline(always)]
    fn replace_or_restore<F: BlockFormat>(&mut self, other: &Self, block: &mut [u8], before: &[u8]) {
        for (row, (error, &other)) in self.error.iter_mut().zip(&other.error).enumerate() {
            if other < *error {
                *error = other;
                continue;
            }
            let mut field = 0;
            for &width in F::FIELDS {
                let at = field + row * width;
                block[at..at + width].copy_from_slice(&before[at..at + width]);
                field += PANEL_ROWS * width;
            }
        }
    }

    #[inline(always)]
    fn sum(&self) -> Distortion {
        Distortion { error: self.error.iter().sum(), signal: self.signal.iter().sum() }
    }
}

/// Whether no weight is NaN or infinite: without their sign bits floats order as integers do.
#[inline(always)]
fn all_finite(weights: &[f32]) -> bool {
    weights.iter().fold(0, |max: u32, w| max.max(w.to_bits() & 0x7fff_ffff)) < f32::INFINITY.to_bits()
}

/// What it cost to make `block` of `columns`, of which padding is no part.
///
/// In double precision, in which no square of a weight overflows or underflows.
#[inline(always)]
fn distort<F: BlockFormat, S: Simd>(simd: S, columns: &[Lanes], block: &[u8]) -> RowDistortions {
    let mut decoded = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
    let header = F::header(simd, block);
    for (tile, columns) in decoded[..F::LEN].as_chunks_mut().0.iter_mut().enumerate() {
        F::unpack(simd, block, &header, tile).weights(simd, columns);
    }
    let RowDistortions { mut error, mut signal } = RowDistortions::default();
    for (column, decoded) in columns.iter().zip(&decoded) {
        for (((&weight, &decoded), error), signal) in column.iter().zip(decoded).zip(&mut error).zip(&mut signal) {
            let weight = f64::from(weight);
            let difference = weight - f64::from(decoded);
            *error += difference * difference;
            *signal += weight * weight;
        }
    }
    RowDistortions { error, signal }
}
