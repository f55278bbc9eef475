//! Measures a machine: what it can do, and how near products come to it, each format beside its
//! error on the same weights.
//!
//! Everything that is compared takes turns in one race, the limit too. Each contestant's weights
//! have gone from the caches when its turn comes again, because those of the others, and copies of
//! its own, passed through them meanwhile.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kernels::panel::PANEL_ROWS;
use kernels::peak::{self, Chains};
use kernels::{Distortion, Format, Isa};
use ndarray::{Array2, ArrayView2, Axis, s};
use qruntime::{Bytes, Linear, Pages, SharedWeight, Workspace};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Serialize, Serializer};

use crate::error::{Context, ErrorKind, Result, bail, ensure};
use crate::machine::Machine;
use crate::measure::{Contestant, Timing, race, read_all};
use crate::output::{Output, Panels};
use crate::plan::{Action, Plan, Request};
use crate::progress::Progress;
use crate::report::quoted;
use crate::round;
use crate::source::{Source, TensorInfo};

mod baseline;

pub use baseline::{Baseline, Cell, Comparison};

/// Seconds that a piece of arithmetic alone lasts.
const PEAK_SECONDS: f64 = 0.002;

/// The limit that every race measures anew.
pub(crate) const INTEGER: &str = "integer arithmetic";

/// Models whose speed is predicted: numbers of parameters.
const MODELS: [f64; 3] = [1e9, 7e9, 70e9];

/// Beyond this multiple of a limit no product can be: other work disturbed the limit, the product
/// or both.
const DISTURBED: f64 = 1.15;

/// Rows and columns of a matrix of weights: outputs and inputs of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl Size {
    /// Fewest rows and columns, and most of a square.
    const LEAST: usize = 32;
    const MOST: usize = 16384;

    /// A matrix with as many rows as columns.
    #[must_use]
    pub fn square(n: usize) -> Self {
        Self { rows: n, cols: n }
    }

    /// Weights.
    #[must_use]
    pub fn elements(self) -> usize {
        self.rows * self.cols
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.rows, self.cols].serialize(serializer)
    }
}

impl FromStr for Size {
    type Err = String;

    /// `4096`, `14336x4096`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rows, cols) = text.split_once(['x', 'X']).unwrap_or((text, text));
        let size = rows.trim().parse().ok().zip(cols.trim().parse().ok()).map(|(rows, cols)| Self { rows, cols });
        let fits = |size: &Self| {
            let elements = size.rows.checked_mul(size.cols);
            size.rows.min(size.cols) >= Self::LEAST && elements.is_some_and(|n| n <= Self::MOST * Self::MOST)
        };
        size.filter(fits).ok_or_else(|| {
            let (least, most) = (Self::LEAST, Self::MOST);
            format!(
                "expected N in {least}..={most}, or ROWSxCOLUMNS of {least} or more each and of {most} x {most} \
                 weights in all or fewer"
            )
        })
    }
}

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The formats.
    pub formats: Vec<Format>,
    /// Numbers of activation rows.
    pub rows: Vec<usize>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// The instruction set.
    pub isa: Isa,
    /// Rows and columns of the matrices.
    pub size: Size,
    /// Where the weights lie.
    pub pages: Pages,
    /// Whether activations are multiplied as they are.
    pub exact_activations: bool,
    /// How long each race lasts.
    pub budget: Duration,
    /// Bytes that pass through the caches between two turns of a contestant, about.
    pub cold_bytes: usize,
}

impl Options {
    /// Races, and preparations before them: what progress counts.
    #[must_use]
    pub fn steps(&self) -> usize {
        2 + self.rows.len()
    }
}

/// The speed of one piece of work with so many threads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    /// Rows of activations.
    pub rows: usize,
    /// Threads.
    pub threads: usize,
    /// Median of one product.
    pub seconds: f64,
    /// Rounds that the median is of.
    pub rounds: usize,
    /// Half of the rounds lie within so large a part of the median.
    pub spread: f64,
    /// Bytes of weights per second.
    pub gigabytes_per_second: f64,
    /// Operations per second, two for a multiply-add.
    pub gigaops_per_second: f64,
    /// Share of the limit in the same race: for one row reading, for more rows arithmetic.
    pub of_limit: f64,
    /// Whether that is more than is possible, because other work disturbed the race.
    pub disturbed: bool,
}

/// A format, or `f32`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub format: &'static str,
    /// Bits per weight, scales included.
    pub bits_per_weight: f64,
    /// Relative RMS error of the weights.
    pub relative_rms: f64,
    /// For every number of rows, for every number of threads.
    pub speeds: Vec<Speed>,
    /// The speed that this predicts for models, where one row was measured.
    pub models: Vec<Prediction>,
}

impl Row {
    /// The speed with so many rows and threads.
    #[must_use]
    pub fn speed(&self, rows: usize, threads: usize) -> Option<&Speed> {
        self.speeds.iter().find(|speed| (speed.rows, speed.threads) == (rows, threads))
    }
}

