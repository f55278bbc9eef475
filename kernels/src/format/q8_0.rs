//! `q8_0`: 32 columns, a half-precision scale and signed 8-bit codes. 34 bytes.

use half::f16;

use super::search::clamp;
use super::{
    BlockFormat, Importance, Lanes, Rounding, Signed, f16_at, field_at, inverse, scales_and_codes_mut, store_bytes,
    store_scale, stored_scale,
};
use crate::isa::Simd;

pub(crate) struct Q8_0;

/// The scale of a block.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    /// As stored.
    scale: S::F32,
    /// `1 / scale` of the scale before it is rounded to half precision.
    inverse: S::F32,
}

impl BlockFormat for Q8_0 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4, 4, 4, 4, 4];
    const HAS_ZERO: bool = true;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Signed<S, Self>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (weight, &code) in weights.iter_mut().zip(&block[2..]) {
            *weight = scale * f32::from(code.cast_signed());
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        _: Rounding,
        _: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S> {
        let mut largest = simd.splat(0.0);
        for column in columns {
            largest = simd.max(largest, simd.abs(simd.load_f32(column)));
        }
        let scale = simd.div(largest, simd.splat(127.0));
        Fit { scale: stored_scale(simd, scale), inverse: inverse(simd, scale) }
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        let code = simd.round(clamp(simd, simd.mul(x, fit.inverse), -127.0, 127.0));
        (code, simd.mul(fit.scale, code))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Self::Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (scales_out, codes_out) = scales_and_codes_mut(block);
        store_bytes(simd, codes, codes_out);
        store_scale(simd, fit.scale, scales_out)
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        let mut codes = [field_at(simd, block, 32, 0); 8];
        for (i, codes) in codes.iter_mut().enumerate() {
            *codes = field_at(simd, block, 32, i);
        }
        Signed::new(simd, &codes, f16_at(simd, block, 0))
    }
}
