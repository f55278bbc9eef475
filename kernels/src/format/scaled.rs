//! Super-blocks of `N` sub-blocks with signed integer scales: what `q6_k` and `iq4_xs` share.
//!
//! A weight is `d·scale·v`: `d` is a half-precision number of the super-block, `scale` an integer
//! of a sub-block of `W` columns, `v` a value of the format's grid.

use super::search::{self, Grid, Roughly, clamp, extreme, finite_or_zero, ratio, stored_super_scale, whole};
use super::{Lanes, Rounding, inverse, stored_scale};
use crate::isa::Simd;

/// What tells the formats apart.
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

/// A super-block of 16 rows, up to its codes, which are those nearest to the weights.
#[derive(Clone, Copy)]
pub(super) struct SuperBlock<S: Simd, const N: usize> {
    pub(super) d: S::F32,
    /// Whole numbers.
    pub(super) scales: [S::F32; N],
}

impl<S: Simd, const N: usize> SuperBlock<S, N> {
    #[inline(always)]
    pub(super) fn new<const W: usize>(
        simd: S,
        scaling: Scaling<impl Grid>,
        rounding: Rounding,
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
            found.search(simd, scaling, columns, &extremes);
        }
        found
    }

    #[inline(always)]
    fn search<const W: usize>(
        &mut self,
        simd: S,
        scaling: Scaling<impl Grid>,
        columns: &[[Lanes; W]; N],
        extremes: &[S::F32; N],
    ) {
        let zero = simd.splat(0.0);
        // Where nearest rounding overflows nothing is less than this, and the overflow stays for
        // the caller to see.
        let finite = simd.splat(f32::INFINITY);
        let mut least = simd.where_greater(finite, simd.abs(self.d), self.error(simd, scaling, columns), zero);
        let nearest = *self;
        for &headroom in scaling.headrooms {
            let mut trial = nearest;
            trial.d = stored_scale(simd, simd.mul(nearest.d, simd.splat(headroom)));
            let per_d = inverse(simd, trial.d);
            let mut total = zero;
            for ((scale, columns), &extreme) in trial.scales.iter_mut().zip(columns).zip(extremes) {
                let unit = simd.mul(extreme, per_d);
                let mut least = finite;
                for &place in scaling.places {
                    let candidate = simd.mul(unit, simd.splat(1.0 / place));
                    let candidate = whole(simd, clamp(simd, candidate, scaling.lowest, scaling.highest));
                    let step = simd.mul(trial.d, candidate);
                    let error = search::error(simd, Roughly(scaling.grid), columns, step, inverse(simd, step));
                    *scale = simd.where_greater(least, error, candidate, *scale);
                    least = simd.where_greater(least, error, error, least);
                }
                total = simd.add(total, least);
            }
            self.replace(simd, least, total, &trial);
            least = simd.where_greater(least, total, total, least);
            for _ in 0..REFITS {
                trial.refit(simd, scaling, columns);
                let error = trial.improve(simd, scaling, columns);
                self.replace(simd, least, error, &trial);
                least = simd.where_greater(least, error, error, least);
            }
        }
    }

    /// Replaces each scale by the best within one of it. Returns the squared error of the
    /// super-block.
    #[inline(always)]
    fn improve<const W: usize>(&mut self, simd: S, scaling: Scaling<impl Grid>, columns: &[[Lanes; W]; N]) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (j, columns) in columns.iter().enumerate() {
            let scale = self.scales[j];
            let mut least = simd.splat(f32::INFINITY);
            for up in [0.0, -1.0, 1.0] {
                let candidate = clamp(simd, simd.add(scale, simd.splat(up)), scaling.lowest, scaling.highest);
                let error = self.error_of(simd, scaling, columns, candidate);
                self.scales[j] = simd.where_greater(least, error, candidate, self.scales[j]);
                least = simd.where_greater(least, error, error, least);
            }
            total = simd.add(total, least);
        }
        total
    }

    /// Fits `d` to the scales and their codes by least squares.
    #[inline(always)]
    fn refit<const W: usize>(&mut self, simd: S, scaling: Scaling<impl Grid>, columns: &[[Lanes; W]; N]) {
        let (mut xv, mut vv) = (simd.splat(0.0), simd.splat(0.0));
        for (&scale, columns) in self.scales.iter().zip(columns) {
            let inverse = inverse(simd, simd.mul(self.d, scale));
            let sums = search::sums(simd, scaling.grid, columns, inverse);
            xv = simd.mul_add(scale, sums.0, xv);
            vv = simd.mul_add(simd.mul(scale, scale), sums.1, vv);
        }
        self.d = finite_or_zero(simd, stored_scale(simd, ratio(simd, xv, vv)));
    }

    /// The squared error as it stands.
    #[inline(always)]
    fn error<const W: usize>(&self, simd: S, scaling: Scaling<impl Grid>, columns: &[[Lanes; W]; N]) -> S::F32 {
        let mut total = simd.splat(0.0);
        for (&scale, columns) in self.scales.iter().zip(columns) {
            total = simd.add(total, self.error_of(simd, scaling, columns, scale));
        }
        total
    }

    /// The squared error of a sub-block with the given scale.
    #[inline(always)]
    fn error_of<const W: usize>(
        &self,
        simd: S,
        scaling: Scaling<impl Grid>,
        columns: &[Lanes; W],
        scale: S::F32,
    ) -> S::F32 {
        let scale = simd.mul(self.d, scale);
        search::error(simd, scaling.grid, columns, scale, inverse(simd, scale))
    }

    /// Takes over the rows of `other` where `least` is greater than `error`.
    #[inline(always)]
    fn replace(&mut self, simd: S, least: S::F32, error: S::F32, other: &Self) {
        self.d = simd.where_greater(least, error, other.d, self.d);
        for (scale, &other) in self.scales.iter_mut().zip(&other.scales) {
            *scale = simd.where_greater(least, error, other, *scale);
        }
    }

    /// What the weights of sub-block `j` are multiplied with to find their codes.
    #[inline(always)]
    pub(super) fn inverse(&self, simd: S, j: usize) -> S::F32 {
        inverse(simd, simd.mul(self.d, self.scales[j]))
    }
}

/// How often `d` is fitted and the scales improved.
const REFITS: usize = 1;
