//! Sums and errors over columns that the searches of several formats use, one row per lane.
//!
//! Everything here is a fixed sequence of correctly rounded operations, ascending over the columns,
//! so its results do not depend on the instruction set. The steps are defined in
//! `docs/quantization.md`.

use super::{Importance, Lanes, stored_scale};
use crate::isa::Simd;
use crate::math::ROUND;

/// Rounds a value below 2²² in magnitude to the nearest whole one, ties to even.
#[inline(always)]
pub(super) fn whole<S: Simd>(simd: S, a: S::F32) -> S::F32 {
    simd.sub(simd.add(a, simd.splat(ROUND)), simd.splat(ROUND))
}

/// Clamps `a` to `low..=high`.
#[inline(always)]
pub(super) fn clamp<S: Simd>(simd: S, a: S::F32, low: f32, high: f32) -> S::F32 {
    simd.min(simd.max(a, simd.splat(low)), simd.splat(high))
}

/// Returns `a / b` where `b` is positive, else 0.
#[inline(always)]
pub(super) fn ratio<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
    simd.where_greater(b, simd.splat(0.0), simd.div(a, b), simd.splat(0.0))
}

/// Returns `a` where it is finite, else 0.
#[inline(always)]
pub(super) fn finite_or_zero<S: Simd>(simd: S, a: S::F32) -> S::F32 {
    simd.where_greater(simd.splat(f32::INFINITY), simd.abs(a), a, simd.splat(0.0))
}

/// Rounds the scale of a super-block to half precision, as it is stored, and widens it again.
///
/// Adds almost half of the smallest step to its magnitude first. Scales in the subnormal range are
/// then rounded up, so that the integers that multiply them need not exceed their range; other
/// scales hardly change. Scales that can be stored exactly do not change, nor do those up to 2⁻¹¹
/// of a step beyond: there an integer of up to 128 exceeds its range by at most a sixteenth, which
/// is rounded off again.
#[inline(always)]
pub(super) fn stored_super_scale<S: Simd>(simd: S, scale: S::F32) -> S::F32 {
    let half_step = simd.where_greater(simd.splat(0.0), scale, simd.splat(-ALMOST_HALF), simd.splat(ALMOST_HALF));
    stored_scale(simd, simd.add(scale, half_step))
}

/// `2^-25 - 2^-35`; `2^-24` is the smallest positive half-precision value.
const ALMOST_HALF: f32 = 1023.0 / (1u64 << 35) as f32;

/// Finds the weight of largest magnitude, the first of them, with its sign.
#[inline(always)]
pub(super) fn extreme<S: Simd>(simd: S, columns: &[Lanes]) -> S::F32 {
    let (mut largest, mut extreme) = (simd.splat(0.0), simd.splat(0.0));
    for column in columns {
        let x = simd.load_f32(column);
        extreme = simd.where_greater(simd.abs(x), largest, x, extreme);
        largest = simd.max(largest, simd.abs(x));
    }
    extreme
}

/// A set of values; a block's weights become multiples of them.
pub(super) trait Grid: Copy {
    /// Returns the grid's value nearest to `y`.
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32;

    /// Returns the nearest value or, where that is faster, nearly the nearest one: good enough to
    /// compare scales by.
    #[inline(always)]
    fn nearly<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        self.nearest(simd, y)
    }
}

/// The integers `-n..=n - 1`.
#[derive(Clone, Copy)]
pub(super) struct Integers(pub(super) f32);

impl Grid for Integers {
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        whole(simd, clamp(simd, y, -self.0, self.0 - 1.0))
    }
}

/// A grid that returns nearly the nearest values.
#[derive(Clone, Copy)]
pub(super) struct Roughly<G>(pub(super) G);

impl<G: Grid> Grid for Roughly<G> {
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        self.0.nearly(simd, y)
    }
}

/// Sums up `Σ x·v` and `Σ v²`, each term times the column's importance, for the values `v` that are
/// nearest to `x·inverse`.
#[inline(always)]
pub(super) fn sums<S: Simd, const GIVEN: bool>(
    simd: S,
    grid: impl Grid,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes],
    inverse: S::F32,
) -> (S::F32, S::F32) {
    let (mut xv, mut vv) = (simd.splat(0.0), simd.splat(0.0));
    for (i, column) in columns.iter().enumerate() {
        let x = simd.load_f32(column);
        let v = grid.nearest(simd, simd.mul(x, inverse));
        let weighted = importance.times(simd, i, v);
        xv = simd.mul_add(x, weighted, xv);
        vv = simd.mul_add(v, weighted, vv);
    }
    (xv, vv)
}

/// Sums up `Σ importance·(x - scale·v)²` for the values `v` that are nearest to `x·inverse`.
#[inline(always)]
pub(super) fn error<S: Simd, const GIVEN: bool>(
    simd: S,
    grid: impl Grid,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes],
    scale: S::F32,
    inverse: S::F32,
) -> S::F32 {
    let mut sum = simd.splat(0.0);
    for (i, column) in columns.iter().enumerate() {
        let x = simd.load_f32(column);
        let v = grid.nearest(simd, simd.mul(x, inverse));
        let difference = simd.sub(x, simd.mul(scale, v));
        sum = simd.mul_add(difference, importance.times(simd, i, difference), sum);
    }
    sum
}
