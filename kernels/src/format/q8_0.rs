//! `q8_0`: 32 columns, a half-precision scale and signed 8-bit codes. 34 bytes.

use half::f16;

use super::{BlockFormat, Lanes, Rounding, Scaled32, inverse, scales_and_codes, scales_and_codes_mut, store_scale};
use crate::activations::ActivationBlock;
use crate::isa::Simd;

pub(crate) struct Q8_0;

impl BlockFormat for Q8_0 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4, 4, 4, 4, 4];
    type Tile<S: Simd> = Scaled32<S>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (weight, &code) in weights.iter_mut().zip(&block[2..]) {
            *weight = scale * f32::from(code.cast_signed());
        }
    }

    #[inline(always)]
    fn encode<S: Simd>(simd: S, _: Rounding, columns: &[Lanes], block: &mut [u8]) -> u16 {
        let mut largest = simd.splat(0.0);
        for column in columns {
            largest = simd.max(largest, simd.abs(simd.load_f32(column)));
        }
        let scale = simd.div(largest, simd.splat(127.0));
        let inverse = inverse(simd, scale);
        let (scales_out, codes_out) = scales_and_codes_mut(block);
        for (group, out) in columns.as_chunks::<4>().0.iter().zip(codes_out) {
            let code = |column| simd.to_i32(simd.round(simd.mul(simd.load_f32(column), inverse)));
            let codes = [code(&group[0]), code(&group[1]), code(&group[2]), code(&group[3])];
            simd.store_bytes(simd.pack(codes), out);
        }
        store_scale(simd, scale, scales_out)
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8]) -> Scaled32<S> {
        let (scales, groups) = scales_and_codes(block);
        let mut codes = [simd.load(&groups[0]); 8];
        for (codes, group) in codes.iter_mut().zip(groups) {
            *codes = simd.load(group);
        }
        Scaled32 { codes, scale: simd.load_f16(scales) }
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, tile: &Scaled32<S>, x: &[ActivationBlock], acc: S::F32) -> S::F32 {
        let x = &x[0];
        tile.accumulate(simd, simd.dot_i8(&tile.codes, &x.codes, x.sum), x, acc)
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, tile: &Scaled32<S>, columns: &mut [Lanes]) {
        tile.weights(simd, 0, columns);
    }
}
