//! `iq4_nl`: 32 columns, a half-precision scale and 4-bit codes of a table of values. 18 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use half::f16;

use super::iq4::{self, Iq4};
use super::search::{Roughly, error, extreme, finite_or_zero, ratio, sums};
use super::{
    BlockFormat, Importance, Lanes, Rounding, Signed, f16_at, inverse, scales_and_codes_mut, split_nibbles,
    store_nibbles, store_scale, stored_scale,
};
use crate::isa::Simd;

pub(crate) struct Iq4Nl;

impl BlockFormat for Iq4Nl {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4];
    const HAS_ZERO: bool = false;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Signed<S, Self>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        iq4::decode(f16::from_le_bytes([block[0], block[1]]).to_f32(), &block[2..], weights);
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S> {
        let extreme = extreme(simd, columns);
        let mut scale = stored_scale(simd, simd.div(extreme, simd.splat(iq4::VALUES[0])));
        if rounding == Rounding::Search {
            scale = search(simd, importance, columns, extreme, scale);
        }
        Fit { scale, inverse: inverse(simd, scale) }
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        let (code, value) = Iq4::code(simd, simd.mul(x, fit.inverse));
        (code, simd.mul(fit.scale, value))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Self::Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (scales_out, codes_out) = scales_and_codes_mut(block);
        store_nibbles(simd, &codes[..16], &codes[16..], codes_out);
        store_scale(simd, fit.scale, scales_out)
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        let codes = iq4::values(simd, split_nibbles(simd, block, 32));
        Signed::new(simd, &codes, f16_at(simd, block, 0))
    }
}

/// The scale of a block, as stored.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    scale: S::F32,
    /// `1 / scale`.
    inverse: S::F32,
}

/// Number of times that scale and codes are fitted to each other.
const REFITS: usize = 2;

/// Searches for a scale of less error than `nearest`; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd, const GIVEN: bool>(
    simd: S,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes],
    extreme: S::F32,
    nearest: S::F32,
) -> S::F32 {
    // The codes that maximize `xv² / vv`, compared by cross multiplication.
    let mut best = (simd.splat(0.0), simd.splat(1.0));
    let mut best_scale = simd.splat(0.0);
    // Where this is not finite, and hence 0, the scale underflows half precision anyway.
    let unit = inverse(simd, extreme);
    for place in iq4::PLACES {
        let (xv, vv) = sums(simd, Roughly(Iq4), importance, columns, simd.mul(unit, simd.splat(place)));
        let gain = simd.mul(xv, xv);
        let (new, old) = (simd.mul(gain, best.1), simd.mul(best.0, vv));
        best.0 = simd.where_greater(new, old, gain, best.0);
        best.1 = simd.where_greater(new, old, vv, best.1);
        best_scale = simd.where_greater(new, old, ratio(simd, xv, vv), best_scale);
    }

    let mut found = nearest;
    // Where the nearest scale overflows, nothing is less than this, and the overflow stays for the
    // caller to see.
    let finite = simd.splat(f32::INFINITY);
    let nearest_error = error(simd, Iq4, importance, columns, nearest, inverse(simd, nearest));
    let mut least = simd.where_greater(finite, simd.abs(nearest), nearest_error, simd.splat(0.0));
    for round in 0..REFITS {
        if round > 0 {
            let (xv, vv) = sums(simd, Iq4, importance, columns, inverse(simd, best_scale));
            best_scale = ratio(simd, xv, vv);
        }
        best_scale = finite_or_zero(simd, stored_scale(simd, best_scale));
        let error = error(simd, Iq4, importance, columns, best_scale, inverse(simd, best_scale));
        found = simd.where_greater(least, error, best_scale, found);
        least = simd.where_greater(least, error, error, least);
    }
    found
}
