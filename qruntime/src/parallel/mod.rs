//! Splits products, and other work on rows, over the threads of rayon's current pool. The only
//! module that knows threads.
//!
//! A *region* is one call of [`multiply`]: a queue of products, from whose front threads take
//! pieces of consecutive panels, large ones first and smaller ones towards the end. The caller
//! takes pieces at once and never waits for a thread that has not come: the queue is empty when
//! such a thread comes at last. So a region costs little, and a thread that is held up holds up one
//! piece. [`crew`] brings the threads and waits for them. `docs/kernels.md` has the figures, and
//! what did not help.

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
    /// In 8 bits.
    Quantized(ActivationsRef<'a>),
    /// Unrounded, of so many columns.
    Exact(&'a [f32], usize),
}

impl Rows<'_> {
    /// Some of the rows; as many as [`TILE`] at a time.
    fn range(self, rows: Range<usize>) -> Self {
        match self {
            Self::Quantized(x) => Self::Quantized(x.range(rows)),
            Self::Exact(x, cols) => Self::Exact(&x[rows.start * cols..rows.end * cols], cols),
        }
    }
}

/// Bytes of weights times rows of activations for which it pays to ask another thread: some ten
/// microseconds of work, because a thread that is asleep costs as much to wake.
const WORK_PER_THREAD: usize = 256 << 10;

/// The least that is worth taking from the queue, in the same unit.
const SMALLEST_PIECE: usize = 128 << 10;

/// What outputs are computed into, on the stack, and copied from: this many panel rows.
struct Tile([[f32; PANEL_ROWS]; TILE]);

const TILE: usize = 64;

impl Tile {
    fn new() -> Self {
        Self([[0.0; PANEL_ROWS]; TILE])
    }
}

/// Quantizes rows of `cols` activations in groups. One row never costs a region of its own.
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
    // A row is a microsecond or less: many of them make a task.
    let rows_per_task = (SMALLEST_PIECE / size_of::<f32>()).div_ceil(cols);
    let parts = to.parts(x, cols, groups, rows_per_task)?;
    let threads = threads(size_of_val(x));
    each::<1, _, _>(parts, &mut vec![(); threads], |part, ()| part.quantize(isa));
    Ok(())
}

/// How many threads are worth asking for some work, in bytes of packed weights times rows.
pub(crate) fn threads(work: usize) -> usize {
    rayon::current_num_threads().min(work / WORK_PER_THREAD).max(1)
}

/// Does `work` on rows, each of which costs `cost`, in bytes of packed weights: a few at a time, on
/// as many threads as that is worth.
pub(crate) fn rows<T: Send>(cost: usize, rows: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    match threads(cost.saturating_mul(rows.len())) {
        1 => rows.for_each(work),
        threads => each::<ROWS, _, _>(rows, &mut vec![(); threads], |row, ()| work(row)),
    }
}

/// Rows that are taken together: each costs a microsecond or so.
const ROWS: usize = 16;

/// Does `work` on items, `N` at a time, on as many threads as there are `scratch`es, each with its
/// own.
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

/// Locks a queue. Taking from one does not panic halfway.
fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One product of a region: `y = x·weightsᵀ + bias`.
///
/// `y` has a row for each row of `x` and a column for each row of `weights`.
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
        // The lock is free again before a piece is computed.
        while let Some(mut piece) = { lock(&queue).take() } {
            if let Err(error) = piece.run(&mut tile) {
                lock(&queue).failed = Some(error);
            }
        }
    });
    queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

/// What is left of the products of a region.
struct Queue<'a, 'p> {
    products: slice::IterMut<'a, Product<'p>>,
    /// The rest of a product that was begun.
    first: Option<Product<'a>>,
    /// Work of both.
    left: usize,
    threads: usize,
    failed: Option<ShapeError>,
}

impl<'a> Queue<'a, '_> {
    /// A piece from the front: half of a thread's share of what is left, so that all come to an end
    /// together.
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
    /// Bytes of weights times rows of activations.
    fn work(&self) -> usize {
        self.weights.as_bytes().len().saturating_mul(self.y.nrows())
    }

    fn reborrow(&mut self) -> Product<'_> {
        let Self { isa, weights, x, bias, ref mut y } = *self;
        Product { isa, weights, x, bias, y: y.view_mut() }
    }

    /// The product of the first panels, about `size` work, and that of the others if there are any.
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
        // Rows outside: those of a tile stay in the second cache while all panels go by.
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
