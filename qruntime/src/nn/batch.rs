//! Rows of several sequences that go through a network together, and the caches that they fill.

use kernels::{KvFormat, KvHead};

use super::spec::AttentionSpec;

/// The keys and values of one sequence: the heads of each layer.
#[derive(Clone, Debug)]
pub(crate) struct Cache(Vec<Vec<KvHead>>);

impl Cache {
    /// Makes an empty cache for layers with attention of these shapes.
    pub(crate) fn new<'a>(layers: impl Iterator<Item = &'a AttentionSpec>, format: KvFormat) -> Self {
        let heads = |spec: &AttentionSpec| (0..spec.kv_heads).map(|_| KvHead::new(format, spec.head_dim)).collect();
        Self(layers.map(heads).collect())
    }

    /// Forgets all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.iter_mut().flatten().for_each(|head| head.truncate(len));
    }

    /// Returns the memory of the cache in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().flatten().map(KvHead::bytes).sum()
    }

    /// Returns the heads of a layer.
    pub(crate) fn layer(&mut self, layer: usize) -> &mut [KvHead] {
        &mut self.0[layer]
    }
}

/// Consecutive rows of one sequence.
pub(crate) struct Piece<'a> {
    /// The tokens to embed; empty if rows come from elsewhere.
    pub(crate) tokens: &'a [u32],
    pub(crate) rows: usize,
    /// The position of the first row.
    pub(crate) start: usize,
    /// The maximum length of the sequence.
    pub(crate) context: usize,
    /// The cache, which holds all positions before the first row.
    pub(crate) cache: &'a mut Cache,
}

/// The place of a row in its sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: usize,
    /// The maximum length of the sequence.
    pub(crate) context: usize,
}

/// Returns the places of all rows.
pub(crate) fn places<'a>(pieces: &'a [Piece<'_>]) -> impl Iterator<Item = Place> + 'a {
    pieces.iter().flat_map(|piece| {
        let positions = piece.start..piece.start + piece.rows;
        positions.map(|position| Place { position, context: piece.context })
    })
}
