//! AVX2 with FMA and F16C.

use core::arch::x86_64::*;

use super::avx::avx;
use crate::block::{Group, RowBlock};

/// For each register of signed bytes: the bytes and their magnitudes.
type SignedBytes = [[[__m256i; 2]; 2]; 8];

/// Copies four codes into every lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn splat_group(x: Group) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))
}

/// Copies two values into every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn splat_pair([low, high]: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(low.cast_unsigned()) | i32::from(high) << 16)
}

/// Adds the products of `N` groups of columns to 16-bit sums, pairs of columns together. Weights
/// are below 128.
#[inline]
#[target_feature(enable = "avx2")]
fn products_u8<const R: usize, const FIRST: usize, const N: usize>(
    w: &[[__m256i; 2]; 8],
    x: &RowBlock<R>,
    sums: &mut [[__m256i; 2]; R],
) {
    // The compiler would not unroll a loop that is this long, and jump and add zeros instead.
    const { assert!(N <= 4 || FIRST == 0 && N == 8) };
    if N == 8 {
        products_u8::<R, FIRST, 4>(w, x, sums);
        return products_u8::<R, 4, 4>(w, x, sums);
    }
    for group in FIRST..FIRST + N {
        let w = w[group];
        for (sums, &x) in sums.iter_mut().zip(&x.codes[group]) {
            let x = splat_group(x);
            sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w[0], x));
            sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w[1], x));
        }
        keep_order(sums);
    }
}

