//! The portable reference: what every other instruction set must equal, bit for bit.

use core::array::from_fn;
use core::hint::black_box;

use half::f16;

use super::{Kernel, Simd};
use crate::block::{Group, RowBlock};

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

    pub(crate) fn run_without_dots<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }
}

/// Four bytes in each of 16 lanes.
type Lanes = [[u8; 4]; 16];

/// Computes `Σ weight(w)·x` for each lane and row over groups `from..from + N`.
#[inline(always)]
fn dot<const N: usize, const R: usize>(
    w: &[Lanes; 8],
    from: usize,
    x: &RowBlock<R>,
    weight: impl Fn(u8) -> i32,
) -> [[i32; 16]; R] {
    from_fn(|row| {
        from_fn(|lane| {
            let mut sum = 0;
            for (w, x) in w[from..][..N].iter().zip(&x.codes[from..]) {
                for (&w, &x) in w[lane].iter().zip(&x[row]) {
                    sum += weight(w) * i32::from(x);
                }
            }
            sum
        })
    })
}

impl Simd for Scalar {
    type Bytes = Lanes;
    type Signed = [Lanes; 8];
    type I32 = [i32; 16];
    type Factor = [i32; 16];
    type Partial = [i32; 16];
    type F32 = [f32; 16];
    const FEW_REGISTERS: bool = false;
    const MANY_SUMS: bool = false;
    const SHORT_CODE: bool = true;

    #[inline(always)]
    fn load(self, src: &[u8; 64]) -> Lanes {
        let (lanes, _) = src.as_chunks::<4>();
        from_fn(|lane| lanes[lane])
    }

    #[inline(always)]
    fn bits(self, w: Lanes, from: u32, mask: u8, to: u32) -> Lanes {
        w.map(|lane| lane.map(|byte| (byte >> from & mask) << to))
    }

    #[inline(always)]
    fn or(self, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|lane| from_fn(|j| a[lane][j] | b[lane][j]))
    }

    #[inline(always)]
    fn spread_bits(self, w: Lanes, group: u32) -> Lanes {
        w.map(|lane| from_fn(|j| (u32::from_le_bytes(lane) >> (4 * group + j as u32) & 1) as u8 * 16))
    }

    #[inline(always)]
    fn lookup_bytes(self, table: &[i8; 16], index: Lanes) -> Lanes {
        index.map(|lane| lane.map(|byte| table[usize::from(byte & 15)].cast_unsigned()))
    }

    #[inline(always)]
    fn dot_u4<const R: usize, F>(self, w: &[Lanes; 8], x: &RowBlock<R>) -> [[i32; 16]; R] {
        dot::<8, R>(w, 0, x, i32::from)
    }

    #[inline(always)]
    fn dot_u5<const R: usize, F>(self, w: &[Lanes; 8], x: &RowBlock<R>) -> [[i32; 16]; R] {
        dot::<8, R>(w, 0, x, i32::from)
    }

    #[inline(always)]
    fn dot_two_factors<const R: usize, F>(
        self,
        w: &[Lanes; 8],
        factors: &[[i32; 16]; 2],
        x: &RowBlock<R>,
    ) -> [[i32; 16]; R] {
        let halves = [0, 4].map(|from| dot::<4, R>(w, from, x, |w| i32::from(w) - 32));
        from_fn(|row| from_fn(|lane| factors[0][lane] * halves[0][row][lane] + factors[1][lane] * halves[1][row][lane]))
    }

    #[inline(always)]
    fn partial(self, offsets: [i16; 2]) -> [i32; 16] {
        [i32::from(offsets[0]) + i32::from(offsets[1]); 16]
    }

    #[inline(always)]
    fn add_to_partial(self, sum: [i32; 16], w: Lanes, x: Group) -> [i32; 16] {
        from_fn(|lane| sum[lane] + (0..4).map(|j| i32::from(w[lane][j]) * i32::from(x[j])).sum::<i32>())
    }

    #[inline(always)]
    fn add_partial(self, dot: [i32; 16], sum: [i32; 16], factor: [i32; 16]) -> [i32; 16] {
        from_fn(|lane| dot[lane] + sum[lane] * factor[lane])
    }

    #[inline(always)]
    fn factor(self, a: [i32; 16]) -> [i32; 16] {
        a
    }

    #[inline(always)]
    fn dot_i8<const R: usize, F>(self, w: &[Lanes; 8], x: &RowBlock<R>) -> [[i32; 16]; R] {
        dot::<8, R>(w, 0, x, |byte| i32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn multiply_bytes(self, sums: [i32; 16], w: Lanes, x: Lanes) -> [i32; 16] {
        // What the compiler has seen before it would not compute again.
        let w = black_box(w);
        from_fn(|lane| {
            let products =
                w[lane].iter().zip(x[lane]).map(|(&w, x)| i32::from(w.cast_signed()) * i32::from(x.cast_signed()));
            sums[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    fn signed(self, w: &[Lanes; 8]) -> [Lanes; 8] {
        *w
    }

    #[inline(always)]
    fn signed_codes(self, w: &[Lanes; 8]) -> [Lanes; 8] {
        *w
    }

    #[inline(always)]
    fn byte(self, w: Lanes, j: u32) -> [i32; 16] {
        w.map(|lane| i32::from(lane[j as usize].cast_signed()))
    }

    #[inline(always)]
    fn bits_i32(self, w: Lanes, from: u32, mask: i32) -> [i32; 16] {
        w.map(|lane| i32::from_le_bytes(lane) >> from & mask)
    }

    #[inline(always)]
    fn bits_of_u16(self, src: &[u8; 32], from: u32, mask: i32) -> [i32; 16] {
        let (numbers, _) = src.as_chunks::<2>();
        from_fn(|lane| i32::from(u16::from_le_bytes(numbers[lane])) >> from & mask)
    }

    #[inline(always)]
    fn load_e8m0(self, src: &[u8; 16]) -> [f32; 16] {
        src.map(|e| if e < 2 { f32::from_bits(1 << 21 << e) } else { f32::from_bits((u32::from(e) - 1) << 23) })
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
        a.map(|a| a.wrapping_add(b))
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
        // `to_f32_const` is the portable conversion; `to_f32` asks the processor anew for every
        // number.
        from_fn(|lane| f16::from_le_bytes(numbers[lane]).to_f32_const())
    }

    #[inline(always)]
    fn load_bf16(self, src: &[u8; 32]) -> [f32; 16] {
        let (numbers, _) = src.as_chunks::<2>();
        from_fn(|lane| f32::from_bits(u32::from(u16::from_le_bytes(numbers[lane])) << 16))
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
    fn load_f32_bytes(self, src: &[u8; 64]) -> [f32; 16] {
        let (numbers, _) = src.as_chunks::<4>();
        from_fn(|lane| f32::from_le_bytes(numbers[lane]))
    }

    #[inline(always)]
    fn load_i8(self, src: &[u8; 16]) -> [i32; 16] {
        src.map(|byte| i32::from(byte.cast_signed()))
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
    fn power_of_two(self, n: [i32; 16]) -> [f32; 16] {
        n.map(|n| f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23))
    }

    #[inline(always)]
    fn sum(self, a: [f32; 16]) -> f32 {
        let mut sums = a;
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
        }
        sums[0]
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn store(self, v: [f32; 16], dst: &mut [f32; 16]) {
        *dst = v;
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: [i32; 16]) -> [f32; 16] {
        index.map(|index| table[index as usize % 16])
    }
}
