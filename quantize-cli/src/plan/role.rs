//! The role of a tensor in its network, by its name and shape: what becomes of it depends on that,
//! not on which family of networks it is from.
//!
//! Names are those of PyTorch modules as Hugging Face's checkpoints have them,
//! `scope.module.weight`. What a family that runs calls its tensors is in [`qruntime::names`]; the
//! tables here are for all others, which call the same thing by many names. Where a name does not
//! tell how a matrix lies, its bias or the other half of its network does.

use std::collections::HashMap;

use qruntime::names::{Names, Part};
use qruntime::{Dtype, names_of};

/// The role of a tensor in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The matrix of a layer, outputs x inputs.
    Linear,
    /// The matrices of a mixture's experts, each outputs x inputs.
    Experts,
    /// A matrix, or one for each expert, stored as inputs x outputs.
    Transposed,
    /// Decides between experts.
    Router,
    /// A row for every token of the vocabulary: looked up, multiplied for the logits, or both.
    Embedding,
    /// Added for the position or the segment of a token.
    Positions,
    /// Scales or shifts a row.
    Norm,
    /// Added to the outputs of a layer.
    Bias,
    /// The kernel of a convolution.
    Convolution,
    /// Parameters of a recurrence: decays, time steps.
    State,
    /// A parameter that is no layer's weight: learned tokens, projections applied from the other
    /// side.
    Parameter,
    /// Masks added to scores, where infinity means "not seen".
    Mask,
    /// A vector or a scalar.
    Vector,
    /// A matrix too small for blocks.
    Tiny,
    /// Integers and booleans.
    Integer,
}

/// Rows and columns from which on a matrix is worth blocks.
const LEAST: [usize; 2] = [16, 32];

/// Experts that a mixture has at most: a `gate` of more outputs is the gate of a feed-forward
/// network.
const MOST_EXPERTS: usize = 1024;

/// Modules that decide between experts, wherever they stand.
const ROUTERS: &[&str] = &["gate", "router", "shared_expert_gate", "expert_gate", "moe_gate"];

/// Modules that do so within a `router`.
const ROUTER_LAYERS: &[&str] = &["layer", "proj", "classifier", "linear", "dense"];

/// Modules whose rows are tokens, where no other word of the name says so.
const VOCABULARIES: &[&str] = &["wte", "lm_head", "embed_out", "tokens_embed", "token_embd", "output_layer", "lm_loss"];

/// The same, only at the top of a network: below, these words mean other things.
const TOP_VOCABULARIES: &[&str] = &["shared", "output", "head", "proj_out"];

/// Modules whose rows are tokens within an `lm_head`.
const HEAD_LAYERS: &[&str] = &["decoder", "linear", "out_proj"];

/// Matrices of outputs x inputs whose names have no dot before "weight": those of PyTorch's
/// `MultiheadAttention`.
const ATTENTION_WEIGHTS: &[&str] = &["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"];

/// Parameters of recurrences: Mamba, gated delta nets, RWKV, RG-LRU.
const STATES: &[&str] = &["A_log", "A", "D", "dt_bias", "recurrent_param", "A_logs", "Ds"];

/// Layers that GPT-2 and its kin store as inputs x outputs.
const CONV1D: &[&str] = &["c_attn", "c_fc", "c_proj", "q_attn"];

/// Halves of experts that lie in a mixture's own module, as Granite's and JetMoE's do.
const PARALLEL: [&str; 2] = ["input_linear", "output_linear"];

/// The two halves of experts that are stored together, by the ends of their names.
const HALVES: &[[&str; 2]] = &[
    ["gate_up_proj", "down_proj"],
    ["up_proj", "down_proj"],
    ["gate_proj", "down_proj"],
    PARALLEL,
    ["fc1", "fc2"],
    ["w13", "w2"],
    ["w1", "w2"],
];

/// What a role's tensors become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Packed in the format that was asked for.
    Packed,
    /// The same, but in no fewer bits than `q8_0` has: every token passes through one row alone.
    PackedFinely,
    /// Kept as it is.
    Kept,
}

impl Role {
    /// What its tensors become where no rule says otherwise, and why.
    #[must_use]
    pub fn fate(self) -> (Fate, &'static str) {
        match self {
            Self::Linear => (Fate::Packed, "matrix"),
            Self::Experts => (Fate::Packed, "experts"),
            Self::Embedding => (Fate::PackedFinely, "token embedding or output head"),
            Self::Transposed => (Fate::Kept, "stored as inputs x outputs, and blocks run along inputs"),
            Self::Router => (Fate::Kept, "router: decides between experts, small"),
            Self::Positions => (Fate::Kept, "added to embeddings, small"),
            Self::Norm | Self::Bias => (Fate::Kept, "norm or bias"),
            Self::Convolution => (Fate::Kept, "convolution"),
            Self::State => (Fate::Kept, "parameter of a recurrence"),
            Self::Parameter => (Fate::Kept, "parameter that is no layer's weight"),
            Self::Mask => (Fate::Kept, "mask"),
            Self::Vector => (Fate::Kept, "vector"),
            Self::Tiny => (Fate::Kept, "tiny"),
            Self::Integer => (Fate::Kept, "not a type that can be packed"),
        }
    }

