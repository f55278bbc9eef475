//! Tiles: 32 columns of a panel, unpacked, and the products with them.
//!
//! There are as many kinds as there are shapes of arithmetic; every format unpacks to one of them.

use core::marker::PhantomData;

use super::Lanes;
use crate::block::{ACTIVATION_BLOCK, RowBlock};
use crate::isa::Simd;

/// 32 columns of 16 rows of weights, ready to be multiplied with any number of rows of activations.
pub(crate) trait Tile<S: Simd>: Copy {
    /// Adds the tile's share of the product with each row to `acc`, as `docs/quantization.md`
    /// defines.
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]);

    /// Decodes the weights, column by column.
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]);
}

/// The codes of 32 columns, four columns each.
pub(crate) type Codes<S> = [<S as Simd>::Bytes; 8];

/// Weights `scale · (code - ZERO)`, codes of `BITS` bits without sign, at most 5.
pub(crate) struct Centred<S: Simd, F, const BITS: u32, const ZERO: i32> {
    format: PhantomData<F>,
    codes: Codes<S>,
    scale: S::F32,
}

impl<S: Simd, F, const BITS: u32, const ZERO: i32> Centred<S, F, BITS, ZERO> {
    #[inline(always)]
    pub(super) fn new(codes: Codes<S>, scale: S::F32) -> Self {
        Self { format: PhantomData, codes, scale }
    }
}

impl<S: Simd, F, const BITS: u32, const ZERO: i32> Copy for Centred<S, F, BITS, ZERO> {}

impl<S: Simd, F, const BITS: u32, const ZERO: i32> Clone for Centred<S, F, BITS, ZERO> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, F, const BITS: u32, const ZERO: i32> Tile<S> for Centred<S, F, BITS, ZERO> {
    #[inline(always)]
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]) {
        let dots = dot_unsigned::<S, F, BITS, R>(simd, &self.codes, x);
        for r in 0..R {
            // The offset is a multiple of 8.
            let dot = simd.add_i32(dots[r], if ZERO == 8 { x.offsets_8[r] } else { x.offsets_8[r] / 8 * ZERO });
            accumulate(simd, dot, self.scale, x.scales[r], &mut acc[r]);
        }
    }

    #[inline(always)]
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]) {
        each_code(simd, &self.codes, columns, |_, code| simd.mul(self.scale, simd.to_f32(simd.add_i32(code, -ZERO))));
    }
}

/// Weights `scale · code + offset`, codes of `BITS` bits without sign, at most 5.
pub(crate) struct Affine<S: Simd, F, const BITS: u32> {
    format: PhantomData<F>,
    codes: Codes<S>,
    scale: S::F32,
    offset: S::F32,
}

impl<S: Simd, F, const BITS: u32> Affine<S, F, BITS> {
    #[inline(always)]
    pub(super) fn new(codes: Codes<S>, scale: S::F32, offset: S::F32) -> Self {
        Self { format: PhantomData, codes, scale, offset }
    }
}

impl<S: Simd, F, const BITS: u32> Copy for Affine<S, F, BITS> {}

impl<S: Simd, F, const BITS: u32> Clone for Affine<S, F, BITS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, F, const BITS: u32> Tile<S> for Affine<S, F, BITS> {
    #[inline(always)]
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]) {
        let dots = dot_unsigned::<S, F, BITS, R>(simd, &self.codes, x);
        for r in 0..R {
            accumulate(simd, dots[r], self.scale, x.scales[r], &mut acc[r]);
            let sum = simd.mul_add(self.offset, simd.splat(x.scaled_sums[r]), simd.load_f32(&acc[r]));
            simd.store(sum, &mut acc[r]);
        }
    }

    #[inline(always)]
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]) {
        each_code(simd, &self.codes, columns, |_, code| simd.mul_add(self.scale, simd.to_f32(code), self.offset));
    }
}

/// Weights `scale · code`, signed codes of 8 bits.
pub(crate) struct Signed<S: Simd, F> {
    format: PhantomData<F>,
    codes: S::Signed,
    scale: S::F32,
}

impl<S: Simd, F> Signed<S, F> {
    #[inline(always)]
    pub(super) fn new(simd: S, codes: &Codes<S>, scale: S::F32) -> Self {
        Self { format: PhantomData, codes: simd.signed(codes), scale }
    }
}

impl<S: Simd, F> Copy for Signed<S, F> {}

impl<S: Simd, F> Clone for Signed<S, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, F> Tile<S> for Signed<S, F> {
    #[inline(always)]
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]) {
        let dots = simd.dot_i8::<R, F>(&self.codes, x);
        for r in 0..R {
            accumulate(simd, dots[r], self.scale, x.scales[r], &mut acc[r]);
        }
    }

    #[inline(always)]
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]) {
        let codes = simd.signed_codes(&self.codes);
        each_code(simd, &codes, columns, |_, code| simd.mul(self.scale, simd.to_f32(code)));
    }
}

/// Weights `scale · factor · (code - 32)`, codes of 6 bits without sign, with a whole factor for
/// columns 0..16 and another for 16..32.
pub(crate) struct TwoFactors<S: Simd, F> {
    format: PhantomData<F>,
    codes: Codes<S>,
    factors: [S::Factor; 2],
    /// `scale · factor`, exact: for the decoded weights.
    scales: [S::F32; 2],
    scale: S::F32,
}

