//! Products of packed weights with rows of activations.
//!
//! ```text
//! for panel in weights:                           16 rows of weights
//!     for chunk of 8 tiles in panel:              8 x 32 columns; with one row of x, tile by tile
//!         tiles = unpack(chunk)                   into the first-level cache, once for all rows
//!         for quad of 4 rows in x:
//!             for (tile, block) in (tiles, quad):
//!                 for row in 0..4:
//!                     dot      = Σ tile.codes · block.codes[row]       integers, 32 columns
//!                     acc[row] = fma(f32(dot), tile.scale · block.scale[row], acc[row])
//!
//! one step of a dot product: 4 columns of 16 rows of weights, 4 codes of one row of activations
//!
//! lane        0           1                 15
//! weights   w0[0..4]    w1[0..4]    ...   w15[0..4]       64 bytes of a panel, in memory order
//! x         x[0..4]     x[0..4]     ...   x[0..4]         one group, copied into every lane
//! dot       Σ w0·x      Σ w1·x      ...   Σ w15·x         16 outputs: no sum across lanes
//! ```
//!
//! An output is one lane of one accumulator throughout, and its blocks are added in ascending
//! order, so its bits do not depend on the number of rows. One row of activations runs at the speed
//! of memory, so each tile is multiplied as soon as it is unpacked.

use core::hint::black_box;
use core::marker::PhantomData;

use crate::activations::ActivationsRef;
use crate::block::{ACTIVATION_BLOCK, QUAD, RowBlock};
use crate::error::ShapeError;
use crate::format::{BlockFormat, FormatVisitor, Lanes, PANEL_ROWS, Tile, prefetch};
use crate::isa::{Isa, Kernel, Simd};
use crate::matrix::MatrixRef;

/// Multiplies rows of quantized activations by a matrix.
///
/// `out[panel · rows + row]` receives the 16 outputs of a panel for a row of activations; in the
/// last panel, outputs beyond the matrix's rows are undefined.
///
/// # Errors
/// If the columns of `weights` and `x` differ, or `out` is not `panels · rows` long.
pub fn multiply(
    isa: Isa,
    weights: MatrixRef<'_>,
    x: ActivationsRef<'_>,
    out: &mut [[f32; PANEL_ROWS]],
) -> Result<(), ShapeError> {
    ShapeError::check("columns of the activations", x.cols(), weights.cols())?;
    ShapeError::check("outputs", out.len(), x.rows().saturating_mul(weights.panel_count()))?;
    weights.format().visit(Multiply { isa, weights, x, out });
    Ok(())
}

/// Multiplies `x_rows` rows of unquantized activations, `cols` each, by a matrix, with no rounding
/// of the activations.
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
    x: ActivationsRef<'a>,
    out: &'a mut [[f32; PANEL_ROWS]],
}

impl FormatVisitor for Multiply<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        self.isa.run(MultiplyAs::<F>(self, PhantomData));
    }
}

struct MultiplyAs<'a, F>(Multiply<'a>, PhantomData<F>);

/// Tiles that are unpacked at a time, 256 columns: with the activations of a few rows they fit in
/// the first-level cache.
const CHUNK: usize = 8;

/// Runs a statement for every tile of a block, with the tile's number constant, so that shifts and
/// addresses are.
macro_rules! each_tile {
    ($format:ident, $i:ident => $work:expr) => {
        each_tile!(@ $format, $i => $work; 0 1 2 3 4 5 6 7)
    };
    (@ $format:ident, $i:ident => $work:expr; $($number:literal)+) => {
        const { assert!($format::TILES <= CHUNK && CHUNK % $format::TILES == 0) };
        $(if $number < $format::TILES {
            let $i = $number;
            $work;
        })+
    };
}

