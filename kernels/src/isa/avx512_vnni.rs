//! AVX-512 with VNNI: a logical vector is one register, and one instruction multiplies and adds 64 bytes.

use core::arch::x86_64::*;

use crate::activations::Group;

define_isa! {
    /// 512-bit vectors and `vpdpbusd`.
    Avx512Vnni, is_x86_feature_detected ("avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx2" "fma" "f16c");
    type Bytes = __m512i;
    type I32 = __m512i;
    type F32 = __m512;
    const WIDE: bool = true;

    fn load(src: &[u8; 64]) -> __m512i {
        // SAFETY: `src` is 64 readable bytes and the load needs no alignment.
        unsafe { _mm512_loadu_si512(src.as_ptr().cast()) }
    }

    fn nibbles(packed: __m512i) -> [__m512i; 2] {
        let mask = _mm512_set1_epi8(15);
        [_mm512_and_si512(packed, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask)]
    }

    fn dot_u4<const N: usize>(w: &[__m512i; N], x: &[Group; N], offset: i32) -> __m512i {
        let mut sum = _mm512_set1_epi32(offset);
        for (&w, &x) in w.iter().zip(x) {
            sum = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned))));
        }
        sum
    }

    fn dot_i8<const N: usize>(w: &[__m512i; N], x: &[Group; N], x_sum: i32) -> __m512i {
        // `vpdpbusd` wants unsigned times signed: w + 128 is the byte with its top bit flipped, and Σ (w + 128)·x is too large by 128·Σ x.
        let flip = _mm512_set1_epi8(-128);
        let mut sum = _mm512_set1_epi32(-128 * x_sum);
        for (&w, &x) in w.iter().zip(x) {
            let x = _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, flip), x);
        }
        sum
    }

    fn byte<const J: usize>(w: __m512i) -> __m512i {
        // The byte moves to the top of its lane and comes down with its sign.
        _mm512_srai_epi32::<24>(_mm512_sll_epi32(w, _mm_cvtsi32_si128(24 - 8 * J as i32)))
    }

    fn pack(columns: [__m512i; 4]) -> __m512i {
        let low = _mm512_set1_epi32(255);
        let [a, b, c, d] = columns;
        let b = _mm512_slli_epi32::<8>(_mm512_and_si512(b, low));
        let c = _mm512_slli_epi32::<16>(_mm512_and_si512(c, low));
        let d = _mm512_slli_epi32::<24>(d);
        _mm512_or_si512(_mm512_or_si512(_mm512_and_si512(a, low), b), _mm512_or_si512(c, d))
    }

    fn store_bytes(v: __m512i, dst: &mut [u8; 64]) {
        // SAFETY: `dst` is 64 writable bytes and the store needs no alignment.
        unsafe { _mm512_storeu_si512(dst.as_mut_ptr().cast(), v) }
    }

    fn add_i32(a: __m512i, b: i32) -> __m512i {
        _mm512_add_epi32(a, _mm512_set1_epi32(b))
    }

    fn to_f32(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }

    fn to_i32(a: __m512) -> __m512i {
        _mm512_cvtps_epi32(a)
    }

    fn load_f16(src: &[u8; 32]) -> __m512 {
        // SAFETY: `src` is 32 readable bytes and the load needs no alignment.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) })
    }

    fn store_f16(v: __m512, dst: &mut [u8; 32]) {
        let rounded = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
        // SAFETY: `dst` is 32 writable bytes and the store needs no alignment.
        unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), rounded) }
    }

    fn load_f32(src: &[f32; 16]) -> __m512 {
        // SAFETY: `src` is 16 readable `f32` and the load needs no alignment.
        unsafe { _mm512_loadu_ps(src.as_ptr()) }
    }

    fn splat(v: f32) -> __m512 {
        _mm512_set1_ps(v)
    }

    fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }

    fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }

    fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }

    fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }

    fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }

    fn abs(a: __m512) -> __m512 {
        _mm512_abs_ps(a)
    }

    fn trunc(a: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(a)
    }

    fn round(a: __m512) -> __m512 {
        // The largest number below a half, with the sign of `a`: a half itself would carry 0.49999997 up to 1.
        let (sign, half) = (_mm512_set1_epi32(i32::MIN), _mm512_set1_ps(0.5f32.next_down()));
        let half = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(a), sign), _mm512_castps_si512(half));
        let sum = _mm512_add_ps(a, _mm512_castsi512_ps(half));
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(sum)
    }

    fn where_greater(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x)
    }

    fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    fn store(v: __m512, dst: &mut [f32; 16]) {
        // SAFETY: `dst` is 16 writable `f32` and the store needs no alignment.
        unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), v) }
    }
}
