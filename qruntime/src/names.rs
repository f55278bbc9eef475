//! Names of the tensors of networks: in Hugging Face's checkpoints, one column for each naming
//! scheme, and in GGUF, which has one name for each part.
//!
//! Layers find their tensors by this table, and converters look up what a tensor does. A family
//! whose tensors have other names has its own column.

/// What a tensor does in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// The embeddings of tokens, one row each.
    TokenEmbedding,
    /// The embeddings of positions, one row each.
    PositionEmbedding,
    /// The embeddings of token types, one row each.
    TokenTypes,
    /// Normalizes embeddings.
    EmbeddingNorm,
    /// Normalizes the output of the last layer.
    FinalNorm,
    /// Computes logits from the normalized output.
    Head,
    /// Transforms the vector of the first token.
    Pooler,
    /// Normalizes the input of attention.
    AttentionNorm,
    /// Computes queries.
    Query,
    /// Computes keys.
    Key,
    /// Computes values.
    Value,
    /// Computes queries, keys and values, in this order.
    QueryKeyValue,
    /// Normalizes each head of queries.
    QueryNorm,
    /// Normalizes each head of keys.
    KeyNorm,
    /// The output matrix of attention.
    AttentionOutput,
    /// Normalizes the output of attention before it is added.
    PostAttentionNorm,
    /// Normalizes the sum of attention's input and output.
    AttentionSumNorm,
    /// Normalizes the input of the MLP.
    MlpNorm,
    /// Computes the gates of an MLP.
    Gate,
    /// Computes the values that gates multiply; the first matrix of an MLP without gates.
    Up,
    /// Gate and up in one matrix, gates first.
    GateUp,
    /// The last matrix of an MLP.
    Down,
    /// Chooses experts.
    Router,
    /// [`Gate`](Self::Gate) of one expert or of all.
    ExpertGate,
    /// [`Up`](Self::Up) of one expert or of all.
    ExpertUp,
    /// [`GateUp`](Self::GateUp) of one expert or of all.
    ExpertGateUp,
    /// [`Down`](Self::Down) of one expert or of all.
    ExpertDown,
    /// Computes the weight of the shared expert.
    SharedRouter,
    /// [`Gate`](Self::Gate) of the shared expert, which every row takes.
    SharedGate,
    /// [`Up`](Self::Up) of the shared expert.
    SharedUp,
    /// [`Down`](Self::Down) of the shared expert.
    SharedDown,
    /// Normalizes the output of the MLP before it is added.
    PostMlpNorm,
    /// Normalizes the sum of the MLP's input and output.
    MlpSumNorm,
}

/// Names of Llama's tensors, which most decoders have.
const OF_LLAMA: Table = &[
    (Part::TokenEmbedding, "embed_tokens"),
    (Part::FinalNorm, "norm"),
    (Part::Head, "lm_head"),
    (Part::AttentionNorm, "layers.{layer}.input_layernorm"),
    (Part::Query, "layers.{layer}.self_attn.q_proj"),
    (Part::Key, "layers.{layer}.self_attn.k_proj"),
    (Part::Value, "layers.{layer}.self_attn.v_proj"),
    (Part::QueryKeyValue, "layers.{layer}.self_attn.qkv_proj"),
    (Part::QueryNorm, "layers.{layer}.self_attn.q_norm"),
    (Part::KeyNorm, "layers.{layer}.self_attn.k_norm"),
    (Part::AttentionOutput, "layers.{layer}.self_attn.o_proj"),
    (Part::MlpNorm, "layers.{layer}.post_attention_layernorm"),
    (Part::Gate, "layers.{layer}.mlp.gate_proj"),
    (Part::Up, "layers.{layer}.mlp.up_proj"),
    (Part::Down, "layers.{layer}.mlp.down_proj"),
    (Part::Router, "layers.{layer}.mlp.gate"),
    (Part::ExpertGate, "layers.{layer}.mlp.experts.{expert}.gate_proj"),
    (Part::ExpertUp, "layers.{layer}.mlp.experts.{expert}.up_proj"),
    (Part::ExpertDown, "layers.{layer}.mlp.experts.{expert}.down_proj"),
    // The way transformers saves mixtures since version 5.
    (Part::ExpertGateUp, "layers.{layer}.mlp.experts.gate_up_proj"),
    (Part::ExpertDown, "layers.{layer}.mlp.experts.down_proj"),
    (Part::SharedRouter, "layers.{layer}.mlp.shared_expert_gate"),
    (Part::SharedGate, "layers.{layer}.mlp.shared_expert.gate_proj"),
    (Part::SharedUp, "layers.{layer}.mlp.shared_expert.up_proj"),
    (Part::SharedDown, "layers.{layer}.mlp.shared_expert.down_proj"),
];

