//! `q4_k`: 256 columns in 8 sub-blocks of 32 with a 6-bit scale and a 6-bit min each. 144 bytes.
//!
//! Byte `32·g + l` of the code bytes holds column `64·g + l` in its low and column `64·g + 32 + l`
//! in its high four bits.

use super::k::{self, Fit, Ranges, ScalesAndOffsets};
use super::line::{Lines, PLACES_4};
use super::{Affine, BlockFormat, Importance, Lanes, Rounding, store_nibbles};
use crate::isa::Simd;

pub(crate) struct Q4K;

const LINES: Lines = Lines { largest: 15.0, top: 0.0, places: &PLACES_4 };
const RANGES: Ranges = Ranges { lines: LINES, largest: 63.0 };

impl BlockFormat for Q4K {
    const LEN: usize = k::LEN;
    const FIELDS: &'static [usize] = &{
        let mut fields = [4; 2 + 3 + 32];
        (fields[0], fields[1]) = (2, 2);
        fields
    };
    const HAS_ZERO: bool = false;
    const MAX_ROWS_UNBUFFERED: usize = 2;
    type Fit<S: Simd> = Fit<S, 8>;
    type Header<S: Simd> = ScalesAndOffsets<S>;
    type Tile<S: Simd> = Affine<S, Self, 4>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        k::decode(block, weights, |i| block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15);
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Fit<S, 8> {
        Fit::new::<32, GIVEN>(simd, RANGES, rounding, importance, columns)
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Fit<S, 8>, column: usize, x: S::F32) -> (S::F32, S::F32) {
        fit.code(simd, LINES, column, x)
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Fit<S, 8>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (overflow, fields) = fit.store(simd, block);
        for (codes, out) in codes.as_chunks::<64>().0.iter().zip(fields.as_chunks_mut::<8>().0) {
            store_nibbles(simd, &codes[..32], &codes[32..], out);
        }
        overflow
    }

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        k::scales_and_offsets(simd, block)
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, tile: usize) -> Self::Tile<S> {
        let (scale, offset) = header[tile];
        Affine::new(k::nibbles(simd, block, 256, tile), scale, offset)
    }
}
