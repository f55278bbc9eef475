//! Blocks of 32 columns on a line with scale and offset in half precision, for `q4_1` and `q5_1`.

use super::line::{ColumnSums, Line, Lines};
use super::search::{clamp, finite_or_zero};
use super::{Importance, Lanes, Rounding, inverse, store_scale, stored_scale};
use crate::isa::Simd;

/// The line of a block, and how its codes are rounded.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    /// As stored.
    line: Line<S>,
    /// What is taken off a weight, and what the rest is multiplied with, to find its code.
    from: S::F32,
    inverse: S::F32,
    /// 1 in rows whose codes are [`reference_code`]s, 0 in rows whose codes are those of [`Lines`].
    reference: S::F32,
}

impl<S: Simd> Fit<S> {
    /// Fits the line of a block to its columns.
    #[inline(always)]
    pub(super) fn new<const GIVEN: bool>(
        simd: S,
        lines: Lines,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self {
        let columns: &[Lanes; 32] = columns.as_array().expect("32 columns");
        let nearest = Self::nearest(simd, lines, columns);
        match rounding {
            Rounding::Nearest => nearest,
            Rounding::Search => search(simd, lines, importance, columns, nearest),
        }
    }

    /// Fits the line from the least to the largest weight.
    #[inline(always)]
    fn nearest(simd: S, lines: Lines, columns: &[Lanes; 32]) -> Self {
        let (low, high) = lines.ends(simd, columns);
        let scale = simd.div(simd.sub(high, low), simd.splat(lines.largest));
        let line = Line { scale: stored_scale(simd, scale), offset: stored_scale(simd, low) };
        Self { line, from: low, inverse: inverse(simd, scale), reference: simd.splat(1.0) }
    }

    /// Finds the code of a weight, and what it decodes to.
    #[inline(always)]
    pub(super) fn code(&self, simd: S, lines: Lines, x: S::F32) -> (S::F32, S::F32) {
        let code = lines.code(simd, simd.sub(x, self.from), self.inverse);
        let reference = reference_code(simd, lines, x, self);
        let code = simd.where_greater(self.reference, simd.splat(0.0), reference, code);
        (code, simd.mul_add(self.line.scale, code, self.line.offset))
    }

    /// Writes scales and offsets. Returns which rows overflowed, one bit each, and the codes'
    /// fields, which follow.
    #[inline(always)]
    pub(super) fn store<'a>(&self, simd: S, block: &'a mut [u8]) -> (u16, &'a mut [[u8; 64]]) {
        let (scales, rest) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
        let (offsets, codes) = rest.split_first_chunk_mut::<32>().expect("16 offsets follow");
        let overflow = store_scale(simd, self.line.scale, scales) | store_scale(simd, self.line.offset, offsets);
        (overflow, codes.as_chunks_mut::<64>().0)
    }
}

/// Rounds a weight to its code as GGUF's reference does.
#[inline(always)]
fn reference_code<S: Simd>(simd: S, lines: Lines, x: S::F32, fit: &Fit<S>) -> S::F32 {
    let above = simd.mul(simd.sub(x, fit.from), fit.inverse);
    clamp(simd, simd.trunc(simd.add(above, simd.splat(0.5))), 0.0, lines.largest)
}

/// Number of times that line and codes are fitted to each other.
const REFITS: usize = 2;

/// Searches for lines of less error than `nearest`; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd, const GIVEN: bool>(
    simd: S,
    lines: Lines,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes; 32],
    nearest: Fit<S>,
) -> Fit<S> {
    let mut least = simd.splat(0.0);
    for (i, column) in columns.iter().enumerate() {
        let x = simd.load_f32(column);
        let y = simd.sub(x, nearest.line.offset);
        let difference = simd.sub(y, simd.mul(nearest.line.scale, reference_code(simd, lines, x, &nearest)));
        least = simd.mul_add(difference, importance.times(simd, i, difference), least);
    }
    // Where nearest rounding overflows nothing is less than this, and the overflow stays for the
    // caller to see.
    let larger = simd.max(simd.abs(nearest.line.scale), simd.abs(nearest.line.offset));
    least = simd.where_greater(simd.splat(f32::INFINITY), larger, least, simd.splat(0.0));
    let column_sums = ColumnSums::new(simd, importance, columns);
    let mut found = nearest;
    let mut line = lines.best(simd, importance, columns);
    for round in 0..REFITS {
        if round > 0 {
            let inverse = inverse(simd, line.scale);
            let sums = lines.code_sums(simd, importance, columns, inverse, line.offset);
            line = lines.regression(simd, &sums, column_sums).0;
        }
        line.scale = finite_or_zero(simd, stored_scale(simd, line.scale));
        line.offset = finite_or_zero(simd, stored_scale(simd, line.offset));
        let error = lines.error(simd, importance, columns, line);
        found.line.scale = simd.where_greater(least, error, line.scale, found.line.scale);
        found.line.offset = simd.where_greater(least, error, line.offset, found.line.offset);
        found.from = simd.where_greater(least, error, line.offset, found.from);
        found.inverse = simd.where_greater(least, error, inverse(simd, line.scale), found.inverse);
        found.reference = simd.where_greater(least, error, simd.splat(0.0), found.reference);
        least = simd.where_greater(least, error, error, least);
    }
    found
}
