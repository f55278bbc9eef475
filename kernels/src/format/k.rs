//! Super-blocks of `N` lines with integer scales and offsets, for `q2_k`, `q4_k` and `q5_k`.
//!
//! A weight is `d·scale·code - dmin·min`; `d` and `dmin` are half-precision scales of the
//! super-block, `scale` and `min` integers of a sub-block of `W` columns.

use half::f16;

use super::line::{ColumnSums, Line, Lines};
use super::search::{clamp, finite_or_zero, ratio, stored_super_scale, whole};
use super::tile::Codes;
use super::{Importance, Lanes, Rounding, f16_at, field_at, inverse, store_scale, stored_scale};
use crate::isa::Simd;

/// Columns of a super-block.
pub(super) const LEN: usize = 256;

/// The constants in which the formats differ.
#[derive(Clone, Copy)]
pub(super) struct Ranges {
    pub(super) lines: Lines,
    /// The largest scale and min.
    pub(super) largest: f32,
}

/// A super-block of 16 rows without its codes, which are those nearest to the weights.
#[derive(Clone, Copy)]
pub(super) struct SuperBlock<S: Simd, const N: usize> {
    pub(super) d: S::F32,
    pub(super) dmin: S::F32,
    /// Integers, as are the mins.
    pub(super) scales: [S::F32; N],
    pub(super) mins: [S::F32; N],
}

