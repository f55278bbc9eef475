//! AArch64 NEON with the matrix extension: `smmla` multiplies 8 columns of two rows of weights with
//! those of two rows of activations.
//!
//! That is twice the work of `sdot`, but wants 8 consecutive columns of a row in a register where a
//! panel has 4. Signed bytes are put in that order once, when they are made ready. The others would
//! have to be for every quad, which takes as many instructions as it saves: they stay with `sdot`.

use core::arch::aarch64::*;

use super::neon::{Neon, load_groups};
use super::neon_dot::{neon_with_sdot, products};
use crate::block::{Group, QUAD, RowBlock};

/// For every two groups of columns: pairs of rows of weights, one after the other.
type Pairs = [[int8x16_t; 8]; 4];

/// Computes `sum + w·x` for two rows of weights and two rows of activations.
#[inline]
#[target_feature(enable = "neon", enable = "i8mm")]
fn smmla(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // `vmmlaq_s32` is not stable yet.
    // SAFETY: this function enables `i8mm`; the instruction reads and writes the named registers
    // only.
    unsafe {
        core::arch::asm!("smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b", sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Puts 8 columns of two rows into each register, from 4 columns of four rows and the next 4.
#[inline]
#[target_feature(enable = "neon")]
fn pair(first: int8x16_t, second: int8x16_t) -> [int8x16_t; 2] {
    let (first, second) = (vreinterpretq_s32_s8(first), vreinterpretq_s32_s8(second));
    [vreinterpretq_s8_s32(vzip1q_s32(first, second)), vreinterpretq_s8_s32(vzip2q_s32(first, second))]
}

/// Undoes [`pair`].
#[inline]
#[target_feature(enable = "neon")]
fn unpair(low: int8x16_t, high: int8x16_t) -> [int8x16_t; 2] {
    let (low, high) = (vreinterpretq_s32_s8(low), vreinterpretq_s32_s8(high));
    [vreinterpretq_s8_s32(vuzp1q_s32(low, high)), vreinterpretq_s8_s32(vuzp2q_s32(low, high))]
}

/// Computes the products with a quad.
#[inline]
#[target_feature(enable = "neon", enable = "i8mm")]
fn products_of_pairs<const R: usize>(w: &Pairs, x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
    let mut sums = [[vdupq_n_s32(0); 2]; 8];
    for (w, x) in w.iter().zip(x.codes.as_flattened().as_chunks::<8>().0) {
        let (quads, _) = x.as_chunks::<4>();
        let x = pair(load_groups(&quads[0]), load_groups(&quads[1]));
        for (sums, &w) in sums.iter_mut().zip(w) {
            sums[0] = smmla(sums[0], w, x[0]);
            sums[1] = smmla(sums[1], w, x[1]);
        }
    }
    let mut dots = [[vdupq_n_s32(0); 4]; R];
    for (row, dots) in dots.iter_mut().enumerate() {
        for (dot, sums) in dots.iter_mut().zip(sums.as_chunks::<2>().0) {
            let (low, high) = (sums[0][row / 2], sums[1][row / 2]);
            *dot = if row % 2 == 0 { vuzp1q_s32(low, high) } else { vuzp2q_s32(low, high) };
        }
    }
    dots
}

neon_with_sdot! {
    /// NEON with `smmla`.
    NeonI8mm ("neon" "dotprod" "i8mm");
    type Signed = Pairs;

    fn dot_i8<const R: usize, F>(w: &Pairs, x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
        if R == QUAD {
            return products_of_pairs(w, x);
        }
        // The panel's order again: the compiler sees where it never left it.
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        products(&panel_order(w), x, 0..8, &mut dots);
        dots
    }

    fn signed(w: &[[int8x16_t; 4]; 8]) -> Pairs {
        let mut pairs = [[vdupq_n_s8(0); 8]; 4];
        for (pairs, [first, second]) in pairs.iter_mut().zip(w.as_chunks::<2>().0) {
            for (i, rows) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *rows = pair(first[i], second[i]);
            }
        }
        pairs
    }

    fn signed_codes(w: &Pairs) -> [[int8x16_t; 4]; 8] {
        panel_order(w)
    }
}

/// Undoes what `signed` did.
#[inline]
#[target_feature(enable = "neon")]
fn panel_order(w: &Pairs) -> [[int8x16_t; 4]; 8] {
    let mut codes = [[vdupq_n_s8(0); 4]; 8];
    for (codes, pairs) in codes.as_chunks_mut::<2>().0.iter_mut().zip(w) {
        for (i, rows) in pairs.as_chunks::<2>().0.iter().enumerate() {
            [codes[0][i], codes[1][i]] = unpair(rows[0], rows[1]);
        }
    }
    codes
}
