//! Importance: how much each column counts in the squared error that a search minimizes.

use core::ops::Range;

use crate::isa::Simd;

/// One factor for each column of a block, the same for all rows: the search minimizes
/// `Σ importance·(w - q)²`.
///
/// Without `GIVEN` every factor is 1, is not read and costs nothing. With it, factors of 1 give the
/// same bits: a product with 1 is exact.
#[derive(Clone, Copy)]
pub(crate) struct Importance<'a, const GIVEN: bool>(&'a [f32]);

impl<'a, const GIVEN: bool> Importance<'a, GIVEN> {
    /// Takes the factors of a block's columns, relative to the largest: above 0, at most 1, and not
    /// so small that sums of products with them underflow (`encode.rs` sees to that).
    pub(crate) fn new(factors: &'a [f32]) -> Self {
        debug_assert!(factors.iter().all(|factor| (1e-6..=1.0).contains(factor)), "importance that is not relative");
        Self(factors)
    }

    /// Multiplies `value` with the importance of a column.
    #[inline(always)]
    pub(super) fn times<S: Simd>(self, simd: S, column: usize, value: S::F32) -> S::F32 {
        if GIVEN { simd.mul(value, simd.splat(self.0[column])) } else { value }
    }

    /// Adds up the importance of the first `N` columns.
    #[inline(always)]
    pub(super) fn sum<S: Simd, const N: usize>(self, simd: S) -> S::F32 {
        simd.splat(if GIVEN { self.0[..N].iter().sum() } else { N as f32 })
    }

    /// Restricts the importance to some columns.
    #[inline(always)]
    pub(super) fn of(self, columns: Range<usize>) -> Self {
        if GIVEN { Self(&self.0[columns]) } else { self }
    }
}
