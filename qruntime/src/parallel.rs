//! Splits products over the threads of rayon's current pool. The only module that knows threads.

use kernels::panel::PANEL_ROWS;
use kernels::{ActivationBlock, Isa, MatrixRef, ShapeError, quantize_activations};
use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

/// Rows of activations, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Activations<'a> {
    /// In 8 bits.
    Quantized(&'a [ActivationBlock]),
    /// Unrounded.
    Exact(&'a [f32]),
}

/// Below this many bytes of weights times rows of activations a task is not split: some microseconds of work.
const SMALLEST_TASK: usize = 128 << 10;

/// Outputs are computed into a tile of this many panel rows on the stack and copied from there.
const TILE: usize = 64;

/// Quantizes rows of `cols` activations into `per_row` blocks each.
pub(crate) fn quantize(
    isa: Isa,
    rows: &[f32],
    cols: usize,
    blocks: &mut [ActivationBlock],
    per_row: usize,
) -> Result<(), ShapeError> {
    if cols == 0 {
        return Ok(());
    }
    let quantize = |(x, blocks): (&[f32], &mut [ActivationBlock])| quantize_activations(isa, x, blocks);
    if std::mem::size_of_val(rows) < SMALLEST_TASK || rayon::current_num_threads() == 1 {
        rows.chunks_exact(cols).zip(blocks.chunks_exact_mut(per_row)).try_for_each(quantize)
    } else {
        rows.par_chunks_exact(cols).zip(blocks.par_chunks_exact_mut(per_row)).try_for_each(quantize)
    }
}

/// Multiplies into `y`, whose shape is (rows of `x`, rows of `weights`), and adds the bias.
pub(crate) fn multiply(
    isa: Isa,
    weights: MatrixRef<'_>,
    x: Activations<'_>,
    bias: Option<&[f32]>,
    y: ArrayViewMut2<'_, f32>,
) -> Result<(), ShapeError> {
    let panels = weights.panel_count();
    if panels == 0 || y.nrows() == 0 {
        return Ok(());
    }
    let threads = rayon::current_num_threads();
    let bytes_per_panel = (weights.as_bytes().len() / panels).saturating_mul(y.nrows()).max(1);
    // Several tasks for each thread, so that one that is held up does not hold up all.
    let most =
        if threads == 1 { panels } else { panels.div_ceil(4 * threads).max(SMALLEST_TASK / bytes_per_panel).max(1) };
    Product { isa, weights, x, bias }.split(0, panels, most, y)
}

#[derive(Clone, Copy)]
struct Product<'a> {
    isa: Isa,
    weights: MatrixRef<'a>,
    x: Activations<'a>,
    bias: Option<&'a [f32]>,
}

impl Product<'_> {
    /// Computes panels `first..end`, whose outputs are the columns of `y`, in halves until they are at most `most`.
    fn split(self, first: usize, end: usize, most: usize, y: ArrayViewMut2<'_, f32>) -> Result<(), ShapeError> {
        if end - first <= most {
            return self.run(first, end, y);
        }
        let middle = first + (end - first) / 2;
        let (left, right) = y.split_at(Axis(1), (middle - first) * PANEL_ROWS);
        let (left, right) =
            rayon::join(|| self.split(first, middle, most, left), || self.split(middle, end, most, right));
        left.and(right)
    }

    /// Computes panels `first..end` on this thread, a tile at a time.
    fn run(self, first: usize, end: usize, mut y: ArrayViewMut2<'_, f32>) -> Result<(), ShapeError> {
        let mut tile = [[0.0; PANEL_ROWS]; TILE];
        let rows_at_once = y.nrows().min(TILE);
        let panels_at_once = TILE / rows_at_once;
        for panel in (first..end).step_by(panels_at_once) {
            let panels = panel..end.min(panel + panels_at_once);
            let weights = self.weights.panels(panels.clone());
            let bias = self.bias.map(|bias| &bias[panel * PANEL_ROWS..][..weights.rows()]);
            let column = (panel - first) * PANEL_ROWS;
            for (i, mut y) in y.axis_chunks_iter_mut(Axis(0), rows_at_once).enumerate() {
                let rows = y.nrows();
                let tile = &mut tile[..rows * panels.len()];
                self.multiply(weights, i * rows_at_once, rows, tile)?;
                let mut y = y.slice_mut(ndarray::s![.., column..column + weights.rows()]);
                for (row, mut y) in y.outer_iter_mut().enumerate() {
                    let outputs = tile[row..].iter().step_by(rows);
                    match y.as_slice_mut() {
                        Some(y) => {
                            for (y, out) in y.chunks_mut(PANEL_ROWS).zip(outputs) {
                                y.copy_from_slice(&out[..y.len()]);
                            }
                        }
                        None => y.iter_mut().zip(outputs.flatten()).for_each(|(y, out)| *y = *out),
                    }
                    if let Some(bias) = bias {
                        y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                    }
                }
            }
        }
        Ok(())
    }

    /// Multiplies `rows` rows of activations from `first` on.
    fn multiply(
        self,
        weights: MatrixRef<'_>,
        first: usize,
        rows: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) -> Result<(), ShapeError> {
        match self.x {
            Activations::Quantized(x) => {
                let per_row = weights.activation_blocks();
                kernels::multiply(self.isa, weights, &x[first * per_row..][..rows * per_row], rows, out)
            }
            Activations::Exact(x) => {
                let cols = weights.cols();
                kernels::multiply_exact(self.isa, weights, &x[first * cols..][..rows * cols], rows, out)
            }
        }
    }
}
