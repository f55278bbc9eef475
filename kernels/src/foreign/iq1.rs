//! `iq1_s` and `iq1_m`: points with coordinates -1, 0, 1, moved by an eighth up or down.

use super::books::IQ1;
use super::half;

/// Decodes a block of `iq1_s`: scale; the low 8 bits of the codes; for each 32 columns 16 bits: the
/// high 3 bits of four codes, a scale of 3 bits, and the direction of the move.
pub(super) fn s(block: &[u8; 50], weights: &mut [f32; 256]) {
    let d = half([block[0], block[1]]);
    let (low, _) = block[2..34].as_chunks::<4>();
    let (high, _) = block[34..].as_chunks::<2>();
    for ((low, &high), weights) in low.iter().zip(high).zip(weights.as_chunks_mut::<32>().0) {
        let high = u16::from_le_bytes(high);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        for (i, (&low, weights)) in low.iter().zip(weights.as_chunks_mut().0).enumerate() {
            write(scale, low, high >> (3 * i), high >> 15 == 1, weights);
        }
    }
}

/// Decodes a block of `iq1_m`: the low 8 bits of the codes; for each of them four bits, the high 3
/// and the direction of the move; 16 scales of 3 bits, four in 16 bits, whose highest four bits are
/// a quarter of the block's scale, the lowest one first.
pub(super) fn m(block: &[u8; 56], weights: &mut [f32; 256]) {
    let (low, _) = block[..32].as_chunks::<2>();
    let (high, scales) = (&block[32..48], block[48..].as_chunks::<2>().0);
    let scale_bits = |i: usize| u16::from_le_bytes(scales[i]);
    let quarters = (0..4).map(|i| (scale_bits(i) >> 12) << (4 * i));
    let d = half(quarters.fold(0, |bits, quarter| bits | quarter).to_le_bytes());
    for (i, ((low, &high), weights)) in low.iter().zip(high).zip(weights.as_chunks_mut::<16>().0).enumerate() {
        let scale = d * f32::from(2 * (scale_bits(i / 4) >> (3 * (i % 4)) & 7) + 1);
        let (weights, _) = weights.as_chunks_mut();
        write(scale, low[0], u16::from(high), high >> 3 & 1 == 1, &mut weights[0]);
        write(scale, low[1], u16::from(high >> 4), high >> 7 == 1, &mut weights[1]);
    }
}

/// Writes the point for a code whose low 8 bits are `low` and whose high 3 bits are the lowest of
/// `high`.
fn write(scale: f32, low: u8, high: u16, down: bool, weights: &mut [f32; 8]) {
    let point = &IQ1[usize::from(u16::from(low) | (high & 7) << 8)];
    let move_by = if down { -0.125 } else { 0.125 };
    for (weight, &coordinate) in weights.iter_mut().zip(point) {
        *weight = scale * (f32::from(coordinate) + move_by);
    }
}
