//! The products of every format and of `f32`, beside the limits of the machine.

use std::hint::black_box;
use std::sync::{Arc, Mutex};

use kernels::panel::PANEL_ROWS;
use kernels::{Distortion, Format, peak};
use ndarray::{Array2, ArrayView2, Axis, s};
use qruntime::{Bytes, Linear, SharedWeight, Workspace};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::limits::{Peak, read};
use super::{Options, Pools, Prediction, Row, Size, Speed};
use crate::error::{Context, ErrorKind, Result};
use crate::machine::Machine;
use crate::measure::{Contestant, Timing, race};
use crate::progress::Progress;
use crate::round::{self, Place};

/// Models whose speed is predicted: numbers of parameters.
const MODELS: [f64; 3] = [1e9, 7e9, 70e9];

/// Beyond this multiple of a limit no product can be: other work disturbed the limit, the product
/// or both.
const DISTURBED: f64 = 1.15;

/// A matrix in some format, as often as it must be to come from memory.
struct Packed {
    format: Format,
    distortion: Distortion,
    matrix_bytes: usize,
    copies: Arc<Bytes>,
}

impl Packed {
    /// Packs a matrix, and copies it until there are `bytes`.
    fn new(options: &Options, format: Format, weights: &[f32], bytes: usize) -> Result<Self> {
        let Size { rows, cols } = options.size;
        let panel_bytes = format.panel_bytes(cols).context(ErrorKind::Resources, "the matrix is too large")?;
        let mut matrix =
            vec![0; format.matrix_bytes(rows, cols).context(ErrorKind::Resources, "the matrix is too large")?];
        let round = round::DEFAULT.tensor("weights", format, cols)?;
        let panels = matrix.par_chunks_exact_mut(panel_bytes).zip(weights.par_chunks(PANEL_ROWS * cols));
        let parts: Vec<Distortion> = panels
            .enumerate()
            .map(|(i, (panel, weights))| {
                let place = Place { matrix: 0, row: i * PANEL_ROWS };
                round.encode(options.isa, place, weights, panel)
            })
            .collect::<Result<_, _>>()
            .with_context(ErrorKind::Weights, || format!("these weights cannot become {format}"))?;
        let mut distortion = Distortion::default();
        parts.into_iter().for_each(|part| distortion += part);
        let copies = matrix.repeat(bytes.div_ceil(matrix.len()).max(1));
        let copies = Bytes::copy(&copies, options.pages).context(ErrorKind::Resources, "not enough memory")?;
        Ok(Self { format, distortion, matrix_bytes: matrix.len(), copies: Arc::new(copies) })
    }

    fn layers(&self, options: &Options) -> Result<Vec<Linear>> {
        let Size { rows, cols } = options.size;
        let layer = |start| {
            let range = start..start + self.matrix_bytes;
            let matrix = SharedWeight::packed(Arc::clone(&self.copies), range, self.format, rows, cols)?;
            Ok(Linear::new(matrix, options.isa).with_exact_activations(options.exact_activations))
        };
        (0..self.copies.len()).step_by(self.matrix_bytes).map(layer).collect()
    }
}

/// Multiplies by an `f32` matrix with `ndarray`, every thread a part of the outputs.
fn multiply_f32(pool: &ThreadPool, weights: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
    pool.install(|| {
        let rows = weights.nrows().div_ceil(rayon::current_num_threads());
        let parts: Vec<ArrayView2<'_, f32>> = weights.axis_chunks_iter(Axis(0), rows).collect();
        parts.into_par_iter().for_each(|weights| {
            if x.nrows() == 1 {
                black_box(weights.dot(&x.row(0)));
            } else {
                black_box(x.dot(&weights.t()));
            }
        });
    });
}

/// The speeds of products.
#[derive(Clone, Debug)]
pub struct Products {
    /// A row for each format, and one for `f32`.
    pub rows: Vec<Row>,
    /// Integer arithmetic in each race, with so many threads, in GOP/s: it should be the same in
    /// all of them.
    pub peaks: Vec<(usize, f64)>,
}

