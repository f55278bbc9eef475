//! AArch64 NEON: a logical vector is four registers of four rows each.

use core::arch::aarch64::*;

use crate::activations::Group;

/// An instruction set with the operations that all NEON variants share, and the two dot products that differ.
macro_rules! neon {
    ($(#[$doc:meta])* $isa:ident $features:tt; $($dots:tt)+) => {
        define_isa! {
            $(#[$doc])*
            $isa, is_aarch64_feature_detected $features;
            type Bytes = [int8x16_t; 4];
            type I32 = [int32x4_t; 4];
            type F32 = [float32x4_t; 4];
            const WIDE: bool = false;

            fn load(src: &[u8; 64]) -> [int8x16_t; 4] {
                let mut lanes = [vdupq_n_s8(0); 4];
                for (lanes, part) in lanes.iter_mut().zip(src.as_chunks::<16>().0) {
                    // SAFETY: a part is 16 readable bytes and the load needs no alignment.
                    *lanes = unsafe { vreinterpretq_s8_u8(vld1q_u8(part.as_ptr())) };
                }
                lanes
            }

            fn nibbles(packed: [int8x16_t; 4]) -> [[int8x16_t; 4]; 2] {
                let mask = vdupq_n_s8(15);
                let mut split = [packed; 2];
                for i in 0..4 {
                    split[0][i] = vandq_s8(packed[i], mask);
                    split[1][i] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s8(packed[i])));
                }
                split
            }

            fn byte<const J: usize>(w: [int8x16_t; 4]) -> [int32x4_t; 4] {
                // The byte moves to the top of its lane and comes down with its sign.
                let up = vdupq_n_s32(24 - 8 * J as i32);
                let mut lanes = [up; 4];
                for i in 0..4 {
                    lanes[i] = vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_s8(w[i]), up));
                }
                lanes
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
                    // SAFETY: `fcvtl` is part of every AArch64 with NEON; it reads and writes the named registers, and sets
                    // exception bits of the floating-point status, which no option here denies.
                    unsafe {
                        core::arch::asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = lateout(vreg) lanes[i], half = in(vreg) half,
                            options(pure, nomem, nostack));
                    }
                }
                lanes
            }

            fn store_f16(v: [float32x4_t; 4], dst: &mut [u8; 32]) {
                for (part, v) in dst.as_chunks_mut::<8>().0.iter_mut().zip(v) {
                    let half: uint16x4_t;
                    // `vcvt_f16_f32` is not stable yet.
                    // SAFETY: `fcvtn` is part of every AArch64 with NEON; it reads and writes the named registers, and sets
                    // exception bits of the floating-point status, which no option here denies.
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

            fn store(v: [float32x4_t; 4], dst: &mut [f32; 16]) {
                for (part, v) in dst.as_chunks_mut::<4>().0.iter_mut().zip(v) {
                    // SAFETY: a part is 4 writable `f32` and the store needs no alignment.
                    unsafe { vst1q_f32(part.as_mut_ptr(), v) };
                }
            }

            $($dots)+
        }
    };
}
pub(super) use neon;

/// Four activations, four times.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn splat_group(x: Group) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(i8::cast_unsigned))))
}

neon! {
    /// Baseline NEON, with widening multiplication only.
    Neon ("neon");

    fn dot_u4<const N: usize>(w: &[[int8x16_t; 4]; N], x: &[Group; N], offset: i32) -> [int32x4_t; 4] {
        const { assert!(N <= 8) };
        // A 16-bit sum takes one column of each of the N groups: at most 8·15·127 = 15240, so widening waits until the end.
        let mut sums = [[vdupq_n_s16(0); 2]; 4];
        for (w, &x) in w.iter().zip(x) {
            let x = splat_group(x);
            for i in 0..4 {
                sums[i][0] = vmlal_s8(sums[i][0], vget_low_s8(w[i]), vget_low_s8(x));
                sums[i][1] = vmlal_high_s8(sums[i][1], w[i], x);
            }
        }
        let mut lanes = [vdupq_n_s32(offset); 4];
        for i in 0..4 {
            lanes[i] = vaddq_s32(lanes[i], vpaddq_s32(vpaddlq_s16(sums[i][0]), vpaddlq_s16(sums[i][1])));
        }
        lanes
    }

    fn dot_i8<const N: usize>(w: &[[int8x16_t; 4]; N], x: &[Group; N], _x_sum: i32) -> [int32x4_t; 4] {
        let mut sums = [[vdupq_n_s32(0); 2]; 4];
        for (w, &x) in w.iter().zip(x) {
            let x = splat_group(x);
            for i in 0..4 {
                sums[i][0] = vpadalq_s16(sums[i][0], vmull_s8(vget_low_s8(w[i]), vget_low_s8(x)));
                sums[i][1] = vpadalq_s16(sums[i][1], vmull_high_s8(w[i], x));
            }
        }
        [
            vpaddq_s32(sums[0][0], sums[0][1]),
            vpaddq_s32(sums[1][0], sums[1][1]),
            vpaddq_s32(sums[2][0], sums[2][1]),
            vpaddq_s32(sums[3][0], sums[3][1]),
        ]
    }
}
