//! Measures a machine: what it can do, and how near products come to it, each format beside its
//! error on the same weights.
//!
//! Everything that is compared takes turns in one race, the limit too. Each contestant's weights
//! have gone from the caches when its turn comes again, because those of the others, and copies of
//! its own, passed through them meanwhile.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kernels::{Format, Isa};
use qruntime::Pages;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Serialize, Serializer};

use crate::error::{Context, ErrorKind, Result, bail, ensure};
use crate::machine::Machine;
use crate::output::{Output, Panels};
use crate::plan::{Action, Plan, Request};
use crate::report::quoted;
use crate::round;
use crate::source::{Source, TensorInfo};

mod baseline;
mod limits;
mod products;

pub use baseline::{Baseline, Cell, Comparison};
pub use limits::limits;
pub use products::{Products, products};

/// The limit that every race measures anew.
pub(crate) const INTEGER: &str = "integer arithmetic";

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
    let request = Request { to: Format::Q8_0.into(), rules: &[], rounding: round::DEFAULT.name() };
    let plan = Plan::new(source.tensors(), source.companions().model_type(), request, &|t, a| Panels.stored(t, a))?;
    let packed = plan.steps.iter().filter(|tensor| matches!(tensor.action, Action::Pack(_)));
    let matrices: Vec<(usize, &TensorInfo)> =
        packed.map(|tensor| (tensor.tensor, &source.tensors()[tensor.tensor])).collect();
    let total: usize = matrices.iter().map(|(_, matrix)| matrix.elements()).sum();
    ensure!(ErrorKind::Source, total > 0, "{} has no matrices to measure", quoted(source.path()));
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
                ErrorKind::Weights,
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
