//! What networks consist of, as plain values: a family reads them from `config.json`,
//! [`Decoder`](super::decoder::Decoder) and [`EncoderNetwork`](super::encoder::EncoderNetwork)
//! build from them.

use kernels::Activation;

use super::rope::RopeSpec;

/// A decoder: embedding, layers, norm, output head.
#[derive(Clone, Debug)]
pub(crate) struct DecoderSpec {
    /// Tokens.
    pub(crate) vocabulary: usize,
    /// The hidden size: elements that go from layer to layer.
    pub(crate) hidden: usize,
    /// The longest sequence.
    pub(crate) context: usize,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) norm: NormSpec,
    /// Whether the output head is the embedding.
    pub(crate) tied: bool,
    /// Embeddings are multiplied by this.
    pub(crate) embedding_scale: f32,
    /// Logits are divided by this.
    pub(crate) logits_divisor: f32,
    /// And then capped smoothly to the range from minus to plus this.
    pub(crate) logits_softcap: Option<f32>,
    /// The kinds of positions there are; layers name one by its place.
    pub(crate) ropes: Vec<RopeSpec>,
}

impl DecoderSpec {
    /// Returns how many elements a row takes while it is computed, at most.
    pub(crate) fn row_elements(&self) -> usize {
        let of_mlp = |mlp: &MlpSpec| match mlp {
            MlpSpec::Dense(dense) => 3 * dense.width,
            MlpSpec::Mixture(MixtureSpec { chosen, width, shared, .. }) => {
                chosen.saturating_mul(2 * self.hidden + 3 * width) + shared.map_or(0, |dense| 3 * dense.width)
            }
        };
        let of_layer = |layer: &LayerSpec| 2 * layer.attention.widths().iter().sum::<usize>() + of_mlp(&layer.mlp);
        3 * self.hidden + self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    /// Returns the longest sequence for which no rotation changes.
    pub(crate) fn default_context(&self) -> usize {
        let originals = self.ropes.iter().filter(|rope| rope.long.is_some()).map(|rope| rope.original);
        originals.min().unwrap_or(self.context)
    }
}

/// A layer of a decoder: `x += scale · attention(norm(x))`, `x += scale · mlp(norm(x))`.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: MlpSpec,
    /// Whether what attention and the MLP give is normalized before it is added.
    pub(crate) norms_after: bool,
    pub(crate) residual_scale: f32,
}

/// An RMS norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormSpec {
    /// Added to the mean square.
    pub(crate) eps: f32,
    /// Whether 1 is to be added to the weights.
    pub(crate) plus_one: bool,
}

/// Attention with grouped heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionSpec {
    /// Heads of queries; a multiple of `kv_heads`.
    pub(crate) heads: usize,
    /// Heads of keys and values.
    pub(crate) kv_heads: usize,
    /// The head dimension.
    pub(crate) head_dim: usize,
    /// Scores are multiplied by this.
    pub(crate) scale: f32,
    /// And then capped smoothly to the range from minus to plus this.
    pub(crate) softcap: Option<f32>,
    pub(crate) mask: Mask,
    /// Which of the network's kinds of positions, if queries and keys are rotated.
    pub(crate) rope: Option<usize>,
    /// Whether every head of queries and keys is normalized before it is rotated (`q_norm`,
    /// `k_norm`).
    pub(crate) head_norm: Option<NormSpec>,
    /// Whether one matrix makes queries, keys and values.
    pub(crate) fused: bool,
    pub(crate) inputs_bias: bool,
    pub(crate) output_bias: bool,
}

impl AttentionSpec {
    /// Returns the elements of all queries, keys and values of a row.
    pub(crate) fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }

    /// Returns the bytes of the keys and values of up to 64 positions: they are kept in panels of
    /// so many, of values no less than 16 elements each.
    pub(crate) fn panel_bytes(&self) -> usize {
        const POSITIONS: usize = 64;
        self.kv_heads * 2 * self.head_dim.max(16) * POSITIONS * size_of::<u16>()
    }

    /// Returns how many heads of queries share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Which positions a row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// Its own and all before.
    Causal,
    /// Its own and those before, so many together.
    Window(usize),
    /// All of the sequence.
    Full,
}

/// What follows attention.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MlpSpec {
    Dense(DenseSpec),
    Mixture(MixtureSpec),
}

/// An MLP: `output(f(inputs(x)))`, or gated, `output(f(gate(x)) · up(x))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenseSpec {
    /// Elements between the matrices.
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    pub(crate) gated: bool,
    /// Whether one matrix makes gates and what they are multiplied with.
    pub(crate) fused: bool,
    pub(crate) bias: bool,
}

/// A mixture of gated MLPs, of which each row takes some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MixtureSpec {
    /// How many there are.
    pub(crate) experts: usize,
    /// How many a row takes.
    pub(crate) chosen: usize,
    /// Elements between the matrices.
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    /// Whether the weights of those that a row takes add up to 1.
    pub(crate) normalized: bool,
    /// An MLP that every row takes, weighed by a gate.
    pub(crate) shared: Option<DenseSpec>,
}

/// An encoder: embeddings of tokens and positions, layers of `x = norm(x + attention(x))`,
/// `x = norm(x + mlp(x))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderSpec {
    /// Tokens.
    pub(crate) vocabulary: usize,
    /// The hidden size: elements that go from layer to layer.
    pub(crate) hidden: usize,
    /// The longest sequence.
    pub(crate) positions: usize,
    /// Kinds of tokens, of which the first is used.
    pub(crate) kinds: usize,
    pub(crate) layers: usize,
    /// Of the layer norms.
    pub(crate) eps: f32,
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: DenseSpec,
}

impl EncoderSpec {
    /// Returns how many elements a row takes while it is computed, but for its MLP.
    pub(crate) fn row_elements(&self) -> usize {
        let [queries, keys, values] = self.attention.widths();
        2 * self.hidden + 2 * queries + keys + values
    }
}
