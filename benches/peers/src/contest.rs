//! What contestants multiply, how they take turns, and how it is checked that they are right.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cpu_time::ProcessTime;
use ndarray::{Array2, Axis};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal, StudentT};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Copies of a matrix are at least this many bytes together: several times the last-level cache of
/// a large server core complex.
const COLD_BYTES: usize = 256 << 20;

/// How long a contestant runs before it is another's turn, at least: long beside what the clocks
/// resolve.
const TURN: Duration = Duration::from_millis(20);

/// Rounds for a median, unless they take far more than the time that was given.
const ROUNDS: usize = 7;

/// Rows of activations on which products are checked.
const CHECKED: usize = 8;

/// What 8-bit activations may cost, and no right product exceeds: a wrong scale or a swapped code
/// is far above.
const ARITHMETIC_ERROR: f64 = 0.02;

/// A matrix and activations, the same for all contestants.
pub(crate) struct Problem {
    /// Student's t with 6 degrees of freedom: tails as heavy as those of trained weights. (outputs,
    /// inputs)
    pub(crate) weights: Array2<f32>,
    /// Normally distributed. (rows, inputs)
    pub(crate) x: Array2<f32>,
}

impl Problem {
    /// Seeded numbers.
    pub(crate) fn new(outputs: usize, inputs: usize, rows: usize) -> Result<Self> {
        let mut random = Pcg64::seed_from_u64(1);
        let tails = StudentT::new(6.0)?;
        let weights = Array2::from_shape_simple_fn((outputs, inputs), || 0.02 * tails.sample(&mut random));
        let x = Array2::from_shape_simple_fn((rows, inputs), || StandardNormal.sample(&mut random));
        Ok(Self { weights, x })
    }

    /// The weights, row by row.
    pub(crate) fn weights(&self) -> &[f32] {
        self.weights.as_slice().expect("a new array is contiguous")
    }

    /// The first rows of the activations.
    pub(crate) fn x(&self, rows: usize) -> &[f32] {
        &self.x.as_slice().expect("a new array is contiguous")[..rows * self.x.ncols()]
    }
}

/// Copies that take turns, so that none is found in a cache.
#[derive(Clone)]
pub(crate) struct Turns<T> {
    copies: Vec<T>,
    next: usize,
}

impl<T> Turns<T> {
    /// Those.
    pub(crate) fn new(copies: Vec<T>) -> Self {
        Self { copies, next: 0 }
    }

    /// As many as are needed of `bytes` each.
    pub(crate) fn cold(bytes: usize, copy: impl FnMut() -> T) -> Self {
        Self::new(std::iter::repeat_with(copy).take(Self::cold_count(bytes)).collect())
    }

    /// How many those are.
    pub(crate) fn cold_count(bytes: usize) -> usize {
        COLD_BYTES.div_ceil(bytes)
    }

    /// The copy that was used longest ago.
    pub(crate) fn turn(&mut self) -> &T {
        self.next = (self.next + 1) % self.copies.len();
        &self.copies[self.next]
    }

    /// One of them.
    pub(crate) fn first(&self) -> &T {
        &self.copies[0]
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[T] {
        &self.copies
    }
}

/// Somebody's product of activations with a matrix in their layout.
pub(crate) trait Contestant {
    /// Who.
    fn name(&self) -> String;

    /// Makes everything ready for so many rows of activations.
    fn prepare(&mut self, problem: &Problem, rows: usize) -> Result<()>;

    /// Multiplies with the next copy of the matrix: what is timed.
    fn multiply(&mut self) -> Result<()>;

    /// What came out. (rows, outputs)
    fn product(&self) -> Result<Array2<f32>>;

    /// The weights as their format has them.
    fn weights(&self) -> Result<Array2<f32>>;
}

/// Reads the bytes of a matrix, and no more: the limit for one row of activations.
pub(crate) struct PlainRead(Turns<Vec<u8>>);

impl PlainRead {
    /// Of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Turns::cold(bytes, || vec![1; bytes]))
    }

    fn read(&mut self) {
        let bytes = self.0.turn();
        let parts = bytes.par_chunks(bytes.len().div_ceil(rayon::current_num_threads()));
        parts.for_each(|part| kernels::peak::read(kernels::Isa::best(), part));
    }
}

/// What one contestant did.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    /// The format of the weights.
    pub(crate) format: String,
    /// Who.
    pub(crate) contestant: String,
    /// Whether it is ours.
    pub(crate) ours: bool,
    /// Rows of the matrix.
    pub(crate) outputs: usize,
    /// Its columns.
    pub(crate) inputs: usize,
    /// Its bytes in the format.
    pub(crate) bytes: usize,
    /// Rows of activations.
    pub(crate) rows: usize,
    /// Threads that everybody had.
    pub(crate) threads: usize,
    /// Rounds that the medians are of.
    pub(crate) rounds: usize,
    /// Seconds of a product by the clock on the wall.
    pub(crate) wall: f64,
    /// Seconds of processor time, of all threads of the process together.
    pub(crate) cpu: f64,
    /// Relative RMS error beside the product in binary64 with the weights as they were.
    pub(crate) error: Option<f64>,
    /// The same beside the product with the weights of the format: what the arithmetic costs.
    pub(crate) arithmetic_error: Option<f64>,
}

/// Contestants, and what the group of them multiplies.
pub(crate) struct Group<'a> {
    /// Name of the format.
    pub(crate) format: &'a str,
    /// Bytes of the matrix.
    pub(crate) bytes: usize,
    /// Ours first, if it takes part.
    pub(crate) contestants: Vec<Box<dyn Contestant>>,
    /// Whether it does.
    pub(crate) ours: bool,
}

