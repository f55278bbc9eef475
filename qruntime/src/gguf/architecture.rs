//! The architectures of GGUF that are read, and what is special about the tensors of each.

use std::ops::RangeInclusive;

use super::Metadata;
use super::rows::{self, Row};
use crate::config::WIDTHS;
use crate::error::FileError;
use crate::family::names_of;
use crate::names::Names;

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// The value of `general.architecture`.
    pub(super) name: &'static str,
    /// The families that it stands for. All but one with mixtures have the same names of tensors.
    pub(super) families: &'static [&'static str],
    /// Whether rows of queries and keys are interleaved: llama.cpp rotates neighbours.
    pub(super) interleaved: bool,
    /// Whether norms are stored with 1 added.
    pub(super) plus_one: bool,
    /// Whether queries, keys and values are one matrix in checkpoints, too.
    pub(super) fused: bool,
    /// Whether programs know an output head.
    pub(super) head: Head,
}

/// What programs for an architecture know of an output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The embedding takes the place of a missing one.
    Optional,
    /// It is always the embedding.
    Never,
    /// It is always there.
    Always,
}

const PLAIN: Architecture =
    Architecture { name: "", families: &[], interleaved: false, plus_one: false, fused: false, head: Head::Optional };

/// All architectures.
const ARCHITECTURES: &[Architecture] = &[
    // The usual family comes first; what a file holds decides.
    Architecture { name: "llama", families: &["llama", "mistral", "mixtral", "qwen2"], interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", families: &["qwen2"], ..PLAIN },
    Architecture { name: "qwen2moe", families: &["qwen2_moe"], head: Head::Always, ..PLAIN },
    Architecture { name: "qwen3", families: &["qwen3"], ..PLAIN },
    Architecture { name: "qwen3moe", families: &["qwen3_moe"], ..PLAIN },
    Architecture { name: "gemma2", families: &["gemma2"], plus_one: true, head: Head::Never, ..PLAIN },
    // The second one also takes images, and only its language model is read and written.
    Architecture { name: "gemma3", families: &["gemma3_text", "gemma3"], plus_one: true, ..PLAIN },
    Architecture { name: "phi3", families: &["phi3"], fused: true, ..PLAIN },
    Architecture { name: "granite", families: &["granite"], interleaved: true, ..PLAIN },
    Architecture { name: "granitemoe", families: &["granitemoe"], interleaved: true, ..PLAIN },
    Architecture { name: "bert", families: &["bert"], ..PLAIN },
];

/// A family of decoders: what its `config.json` says, and what programs know without being told.
#[derive(Debug)]
pub(super) struct Family {
    /// The value of `model_type`.
    pub(super) name: &'static str,
    pub(super) rows: &'static [&'static [Row]],
    pub(super) windows: Windows,
    /// Whether biases are as `attention_bias` says.
    pub(super) attention_bias: bool,
    /// Whether biases are as `mlp_bias` says.
    pub(super) mlp_bias: bool,
    /// Whether a part of each head is rotated, as `partial_rotary_factor` says.
    pub(super) partial: bool,
    /// Whether scores have a factor of their own, `attention_multiplier`.
    pub(super) multiplier: bool,
    /// Whether the activation is an approximation of GELU rather than SiLU.
    pub(super) gelu: bool,
    /// Whether scores have a factor that programs know, `query_pre_attn_scalar`.
    pub(super) scalar: bool,
    /// Whether layers with a window have rotations of another base.
    pub(super) local_base: bool,
    /// Whether the weights of chosen experts sum up to 1, where `norm_topk_prob` says so.
    pub(super) normalized: Option<bool>,
}

/// Which layers of a family may see a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windows {
    /// No layer.
    None,
    /// All, if there is a window.
    All,
    /// Some, if there is a window and a pattern: `use_sliding_window`.
    Switched,
    /// All, if there is a window and a pattern.
    AllSwitched,
    /// All but the last of each `period`, unless there is another pattern. If the file has no
    /// window, it is `default`.
    Period { period: usize, default: Option<usize> },
}

const LLAMA: Family = Family {
    name: "llama",
    rows: &[rows::COMMON],
    windows: Windows::None,
    attention_bias: true,
    mlp_bias: true,
    partial: false,
    multiplier: false,
    gelu: false,
    scalar: false,
    local_base: false,
    normalized: None,
};
const MISTRAL: Family =
    Family { name: "mistral", windows: Windows::All, attention_bias: false, mlp_bias: false, ..LLAMA };
const QWEN3: Family = Family { name: "qwen3", windows: Windows::Switched, mlp_bias: false, ..LLAMA };
const GEMMA: Family = Family { mlp_bias: false, gelu: true, scalar: true, ..LLAMA };

