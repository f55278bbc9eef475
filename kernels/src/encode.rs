//! Encoding: rows of `f32` into panels, one row per lane.
//!
//! ```text
//! for panel of 16 rows, block of LEN columns:
//!     columns = transpose(weights)                     columns[i] is column i of the 16 rows
//!     for each try:                                    one, but for padding and importance
//!         fit = F::fit(importance, columns)            scales and offsets, as they are stored
//!         for i in 0..LEN:
//!             codes[i], decoded[i] = F::code(fit, i, columns[i])
//!         bytes = F::store(fit, codes)
//!         keep the rows with less Σ importance·(columns - decoded)² than before
//!
//! lane          0          1                15
//! columns[i]   w0[i]      w1[i]     ...    w15[i]      column i of 16 rows of weights
//! fit.scale    d0         d1        ...    d15         one scale per row and block
//! codes[i]     q0[i]      q1[i]     ...    q15[i]
//! ```
//!
//! The code of a column depends on the fit and on that column alone. A loop that rounds a column
//! and then changes the columns after it, to make up for the error, needs no more than these steps.

use core::marker::PhantomData;

use crate::block::ACTIVATION_BLOCK;
use crate::error::{EncodeError, ShapeError};
use crate::format::{
    BlockFormat, Format, FormatVisitor, Importance, LONGEST_BLOCK, LONGEST_BLOCK_BYTES, Lanes, PANEL_ROWS, Rounding,
};
use crate::isa::{Isa, Kernel, Simd};
use crate::panel;

/// The distance of encoded weights from the original ones, as sums over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distortion {
    /// `Σ (w - q)²` over the weights `w` and what they decode to, `q`.
    pub error: f64,
    /// `Σ w²`.
    pub signal: f64,
}

impl Distortion {
    /// Returns the relative RMS error, `√(error / signal)`; 0 if there is no error.
    #[must_use]
    pub fn relative_rms(self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.signal).sqrt() }
    }

    /// Returns the signal-to-quantization-noise ratio in decibels; infinite if there is no error.
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

/// How weights are encoded.
///
/// ```
/// use kernels::{Encoding, Format, Isa, Rounding};
///
/// let (rows, cols) = (20, 64);
/// let weights: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
/// // The inputs of the first 8 columns are larger than the others.
/// let importance: Vec<f32> = (0..cols).map(|col| if col < 8 { 9.0 } else { 1.0 }).collect();
///
/// let encoding = Encoding {
///     isa: Isa::best(),
///     format: Format::Q4K,
///     rounding: Rounding::Search,
///     importance: Some(&importance),
/// };
/// let mut panels = vec![0; Format::Q4K.matrix_bytes(rows, cols).unwrap()];
/// let distortion = encoding.encode(&weights, cols, &mut panels)?;
/// assert!(distortion.relative_rms() < 0.1);
/// # Ok::<(), kernels::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The instruction set to encode with. The bytes do not depend on it.
    pub isa: Isa,
    /// The format to encode to.
    pub format: Format,
    /// How scales and codes are chosen.
    pub rounding: Rounding,
    /// How much each column counts in the squared error that [`Rounding::Search`] minimizes,
    /// `Σ importance·(w - q)²`: one factor per column, finite and not negative. The usual factor is
    /// the mean square of the column's input over a calibration text, the diagonal of a matrix of
    /// second moments.
    ///
    /// The weighted error of a block of a row is at most that without importance. Factors that are
    /// all equal give the same bytes as `None`. [`Rounding::Nearest`] does not use importance.
    pub importance: Option<&'a [f32]>,
}

