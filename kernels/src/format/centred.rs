//! Blocks of 32 columns with one half-precision scale and codes around zero, for `q4_0` and `q5_0`.
//!
//! A weight is `scale·(code - zero)`.

use super::search::{Grid, Integers, clamp, error, extreme, ratio, sums};
use super::{Importance, Lanes, Rounding, inverse, stored_scale};
use crate::isa::Simd;

/// The constants in which the formats differ.
#[derive(Clone, Copy)]
pub(super) struct Centring {
    /// The code that means zero.
    pub(super) zero: f32,
    /// The values at which the search places the weight of largest magnitude.
    pub(super) anchors: &'static [f32],
}

/// The scale of a block, and how its codes are rounded.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    /// As stored.
    pub(super) scale: S::F32,
    /// What weights are multiplied with to find their codes.
    inverse: S::F32,
    /// 1 in rows whose codes are [`reference_code`](Centring::reference_code)s, 0 in rows whose
    /// codes are the nearest ones.
    reference: S::F32,
}

impl Centring {
    /// Fits a scale to the columns of a block.
    #[inline(always)]
    pub(super) fn fit<S: Simd, const GIVEN: bool>(
        self,
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Fit<S> {
        let extreme = extreme(simd, columns);
        // The scale that puts the weight of largest magnitude at the lowest integer.
        let scale = simd.div(extreme, simd.splat(-self.zero));
        let inverse = inverse(simd, scale);
        let nearest = Fit { scale: stored_scale(simd, scale), inverse, reference: simd.splat(1.0) };
        match rounding {
            Rounding::Nearest => nearest,
            Rounding::Search => self.search(simd, importance, columns, extreme, nearest),
        }
    }

    /// Finds the code of a weight, and what it decodes to.
    #[inline(always)]
    pub(super) fn code<S: Simd>(self, simd: S, fit: &Fit<S>, x: S::F32) -> (S::F32, S::F32) {
        let reference = self.reference_code(simd, x, fit.inverse);
        let code = Integers(self.zero).nearest(simd, simd.mul(x, fit.inverse));
        let code = simd.where_greater(fit.reference, simd.splat(0.0), reference, code);
        (simd.add(code, simd.splat(self.zero)), simd.mul(fit.scale, code))
    }

    /// Rounds a weight to its integer as GGUF's reference does where the compiler fuses
    /// multiplication and addition.
    #[inline(always)]
    fn reference_code<S: Simd>(self, simd: S, x: S::F32, inverse: S::F32) -> S::F32 {
        let shifted = simd.mul_add(x, inverse, simd.splat(self.zero + 0.5));
        simd.sub(clamp(simd, simd.trunc(shifted), 0.0, 2.0 * self.zero - 1.0), simd.splat(self.zero))
    }

    /// Sums up the squared error of nearest rounding.
    #[inline(always)]
    fn reference_error<S: Simd, const GIVEN: bool>(
        self,
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
        fit: &Fit<S>,
    ) -> S::F32 {
        let mut sum = simd.splat(0.0);
        for (i, column) in columns.iter().enumerate() {
            let x = simd.load_f32(column);
            let difference = simd.sub(x, simd.mul(fit.scale, self.reference_code(simd, x, fit.inverse)));
            sum = simd.mul_add(difference, importance.times(simd, i, difference), sum);
        }
        sum
    }

    /// Searches for scales of less error than `nearest`; see `docs/quantization.md`. `extreme` is
    /// the weight of largest magnitude, the first of them.
    #[inline(always)]
    fn search<S: Simd, const GIVEN: bool>(
        self,
        simd: S,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
        extreme: S::F32,
        nearest: Fit<S>,
    ) -> Fit<S> {
        let grid = Integers(self.zero);
        // The codes that maximize `xq² / qq`, compared by cross multiplication.
        let mut best = (simd.splat(0.0), simd.splat(1.0));
        let mut best_inverse = simd.splat(0.0);
        // Where this is not finite, and hence 0, the scale underflows half precision anyway.
        let unit = inverse(simd, extreme);
        for &anchor in self.anchors {
            let inverse = simd.mul(unit, simd.splat(anchor));
            let (xq, qq) = sums(simd, grid, importance, columns, inverse);
            let gain = simd.mul(xq, xq);
            let (new, old) = (simd.mul(gain, best.1), simd.mul(best.0, qq));
            best.0 = simd.where_greater(new, old, gain, best.0);
            best.1 = simd.where_greater(new, old, qq, best.1);
            best_inverse = simd.where_greater(new, old, inverse, best_inverse);
        }

        let mut found = nearest;
        // Where the nearest scale overflows, nothing is less than this, and the overflow stays for
        // the caller to see.
        let finite = simd.splat(f32::INFINITY);
        let nearest_error = self.reference_error(simd, importance, columns, &nearest);
        let mut least = simd.where_greater(finite, simd.abs(nearest.scale), nearest_error, simd.splat(0.0));
        for _ in 0..REFITS {
            // The scale that fits the codes best, as it will be stored, and the codes that fit that
            // scale best.
            let (xq, qq) = sums(simd, grid, importance, columns, best_inverse);
            let scale = stored_scale(simd, ratio(simd, xq, qq));
            best_inverse = inverse(simd, scale);
            let error = error(simd, grid, importance, columns, scale, best_inverse);
            found.scale = simd.where_greater(least, error, scale, found.scale);
            found.inverse = simd.where_greater(least, error, best_inverse, found.inverse);
            found.reference = simd.where_greater(least, error, simd.splat(0.0), found.reference);
            least = simd.where_greater(least, error, error, least);
        }
        found
    }
}

/// Number of times that scale and codes are fitted to each other.
const REFITS: usize = 2;
