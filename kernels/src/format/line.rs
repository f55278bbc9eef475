//! Blocks on a line, for `q4_1`, `q5_1`, `q2_k`, `q4_k` and `q5_k`: weight =
//! `scale·code + offset`, codes from 0.

use super::search::ratio;
use super::{Importance, Lanes, inverse};
use crate::isa::Simd;
use crate::math::ROUND;

/// A line for each row.
#[derive(Clone, Copy)]
pub(super) struct Line<S: Simd> {
    pub(super) scale: S::F32,
    pub(super) offset: S::F32,
}

/// The lines that a format can store.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    /// The largest code.
    pub(super) largest: f32,
    /// The largest offset.
    pub(super) top: f32,
    /// Where the search places the least and the largest weight: how many codes above the first and
    /// below the last one.
    pub(super) places: &'static [(f32, f32)],
}

/// `Σ 1` and `Σ x` over the `W` columns of a line, each term times the column's importance.
#[derive(Clone, Copy)]
pub(super) struct ColumnSums<S: Simd> {
    pub(super) n: S::F32,
    pub(super) x: S::F32,
}

impl<S: Simd> ColumnSums<S> {
    #[inline(always)]
    pub(super) fn new<const W: usize, const GIVEN: bool>(
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes; W],
    ) -> Self {
        let mut x = simd.splat(0.0);
        for (i, column) in columns.iter().enumerate() {
            x = simd.add(x, importance.times(simd, i, simd.load_f32(column)));
        }
        Self { n: importance.sum::<S, W>(simd), x }
    }
}

/// `Σ q`, `Σ q²` and `Σ x·q` over the columns of a line, each term times the column's importance.
#[derive(Clone, Copy)]
pub(super) struct CodeSums<S: Simd> {
    pub(super) q: S::F32,
    pub(super) qq: S::F32,
    pub(super) xq: S::F32,
}

impl Lines {
    /// Rounds a weight that is `y` above the offset to its code.
    #[inline(always)]
    pub(super) fn code<S: Simd>(self, simd: S, y: S::F32, inverse: S::F32) -> S::F32 {
        let code = simd.mul_add(y, inverse, simd.splat(ROUND));
        let code = simd.min(simd.max(code, simd.splat(ROUND)), simd.splat(ROUND + self.largest));
        simd.sub(code, simd.splat(ROUND))
    }

