//! Splits products and other work on rows over the threads of rayon's current pool. No other module
//! uses threads.
//!
//! A *region* is one call of [`multiply`]: a shared queue of products. Threads take pieces of
//! consecutive panels from its front, large ones first and smaller ones towards the end. The caller
//! starts at once and never waits for a thread that has not come: a late thread finds the queue
//! empty. So a region costs little, and a delayed thread delays only one piece. [`crew`] provides
//! the threads and waits for them. `docs/kernels.md` has the figures and what did not help.

mod crew;

use std::ops::Range;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernels::panel::PANEL_ROWS;
use kernels::{Activations, ActivationsRef, Isa, ShapeError};
use ndarray::{ArrayViewMut2, Axis};

pub use self::crew::keep_awake;
use crate::weight::Weight;

/// Rows of activations that are multiplied together.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Activations in 8 bits.
    Quantized(ActivationsRef<'a>),
    /// Unrounded activations and the number of columns.
    Exact(&'a [f32], usize),
}

impl Rows<'_> {
    /// Returns some of the rows, at most [`TILE`] at a time.
    fn range(self, rows: Range<usize>) -> Self {
        match self {
            Self::Quantized(x) => Self::Quantized(x.range(rows)),
            Self::Exact(x, cols) => Self::Exact(&x[rows.start * cols..rows.end * cols], cols),
        }
    }
}

/// The work, in bytes of weights times rows of activations, for which another thread is worth
/// asking: some ten microseconds, because waking a sleeping thread costs as much.
const WORK_PER_THREAD: usize = 256 << 10;

/// The smallest piece worth taking from the queue, in the same unit.
const SMALLEST_PIECE: usize = 128 << 10;

/// A buffer of outputs on the stack, from which they are copied to their place.
struct Tile([[f32; PANEL_ROWS]; TILE]);

const TILE: usize = 64;

impl Tile {
    fn new() -> Self {
        Self([[0.0; PANEL_ROWS]; TILE])
    }
}

/// Quantizes rows of `cols` activations in groups. A single row never opens a region.
pub(crate) fn quantize(
    isa: Isa,
    x: &[f32],
    cols: usize,
    groups: &[usize],
    to: &mut Activations,
) -> Result<(), ShapeError> {
    if x.len() <= cols || size_of_val(x) < WORK_PER_THREAD || rayon::current_num_threads() == 1 {
        return to.quantize(isa, x, cols, groups);
    }
    // A row takes a microsecond or less, so a task consists of many.
    let rows_per_task = (SMALLEST_PIECE / size_of::<f32>()).div_ceil(cols);
    let parts = to.parts(x, cols, groups, rows_per_task)?;
    let threads = threads(size_of_val(x));
    each::<1, _, _>(parts, &mut vec![(); threads], |part, ()| part.quantize(isa));
    Ok(())
}

/// Returns how many threads some work is worth, given in bytes of packed weights times rows.
pub(crate) fn threads(work: usize) -> usize {
    rayon::current_num_threads().min(work / WORK_PER_THREAD).max(1)
}

/// Does `work` on rows, a few at a time, on as many threads as the work is worth. Each row costs
/// `cost`, in bytes of packed weights.
pub(crate) fn rows<T: Send>(cost: usize, rows: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    match threads(cost.saturating_mul(rows.len())) {
        1 => rows.for_each(work),
        threads => each::<ROWS, _, _>(rows, &mut vec![(); threads], |row, ()| work(row)),
    }
}

/// Rows that a thread takes together: each costs a microsecond or so.
const ROWS: usize = 16;

/// Does `work` on items, `N` at a time, on one thread for each of `scratch`.
pub(crate) fn each<const N: usize, T: Send, S: Send>(
    items: impl Iterator<Item = T> + Send,
    scratch: &mut [S],
    work: impl Fn(T, &mut S) + Sync,
) {
    if let [scratch] = scratch {
        return items.for_each(|item| work(item, scratch));
    }
    let threads = scratch.len();
    let (items, scratch) = (Mutex::new(items.fuse()), Mutex::new(scratch.iter_mut()));
    crew::together(threads, || {
        let Some(scratch) = lock(&scratch).next() else { return };
        loop {
            let taken = {
                let mut items = lock(&items);
                std::array::from_fn::<_, N, _>(|_| items.next())
            };
            if taken.iter().all(Option::is_none) {
                return;
            }
            taken.into_iter().flatten().for_each(|item| work(item, scratch));
        }
    });
}

/// Locks a queue. Taking from a queue does not panic halfway, so poison is ignored.
fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One product of a region: `y = x·weightsᵀ + bias`.
///
/// `y` has one row for each row of `x` and one column for each row of `weights`.
pub(crate) struct Product<'a> {
    pub(crate) isa: Isa,
    pub(crate) weights: Weight<'a>,
    pub(crate) x: Rows<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) y: ArrayViewMut2<'a, f32>,
}