impl<F: BlockFormat> Kernel for MultiplyAs<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Multiply { weights, x, out, .. } = self.0;
        out.fill([0.0; PANEL_ROWS]);
        if weights.cols() == 0 || x.rows() == 0 || out.is_empty() {
            return;
        }
        let panels = weights.as_bytes().chunks_exact(weights.panel_bytes()).zip(out.chunks_exact_mut(x.rows()));
        if x.rows() <= F::MAX_ROWS_UNBUFFERED && !S::SHORT_CODE {
            // The second time a panel comes from the second-level cache.
            for (panel, out) in panels {
                for (x, out) in x.rest().zip(out) {
                    one_row::<F, S>(simd, panel, x, out);
                }
            }
            return;
        }
        // What it holds at first is overwritten.
        let mut tiles = [F::unpack(simd, weights.as_bytes(), &F::header(simd, weights.as_bytes()), 0); CHUNK];
        let tile_count = weights.cols().div_ceil(F::LEN) * F::TILES;
        for (panel, out) in panels {
            for first in (0..tile_count).step_by(CHUNK) {
                let tiles = &mut tiles[..CHUNK.min(tile_count - first)];
                let blocks = panel[first / F::TILES * F::PANEL_BYTES..].chunks_exact(F::PANEL_BYTES);
                for (tiles, block) in tiles.chunks_exact_mut(F::TILES).zip(blocks) {
                    prefetch(simd, block, 0, 1);
                    let header = F::header(simd, block);
                    if S::SHORT_CODE {
                        for (i, tile) in tiles.iter_mut().enumerate() {
                            *tile = F::unpack(simd, block, &header, i);
                        }
                    } else {
                        each_tile!(F, i => tiles[i] = F::unpack(simd, block, &header, i));
                    }
                }
                let (quads, rest) = out.as_chunks_mut::<QUAD>();
                for (x, acc) in x.quads().zip(quads) {
                    rows(simd, tiles, &x[first..], acc);
                }
                for (x, acc) in x.rest().zip(rest) {
                    rows(simd, tiles, &x[first..], core::array::from_mut(acc));
                }
            }
        }
    }
}

/// Multiplies a panel with one row of activations.
#[inline(always)]
fn one_row<F: BlockFormat, S: Simd>(simd: S, panel: &[u8], x: &[RowBlock<1>], out: &mut Lanes) {
    let mut acc = [[0.0; PANEL_ROWS]];
    for (block, x) in panel.chunks_exact(F::PANEL_BYTES).zip(x.chunks_exact(F::TILES)) {
        F::multiply_add(simd, block, x, &mut acc);
    }
    [*out] = acc;
}

/// Multiplies tiles with `R` rows of activations.
#[inline(always)]
fn rows<S: Simd, T: Tile<S>, const R: usize>(simd: S, tiles: &[T], x: &[RowBlock<R>], acc: &mut [Lanes; R]) {
    if S::FEW_REGISTERS && R > 1 {
        for (tile, x) in tiles.iter().zip(x) {
            // Accumulators that the compiler sees in memory stay there, instead of being moved in
            // and out for every tile.
            tile.multiply_add(simd, x, black_box(&mut *acc));
        }
    } else {
        let mut sums = *acc;
        for (tile, x) in tiles.iter().zip(x) {
            tile.multiply_add(simd, x, &mut sums);
        }
        *acc = sums;
    }
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
        self.isa.run_without_dots(MultiplyExactAs::<F>(self, PhantomData));
    }
}

struct MultiplyExactAs<'a, F>(MultiplyExact<'a>, PhantomData<F>);

/// Columns that are decoded at a time: as many as [`CHUNK`] tiles.
const COLUMNS: usize = CHUNK * ACTIVATION_BLOCK;

/// Quads of rows that are multiplied by decoded columns at a time: their sums fit on the stack.
const QUADS: usize = 16;

/// The sums of `R` rows, four each: one for every fourth column.
type ExactSums<const R: usize> = [[Lanes; R]; 4];