impl Group<'_> {
    /// Lets everybody multiply in turn, for each number of rows.
    pub(crate) fn measure(&mut self, problem: &Problem, rows: &[usize], budget: Duration) -> Result<Vec<Measured>> {
        let weights: Vec<_> = self.contestants.iter().map(|c| c.weights()).collect::<Result<_>>()?;
        let mut read = PlainRead::new(self.bytes);
        let mut measured = Vec::new();
        for &rows in rows {
            for contestant in &mut self.contestants {
                contestant.prepare(problem, rows)?;
            }
            let mut runs: Vec<Box<dyn FnMut() -> Result<()> + '_>> = Vec::new();
            for contestant in &mut self.contestants {
                runs.push(Box::new(|| contestant.multiply()));
            }
            if rows == 1 {
                runs.push(Box::new(|| {
                    read.read();
                    Ok(())
                }));
            }
            let (times, rounds) = take_turns(&mut runs, budget)?;
            drop(runs);
            let mut errors = Vec::new();
            for (contestant, weights) in self.contestants.iter().zip(&weights) {
                let product = contestant.product()?;
                let (error, arithmetic) = errors_of(problem, weights, &product)
                    .with_context(|| format!("{}, {}", contestant.name(), self.format))?;
                errors.push((contestant.name(), Some(error), Some(arithmetic)));
            }
            errors.push(("a plain read of the bytes".into(), None, None));
            for (i, ((contestant, error, arithmetic_error), time)) in errors.into_iter().zip(times).enumerate() {
                measured.push(Measured {
                    format: self.format.into(),
                    contestant,
                    ours: self.ours && i == 0,
                    outputs: problem.weights.nrows(),
                    inputs: problem.weights.ncols(),
                    bytes: self.bytes,
                    rows,
                    threads: rayon::current_num_threads(),
                    rounds,
                    wall: time.wall,
                    cpu: time.cpu,
                    error,
                    arithmetic_error,
                });
            }
        }
        Ok(measured)
    }
}

/// Relative RMS errors of some rows of a product: beside the weights as they were, and as the
/// format has them.
fn errors_of(problem: &Problem, weights: &Array2<f32>, product: &Array2<f32>) -> Result<(f64, f64)> {
    let rows = product.nrows();
    let sample: Vec<usize> = (0..rows.min(CHECKED)).map(|i| i * rows / rows.min(CHECKED)).collect();
    let x = problem.x.select(Axis(0), &sample).mapv(f64::from);
    let exact = |weights: &Array2<f32>| {
        let outputs: Vec<_> = (0..weights.nrows()).collect();
        let columns: Vec<_> = outputs.par_iter().map(|&i| x.dot(&weights.row(i).mapv(f64::from))).collect();
        Array2::from_shape_fn((sample.len(), columns.len()), |(row, output)| columns[output][row])
    };
    let (original, quantized) = (exact(&problem.weights), exact(weights));
    let product = product.select(Axis(0), &sample).mapv(f64::from);
    let square = |array: Array2<f64>| array.iter().map(|x| x * x).sum::<f64>();
    let signal = square(original.clone());
    let [error, arithmetic] = [original, quantized].map(|exact| (square(&product - &exact) / signal).sqrt());
    ensure!(arithmetic < ARITHMETIC_ERROR, "a wrong product: {arithmetic} from the one with the same weights");
    Ok((error, arithmetic))
}

/// Medians of a product's times, in seconds.
struct Times {
    wall: f64,
    cpu: f64,
}

/// Lets all run in turn until the time is spent. Each round begins with another one, and each turn
/// with a product that does not count.
fn take_turns(runs: &mut [Box<dyn FnMut() -> Result<()> + '_>], budget: Duration) -> Result<(Vec<Times>, usize)> {
    let mut repeats = Vec::new();
    for run in runs.iter_mut() {
        run()?;
        let start = Instant::now();
        run()?;
        let once = start.elapsed().max(Duration::from_nanos(1));
        repeats.push(TURN.as_nanos().div_ceil(once.as_nanos()) as u32);
    }
    let threads = rayon::current_num_threads();
    let mut times = vec![(Vec::new(), Vec::new()); runs.len()];
    let cores = std::thread::available_parallelism()?.get();
    let (start, mut rounds) = (Instant::now(), 0);
    while (rounds < ROUNDS && start.elapsed() < 8 * budget) || start.elapsed() < budget || rounds < 3 {
        for turn in 0..runs.len() {
            let i = (turn + rounds) % runs.len();
            if threads > 1 {
                // Threads of the one before may still be waiting for more work, at full speed.
                std::thread::sleep(TURN);
            }
            runs[i]()?;
            let (wall, cpu) = (Instant::now(), ProcessTime::now());
            for _ in 0..repeats[i] {
                runs[i]()?;
            }
            let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
            // Where there are no more cores than threads, what is more is the clocks'.
            ensure!(cores <= threads || cpu < 1.1 * wall * threads as f64, "more than {threads} threads were at work");
            times[i].0.push(wall / f64::from(repeats[i]));
            times[i].1.push(cpu / f64::from(repeats[i]));
        }
        rounds += 1;
    }
    let medians = times.into_iter().map(|(wall, cpu)| Times { wall: median(wall), cpu: median(cpu) }).collect();
    Ok((medians, rounds))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}