/// Computes all products in one region.
pub(crate) fn multiply(products: &mut [Product<'_>]) -> Result<(), ShapeError> {
    let left = products.iter().map(Product::work).fold(0, usize::saturating_add);
    let threads = rayon::current_num_threads().min(left / WORK_PER_THREAD);
    if threads <= 1 {
        let mut tile = Tile::new();
        return products.iter_mut().try_for_each(|product| product.run(&mut tile));
    }
    let queue = Mutex::new(Queue { products: products.iter_mut(), first: None, left, threads, failed: None });
    crew::together(threads, || {
        let mut tile = Tile::new();
        // The lock is released before the piece is computed.
        while let Some(mut piece) = { lock(&queue).take() } {
            if let Err(error) = piece.run(&mut tile) {
                lock(&queue).failed = Some(error);
            }
        }
    });
    queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

/// The remaining products of a region.
struct Queue<'a, 'p> {
    products: slice::IterMut<'a, Product<'p>>,
    /// The rest of a product that has been started.
    first: Option<Product<'a>>,
    /// The work of both.
    left: usize,
    threads: usize,
    failed: Option<ShapeError>,
}

impl<'a> Queue<'a, '_> {
    /// Takes a piece from the front: half of a thread's share of what is left, so that all threads
    /// finish together.
    fn take(&mut self) -> Option<Product<'a>> {
        let size = (self.left / (2 * self.threads)).max(SMALLEST_PIECE);
        let first = match self.first.take() {
            Some(rest) => rest,
            None => self.products.next()?.reborrow(),
        };
        let (piece, rest) = first.split(size);
        self.first = rest;
        self.left = self.left.saturating_sub(piece.work());
        Some(piece)
    }
}

impl<'a> Product<'a> {
    /// Returns the work in bytes of weights times rows of activations.
    fn work(&self) -> usize {
        self.weights.as_bytes().len().saturating_mul(self.y.nrows())
    }

    fn reborrow(&mut self) -> Product<'_> {
        let Self { isa, weights, x, bias, ref mut y } = *self;
        Product { isa, weights, x, bias, y: y.view_mut() }
    }

    /// Splits off the first panels, about `size` work; also returns the product of the other
    /// panels, if there are any.
    fn split(self, size: usize) -> (Self, Option<Self>) {
        let panels = self.weights.panel_count();
        let work_per_panel = (self.work() / panels.max(1)).max(1);
        let middle = size.div_ceil(work_per_panel);
        if middle >= panels {
            return (self, None);
        }
        let Self { isa, weights, x, bias, y } = self;
        let (y, other_y) = y.split_at(Axis(1), middle * PANEL_ROWS);
        let (bias, other_bias) = bias.map(|bias| bias.split_at(middle * PANEL_ROWS)).unzip();
        let others = Self { isa, weights: weights.panels(middle..panels), x, bias: other_bias, y: other_y };
        (Self { isa, weights: weights.panels(0..middle), x, bias, y }, Some(others))
    }

    /// Computes the product on this thread, a tile at a time.
    fn run(&mut self, tile: &mut Tile) -> Result<(), ShapeError> {
        if self.y.is_empty() {
            return Ok(());
        }
        let rows_at_once = self.y.nrows().min(TILE);
        let panels_at_once = TILE / rows_at_once;
        let panel_count = self.weights.panel_count();
        // Rows are the outer loop: those of a tile stay in the L2 cache while all panels pass.
        for (i, mut y) in self.y.axis_chunks_iter_mut(Axis(0), rows_at_once).enumerate() {
            let rows = y.nrows();
            let x = self.x.range(i * rows_at_once..i * rows_at_once + rows);
            for panel in (0..panel_count).step_by(panels_at_once) {
                let panels = panel..panel_count.min(panel + panels_at_once);
                let weights = self.weights.panels(panels.clone());
                let column = panel * PANEL_ROWS;
                let bias = self.bias.map(|bias| &bias[column..][..weights.rows()]);
                let tile = &mut tile.0[..rows * panels.len()];
                match (weights, x) {
                    (Weight::Packed(weights), Rows::Quantized(x)) => kernels::multiply(self.isa, weights, x, tile)?,
                    (Weight::Packed(weights), Rows::Exact(x, _)) => {
                        kernels::multiply_exact(self.isa, weights, x, rows, tile)?;
                    }
                    (Weight::Plain(weights), Rows::Exact(x, _)) => {
                        kernels::multiply_plain(self.isa, weights, x, rows, tile)?;
                    }
                    (Weight::Plain(_), Rows::Quantized(_)) => unreachable!("`Linear::is_exact` decides for both"),
                }
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
}