impl<S: Simd, const N: usize> SuperBlock<S, N> {
    #[inline(always)]
    fn new<const W: usize, const GIVEN: bool>(
        simd: S,
        ranges: Ranges,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> Self {
        let nearest = Self::nearest(simd, ranges, columns);
        match rounding {
            Rounding::Nearest => nearest,
            Rounding::Search => search(simd, ranges, importance, columns, nearest),
        }
    }

    /// Fits each sub-block's line to its least and largest weight.
    #[inline(always)]
    fn nearest<const W: usize>(simd: S, ranges: Ranges, columns: &[[Lanes; W]; N]) -> Self {
        let zero = simd.splat(0.0);
        let mut targets = [Line { scale: zero, offset: zero }; N];
        for (target, columns) in targets.iter_mut().zip(columns) {
            let (low, high) = ranges.lines.ends(simd, columns);
            *target = Line { scale: simd.div(simd.sub(high, low), simd.splat(ranges.lines.largest)), offset: low };
        }
        Self::of_lines(simd, ranges, &targets)
    }

    /// Rounds lines to the nearest integers; the largest scale and the largest min become the
    /// largest integer.
    #[inline(always)]
    fn of_lines(simd: S, ranges: Ranges, targets: &[Line<S>; N]) -> Self {
        let zero = simd.splat(0.0);
        let (mut scale, mut min) = (zero, zero);
        for target in targets {
            scale = simd.max(scale, target.scale);
            min = simd.max(min, simd.sub(zero, target.offset));
        }
        let d = stored_super_scale(simd, simd.mul(scale, simd.splat(1.0 / ranges.largest)));
        let dmin = stored_super_scale(simd, simd.mul(min, simd.splat(1.0 / ranges.largest)));
        let (per_d, per_dmin) = (inverse(simd, d), inverse(simd, simd.sub(zero, dmin)));
        let mut block = Self { d, dmin, scales: [zero; N], mins: [zero; N] };
        for ((scale, min), target) in block.scales.iter_mut().zip(&mut block.mins).zip(targets) {
            *scale = whole(simd, clamp(simd, simd.mul(target.scale, per_d), 0.0, ranges.largest));
            *min = whole(simd, clamp(simd, simd.mul(target.offset, per_dmin), 0.0, ranges.largest));
        }
        block
    }

    /// Returns the line of a sub-block with the given integers.
    #[inline(always)]
    fn line(&self, simd: S, scale: S::F32, min: S::F32) -> Line<S> {
        Line { scale: simd.mul(self.d, scale), offset: simd.sub(simd.splat(0.0), simd.mul(self.dmin, min)) }
    }

    /// Replaces each sub-block's integers by the best within one of them. Returns the squared error
    /// of the super-block.
    #[inline(always)]
    fn improve<const W: usize, const GIVEN: bool>(
        &mut self,
        simd: S,
        ranges: Ranges,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (j, columns) in columns.iter().enumerate() {
            let importance = importance.of(W * j..W * (j + 1));
            let (scale, min) = (self.scales[j], self.mins[j]);
            let mut least = simd.splat(f32::INFINITY);
            for (up_scale, up_min) in NEIGHBOURS {
                let scale = clamp(simd, simd.add(scale, simd.splat(up_scale)), 0.0, ranges.largest);
                let min = clamp(simd, simd.add(min, simd.splat(up_min)), 0.0, ranges.largest);
                let error = ranges.lines.error(simd, importance, columns, self.line(simd, scale, min));
                self.scales[j] = simd.where_greater(least, error, scale, self.scales[j]);
                self.mins[j] = simd.where_greater(least, error, min, self.mins[j]);
                least = simd.where_greater(least, error, error, least);
            }
            total = simd.add(total, least);
        }
        total
    }

    /// Fits `d` and `dmin` to the codes and integers by least squares.
    #[inline(always)]
    fn refit<const W: usize, const GIVEN: bool>(
        &mut self,
        simd: S,
        ranges: Ranges,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) {
        let zero = simd.splat(0.0);
        let [mut uu, mut um, mut mm, mut xu, mut xm] = [zero; 5];
        for (j, columns) in columns.iter().enumerate() {
            let importance = importance.of(W * j..W * (j + 1));
            let (scale, min) = (self.scales[j], self.mins[j]);
            let line = self.line(simd, scale, min);
            let sums = ranges.lines.code_sums(simd, importance, columns, inverse(simd, line.scale), line.offset);
            let ColumnSums { n, x } = ColumnSums::new(simd, importance, columns);
            uu = simd.mul_add(simd.mul(scale, scale), sums.qq, uu);
            um = simd.mul_add(simd.mul(scale, min), sums.q, um);
            mm = simd.mul_add(simd.mul(min, min), n, mm);
            xu = simd.mul_add(scale, sums.xq, xu);
            xm = simd.mul_add(min, x, xm);
        }
        // x = d·u - dmin·m: the normal equations.
        let det = simd.sub(simd.mul(uu, mm), simd.mul(um, um));
        let d = simd.sub(simd.mul(xu, mm), simd.mul(um, xm));
        let dmin = simd.sub(simd.mul(xu, um), simd.mul(uu, xm));
        let alone = ratio(simd, xu, uu);
        let d = simd.where_greater(det, zero, simd.div(d, det), alone);
        let dmin = simd.where_greater(det, zero, simd.div(dmin, det), self.dmin);
        // Of two zeros the positive one.
        self.d = stored_scale(simd, simd.add(simd.max(finite_or_zero(simd, d), zero), zero));
        self.dmin = stored_scale(simd, simd.add(simd.max(finite_or_zero(simd, dmin), zero), zero));
        self.limit(simd);
    }

    /// Lowers scales that were rounded to infinity to the largest finite value, so that lines stay
    /// finite.
    #[inline(always)]
    fn limit(&mut self, simd: S) {
        self.d = simd.min(self.d, simd.splat(f16::MAX.to_f32_const()));
        self.dmin = simd.min(self.dmin, simd.splat(f16::MAX.to_f32_const()));
    }

    /// Returns the squared error.
    #[inline(always)]
    fn error<const W: usize, const GIVEN: bool>(
        &self,
        simd: S,
        ranges: Ranges,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (j, columns) in columns.iter().enumerate() {
            let line = self.line(simd, self.scales[j], self.mins[j]);
            total = simd.add(total, ranges.lines.error(simd, importance.of(W * j..W * (j + 1)), columns, line));
        }
        total
    }

    /// Takes over the rows of `other` in which `error` is less than `least`.
    #[inline(always)]
    fn replace(&mut self, simd: S, least: S::F32, error: S::F32, other: &Self) {
        self.d = simd.where_greater(least, error, other.d, self.d);
        self.dmin = simd.where_greater(least, error, other.dmin, self.dmin);
        for j in 0..N {
            self.scales[j] = simd.where_greater(least, error, other.scales[j], self.scales[j]);
            self.mins[j] = simd.where_greater(least, error, other.mins[j], self.mins[j]);
        }
    }
}

impl<S: Simd> SuperBlock<S, 8> {
    /// Writes `d`, `dmin` and the packed integers: the first four fields of the block. Returns
    /// which rows overflowed.
    #[inline(always)]
    fn store(&self, simd: S, d: &mut [u8; 32], dmin: &mut [u8; 32], packed: &mut [[u8; 64]]) -> u16 {
        // Integers 4..8 are split: four bits of scale and min share a byte, two bits lie above
        // integers 0..4.
        let split = |a: S::F32| {
            let high = simd.trunc(simd.mul(a, simd.splat(1.0 / 16.0)));
            (simd.mul_add(high, simd.splat(-16.0), a), high)
        };
        let zero = simd.to_i32(simd.splat(0.0));
        let [mut first, mut second, mut third] = [[zero; 4]; 3];
        for j in 0..4 {
            let (low_scale, high_scale) = split(self.scales[j + 4]);
            let (low_min, high_min) = split(self.mins[j + 4]);
            first[j] = simd.to_i32(simd.mul_add(high_scale, simd.splat(64.0), self.scales[j]));
            second[j] = simd.to_i32(simd.mul_add(high_min, simd.splat(64.0), self.mins[j]));
            third[j] = simd.to_i32(simd.mul_add(low_min, simd.splat(16.0), low_scale));
        }
        for (field, out) in [first, second, third].into_iter().zip(packed) {
            simd.store_bytes(simd.pack(field), out);
        }
        store_scale(simd, self.d, d) | store_scale(simd, self.dmin, dmin)
    }
}

/// The scales of a super-block, as stored, and the lines of its sub-blocks.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd, const N: usize> {
    pub(super) block: SuperBlock<S, N>,
    lines: [Line<S>; N],
    /// `1 / scale` of each line.
    inverses: [S::F32; N],
}

