//! `q4_0`: 32 columns, a half-precision scale and 4-bit codes around 8. 18 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use half::f16;

use super::search::{Grid, clamp, error, extreme, ratio, sums, whole};
use super::{
    BlockFormat, Centred, Importance, Lanes, Rounding, f16_at, inverse, scales_and_codes_mut, split_nibbles,
    store_nibbles, store_scale, stored_scale,
};
use crate::isa::Simd;

pub(crate) struct Q4_0;

/// The code that means zero.
const ZERO: i32 = 8;

impl BlockFormat for Q4_0 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4];
    const HAS_ZERO: bool = true;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Centred<S, Self, 4, ZERO>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = weights.split_at_mut(16);
        for ((&pair, low), high) in block[2..].iter().zip(low).zip(high) {
            *low = scale * (f32::from(pair & 15) - ZERO as f32);
            *high = scale * (f32::from(pair >> 4) - ZERO as f32);
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S> {
        let extreme = extreme(simd, columns);
        // The scale that puts the weight of largest magnitude at -8.
        let scale = simd.div(extreme, simd.splat(-8.0));
        let inverse = inverse(simd, scale);
        let nearest = Fit { scale: stored_scale(simd, scale), inverse, reference: simd.splat(1.0) };
        match rounding {
            Rounding::Nearest => nearest,
            Rounding::Search => search(simd, importance, columns, extreme, nearest),
        }
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        let reference = reference_code(simd, x, fit.inverse);
        let code = Codes.nearest(simd, simd.mul(x, fit.inverse));
        let code = simd.where_greater(fit.reference, simd.splat(0.0), reference, code);
        (simd.add(code, simd.splat(8.0)), simd.mul(fit.scale, code))
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
        Centred::new(split_nibbles(simd, block, 32), f16_at(simd, block, 0))
    }
}

/// The scale of a block, and how its codes are rounded.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    /// As stored.
    scale: S::F32,
    /// What weights are multiplied with to find their codes.
    inverse: S::F32,
    /// 1 in rows whose codes are [`reference_code`]s, 0 in rows whose codes are those of [`Codes`].
    reference: S::F32,
}

/// The integers -8..=7.
#[derive(Clone, Copy)]
struct Codes;

impl Grid for Codes {
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        whole(simd, clamp(simd, y, -8.0, 7.0))
    }
}

/// Rounds a weight to its code, -8..=7, as GGUF's reference does where the compiler fuses
/// multiplication and addition.
#[inline(always)]
fn reference_code<S: Simd>(simd: S, x: S::F32, inverse: S::F32) -> S::F32 {
    let shifted = simd.mul_add(x, inverse, simd.splat(8.5));
    simd.sub(clamp(simd, simd.trunc(shifted), 0.0, 15.0), simd.splat(8.0))
}

/// Sums up the squared error of nearest rounding.
#[inline(always)]
fn reference_error<S: Simd, const GIVEN: bool>(
    simd: S,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes],
    fit: &Fit<S>,
) -> S::F32 {
    let mut sum = simd.splat(0.0);
    for (i, column) in columns.iter().enumerate() {
        let x = simd.load_f32(column);
        let difference = simd.sub(x, simd.mul(fit.scale, reference_code(simd, x, fit.inverse)));
        sum = simd.mul_add(difference, importance.times(simd, i, difference), sum);
    }
    sum
}

/// Searches for scales of less error than `nearest`; see `docs/quantization.md`. `extreme` is the
/// weight of largest magnitude, the first of them.
#[inline(always)]
fn search<S: Simd, const GIVEN: bool>(
    simd: S,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes],
    extreme: S::F32,
    nearest: Fit<S>,
) -> Fit<S> {
    // The codes that maximize `xq² / qq`, compared by cross multiplication.
    let mut best = (simd.splat(0.0), simd.splat(1.0));
    let mut best_inverse = simd.splat(0.0);
    // Where this is not finite, and hence 0, the scale underflows half precision anyway.
    let unit = inverse(simd, extreme);
    for anchor in ANCHORS {
        let inverse = simd.mul(unit, simd.splat(anchor));
        let (xq, qq) = sums(simd, Codes, importance, columns, inverse);
        let gain = simd.mul(xq, xq);
        let (new, old) = (simd.mul(gain, best.1), simd.mul(best.0, qq));
        best.0 = simd.where_greater(new, old, gain, best.0);
        best.1 = simd.where_greater(new, old, qq, best.1);
        best_inverse = simd.where_greater(new, old, inverse, best_inverse);
    }

    let mut found = nearest;
    // Where the nearest scale overflows, nothing is less than this, and the overflow stays for the
    // caller to see.
    let finite = simd.splat(f32::INFINITY);
    let nearest_error = reference_error(simd, importance, columns, &nearest);
    let mut least = simd.where_greater(finite, simd.abs(nearest.scale), nearest_error, simd.splat(0.0));
    for _ in 0..REFITS {
        // The scale that fits the codes best, as it will be stored, and the codes that fit that
        // scale best.
        let (xq, qq) = sums(simd, Codes, importance, columns, best_inverse);
        let scale = stored_scale(simd, ratio(simd, xq, qq));
        best_inverse = inverse(simd, scale);
        let error = error(simd, Codes, importance, columns, scale, best_inverse);
        found.scale = simd.where_greater(least, error, scale, found.scale);
        found.inverse = simd.where_greater(least, error, best_inverse, found.inverse);
        found.reference = simd.where_greater(least, error, simd.splat(0.0), found.reference);
        least = simd.where_greater(least, error, error, least);
    }
    found
}

/// Codes at which the search places the largest weight.
///
/// Chosen greedily from a grid of tenths on normally and t-distributed blocks: with these 16 the
/// squared error is within 0.02 % of what all 102 points of the grid reach. -8 has no positive
/// twin, so anchors beyond +7 hardly ever win: one is left.
const ANCHORS: [f32; 16] =
    [-9.2, -8.9, -8.8, -8.6, -8.4, -8.3, -8.2, -8.0, -7.9, -7.7, -7.4, -7.2, -7.0, -6.8, -6.1, 8.0];

/// Number of times that scale and codes are fitted to each other.
const REFITS: usize = 2;