impl Encoding<'_> {
    /// Encodes rows of `cols` weights, row-major, into panels of 16 rows; rows that the last panel
    /// lacks become zero bytes. Returns how far the encoded weights are from `weights`.
    ///
    /// Neither the bytes nor that distance depend on the instruction set.
    ///
    /// # Errors
    /// If `weights` is not a whole number of rows, `panels` is not
    /// [`Format::matrix_bytes`]`(rows, cols)` long, or the importance does not have `cols` factors
    /// or one of them is negative or not finite; if a weight is not finite; if a block's scale
    /// overflows half precision. `panels` may then be partly written.
    pub fn encode(&self, weights: &[f32], cols: usize, panels: &mut [u8]) -> Result<Distortion, EncodeError> {
        let Self { isa, format, rounding, importance } = *self;
        let rows = weights.len().checked_div(cols).unwrap_or(0);
        ShapeError::check("weights of a matrix", weights.len(), rows * cols)?;
        ShapeError::check("bytes of panels", panels.len(), format.matrix_bytes(rows, cols).unwrap_or(usize::MAX))?;
        if let Some(importance) = importance {
            ShapeError::check("factors of importance", importance.len(), cols)?;
            // NaN is not within the range either.
            if let Some(col) = importance.iter().position(|factor| !(0.0..f32::INFINITY).contains(factor)) {
                return Err(EncodeError::Importance { col, value: importance[col] });
            }
        }
        let importance = importance.filter(|_| rounding == Rounding::Search);
        let mut distortion = Distortion::default();
        let panel_bytes = panels.len() / rows.div_ceil(PANEL_ROWS).max(1);
        let parts =
            weights.chunks(PANEL_ROWS.saturating_mul(cols.max(1))).zip(panels.chunks_exact_mut(panel_bytes.max(1)));
        for (i, (weights, panel)) in parts.enumerate() {
            let work = EncodePanel { isa, rounding, importance, weights, cols, panel };
            distortion += format.visit(work).map_err(|error| error.in_panel(i))?;
            // A block of zero weights has codes of zero, and a sign at its scale; a row that is not
            // there is zero bytes.
            (weights.len() / cols..PANEL_ROWS).for_each(|row| panel::clear_row(format, panel, row));
        }
        Ok(distortion)
    }
}

impl EncodeError {
    /// Counts the row from the start of the matrix instead of that of panel `panel`.
    #[must_use]
    pub fn in_panel(self, panel: usize) -> Self {
        let first = panel * PANEL_ROWS;
        match self {
            Self::NotFinite { row, col, value } => Self::NotFinite { row: first + row, col, value },
            Self::ScaleOverflow { row, col, magnitude } => Self::ScaleOverflow { row: first + row, col, magnitude },
            Self::Shape(_) | Self::Importance { .. } => self,
        }
    }
}

struct EncodePanel<'a> {
    isa: Isa,
    rounding: Rounding,
    importance: Option<&'a [f32]>,
    weights: &'a [f32],
    cols: usize,
    panel: &'a mut [u8],
}

impl FormatVisitor for EncodePanel<'_> {
    type Output = Result<Distortion, EncodeError>;

    fn visit<F: BlockFormat>(self) -> Self::Output {
        match self.importance {
            None => self.isa.run_without_dots(EncodeAs::<F, false>(self, PhantomData)),
            Some(_) => self.isa.run_without_dots(EncodeAs::<F, true>(self, PhantomData)),
        }
    }
}

/// A panel as format `F`; `GIVEN` says whether there is importance.
struct EncodeAs<'a, F, const GIVEN: bool>(EncodePanel<'a>, PhantomData<F>);

impl<F: BlockFormat, const GIVEN: bool> Kernel for EncodeAs<'_, F, GIVEN> {
    type Output = Result<Distortion, EncodeError>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        // Factors of 1 give the same bytes as no importance.
        if S::SHORT_CODE { self.0.encode_shared::<F, S>(simd) } else { self.0.encode::<F, S, GIVEN>(simd) }
    }
}