impl<S: Simd, const N: usize> Fit<S, N> {
    /// Fits a super-block to its columns.
    #[inline(always)]
    pub(super) fn new<const W: usize, const GIVEN: bool>(
        simd: S,
        ranges: Ranges,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self {
        let columns: &[[Lanes; W]; N] = columns.as_chunks().0.as_array().expect("N sub-blocks of W columns");
        let block = SuperBlock::new(simd, ranges, rounding, importance, columns);
        let zero = simd.splat(0.0);
        let mut fit = Self { block, lines: [Line { scale: zero, offset: zero }; N], inverses: [zero; N] };
        for j in 0..N {
            fit.lines[j] = block.line(simd, block.scales[j], block.mins[j]);
            fit.inverses[j] = inverse(simd, fit.lines[j].scale);
        }
        fit
    }

    /// Finds the code of a weight, and what it decodes to.
    #[inline(always)]
    pub(super) fn code(&self, simd: S, lines: Lines, column: usize, x: S::F32) -> (S::F32, S::F32) {
        let (line, inverse) = (self.lines[column / (LEN / N)], self.inverses[column / (LEN / N)]);
        let code = lines.code(simd, simd.sub(x, line.offset), inverse);
        (code, simd.mul_add(line.scale, code, line.offset))
    }
}

impl<S: Simd> Fit<S, 8> {
    /// Writes the scales and mins, of 6 bits each. Returns which rows overflowed, one bit each, and
    /// the fields that follow.
    #[inline(always)]
    pub(super) fn store<'a>(&self, simd: S, block: &'a mut [u8]) -> (u16, &'a mut [[u8; 64]]) {
        let (d, dmin, fields) = fields_mut(block);
        let (packed, codes) = fields.split_at_mut(3);
        (self.block.store(simd, d, dmin, packed), codes)
    }
}

/// Offsets to the scale and min of a sub-block that the search tries.
const NEIGHBOURS: [(f32, f32); 9] =
    [(0.0, 0.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, -1.0)];

/// Number of times that the integers are improved.
const ROUNDS: usize = 2;

