//! Plain descriptions of networks: a family reads them from `config.json`, and
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
    /// Whether the output head shares the embedding's matrix.
    pub(crate) tied: bool,
    /// The factor of embeddings.
    pub(crate) embedding_scale: f32,
    /// The divisor of logits.
    pub(crate) logits_divisor: f32,
    /// And then capped smoothly to the range from minus to plus this.
    pub(crate) logits_softcap: Option<f32>,
    /// The rotary embeddings; layers refer to one by its index.
    pub(crate) ropes: Vec<RopeSpec>,
}

impl DecoderSpec {
    /// Returns the most scratch elements that a row takes.
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

    /// Returns the longest sequence for which rotations do not change.
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
    /// Whether the outputs of attention and the MLP are normalized before they are added.
    pub(crate) norms_after: bool,
    pub(crate) residual_scale: f32,
}

/// An RMS norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormSpec {
    /// The term added to the mean square.
    pub(crate) eps: f32,
    /// Whether 1 is added to the weights.
    pub(crate) plus_one: bool,
}

/// Attention with grouped heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionSpec {
    /// The number of query heads, a multiple of `kv_heads`.
    pub(crate) heads: usize,
    /// The number of key and value heads.
    pub(crate) kv_heads: usize,
    /// The head dimension.
    pub(crate) head_dim: usize,
    /// The factor of scores.
    pub(crate) scale: f32,
    /// And then capped smoothly to the range from minus to plus this.
    pub(crate) softcap: Option<f32>,
    pub(crate) mask: Mask,
    /// The index of the rotary embedding, if queries and keys are rotated.
    pub(crate) rope: Option<usize>,
    /// The norm of every query and key head before rotation (`q_norm`, `k_norm`), if there is one.
    pub(crate) head_norm: Option<NormSpec>,
    /// Whether queries, keys and values come from one fused matrix.
    pub(crate) fused: bool,
    pub(crate) inputs_bias: bool,
    pub(crate) output_bias: bool,
}

impl AttentionSpec {
    /// Returns the numbers of elements of a row's queries, keys and values.
    pub(crate) fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }

    /// Returns the bytes of the keys and values of up to 64 positions. The cache stores them in
    /// panels of 64 positions; a value takes at least 16 elements.
    pub(crate) fn panel_bytes(&self) -> usize {
        const POSITIONS: usize = 64;
        self.kv_heads * 2 * self.head_dim.max(16) * POSITIONS * size_of::<u16>()
    }

    /// Returns how many query heads share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The positions that a row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// Its own position and all before.
    Causal,
    /// Its own position and those before, this many in total.
    Window(usize),
    /// All positions of the sequence.
    Full,
}

/// The part of a layer that follows attention.
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
    /// Whether gate and up are one fused matrix.
    pub(crate) fused: bool,
    pub(crate) bias: bool,
}

/// A mixture of gated MLPs, of which each row takes a few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MixtureSpec {
    /// The number of experts.
    pub(crate) experts: usize,
    /// The number of experts that a row takes.
    pub(crate) chosen: usize,
    /// Elements between the matrices.
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    /// Whether the weights of a row's experts sum up to 1.
    pub(crate) normalized: bool,
    /// An MLP that every row takes, weighted by a gate.
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
    /// The number of token types, of which the first is used.
    pub(crate) kinds: usize,
    pub(crate) layers: usize,
    /// The term added to the variance in layer norms.
    pub(crate) eps: f32,
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: DenseSpec,
}

impl EncoderSpec {
    /// Returns the scratch elements that a row takes, except in its MLP.
    pub(crate) fn row_elements(&self) -> usize {
        let [queries, keys, values] = self.attention.widths();
        2 * self.hidden + 2 * queries + keys + values
    }
}