/// Gemma's names of norms; one of them means something else in Llama.
const NORMS_OF_GEMMA: Table = &[
    (Part::PostAttentionNorm, "layers.{layer}.post_attention_layernorm"),
    (Part::MlpNorm, "layers.{layer}.pre_feedforward_layernorm"),
    (Part::PostMlpNorm, "layers.{layer}.post_feedforward_layernorm"),
];

/// Phi's fused matrices, one of which GGUF names like an unfused one elsewhere.
const FUSED_OF_PHI: Table = &[(Part::GateUp, "layers.{layer}.mlp.gate_up_proj")];

/// Mixtral's names of experts; transformers since version 5 has other names.
const EXPERTS_OF_MIXTRAL: Table = &[
    (Part::Router, "layers.{layer}.block_sparse_moe.gate"),
    (Part::ExpertGate, "layers.{layer}.block_sparse_moe.experts.{expert}.w1"),
    (Part::ExpertUp, "layers.{layer}.block_sparse_moe.experts.{expert}.w3"),
    (Part::ExpertDown, "layers.{layer}.block_sparse_moe.experts.{expert}.w2"),
];

/// Granite's names of experts, before and since version 5 of transformers.
const EXPERTS_OF_GRANITE: Table = &[
    (Part::Router, "layers.{layer}.block_sparse_moe.router.layer"),
    (Part::Router, "layers.{layer}.block_sparse_moe.router"),
    (Part::ExpertGateUp, "layers.{layer}.block_sparse_moe.input_linear"),
    (Part::ExpertGateUp, "layers.{layer}.block_sparse_moe.experts.gate_up_proj"),
    (Part::ExpertDown, "layers.{layer}.block_sparse_moe.output_linear"),
    (Part::ExpertDown, "layers.{layer}.block_sparse_moe.experts.down_proj"),
];

/// Names of BERT's tensors.
const OF_BERT: Table = &[
    (Part::TokenEmbedding, "embeddings.word_embeddings"),
    (Part::PositionEmbedding, "embeddings.position_embeddings"),
    (Part::TokenTypes, "embeddings.token_type_embeddings"),
    (Part::EmbeddingNorm, "embeddings.LayerNorm"),
    (Part::Query, "encoder.layer.{layer}.attention.self.query"),
    (Part::Key, "encoder.layer.{layer}.attention.self.key"),
    (Part::Value, "encoder.layer.{layer}.attention.self.value"),
    (Part::AttentionOutput, "encoder.layer.{layer}.attention.output.dense"),
    (Part::AttentionSumNorm, "encoder.layer.{layer}.attention.output.LayerNorm"),
    (Part::Up, "encoder.layer.{layer}.intermediate.dense"),
    (Part::Down, "encoder.layer.{layer}.output.dense"),
    (Part::MlpSumNorm, "encoder.layer.{layer}.output.LayerNorm"),
    (Part::Pooler, "pooler.dense"),
];

/// The possible prefixes of a decoder's names: of a language model, of one within a larger model,
/// of one without an output head.
const DECODER_BODIES: &[&str] = &["model.", "language_model.model.", "model.language_model.", ""];

/// The possible prefixes of the output head's name.
const DECODER_HEADS: &[&str] = &["", "language_model."];

/// The columns of Hugging Face's names.
pub(crate) const LLAMA: &Names = &Names { tables: &[OF_LLAMA], bodies: DECODER_BODIES, heads: DECODER_HEADS };
pub(crate) const GEMMA: &Names =
    &Names { tables: &[NORMS_OF_GEMMA, OF_LLAMA], bodies: DECODER_BODIES, heads: DECODER_HEADS };
pub(crate) const PHI: &Names =
    &Names { tables: &[FUSED_OF_PHI, OF_LLAMA], bodies: DECODER_BODIES, heads: DECODER_HEADS };
pub(crate) const MIXTRAL: &Names =
    &Names { tables: &[EXPERTS_OF_MIXTRAL, OF_LLAMA], bodies: DECODER_BODIES, heads: DECODER_HEADS };
pub(crate) const GRANITE: &Names =
    &Names { tables: &[EXPERTS_OF_GRANITE, OF_LLAMA], bodies: DECODER_BODIES, heads: DECODER_HEADS };
pub(crate) const BERT: &Names = &Names { tables: &[OF_BERT], bodies: &["", "bert."], heads: &[""] };

/// Parts and their names, without `.weight` and `.bias`. If a part has several names, the usual one
/// comes first.
type Table = &'static [(Part, &'static str)];

/// The tensor names of a family; [`names_of`](crate::names_of) returns them.
#[derive(Debug)]
pub struct Names {
    /// The first table that has a name decides.
    tables: &'static [Table],
    bodies: &'static [&'static str],
    heads: &'static [&'static str],
}

