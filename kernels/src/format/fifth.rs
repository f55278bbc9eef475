//! 32 codes of 5 bits, for `q5_0` and `q5_1`: bit `i` of four bytes is the fifth bit of column `i`,
//! and the low four bits follow, byte `j` of 16 holding column `j` in its low and column `j + 16`
//! in its high four bits.

use super::tile::Codes;
use super::{Lanes, PANEL_ROWS, field_at, split_nibbles, store_nibbles};
use crate::isa::Simd;

/// Decodes 32 columns; `weight` returns what a code means.
pub(super) fn decode(bytes: &[u8], weights: &mut [f32], weight: impl Fn(f32) -> f32) {
    let (fifths, pairs) = bytes.split_at(4);
    for (i, out) in weights.iter_mut().enumerate() {
        let low = pairs[i % 16] >> (i / 16 * 4) & 15;
        let fifth = fifths[i / 8] >> (i % 8) & 1;
        *out = weight(f32::from(low | fifth << 4));
    }
}

/// Writes 32 columns of codes.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, codes: &[Lanes], out: &mut [[u8; 64]]) {
    let (fifths_out, nibbles_out) = out.split_first_mut().expect("the fifth bits come first");
    let mut low = [[0.0; PANEL_ROWS]; 32];
    let mut fifths = [simd.to_i32(simd.splat(0.0)); 4];
    for (eighth, (codes, low)) in codes.as_chunks::<8>().0.iter().zip(low.as_chunks_mut::<8>().0).enumerate() {
        let mut sum = simd.splat(0.0);
        for (i, (code, low)) in codes.iter().zip(low).enumerate() {
            let code = simd.load_f32(code);
            let fifth = simd.trunc(simd.mul(code, simd.splat(1.0 / 16.0)));
            simd.store(simd.mul_add(fifth, simd.splat(-16.0), code), low);
            sum = simd.mul_add(fifth, simd.splat((1 << i) as f32), sum);
        }
        fifths[eighth] = simd.to_i32(sum);
    }
    simd.store_bytes(simd.pack(fifths), fifths_out);
    store_nibbles(simd, &low[..16], &low[16..], nibbles_out);
}

/// Unpacks the codes that begin at `at` of a block of a panel.
#[inline(always)]
pub(super) fn codes<S: Simd>(simd: S, block: &[u8], at: usize) -> Codes<S> {
    let fifths = field_at(simd, block, at, 0);
    let mut codes = split_nibbles(simd, block, at + 64);
    for (group, codes) in codes.iter_mut().enumerate() {
        *codes = simd.or(*codes, simd.spread_bits(fifths, group as u32));
    }
    codes
}
