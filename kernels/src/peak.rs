//! What a core can do at most: multiplications and additions alone, on operands that stay in
//! registers; or reading alone.
//!
//! A product cannot be faster than this, because it also loads, unpacks and scales. Time the
//! functions to know how near it comes:
//!
//! ```
//! use std::time::Instant;
//! use kernels::Isa;
//! use kernels::peak::{self, Chains};
//!
//! let fastest = Chains::ALL.iter().map(|&chains| {
//!     let start = Instant::now();
//!     peak::integer(Isa::best(), chains, 1000) as f64 / start.elapsed().as_secs_f64()
//! });
//! println!("{:.0} GOP/s", fastest.fold(0.0, f64::max) / 1e9);
//! ```

use core::hint::black_box;

use crate::format::PANEL_ROWS;
use crate::isa::{Isa, Kernel, Simd};

/// The number of vectors of 16 lanes that accumulate independently, so that none waits for its last
/// addition. The faster number depends on the registers of an instruction set: try both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// Five: they fit 16 registers of half a vector.
    Five,
    /// Twelve: enough for a latency of 6 instructions at 2 in a cycle.
    Twelve,
}

impl Chains {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Five, Self::Twelve];
}

/// Multiplies bytes and adds the products, `steps` times, and returns the number of operations: two
/// for a multiply-add.
///
/// With AVX2 that is `vpmaddubsw` and `vpaddw`, with VNNI `vpdpbusd`, with NEON `smlal` or `sdot`.
/// Products of formats that need wider sums or signed codes take more than these.
#[must_use]
pub fn integer(isa: Isa, chains: Chains, steps: usize) -> u64 {
    match chains {
        Chains::Five => isa.run(Integer::<5>(steps)),
        Chains::Twelve => isa.run(Integer::<12>(steps)),
    }
}

/// Does fused multiply-adds of `f32`, `steps` times, and returns the number of operations.
#[must_use]
pub fn float(isa: Isa, chains: Chains, steps: usize) -> u64 {
    match chains {
        Chains::Five => isa.run(Float::<5>(steps)),
        Chains::Twelve => isa.run(Float::<12>(steps)),
    }
}

/// Reads bytes once, in order, a vector at a time: the wider the loads, the more of them a core can
/// have in flight. Bytes after the last four whole vectors are not read.
pub fn read(isa: Isa, bytes: &[u8]) {
    isa.run(Read(bytes));
}

/// Bytes in a vector.
const BYTES: usize = 4 * PANEL_ROWS;

struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.byte(simd.load(&[0; BYTES]), 0); 4];
        for vectors in self.0.as_chunks().0.as_chunks::<4>().0 {
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                let vector = simd.load(vector);
                *sum = simd.multiply_bytes(*sum, vector, vector);
            }
        }
        black_box(&sums);
    }
}

struct Integer<const N: usize>(usize);

impl<const N: usize> Kernel for Integer<N> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let (w, x) = (simd.load(black_box(&[3; BYTES])), simd.load(black_box(&[5; BYTES])));
        let mut sums = [simd.byte(w, 0); N];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.multiply_bytes(*sum, w, x);
            }
        }
        black_box(&sums);
        2 * (BYTES * N * self.0) as u64
    }
}

struct Float<const N: usize>(usize);

impl<const N: usize> Kernel for Float<N> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let (w, x) = (simd.load_f32(black_box(&[0.5; PANEL_ROWS])), simd.load_f32(black_box(&[0.25; PANEL_ROWS])));
        let mut sums = [w; N];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add(w, x, *sum);
            }
        }
        black_box(&sums);
        2 * (PANEL_ROWS * N * self.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        for isa in Isa::available() {
            assert_eq!(integer(isa, Chains::Five, 3), 2 * 64 * 5 * 3);
            assert_eq!(float(isa, Chains::Twelve, 3), 2 * 16 * 12 * 3);
        }
    }
}
