//! Formats without a code book: a scale times a value for each column.

use super::half;

/// Decodes a block of `tq1_0`. A byte is a fraction of 256, whose first five digits to base 3 are
/// the values of five columns plus 1: 32 bytes hold columns 0..160, digit by digit, 16 bytes
/// columns 160..240, and of four bytes the first four digits columns 240..256. Then the scale.
pub(super) fn tq1_0(block: &[u8; 54], weights: &mut [f32; 256]) {
    let d = half([block[52], block[53]]);
    let digits = [(&block[..32], 0), (&block[32..48], 160), (&block[48..52], 240)];
    for (bytes, first) in digits {
        let end = (first + 5 * bytes.len()).min(256);
        for (i, weights) in weights[first..end].chunks_exact_mut(bytes.len()).enumerate() {
            for (weight, byte) in weights.iter_mut().zip(bytes) {
                let fraction = byte.wrapping_mul([1, 3, 9, 27, 81][i]);
                *weight = d * (f32::from((u16::from(fraction) * 3) >> 8) - 1.0);
            }
        }
    }
}

/// Decodes a block of `tq2_0`: 32 bytes hold 128 columns, bits 0 and 1 the first 32, and so on.
/// Then the scale.
pub(super) fn tq2_0(block: &[u8; 66], weights: &mut [f32; 256]) {
    let d = half([block[64], block[65]]);
    for (bytes, weights) in block[..64].as_chunks::<32>().0.iter().zip(weights.as_chunks_mut::<128>().0) {
        for (i, weights) in weights.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (weight, byte) in weights.iter_mut().zip(bytes) {
                *weight = d * (f32::from(byte >> (2 * i) & 3) - 1.0);
            }
        }
    }
}

/// The value of each code of four bits: a float of sign, two bits of exponent and one of mantissa,
/// doubled.
const VALUES: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Decodes a block of `nvfp4`: four scales, then for each 16 columns eight bytes, whose low four
/// bits are the codes of the first eight.
pub(super) fn nvfp4(block: &[u8; 36], weights: &mut [f32; 64]) {
    let (scales, codes) = block.split_at(4);
    for ((&scale, codes), weights) in scales.iter().zip(codes.as_chunks::<8>().0).zip(weights.as_chunks_mut::<16>().0) {
        let scale = half_e4m3(scale);
        let (low, high) = weights.split_at_mut(8);
        for ((&pair, low), high) in codes.iter().zip(low).zip(high) {
            *low = scale * VALUES[usize::from(pair & 15)];
            *high = scale * VALUES[usize::from(pair >> 4)];
        }
    }
}

/// Returns half of a float without a sign: four bits of exponent, three of mantissa. The highest
/// bit is ignored; what would be NaN without it is 0.
fn half_e4m3(byte: u8) -> f32 {
    if byte == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (byte >> 3 & 15, f32::from(byte & 7));
    // Eighths, at the least exponent: 2^-6 for whole ones.
    let eighths = if exponent == 0 { mantissa } else { mantissa + 8.0 };
    eighths * f32::from_bits((u32::from(exponent.max(1)) + 127 - 7 - 3 - 1) << 23)
}

/// Decodes a block of `q1_0`: scale; one bit for each column, which is set where the weight has the
/// scale's sign.
pub(super) fn q1_0(block: &[u8; 18], weights: &mut [f32; 128]) {
    let d = half([block[0], block[1]]);
    for (byte, weights) in block[2..].iter().zip(weights.as_chunks_mut::<8>().0) {
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = if byte >> i & 1 == 1 { d } else { -d };
        }
    }
}

/// Decodes a block of `q2_0`: scale; two bits for each column, the value plus 1.
pub(super) fn q2_0(block: &[u8; 18], weights: &mut [f32; 64]) {
    let d = half([block[0], block[1]]);
    for (byte, weights) in block[2..].iter().zip(weights.as_chunks_mut::<4>().0) {
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = d * (f32::from(byte >> (2 * i) & 3) - 1.0);
        }
    }
}
