//! The architectures of GGUF that are read, and what is special about the tensors of each.

use std::ops::RangeInclusive;

use super::Metadata;
use crate::config::WIDTHS;
use crate::error::FileError;
use crate::family::names_of;
use crate::names::Names;

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// The value of `general.architecture`.
    pub(super) name: &'static str,
    /// The families that it stands for, as `model_type` names them. All but `mixtral` have the same
    /// names of tensors.
    pub(super) families: &'static [&'static str],
    /// Whether rows of queries and keys are interleaved: llama.cpp rotates neighbours.
    pub(super) interleaved: bool,
    /// Whether norms are stored with 1 added.
    pub(super) plus_one: bool,
    /// Whether queries, keys and values are one matrix in checkpoints, too.
    pub(super) fused: bool,
}

const PLAIN: Architecture = Architecture { name: "", families: &[], interleaved: false, plus_one: false, fused: false };

/// All architectures.
const ARCHITECTURES: &[Architecture] = &[
    // The usual family comes first; what a file holds decides.
    Architecture { name: "llama", families: &["llama", "mistral", "mixtral", "qwen2"], interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", families: &["qwen2"], ..PLAIN },
    Architecture { name: "qwen2moe", families: &["qwen2_moe"], ..PLAIN },
    Architecture { name: "qwen3", families: &["qwen3"], ..PLAIN },
    Architecture { name: "qwen3moe", families: &["qwen3_moe"], ..PLAIN },
    Architecture { name: "gemma2", families: &["gemma2"], plus_one: true, ..PLAIN },
    Architecture { name: "gemma3", families: &["gemma3_text"], plus_one: true, ..PLAIN },
    Architecture { name: "phi3", families: &["phi3"], fused: true, ..PLAIN },
    Architecture { name: "granite", families: &["granite"], interleaved: true, ..PLAIN },
    Architecture { name: "granitemoe", families: &["granitemoe"], interleaved: true, ..PLAIN },
    Architecture { name: "bert", families: &["bert"], ..PLAIN },
];

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
    // The language model of one that also takes images.
    let family = if family == "gemma3" { "gemma3_text" } else { family };
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