    /// Whether a rule for many tensors packs one of such a shape: it is a matrix of rows that are
    /// outputs, or one for each expert, and large enough for blocks.
    #[must_use]
    pub fn is_packable(self, shape: &[usize]) -> bool {
        match self {
            Self::Linear | Self::Experts | Self::Embedding | Self::Router | Self::Positions => is_worth_it(shape),
            Self::Transposed | Self::Norm | Self::Bias | Self::Convolution | Self::State | Self::Parameter => false,
            Self::Mask | Self::Vector | Self::Tiny | Self::Integer => false,
        }
    }
}

/// Whether matrices of such a shape are worth blocks.
fn is_worth_it(shape: &[usize]) -> bool {
    matches!(shape, &[.., rows, cols] if rows >= LEAST[0] && cols >= LEAST[1])
}

/// Families whose fused experts are stored as inputs x outputs, for where the tensors themselves do
/// not tell.
const TRANSPOSED_EXPERTS: &[&str] = &["gpt_oss", "llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "aria"];

/// The tensors of a checkpoint, for the roles of each.
#[derive(Debug)]
pub struct Roles<'a> {
    shapes: HashMap<&'a str, &'a [usize]>,
    /// Whether layers of [`CONV1D`] are stored as inputs x outputs.
    conv1d: bool,
    /// Whether layers have their weights under the names that PyTorch's have.
    named_weights: bool,
    model_type: Option<&'a str>,
    /// What the family calls its tensors, if it is known.
    names: Option<&'static Names>,
}

impl<'a> Roles<'a> {
    /// Of tensors with their shapes; `model_type` is what `config.json` says, if there is one.
    pub fn new(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>, model_type: Option<&'a str>) -> Self {
        let shapes: HashMap<_, _> = tensors.into_iter().collect();
        let names = model_type.and_then(names_of);
        let mut roles = Self { conv1d: false, named_weights: false, model_type, names, shapes };
        roles.named_weights = roles.shapes.iter().any(|(name, shape)| shape.len() == 2 && name.ends_with(".weight"));
        let is_turned = |(name, shape): (&&str, &&[usize])| {
            CONV1D.contains(&module(name)) && roles.by_bias(name, shape).is_some_and(|turned| turned)
        };
        roles.conv1d =
            roles.shapes.iter().any(is_turned) || matches!(model_type, Some("gpt2" | "openai-gpt" | "imagegpt"));
        roles
    }

    /// The role of one of the tensors, or of another one beside them.
    #[must_use]
    pub fn of(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Role {
        let module = module(name);
        let parent = parent(name);
        let is = |words: &[&str]| words.iter().any(|word| has_word(module, word));
        if !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2) {
            return Role::Integer;
        }
        if is_mask(name) {
            return Role::Mask;
        }
        if !name.ends_with(".weight") && (STATES.contains(&module) || module.starts_with("time_")) {
            return Role::State;
        }
        let &[ref leading @ .., rows, _] = shape else { return Role::Vector };
        let part = self.names.and_then(|names| names.parse(name)).map(|tensor| tensor.part);
        let is_positions = match part {
            Some(part) => matches!(part, Part::PositionEmbedding | Part::TokenTypes),
            None => is_positions(module),
        };
        if is_positions {
            return Role::Positions;
        }
        if module.contains("norm") {
            return Role::Norm;
        }
        if module.contains("bias") {
            return Role::Bias;
        }
        let is_router = match part {
            Some(part) => matches!(part, Part::Router | Part::SharedRouter),
            None => is_router(module, parent),
        };
        if is_router && rows <= MOST_EXPERTS {
            return Role::Router;
        }
        let in_mixture = name.contains("experts") || name.contains("moe");
        match leading {
            [_] if in_mixture || PARALLEL.contains(&module) => match self.are_experts_turned(name, shape) {
                true => Role::Transposed,
                false if is_worth_it(shape) => Role::Experts,
                false => Role::Tiny,
            },
            [] => {
                let is_vocabulary = match part {
                    Some(part) => matches!(part, Part::TokenEmbedding | Part::Head),
                    None => is_vocabulary(name),
                };
                let is_weight =
                    name.ends_with(".weight") || ATTENTION_WEIGHTS.contains(&module) || name.contains("experts");
                if !is_worth_it(shape) {
                    Role::Tiny
                } else if is_vocabulary {
                    Role::Embedding
                } else if self.named_weights && !is_weight {
                    Role::Parameter
                } else if self.is_turned(name, shape) {
                    Role::Transposed
                } else {
                    Role::Linear
                }
            }
            _ if is(&["conv", "conv1", "conv2", "conv1d", "conv2d", "conv3d"]) || leading.len() > 1 => {
                Role::Convolution
            }
            _ => Role::Parameter,
        }
    }

