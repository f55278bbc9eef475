//! AVX-512 with VNNI: a logical vector is one register, and one instruction multiplies and adds 64
//! bytes.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::block::{Group, RowBlock};

/// Copies four codes into every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn splat_group(x: Group) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))
}

/// Adds the products of some groups of columns.
#[inline]
#[target_feature(enable = "avx512f", enable = "avx512vnni")]
fn products_u8<const R: usize>(w: &[__m512i; 8], x: &RowBlock<R>, groups: Range<usize>, dots: &mut [__m512i; R]) {
    for (&w, x) in w[groups.clone()].iter().zip(&x.codes[groups]) {
        for (dot, &x) in dots.iter_mut().zip(x) {
            *dot = _mm512_dpbusd_epi32(*dot, w, splat_group(x));
        }
    }
}

define_isa! {
    /// 512-bit vectors and `vpdpbusd`.
    Avx512Vnni, is_x86_feature_detected ("avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx2" "fma" "f16c");
    type Bytes = __m512i;
    type Signed = [__m512i; 8];
    type I32 = __m512i;
    type Factor = __m512i;
    type Partial = __m512i;
    type F32 = __m512;
    const FEW_REGISTERS: bool = false;
    const MANY_SUMS: bool = true;

    fn load(src: &[u8; 64]) -> __m512i {
        // SAFETY: `src` is 64 readable bytes and the load needs no alignment.
        unsafe { _mm512_loadu_si512(src.as_ptr().cast()) }
    }

    fn prefetch(address: *const u8) {
        // A hint: an address that is not there does no harm.
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    fn bits(w: __m512i, from: u32, mask: u8, to: u32) -> __m512i {
        // What comes in from a byte's neighbour lies outside of the mask.
        let by = _mm_cvtsi32_si128(from.abs_diff(to) as i32);
        let moved = if to >= from { _mm512_sll_epi16(w, by) } else { _mm512_srl_epi16(w, by) };
        _mm512_and_si512(moved, _mm512_set1_epi8((mask << to).cast_signed()))
    }

    fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }

    fn spread_bits(w: __m512i, group: u32) -> __m512i {
        // The byte with the four bits is copied into all bytes of its lane, each of which then
        // tests its own bit.
        let first = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
        let copy = _mm512_broadcast_i32x4(_mm_add_epi8(first, _mm_set1_epi8(group as i8 / 2)));
        let bit = _mm512_set1_epi32(0x0804_0201 << (group % 2 * 4));
        let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(w, copy), bit);
        _mm512_maskz_set1_epi8(set, 16)
    }

    fn lookup_bytes(table: &[i8; 16], index: __m512i) -> __m512i {
        // SAFETY: the table is 16 readable bytes and the load needs no alignment.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index)
    }

    fn dot_u4<const R: usize, F>(w: &[__m512i; 8], x: &RowBlock<R>) -> [__m512i; R] {
        let mut dots = [_mm512_setzero_si512(); R];
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_u5<const R: usize, F>(w: &[__m512i; 8], x: &RowBlock<R>) -> [__m512i; R] {
        let mut dots = [_mm512_setzero_si512(); R];
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_two_factors<const R: usize, F>(w: &[__m512i; 8], factors: &[__m512i; 2], x: &RowBlock<R>) -> [__m512i; R] {
        let mut dots = [_mm512_setzero_si512(); R];
        for (half, factor) in factors.iter().enumerate() {
            let mut sums = [_mm512_setzero_si512(); R];
            for (sum, offsets) in sums.iter_mut().zip(&x.offsets_32[half]) {
                *sum = _mm512_set1_epi32(i32::from(offsets[0]) + i32::from(offsets[1]));
            }
            products_u8(w, x, 4 * half..4 * half + 4, &mut sums);
            for (dot, sum) in dots.iter_mut().zip(sums) {
                *dot = _mm512_add_epi32(*dot, _mm512_mullo_epi32(sum, *factor));
            }
        }
        dots
    }

    fn partial(offsets: [i16; 2]) -> __m512i {
        _mm512_set1_epi32(i32::from(offsets[0]) + i32::from(offsets[1]))
    }

    fn add_to_partial(sum: __m512i, w: __m512i, x: Group) -> __m512i {
        _mm512_dpbusd_epi32(sum, w, splat_group(x))
    }

    fn add_partial(dot: __m512i, sum: __m512i, factor: __m512i) -> __m512i {
        _mm512_add_epi32(dot, _mm512_mullo_epi32(sum, factor))
    }

    fn factor(a: __m512i) -> __m512i {
        a
    }

    fn dot_i8<const R: usize, F>(w: &[__m512i; 8], x: &RowBlock<R>) -> [__m512i; R] {
        let mut dots = [_mm512_setzero_si512(); R];
        for (dot, offset) in dots.iter_mut().zip(x.offsets_8) {
            *dot = _mm512_set1_epi32(16 * offset);
        }
        products_u8(w, x, 0..8, &mut dots);
        dots
    }

    fn multiply_bytes(sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, w, x)
    }

    fn signed(w: &[__m512i; 8]) -> [__m512i; 8] {
        // `vpdpbusd` wants unsigned times signed: w + 128 is the byte with its top bit flipped, and
        // Σ (w + 128)·x is too large by 128·Σ x.
        let mut flipped = *w;
        for w in &mut flipped {
            *w = _mm512_xor_si512(*w, _mm512_set1_epi8(-128));
        }
        flipped
    }

    fn signed_codes(w: &[__m512i; 8]) -> [__m512i; 8] {
        let mut codes = *w;
        for w in &mut codes {
            *w = _mm512_xor_si512(*w, _mm512_set1_epi8(-128));
        }
        codes
    }

    fn byte(w: __m512i, j: u32) -> __m512i {
        // The byte moves to the top of its lane and comes down with its sign.
        _mm512_srai_epi32::<24>(_mm512_sll_epi32(w, _mm_cvtsi32_si128(24 - 8 * j as i32)))
    }

    fn bits_i32(w: __m512i, from: u32, mask: i32) -> __m512i {
        _mm512_and_si512(_mm512_srl_epi32(w, _mm_cvtsi32_si128(from as i32)), _mm512_set1_epi32(mask))
    }

    fn bits_of_u16(src: &[u8; 32], from: u32, mask: i32) -> __m512i {
        // SAFETY: `src` is 32 readable bytes and the load needs no alignment.
        let numbers = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) });
        _mm512_and_si512(_mm512_srl_epi32(numbers, _mm_cvtsi32_si128(from as i32)), _mm512_set1_epi32(mask))
    }

    fn load_e8m0(src: &[u8; 16]) -> __m512 {
        // SAFETY: `src` is 16 readable bytes and the load needs no alignment.
        let e = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(src.as_ptr().cast()) });
        // As an exponent `e` means 2^(e - 127), but 0 for the least and infinity for the largest.
        let half = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(e)), _mm512_set1_ps(0.5));
        let least = _mm512_max_ps(half, _mm512_set1_ps(f32::from_bits(1 << 21)));
        _mm512_min_ps(least, _mm512_set1_ps(f32::from_bits(254 << 23)))
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

    fn load_bf16(src: &[u8; 32]) -> __m512 {
        // SAFETY: `src` is 32 readable bytes and the load needs no alignment.
        let numbers = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers))
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

    fn load_f32_bytes(src: &[u8; 64]) -> __m512 {
        // SAFETY: `src` is 64 readable bytes and the load needs no alignment.
        unsafe { _mm512_loadu_ps(src.as_ptr().cast()) }
    }

    fn load_i8(src: &[u8; 16]) -> __m512i {
        // SAFETY: `src` is 16 readable bytes and the load needs no alignment.
        _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(src.as_ptr().cast()) })
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
        // The largest number below a half, with the sign of `a`: a half itself would carry
        // 0.49999997 up to 1.
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

    fn power_of_two(n: __m512i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))))
    }

    fn sum(a: __m512) -> f32 {
        // The upper half, by an instruction of AVX-512 F.
        let high = _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b_11_10_11_10>(a, a));
        let eight = _mm256_add_ps(_mm512_castps512_ps256(a), high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    fn store(v: __m512, dst: &mut [f32; 16]) {
        // SAFETY: `dst` is 16 writable `f32` and the store needs no alignment.
        unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), v) }
    }

    fn lookup(table: &[f32; 16], index: __m512i) -> __m512 {
        // SAFETY: `table` is 16 readable `f32` and the load needs no alignment.
        _mm512_permutexvar_ps(index, unsafe { _mm512_loadu_ps(table.as_ptr()) })
    }
}
