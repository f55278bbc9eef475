//! `iq2_xxs`, `iq2_xs` and `iq2_s`: points of 8 magnitudes, and signs.

use super::books::{IQ2_S, IQ2_XS, IQ2_XXS};
use super::{even_signs, half, nibble, write_signed};

/// The scale of a sub-block, for a code of four bits.
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

/// Decodes a block of `iq2_xxs`: scale; for each 32 columns four codes, then 32 bits: seven signs
/// for each code, and the scale.
pub(super) fn xxs(block: &[u8; 66], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (parts, _) = block[2..].as_chunks::<8>();
    for (part, weights) in parts.iter().zip(weights.as_chunks_mut::<32>().0) {
        let [codes @ .., a, b, c, e] = part;
        let rest = u32::from_le_bytes([*a, *b, *c, *e]);
        let scale = scale(d, (rest >> 28) as u8);
        for (i, (&code, weights)) in codes.iter().zip(weights.as_chunks_mut().0).enumerate() {
            write_signed(scale, &IQ2_XXS[usize::from(code)], even_signs(rest >> (7 * i)), weights);
        }
    }
}

/// Decodes a block of `iq2_xs`: scale; 32 times 16 bits, a code of 9 and seven signs; the scales of
/// 16 columns.
pub(super) fn xs(block: &[u8; 74], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (codes, _) = block[2..66].as_chunks::<2>();
    for (i, (&code, weights)) in codes.iter().zip(weights.as_chunks_mut().0).enumerate() {
        let code = u16::from_le_bytes(code);
        let scale = scale(d, nibble(block[66 + i / 4], i / 2 % 2));
        write_signed(scale, &IQ2_XS[usize::from(code & 511)], even_signs(u32::from(code >> 9)), weights);
    }
}

/// Decodes a block of `iq2_s`: scale; the low 8 bits of the codes; signs; the high 2 bits, four
/// codes to a byte; the scales of 16 columns.
pub(super) fn s(block: &[u8; 82], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (low, signs, high, scales) = (&block[2..34], &block[34..66], &block[66..74], &block[74..]);
    for (i, ((&low, &signs), weights)) in low.iter().zip(signs).zip(weights.as_chunks_mut().0).enumerate() {
        let high = high[i / 4] >> (2 * (i % 4)) & 3;
        let scale = scale(d, nibble(scales[i / 4], i / 2 % 2));
        write_signed(scale, &IQ2_S[usize::from(low) | usize::from(high) << 8], signs, weights);
    }
}
