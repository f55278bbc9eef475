//! AArch64 NEON with the dot-product extension: `sdot` multiplies and adds 16 bytes.

use core::arch::aarch64::*;
use core::ops::Range;

use super::neon::{Neon, load_groups};
use crate::block::{Group, RowBlock};

/// Computes `sums + w·x` in each row, with four activations of the sixteen.
#[inline]
#[target_feature(enable = "neon", enable = "dotprod")]
pub(super) fn sdot<const FOUR: usize>(sums: &mut [int32x4_t; 4], w: &[int8x16_t; 4], x: int8x16_t) {
    let [a, b, c, d] = sums;
    // `vdotq_laneq_s32` is not stable yet.
    // SAFETY: this function enables `dotprod`; the instructions read and write the named registers
    // only.
    unsafe {
        core::arch::asm!(
            "sdot {a:v}.4s, {wa:v}.16b, {x:v}.4b[{four}]",
            "sdot {b:v}.4s, {wb:v}.16b, {x:v}.4b[{four}]",
            "sdot {c:v}.4s, {wc:v}.16b, {x:v}.4b[{four}]",
            "sdot {d:v}.4s, {wd:v}.16b, {x:v}.4b[{four}]",
            a = inout(vreg) *a, b = inout(vreg) *b, c = inout(vreg) *c, d = inout(vreg) *d,
            wa = in(vreg) w[0], wb = in(vreg) w[1], wc = in(vreg) w[2], wd = in(vreg) w[3],
            x = in(vreg) x, four = const FOUR,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// Does so with all sixteen activations, four groups of columns of one row.
///
/// Where the compiler decides what to inline, an `asm!` costs as much as its operands are many.
/// With eight of [`sdot`] it left the product with one row out of line.
#[inline]
#[target_feature(enable = "neon", enable = "dotprod")]
fn sdot_all(sums: &mut [int32x4_t; 4], w: &[[int8x16_t; 4]; 4], x: int8x16_t) {
    let [a, b, c, d] = sums;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "sdot {a:v}.4s, {a0:v}.16b, {x:v}.4b[0]",
            "sdot {b:v}.4s, {b0:v}.16b, {x:v}.4b[0]",
            "sdot {c:v}.4s, {c0:v}.16b, {x:v}.4b[0]",
            "sdot {d:v}.4s, {d0:v}.16b, {x:v}.4b[0]",
            "sdot {a:v}.4s, {a1:v}.16b, {x:v}.4b[1]",
            "sdot {b:v}.4s, {b1:v}.16b, {x:v}.4b[1]",
            "sdot {c:v}.4s, {c1:v}.16b, {x:v}.4b[1]",
            "sdot {d:v}.4s, {d1:v}.16b, {x:v}.4b[1]",
            "sdot {a:v}.4s, {a2:v}.16b, {x:v}.4b[2]",
            "sdot {b:v}.4s, {b2:v}.16b, {x:v}.4b[2]",
            "sdot {c:v}.4s, {c2:v}.16b, {x:v}.4b[2]",
            "sdot {d:v}.4s, {d2:v}.16b, {x:v}.4b[2]",
            "sdot {a:v}.4s, {a3:v}.16b, {x:v}.4b[3]",
            "sdot {b:v}.4s, {b3:v}.16b, {x:v}.4b[3]",
            "sdot {c:v}.4s, {c3:v}.16b, {x:v}.4b[3]",
            "sdot {d:v}.4s, {d3:v}.16b, {x:v}.4b[3]",
            a = inout(vreg) *a, b = inout(vreg) *b, c = inout(vreg) *c, d = inout(vreg) *d,
            a0 = in(vreg) w[0][0], b0 = in(vreg) w[0][1], c0 = in(vreg) w[0][2], d0 = in(vreg) w[0][3],
            a1 = in(vreg) w[1][0], b1 = in(vreg) w[1][1], c1 = in(vreg) w[1][2], d1 = in(vreg) w[1][3],
            a2 = in(vreg) w[2][0], b2 = in(vreg) w[2][1], c2 = in(vreg) w[2][2], d2 = in(vreg) w[2][3],
            a3 = in(vreg) w[3][0], b3 = in(vreg) w[3][1], c3 = in(vreg) w[3][2], d3 = in(vreg) w[3][3],
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// Adds the products of some groups of columns.
#[inline]
#[target_feature(enable = "neon", enable = "dotprod")]
pub(super) fn products<const R: usize>(
    w: &[[int8x16_t; 4]; 8],
    x: &RowBlock<R>,
    groups: Range<usize>,
    dots: &mut [[int32x4_t; 4]; R],
) {
    if R == 1 {
        let groups_of_four = x.codes[groups.clone()].as_flattened().as_chunks::<4>().0;
        for (w, x) in w[groups].as_chunks::<4>().0.iter().zip(groups_of_four) {
            sdot_all(&mut dots[0], w, load_groups(x));
        }
    } else {
        for (w, x) in w[groups.clone()].iter().zip(&x.codes[groups]) {
            let x = load_groups(x.first_chunk().expect("the rows of a quad"));
            sdot::<0>(&mut dots[0], w, x);
            sdot::<1>(&mut dots[1 % R], w, x);
            sdot::<2>(&mut dots[2 % R], w, x);
            sdot::<3>(&mut dots[3 % R], w, x);
        }
    }
}

/// Defines an instruction set with `sdot` from its products of signed bytes; all other operations
/// are the same.
macro_rules! neon_with_sdot {
    ($(#[$doc:meta])* $isa:ident $features:tt; type Signed = $signed:ty; $($signed_products:tt)+) => {
        $crate::isa::neon::neon! {
            $(#[$doc])*
            $isa $features extends Neon;
            type Signed = $signed;
            type Partial = [int32x4_t; 4];

            fn dot_u4<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
                let mut dots = [[vdupq_n_s32(0); 4]; R];
                $crate::isa::neon_dot::products(w, x, 0..8, &mut dots);
                dots
            }

            fn dot_u5<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
                let mut dots = [[vdupq_n_s32(0); 4]; R];
                $crate::isa::neon_dot::products(w, x, 0..8, &mut dots);
                dots
            }

            fn dot_two_factors<const R: usize, F>(
                w: &[[int8x16_t; 4]; 8],
                factors: &[[int32x4_t; 4]; 2],
                x: &RowBlock<R>,
            ) -> [[int32x4_t; 4]; R] {
                let mut dots = [[vdupq_n_s32(0); 4]; R];
                for (half, factor) in factors.iter().enumerate() {
                    let mut sums = $crate::isa::neon::offset_sums(&x.offsets_32[half]);
                    $crate::isa::neon_dot::products(w, x, 4 * half..4 * half + 4, &mut sums);
                    $crate::isa::neon::add_scaled(&mut dots, &sums, factor);
                }
                dots
            }

            fn partial(offsets: [i16; 2]) -> [int32x4_t; 4] {
                let [sums] = $crate::isa::neon::offset_sums(&[offsets]);
                sums
            }

            fn add_to_partial(sum: [int32x4_t; 4], w: [int8x16_t; 4], x: Group) -> [int32x4_t; 4] {
                let mut sum = sum;
                $crate::isa::neon_dot::sdot::<0>(&mut sum, &w, $crate::isa::neon::splat_group(x));
                sum
            }

            fn add_partial(dot: [int32x4_t; 4], sum: [int32x4_t; 4], factor: [int32x4_t; 4]) -> [int32x4_t; 4] {
                let mut dots = [dot];
                $crate::isa::neon::add_scaled(&mut dots, &[sum], &factor);
                dots[0]
            }

            fn multiply_bytes(sums: [int32x4_t; 4], w: [int8x16_t; 4], x: [int8x16_t; 4]) -> [int32x4_t; 4] {
                let mut sums = sums;
                $crate::isa::neon_dot::sdot::<0>(&mut sums, &w, x[0]);
                sums
            }

            $($signed_products)+
        }
    };
}
pub(super) use neon_with_sdot;

neon_with_sdot! {
    /// NEON with `sdot`.
    NeonDot ("neon" "dotprod");
    type Signed = [[int8x16_t; 4]; 8];

    fn dot_i8<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        products(w, x, 0..8, &mut dots);
        dots
    }

    fn signed(w: &[[int8x16_t; 4]; 8]) -> [[int8x16_t; 4]; 8] {
        *w
    }

    fn signed_codes(w: &[[int8x16_t; 4]; 8]) -> [[int8x16_t; 4]; 8] {
        *w
    }
}
