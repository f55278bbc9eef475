//! Products of packed weights with rows of activations.
//!
//! The outer loop goes over panels, the next over groups of activation rows, the inner one along the input dimension. An output is
//! one lane of one accumulator throughout, so its bits do not depend on the grouping.

use core::marker::PhantomData;

use crate::activations::ActivationBlock;
use crate::error::ShapeError;
use crate::format::{BlockFormat, FormatVisitor, LONGEST_BLOCK, PANEL_ROWS};
use crate::isa::{Isa, Kernel, Simd};
use crate::matrix::MatrixRef;

/// Multiplies `x_rows` rows of quantized activations by a matrix.
///
/// `x` holds the rows one after the other, [`MatrixRef::activation_blocks`] each. `out[panel · x_rows + row]` receives the 16 outputs of a panel
/// for a row of activations; in the last panel, outputs beyond the matrix's rows mean nothing.
///
/// # Errors
/// If the lengths do not agree.
pub fn multiply(
    isa: Isa,
    weights: MatrixRef<'_>,
    x: &[ActivationBlock],
    x_rows: usize,
    out: &mut [[f32; PANEL_ROWS]],
) -> Result<(), ShapeError> {
    let stride = weights.activation_blocks();
    ShapeError::check("activation blocks", x.len(), x_rows.saturating_mul(stride))?;
    ShapeError::check("outputs", out.len(), x_rows.saturating_mul(weights.panel_count()))?;
    weights.format().visit(Multiply { isa, weights, x, stride, out });
    Ok(())
}

/// Multiplies `x_rows` rows of unquantized activations, `cols` each, by a matrix, with no rounding of the activations.
///
/// `out` is as in [`multiply`].
///
/// # Errors
/// If the lengths do not agree.
pub fn multiply_exact(
    isa: Isa,
    weights: MatrixRef<'_>,
    x: &[f32],
    x_rows: usize,
    out: &mut [[f32; PANEL_ROWS]],
) -> Result<(), ShapeError> {
    ShapeError::check("activations", x.len(), x_rows.saturating_mul(weights.cols()))?;
    ShapeError::check("outputs", out.len(), x_rows.saturating_mul(weights.panel_count()))?;
    weights.format().visit(MultiplyExact { isa, weights, x, out });
    Ok(())
}

/// The integer product, before its format is known at compile time.
struct Multiply<'a> {
    isa: Isa,
    weights: MatrixRef<'a>,
    x: &'a [ActivationBlock],
    /// Length of a row of `x`.
    stride: usize,
    out: &'a mut [[f32; PANEL_ROWS]],
}

impl FormatVisitor for Multiply<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        self.isa.run(MultiplyAs::<F>(self, PhantomData));
    }
}

struct MultiplyAs<'a, F>(Multiply<'a>, PhantomData<F>);

impl<F: BlockFormat> Kernel for MultiplyAs<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Multiply { weights, x, stride, out, .. } = self.0;
        for_each_panel(weights, x.len().checked_div(stride), out, |panel, out| {
            let mut row = 0;
            if S::WIDE {
                row = tiles::<F, S, 8>(simd, panel, x, stride, out, row);
            }
            row = tiles::<F, S, 4>(simd, panel, x, stride, out, row);
            row = tiles::<F, S, 2>(simd, panel, x, stride, out, row);
            tiles::<F, S, 1>(simd, panel, x, stride, out, row);
        });
    }
}