/// All families of decoders.
const FAMILIES: &[Family] = &[
    LLAMA,
    MISTRAL,
    Family { name: "mixtral", rows: &[rows::COMMON, rows::LOCAL_EXPERTS], ..MISTRAL },
    Family { name: "qwen2", attention_bias: false, ..QWEN3 },
    Family {
        name: "qwen2_moe",
        rows: &[rows::COMMON, rows::EXPERTS, rows::SHARED_EXPERT],
        attention_bias: false,
        normalized: Some(false),
        ..QWEN3
    },
    QWEN3,
    Family {
        name: "qwen3_moe",
        rows: &[rows::COMMON, rows::EXPERTS],
        windows: Windows::AllSwitched,
        normalized: Some(true),
        ..QWEN3
    },
    Family {
        name: "gemma2",
        rows: &[rows::COMMON, rows::CAPS],
        windows: Windows::Period { period: 2, default: Some(4096) },
        ..GEMMA
    },
    Family {
        name: "gemma3_text",
        rows: &[rows::COMMON, rows::LOGITS_CAP],
        windows: Windows::Period { period: 6, default: None },
        local_base: true,
        ..GEMMA
    },
    Family { name: "phi3", partial: true, ..MISTRAL },
    Family { name: "granite", rows: &[rows::COMMON, rows::FACTORS], multiplier: true, ..LLAMA },
    Family {
        name: "granitemoe",
        rows: &[rows::COMMON, rows::FACTORS, rows::LOCAL_EXPERTS],
        multiplier: true,
        mlp_bias: false,
        ..LLAMA
    },
];

/// Returns the decoder's family with this `model_type`.
pub(super) fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// Returns the architecture of a file.
pub(super) fn architecture(metadata: &Metadata) -> Result<&'static Architecture, FileError> {
    let name = metadata.architecture()?;
    ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
        metadata.refuse("general.architecture", format!("{name:?}"), known.join(", "))
    })
}

/// Returns the architecture that a family is written as: the one that stands for it first of all,
/// or else any that does.
pub(super) fn of_family(family: &str) -> Option<&'static Architecture> {
    let usual = ARCHITECTURES.iter().find(|architecture| architecture.families[0] == family);
    usual.or_else(|| ARCHITECTURES.iter().find(|architecture| architecture.families.contains(&family)))
}

impl Architecture {
    /// Returns the names of the tensors in checkpoints.
    pub(super) fn names(&self, experts: usize) -> &'static Names {
        let has_mixtures = self.families.contains(&"mixtral") && experts > 0;
        let family = if has_mixtures { "mixtral" } else { self.families[0] };
        names_of(family).expect("families of the table are known")
    }
}

/// Most experts of a mixture.
const EXPERTS: usize = 4096;

/// Returns the number of experts; 0 if there are none.
pub(super) fn experts(metadata: &Metadata) -> Result<usize, FileError> {
    Ok(size(metadata, "expert_count", 0..=EXPERTS)?.unwrap_or(0))
}

/// Returns the numbers of heads of queries, and of keys and values.
pub(super) fn heads(metadata: &Metadata) -> Result<(usize, usize), FileError> {
    let heads = needed(metadata, "attention.head_count", WIDTHS)?;
    Ok((heads, size(metadata, "attention.head_count_kv", WIDTHS)?.unwrap_or(heads)))
}

/// Reads an integer of this architecture, which may be a list of the same one for every layer.
pub(super) fn size(
    metadata: &Metadata,
    suffix: &str,
    range: RangeInclusive<usize>,
) -> Result<Option<usize>, FileError> {
    let key = metadata.key(suffix)?;
    let Some(sizes) = metadata.sizes(&key)? else { return Ok(None) };
    let refuse = |found: String, expected: &str| {
        Err(metadata.refuse(&key, found, format!("{expected} from {} to {}", range.start(), range.end())))
    };
    match sizes.first() {
        Some(other) if sizes.iter().any(|size| size != other) => {
            refuse(format!("{} different integers", sizes.len()), "the same integer for all layers,")
        }
        Some(size) if range.contains(size) => Ok(Some(*size)),
        Some(size) => refuse(size.to_string(), "an integer"),
        None => refuse("an empty list".into(), "an integer"),
    }
}

/// Reads an integer of this architecture that must be there.
pub(super) fn needed(metadata: &Metadata, suffix: &str, range: RangeInclusive<usize>) -> Result<usize, FileError> {
    let expected = format!("an integer from {} to {}", range.start(), range.end());
    match size(metadata, suffix, range)? {
        Some(size) => Ok(size),
        None => Err(metadata.refuse(&metadata.key(suffix)?, "missing", expected)),
    }
}