/// Searches for better integers and super-block scales; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd, const N: usize, const W: usize, const GIVEN: bool>(
    simd: S,
    ranges: Ranges,
    importance: Importance<'_, GIVEN>,
    columns: &[[Lanes; W]; N],
    nearest: SuperBlock<S, N>,
) -> SuperBlock<S, N> {
    let zero = simd.splat(0.0);
    let mut targets = [Line { scale: zero, offset: zero }; N];
    for (j, (target, columns)) in targets.iter_mut().zip(columns).enumerate() {
        *target = ranges.lines.best(simd, importance.of(W * j..W * (j + 1)), columns);
    }
    let mut found = nearest;
    // Where nearest rounding overflows nothing is less than this, and the overflow stays for the
    // caller to see.
    let scales = simd.max(nearest.d, nearest.dmin);
    let mut least = nearest.error(simd, ranges, importance, columns);
    least = simd.where_greater(simd.splat(f32::INFINITY), scales, least, zero);
    let mut trial = SuperBlock::of_lines(simd, ranges, &targets);
    trial.limit(simd);
    for round in 0..ROUNDS {
        if round > 0 {
            trial.refit(simd, ranges, importance, columns);
        }
        let error = trial.improve(simd, ranges, importance, columns);
        found.replace(simd, least, error, &trial);
        least = simd.where_greater(least, error, error, least);
    }
    found
}

/// Unpacks the scale and the min of sub-block `j` from their 12 bytes.
fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// Decodes a block; `code(i)` returns the code of column `i`.
pub(super) fn decode(block: &[u8], weights: &mut [f32], code: impl Fn(usize) -> u8) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let dmin = f16::from_le_bytes([block[2], block[3]]).to_f32();
    for (j, weights) in weights.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (l, weight) in weights.iter_mut().enumerate() {
            *weight = scale * f32::from(code(32 * j + l)) - min;
        }
    }
}

/// Splits a block of a panel into `d`, `dmin` and the fields of four bytes per row.
#[inline(always)]
fn fields_mut(block: &mut [u8]) -> (&mut [u8; 32], &mut [u8; 32], &mut [[u8; 64]]) {
    let (d, rest) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
    let (dmin, fields) = rest.split_first_chunk_mut::<32>().expect("16 mins follow");
    (d, dmin, fields.as_chunks_mut::<64>().0)
}

/// `d·scale` and `-dmin·min` of the sub-blocks, exact.
pub(super) type ScalesAndOffsets<S> = [(<S as Simd>::F32, <S as Simd>::F32); 8];

/// Unpacks the scales and offsets of a block of a panel.
#[inline(always)]
pub(super) fn scales_and_offsets<S: Simd>(simd: S, block: &[u8]) -> ScalesAndOffsets<S> {
    let [first, second, third] =
        [field_at(simd, block, 64, 0), field_at(simd, block, 64, 1), field_at(simd, block, 64, 2)];
    // Integers 4..8 are split: four bits of scale and min share a byte, two bits lie above
    // integers 0..4.
    let high_scales = simd.or(simd.bits(third, 0, 15, 0), simd.bits(first, 6, 3, 4));
    let high_mins = simd.or(simd.bits(third, 4, 15, 0), simd.bits(second, 6, 3, 4));
    let low = [simd.bits(first, 0, 63, 0), simd.bits(second, 0, 63, 0)];
    let d = [f16_at(simd, block, 0), simd.sub(simd.splat(0.0), f16_at(simd, block, 32))];
    let high = [high_scales, high_mins];
    // One after the other: a loop over them would be left a loop, through memory.
    [
        numbers(simd, d, low, 0),
        numbers(simd, d, low, 1),
        numbers(simd, d, low, 2),
        numbers(simd, d, low, 3),
        numbers(simd, d, high, 0),
        numbers(simd, d, high, 1),
        numbers(simd, d, high, 2),
        numbers(simd, d, high, 3),
    ]
}

/// Widens byte `j` of two fields and multiplies each by its `d`.
#[inline(always)]
fn numbers<S: Simd>(simd: S, d: [S::F32; 2], fields: [S::Bytes; 2], j: u32) -> (S::F32, S::F32) {
    (simd.mul(d[0], simd.to_f32(simd.byte(fields[0], j))), simd.mul(d[1], simd.to_f32(simd.byte(fields[1], j))))
}

/// Unpacks the low four bits of the codes of a sub-block. The codes of the block begin at `at`.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(simd: S, block: &[u8], at: usize, sub_block: usize) -> Codes<S> {
    let mut codes = [field_at(simd, block, at, 0); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        let pair = field_at(simd, block, at, 8 * (sub_block / 2) + i);
        *codes = simd.bits(pair, 4 * (sub_block as u32 % 2), 15, 0);
    }
    codes
}
