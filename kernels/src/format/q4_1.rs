//! `q4_1`: 32 columns, a scale and an offset in half precision and 4-bit codes from 0. 20 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use half::f16;

use super::line::{Lines, PLACES_4};
use super::offset::Fit;
use super::{Affine, BlockFormat, Importance, Lanes, Rounding, f16_at, split_nibbles, store_nibbles};
use crate::isa::Simd;

pub(crate) struct Q4_1;

const LINES: Lines = Lines { largest: 15.0, top: f32::INFINITY, places: &PLACES_4 };

impl BlockFormat for Q4_1 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 2, 4, 4, 4, 4];
    const HAS_ZERO: bool = false;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Affine<S, Self, 4>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let offset = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let (low, high) = weights.split_at_mut(16);
        for ((&pair, low), high) in block[4..].iter().zip(low).zip(high) {
            *low = scale * f32::from(pair & 15) + offset;
            *high = scale * f32::from(pair >> 4) + offset;
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Fit<S> {
        Fit::new(simd, LINES, rounding, importance, columns)
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        fit.code(simd, LINES, x)
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (overflow, codes_out) = fit.store(simd, block);
        store_nibbles(simd, &codes[..16], &codes[16..], codes_out);
        overflow
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        Affine::new(split_nibbles(simd, block, 64), f16_at(simd, block, 0), f16_at(simd, block, 32))
    }
}