impl EncodePanel<'_> {
    /// Encodes with and without importance by the same code.
    #[inline(never)]
    fn encode_shared<F: BlockFormat, S: Simd>(self, simd: S) -> Result<Distortion, EncodeError> {
        self.encode::<F, S, true>(simd)
    }

    /// Encodes the panel; without `GIVEN`, all columns count the same.
    #[inline(always)]
    fn encode<F: BlockFormat, S: Simd, const GIVEN: bool>(self, simd: S) -> Result<Distortion, EncodeError> {
        let Self { rounding, importance, weights, cols, panel, .. } = self;
        if !all_finite(weights) {
            let at = weights.iter().position(|w| !w.is_finite()).unwrap_or_default();
            return Err(EncodeError::NotFinite { row: at / cols, col: at % cols, value: weights[at] });
        }
        let mut distortion = Distortion::default();
        let mut columns = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
        let columns = &mut columns[..F::LEN];
        let equal = [1.0; LONGEST_BLOCK];
        let mut own = [1.0; LONGEST_BLOCK];
        let mut codes = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
        let codes = &mut codes[..F::LEN];
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
            if let Some(importance) = importance {
                relative(&importance[first..first + len], &mut own);
                own[len..].fill(1.0);
            }
            // Each try replaces the one before it in the rows in which it is better.
            let (mut tries, mut count) = ([(rounding, &equal); 3], 1);
            if !F::HAS_ZERO && !len.is_multiple_of(ACTIVATION_BLOCK) {
                repeat(columns, len);
                repeat(&mut own, len);
                // Some columns count twice now, so that a search may do better by them and worse by
                // the block.
                if rounding == Rounding::Search {
                    tries[0].0 = Rounding::Nearest;
                    count = 2;
                }
            }
            if GIVEN && importance.is_some() {
                tries[count].1 = &own;
                count += 1;
            }
            let mut kept = RowDistortions::default();
            // In a loop so that the encoder is inlined only once.
            for (again, &(rounding, factors)) in tries[..count].iter().enumerate() {
                if again > 0 {
                    first_try.copy_from_slice(block);
                }
                let factors = Importance::<GIVEN>::new(factors);
                let fit = F::fit(simd, rounding, factors, columns);
                let found = code::<F, S, GIVEN>(simd, &fit, columns, codes, &own[..len]);
                let overflow = F::store(simd, &fit, codes, block);
                if overflow != 0 {
                    let row = overflow.trailing_zeros() as usize;
                    let magnitude = columns.iter().fold(0.0f32, |max, column| max.max(column[row].abs()));
                    return Err(EncodeError::ScaleOverflow { row, col: first, magnitude });
                }
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

/// The least importance of a column, as a part of the largest in its block. A search is free to
/// erase columns of no importance, and sums of much smaller factors would underflow.
const LEAST_IMPORTANCE: f32 = 1e-6;

/// Scales importance to [`LEAST_IMPORTANCE`]`..=1`: the largest factor becomes 1, and factors that
/// are all equal become exactly 1.
#[inline(always)]
fn relative(importance: &[f32], relative: &mut [f32]) {
    let largest = importance.iter().fold(0.0f32, |largest, &factor| largest.max(factor));
    for (relative, factor) in relative.iter_mut().zip(importance) {
        *relative = if largest > 0.0 { (factor / largest).max(LEAST_IMPORTANCE) } else { 1.0 };
    }
}

/// Fills the rest of the tile in which column `len` lies by repeating the tile's columns.
///
/// Where zero is not among the values of a format, zeros would draw scales and offsets away from
/// the weights.
#[inline(always)]
fn repeat<T: Copy>(columns: &mut [T], len: usize) {
    let start = len - len % ACTIVATION_BLOCK;
    for i in len..start + ACTIVATION_BLOCK {
        columns[i] = columns[i - len + start];
    }
}

/// [`Distortion`] of each row of a block.
#[derive(Clone, Copy, Default)]
struct RowDistortions {
    error: [f64; PANEL_ROWS],
    /// The error with each column's importance: which of two codings is better.
    weighted: [f64; PANEL_ROWS],
    signal: [f64; PANEL_ROWS],
}

impl RowDistortions {
    /// Adds the squared differences of `columns` and the weights that they decode to, as far as
    /// there is importance.
    ///
    /// In double precision, in which no square of a weight overflows or underflows.
    #[inline(always)]
    fn add<const GIVEN: bool>(&mut self, columns: &[Lanes], decoded: &[Lanes], importance: &[f32]) {
        let Self { mut error, mut weighted, mut signal } = *self;
        for ((column, decoded), &importance) in columns.iter().zip(decoded).zip(importance) {
            for row in 0..PANEL_ROWS {
                let weight = f64::from(column[row]);
                let difference = weight - f64::from(decoded[row]);
                error[row] += difference * difference;
                if GIVEN {
                    weighted[row] += f64::from(importance) * (difference * difference);
                }
                signal[row] += weight * weight;
            }
        }
        *self = Self { error, weighted, signal };
    }

    /// Keeps the better of two encodings, row by row: where `other` has less error, its error and
    /// the bytes of `block`; elsewhere the bytes of `before`, which are copied into `block`.
    #[inline(always)]
    fn replace_or_restore<F: BlockFormat>(&mut self, other: &Self, block: &mut [u8], before: &[u8]) {
        for row in 0..PANEL_ROWS {
            if other.weighted[row] < self.weighted[row] {
                (self.error[row], self.weighted[row]) = (other.error[row], other.weighted[row]);
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

/// Returns whether no weight is NaN or infinite. Without their sign bits, floats order as integers
/// do.
#[inline(always)]
fn all_finite(weights: &[f32]) -> bool {
    weights.iter().fold(0, |max: u32, w| max.max(w.to_bits() & 0x7fff_ffff)) < f32::INFINITY.to_bits()
}

/// Rounds each column to its codes. Returns the distance of the weights that they decode to from
/// `columns`, as far as there is importance; the columns behind are padding.
#[inline(always)]
fn code<F: BlockFormat, S: Simd, const GIVEN: bool>(
    simd: S,
    fit: &F::Fit<S>,
    columns: &[Lanes],
    codes: &mut [Lanes],
    importance: &[f32],
) -> RowDistortions {
    let mut distortions = RowDistortions::default();
    // Tile by tile: all decoded weights of a long block would take the cache from columns and
    // codes.
    let mut decoded = [[0.0; PANEL_ROWS]; ACTIVATION_BLOCK];
    let tiles = columns.chunks_exact(ACTIVATION_BLOCK).zip(codes.chunks_exact_mut(ACTIVATION_BLOCK));
    for (tile, (columns, codes)) in tiles.enumerate() {
        let first = tile * ACTIVATION_BLOCK;
        for (i, ((x, code), decoded)) in columns.iter().zip(codes).zip(&mut decoded).enumerate() {
            let found = F::code(simd, fit, first + i, simd.load_f32(x));
            simd.store(found.0, code);
            simd.store(found.1, decoded);
        }
        if let Some(importance) = importance.get(first..) {
            distortions.add::<GIVEN>(columns, &decoded, importance);
        }
    }
    if !GIVEN {
        distortions.weighted = distortions.error;
    }
    distortions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a block column by column and compares what `code` says with what `decode` reads.
    struct Codes<'a, F>(Rounding, Option<&'a [f32]>, &'a [Lanes], PhantomData<F>);

    impl<F: BlockFormat> Codes<'_, F> {
        #[inline(always)]
        fn check<S: Simd, const GIVEN: bool>(&self, simd: S, importance: &[f32]) {
            let Self(rounding, _, columns, _) = *self;
            let fit = F::fit(simd, rounding, Importance::<GIVEN>::new(importance), columns);
            // Error feedback takes columns away from what was fitted.
            for beyond in [1.0, -2.0, 2.0] {
                let mut codes = vec![[0.0; PANEL_ROWS]; F::LEN];
                let mut expected = codes.clone();
                // From the last column to the first: no code may depend on another one.
                for i in (0..F::LEN).rev() {
                    let x = simd.mul(simd.load_f32(&columns[i]), simd.splat(beyond));
                    let (code, decoded) = F::code(simd, &fit, i, x);
                    simd.store(code, &mut codes[i]);
                    simd.store(decoded, &mut expected[i]);
                }
                let mut panel = vec![0xaa; F::PANEL_BYTES];
                assert_eq!(F::store(simd, &fit, &codes, &mut panel), 0);
                for row in 0..PANEL_ROWS {
                    let mut block = Vec::new();
                    let mut field = 0;
                    for &width in F::FIELDS {
                        block.extend_from_slice(&panel[field + row * width..][..width]);
                        field += PANEL_ROWS * width;
                    }
                    let mut decoded = vec![f32::NAN; F::LEN];
                    F::decode(&block, &mut decoded);
                    for (i, decoded) in decoded.into_iter().enumerate() {
                        assert!(
                            decoded == expected[i][row],
                            "row {row}, column {i}: {decoded}, not {}",
                            expected[i][row]
                        );
                        assert!(codes[i][row].fract() == 0.0);
                    }
                }
            }
        }
    }

    impl<F: BlockFormat> Kernel for Codes<'_, F> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            match self.1 {
                None => self.check::<S, false>(simd, &[]),
                Some(importance) => self.check::<S, true>(simd, importance),
            }
        }
    }

    struct CodesOf<'a>(Isa, Rounding, Option<&'a [f32]>, &'a [Lanes]);

    impl FormatVisitor for CodesOf<'_> {
        type Output = ();

        fn visit<F: BlockFormat>(self) {
            self.0.run_without_dots(Codes::<F>(self.1, self.2, &self.3[..F::LEN], PhantomData));
        }
    }

    #[test]
    fn codes_mean_what_they_decode_to() {
        // Xorshift64.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut unit = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let importance: Vec<f32> = (0..LONGEST_BLOCK).map(|_| unit().powi(4).max(LEAST_IMPORTANCE)).collect();
        for magnitude in [1.0, 1e-6, 300.0] {
            let columns: Vec<Lanes> = (0..LONGEST_BLOCK)
                .map(|_| {
                    let mut column = [0.0; PANEL_ROWS];
                    column.iter_mut().for_each(|weight| *weight = (unit() + unit() + unit()) * magnitude);
                    column
                })
                .collect();
            for &format in Format::ALL {
                for &rounding in Rounding::ALL {
                    for isa in Isa::available() {
                        format.visit(CodesOf(isa, rounding, None, &columns));
                        format.visit(CodesOf(isa, rounding, Some(&importance), &columns));
                    }
                }
            }
        }
    }
}
