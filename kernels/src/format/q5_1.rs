//! `q5_1`: 32 columns, a scale and an offset in half precision and 5-bit codes from 0. 24 bytes.
//!
//! The fifth bits of the codes lie in four bytes before the low four bits (see
//! [`fifth`](super::fifth)).

use half::f16;

use super::line::{Lines, PLACES_5};
use super::offset::Fit;
use super::{Affine, BlockFormat, Importance, Lanes, Rounding, f16_at, fifth};
use crate::isa::Simd;

pub(crate) struct Q5_1;

const LINES: Lines = Lines { largest: 31.0, top: f32::INFINITY, places: &PLACES_5 };

impl BlockFormat for Q5_1 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 2, 4, 4, 4, 4, 4];
    const HAS_ZERO: bool = false;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Affine<S, Self, 5>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let offset = f16::from_le_bytes([block[2], block[3]]).to_f32();
        fifth::decode(&block[4..], weights, |code| scale * code + offset);
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
        fifth::store(simd, codes, codes_out);
        overflow
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        Affine::new(fifth::codes(simd, block, 64), f16_at(simd, block, 0), f16_at(simd, block, 32))
    }
}
