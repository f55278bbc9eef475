//! Splits products, and other work on rows, over the threads of rayon's current pool. The only module that knows threads.
//!
//! A *region* is one call of [`multiply`]: a queue of products, from whose front threads take pieces of consecutive panels, large ones first and
//! smaller ones towards the end. Whoever asked takes pieces at once and never waits for a thread that has not come: the queue is empty when such a
//! thread comes at last. So a region costs little, and a thread that is held up holds up one piece. `docs/kernels.md` has the figures, and
//! what did not help.

use std::cell::Cell;
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kernels::panel::PANEL_ROWS;
use kernels::{Activations, ActivationsRef, Isa, ShapeError};
use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

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

/// Bytes of weights times rows of activations for which it pays to ask another thread: some ten microseconds of work, because a thread that
/// is asleep costs as much to wake.
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

/// How long a thread that is kept awake waits for the next product.
const PATIENCE: Duration = Duration::from_micros(500);

thread_local! {
    /// Whether this thread is in a region, or kept awake.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Sets [`BUSY`] while it lives.
struct Busy(bool);

impl Busy {
    fn new() -> Self {
        Self(BUSY.replace(true))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(self.0);
    }
}

/// Runs `work` on this thread and keeps the other threads of rayon's current pool awake meanwhile, so that they come at once to its products.
///
/// Rayon's threads fall asleep some 25 µs after the last product; to wake one takes some 15 µs of the caller's time, and it comes 50 µs late.
/// Wrap the computation of one token, where other work lies between products. Threads that wait give way to other processes, take on any other
/// work of the pool, and fall asleep when there was none for half a millisecond: what lasts longer belongs outside. Results are the same
/// without; in a pool of one thread nothing happens.
///
/// ```
/// let token = qruntime::keep_awake(|| { /* layers, attention, more layers */ 42 });
/// assert_eq!(token, 42);
/// ```
pub fn keep_awake<R>(work: impl FnOnce() -> R) -> R {
    struct Over(Arc<AtomicBool>);
    impl Drop for Over {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    if rayon::current_num_threads() == 1 {
        return work();
    }
    let (over, caller) = (Over(Arc::default()), rayon::current_thread_index());
    let seen = Arc::clone(&over.0);
    // Nobody waits for these: a thread that comes too late finds that all is over.
    rayon::spawn_broadcast(move |thread| {
        // A thread that waits within a region, or in such a loop already, takes on any job: it must not stay in this one.
        if Some(thread.index()) == caller || BUSY.get() {
            return;
        }
        let _busy = Busy::new();
        let mut idle = Instant::now();
        while !seen.load(Ordering::Relaxed) && idle.elapsed() < PATIENCE {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => idle = Instant::now(),
                _ => std::thread::yield_now(),
            }
        }
    });
    work()
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
    let parts: Vec<_> = to.parts(x, cols, groups, rows_per_task)?.collect();
    parts.into_par_iter().for_each(|part| part.quantize(isa));
    Ok(())
}

/// Runs `work` on a thread of rayon's current pool. From outside every region would have to be handed over to it; so all is, once.
pub(crate) fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() || rayon::current_num_threads() == 1 {
        return work();
    }
    rayon::scope(|_| work())
}

/// How many threads are worth asking for some work, in bytes of packed weights times rows.
pub(crate) fn threads(work: usize) -> usize {
    rayon::current_num_threads().min(work / WORK_PER_THREAD).max(1)
}

/// Does `work` on rows, each of which costs `cost`, in bytes of packed weights: a few at a time, on as many threads as that is worth.
pub(crate) fn rows<T: Send>(cost: usize, rows: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    match threads(cost.saturating_mul(rows.len())) {
        1 => rows.for_each(work),
        threads => each::<ROWS, _, _>(rows, &mut vec![(); threads], |row, ()| work(row)),
    }
}

/// Rows that are taken together: each costs a microsecond or so.
const ROWS: usize = 16;

/// Does `work` on items, `N` at a time, on as many threads as there are `scratch`es, each with its own.
pub(crate) fn each<const N: usize, T: Send, S: Send>(
    items: impl Iterator<Item = T> + Send,
    scratch: &mut [S],
    work: impl Fn(T, &mut S) + Sync,
) {
    match scratch {
        [] => {}
        [scratch] => items.for_each(|item| work(item, scratch)),
        scratch => take_each::<N, _, _>(&Mutex::new(items.fuse()), scratch, &work),
    }
}

fn take_each<const N: usize, T: Send, S: Send>(
    items: &Mutex<impl Iterator<Item = T> + Send>,
    scratch: &mut [S],
    work: &(impl Fn(T, &mut S) + Sync),
) {
    let _busy = Busy::new();
    if let [scratch] = scratch {
        let take = || {
            let mut items = items.lock().expect("nothing panics that holds it");
            std::array::from_fn::<_, N, _>(|_| items.next())
        };
        loop {
            let taken = take();
            if taken.iter().all(Option::is_none) {
                return;
            }
            taken.into_iter().flatten().for_each(|item| work(item, scratch));
        }
    }
    let (here, there) = scratch.split_at_mut(scratch.len().div_ceil(2));
    rayon::join(|| take_each::<N, _, _>(items, here, work), || take_each::<N, _, _>(items, there, work));
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
    let queue = Queue { products: products.iter_mut(), first: None, left, threads };
    run(&Mutex::new(queue), threads)
}

/// Takes pieces until there are none, on this thread and on as many others as come.
fn run(queue: &Mutex<Queue<'_, '_>>, threads: usize) -> Result<(), ShapeError> {
    let _busy = Busy::new();
    if threads > 1 {
        let (here, there) = rayon::join(|| run(queue, threads - threads / 2), || run(queue, threads / 2));
        return here.and(there);
    }
    let take = || queue.lock().expect("nothing panics that holds it").take();
    let mut tile = Tile::new();
    while let Some(mut piece) = take() {
        piece.run(&mut tile)?;
    }
    Ok(())
}

/// What is left of the products of a region.
struct Queue<'a, 'p> {
    products: slice::IterMut<'a, Product<'p>>,
    /// The rest of a product that was begun.
    first: Option<Product<'a>>,
    /// Work of both.
    left: usize,
    threads: usize,
}

impl<'a> Queue<'a, '_> {
    /// A piece from the front: half of a thread's share of what is left, so that all come to an end together.
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