/// Measures the products of all formats and of `f32`.
///
/// # Errors
/// If the weights cannot be packed, or the system refuses the memory.
pub fn products(
    options: &Options,
    pools: &Pools,
    machine: &Machine,
    weights: Vec<f32>,
    progress: &dyn Progress,
) -> Result<Products> {
    let size = options.size;
    let share = options.cold_bytes / options.formats.len().max(1);
    let packed: Vec<Packed> =
        options.formats.iter().map(|&format| Packed::new(options, format, &weights, share)).collect::<Result<_>>()?;
    let weights = Array2::from_shape_vec((size.rows, size.cols), weights).context(ErrorKind::Request, "weights")?;
    let to_read = Bytes::copy(&vec![1; share], options.pages).context(ErrorKind::Resources, "not enough memory")?;
    let integer = Peak::new(options.isa, peak::integer);
    let float = Peak::new(options.isa, peak::float);

    let most = options.rows.iter().copied().max().unwrap_or(1);
    let x = Array2::from_shape_fn((most, size.cols), |(i, j)| ((i * 31 + j * 17) % 63) as f32 / 31.0 - 1.0);
    // One is at work at a time: they share what they write into.
    let outputs = Mutex::new((Workspace::default(), Array2::<f32>::zeros((most, size.rows))));
    let layers: Vec<Vec<Linear>> = packed.iter().map(|packed| packed.layers(options)).collect::<Result<_>>()?;

    let mut rows: Vec<Row> = packed
        .iter()
        .map(|packed| (packed.format.name(), packed.format.bits_per_weight(), packed.distortion.relative_rms()))
        .chain([("f32", 32.0, 0.0)])
        .map(|(format, bits_per_weight, relative_rms)| Row {
            format,
            bits_per_weight,
            relative_rms,
            speeds: vec![],
            models: vec![],
        })
        .collect();
    let mut peaks = vec![];
    for &n in &options.rows {
        progress.advance(1, &format!("products of {n} rows"));
        let x = x.slice(s![..n, ..]);
        let mut contestants = vec![];
        for (_, pool) in pools {
            for layers in &layers {
                let (outputs, mut next) = (&outputs, 0);
                contestants.push(Contestant::new(move || {
                    let (workspace, y) = &mut *outputs.lock().expect("nobody panicked");
                    // One row is so quick that every copy is multiplied; otherwise they take turns.
                    let turn = if n == 1 { &layers[..] } else { &layers[next..=next] };
                    next = (next + 1) % layers.len();
                    pool.install(|| {
                        for layer in turn {
                            layer.forward_into(x, workspace, y.slice_mut(s![..n, ..])).expect("shapes agree");
                        }
                    });
                    black_box(y);
                }));
            }
            let weights = weights.view();
            contestants.push(Contestant::new(move || multiply_f32(pool, weights, x)));
            if n == 1 {
                let bytes = &*to_read;
                contestants.push(Contestant::new(move || read(pool, bytes)));
            } else {
                contestants.extend([&integer, &float].map(|peak| Contestant::new(move || peak.run(pool))));
            }
        }
        let timings = race(&mut contestants, options.budget);
        for (&(threads, _), timings) in pools.iter().zip(timings.chunks(timings.len() / pools.len())) {
            let (timings, limits) = timings.split_at(rows.len());
            let integer_peak = |timing: &Timing| integer.operations() * threads as f64 / timing.seconds;
            if let [whole, _, ..] = limits {
                peaks.push((threads, integer_peak(whole) / 1e9));
            }
            for (i, (row, timing)) in rows.iter_mut().zip(timings).enumerate() {
                let (copies, matrix_bytes) = match packed.get(i) {
                    Some(packed) if n == 1 => (layers[i].len(), packed.matrix_bytes),
                    Some(packed) => (1, packed.matrix_bytes),
                    None => (1, 4 * size.elements()),
                };
                let limit = match limits {
                    [reading] => BestCase::Bytes(to_read.len() as f64 / reading.seconds),
                    [whole, ..] if i < packed.len() && !options.exact_activations => {
                        BestCase::Operations(integer_peak(whole))
                    }
                    [_, real, ..] => BestCase::Operations(float.operations() * threads as f64 / real.seconds),
                    [] => BestCase::Operations(f64::NAN),
                };
                let product = Product { rows: n, threads, copies, matrix_bytes, operations: 2 * n * size.elements() };
                row.speeds.push(product.speed(timing, limit));
            }
        }
    }
    rows.iter_mut().for_each(|row| row.models = predict(row, options, machine));
    Ok(Products { rows, peaks })
}

/// The work of a contestant.
struct Product {
    rows: usize,
    threads: usize,
    /// Matrices that it multiplies one after the other.
    copies: usize,
    matrix_bytes: usize,
    /// Operations for one matrix.
    operations: usize,
}

/// The most that a machine could do in a second.
enum BestCase {
    Bytes(f64),
    Operations(f64),
}

impl Product {
    /// Returns the speed beside its limit in the same race.
    fn speed(&self, timing: &Timing, limit: BestCase) -> Speed {
        let seconds = timing.seconds / self.copies as f64;
        let bytes_per_second = self.matrix_bytes as f64 / seconds;
        let operations_per_second = self.operations as f64 / seconds;
        let of_limit = match limit {
            BestCase::Bytes(most) => bytes_per_second / most,
            BestCase::Operations(most) => operations_per_second / most,
        };
        Speed {
            rows: self.rows,
            threads: self.threads,
            seconds,
            rounds: timing.rounds,
            spread: timing.spread,
            gigabytes_per_second: bytes_per_second / 1e9,
            gigaops_per_second: operations_per_second / 1e9,
            of_limit,
            disturbed: of_limit > DISTURBED,
        }
    }
}

/// Predicts the most that models of a format can reach.
fn predict(row: &Row, options: &Options, machine: &Machine) -> Vec<Prediction> {
    let threads = options.threads.iter().copied().max().unwrap_or(1);
    let Some(one) = row.speed(1, threads) else { return vec![] };
    let prompt = options.rows.iter().copied().filter(|&rows| rows > 1).max();
    let prompt = prompt.and_then(|rows| row.speed(rows, threads));
    let predict = |parameters| {
        let bytes = parameters * row.bits_per_weight / 8.0;
        Prediction {
            parameters,
            bytes,
            fits: machine.memory_bytes.map(|memory| bytes < memory as f64),
            tokens_per_second: 1e9 * one.gigabytes_per_second / bytes,
            prompt_tokens_per_second: prompt.map(|speed| 1e9 * speed.gigaops_per_second / (2.0 * parameters)),
        }
    };
    MODELS.map(predict).to_vec()
}