    /// Whether a matrix is stored as inputs x outputs.
    fn is_turned(&self, name: &str, shape: &[usize]) -> bool {
        if let Some(turned) = self.by_bias(name, shape) {
            return turned;
        }
        // The second matrices of DBRX's experts, all in one.
        let is_dbrx = name.contains("experts.mlp.") && module(name) == "w2";
        is_dbrx || self.conv1d && CONV1D.contains(&module(name))
    }

    /// The same where the length of the bias tells: it has a number for every output.
    fn by_bias(&self, name: &str, shape: &[usize]) -> Option<bool> {
        let &[rows, cols] = shape else { return None };
        let bias = self.shapes.get(format!("{}.bias", name.strip_suffix(".weight")?).as_str())?;
        match bias {
            [outputs] if rows == cols || ![rows, cols].contains(outputs) => None,
            [outputs] => Some(*outputs == cols),
            _ => None,
        }
    }

    /// Whether fused experts are stored as inputs x outputs. One half takes what the other gives:
    /// `[2 * inner, hidden]` and `[hidden, inner]`, or turned `[hidden, 2 * inner]` and
    /// `[inner, hidden]`.
    fn are_experts_turned(&self, name: &str, shape: &[usize]) -> bool {
        let (stem, weight) = name.strip_suffix(".weight").map_or((name, ""), |stem| (stem, ".weight"));
        let first = |[first, second]: &[&str; 2]| {
            let scope = stem.strip_suffix(first)?;
            Some((shape, *self.shapes.get(format!("{scope}{second}{weight}").as_str())?))
        };
        let second = |[first, second]: &[&str; 2]| {
            let scope = stem.strip_suffix(second)?;
            Some((*self.shapes.get(format!("{scope}{first}{weight}").as_str())?, shape))
        };
        if let Some((&[_, a, b], &[_, c, d])) = HALVES.iter().find_map(|pair| first(pair).or_else(|| second(pair))) {
            // Of gated experts the first half has twice as many outputs as the second has inputs.
            let (plain, turned) = (b == c && (a == d || a == 2 * d), a == d && (b == c || b == 2 * c));
            if plain != turned {
                return turned;
            }
        }
        self.model_type.is_some_and(|family| TRANSPOSED_EXPERTS.contains(&family))
    }
}

/// Whether rows are positions or kinds of tokens.
fn is_positions(module: &str) -> bool {
    let is = |words: &[&str]| words.iter().any(|word| has_word(module, word));
    let is_embedding = is(&["emb", "embs", "embd", "embed", "embedding", "embeddings"]);
    let is_position = is(&["pos", "position", "positions", "positional"]) && is_embedding;
    let is_relative = is(&["relative"]) && !is(&["proj"]);
    is_position || is_relative || is(&["wpe"]) || module.starts_with("rel_") || module.starts_with("token_type")
}

fn is_router(module: &str, parent: &str) -> bool {
    let within = parent == "router" && ROUTER_LAYERS.contains(&module);
    ROUTERS.contains(&module) || within || (parent, module) == ("gate", "wg")
}

/// Whether the rows of a matrix are tokens, by its name.
#[must_use]
pub fn is_vocabulary(name: &str) -> bool {
    let module = module(name);
    let has = |words: &[&str]| words.iter().any(|word| has_word(module, word));
    let is_embedding = has(&["embed", "embedding", "embeddings"])
        && !has(&[
            "proj",
            "projection",
            "projector",
            "mapping",
            "norm",
            "patch",
            "pos",
            "position",
            "positions",
            "positional",
        ]);
    let depth = name.split('.').count();
    let is_top = TOP_VOCABULARIES.contains(&module) && depth <= 3;
    let is_head = match parent(name) {
        "lm_head" => HEAD_LAYERS.contains(&module),
        "predictions" => module == "decoder",
        // At the top, as ModernBERT has it: elsewhere it is half of a network.
        _ => name == "decoder.weight",
    };
    is_embedding || VOCABULARIES.contains(&module) || is_top || is_head
}

/// Whether a tensor is added to scores to hide positions, by its name: a buffer such as
/// `causal_mask` or `masked_bias`. Parameters that are trained, `mask_token`, `mask_emb` or
/// `mask.weight`, are none.
#[must_use]
pub fn is_mask(name: &str) -> bool {
    let module = module(name);
    !name.ends_with(".weight") && (module.rsplit('_').next() == Some("mask") || module == "masked_bias")
}

/// The last part of a name that is not `weight`.
fn module(name: &str) -> &str {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    stem.rsplit('.').next().unwrap_or(stem)
}

/// The part before that.
fn parent(name: &str) -> &str {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    stem.rsplit('.').nth(1).unwrap_or_default()
}

/// Whether one of the words that underscores separate is this one.
fn has_word(module: &str, word: &str) -> bool {
    module.split('_').any(|part| part == word)
}
