//! Rotary embeddings (Su et al., 2021): angles of positions, and their cosines and sines.

use std::sync::OnceLock;

use kernels::Isa;

/// A rotary embedding of queries and keys.
#[derive(Clone, Debug)]
pub(crate) struct RopeSpec {
    /// Radians from one position to the next, for each pair of elements.
    pub(crate) frequencies: Vec<f32>,
    /// The frequencies for sequences that may become longer than `original`, if they differ.
    pub(crate) long: Option<Vec<f32>>,
    /// The longest sequence of the original training.
    pub(crate) original: usize,
    /// The factor of cosines and sines.
    pub(crate) scale: f32,
    /// The longest sequence that the frequencies are made for.
    pub(crate) reach: usize,
    /// The base of the frequencies.
    pub(crate) theta: f64,
    /// How the frequencies differ from the powers of the base.
    pub(crate) scaling: Scaling,
}

/// How the frequencies of a rotary embedding were scaled.
#[derive(Clone, Debug)]
pub(crate) enum Scaling {
    None,
    /// All were divided by a factor.
    Linear(f64),
    /// Each was divided by its own factor.
    Single(Vec<f64>),
    /// YaRN (Peng et al., 2023).
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        truncate: bool,
    },
    /// LongRoPE (Ding et al., 2024): the factors for short and for long sequences.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
    },
}

/// A lazily computed table of the cosines and sines of all positions.
pub(crate) struct Rope {
    isa: Isa,
    original: usize,
    short: Table,
    long: Option<Table>,
}

impl Rope {
    /// Makes a table for sequences of up to `context` positions.
    pub(crate) fn new(isa: Isa, spec: &RopeSpec, context: usize) -> Self {
        let table = |frequencies: &Vec<f32>| Table::new(frequencies.clone(), spec.scale, context);
        Self { isa, original: spec.original, short: table(&spec.frequencies), long: spec.long.as_ref().map(table) }
    }

    /// Rotates heads of `head_dim` elements at `position` in a sequence that may become `context`
    /// long.
    pub(crate) fn rotate(&self, heads: &mut [f32], head_dim: usize, position: usize, context: usize) {
        let table = match &self.long {
            Some(long) if context > self.original => long,
            _ => &self.short,
        };
        let (cos, sin) = table.at(position);
        for head in heads.chunks_exact_mut(head_dim) {
            kernels::rotate(self.isa, head, cos, sin);
        }
    }
}

/// The number of positions whose cosines and sines are computed together.
const BLOCK: usize = 64;

struct Table {
    frequencies: Vec<f32>,
    scale: f32,
    /// For every position, the cosines and then the sines.
    blocks: Vec<OnceLock<Box<[f32]>>>,
}

impl Table {
    fn new(frequencies: Vec<f32>, scale: f32, context: usize) -> Self {
        Self { frequencies, scale, blocks: (0..context.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect() }
    }

    /// Returns the cosines and sines of a position.
    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let pairs = self.frequencies.len();
        let first = position / BLOCK * BLOCK;
        let block = self.blocks[position / BLOCK].get_or_init(|| self.block(first));
        block[(position - first) * 2 * pairs..][..2 * pairs].split_at(pairs)
    }

    /// Computes a block. Angles are products of `f32`, as in other implementations; apart from
    /// those, only the results are rounded.
    fn block(&self, first: usize) -> Box<[f32]> {
        let mut block = Vec::with_capacity(BLOCK * 2 * self.frequencies.len());
        for position in first..first + BLOCK {
            let angles = || self.frequencies.iter().map(|frequency| f64::from(position as f32 * frequency));
            block.extend(angles().map(|angle| libm::cos(angle) as f32 * self.scale));
            block.extend(angles().map(|angle| libm::sin(angle) as f32 * self.scale));
        }
        block.into()
    }
}
