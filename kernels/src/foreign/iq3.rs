//! `iq3_xxs` and `iq3_s`: points of 4 magnitudes, and signs.

use super::books::{IQ3_S, IQ3_XXS};
use super::{even_signs, half, nibble, write_signed};

/// Decodes a block of `iq3_xxs`: scale; 64 codes; for each 32 columns 32 bits: seven signs for each
/// 8 columns, and the scale.
pub(super) fn xxs(block: &[u8; 98], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (codes, _) = block[2..66].as_chunks::<8>();
    let (rest, _) = block[66..].as_chunks::<4>();
    for ((codes, &rest), weights) in codes.iter().zip(rest).zip(weights.as_chunks_mut::<32>().0) {
        let rest = u32::from_le_bytes(rest);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        for (i, (&code, weights)) in codes.iter().zip(weights.as_chunks_mut().0).enumerate() {
            let signs = even_signs(rest >> (7 * (i / 2))) >> (4 * (i % 2));
            write_signed(scale, &IQ3_XXS[usize::from(code)], signs, weights);
        }
    }
}

/// Decodes a block of `iq3_s`: scale; the low 8 bits of the codes; the ninth bits, eight codes to a
/// byte; signs; the scales of 32 columns.
pub(super) fn s(block: &[u8; 110], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (low, high, signs, scales) = (&block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for (i, (&low, weights)) in low.iter().zip(weights.as_chunks_mut().0).enumerate() {
        let high = high[i / 8] >> (i % 8) & 1;
        let scale = d * f32::from(1 + 2 * nibble(scales[i / 16], i / 8 % 2));
        let signs = signs[i / 2] >> (4 * (i % 2));
        write_signed(scale, &IQ3_S[usize::from(low) | usize::from(high) << 8], signs, weights);
    }
}