/// The most that a model could reach if it did nothing but multiply by its weights, with all
/// threads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Prediction {
    /// Parameters.
    pub parameters: f64,
    /// Bytes of its weights.
    pub bytes: f64,
    /// Whether these are less than this machine's memory, if that is known.
    pub fits: Option<bool>,
    /// Token generation.
    pub tokens_per_second: f64,
    /// Prompt processing, with the largest number of rows that was measured.
    pub prompt_tokens_per_second: Option<f64>,
}

/// A limit that no product can exceed.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// What was measured.
    pub name: &'static str,
    /// GB/s or GOP/s.
    pub unit: &'static str,
    /// Threads, and what they reached.
    pub speeds: Vec<LimitSpeed>,
}

/// The speed of a limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LimitSpeed {
    /// Threads.
    pub threads: usize,
    /// In the limit's unit.
    pub speed: f64,
    /// Half of the rounds lie within so large a part of the median.
    pub spread: f64,
    /// Rounds that the median is of.
    pub rounds: usize,
}

/// Pools of 1 thread and of more.
pub type Pools = Vec<(usize, ThreadPool)>;

/// Starts the threads.
///
/// # Errors
/// If the system refuses them.
pub fn pools(threads: &[usize]) -> Result<Pools> {
    let pool = |&n: &usize| {
        Ok((n, ThreadPoolBuilder::new().num_threads(n).build().context(ErrorKind::Resources, "cannot start threads")?))
    };
    threads.iter().map(pool).collect()
}

/// Returns the bytes that must pass through the caches to replace all that they held; fewer where
/// they would take much of the memory.
#[must_use]
pub fn cold_bytes(machine: &Machine) -> usize {
    let cold = clearing_bytes(machine).max(128 << 20);
    cold.min(machine.memory_bytes.map_or(u64::MAX, |memory| memory / 8)) as usize
}

/// Returns the bytes that clear the caches, whatever memory there is.
pub(crate) fn clearing_bytes(machine: &Machine) -> u64 {
    4 * machine.cache_bytes
}

/// Seeded, normally distributed weights.
#[must_use]
pub fn normal_weights(size: Size) -> Vec<f32> {
    let mut weights = vec![0.0; size.elements()];
    weights.par_chunks_mut(1 << 16).enumerate().for_each(|(i, weights)| {
        let numbers = StandardNormal.sample_iter(Pcg64::seed_from_u64(i as u64));
        weights.iter_mut().zip(numbers).for_each(|(weight, number)| *weight = number);
    });
    weights
}

/// As many weights from the matrices of a checkpoint: whole rows of each, as many as is its share
/// of them all. What a small model lacks is made up for by repetition.
///
/// # Errors
/// If it cannot be read, has no matrices, or a weight is not finite.
pub fn weights_of(source: &dyn Source, size: Size) -> Result<Vec<f32>> {
    let request = Request { to: Format::Q8_0, rules: &[], rounding: round::DEFAULT.name() };
    let plan = Plan::new(source.tensors(), source.companions().model_type(), request, &|t, a| Panels.stored(t, a))?;
    let packed = plan.steps.iter().filter(|tensor| matches!(tensor.action, Action::Pack(_)));
    let matrices: Vec<(usize, &TensorInfo)> =
        packed.map(|tensor| (tensor.tensor, &source.tensors()[tensor.tensor])).collect();
    let total: usize = matrices.iter().map(|(_, matrix)| matrix.elements()).sum();
    ensure!(ErrorKind::Resources, total > 0, "{} has no matrices to measure", quoted(source.path()));
    let wanted = size.elements();
    let mut weights = Vec::with_capacity(wanted);
    for (index, matrix) in matrices {
        let share = wanted as f64 / total as f64 * matrix.rows() as f64;
        let rows = (share.ceil() as usize).min(matrix.rows());
        // From the middle.
        let first = (matrix.rows() - rows) / 2 * matrix.cols();
        let (from, len) = (weights.len(), (rows * matrix.cols()).min(wanted - weights.len()));
        weights.resize(from + len, 0.0);
        source.read_f32(index, first..first + len, &mut weights[from..])?;
        if let Some(i) = weights[from..].iter().position(|weight| !weight.is_finite()) {
            let (row, col) = ((first + i) / matrix.cols(), (first + i) % matrix.cols());
            bail!(
                ErrorKind::Resources,
                "{}: weight [{row}, {col}] is {}",
                matrix.name().escape_debug(),
                weights[from + i]
            );
        }
    }
    while weights.len() < wanted {
        weights.extend_from_within(..weights.len().min(wanted - weights.len()));
    }
    Ok(weights)
}

/// Arithmetic without memory, for some milliseconds.
struct Peak {
    isa: Isa,
    work: fn(Isa, Chains, usize) -> u64,
    chains: Chains,
    steps: usize,
}

