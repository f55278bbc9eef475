//! AArch64 NEON with the dot-product extension: `sdot` multiplies and adds 16 bytes.

use core::arch::aarch64::*;

use super::neon::{neon, splat_group};
use crate::activations::Group;

/// `sum + w·x` in each of four rows.
#[inline]
#[target_feature(enable = "neon", enable = "dotprod")]
fn sdot(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // `vdotq_s32` is not stable yet.
    // SAFETY: this function enables `dotprod`; the instruction reads and writes the named registers only.
    unsafe {
        core::arch::asm!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b", sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

neon! {
    /// NEON with `sdot`.
    NeonDot ("neon" "dotprod");

    fn dot_u4<const N: usize>(w: &[[int8x16_t; 4]; N], x: &[Group; N], offset: i32) -> [int32x4_t; 4] {
        let mut sums = [vdupq_n_s32(offset); 4];
        for (w, &x) in w.iter().zip(x) {
            let x = splat_group(x);
            for i in 0..4 {
                sums[i] = sdot(sums[i], w[i], x);
            }
        }
        sums
    }

    fn dot_i8<const N: usize>(w: &[[int8x16_t; 4]; N], x: &[Group; N], _x_sum: i32) -> [int32x4_t; 4] {
        let mut sums = [vdupq_n_s32(0); 4];
        for (w, &x) in w.iter().zip(x) {
            let x = splat_group(x);
            for i in 0..4 {
                sums[i] = sdot(sums[i], w[i], x);
            }
        }
        sums
    }
}