impl<S: Simd, F> TwoFactors<S, F> {
    /// Makes a tile; the factors are in `-128..=127`.
    #[inline(always)]
    pub(super) fn new(simd: S, codes: Codes<S>, factors: [S::I32; 2], scale: S::F32) -> Self {
        let scales = [simd.mul(scale, simd.to_f32(factors[0])), simd.mul(scale, simd.to_f32(factors[1]))];
        Self { format: PhantomData, codes, factors: [simd.factor(factors[0]), simd.factor(factors[1])], scales, scale }
    }
}

impl<S: Simd, F> Copy for TwoFactors<S, F> {}

impl<S: Simd, F> Clone for TwoFactors<S, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, F> Tile<S> for TwoFactors<S, F> {
    #[inline(always)]
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]) {
        let dots = simd.dot_two_factors::<R, F>(&self.codes, &self.factors, x);
        for r in 0..R {
            accumulate(simd, dots[r], self.scale, x.scales[r], &mut acc[r]);
        }
    }

    #[inline(always)]
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]) {
        each_code(simd, &self.codes, columns, |column, code| {
            simd.mul(self.scales[column / 16], simd.to_f32(simd.add_i32(code, -32)))
        });
    }
}

/// Weights `scale · factor · code - min_scale · min`, codes of 2 bits, with a whole factor and a
/// whole min for columns 0..16 and others for 16..32.
pub(crate) struct TwoLines<S: Simd, F> {
    format: PhantomData<F>,
    /// The codes plus 32, so that they are multiplied as those of [`TwoFactors`] are.
    codes: Codes<S>,
    factors: [S::Factor; 2],
    mins: [S::Factor; 2],
    scale: S::F32,
    /// A 32nd of the mins' scale: sums of activations come as -32 times what they are.
    min_scale: S::F32,
    /// `scale · factor` and `-min_scale · min`, exact: for the decoded weights.
    lines: [(S::F32, S::F32); 2],
}

impl<S: Simd, F> TwoLines<S, F> {
    /// Makes a tile; the factors and mins are in `0..=127`.
    #[inline(always)]
    pub(super) fn new(
        simd: S,
        codes: Codes<S>,
        factors: [S::I32; 2],
        mins: [S::I32; 2],
        scale: S::F32,
        min_scale: S::F32,
    ) -> Self {
        let mut shifted = codes;
        for codes in &mut shifted {
            *codes = simd.or(*codes, simd.load(&[32; 64]));
        }
        let line = |half: usize| {
            let min = simd.mul(min_scale, simd.to_f32(mins[half]));
            (simd.mul(scale, simd.to_f32(factors[half])), simd.sub(simd.splat(0.0), min))
        };
        Self {
            format: PhantomData,
            codes: shifted,
            factors: [simd.factor(factors[0]), simd.factor(factors[1])],
            mins: [simd.factor(mins[0]), simd.factor(mins[1])],
            scale,
            min_scale: simd.mul(min_scale, simd.splat(1.0 / 32.0)),
            lines: [line(0), line(1)],
        }
    }
}

impl<S: Simd, F> Copy for TwoLines<S, F> {}

impl<S: Simd, F> Clone for TwoLines<S, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, F> Tile<S> for TwoLines<S, F> {
    #[inline(always)]
    fn multiply_add<const R: usize>(&self, simd: S, x: &RowBlock<R>, acc: &mut [Lanes; R]) {
        let dots = simd.dot_two_factors::<R, F>(&self.codes, &self.factors, x);
        for r in 0..R {
            accumulate(simd, dots[r], self.scale, x.scales[r], &mut acc[r]);
            let mut sums = simd.to_i32(simd.splat(0.0));
            for (offsets, &min) in x.offsets_32.iter().zip(&self.mins) {
                sums = simd.add_partial(sums, simd.partial(offsets[r]), min);
            }
            accumulate(simd, sums, self.min_scale, x.scales[r], &mut acc[r]);
        }
    }

    #[inline(always)]
    fn weights(&self, simd: S, columns: &mut [Lanes; ACTIVATION_BLOCK]) {
        each_code(simd, &self.codes, columns, |column, code| {
            let (scale, offset) = self.lines[column / 16];
            simd.mul_add(scale, simd.to_f32(simd.add_i32(code, -32)), offset)
        });
    }
}

#[inline(always)]
fn dot_unsigned<S: Simd, F, const BITS: u32, const R: usize>(
    simd: S,
    codes: &Codes<S>,
    x: &RowBlock<R>,
) -> [S::I32; R] {
    const { assert!(BITS == 4 || BITS == 5) };
    if BITS == 4 { simd.dot_u4::<R, F>(codes, x) } else { simd.dot_u5::<R, F>(codes, x) }
}

/// Computes `acc + dot · (scale · x_scale)`: the product of the scales rounded, then one fused
/// multiply-add.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(simd: S, dot: S::I32, scale: S::F32, x_scale: f32, acc: &mut Lanes) {
    let scale = simd.mul(scale, simd.splat(x_scale));
    simd.store(simd.mul_add(simd.to_f32(dot), scale, simd.load_f32(acc)), acc);
}

/// Calls `weight(column, code)` for every column and writes the result.
#[inline(always)]
fn each_code<S: Simd>(
    simd: S,
    codes: &Codes<S>,
    columns: &mut [Lanes; ACTIVATION_BLOCK],
    weight: impl Fn(usize, S::I32) -> S::F32,
) {
    for (group, columns) in columns.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (j, column) in columns.iter_mut().enumerate() {
            simd.store(weight(4 * group + j, simd.byte(codes[group], j as u32)), column);
        }
    }
}
