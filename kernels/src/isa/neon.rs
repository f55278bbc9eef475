//! AArch64 NEON: a logical vector is four registers of four rows each.

use core::arch::aarch64::*;
use core::ops::Range;

use crate::block::{Group, RowBlock};

/// An instruction set with the operations that all NEON variants share, and the dot products, which
/// differ.
macro_rules! neon {
    ($(#[$doc:meta])* $isa:ident $features:tt $(extends $base:ident)?; type Signed = $signed:ty; type Partial = $partial:ty; $($dots:tt)+) => {
        define_isa! {
            $(#[$doc])*
            $isa $(extends $base)?, is_aarch64_feature_detected $features;
            type Bytes = [int8x16_t; 4];
            type Signed = $signed;
            type I32 = [int32x4_t; 4];
            type Factor = [int32x4_t; 4];
            type Partial = $partial;
            type F32 = [float32x4_t; 4];
            const FEW_REGISTERS: bool = false;
            const MANY_SUMS: bool = false;

            fn load(src: &[u8; 64]) -> [int8x16_t; 4] {
                let mut lanes = [vdupq_n_s8(0); 4];
                for (lanes, part) in lanes.iter_mut().zip(src.as_chunks::<16>().0) {
                    // SAFETY: a part is 16 readable bytes and the load needs no alignment.
                    *lanes = unsafe { vreinterpretq_s8_u8(vld1q_u8(part.as_ptr())) };
                }
                lanes
            }

            fn bits(w: [int8x16_t; 4], from: u32, mask: u8, to: u32) -> [int8x16_t; 4] {
                let (by, mask) = (vdupq_n_s8(to as i8 - from as i8), vdupq_n_u8(mask << to));
                let mut bits = w;
                for bits in &mut bits {
                    *bits = vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vreinterpretq_u8_s8(*bits), by), mask));
                }
                bits
            }

            fn or(a: [int8x16_t; 4], b: [int8x16_t; 4]) -> [int8x16_t; 4] {
                [vorrq_s8(a[0], b[0]), vorrq_s8(a[1], b[1]), vorrq_s8(a[2], b[2]), vorrq_s8(a[3], b[3])]
            }

            fn spread_bits(w: [int8x16_t; 4], group: u32) -> [int8x16_t; 4] {
                // The byte with the four bits is copied into all bytes of its lane, each of which
                // then tests its own bit.
                let first = vcombine_u8(vcreate_u8(0x0404_0404_0000_0000), vcreate_u8(0x0c0c_0c0c_0808_0808));
                let copy = vaddq_u8(first, vdupq_n_u8(group as u8 / 2));
                let bit = vreinterpretq_u8_u32(vdupq_n_u32(0x0804_0201 << (group % 2 * 4)));
                let mut spread = w;
                for spread in &mut spread {
                    let set = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_s8(*spread), copy), bit);
                    *spread = vreinterpretq_s8_u8(vandq_u8(set, vdupq_n_u8(16)));
                }
                spread
            }

            fn lookup_bytes(table: &[i8; 16], index: [int8x16_t; 4]) -> [int8x16_t; 4] {
                // SAFETY: the table is 16 readable bytes and the load needs no alignment.
                let table = unsafe { vld1q_s8(table.as_ptr()) };
                let mut found = index;
                for found in &mut found {
                    *found = vqtbl1q_s8(table, vreinterpretq_u8_s8(*found));
                }
                found
            }

            fn factor(a: [int32x4_t; 4]) -> [int32x4_t; 4] {
                a
            }

            fn byte(w: [int8x16_t; 4], j: u32) -> [int32x4_t; 4] {
                // The byte moves to the top of its lane and comes down with its sign.
                let up = vdupq_n_s32(24 - 8 * j as i32);
                let mut lanes = [up; 4];
                for i in 0..4 {
                    lanes[i] = vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_s8(w[i]), up));
                }
                lanes
            }

            fn bits_i32(w: [int8x16_t; 4], from: u32, mask: i32) -> [int32x4_t; 4] {
                let (from, mask) = (vdupq_n_s32(-(from as i32)), vdupq_n_s32(mask));
                let mut lanes = [mask; 4];
                for i in 0..4 {
                    let shifted = vshlq_u32(vreinterpretq_u32_s8(w[i]), from);
                    lanes[i] = vandq_s32(vreinterpretq_s32_u32(shifted), mask);
                }
                lanes
            }

            fn bits_of_u16(src: &[u8; 32], from: u32, mask: i32) -> [int32x4_t; 4] {
                let (from, mask) = (vdupq_n_s32(-(from as i32)), vdupq_n_s32(mask));
                let (parts, _) = src.as_chunks::<8>();
                let mut lanes = [mask; 4];
                for i in 0..4 {
                    let numbers = vmovl_u16(vcreate_u16(u64::from_le_bytes(parts[i])));
                    lanes[i] = vandq_s32(vreinterpretq_s32_u32(vshlq_u32(numbers, from)), mask);
                }
                lanes
            }

            fn load_e8m0(src: &[u8; 16]) -> [float32x4_t; 4] {
                // As an exponent `e` means 2^(e - 127), but 0 for the least and infinity for the
                // largest.
                let (least, largest) = (vdupq_n_f32(f32::from_bits(1 << 21)), vdupq_n_f32(f32::from_bits(254 << 23)));
                let (parts, _) = src.as_chunks::<4>();
                let mut scales = [least; 4];
                for i in 0..4 {
                    let e = u64::from(u32::from_le_bytes(parts[i]));
                    let e = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(e))));
                    let power = vreinterpretq_f32_u32(vshlq_n_u32::<23>(e));
                    scales[i] = vminq_f32(vmaxq_f32(vmulq_n_f32(power, 0.5), least), largest);
                }
                scales
            }

            fn pack(columns: [[int32x4_t; 4]; 4]) -> [int8x16_t; 4] {
                let mut packed = [vdupq_n_s8(0); 4];
                for (i, packed) in packed.iter_mut().enumerate() {
                    // Each column is shifted into the one below it, the byte above what is kept.
                    let low = vsliq_n_s32::<8>(columns[0][i], columns[1][i]);
                    let high = vsliq_n_s32::<8>(columns[2][i], columns[3][i]);
                    *packed = vreinterpretq_s8_s32(vsliq_n_s32::<16>(low, high));
                }
                packed
            }

            fn store_bytes(v: [int8x16_t; 4], dst: &mut [u8; 64]) {
                for (part, v) in dst.as_chunks_mut::<16>().0.iter_mut().zip(v) {
                    // SAFETY: a part is 16 writable bytes and the store needs no alignment.
                    unsafe { vst1q_u8(part.as_mut_ptr(), vreinterpretq_u8_s8(v)) };
                }
            }

            fn add_i32(a: [int32x4_t; 4], b: i32) -> [int32x4_t; 4] {
                let b = vdupq_n_s32(b);
                [vaddq_s32(a[0], b), vaddq_s32(a[1], b), vaddq_s32(a[2], b), vaddq_s32(a[3], b)]
            }

            fn to_f32(a: [int32x4_t; 4]) -> [float32x4_t; 4] {
                [vcvtq_f32_s32(a[0]), vcvtq_f32_s32(a[1]), vcvtq_f32_s32(a[2]), vcvtq_f32_s32(a[3])]
            }

            fn to_i32(a: [float32x4_t; 4]) -> [int32x4_t; 4] {
                [vcvtq_s32_f32(a[0]), vcvtq_s32_f32(a[1]), vcvtq_s32_f32(a[2]), vcvtq_s32_f32(a[3])]
            }

            fn load_f16(src: &[u8; 32]) -> [float32x4_t; 4] {
                let (parts, _) = src.as_chunks::<8>();
                let mut lanes = [vdupq_n_f32(0.0); 4];
                for i in 0..4 {
                    let half = vcreate_u16(u64::from_le_bytes(parts[i]));
                    // `vcvt_f32_f16` is not stable yet.
                    // SAFETY: `fcvtl` is part of every AArch64 with NEON; it reads and writes the
                    // named registers, and sets exception bits of the floating-point status, which
                    // no option here denies.
                    unsafe {
                        core::arch::asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = lateout(vreg) lanes[i], half = in(vreg) half,
                            options(pure, nomem, nostack));
                    }
                }
                lanes
            }

            fn load_bf16(src: &[u8; 32]) -> [float32x4_t; 4] {
                let mut lanes = [vdupq_n_f32(0.0); 4];
                for (lanes, part) in lanes.iter_mut().zip(src.as_chunks::<8>().0) {
                    let numbers = vcreate_u16(u64::from_le_bytes(*part));
                    *lanes = vreinterpretq_f32_u32(vshll_n_u16::<16>(numbers));
                }
                lanes
            }

            fn store_f16(v: [float32x4_t; 4], dst: &mut [u8; 32]) {
                for (part, v) in dst.as_chunks_mut::<8>().0.iter_mut().zip(v) {
                    let half: uint16x4_t;
                    // `vcvt_f16_f32` is not stable yet.
                    // SAFETY: `fcvtn` is part of every AArch64 with NEON; it reads and writes the
                    // named registers, and sets exception bits of the floating-point status, which
                    // no option here denies.
                    unsafe {
                        core::arch::asm!("fcvtn {half:v}.4h, {wide:v}.4s", half = lateout(vreg) half, wide = in(vreg) v,
                            options(pure, nomem, nostack));
                    }
                    *part = vget_lane_u64::<0>(vreinterpret_u64_u16(half)).to_le_bytes();
                }
            }

            fn load_f32(src: &[f32; 16]) -> [float32x4_t; 4] {
                let mut lanes = [vdupq_n_f32(0.0); 4];
                for (lanes, part) in lanes.iter_mut().zip(src.as_chunks::<4>().0) {
                    // SAFETY: a part is 4 readable `f32` and the load needs no alignment.
                    *lanes = unsafe { vld1q_f32(part.as_ptr()) };
                }
                lanes
            }

            fn load_f32_bytes(src: &[u8; 64]) -> [float32x4_t; 4] {
                let mut lanes = [vdupq_n_f32(0.0); 4];
                for (lanes, part) in lanes.iter_mut().zip(src.as_chunks::<16>().0) {
                    // SAFETY: a part is 16 readable bytes and the load needs no alignment.
                    *lanes = vreinterpretq_f32_u8(unsafe { vld1q_u8(part.as_ptr()) });
                }
                lanes
            }

            fn load_i8(src: &[u8; 16]) -> [int32x4_t; 4] {
                // SAFETY: `src` is 16 readable bytes and the load needs no alignment.
                let bytes = unsafe { vreinterpretq_s8_u8(vld1q_u8(src.as_ptr())) };
                let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
                [
                    vmovl_s16(vget_low_s16(low)),
                    vmovl_high_s16(low),
                    vmovl_s16(vget_low_s16(high)),
                    vmovl_high_s16(high),
                ]
            }

            fn splat(v: f32) -> [float32x4_t; 4] {
                [vdupq_n_f32(v); 4]
            }

            fn add(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
            }

            fn sub(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1]), vsubq_f32(a[2], b[2]), vsubq_f32(a[3], b[3])]
            }

            fn div(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1]), vdivq_f32(a[2], b[2]), vdivq_f32(a[3], b[3])]
            }

            fn min(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vminq_f32(a[0], b[0]), vminq_f32(a[1], b[1]), vminq_f32(a[2], b[2]), vminq_f32(a[3], b[3])]
            }

            fn max(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vmaxq_f32(a[0], b[0]), vmaxq_f32(a[1], b[1]), vmaxq_f32(a[2], b[2]), vmaxq_f32(a[3], b[3])]
            }

            fn abs(a: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vabsq_f32(a[0]), vabsq_f32(a[1]), vabsq_f32(a[2]), vabsq_f32(a[3])]
            }

            fn trunc(a: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vrndq_f32(a[0]), vrndq_f32(a[1]), vrndq_f32(a[2]), vrndq_f32(a[3])]
            }

            fn round(a: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vrndaq_f32(a[0]), vrndaq_f32(a[1]), vrndaq_f32(a[2]), vrndaq_f32(a[3])]
            }

            fn where_greater(
                a: [float32x4_t; 4],
                b: [float32x4_t; 4],
                x: [float32x4_t; 4],
                y: [float32x4_t; 4],
            ) -> [float32x4_t; 4] {
                let mut chosen = y;
                for i in 0..4 {
                    chosen[i] = vbslq_f32(vcgtq_f32(a[i], b[i]), x[i], y[i]);
                }
                chosen
            }

            fn mul(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
            }

            fn mul_add(a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
                [
                    vfmaq_f32(c[0], a[0], b[0]),
                    vfmaq_f32(c[1], a[1], b[1]),
                    vfmaq_f32(c[2], a[2], b[2]),
                    vfmaq_f32(c[3], a[3], b[3]),
                ]
            }

            fn power_of_two(n: [int32x4_t; 4]) -> [float32x4_t; 4] {
                let mut powers = [vdupq_n_f32(0.0); 4];
                for i in 0..4 {
                    powers[i] = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n[i], vdupq_n_s32(127))));
                }
                powers
            }

            fn sum(a: [float32x4_t; 4]) -> f32 {
                let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
                let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
                vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
            }

            fn prefetch(address: *const u8) {
                // `_prefetch` is not stable yet.
                // SAFETY: a prefetch of any address is allowed, and does nothing that a program
                // could see.
                unsafe {
                    core::arch::asm!("prfm pldl1keep, [{address}]", address = in(reg) address,
                        options(readonly, nostack, preserves_flags));
                }
            }

            fn store(v: [float32x4_t; 4], dst: &mut [f32; 16]) {
                for (part, v) in dst.as_chunks_mut::<4>().0.iter_mut().zip(v) {
                    // SAFETY: a part is 4 writable `f32` and the store needs no alignment.
                    unsafe { vst1q_f32(part.as_mut_ptr(), v) };
                }
            }

            fn lookup(table: &[f32; 16], index: [int32x4_t; 4]) -> [float32x4_t; 4] {
                let mut bytes = [vdupq_n_u8(0); 4];
                for (bytes, part) in bytes.iter_mut().zip(table.as_chunks::<4>().0) {
                    // SAFETY: a part is 4 readable `f32` and the load needs no alignment.
                    *bytes = vreinterpretq_u8_f32(unsafe { vld1q_f32(part.as_ptr()) });
                }
                let table = uint8x16x4_t(bytes[0], bytes[1], bytes[2], bytes[3]);
                let mut found = [vdupq_n_f32(0.0); 4];
                for (found, index) in found.iter_mut().zip(index) {
                    // The four bytes of entry `i` are 4i, 4i + 1, 4i + 2 and 4i + 3: no carry
                    // leaves a byte.
                    let index = vandq_s32(index, vdupq_n_s32(15));
                    let index = vmlaq_n_s32(vdupq_n_s32(0x0302_0100), index, 0x0404_0404);
                    *found = vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_s32(index)));
                }
                found
            }

            $($dots)+
        }
    };
}
pub(super) use neon;

