//! Decides what becomes of every tensor, before anything is done: printed by `--dry-run`,
//! carried out by [`crate::convert`].

pub mod mix;
pub mod role;
mod stand_in;

use std::str::FromStr;

use globset::{Glob, GlobMatcher};
use kernels::Format;

use self::mix::{MIXES, Mix, Mixture};
use self::role::{Fate, Role, Roles};
use crate::error::{ErrorKind, Result, bail};
use crate::layout::Layout;
use crate::source::{Stored, TensorInfo};

pub use crate::layout::Action;
use crate::layout::Form;

/// The format of a conversion that names none, of a source that is not quantized: of those near 4.5
/// bits the one with the least error.
pub const DEFAULT_FORMAT: Format = Format::Q4K;

/// What the matrices of a model become where no rule says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// One format, and 8 bits for embeddings and heads where it has fewer.
    Format(Format),
    /// A format for each by what it does.
    Mix(&'static Mix),
    /// What they are in a source that is quantized in blocks, and what stands in for formats that
    /// are only read; [`DEFAULT_FORMAT`] for any other source.
    Kept,
}

impl Target {
    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format(format) => format.name(),
            Self::Mix(mix) => mix.name(),
            Self::Kept => "keep",
        }
    }
}

impl From<Format> for Target {
    fn from(format: Format) -> Self {
        Self::Format(format)
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
            format => Action::Pack(format_named(format).map_err(|e| format!("{e}, keep"))?),
        };
        let glob = Glob::new(glob).map_err(|e| e.to_string())?.compile_matcher();
        Ok(Self { text: text.into(), glob, action })
    }
}

impl Rule {
    /// Whether it decides on a tensor whose name it matches. One for many tensors packs those that
    /// can be packed; one that names a tensor in full means it.
    fn applies(&self, tensor: &TensorInfo, role: Role) -> bool {
        self.action == Action::Keep || role.is_packable(tensor.shape()) || self.glob.glob().glob() == tensor.name()
    }
}

/// What becomes of one tensor.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its position in [`Source::tensors`](crate::source::Source::tensors).
    pub tensor: usize,
    /// Its name, in the source and in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it does in its network.
    pub role: Role,
    /// What becomes of it.
    pub action: Action,
    /// How its codes and scales are chosen, if it is packed.
    pub rounder: &'static str,
    /// How it lies in the model.
    pub layout: Layout,
    /// Why: the rule, or the built-in choice.
    pub why: String,
}

impl Step {
    /// Returns the number of elements of the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Says what becomes of it: the action, and the format of blocks that are kept.
    #[must_use]
    pub fn becomes(&self) -> String {
        match (self.action, self.layout.form) {
            (Action::Keep, Form::Panels(format)) => format!("keep {format}"),
            (action, _) => action.to_string(),
        }
    }
}

/// What a plan is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What becomes of what no rule names.
    pub to: Target,
    /// The rules; the last that matches a tensor decides.
    pub rules: &'a [Rule],
    /// The name of the [`Rounder`](crate::round::Rounder).
    pub rounding: &'static str,
}