/// A tensor identified by what it does rather than by its name.
///
/// ```
/// use qruntime::names::Part;
///
/// let names = qruntime::names_of("llama").expect("a family that is known");
/// let tensor = names.parse("model.layers.3.self_attn.q_proj.weight").expect("a name of Llama's");
/// assert_eq!((tensor.part, tensor.layer), (Part::Query, Some(3)));
/// assert_eq!(tensor.gguf().as_deref(), Some("blk.3.attn_q.weight"));
/// assert_eq!(names.parse_gguf("blk.3.attn_q.weight"), Some(tensor));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TensorName {
    /// What the tensor does.
    pub part: Part,
    /// The layer, from 0; `None` outside layers.
    pub layer: Option<usize>,
    /// The expert, if each has its own tensor.
    pub expert: Option<usize>,
    /// Whether the tensor is a bias rather than a weight.
    pub bias: bool,
}

impl Names {
    /// Returns what a tensor of this name does; `None` if the family has no such name.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<TensorName> {
        let (stem, suffix) = match name.rsplit_once('.') {
            Some((stem, suffix @ ("weight" | "bias" | "gamma" | "beta"))) => (stem, suffix),
            _ => (name, ""),
        };
        let fits = |(part, pattern): (Part, &str)| {
            let prefixes = if part == Part::Head { self.heads } else { self.bodies };
            let (layer, expert) = prefixes.iter().find_map(|prefix| numbers(pattern, stem.strip_prefix(prefix)?))?;
            // Matrices of experts in one tensor are parameters of a module rather than of a layer.
            let bare_allowed = matches!(part, Part::ExpertGateUp | Part::ExpertDown) && expert.is_none();
            (!suffix.is_empty() || bare_allowed).then_some(TensorName {
                part,
                layer,
                expert,
                bias: matches!(suffix, "bias" | "beta"),
            })
        };
        self.rows().find_map(fits)
    }

    /// Returns what a tensor of this name in a GGUF file does in a network of this family; `None`
    /// if there is no such name.
    ///
    /// GGUF stores all experts in one tensor, so [`TensorName::expert`] is always `None`.
    #[must_use]
    pub fn parse_gguf(&self, name: &str) -> Option<TensorName> {
        let (stem, suffix) = name.rsplit_once('.')?;
        let bias = match suffix {
            "weight" => false,
            "bias" => true,
            _ => return None,
        };
        let fits = |(part, _)| {
            let (layer, expert) = numbers(gguf(part)?, stem)?;
            Some(TensorName { part, layer, expert, bias })
        };
        self.rows().find_map(fits)
    }

    /// Returns all names that such a tensor may have in a checkpoint, the usual one first. A tensor
    /// of all experts (`expert` is `None`) has no name where each expert has its own tensor.
    pub fn candidates(&self, tensor: TensorName) -> impl Iterator<Item = String> {
        let prefixes = if tensor.part == Part::Head { self.heads } else { self.bodies };
        let suffix = if tensor.bias { ".bias" } else { ".weight" };
        let stems = self.patterns(tensor.part).filter(move |pattern| {
            pattern.contains(EXPERT) == tensor.expert.is_some() && pattern.contains(LAYER) == tensor.layer.is_some()
        });
        stems.flat_map(move |pattern| {
            let stem = filled(pattern, tensor.layer.unwrap_or(0), tensor.expert.unwrap_or(0));
            let is_parameter = tensor.expert.is_none() && pattern.contains(".experts.");
            let suffixes = if is_parameter { ["", suffix] } else { [suffix, suffix] };
            let count = if is_parameter { 2 } else { 1 };
            prefixes.iter().flat_map(move |prefix| {
                let stem = stem.clone();
                suffixes.into_iter().take(count).map(move |suffix| format!("{prefix}{stem}{suffix}"))
            })
        })
    }

    /// Returns the patterns of a part's names, the usual one first.
    pub(crate) fn patterns(&self, part: Part) -> impl Iterator<Item = &'static str> {
        self.rows().filter(move |&(other, _)| other == part).map(|(_, pattern)| pattern)
    }

    /// Returns the possible prefixes of names.
    pub(crate) fn bodies(&self) -> &'static [&'static str] {
        self.bodies
    }

    /// Returns the possible prefixes of the output head's name.
    pub(crate) fn heads(&self) -> &'static [&'static str] {
        self.heads
    }

    /// Returns which of two parts the family usually has.
    pub(crate) fn usual(&self, a: Part, b: Part) -> Part {
        self.rows().map(|(part, _)| part).find(|part| [a, b].contains(part)).unwrap_or(a)
    }

    /// Returns all parts with their patterns, without the patterns that an earlier table gives to
    /// another part.
    fn rows(&self) -> impl Iterator<Item = (Part, &'static str)> {
        self.tables.iter().enumerate().flat_map(move |(i, &table)| {
            let earlier = move || self.tables[..i].iter().copied().flatten();
            let is_taken = move |&&(part, pattern): &&(Part, &str)| {
                earlier().any(|&(other, known)| known == pattern && other != part)
            };
            table.iter().filter(move |row| !is_taken(row)).copied()
        })
    }
}

