//! `mxfp4`: 32 columns, a power of two as scale and 4-bit floats: sign, two bits of exponent, one
//! of mantissa. 17 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use super::search::{Grid, error, extreme};
use super::{
    BlockFormat, Centred, Importance, Lanes, PANEL_ROWS, Rounding, bytes_at, inverse, split_nibbles, store_nibbles,
};
use crate::isa::Simd;

pub(crate) struct Mxfp4;

/// The value of each code, doubled so that all are whole.
const VALUES: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// The same values plus 12: unsigned, 5 bits.
const CODES: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// `2^-128`, the scale for exponent byte 0.
const LEAST: f32 = f32::from_bits(1 << 21);

/// Returns the scale for an exponent byte, halved because the values are doubled: `2^(e - 128)`.
fn scale(e: u8) -> f32 {
    if e < 2 { f32::from_bits(1 << 21 << e) } else { f32::from_bits((u32::from(e) - 1) << 23) }
}

/// Returns the exponent byte for a scale.
#[inline(always)]
fn exponent(scale: f32) -> u8 {
    let bits = scale.to_bits();
    (if bits < 1 << 23 { bits >> 22 } else { (bits >> 23) + 1 }) as u8
}

/// `2^124`, the largest scale of which every multiple is finite.
const GREATEST: f32 = (1u128 << 124) as f32;

/// The values as a grid.
#[derive(Clone, Copy)]
struct Floats;

/// Magnitudes at which the nearest value changes, and by how much; the code changes by one.
const STEPS: [(f32, f32); 7] = [(0.5, 1.0), (1.5, 1.0), (2.5, 1.0), (3.5, 1.0), (5.0, 2.0), (7.0, 2.0), (10.0, 4.0)];

impl Grid for Floats {
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        let zero = simd.splat(0.0);
        let (magnitude, mut value) = (simd.abs(y), zero);
        for (boundary, step) in STEPS {
            let step = simd.where_greater(magnitude, simd.splat(boundary), simd.splat(step), zero);
            value = simd.add(value, step);
        }
        simd.where_greater(zero, y, simd.sub(zero, value), value)
    }
}

impl Floats {
    /// Finds the code of the value nearest to `y`, of two the one nearer to zero. Zero has no sign.
    #[inline(always)]
    fn code<S: Simd>(simd: S, y: S::F32) -> S::F32 {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let (magnitude, mut code) = (simd.abs(y), zero);
        for (boundary, _) in STEPS {
            code = simd.add(code, simd.where_greater(magnitude, simd.splat(boundary), one, zero));
        }
        simd.where_greater(simd.splat(-0.5), y, simd.add(code, simd.splat(8.0)), code)
    }
}

/// The scale of a block, a power of two.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    scale: S::F32,
    /// What weights are multiplied with before [`per_scale`](Self::per_scale), so that neither
    /// overflows.
    up: S::F32,
    /// `1 / (scale·up)`.
    per_scale: S::F32,
}

impl BlockFormat for Mxfp4 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[1, 4, 4, 4, 4];
    const HAS_ZERO: bool = true;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Centred<S, Self, 5, 12>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = scale(block[0]);
        let (low, high) = weights.split_at_mut(16);
        for ((&pair, low), high) in block[1..].iter().zip(low).zip(high) {
            *low = scale * VALUES[usize::from(pair & 15)];
            *high = scale * VALUES[usize::from(pair >> 4)];
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S> {
        // The largest weight's power of two at 8, so that the weight lies in 8..16; beyond 12 it is
        // cut off.
        let nearest = simd.mul(power_of_two(simd, extreme(simd, columns)), simd.splat(0.125));
        let nearest = simd.max(nearest, simd.splat(LEAST));
        // The weights in units of that scale: powers of two are exact, and no square overflows or
        // underflows. The inverse of a small scale would overflow, so that such a block comes up
        // first.
        let up = simd.where_greater(simd.splat(1.0 / UP), nearest, simd.splat(UP), simd.splat(1.0));
        let per_nearest = inverse(simd, simd.mul(nearest, up));
        let one = simd.splat(1.0);
        let mut step = one;
        if rounding == Rounding::Search {
            let mut scaled = [[0.0; PANEL_ROWS]; 32];
            for (scaled, column) in scaled.iter_mut().zip(columns) {
                simd.store(simd.mul(simd.mul(simd.load_f32(column), up), per_nearest), scaled);
            }
            let mut least = error(simd, Floats, importance, &scaled, one, one);
            for factor in [2.0, 0.5] {
                let trial = simd.mul(nearest, simd.splat(factor));
                let trial = simd.min(simd.max(trial, simd.splat(LEAST)), simd.splat(GREATEST));
                let trial = simd.mul(simd.mul(trial, up), per_nearest);
                let error = error(simd, Floats, importance, &scaled, trial, inverse(simd, trial));
                step = simd.where_greater(least, error, trial, step);
                least = simd.where_greater(least, error, error, least);
            }
        }
        let scale = simd.mul(nearest, step);
        Fit { scale, up, per_scale: simd.mul(per_nearest, inverse(simd, step)) }
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        let code = Floats::code(simd, simd.mul(simd.mul(x, fit.up), fit.per_scale));
        (code, simd.mul(fit.scale, simd.lookup(&VALUES, simd.to_i32(code))))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Self::Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (exponents, codes_out) =
            block.split_first_chunk_mut::<16>().expect("a block of a panel begins with 16 scales");
        store_nibbles(simd, &codes[..16], &codes[16..], codes_out.as_chunks_mut::<64>().0);
        let mut scales = [0.0; PANEL_ROWS];
        simd.store(fit.scale, &mut scales);
        for (out, scale) in exponents.iter_mut().zip(scales) {
            *out = exponent(scale);
        }
        0
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        let mut codes = split_nibbles(simd, block, 16);
        for codes in &mut codes {
            *codes = simd.lookup_bytes(&CODES, *codes);
        }
        Centred::new(codes, simd.load_e8m0(bytes_at(block, 0)))
    }
}

/// `2^64`, by which blocks are multiplied whose scale is too small to have a finite inverse.
const UP: f32 = (1u128 << 64) as f32;

/// Returns the largest power of two that is no more than the magnitude of `a`; 0 if `a` is
/// subnormal.
#[inline(always)]
fn power_of_two<S: Simd>(simd: S, a: S::F32) -> S::F32 {
    let mut lanes = [0.0; PANEL_ROWS];
    simd.store(a, &mut lanes);
    for lane in &mut lanes {
        *lane = f32::from_bits(lane.to_bits() & f32::INFINITY.to_bits());
    }
    simd.load_f32(&lanes)
}