impl<F: BlockFormat> Kernel for MultiplyExactAs<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let MultiplyExact { weights, x, out, .. } = self.0;
        let cols = weights.cols();
        out.fill([0.0; PANEL_ROWS]);
        if cols == 0 || x.is_empty() {
            return;
        }
        let mut columns = [[0.0; PANEL_ROWS]; COLUMNS];
        let panels = weights.as_bytes().chunks_exact(weights.panel_bytes()).zip(out.chunks_exact_mut(x.len() / cols));
        for (panel, out) in panels {
            for (x, out) in x.chunks(QUADS * QUAD * cols).zip(out.chunks_mut(QUADS * QUAD)) {
                let mut sums = [[[[0.0; PANEL_ROWS]; QUAD]; 4]; QUADS];
                let mut rest_sums = [[[[0.0; PANEL_ROWS]; 1]; 4]; QUAD];
                let (quads, rest) = x.split_at(x.len() / (QUAD * cols) * (QUAD * cols));
                for (chunk, blocks) in panel.chunks(COLUMNS / F::LEN * F::PANEL_BYTES).enumerate() {
                    // The last block's padding is left out.
                    let first = chunk * COLUMNS;
                    let len = COLUMNS.min(cols - first);
                    for (block, columns) in blocks.chunks_exact(F::PANEL_BYTES).zip(columns.chunks_exact_mut(F::LEN)) {
                        let header = F::header(simd, block);
                        for (i, columns) in columns.as_chunks_mut().0.iter_mut().enumerate() {
                            F::unpack(simd, block, &header, i).weights(simd, columns);
                        }
                    }
                    for (x, sums) in quads.chunks_exact(QUAD * cols).zip(&mut sums) {
                        rows_exact::<S, QUAD>(simd, &columns[..len], x, cols, first, sums);
                    }
                    for (x, sums) in rest.chunks_exact(cols).zip(&mut rest_sums) {
                        rows_exact::<S, 1>(simd, &columns[..len], x, cols, first, sums);
                    }
                }
                let (quads_out, rest_out) = out.as_chunks_mut::<QUAD>();
                for (sums, out) in sums.iter().zip(quads_out) {
                    add_up(simd, sums, out);
                }
                for (sums, out) in rest_sums.iter().zip(rest_out) {
                    add_up(simd, sums, core::array::from_mut(out));
                }
            }
        }
    }
}

/// Adds the products of decoded columns, which begin with column `first`, to the sums of `R` rows
/// of `cols` columns.
#[inline(always)]
fn rows_exact<S: Simd, const R: usize>(
    simd: S,
    columns: &[Lanes],
    x: &[f32],
    cols: usize,
    first: usize,
    sums: &mut ExactSums<R>,
) {
    let (whole, last) = columns.as_chunks::<4>();
    let mut fours: [&[[f32; 4]]; R] = [&[]; R];
    let mut lasts: [&[f32]; R] = [&[]; R];
    for row in 0..R {
        (fours[row], lasts[row]) = x[row * cols + first..][..columns.len()].as_chunks::<4>();
        fours[row] = &fours[row][..whole.len()];
    }
    if R == 1 {
        // All four sums at once: each waits for itself.
        let mut acc = [simd.splat(0.0); 4];
        for (acc, sums) in acc.iter_mut().zip(&*sums) {
            *acc = simd.load_f32(&sums[0]);
        }
        for (weights, x) in whole.iter().zip(fours[0]) {
            for j in 0..4 {
                acc[j] = simd.mul_add(simd.load_f32(&weights[j]), simd.splat(x[j]), acc[j]);
            }
        }
        for (acc, sums) in acc.into_iter().zip(&mut *sums) {
            simd.store(acc, &mut sums[0]);
        }
    } else {
        // One sum after the other: those of all rows stay in registers.
        for (j, sums) in sums.iter_mut().enumerate() {
            let mut acc = [simd.splat(0.0); R];
            for (acc, sums) in acc.iter_mut().zip(&*sums) {
                *acc = simd.load_f32(sums);
            }
            for (i, weights) in whole.iter().enumerate() {
                let weights = simd.load_f32(&weights[j]);
                for row in 0..R {
                    acc[row] = simd.mul_add(weights, simd.splat(fours[row][i][j]), acc[row]);
                }
            }
            for (acc, sums) in acc.into_iter().zip(sums) {
                simd.store(acc, sums);
            }
        }
    }
    for (j, weights) in last.iter().enumerate() {
        for row in 0..R {
            let sum = &mut sums[j][row];
            simd.store(simd.mul_add(simd.load_f32(weights), simd.splat(lasts[row][j]), simd.load_f32(sum)), sum);
        }
    }
}

/// Adds each row's four sums.
#[inline(always)]
fn add_up<S: Simd, const R: usize>(simd: S, sums: &ExactSums<R>, out: &mut [Lanes; R]) {
    for (row, out) in out.iter_mut().enumerate() {
        let sum = |j: usize| simd.load_f32(&sums[j][row]);
        simd.store(simd.add(simd.add(sum(0), sum(1)), simd.add(sum(2), sum(3))), out);
    }
}