impl TensorName {
    /// Returns the name in GGUF, as llama.cpp writes it. Single experts are parts of one tensor.
    ///
    /// It is `None` for the [pooler](Part::Pooler), which llama.cpp does not write, and if a part
    /// of a layer has no layer number.
    #[must_use]
    pub fn gguf(&self) -> Option<String> {
        let suffix = if self.bias { "bias" } else { "weight" };
        let pattern = gguf(self.part).filter(|pattern| self.layer.is_some() || !pattern.contains(LAYER))?;
        Some(format!("{}.{suffix}", filled(pattern, self.layer.unwrap_or(0), 0)))
    }
}

/// Returns GGUF's name of a part without `.weight` and `.bias`; `None` if llama.cpp does not write
/// the part. The prefix of a layer is `blk.N.`.
fn gguf(part: Part) -> Option<&'static str> {
    Some(match part {
        Part::TokenEmbedding => "token_embd",
        Part::PositionEmbedding => "position_embd",
        Part::TokenTypes => "token_types",
        Part::EmbeddingNorm => "token_embd_norm",
        Part::FinalNorm => "output_norm",
        Part::Head => "output",
        // The converter leaves it out; `cls` is the matrix of a classifier.
        Part::Pooler => return None,
        Part::AttentionNorm => "blk.{layer}.attn_norm",
        Part::Query => "blk.{layer}.attn_q",
        Part::Key => "blk.{layer}.attn_k",
        Part::Value => "blk.{layer}.attn_v",
        Part::QueryKeyValue => "blk.{layer}.attn_qkv",
        Part::QueryNorm => "blk.{layer}.attn_q_norm",
        Part::KeyNorm => "blk.{layer}.attn_k_norm",
        Part::AttentionOutput => "blk.{layer}.attn_output",
        Part::PostAttentionNorm => "blk.{layer}.post_attention_norm",
        Part::AttentionSumNorm => "blk.{layer}.attn_output_norm",
        Part::MlpNorm => "blk.{layer}.ffn_norm",
        Part::Gate => "blk.{layer}.ffn_gate",
        // The fused matrix has the name of up.
        Part::Up | Part::GateUp => "blk.{layer}.ffn_up",
        Part::Down => "blk.{layer}.ffn_down",
        Part::Router => "blk.{layer}.ffn_gate_inp",
        Part::ExpertGate => "blk.{layer}.ffn_gate_exps",
        Part::ExpertUp => "blk.{layer}.ffn_up_exps",
        Part::ExpertGateUp => "blk.{layer}.ffn_gate_up_exps",
        Part::ExpertDown => "blk.{layer}.ffn_down_exps",
        Part::SharedRouter => "blk.{layer}.ffn_gate_inp_shexp",
        Part::SharedGate => "blk.{layer}.ffn_gate_shexp",
        Part::SharedUp => "blk.{layer}.ffn_up_shexp",
        Part::SharedDown => "blk.{layer}.ffn_down_shexp",
        Part::PostMlpNorm => "blk.{layer}.post_ffw_norm",
        Part::MlpSumNorm => "blk.{layer}.layer_output_norm",
    })
}

/// The placeholder of a layer's number in a pattern.
const LAYER: &str = "{layer}";

/// The placeholder of an expert's number in a pattern.
pub(crate) const EXPERT: &str = "{expert}";

/// Fills a pattern with its numbers.
pub(crate) fn filled(pattern: &str, layer: usize, expert: usize) -> String {
    pattern.replace(LAYER, &layer.to_string()).replace(EXPERT, &expert.to_string())
}

/// Returns the numbers of layer and expert in a name that matches a pattern.
fn numbers(pattern: &str, name: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (mut layer, mut expert) = (None, None);
    let (mut patterns, mut names) = (pattern.split('.'), name.split('.'));
    loop {
        let (pattern, name) = match (patterns.next(), names.next()) {
            (None, None) => return Some((layer, expert)),
            (pattern, name) => (pattern?, name?),
        };
        let number = || name.parse().ok().filter(|number: &usize| number.to_string() == name);
        match pattern {
            LAYER => layer = Some(number()?),
            EXPERT => expert = Some(number()?),
            word if word == name => {}
            _ => return None,
        }
    }
}