/// Multiplies a panel with activation rows from `row` on, `C` at a time while there are as many. Returns the first row left.
#[inline(always)]
fn tiles<F: BlockFormat, S: Simd, const C: usize>(
    simd: S,
    panel: &[u8],
    x: &[ActivationBlock],
    stride: usize,
    out: &mut [[f32; PANEL_ROWS]],
    mut row: usize,
) -> usize {
    while let Some(out) = out.get_mut(row..row + C) {
        let x: [&[ActivationBlock]; C] = core::array::from_fn(|c| &x[(row + c) * stride..][..stride]);
        let mut acc = [simd.splat(0.0); C];
        for (i, block) in panel.chunks_exact(F::PANEL_BYTES).enumerate() {
            let tile = F::unpack(simd, block);
            for (acc, x) in acc.iter_mut().zip(&x) {
                *acc = F::multiply_add(simd, &tile, &x[i * F::ACTIVATION_BLOCKS..][..F::ACTIVATION_BLOCKS], *acc);
            }
        }
        for (acc, out) in acc.into_iter().zip(out) {
            simd.store(acc, out);
        }
        row += C;
    }
    row
}

/// The exact-activation product, before its format is known at compile time.
struct MultiplyExact<'a> {
    isa: Isa,
    weights: MatrixRef<'a>,
    x: &'a [f32],
    out: &'a mut [[f32; PANEL_ROWS]],
}

impl FormatVisitor for MultiplyExact<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        self.isa.run(MultiplyExactAs::<F>(self, PhantomData));
    }
}

struct MultiplyExactAs<'a, F>(MultiplyExact<'a>, PhantomData<F>);

impl<F: BlockFormat> Kernel for MultiplyExactAs<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let MultiplyExact { weights, x, out, .. } = self.0;
        let cols = weights.cols();
        for_each_panel(weights, x.len().checked_div(cols), out, |panel, out| {
            let row = tiles_exact::<F, S, 4>(simd, panel, x, cols, out, 0);
            tiles_exact::<F, S, 1>(simd, panel, x, cols, out, row);
        });
    }
}

/// As [`tiles`], with exact activations: a block is decoded once for `C` rows of activations.
#[inline(always)]
fn tiles_exact<F: BlockFormat, S: Simd, const C: usize>(
    simd: S,
    panel: &[u8],
    x: &[f32],
    cols: usize,
    out: &mut [[f32; PANEL_ROWS]],
    mut row: usize,
) -> usize {
    let mut weights = [[0.0; PANEL_ROWS]; LONGEST_BLOCK];
    while let Some(out) = out.get_mut(row..row + C) {
        let x: [&[f32]; C] = core::array::from_fn(|c| &x[(row + c) * cols..][..cols]);
        let mut acc = [[simd.splat(0.0); 4]; C];
        for (i, block) in panel.chunks_exact(F::PANEL_BYTES).enumerate() {
            F::weights(simd, &F::unpack(simd, block), &mut weights[..F::LEN]);
            // The last block's padding is left out.
            let columns = i * F::LEN..cols.min((i + 1) * F::LEN);
            for (acc, x) in acc.iter_mut().zip(&x) {
                for (group, x) in weights.chunks_exact(4).zip(x[columns.clone()].chunks(4)) {
                    for ((weights, &x), acc) in group.iter().zip(x).zip(acc.iter_mut()) {
                        *acc = simd.mul_add(simd.load_f32(weights), simd.splat(x), *acc);
                    }
                }
            }
        }
        for (acc, out) in acc.into_iter().zip(out) {
            simd.store(simd.add(simd.add(acc[0], acc[1]), simd.add(acc[2], acc[3])), out);
        }
        row += C;
    }
    row
}

/// Calls `product(panel, its outputs)` for every panel; `x_rows` is `None` where rows of activations are empty, and products zero.
#[inline(always)]
fn for_each_panel(
    weights: MatrixRef<'_>,
    x_rows: Option<usize>,
    out: &mut [[f32; PANEL_ROWS]],
    mut product: impl FnMut(&[u8], &mut [[f32; PANEL_ROWS]]),
) {
    match x_rows {
        None => out.fill([0.0; PANEL_ROWS]),
        Some(0) => {}
        Some(x_rows) => {
            let panels = weights.as_bytes().chunks_exact(weights.panel_bytes().max(1));
            for (panel, out) in panels.zip(out.chunks_exact_mut(x_rows)) {
                product(panel, out);
            }
        }
    }
}
