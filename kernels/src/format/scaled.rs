//! Super-blocks of `N` sub-blocks with signed integer scales, for `q3_k`, `q6_k` and `iq4_xs`.
//!
//! A weight is `d·scale·v`: `d` is a half-precision scale of the super-block, `scale` an integer
//! of a sub-block of `W` columns, `v` a value of the format's grid.

use super::search::{self, Grid, Roughly, clamp, extreme, finite_or_zero, ratio, stored_super_scale, whole};
use super::{Importance, Lanes, Rounding, inverse, stored_scale};
use crate::isa::Simd;

/// The constants in which the formats differ.
#[derive(Clone, Copy)]
pub(super) struct Scaling<G> {
    pub(super) grid: G,
    /// The value at which nearest rounding puts the weight of largest magnitude.
    pub(super) end: f32,
    /// The values at which the search puts it.
    pub(super) places: &'static [f32],
    /// By how much the search makes `d` larger than nearest rounding does, so that scales can grow.
    pub(super) headrooms: &'static [f32],
    /// The least and the largest scale.
    pub(super) lowest: f32,
    pub(super) highest: f32,
}

/// A super-block of 16 rows without its codes, which are those nearest to the weights.
#[derive(Clone, Copy)]
struct SuperBlock<S: Simd, const N: usize> {
    d: S::F32,
    /// Integers.
    scales: [S::F32; N],
}

impl<S: Simd, const N: usize> SuperBlock<S, N> {
    #[inline(always)]
    fn new<const W: usize, const GIVEN: bool>(
        simd: S,
        scaling: Scaling<impl Grid>,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> Self {
        let zero = simd.splat(0.0);
        let mut extremes = [zero; N];
        let mut largest = zero;
        for (found, columns) in extremes.iter_mut().zip(columns) {
            *found = extreme(simd, columns);
            largest = simd.where_greater(simd.abs(*found), simd.abs(largest), *found, largest);
        }
        // The largest weight at the grid's end, with the lowest scale.
        let d = stored_super_scale(simd, simd.div(largest, simd.splat(scaling.end * scaling.lowest)));
        let per_d = inverse(simd, d);
        let mut found = Self { d, scales: [zero; N] };
        for (scale, &extreme) in found.scales.iter_mut().zip(&extremes) {
            let target = simd.mul(simd.mul(extreme, simd.splat(1.0 / scaling.end)), per_d);
            *scale = whole(simd, clamp(simd, target, scaling.lowest, scaling.highest));
        }
        if rounding == Rounding::Search {
            found.search(simd, scaling, importance, columns, &extremes);
        }
        found
    }

    #[inline(always)]
    fn search<const W: usize, const GIVEN: bool>(
        &mut self,
        simd: S,
        scaling: Scaling<impl Grid>,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
        extremes: &[S::F32; N],
    ) {
        let zero = simd.splat(0.0);
        // Where nearest rounding overflows nothing is less than this, and the overflow stays for
        // the caller to see.
        let finite = simd.splat(f32::INFINITY);
        let error = self.error(simd, scaling, importance, columns);
        let mut least = simd.where_greater(finite, simd.abs(self.d), error, zero);
        let nearest = *self;
        for &headroom in scaling.headrooms {
            let mut trial = nearest;
            trial.d = stored_scale(simd, simd.mul(nearest.d, simd.splat(headroom)));
            let per_d = inverse(simd, trial.d);
            let mut total = zero;
            for (j, ((scale, columns), &extreme)) in trial.scales.iter_mut().zip(columns).zip(extremes).enumerate() {
                let importance = importance.of(W * j..W * (j + 1));
                let unit = simd.mul(extreme, per_d);
                let mut least = finite;
                for &place in scaling.places {
                    let candidate = simd.mul(unit, simd.splat(1.0 / place));
                    let candidate = whole(simd, clamp(simd, candidate, scaling.lowest, scaling.highest));
                    let step = simd.mul(trial.d, candidate);
                    let inverse = inverse(simd, step);
                    let error = search::error(simd, Roughly(scaling.grid), importance, columns, step, inverse);
                    *scale = simd.where_greater(least, error, candidate, *scale);
                    least = simd.where_greater(least, error, error, least);
                }
                total = simd.add(total, least);
            }
            self.replace(simd, least, total, &trial);
            least = simd.where_greater(least, total, total, least);
            for _ in 0..REFITS {
                trial.refit(simd, scaling, importance, columns);
                let error = trial.improve(simd, scaling, importance, columns);
                self.replace(simd, least, error, &trial);
                least = simd.where_greater(least, error, error, least);
            }
        }
    }

    /// Replaces each scale by the best within one of it. Returns the squared error of the
    /// super-block.
    #[inline(always)]
    fn improve<const W: usize, const GIVEN: bool>(
        &mut self,
        simd: S,
        scaling: Scaling<impl Grid>,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (j, columns) in columns.iter().enumerate() {
            let importance = importance.of(W * j..W * (j + 1));
            let scale = self.scales[j];
            let mut least = simd.splat(f32::INFINITY);
            for up in [0.0, -1.0, 1.0] {
                let candidate = clamp(simd, simd.add(scale, simd.splat(up)), scaling.lowest, scaling.highest);
                let error = self.error_of(simd, scaling, importance, columns, candidate);
                self.scales[j] = simd.where_greater(least, error, candidate, self.scales[j]);
                least = simd.where_greater(least, error, error, least);
            }
            total = simd.add(total, least);
        }
        total
    }

    /// Fits `d` to the scales and their codes by least squares.
    #[inline(always)]
    fn refit<const W: usize, const GIVEN: bool>(
        &mut self,
        simd: S,
        scaling: Scaling<impl Grid>,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) {
        let (mut xv, mut vv) = (simd.splat(0.0), simd.splat(0.0));
        for (j, (&scale, columns)) in self.scales.iter().zip(columns).enumerate() {
            let inverse = inverse(simd, simd.mul(self.d, scale));
            let sums = search::sums(simd, scaling.grid, importance.of(W * j..W * (j + 1)), columns, inverse);
            xv = simd.mul_add(scale, sums.0, xv);
            vv = simd.mul_add(simd.mul(scale, scale), sums.1, vv);
        }
        self.d = finite_or_zero(simd, stored_scale(simd, ratio(simd, xv, vv)));
    }

    /// Returns the squared error.
    #[inline(always)]
    fn error<const W: usize, const GIVEN: bool>(
        &self,
        simd: S,
        scaling: Scaling<impl Grid>,
        importance: Importance<'_, GIVEN>,
        columns: &[[Lanes; W]; N],
    ) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (j, (&scale, columns)) in self.scales.iter().zip(columns).enumerate() {
            let importance = importance.of(W * j..W * (j + 1));
            total = simd.add(total, self.error_of(simd, scaling, importance, columns, scale));
        }
        total
    }

