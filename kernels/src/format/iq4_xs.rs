//! `iq4_xs`: 256 columns in 8 sub-blocks of 32 with a 6-bit scale around 32 each, 4-bit codes of a
//! table of values. 136 bytes.
//!
//! Byte `16·j + l` of the code bytes holds columns `32·j + l` and `32·j + 16 + l`. The scales' low
//! four bits lie two in a byte, their high two bits in a 16-bit integer.

use half::f16;

use super::iq4::{self, Iq4};
use super::scaled::{Fit, Scaling};
use super::{
    BlockFormat, Importance, Lanes, PANEL_ROWS, Rounding, Signed, bytes_at, f16_at, field_at, split_nibbles,
    store_nibbles, store_scale,
};
use crate::isa::Simd;

pub(crate) struct Iq4Xs;

const SCALING: Scaling<Iq4> = Scaling {
    grid: Iq4,
    end: iq4::VALUES[0],
    // Scales are so coarse that more places seldom give another scale.
    places: iq4::PLACES.split_at(11).0,
    headrooms: &[1.0, 1.1, 1.2],
    lowest: -32.0,
    highest: 31.0,
};

impl BlockFormat for Iq4Xs {
    const LEN: usize = 256;
    const FIELDS: &'static [usize] = &{
        let mut fields = [4; 2 + 1 + 32];
        (fields[0], fields[1]) = (2, 2);
        fields
    };
    const HAS_ZERO: bool = false;
    const MAX_ROWS_UNBUFFERED: usize = 2;
    type Fit<S: Simd> = Fit<S, 8>;
    type Header<S: Simd> = [S::F32; 8];
    type Tile<S: Simd> = Signed<S, Self>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (j, (codes, weights)) in block[8..].chunks_exact(16).zip(weights.chunks_exact_mut(32)).enumerate() {
            let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
            let scale = u16::from(low) | (high >> (2 * j) & 3) << 4;
            iq4::decode(d * (f32::from(scale) - 32.0), codes, weights);
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Fit<S, 8> {
        Fit::new::<32, GIVEN>(simd, SCALING, rounding, importance, columns)
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Fit<S, 8>, column: usize, x: S::F32) -> (S::F32, S::F32) {
        let (inverse, step) = fit.steps(column / 32);
        let (code, value) = Iq4::code(simd, simd.mul(x, inverse));
        (code, simd.mul(step, value))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Fit<S, 8>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (d, rest) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
        let (high_bits, fields) = rest.split_first_chunk_mut::<32>().expect("high bits follow");
        let (low_bits, codes_out) = fields.as_chunks_mut::<64>().0.split_first_mut().expect("low bits follow");

        let (mut low, mut high) = ([simd.to_i32(fit.d); 4], simd.splat(0.0));
        for (i, pair) in fit.scales.as_chunks::<2>().0.iter().enumerate() {
            let mut sum = simd.splat(0.0);
            for (j, &scale) in pair.iter().enumerate() {
                let scale = simd.add(scale, simd.splat(32.0));
                let top = simd.trunc(simd.mul(scale, simd.splat(1.0 / 16.0)));
                let bottom = simd.mul_add(top, simd.splat(-16.0), scale);
                sum = simd.mul_add(bottom, simd.splat((1 << (4 * j)) as f32), sum);
                high = simd.mul_add(top, simd.splat((1 << (4 * i + 2 * j)) as f32), high);
            }
            low[i] = simd.to_i32(sum);
        }
        simd.store_bytes(simd.pack(low), low_bits);
        let mut numbers = [0.0; PANEL_ROWS];
        simd.store(high, &mut numbers);
        for (out, number) in high_bits.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *out = (number as u16).to_le_bytes();
        }

        for (codes, out) in codes.as_chunks::<32>().0.iter().zip(codes_out.as_chunks_mut::<4>().0) {
            store_nibbles(simd, &codes[..16], &codes[16..], out);
        }
        store_scale(simd, fit.d, d)
    }

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        [
            scale(simd, block, 0),
            scale(simd, block, 1),
            scale(simd, block, 2),
            scale(simd, block, 3),
            scale(simd, block, 4),
            scale(simd, block, 5),
            scale(simd, block, 6),
            scale(simd, block, 7),
        ]
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, tile: usize) -> Self::Tile<S> {
        let codes = iq4::values(simd, split_nibbles(simd, block, 128 + 256 * tile));
        Signed::new(simd, &codes, header[tile])
    }
}

/// Unpacks the scale of a sub-block.
#[inline(always)]
fn scale<S: Simd>(simd: S, block: &[u8], sub_block: u32) -> S::F32 {
    let low = simd.bits_i32(field_at(simd, block, 64, 0), 4 * sub_block, 15);
    let high = simd.bits_of_u16(bytes_at(block, 32), 2 * sub_block, 3);
    let factor = simd.mul_add(simd.to_f32(high), simd.splat(16.0), simd.to_f32(simd.add_i32(low, -32)));
    simd.mul(f16_at(simd, block, 0), factor)
}