    /// Sums up `Σ importance·(x - weight)²`.
    #[inline(always)]
    pub(super) fn error<S: Simd, const W: usize, const GIVEN: bool>(
        self,
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes; W],
        line: Line<S>,
    ) -> S::F32 {
        let inverse = inverse(simd, line.scale);
        let down = simd.sub(simd.splat(0.0), line.scale);
        let mut sum = simd.splat(0.0);
        for (i, column) in columns.iter().enumerate() {
            let y = simd.sub(simd.load_f32(column), line.offset);
            let difference = simd.mul_add(self.code(simd, y, inverse), down, y);
            sum = simd.mul_add(difference, importance.times(simd, i, difference), sum);
        }
        sum
    }

    /// Sums up with the codes that the line `offset`, `1 / inverse` gives.
    #[inline(always)]
    pub(super) fn code_sums<S: Simd, const W: usize, const GIVEN: bool>(
        self,
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes; W],
        inverse: S::F32,
        offset: S::F32,
    ) -> CodeSums<S> {
        let zero = simd.splat(0.0);
        let mut sums = CodeSums { q: zero, qq: zero, xq: zero };
        for (i, column) in columns.iter().enumerate() {
            let x = simd.load_f32(column);
            let q = self.code(simd, simd.sub(x, offset), inverse);
            let weighted = importance.times(simd, i, q);
            sums.q = simd.add(sums.q, weighted);
            sums.qq = simd.mul_add(q, weighted, sums.qq);
            sums.xq = simd.mul_add(x, weighted, sums.xq);
        }
        sums
    }

    /// Returns the least and the largest weight, the least no more than the largest offset.
    #[inline(always)]
    pub(super) fn ends<S: Simd, const W: usize>(self, simd: S, columns: &[Lanes; W]) -> (S::F32, S::F32) {
        let first = simd.load_f32(&columns[0]);
        let (mut low, mut high) = (simd.min(first, simd.splat(self.top)), first);
        for column in &columns[1..] {
            let x = simd.load_f32(column);
            (low, high) = (simd.min(low, x), simd.max(high, x));
        }
        // Which of two zeros is the smaller one is open; what is stored is +0.
        (simd.add(low, simd.splat(0.0)), simd.add(high, simd.splat(0.0)))
    }

    /// Finds the line of least squared error for the codes of `sums`, and by how much it lessens
    /// that error.
    #[inline(always)]
    pub(super) fn regression<S: Simd>(self, simd: S, sums: &CodeSums<S>, columns: ColumnSums<S>) -> (Line<S>, S::F32) {
        let ColumnSums { n, x } = columns;
        let spread = simd.sub(simd.mul(n, sums.qq), simd.mul(sums.q, sums.q));
        let common = simd.sub(simd.mul(n, sums.xq), simd.mul(x, sums.q));
        let scale = ratio(simd, common, spread);
        let offset = simd.div(simd.sub(x, simd.mul(scale, sums.q)), n);
        let top = simd.splat(self.top);
        let scale = simd.where_greater(offset, top, ratio(simd, sums.xq, sums.qq), scale);
        let offset = simd.min(offset, top);
        (Line { scale, offset }, simd.mul_add(scale, sums.xq, simd.mul(offset, x)))
    }

    /// Finds the best of the lines that fit the codes of one of the places.
    #[inline(always)]
    pub(super) fn best<S: Simd, const W: usize, const GIVEN: bool>(
        self,
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes; W],
    ) -> Line<S> {
        let (low, high) = self.ends(simd, columns);
        let range = simd.sub(high, low);
        let column_sums = ColumnSums::new(simd, importance, columns);
        let unit = inverse(simd, range);
        let mut best = Line { scale: simd.splat(0.0), offset: simd.min(simd.splat(0.0), simd.splat(self.top)) };
        let mut most = simd.splat(0.0);
        for &(above, below) in self.places {
            let codes = self.largest - above - below;
            let inverse = simd.mul(unit, simd.splat(codes));
            let offset = simd.mul_add(range, simd.splat(-above / codes), low);
            let sums = self.code_sums(simd, importance, columns, inverse, offset);
            let (line, gain) = self.regression(simd, &sums, column_sums);
            best.scale = simd.where_greater(gain, most, line.scale, best.scale);
            best.offset = simd.where_greater(gain, most, line.offset, best.offset);
            most = simd.where_greater(gain, most, gain, most);
        }
        best
    }
}

/// Places for codes of 4 bits.
///
/// Chosen greedily from a grid of step 0.15, -0.6..1.65 at both ends, on normally and t-distributed
/// blocks.
pub(super) const PLACES_4: [(f32, f32); 20] = [
    (-0.15, -0.15),
    (-0.45, 0.15),
    (0.15, -0.45),
    (0.9, -0.15),
    (0.0, -0.3),
    (-0.3, 0.0),
    (-0.3, 1.05),
    (0.15, 0.15),
    (0.15, 0.75),
    (-0.45, -0.45),
    (-0.6, 0.3),
    (0.9, 0.9),
    (-0.15, -0.6),
    (0.3, 0.0),
    (0.0, 0.3),
    (-0.6, -0.3),
    (0.15, -0.6),
    (1.05, 0.15),
    (-0.6, 0.0),
    (1.05, 0.75),
];

/// Places for codes of 5 bits, from a grid of step 0.25, -0.6..3.4.
pub(super) const PLACES_5: [(f32, f32); 20] = [
    (-0.1, -0.1),
    (0.9, -0.1),
    (0.15, -0.35),
    (-0.35, 0.15),
    (1.9, -0.1),
    (-0.1, 1.15),
    (0.15, 0.9),
    (-0.1, 0.15),
    (2.9, -0.1),
    (0.15, -0.1),
    (-0.1, 2.15),
    (0.15, -0.6),
    (0.15, 1.9),
    (-0.6, 0.15),
    (-0.35, -0.35),
    (0.9, 2.9),
    (0.15, 0.15),
    (0.65, 0.15),
    (1.15, -0.35),
    (0.15, 2.9),
];
