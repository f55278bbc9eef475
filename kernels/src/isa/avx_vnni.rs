//! AVX-VNNI: AVX2 with `vpdpbusd` on 256-bit registers, which multiplies and adds 32 bytes.

use core::arch::x86_64::*;
use core::ops::Range;

use super::avx::avx;
use super::avx2::{Avx2, keep_order, splat_group};
use crate::block::{Group, RowBlock};

/// Adds the products of some groups of columns.
#[inline]
#[target_feature(enable = "avx2", enable = "avxvnni")]
fn products_u8<const R: usize>(
    w: &[[__m256i; 2]; 8],
    x: &RowBlock<R>,
    groups: Range<usize>,
    dots: &mut [[__m256i; 2]; R],
) {
    for (w, x) in w[groups.clone()].iter().zip(&x.codes[groups]) {
        for (dots, &x) in dots.iter_mut().zip(x) {
            let x = splat_group(x);
            dots[0] = _mm256_dpbusd_avx_epi32(dots[0], w[0], x);
            dots[1] = _mm256_dpbusd_avx_epi32(dots[1], w[1], x);
        }
        keep_order(dots);
    }
}

/// Adds 128 to the bytes: flips the top bit.
#[inline]
#[target_feature(enable = "avx2")]
fn flip(w: &[[__m256i; 2]; 8]) -> [[__m256i; 2]; 8] {
    let top = _mm256_set1_epi8(-128);
    let mut flipped = *w;
    for w in &mut flipped {
        *w = [_mm256_xor_si256(w[0], top), _mm256_xor_si256(w[1], top)];
    }
    flipped
}

avx! {
    /// 256-bit vectors and `vpdpbusd`.
    AvxVnni ("avx2" "avxvnni" "fma" "f16c") extends Avx2;
    type Signed = [[__m256i; 2]; 8];

    fn dot_u4<const R: usize, F>(w: &[[__m256i; 2]; 8], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_u5<const R: usize, F>(w: &[[__m256i; 2]; 8], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_two_factors<const R: usize, F>(w: &[[__m256i; 2]; 8], factors: &[[__m256i; 2]; 2], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        for (half, factor) in factors.iter().enumerate() {
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for (sums, offsets) in sums.iter_mut().zip(&x.offsets_32[half]) {
                *sums = [_mm256_set1_epi32(i32::from(offsets[0]) + i32::from(offsets[1])); 2];
            }
            products_u8(w, x, 4 * half..4 * half + 4, &mut sums);
            for (dots, sums) in dots.iter_mut().zip(sums) {
                dots[0] = _mm256_add_epi32(dots[0], _mm256_mullo_epi32(sums[0], factor[0]));
                dots[1] = _mm256_add_epi32(dots[1], _mm256_mullo_epi32(sums[1], factor[1]));
            }
        }
        dots
    }

    fn partial(offsets: [i16; 2]) -> [__m256i; 2] {
        [_mm256_set1_epi32(i32::from(offsets[0]) + i32::from(offsets[1])); 2]
    }

    fn add_to_partial(sum: [__m256i; 2], w: [__m256i; 2], x: Group) -> [__m256i; 2] {
        let x = splat_group(x);
        [_mm256_dpbusd_avx_epi32(sum[0], w[0], x), _mm256_dpbusd_avx_epi32(sum[1], w[1], x)]
    }

    fn add_partial(dot: [__m256i; 2], sum: [__m256i; 2], factor: [__m256i; 2]) -> [__m256i; 2] {
        [
            _mm256_add_epi32(dot[0], _mm256_mullo_epi32(sum[0], factor[0])),
            _mm256_add_epi32(dot[1], _mm256_mullo_epi32(sum[1], factor[1])),
        ]
    }

    fn factor(a: [__m256i; 2]) -> [__m256i; 2] {
        a
    }

    fn dot_i8<const R: usize, F>(w: &[[__m256i; 2]; 8], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        for (dots, offset) in dots.iter_mut().zip(x.offsets_8) {
            *dots = [_mm256_set1_epi32(16 * offset); 2];
        }
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn multiply_bytes(sums: [__m256i; 2], w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        [_mm256_dpbusd_avx_epi32(sums[0], w[0], x[0]), _mm256_dpbusd_avx_epi32(sums[1], w[1], x[1])]
    }

    fn signed(w: &[[__m256i; 2]; 8]) -> [[__m256i; 2]; 8] {
        // `vpdpbusd` wants unsigned times signed, and Σ (w + 128)·x is too large by 128·Σ x.
        flip(w)
    }

    fn signed_codes(w: &[[__m256i; 2]; 8]) -> [[__m256i; 2]; 8] {
        flip(w)
    }
}
