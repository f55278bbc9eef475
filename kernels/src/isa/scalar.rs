//! The portable reference: what every other instruction set must equal, bit for bit.

use core::array::from_fn;

use half::f16;

use super::{Kernel, Simd};
use crate::activations::Group;

/// Plain Rust, no `unsafe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar;

impl Scalar {
    pub(crate) fn detect() -> Option<Self> {
        Some(Self)
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// Four bytes in each of 16 lanes.
type Lanes = [[u8; 4]; 16];

/// `Σ weight(w)·x` in each lane.
#[inline(always)]
fn dot<const N: usize>(w: &[Lanes; N], x: &[Group; N], start: i32, weight: impl Fn(u8) -> i32) -> [i32; 16] {
    from_fn(|lane| {
        let mut sum = start;
        for (w, x) in w.iter().zip(x) {
            for (&w, &x) in w[lane].iter().zip(x) {
                sum += weight(w) * i32::from(x);
            }
        }
        sum
    })
}

impl Simd for Scalar {
    type Bytes = Lanes;
    type I32 = [i32; 16];
    type F32 = [f32; 16];
    const WIDE: bool = false;

    #[inline(always)]
    fn load(self, src: &[u8; 64]) -> Lanes {
        let (lanes, _) = src.as_chunks::<4>();
        from_fn(|lane| lanes[lane])
    }

    #[inline(always)]
    fn nibbles(self, packed: Lanes) -> [Lanes; 2] {
        [packed.map(|lane| lane.map(|byte| byte & 15)), packed.map(|lane| lane.map(|byte| byte >> 4))]
    }

    #[inline(always)]
    fn dot_u4<const N: usize>(self, w: &[Lanes; N], x: &[Group; N], offset: i32) -> [i32; 16] {
        dot(w, x, offset, i32::from)
    }

    #[inline(always)]
    fn dot_i8<const N: usize>(self, w: &[Lanes; N], x: &[Group; N], _x_sum: i32) -> [i32; 16] {
        dot(w, x, 0, |byte| i32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn byte<const J: usize>(self, w: Lanes) -> [i32; 16] {
        w.map(|lane| i32::from(lane[J].cast_signed()))
    }

    #[inline(always)]
    fn pack(self, columns: [[i32; 16]; 4]) -> Lanes {
        from_fn(|lane| columns.map(|column| column[lane] as u8))
    }

    #[inline(always)]
    fn store_bytes(self, v: Lanes, dst: &mut [u8; 64]) {
        dst.as_chunks_mut::<4>().0.copy_from_slice(&v);
    }

    #[inline(always)]
    fn add_i32(self, a: [i32; 16], b: i32) -> [i32; 16] {
        a.map(|a| a + b)
    }

    #[inline(always)]
    fn to_f32(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn to_i32(self, a: [f32; 16]) -> [i32; 16] {
        a.map(|a| a as i32)
    }

    #[inline(always)]
    fn load_f16(self, src: &[u8; 32]) -> [f32; 16] {
        let (numbers, _) = src.as_chunks::<2>();
        // `to_f32_const` is the portable conversion; `to_f32` asks the processor anew for every number.
        from_fn(|lane| f16::from_le_bytes(numbers[lane]).to_f32_const())
    }

    #[inline(always)]
    fn store_f16(self, v: [f32; 16], dst: &mut [u8; 32]) {
        for (number, v) in dst.as_chunks_mut::<2>().0.iter_mut().zip(v) {
            *number = f16::from_f32_const(v).to_le_bytes();
        }
    }

    #[inline(always)]
    fn load_f32(self, src: &[f32; 16]) -> [f32; 16] {
        *src
    }

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 16] {
        [v; 16]
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if b[i] < a[i] { b[i] } else { a[i] })
    }

    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }

    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn trunc(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::trunc)
    }

    #[inline(always)]
    fn round(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::round)
    }

    #[inline(always)]
    fn where_greater(self, a: [f32; 16], b: [f32; 16], x: [f32; 16], y: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn store(self, v: [f32; 16], dst: &mut [f32; 16]) {
        *dst = v;
    }
}