/// What becomes of every tensor of a source: a value that depends on the tensors' names, types and
/// shapes alone.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for every tensor, in the source's order.
    pub steps: Vec<Step>,
    /// What becomes of what no rule names.
    pub to: Target,
    /// How codes and scales are chosen.
    pub rounding: &'static str,
    /// The rules, as they were typed.
    pub rules: Vec<String>,
    /// What a person should know although it is no error: rules that match no tensor.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Decides. `model_type` is that of the model's `config.json`, and `stored` says how the output
    /// stores a tensor, if it can.
    ///
    /// # Errors
    /// If a rule wants to pack one tensor that is no matrix of floats, or many of which none is.
    pub fn new(
        tensors: &[TensorInfo],
        model_type: Option<&str>,
        request: Request<'_>,
        stored: &dyn Fn(&TensorInfo, Action) -> Option<Layout>,
    ) -> Result<Self> {
        let Request { mut to, rules, rounding } = request;
        let is_quantized = tensors.iter().any(|tensor| tensor.stored().is_blocks());
        if to == Target::Kept && !is_quantized {
            to = Target::Format(DEFAULT_FORMAT);
        }
        let roles = Roles::new(tensors.iter().map(|tensor| (tensor.name(), tensor.shape())), model_type);
        let role = |tensor: &TensorInfo| roles.of(tensor.name(), tensor.kept_dtype(), tensor.shape());
        let choice = match to {
            Target::Format(format) => Choice::One(format),
            Target::Mix(mix) => Choice::Mixed(Mixture::new(mix, tensors, model_type), mix.name()),
            Target::Kept => Choice::Kept,
        };
        let mut warnings = vec![];
        warnings.extend((is_quantized && to != Target::Kept).then(|| quantized_twice(tensors, to)));
        for rule in rules {
            let mut matching = tensors.iter().filter(|tensor| rule.glob.is_match(tensor.name())).peekable();
            let Some(&first) = matching.peek() else {
                let names = tensors.iter().take(3).map(|tensor| tensor.name().escape_debug().to_string());
                let names: Vec<String> = names.collect();
                warnings.push(format!("rule {:?} matches no tensor; names are like {}", rule.text, names.join(", ")));
                continue;
            };
            if !matching.any(|tensor| rule.applies(tensor, role(tensor))) {
                let why = role(first).fate().1;
                bail!(
                    ErrorKind::Request,
                    "rule {:?} packs nothing: cannot pack {} ({why})",
                    rule.text,
                    described(first)
                );
            }
        }
        let mut steps = Vec::with_capacity(tensors.len());
        for (position, tensor) in tensors.iter().enumerate() {
            let role = role(tensor);
            let (action, why) = unless_it_is(tensor, decide(tensor, role, &choice, rules));
            let Some((action, why, layout)) = fitting(tensor, action, &why, stored) else {
                let verb = if action == Action::Keep { "keep" } else { "pack" };
                bail!(ErrorKind::Request, "{why}: cannot {verb} {}", described(tensor));
            };
            steps.push(Step {
                tensor: position,
                name: tensor.name().into(),
                shape: tensor.shape().to_vec(),
                role,
                action,
                rounder: rounding,
                layout,
                why: why + &filled_up(tensor, action),
            });
        }
        warnings.extend(stand_in::warning(&steps, tensors, to));
        Ok(Self { steps, to, rounding, rules: rules.iter().map(|rule| rule.text.clone()).collect(), warnings })
    }

    /// Returns the bytes of all tensors in the model.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.layout.bytes as u64).sum()
    }

    /// Returns the bytes of all tensors that hold no weight.
    #[must_use]
    pub fn padding(&self) -> u64 {
        self.steps.iter().map(|step| step.layout.padding as u64).sum()
    }

    /// Returns the number of elements of all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.steps.iter().map(|step| step.elements() as u64).sum()
    }
}