/// Copies four activations into every lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn splat_group(x: Group) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(i8::cast_unsigned))))
}

/// Loads four groups of activations.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_groups(x: &[Group; 4]) -> int8x16_t {
    // SAFETY: four groups are 16 readable bytes and the load needs no alignment.
    unsafe { vld1q_s8(x.as_flattened().as_ptr()) }
}

neon! {
    /// Baseline NEON, with widening multiplication only.
    Neon ("neon");
    type Signed = [[int8x16_t; 4]; 8];
    type Partial = [[int16x8_t; 2]; 4];

    fn dot_u4<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        products_u6(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_u5<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        products_u6(w, x, 0..8, &mut dots);
        dots
    }

    fn dot_two_factors<const R: usize, F>(
        w: &[[int8x16_t; 4]; 8],
        factors: &[[int32x4_t; 4]; 2],
        x: &RowBlock<R>,
    ) -> [[int32x4_t; 4]; R] {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        for (half, factor) in factors.iter().enumerate() {
            let mut sums = offset_sums(&x.offsets_32[half]);
            products_u6(w, x, 4 * half..4 * half + 4, &mut sums);
            add_scaled(&mut dots, &sums, factor);
        }
        dots
    }

    fn partial(offsets: [i16; 2]) -> [[int16x8_t; 2]; 4] {
        // One column in each of four lanes: at most 8·32·127 = 32512 in magnitude, and what
        // overflows on the way comes back.
        let [first, second] = offsets.map(|offset| u64::from(offset.cast_unsigned()));
        [[vreinterpretq_s16_u64(vdupq_n_u64(first | second << 32)); 2]; 4]
    }

    fn add_to_partial(sum: [[int16x8_t; 2]; 4], w: [int8x16_t; 4], x: Group) -> [[int16x8_t; 2]; 4] {
        let (mut sum, x) = (sum, splat_group(x));
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum = [vmlal_s8(sum[0], vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(sum[1], w, x)];
        }
        sum
    }

    fn add_partial(dot: [int32x4_t; 4], sum: [[int16x8_t; 2]; 4], factor: [int32x4_t; 4]) -> [int32x4_t; 4] {
        let mut dot = dot;
        for i in 0..4 {
            let sum = vpaddq_s32(vpaddlq_s16(sum[i][0]), vpaddlq_s16(sum[i][1]));
            dot[i] = vmlaq_s32(dot[i], sum, factor[i]);
        }
        dot
    }

    fn dot_i8<const R: usize, F>(w: &[[int8x16_t; 4]; 8], x: &RowBlock<R>) -> [[int32x4_t; 4]; R] {
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        for (row, dots) in dots.iter_mut().enumerate() {
            let mut sums = [[vdupq_n_s32(0); 2]; 4];
            for (w, x) in w.iter().zip(&x.codes) {
                let x = splat_group(x[row]);
                for i in 0..4 {
                    sums[i][0] = vpadalq_s16(sums[i][0], vmull_s8(vget_low_s8(w[i]), vget_low_s8(x)));
                    sums[i][1] = vpadalq_s16(sums[i][1], vmull_high_s8(w[i], x));
                }
            }
            for i in 0..4 {
                dots[i] = vpaddq_s32(sums[i][0], sums[i][1]);
            }
        }
        dots
    }

    fn signed(w: &[[int8x16_t; 4]; 8]) -> [[int8x16_t; 4]; 8] {
        *w
    }

    fn signed_codes(w: &[[int8x16_t; 4]; 8]) -> [[int8x16_t; 4]; 8] {
        *w
    }

    fn multiply_bytes(sums: [int32x4_t; 4], w: [int8x16_t; 4], x: [int8x16_t; 4]) -> [int32x4_t; 4] {
        let mut sums = sums;
        for i in 0..4 {
            // The intrinsics' products would be taken out of a loop over the same bytes.
            // SAFETY: this function enables `neon`; the instructions read and write the named
            // registers only.
            unsafe {
                core::arch::asm!(
                    "smlal {sum:v}.8h, {w:v}.8b, {x:v}.8b",
                    "smlal2 {sum:v}.8h, {w:v}.16b, {x:v}.16b",
                    sum = inout(vreg) sums[i], w = in(vreg) w[i], x = in(vreg) x[i],
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
        sums
    }
}

/// Adds the products of some groups of columns. 16-bit sums take one column of each group: at most
/// 8·31·127 = 31496 for 8 groups of weights below 32, and 4·63·127 = 32004 for 4 groups of weights
/// below 64.
#[inline]
#[target_feature(enable = "neon")]
fn products_u6<const R: usize>(
    w: &[[int8x16_t; 4]; 8],
    x: &RowBlock<R>,
    groups: Range<usize>,
    dots: &mut [[int32x4_t; 4]; R],
) {
    for (row, dots) in dots.iter_mut().enumerate() {
        let mut sums = [[vdupq_n_s16(0); 2]; 4];
        for (w, x) in w[groups.clone()].iter().zip(&x.codes[groups.clone()]) {
            let x = splat_group(x[row]);
            for i in 0..4 {
                sums[i][0] = vmlal_s8(sums[i][0], vget_low_s8(w[i]), vget_low_s8(x));
                sums[i][1] = vmlal_high_s8(sums[i][1], w[i], x);
            }
        }
        for i in 0..4 {
            dots[i] = vaddq_s32(dots[i], vpaddq_s32(vpaddlq_s16(sums[i][0]), vpaddlq_s16(sums[i][1])));
        }
    }
}

/// Copies each row's offset, -32 times the sum of 16 codes, into every lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn offset_sums<const R: usize>(offsets: &[[i16; 2]; R]) -> [[int32x4_t; 4]; R] {
    let mut sums = [[vdupq_n_s32(0); 4]; R];
    for (sums, offsets) in sums.iter_mut().zip(offsets) {
        *sums = [vdupq_n_s32(i32::from(offsets[0]) + i32::from(offsets[1])); 4];
    }
    sums
}

/// Computes `dots + sums·factors`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_scaled<const R: usize>(
    dots: &mut [[int32x4_t; 4]; R],
    sums: &[[int32x4_t; 4]; R],
    factors: &[int32x4_t; 4],
) {
    for (dots, sums) in dots.iter_mut().zip(sums) {
        for i in 0..4 {
            dots[i] = vmlaq_s32(dots[i], sums[i], factors[i]);
        }
    }
}
