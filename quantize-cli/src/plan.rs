//! What is to become of every tensor: decided before anything is done, printed by `--dry-run`, carried out by [`crate::convert`].

use std::fmt;
use std::str::FromStr;

use std::path::PathBuf;

use anyhow::{Result, bail};
use globset::{Glob, GlobMatcher};
use kernels::{Format, Rounding};
use qruntime::Dtype;
use qruntime::container::{Storage, packed_bytes};

use crate::source::{Source, SourceTensor};

/// The format of a conversion that names none: of those near 4.5 bits the one with the least error.
pub const DEFAULT_FORMAT: Format = Format::Q4K;

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
    /// Of these, bytes that hold no weight: they fill up rows to whole blocks, matrices to whole panels, tensors to multiples of 64 bytes.
    pub padding: usize,
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
    /// Bytes that the file's recipe keeps free for figures that are measured with it. None at first.
    pub room: usize,
    /// Files that are put beside the model, relative to its folder; the recipe lists them. None at first.
    pub companions: Vec<PathBuf>,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// If a rule matches no tensor, or wants to pack one that is no matrix of floats.
    pub fn new(source: &Source, to: Format, rules: &[Rule], rounding: Rounding) -> Result<Self> {
        for rule in rules {
            if !source.tensors().iter().any(|tensor| rule.glob.is_match(tensor.name())) {
                let names = source.tensors().iter().take(3).map(|tensor| tensor.name().escape_debug().to_string());
                let names: Vec<String> = names.collect();
                bail!("rule {:?} matches no tensor; names are like {}", rule.text, names.join(", "));
            }
        }
        let tensors = source.tensors().iter().enumerate();
        let tensors = tensors.map(|(i, tensor)| plan_tensor(i, tensor, to, rules)).collect::<Result<_>>()?;
        Ok(Self {
            tensors,
            to,
            rounding,
            rules: rules.iter().map(|rule| rule.text.clone()).collect(),
            room: 0,
            companions: vec![],
        })
    }

    /// Bytes of all tensors in the model.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes as u64).sum()
    }

    /// Bytes of all tensors that hold no weight.
    #[must_use]
    pub fn padding(&self) -> u64 {
        self.tensors.iter().map(|t| t.padding as u64).sum()
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.elements() as u64).sum()
    }
}

fn plan_tensor(index: usize, tensor: &SourceTensor, to: Format, rules: &[Rule]) -> Result<PlannedTensor> {
    let rule = rules.iter().rev().find(|rule| rule.glob.is_match(tensor.name()));
    let (action, mut why) = match rule {
        Some(rule) => (rule.action, format!("rule {}", rule.text)),
        None => built_in(tensor, to),
    };
    let shape = tensor.shape().to_vec();
    let packed = |format| {
        let matrix = tensor.is_float().then(|| packed_bytes(format, &shape)).flatten();
        matrix.map(|bytes| (Storage::Packed(format), bytes))
    };
    let mut padding = 0;
    let (storage, bytes) = match action {
        Action::Pack(format) => match packed(format) {
            Some((storage, bytes)) => {
                // Rounded down: a single weight is no whole number of bytes.
                let weights = tensor.elements() as u128 * format.block_bytes() as u128 / format.block_len() as u128;
                padding = bytes - weights as usize;
                let filled = tensor.cols().next_multiple_of(format.block_len());
                if filled != tensor.cols() {
                    why.push_str(&format!("; rows of {} filled up to {filled}", tensor.cols()));
                }
                (storage, bytes)
            }
            None => bail!("{why}: cannot pack \"{}\", {:?} {shape:?}", tensor.name().escape_debug(), tensor.dtype()),
        },
        // Without its scales an 8-bit float means nothing, and few readers know one.
        Action::Keep if tensor.dtype() == Dtype::F8_E4M3 => (Storage::Plain(Dtype::BF16), 2 * tensor.elements()),
        Action::Keep => (Storage::Plain(tensor.dtype()), tensor.bytes()),
    };
    Ok(PlannedTensor {
        index,
        name: tensor.name().into(),
        shape,
        action,
        dtype: tensor.dtype(),
        storage,
        bytes,
        padding,
        why,
    })
}

/// What becomes of a tensor that no rule names, and why.
fn built_in(tensor: &SourceTensor, to: Format) -> (Action, String) {
    let name = tensor.name();
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let module = stem.rsplit('.').next().unwrap_or(stem);
    let matrix = match tensor.shape() {
        [rows, cols] => *rows >= 16 && *cols >= 32,
        // The experts of a mixture, fused into one tensor.
        [_, rows, cols] => name.contains("experts") && *rows >= 16 && *cols >= 32,
        _ => false,
    };
    let (action, why) = if !tensor.is_float() {
        (Action::Keep, "not a type that can be packed")
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
        return match shorter(tensor, to) {
            Some(other) => (Action::Pack(other), format!("matrix; smaller than {to} with rows of {}", tensor.cols())),
            None => (Action::Pack(to), "matrix".into()),
        };
    };
    (action, why.into())
}

/// The format with blocks of 32 columns that is no worse than `format`, whose blocks are long, where `format` would take more bytes, its last
/// block of each row being mostly padding.
fn shorter(tensor: &SourceTensor, format: Format) -> Option<Format> {
    let other = match format {
        Format::Q4K => Format::Q4_1,
        Format::Iq4Xs => Format::Iq4Nl,
        Format::Q5K | Format::Q6K => Format::Q8_0,
        _ => return None,
    };
    let bytes = |format: Format| format.row_bytes(tensor.cols());
    (bytes(other)? < bytes(format)?).then_some(other)
}

/// Whether the rows of a module are tokens.
pub(crate) fn is_vocabulary(module: &str) -> bool {
    matches!(module, "embed_tokens" | "word_embeddings" | "wte" | "tok_embeddings" | "lm_head" | "embed_out" | "output")
}
