//! What is to become of every tensor: decided before anything is done, printed by `--dry-run`, carried out by [`crate::convert`].

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use globset::{Glob, GlobMatcher};
use kernels::{Format, Rounding};
use qruntime::Dtype;
use qruntime::container::{Storage, packed_bytes};

use crate::source::{Source, SourceTensor};

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is packed.
    Pack(Format),
    /// It stays as it is.
    Keep,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pack(format) => format.fmt(f),
            Self::Keep => f.pad("keep"),
        }
    }
}

/// `GLOB=FORMAT` or `GLOB=keep`, for tensors by name.
#[derive(Clone, Debug)]
pub struct Rule {
    text: String,
    glob: GlobMatcher,
    action: Action,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (glob, action) = text.rsplit_once('=').ok_or("expected GLOB=FORMAT")?;
        let action = match action {
            "keep" => Action::Keep,
            format => Action::Pack(format.parse().map_err(|e| format!("{e}, keep"))?),
        };
        let glob = Glob::new(glob).map_err(|e| e.to_string())?.compile_matcher();
        Ok(Self { text: text.into(), glob, action })
    }
}

/// One tensor of a plan.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Its place in [`Source::tensors`].
    pub index: usize,
    /// Its name, in the source and in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What becomes of it.
    pub action: Action,
    /// The type of its numbers in the source.
    pub dtype: Dtype,
    /// How it will be stored.
    pub storage: Storage,
    /// Bytes in the model.
    pub bytes: usize,
    /// Why: the rule, or the built-in choice.
    pub why: String,
}

impl PlannedTensor {
    /// Numbers in the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What becomes of every tensor of a source.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for every tensor, in the source's order.
    pub tensors: Vec<PlannedTensor>,
    /// The format of what no rule names.
    pub to: Format,
    /// How codes and scales are chosen.
    pub rounding: Rounding,
    /// The rules, as they were typed.
    pub rules: Vec<String>,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// If a rule matches no tensor, or wants to pack one that is no matrix of floats.
    pub fn new(source: &Source, to: Format, rules: &[Rule], rounding: Rounding) -> Result<Self> {
        for rule in rules {
            if !source.tensors().iter().any(|tensor| rule.glob.is_match(tensor.name())) {
                let names: Vec<&str> = source.tensors().iter().take(3).map(SourceTensor::name).collect();
                bail!("rule {:?} matches no tensor; names are like {}", rule.text, names.join(", "));
            }
        }
        let tensors = source.tensors().iter().enumerate();
        let tensors = tensors.map(|(i, tensor)| plan_tensor(i, tensor, to, rules)).collect::<Result<_>>()?;
        Ok(Self { tensors, to, rounding, rules: rules.iter().map(|rule| rule.text.clone()).collect() })
    }

    /// Bytes of all tensors in the model.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes as u64).sum()
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.elements() as u64).sum()
    }
}

fn plan_tensor(index: usize, tensor: &SourceTensor, to: Format, rules: &[Rule]) -> Result<PlannedTensor> {
    let rule = rules.iter().rev().find(|rule| rule.glob.is_match(tensor.name()));
    let (action, why) = match rule {
        Some(rule) => (rule.action, format!("rule {}", rule.text)),
        None => {
            let (action, why) = built_in(tensor, to);
            (action, why.into())
        }
    };
    let shape = tensor.shape().to_vec();
    let packed = |format| {
        let matrix = tensor.is_float().then(|| packed_bytes(format, &shape)).flatten();
        matrix.map(|bytes| (Storage::Packed(format), bytes))
    };
    let (storage, bytes) = match action {
        Action::Pack(format) => match packed(format) {
            Some(packed) => packed,
            None => bail!("{why}: cannot pack \"{}\", {:?} {shape:?}", tensor.name().escape_debug(), tensor.dtype()),
        },
        // Without its scales an 8-bit float means nothing, and few readers know one.
        Action::Keep if tensor.dtype() == Dtype::F8_E4M3 => (Storage::Plain(Dtype::BF16), 2 * tensor.elements()),
        Action::Keep => (Storage::Plain(tensor.dtype()), tensor.bytes()),
    };
    Ok(PlannedTensor { index, name: tensor.name().into(), shape, action, dtype: tensor.dtype(), storage, bytes, why })
}

/// What becomes of a tensor that no rule names, and why.
fn built_in(tensor: &SourceTensor, to: Format) -> (Action, &'static str) {
    let name = tensor.name();
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let module = stem.rsplit('.').next().unwrap_or(stem);
    let matrix = match tensor.shape() {
        [rows, cols] => *rows >= 16 && *cols >= 32,
        // The experts of a mixture, fused into one tensor.
        [_, rows, cols] => name.contains("experts") && *rows >= 16 && *cols >= 32,
        _ => false,
    };
    if !tensor.is_float() {
        (Action::Keep, "not floating-point")
    } else if tensor.shape().len() < 2 {
        (Action::Keep, "vector")
    } else if !matrix {
        (Action::Keep, "tiny, or of too many dimensions")
    } else if module.contains("norm") || module.contains("bias") {
        (Action::Keep, "norm or bias")
    } else if matches!(module, "gate" | "router" | "shared_expert_gate") {
        (Action::Keep, "router: decides between experts, small")
    } else if matches!(module, "position_embeddings" | "token_type_embeddings" | "wpe" | "position_embedding") {
        (Action::Keep, "added to embeddings, small")
    } else if is_vocabulary(module) && to.bits_per_weight() < Format::Q8_0.bits_per_weight() {
        (Action::Pack(Format::Q8_0), "token embedding or output head")
    } else {
        (Action::Pack(to), "matrix")
    }
}

/// Whether the rows of a module are tokens.
fn is_vocabulary(module: &str) -> bool {
    matches!(module, "embed_tokens" | "word_embeddings" | "wte" | "tok_embeddings" | "lm_head" | "embed_out" | "output")
}
