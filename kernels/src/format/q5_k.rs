//! `q5_k`: as `q4_k` with codes of 5 bits. 176 bytes.
//!
//! The low four bits of the codes lie as in `q4_k`. The fifth bit of column `32·j + l` is bit `j`
//! of byte `l` of 32 that come before.

use super::k::{self, Fit, Ranges, ScalesAndOffsets};
use super::line::{Lines, PLACES_5};
use super::tile::Codes;
use super::{Affine, BlockFormat, Importance, Lanes, PANEL_ROWS, Rounding, field_at, store_bytes, store_nibbles};
use crate::isa::Simd;

pub(crate) struct Q5K;

const LINES: Lines = Lines { largest: 31.0, top: 0.0, places: &PLACES_5 };
const RANGES: Ranges = Ranges { lines: LINES, largest: 63.0 };

impl BlockFormat for Q5K {
    const LEN: usize = k::LEN;
    const FIELDS: &'static [usize] = &{
        let mut fields = [4; 2 + 3 + 8 + 32];
        (fields[0], fields[1]) = (2, 2);
        fields
    };
    const HAS_ZERO: bool = false;
    const MAX_ROWS_UNBUFFERED: usize = 3;
    type Fit<S: Simd> = Fit<S, 8>;
    /// Scales and offsets, and the fifth bits of the first and of the last four sub-blocks.
    type Header<S: Simd> = (ScalesAndOffsets<S>, [Codes<S>; 2]);
    type Tile<S: Simd> = Affine<S, Self, 5>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        k::decode(block, weights, |i| {
            let (j, l) = (i / 32, i % 32);
            block[48 + j / 2 * 32 + l] >> (j % 2 * 4) & 15 | (block[16 + l] >> j & 1) << 4
        });
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
        let (fifth_bits, nibbles) = fields.split_at_mut(8);
        let mut bits = [[0.0; PANEL_ROWS]; 32];
        for (g, (codes, out)) in codes.as_chunks::<64>().0.iter().zip(nibbles.as_chunks_mut::<8>().0).enumerate() {
            let mut low = [[0.0; PANEL_ROWS]; 64];
            for (i, (low, code)) in low.iter_mut().zip(codes).enumerate() {
                let bit = simd.splat((1 << (2 * g + i / 32)) as f32);
                let (code, sum) = (simd.load_f32(code), simd.load_f32(&bits[i % 32]));
                let less = simd.sub(code, simd.splat(16.0));
                simd.store(simd.where_greater(simd.splat(0.0), less, code, less), low);
                simd.store(simd.where_greater(simd.splat(0.0), less, sum, simd.add(sum, bit)), &mut bits[i % 32]);
            }
            store_nibbles(simd, &low[..32], &low[32..], out);
        }
        store_bytes(simd, &bits, fifth_bits);
        overflow
    }

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let mut fifths = [[field_at(simd, block, 256, 0); 8]; 2];
        let [first, last] = &mut fifths;
        for (i, (first, last)) in first.iter_mut().zip(last).enumerate() {
            let bits = field_at(simd, block, 256, i);
            (*first, *last) = (simd.bits(bits, 0, 15, 0), simd.bits(bits, 4, 15, 0));
        }
        (k::scales_and_offsets(simd, block), fifths)
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, tile: usize) -> Self::Tile<S> {
        let (lines, fifths) = header;
        let mut codes = k::nibbles(simd, block, 768, tile);
        for (codes, &fifths) in codes.iter_mut().zip(&fifths[tile / 4]) {
            *codes = simd.or(*codes, simd.lookup_bytes(&FIFTHS[tile % 4], fifths));
        }
        let (scale, offset) = lines[tile];
        Affine::new(codes, scale, offset)
    }
}

/// Tables from four bits to 16 or 0, one table for each of the bits.
const FIFTHS: [[i8; 16]; 4] = {
    let (mut tables, mut i) = ([[0; 16]; 4], 0);
    while i < 64 {
        tables[i / 16][i % 16] = (((i % 16) >> (i / 16) & 1) << 4) as i8;
        i += 1;
    }
    tables
};
