//! Encoding: rows of `f32` into a panel, one row per lane.

use core::marker::PhantomData;

use crate::error::{EncodeError, ShapeError};
use crate::format::{BlockFormat, Format, FormatVisitor, LONGEST_BLOCK, Lanes, PANEL_ROWS, Rounding};
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

/// Encodes up to 16 rows of `cols` weights, row-major, into a panel. Rows that are missing become zero bytes.
///
/// Returns what that cost. Neither that nor the bytes depend on the instruction set.
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
) -> Result<Distortion, EncodeError> {
    ShapeError::check("bytes of a panel", panel.len(), format.panel_bytes(cols).unwrap_or(usize::MAX))?;
    let rows = weights.len().checked_div(cols).unwrap_or(0).min(PANEL_ROWS);
    ShapeError::check("weights of a panel", weights.len(), rows * cols)?;
    let distortion = format.visit(EncodePanel { isa, rounding, weights, cols, panel })?;
    // A block of zero weights has codes of zero, and a sign at its scale; a row that is not there is zero bytes.
    (rows..PANEL_ROWS).for_each(|row| panel::clear_row(format, panel, row));
    Ok(distortion)
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
    type Output = Result<Distortion, EncodeError>;

    fn visit<F: BlockFormat>(self) -> Self::Output {
        self.isa.run(EncodeAs::<F>(self, PhantomData))
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
        for (i, block) in panel.chunks_exact_mut(F::PANEL_BYTES).enumerate() {
            let first = i * F::LEN;
            let len = F::LEN.min(cols - first);
            columns[len..].fill([0.0; PANEL_ROWS]);
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                for (column, &weight) in columns.iter_mut().zip(&weights[first..first + len]) {
                    column[row] = weight;
                }
            }
            let overflow = F::encode(simd, rounding, columns, block);
            if overflow != 0 {
                let row = overflow.trailing_zeros() as usize;
                let magnitude = columns.iter().fold(0.0f32, |max, column| max.max(column[row].abs()));
                return Err(EncodeError::ScaleOverflow { row, col: first, magnitude });
            }
            distortion += distort::<F, S>(simd, columns, block);
        }
        Ok(distortion)
    }
}

/// Whether no weight is NaN or infinite: without their sign bits floats order as integers do.
#[inline(always)]
fn all_finite(weights: &[f32]) -> bool {
    weights.iter().fold(0, |max: u32, w| max.max(w.to_bits() & 0x7fff_ffff)) < f32::INFINITY.to_bits()
}

/// What it cost to make `block` of `columns`.
#[inline(always)]
fn distort<F: BlockFormat, S: Simd>(simd: S, columns: &[Lanes], block: &[u8]) -> Distortion {
    /// Squares of weights from 1e-30 to the largest that any format can express neither underflow nor overflow with this factor.
    const FACTOR: f32 = (1u64 << 36) as f32;

    let mut decoded = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
    F::weights(simd, &F::unpack(simd, block), &mut decoded[..F::LEN]);
    let factor = simd.splat(FACTOR);
    let (mut error, mut signal) = (simd.splat(0.0), simd.splat(0.0));
    for (column, decoded) in columns.iter().zip(&decoded) {
        let weight = simd.load_f32(column);
        let difference = simd.mul(factor, simd.sub(weight, simd.load_f32(decoded)));
        let weight = simd.mul(factor, weight);
        error = simd.mul_add(difference, difference, error);
        signal = simd.mul_add(weight, weight, signal);
    }
    let sum = |lanes| {
        let mut numbers = [0.0; PANEL_ROWS];
        simd.store(lanes, &mut numbers);
        numbers.into_iter().map(f64::from).sum::<f64>() / f64::from(FACTOR).powi(2)
    };
    Distortion { error: sum(error), signal: sum(signal) }
}