    /// Returns the squared error of a sub-block with the given scale.
    #[inline(always)]
    fn error_of<const W: usize, const GIVEN: bool>(
        &self,
        simd: S,
        scaling: Scaling<impl Grid>,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes; W],
        scale: S::F32,
    ) -> S::F32 {
        let scale = simd.mul(self.d, scale);
        search::error(simd, scaling.grid, importance, columns, scale, inverse(simd, scale))
    }

    /// Takes over the rows of `other` in which `error` is less than `least`.
    #[inline(always)]
    fn replace(&mut self, simd: S, least: S::F32, error: S::F32, other: &Self) {
        self.d = simd.where_greater(least, error, other.d, self.d);
        for (scale, &other) in self.scales.iter_mut().zip(&other.scales) {
            *scale = simd.where_greater(least, error, other, *scale);
        }
    }
}

/// The scales of a super-block, as stored.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd, const N: usize> {
    pub(super) d: S::F32,
    /// Integers.
    pub(super) scales: [S::F32; N],
    /// What a code of 1 decodes to in each sub-block.
    steps: [S::F32; N],
    /// `1 / step`.
    inverses: [S::F32; N],
}

impl<S: Simd, const N: usize> Fit<S, N> {
    /// Fits a super-block to its columns.
    #[inline(always)]
    pub(super) fn new<const W: usize, const GIVEN: bool>(
        simd: S,
        scaling: Scaling<impl Grid>,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self {
        let columns: &[[Lanes; W]; N] = columns.as_chunks().0.as_array().expect("N sub-blocks of W columns");
        let SuperBlock { d, scales } = SuperBlock::new(simd, scaling, rounding, importance, columns);
        let mut fit = Self { d, scales, steps: scales, inverses: scales };
        for (step, inverse_step) in fit.steps.iter_mut().zip(&mut fit.inverses) {
            *step = simd.mul(d, *step);
            *inverse_step = inverse(simd, *step);
        }
        fit
    }

    /// `1 / step` and `step` of a sub-block.
    #[inline(always)]
    pub(super) fn steps(&self, sub_block: usize) -> (S::F32, S::F32) {
        (self.inverses[sub_block], self.steps[sub_block])
    }
}

/// Number of times that `d` is fitted and the scales improved.
const REFITS: usize = 1;
