//! The floating-point types of checkpoints, and their conversion to `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::tensor::Dtype;

/// A type that converts to `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F64,
    F32,
    F16,
    Bf16,
    F8E4m3,
    F8E5m2,
}

impl Float {
    /// `None` for integers, booleans and the microscaling element types, which mean nothing without
    /// their scales.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F8_E4M3 => Some(Self::F8E4m3),
            Dtype::F8_E5M2 => Some(Self::F8E5m2),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4m3 | Self::F8E5m2 => 1,
        }
    }

    /// Converts little-endian elements. All conversions are exact, except that `F64` is rounded to
    /// the nearest.
    ///
    /// # Panics
    ///
    /// If `bytes` is not `out.len()` elements long.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.size(), "bytes for {} elements of {self:?}", out.len());
        match self {
            Self::F64 => map(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => map(bytes, out, f32::from_le_bytes),
            Self::F16 => decode_f16(bytes, out),
            Self::Bf16 => map(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            Self::F8E4m3 => map(bytes, out, |[b]| E4M3[usize::from(b)]),
            // The upper half of an F16.
            Self::F8E5m2 => map(bytes, out, |[b]| f16::from_bits(u16::from(b) << 8).to_f32()),
        }
    }
}

/// Returns weights as bytes of a file: as they are for F32, else rounded to BF16.
pub(crate) fn plain_bytes(dtype: Dtype, weights: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
        _ => weights.iter().flat_map(|&weight| bf16::from_f32(weight).to_le_bytes()).collect(),
    }
}

/// One element at a time, in a form that the compiler vectorizes.
fn map<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *x = convert(*b);
    }
}

/// `half` finds the processor's conversion at run time, but takes elements, not bytes: they pass
/// through a tile on the stack, which costs less than one conversion by bit operations.
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    const TILE: usize = 1024;
    let mut tile = [f16::ZERO; TILE];
    for (out, bytes) in out.chunks_mut(TILE).zip(bytes.as_chunks().0.chunks(TILE)) {
        let tile = &mut tile[..out.len()];
        for (t, b) in tile.iter_mut().zip(bytes) {
            *t = f16::from_le_bytes(*b);
        }
        tile.convert_to_f32_slice(out);
    }
}

/// Returns the power of two that an E8M0 code means.
pub(super) fn power_of_two(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

/// Returns the value of an E4M3 code.
pub(super) fn e4m3(code: u8) -> f32 {
    E4M3[usize::from(code)]
}

/// The value of every E4M3 code (the "FN" variant: no infinities, and only `S.1111.111` is NaN).
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = value_of_e4m3(code as u32);
        code += 1;
    }
    table
};

const fn value_of_e4m3(code: u32) -> f32 {
    let (sign, exponent, fraction) = (code >> 7, (code >> 3) & 15, code & 7);
    let magnitude = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        // Subnormal: multiples of 2^-9.
        (0, _) => fraction as f32 / 512.0,
        // The bias is 7 here and 127 in f32; both fractions begin at the top of their field.
        _ => f32::from_bits((exponent + 120) << 23 | fraction << 20),
    };
    if sign == 1 { -magnitude } else { magnitude }
}