/// [`Target`] for the tensors of one model.
enum Choice {
    One(Format),
    Mixed(Mixture, &'static str),
    Kept,
}

/// Decides what becomes of a tensor, and says why.
fn decide(tensor: &TensorInfo, role: Role, choice: &Choice, rules: &[Rule]) -> (Action, String) {
    match rules.iter().rev().find(|rule| rule.glob.is_match(tensor.name())) {
        Some(rule) if rule.applies(tensor, role) => (rule.action, format!("rule {}", rule.text)),
        Some(rule) => (Action::Keep, format!("{}: not packed by rule {}", role.fate().1, rule.text)),
        None => built_in(tensor, role, choice),
    }
}

/// Returns an action that the output can carry out, and the layout: the one that was decided on, or
/// else, where an output does not fill up rows to whole blocks, packing with shorter blocks, or
/// none.
fn fitting(
    tensor: &TensorInfo,
    action: Action,
    why: &str,
    stored: &dyn Fn(&TensorInfo, Action) -> Option<Layout>,
) -> Option<(Action, String, Layout)> {
    if let Some(layout) = stored(tensor, action) {
        return Some((action, why.into(), layout));
    }
    let Action::Pack(format) = action else { return None };
    if tensor.shape().len() < 2 || !tensor.is_float() {
        return None;
    }
    let others = [short_blocks(format), Some(Format::Q8_0)].into_iter().flatten().map(Action::Pack);
    others.chain([Action::Keep]).find_map(|other| {
        let layout = stored(tensor, other)?;
        Some((other, format!("{why}; rows of {} are no whole blocks of {format}", tensor.cols()), layout))
    })
}

/// Keeps a tensor that has the format already in which it is to be packed.
fn unless_it_is(tensor: &TensorInfo, (action, why): (Action, String)) -> (Action, String) {
    match (action, tensor.stored()) {
        (Action::Pack(format), Stored::Blocks(stored)) if format == stored => {
            (Action::Keep, format!("{why}; {format} already"))
        }
        _ => (action, why),
    }
}

/// Keeps a tensor of a quantized source, if that can be, and says why.
fn as_stored(tensor: &TensorInfo, role: Role) -> (Action, String) {
    match tensor.stored() {
        Stored::Blocks(_) => (Action::Keep, "blocks as they are".into()),
        Stored::Decoded(element_type) if role.fate().0 != Fate::Kept => {
            let format = element_type.stand_in();
            let format = shorter(tensor, format).unwrap_or(format);
            (Action::Pack(format), format!("{element_type} is only read: {format} stands in for it"))
        }
        Stored::Decoded(element_type) => (Action::Keep, format!("{element_type}, decoded: {}", role.fate().1)),
        Stored::Plain(_) | Stored::Scaled(_) => (Action::Keep, "plain in the source".into()),
    }
}

/// Warns of packing what was packed before.
fn quantized_twice(tensors: &[TensorInfo], to: Target) -> String {
    let mut names: Vec<String> = vec![];
    for stored in tensors.iter().map(TensorInfo::stored).filter(|stored| stored.is_blocks()) {
        let name = stored.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let to = to.name();
    format!(
        "the source is quantized already ({}): packing it as {to} adds an error to the one that it has; without --to \
         its blocks stay as they are",
        names.join(", ")
    )
}

/// Says how far the rows of a packed tensor are filled up, if they are.
fn filled_up(tensor: &TensorInfo, action: Action) -> String {
    let Action::Pack(format) = action else { return String::new() };
    let filled = tensor.cols().next_multiple_of(format.block_len());
    if filled == tensor.cols() {
        return String::new();
    }
    format!("; rows of {} filled up to {filled}", tensor.cols())
}

/// Describes a tensor for a message.
fn described(tensor: &TensorInfo) -> String {
    format!("\"{}\", {} {:?}", tensor.name().escape_debug(), tensor.stored(), tensor.shape())
}

/// Decides what becomes of a tensor that no rule names, and why.
fn built_in(tensor: &TensorInfo, role: Role, choice: &Choice) -> (Action, String) {
    let (fate, why) = role.fate();
    let to = match choice {
        Choice::Kept => return as_stored(tensor, role),
        _ if fate == Fate::Kept => return (Action::Keep, why.into()),
        Choice::Mixed(mixture, name) => return (Action::Pack(mixture.format(tensor)), format!("{why}, by {name}")),
        Choice::One(format) => *format,
    };
    match fate {
        Fate::PackedFinely if to.bits_per_weight() < Format::Q8_0.bits_per_weight() => {
            (Action::Pack(Format::Q8_0), why.into())
        }
        _ => match shorter(tensor, to) {
            Some(other) => (Action::Pack(other), format!("{why}; smaller than {to} with rows of {}", tensor.cols())),
            None => (Action::Pack(to), why.into()),
        },
    }
}

/// Returns the format with blocks of 32 columns that is no worse than one whose blocks are long.
fn short_blocks(format: Format) -> Option<Format> {
    Some(match format {
        Format::Q4K => Format::Q4_1,
        Format::Q2K | Format::Q3K | Format::Iq4Xs => Format::Iq4Nl,
        Format::Q5K | Format::Q6K => Format::Q8_0,
        _ => return None,
    })
}

/// Returns the format with short blocks where one with long blocks would take more bytes, the last
/// block of each row being mostly padding.
fn shorter(tensor: &TensorInfo, format: Format) -> Option<Format> {
    let other = short_blocks(format)?;
    let bytes = |format: Format| format.row_bytes(tensor.cols());
    (bytes(other)? < bytes(format)?).then_some(other)
}

/// Names of formats elsewhere, and what to write here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("q8", "the format of 8 bits is q8_0"),
    ("int8", "the format of 8 bits is q8_0"),
    ("8bit", "the format of 8 bits is q8_0"),
    ("w8a8", "the format of 8 bits is q8_0, and activations have 8 bits with every format"),
    ("q6", "the format of 6 bits is q6_k"),
    ("q5", "the formats of 5 bits are q5_k, q5_1 and q5_0"),
    ("q3", "the format of 3 bits is q3_k"),
    ("q2", "the format of 2 bits is q2_k"),
    ("q4", "the formats of 4 bits are q4_k, iq4_xs, iq4_nl, q4_1, q4_0 and mxfp4"),
    ("int4", "the formats of 4 bits are q4_k, iq4_xs, iq4_nl, q4_1, q4_0 and mxfp4"),
    ("4bit", "the formats of 4 bits are q4_k, iq4_xs, iq4_nl, q4_1, q4_0 and mxfp4"),
    ("nf4", "the nearest format is iq4_nl, 4 bits with levels that are not evenly spaced"),
    ("fp4", "the format of floats of 4 bits is mxfp4"),
    ("f16", "plain types are no format to pack: a rule can keep tensors (--rule '*=keep')"),
    ("fp16", "plain types are no format to pack: a rule can keep tensors (--rule '*=keep')"),
    ("bf16", "plain types are no format to pack: a rule can keep tensors (--rule '*=keep')"),
    ("f32", "plain types are no format to pack: a rule can keep tensors (--rule '*=keep')"),
];

/// The format of a name as people type it: in any case, and names of other programs are explained.
///
/// # Errors
/// What the name means elsewhere, or that it is not known; with the names that there are.
pub fn format_named(name: &str) -> std::result::Result<Format, String> {
    match target_named(name) {
        Ok(Target::Format(format)) => Ok(format),
        Ok(other) => Err(format!("{} is a mix for a whole model (--to {0}), expected {}", other.name(), names(false))),
        Err(meaning) => Err(format!("{meaning}, expected {}", names(false))),
    }
}

/// The format or the mix of a name, in the same way.
///
/// # Errors
/// The same.
pub fn format_or_mix_named(name: &str) -> std::result::Result<Target, String> {
    target_named(name).map_err(|meaning| format!("{meaning}, expected {}", names(true)))
}

fn target_named(name: &str) -> std::result::Result<Target, String> {
    let lower = name.to_ascii_lowercase();
    let format = Format::ALL.iter().find(|format| format.name() == lower).map(|&format| Target::Format(format));
    let mix = || MIXES.iter().find(|mix| mix.name() == lower).map(Target::Mix);
    format.or_else(mix).ok_or_else(|| {
        let meaning = OTHER_NAMES.iter().find(|(other, _)| *other == lower).map(|(_, meaning)| format!(" ({meaning})"));
        format!("unknown format {name:?}{}", meaning.unwrap_or_default())
    })
}

/// The names that there are, with or without mixes.
fn names(with_mixes: bool) -> String {
    let mixes = MIXES.iter().filter(|_| with_mixes).map(Mix::name);
    let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).chain(mixes).collect();
    names.join(", ")
}