impl Peak {
    fn new(isa: Isa, work: fn(Isa, Chains, usize) -> u64) -> Self {
        const TRIAL: usize = 2000;
        let seconds = |chains| {
            let attempt = |_| {
                let start = Instant::now();
                let operations = work(isa, chains, TRIAL);
                start.elapsed().as_secs_f64() / operations as f64
            };
            (0..10).map(attempt).fold(f64::INFINITY, f64::min)
        };
        let [few, many] = Chains::ALL.map(|chains| (seconds(chains), chains));
        let (seconds, chains) = if few.0 < many.0 { few } else { many };
        let steps = PEAK_SECONDS / (seconds * work(isa, chains, 1) as f64);
        Self { isa, work, chains, steps: steps.ceil() as usize }
    }

    /// Runs on every thread of a pool.
    fn run(&self, pool: &ThreadPool) {
        pool.broadcast(|_| (self.work)(self.isa, self.chains, self.steps));
    }

    /// Returns the operations that every thread has done then.
    fn operations(&self) -> f64 {
        (self.work)(self.isa, self.chains, 1) as f64 * self.steps as f64
    }
}

/// Reads bytes, every thread a part of its own.
fn read(pool: &ThreadPool, bytes: &[u8]) {
    pool.install(|| bytes.par_chunks(bytes.len().div_ceil(rayon::current_num_threads()).max(1)).for_each(read_all));
}

/// Measures reading and arithmetic. `mapped` are the bytes of a mapped file.
///
/// # Errors
/// If the system refuses the memory.
pub fn limits(options: &Options, pools: &Pools, mapped: &[u8]) -> Result<Vec<Limit>> {
    let copy = |pages| Bytes::copy(mapped, pages).context(ErrorKind::Resources, "not enough memory");
    let (small, huge) = (copy(Pages::Small)?, copy(Pages::Huge)?);
    let integer = Peak::new(options.isa, peak::integer);
    let float = Peak::new(options.isa, peak::float);

    let reads = [("read, small pages", &*small), ("read, huge pages", &*huge), ("read, mapped file", mapped)];
    let peaks = [(INTEGER, "GOP/s", &integer), ("f32 arithmetic", "GFLOP/s", &float)];
    let mut contestants = vec![];
    for (_, bytes) in reads {
        contestants.extend(pools.iter().map(|(_, pool)| Contestant::new(move || read(pool, bytes))));
    }
    for (.., peak) in peaks {
        contestants.extend(pools.iter().map(|(_, pool)| Contestant::new(move || peak.run(pool))));
    }
    let timings = race(&mut contestants, options.budget);
    let mut timings = timings.chunks(pools.len());
    let mut limit = |name, unit, work: &dyn Fn(usize) -> f64| {
        let speed = |(&(threads, _), timing): (&(usize, ThreadPool), &Timing)| LimitSpeed {
            threads,
            speed: work(threads) / timing.seconds / 1e9,
            spread: timing.spread,
            rounds: timing.rounds,
        };
        Limit { name, unit, speeds: pools.iter().zip(timings.next().unwrap_or_default()).map(speed).collect() }
    };
    let mut limits = vec![];
    limits.extend(reads.map(|(name, bytes)| limit(name, "GB/s", &|_| bytes.len() as f64)));
    limits.extend(peaks.map(|(name, unit, peak)| limit(name, unit, &|threads| peak.operations() * threads as f64)));
    Ok(limits)
}

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
            .map(|(panel, weights)| round.encode(options.isa, weights, panel))
            .collect::<Result<_, _>>()
            .with_context(ErrorKind::Resources, || format!("these weights cannot become {format}"))?;
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
                let (products, matrix_bytes) = match packed.get(i) {
                    Some(packed) if n == 1 => (layers[i].len(), packed.matrix_bytes),
                    Some(packed) => (1, packed.matrix_bytes),
                    None => (1, 4 * size.elements()),
                };
                let seconds = timing.seconds / products as f64;
                let bytes_per_second = matrix_bytes as f64 / seconds;
                let operations_per_second = 2.0 * (n * size.elements()) as f64 / seconds;
                let of_limit = match limits {
                    [reading] => bytes_per_second / (to_read.len() as f64 / reading.seconds),
                    [whole, real, ..] => {
                        let rounded = i < packed.len() && !options.exact_activations;
                        let float_peak = || float.operations() * threads as f64 / real.seconds;
                        operations_per_second / if rounded { integer_peak(whole) } else { float_peak() }
                    }
                    [] => f64::NAN,
                };
                row.speeds.push(Speed {
                    rows: n,
                    threads,
                    seconds,
                    rounds: timing.rounds,
                    spread: timing.spread,
                    gigabytes_per_second: bytes_per_second / 1e9,
                    gigaops_per_second: operations_per_second / 1e9,
                    of_limit,
                    disturbed: of_limit > DISTURBED,
                });
            }
        }
    }
    rows.iter_mut().for_each(|row| row.models = predict(row, options, machine));
    Ok(Products { rows, peaks })
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
