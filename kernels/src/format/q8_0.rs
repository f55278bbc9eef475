//! `q8_0`: 32 columns, a half-precision scale and signed 8-bit codes. 34 bytes.

use half::f16;

use super::{BlockFormat, Lanes, Rounding, Signed, field_at, halves_at, inverse, scales_and_codes_mut, store_scale};
use crate::isa::Simd;

pub(crate) struct Q8_0;

impl BlockFormat for Q8_0 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4, 4, 4, 4, 4];
    const HAS_ZERO: bool = true;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Signed<S, Self>;

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
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        let mut codes = [field_at(simd, block, 32, 0); 8];
        for (i, codes) in codes.iter_mut().enumerate() {
            *codes = field_at(simd, block, 32, i);
        }
        Signed::new(simd, &codes, halves_at(simd, block, 0))
    }
}