/// Makes the compiler finish one group of columns before the next, with all sums in registers.
/// Otherwise it takes row after row and loads the weights again for each.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn keep_order<const R: usize>(sums: &mut [[__m256i; 2]; R]) {
    if R > 1 {
        for [a, b] in sums {
            // SAFETY: no instruction, and nothing but the two values is named.
            unsafe {
                core::arch::asm!(
                    "/* {0} {1} */",
                    inout(ymm_reg) * a,
                    inout(ymm_reg) * b,
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
    }
}

avx! {
    /// 256-bit vectors.
    Avx2 ("avx2" "fma" "f16c");
    type Signed = SignedBytes;

    fn dot_u4<const R: usize, F>(w: &[[__m256i; 2]; 8], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        // One 16-bit sum takes two columns of each of the 8 groups: at most 16·15·127 = 30480, so
        // widening waits until the end.
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        products_u8::<R, 0, 8>(w, x, &mut sums);
        let ones = _mm256_set1_epi16(1);
        for sums in &mut sums {
            *sums = [_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones)];
        }
        sums
    }

    fn dot_u5<const R: usize, F>(w: &[[__m256i; 2]; 8], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        // As for four bits, but 16 bits hold 16 columns only: at most 8·31·127 = 31496.
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[[_mm256_setzero_si256(); 2]; R]; 2];
        products_u8::<R, 0, 4>(w, x, &mut sums[0]);
        for sums in &mut sums[0] {
            *sums = [_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones)];
        }
        products_u8::<R, 4, 4>(w, x, &mut sums[1]);
        let [mut dots, sums] = sums;
        for (dots, sums) in dots.iter_mut().zip(sums) {
            dots[0] = _mm256_add_epi32(dots[0], _mm256_madd_epi16(sums[0], ones));
            dots[1] = _mm256_add_epi32(dots[1], _mm256_madd_epi16(sums[1], ones));
        }
        dots
    }

    fn dot_two_factors<const R: usize, F>(w: &[[__m256i; 2]; 8], factors: &[[__m256i; 2]; 2], x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        // Sums of (w - 32)·x, at most 8·32·127 = 32512: the offset comes first, and what overflows
        // on the way comes back.
        let mut sums = [[[_mm256_setzero_si256(); 2]; R]; 2];
        for (sums, offsets) in sums.iter_mut().zip(&x.offsets_32) {
            for (sums, &offsets) in sums.iter_mut().zip(offsets) {
                *sums = [splat_pair(offsets); 2];
            }
        }
        products_u8::<R, 0, 4>(w, x, &mut sums[0]);
        for sums in &mut sums[0] {
            *sums = [_mm256_madd_epi16(sums[0], factors[0][0]), _mm256_madd_epi16(sums[1], factors[0][1])];
        }
        products_u8::<R, 4, 4>(w, x, &mut sums[1]);
        let [mut dots, sums] = sums;
        for (dots, sums) in dots.iter_mut().zip(sums) {
            dots[0] = _mm256_add_epi32(dots[0], _mm256_madd_epi16(sums[0], factors[1][0]));
            dots[1] = _mm256_add_epi32(dots[1], _mm256_madd_epi16(sums[1], factors[1][1]));
        }
        dots
    }

    fn partial(offsets: [i16; 2]) -> [__m256i; 2] {
        [splat_pair(offsets); 2]
    }

    fn add_to_partial(sum: [__m256i; 2], w: [__m256i; 2], x: Group) -> [__m256i; 2] {
        let x = splat_group(x);
        [
            _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(w[0], x)),
            _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(w[1], x)),
        ]
    }

    fn add_partial(dot: [__m256i; 2], sum: [__m256i; 2], factor: [__m256i; 2]) -> [__m256i; 2] {
        [
            _mm256_add_epi32(dot[0], _mm256_madd_epi16(sum[0], factor[0])),
            _mm256_add_epi32(dot[1], _mm256_madd_epi16(sum[1], factor[1])),
        ]
    }

    fn factor(a: [__m256i; 2]) -> [__m256i; 2] {
        // In both halves of a lane: each holds the sum of its own columns.
        let low = _mm256_set1_epi32(0xffff);
        [
            _mm256_or_si256(_mm256_and_si256(a[0], low), _mm256_slli_epi32::<16>(a[0])),
            _mm256_or_si256(_mm256_and_si256(a[1], low), _mm256_slli_epi32::<16>(a[1])),
        ]
    }

    fn dot_i8<const R: usize, F>(w: &SignedBytes, x: &RowBlock<R>) -> [[__m256i; 2]; R] {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        for (w, x) in w.iter().zip(&x.codes) {
            for (dots, &x) in dots.iter_mut().zip(x) {
                let x = splat_group(x);
                for (dot, &[w, magnitude]) in dots.iter_mut().zip(w) {
                    // `maddubs` wants unsigned times signed: |w| and x with the sign of w. |w| ≤
                    // 128 and |x| ≤ 127, so a pair of products reaches at most 32512 and never
                    // saturates.
                    let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(products, ones));
                }
            }
            keep_order(&mut dots);
        }
        dots
    }

    fn multiply_bytes(sums: [__m256i; 2], w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        let mut products = [w[0]; 2];
        for (products, (w, x)) in products.iter_mut().zip(w.into_iter().zip(x)) {
            // The intrinsic would be taken out of a loop over the same bytes.
            // SAFETY: this function enables `avx2`; the instruction reads and writes the named
            // registers only.
            unsafe {
                core::arch::asm!("vpmaddubsw {p}, {w}, {x}", p = lateout(ymm_reg) *products, w = in(ymm_reg) w, x = in(ymm_reg) x,
                    options(nomem, nostack, preserves_flags));
            }
        }
        [_mm256_add_epi16(sums[0], products[0]), _mm256_add_epi16(sums[1], products[1])]
    }

    fn signed(w: &[[__m256i; 2]; 8]) -> SignedBytes {
        let mut signed = [[[_mm256_setzero_si256(); 2]; 2]; 8];
        for (signed, w) in signed.iter_mut().zip(w) {
            *signed = [[w[0], _mm256_abs_epi8(w[0])], [w[1], _mm256_abs_epi8(w[1])]];
        }
        signed
    }

    fn signed_codes(w: &SignedBytes) -> [[__m256i; 2]; 8] {
        let mut codes = [[_mm256_setzero_si256(); 2]; 8];
        for (codes, w) in codes.iter_mut().zip(w) {
            *codes = [w[0][0], w[1][0]];
        }
        codes
    }
}
