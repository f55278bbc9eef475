//! AVX2 with FMA and F16C: a logical vector is two registers, rows 0..8 and rows 8..16.

use core::arch::x86_64::*;

use crate::activations::Group;

define_isa! {
    /// 256-bit vectors.
    Avx2, is_x86_feature_detected ("avx2" "fma" "f16c");
    type Bytes = [__m256i; 2];
    type I32 = [__m256i; 2];
    type F32 = [__m256; 2];
    const WIDE: bool = false;

    fn load(src: &[u8; 64]) -> [__m256i; 2] {
        let (halves, _) = src.as_chunks::<32>();
        // SAFETY: a half is 32 readable bytes and the load needs no alignment.
        let low = unsafe { _mm256_loadu_si256(halves[0].as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm256_loadu_si256(halves[1].as_ptr().cast()) };
        [low, high]
    }

    fn nibbles(packed: [__m256i; 2]) -> [[__m256i; 2]; 2] {
        let mask = _mm256_set1_epi8(15);
        let [a, b] = packed;
        [
            [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)],
            [_mm256_and_si256(_mm256_srli_epi16::<4>(a), mask), _mm256_and_si256(_mm256_srli_epi16::<4>(b), mask)],
        ]
    }

    fn dot_u4<const N: usize>(w: &[[__m256i; 2]; N], x: &[Group; N], offset: i32) -> [__m256i; 2] {
        const { assert!(N <= 8) };
        // One 16-bit sum takes two columns of each of the N groups: at most 2·8·15·127 = 30480, so widening waits until the end.
        let mut sums = [_mm256_setzero_si256(); 2];
        for (w, &x) in w.iter().zip(x) {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w[0], x));
            sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w[1], x));
        }
        let ones = _mm256_set1_epi16(1);
        let offset = _mm256_set1_epi32(offset);
        [
            _mm256_add_epi32(_mm256_madd_epi16(sums[0], ones), offset),
            _mm256_add_epi32(_mm256_madd_epi16(sums[1], ones), offset),
        ]
    }

    fn dot_i8<const N: usize>(w: &[[__m256i; 2]; N], x: &[Group; N], _x_sum: i32) -> [__m256i; 2] {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); 2];
        for (w, &x) in w.iter().zip(x) {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            // `maddubs` wants unsigned times signed: |w| and x with the sign of w. |w| ≤ 128 and |x| ≤ 127, so a pair
            // of products reaches at most 32512 and never saturates.
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), _mm256_sign_epi8(x, w[0]));
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(products, ones));
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), _mm256_sign_epi8(x, w[1]));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(products, ones));
        }
        sums
    }

    fn byte<const J: usize>(w: [__m256i; 2]) -> [__m256i; 2] {
        // The byte moves to the top of its lane and comes down with its sign.
        let up = _mm_cvtsi32_si128(24 - 8 * J as i32);
        [
            _mm256_srai_epi32::<24>(_mm256_sll_epi32(w[0], up)),
            _mm256_srai_epi32::<24>(_mm256_sll_epi32(w[1], up)),
        ]
    }

    fn pack(columns: [[__m256i; 2]; 4]) -> [__m256i; 2] {
        let low = _mm256_set1_epi32(255);
        let mut packed = [low; 2];
        for (i, packed) in packed.iter_mut().enumerate() {
            let [a, b, c, d] = [columns[0][i], columns[1][i], columns[2][i], columns[3][i]];
            let b = _mm256_slli_epi32::<8>(_mm256_and_si256(b, low));
            let c = _mm256_slli_epi32::<16>(_mm256_and_si256(c, low));
            let d = _mm256_slli_epi32::<24>(d);
            *packed = _mm256_or_si256(_mm256_or_si256(_mm256_and_si256(a, low), b), _mm256_or_si256(c, d));
        }
        packed
    }

    fn store_bytes(v: [__m256i; 2], dst: &mut [u8; 64]) {
        for (half, v) in dst.as_chunks_mut::<32>().0.iter_mut().zip(v) {
            // SAFETY: a half is 32 writable bytes and the store needs no alignment.
            unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), v) };
        }
    }

    fn add_i32(a: [__m256i; 2], b: i32) -> [__m256i; 2] {
        let b = _mm256_set1_epi32(b);
        [_mm256_add_epi32(a[0], b), _mm256_add_epi32(a[1], b)]
    }

    fn to_f32(a: [__m256i; 2]) -> [__m256; 2] {
        [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
    }

    fn to_i32(a: [__m256; 2]) -> [__m256i; 2] {
        [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])]
    }

    fn load_f16(src: &[u8; 32]) -> [__m256; 2] {
        let (halves, _) = src.as_chunks::<16>();
        // SAFETY: a half is 16 readable bytes and the load needs no alignment.
        let low = unsafe { _mm_loadu_si128(halves[0].as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm_loadu_si128(halves[1].as_ptr().cast()) };
        [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
    }

    fn store_f16(v: [__m256; 2], dst: &mut [u8; 32]) {
        for (half, v) in dst.as_chunks_mut::<16>().0.iter_mut().zip(v) {
            let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            // SAFETY: a half is 16 writable bytes and the store needs no alignment.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), rounded) };
        }
    }

    fn load_f32(src: &[f32; 16]) -> [__m256; 2] {
        let (halves, _) = src.as_chunks::<8>();
        // SAFETY: a half is 8 readable `f32` and the load needs no alignment.
        let low = unsafe { _mm256_loadu_ps(halves[0].as_ptr()) };
        // SAFETY: as above.
        let high = unsafe { _mm256_loadu_ps(halves[1].as_ptr()) };
        [low, high]
    }

    fn splat(v: f32) -> [__m256; 2] {
        [_mm256_set1_ps(v); 2]
    }

    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }

    fn div(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
    }

    fn min(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
    }

    fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
    }

    fn abs(a: [__m256; 2]) -> [__m256; 2] {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }

    fn trunc(a: [__m256; 2]) -> [__m256; 2] {
        const TOWARDS_ZERO: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<TOWARDS_ZERO>(a[0]), _mm256_round_ps::<TOWARDS_ZERO>(a[1])]
    }

    fn round(a: [__m256; 2]) -> [__m256; 2] {
        const TOWARDS_ZERO: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
        // The largest number below a half, with the sign of `a`: a half itself would carry 0.49999997 up to 1.
        let (sign, half) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(0.5f32.next_down()));
        let mut rounded = a;
        for a in &mut rounded {
            let half = _mm256_or_ps(_mm256_and_ps(*a, sign), half);
            *a = _mm256_round_ps::<TOWARDS_ZERO>(_mm256_add_ps(*a, half));
        }
        rounded
    }

    fn where_greater(a: [__m256; 2], b: [__m256; 2], x: [__m256; 2], y: [__m256; 2]) -> [__m256; 2] {
        [
            _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
        ]
    }

    fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    fn store(v: [__m256; 2], dst: &mut [f32; 16]) {
        for (half, v) in dst.as_chunks_mut::<8>().0.iter_mut().zip(v) {
            // SAFETY: a half is 8 writable `f32` and the store needs no alignment.
            unsafe { _mm256_storeu_ps(half.as_mut_ptr(), v) };
        }
    }
}
