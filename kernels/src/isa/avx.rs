//! 256-bit vectors: what AVX2 and its extensions share. A logical vector is two registers, rows
//! 0..8 and rows 8..16.

/// An instruction set of 256-bit vectors with the operations that all of them share, and the dot
/// products, which differ.
macro_rules! avx {
    ($(#[$doc:meta])* $isa:ident $features:tt $(extends $base:ident)?; type Signed = $signed:ty; $($dots:tt)+) => {
        define_isa! {
            $(#[$doc])*
            $isa $(extends $base)?, is_x86_feature_detected $features;
            type Bytes = [__m256i; 2];
            type Signed = $signed;
            type I32 = [__m256i; 2];
            type Factor = [__m256i; 2];
            type Partial = [__m256i; 2];
            type F32 = [__m256; 2];
            const FEW_REGISTERS: bool = true;
            const MANY_SUMS: bool = false;

            fn load(src: &[u8; 64]) -> [__m256i; 2] {
                let (halves, _) = src.as_chunks::<32>();
                // SAFETY: a half is 32 readable bytes and the load needs no alignment.
                let low = unsafe { _mm256_loadu_si256(halves[0].as_ptr().cast()) };
                // SAFETY: as above.
                let high = unsafe { _mm256_loadu_si256(halves[1].as_ptr().cast()) };
                [low, high]
            }

            fn prefetch(address: *const u8) {
                // A hint: an address that is not there does no harm.
                _mm_prefetch::<_MM_HINT_T0>(address.cast());
            }

            fn bits(w: [__m256i; 2], from: u32, mask: u8, to: u32) -> [__m256i; 2] {
                // What comes in from a byte's neighbour lies outside of the mask.
                let mask = _mm256_set1_epi8((mask << to).cast_signed());
                let by = _mm_cvtsi32_si128(from.abs_diff(to) as i32);
                let mut bits = w;
                for bits in &mut bits {
                    let moved = if to >= from { _mm256_sll_epi16(*bits, by) } else { _mm256_srl_epi16(*bits, by) };
                    *bits = _mm256_and_si256(moved, mask);
                }
                bits
            }

            fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
                [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
            }

            fn spread_bits(w: [__m256i; 2], group: u32) -> [__m256i; 2] {
                // The byte with the four bits is copied into all bytes of its lane, each of which
                // then tests its own bit.
                let first = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
                let copy = _mm256_broadcastsi128_si256(_mm_add_epi8(first, _mm_set1_epi8(group as i8 / 2)));
                let bit = _mm256_set1_epi32(0x0804_0201 << (group % 2 * 4));
                let mut spread = w;
                for spread in &mut spread {
                    let bits = _mm256_and_si256(_mm256_shuffle_epi8(*spread, copy), bit);
                    *spread = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(16));
                }
                spread
            }

            fn lookup_bytes(table: &[i8; 16], index: [__m256i; 2]) -> [__m256i; 2] {
                // SAFETY: the table is 16 readable bytes and the load needs no alignment.
                let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
                let table = _mm256_broadcastsi128_si256(table);
                [_mm256_shuffle_epi8(table, index[0]), _mm256_shuffle_epi8(table, index[1])]
            }

            fn byte(w: [__m256i; 2], j: u32) -> [__m256i; 2] {
                // The byte moves to the top of its lane and comes down with its sign.
                let up = _mm_cvtsi32_si128(24 - 8 * j as i32);
                [
                    _mm256_srai_epi32::<24>(_mm256_sll_epi32(w[0], up)),
                    _mm256_srai_epi32::<24>(_mm256_sll_epi32(w[1], up)),
                ]
            }

            fn bits_i32(w: [__m256i; 2], from: u32, mask: i32) -> [__m256i; 2] {
                let (from, mask) = (_mm_cvtsi32_si128(from as i32), _mm256_set1_epi32(mask));
                [_mm256_and_si256(_mm256_srl_epi32(w[0], from), mask), _mm256_and_si256(_mm256_srl_epi32(w[1], from), mask)]
            }

            fn bits_of_u16(src: &[u8; 32], from: u32, mask: i32) -> [__m256i; 2] {
                let (halves, _) = src.as_chunks::<16>();
                let (from, mask) = (_mm_cvtsi32_si128(from as i32), _mm256_set1_epi32(mask));
                // SAFETY: a half is 16 readable bytes and the load needs no alignment.
                let low = unsafe { _mm_loadu_si128(halves[0].as_ptr().cast()) };
                // SAFETY: as above.
                let high = unsafe { _mm_loadu_si128(halves[1].as_ptr().cast()) };
                [
                    _mm256_and_si256(_mm256_srl_epi32(_mm256_cvtepu16_epi32(low), from), mask),
                    _mm256_and_si256(_mm256_srl_epi32(_mm256_cvtepu16_epi32(high), from), mask),
                ]
            }

            fn load_e8m0(src: &[u8; 16]) -> [__m256; 2] {
                // SAFETY: `src` is 16 readable bytes and the load needs no alignment.
                let bytes = unsafe { _mm_loadu_si128(src.as_ptr().cast()) };
                // As an exponent `e` means 2^(e - 127), but 0 for the least and infinity for the
                // largest.
                let (least, largest) = (_mm256_set1_ps(f32::from_bits(1 << 21)), _mm256_set1_ps(f32::from_bits(254 << 23)));
                let mut scales = [least; 2];
                for (scale, e) in scales.iter_mut().zip([bytes, _mm_unpackhi_epi64(bytes, bytes)]) {
                    let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(e)));
                    let half = _mm256_mul_ps(power, _mm256_set1_ps(0.5));
                    *scale = _mm256_min_ps(_mm256_max_ps(half, least), largest);
                }
                scales
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

            fn load_bf16(src: &[u8; 32]) -> [__m256; 2] {
                let (halves, _) = src.as_chunks::<16>();
                // SAFETY: a half is 16 readable bytes and the load needs no alignment.
                let low = unsafe { _mm_loadu_si128(halves[0].as_ptr().cast()) };
                // SAFETY: as above.
                let high = unsafe { _mm_loadu_si128(halves[1].as_ptr().cast()) };
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low))),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high))),
                ]
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

            fn load_f32_bytes(src: &[u8; 64]) -> [__m256; 2] {
                let (halves, _) = src.as_chunks::<32>();
                // SAFETY: a half is 32 readable bytes and the load needs no alignment.
                let low = unsafe { _mm256_loadu_ps(halves[0].as_ptr().cast()) };
                // SAFETY: as above.
                let high = unsafe { _mm256_loadu_ps(halves[1].as_ptr().cast()) };
                [low, high]
            }

            fn load_i8(src: &[u8; 16]) -> [__m256i; 2] {
                let (halves, _) = src.as_chunks::<8>();
                // SAFETY: a half is 8 readable bytes and the load needs no alignment.
                let low = unsafe { _mm_loadl_epi64(halves[0].as_ptr().cast()) };
                // SAFETY: as above.
                let high = unsafe { _mm_loadl_epi64(halves[1].as_ptr().cast()) };
                [_mm256_cvtepi8_epi32(low), _mm256_cvtepi8_epi32(high)]
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
                // The largest number below a half, with the sign of `a`: a half itself would carry
                // 0.49999997 up to 1.
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

            fn power_of_two(n: [__m256i; 2]) -> [__m256; 2] {
                let bias = _mm256_set1_epi32(127);
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n[0], bias))),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n[1], bias))),
                ]
            }

            fn sum(a: [__m256; 2]) -> f32 {
                let eight = _mm256_add_ps(a[0], a[1]);
                let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }

            fn store(v: [__m256; 2], dst: &mut [f32; 16]) {
                for (half, v) in dst.as_chunks_mut::<8>().0.iter_mut().zip(v) {
                    // SAFETY: a half is 8 writable `f32` and the store needs no alignment.
                    unsafe { _mm256_storeu_ps(half.as_mut_ptr(), v) };
                }
            }

            fn lookup(table: &[f32; 16], index: [__m256i; 2]) -> [__m256; 2] {
                let (halves, _) = table.as_chunks::<8>();
                // SAFETY: a half is 8 readable `f32` and the load needs no alignment.
                let low = unsafe { _mm256_loadu_ps(halves[0].as_ptr()) };
                // SAFETY: as above.
                let high = unsafe { _mm256_loadu_ps(halves[1].as_ptr()) };
                let mut found = [low; 2];
                for (found, index) in found.iter_mut().zip(index) {
                    // The fourth bit, as a sign, chooses the half of the table.
                    let half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                    let (low, high) = (_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index));
                    *found = _mm256_blendv_ps(low, high, half);
                }
                found
            }

            $($dots)+
        }
    };
}
pub(super) use avx;
