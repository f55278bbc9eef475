//! Finds the tensors of a network by what they do, under the family's names, and checks that each
//! has the shape that the network needs.

use std::path::{Path, PathBuf};

use kernels::Isa;

use super::norm::Norm;
use super::spec::NormSpec;
use crate::error::{Error, FileError};
use crate::experts::Experts;
use crate::linear::Linear;
use crate::model::Model;
use crate::names::{EXPERT, Names, Part, filled};

/// The tensors of a model, or of one of its layers.
#[derive(Clone)]
pub(crate) struct Weights {
    model: Model,
    /// The path of the model, for messages.
    path: PathBuf,
    isa: Isa,
    names: &'static Names,
    /// The prefix of all names except that of the output head.
    body: &'static str,
    /// The prefix of the output head's name.
    head: &'static str,
    layer: usize,
}

impl Weights {
    /// Returns the tensors of a model, for layers that compute with `isa`.
    pub(crate) fn new(model: &Model, path: &Path, isa: Isa, names: &'static Names) -> Self {
        let [body, head] = [names.bodies(), names.heads()].map(|prefixes| prefixes.first().copied().unwrap_or(""));
        Self { model: model.clone(), path: path.into(), isa, names, body, head, layer: 0 }
    }

    /// Returns the instruction set of the layers.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the family's names.
    pub(crate) fn names(&self) -> &'static Names {
        self.names
    }

    /// Returns the tensors of a layer.
    pub(crate) fn layer(&self, layer: usize) -> Self {
        Self { layer, ..self.clone() }
    }

    /// Returns the same tensors, with the prefix that the name of `part` has in this model.
    pub(crate) fn at_body(&self, part: Part) -> Result<Self, Error> {
        let all = self.names.bodies().iter().map(|&body| Self { body, ..self.clone() });
        all.clone().find(|weights| weights.has(part)).ok_or_else(|| self.first(all, part))
    }

    /// Returns the same tensors, with the prefix that the output head's name has in this model.
    pub(crate) fn at_head(&self) -> Result<Self, Error> {
        let all = self.names.heads().iter().map(|&head| Self { head, ..self.clone() });
        all.clone().find(|weights| weights.has(Part::Head)).ok_or_else(|| self.first(all, Part::Head))
    }

    /// Makes the error of a part that none of them has.
    fn first(&self, mut all: impl Iterator<Item = Self>, part: Part) -> Error {
        let usual = all.next().unwrap_or_else(|| self.clone());
        self.refuse(&format!("{}.weight", usual.stem(part)), "missing")
    }

    /// Returns the pattern of a part's name in this model, or else the usual one. With `single`,
    /// considers only patterns with a placeholder for an expert's number.
    fn pattern(&self, part: Part, single: bool) -> &'static str {
        let patterns = || self.names.patterns(part).filter(|pattern| pattern.contains(EXPERT) == single);
        let is_there = |pattern: &&str| {
            let stem = self.name(part, pattern, 0);
            let names = [&stem, &format!("{stem}.weight"), &format!("{stem}.gamma")];
            names.into_iter().any(|name| self.model.tensor(name).is_some())
        };
        patterns().find(is_there).or_else(|| patterns().next()).unwrap_or("")
    }

    fn name(&self, part: Part, pattern: &str, expert: usize) -> String {
        let prefix = if part == Part::Head { self.head } else { self.body };
        format!("{prefix}{}", filled(pattern, self.layer, expert))
    }

    /// Returns the name of a part, without `.weight`.
    fn stem(&self, part: Part) -> String {
        self.name(part, self.pattern(part, false), 0)
    }

    /// Returns whether there is such a tensor.
    pub(crate) fn has(&self, part: Part) -> bool {
        let stem = self.stem(part);
        [&stem, &format!("{stem}.weight")].into_iter().any(|name| self.model.tensor(name).is_some())
    }

    /// Returns whether each expert has its own such tensor.
    pub(crate) fn has_single(&self, part: Part) -> bool {
        self.model.tensor(&format!("{}.weight", self.name(part, self.pattern(part, true), 0))).is_some()
    }

    /// Refuses a layer that has several of these parts, or one of them under several names: only
    /// one would be used. A part may be one tensor for all of `experts`, or one for each.
    pub(crate) fn refuse_copies(&self, parts: &[Part], experts: usize) -> Result<(), Error> {
        let mut found = Vec::new();
        for &part in parts {
            for pattern in self.names.patterns(part) {
                let count = if pattern.contains(EXPERT) { experts } else { 1 };
                found.extend(["", ".weight"].into_iter().filter_map(|suffix| {
                    let mut names = (0..count).map(|expert| format!("{}{suffix}", self.name(part, pattern, expert)));
                    names.find(|name| self.model.tensor(name).is_some())
                }));
            }
        }
        match found.as_slice() {
            [first, second, ..] => {
                let message = format!("found beside \"{}\", expected one of them", first.escape_debug());
                Err(self.refuse(second, message))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a matrix is the same as another, byte for byte.
    pub(crate) fn is_same(&self, part: Part, other: &Self, other_part: Part) -> bool {
        self.model.is_same(&format!("{}.weight", self.stem(part)), &format!("{}.weight", other.stem(other_part)))
    }

    /// Returns the full name of a matrix, for messages.
    pub(crate) fn quoted(&self, part: Part) -> String {
        format!("\"{}.weight\"", self.stem(part).escape_debug())
    }

    /// Makes the error of a tensor.
    fn refuse(&self, name: &str, message: impl Into<String>) -> Error {
        FileError::network(name, message).in_file(&self.path).into()
    }

    /// Checks that a tensor has the expected shape.
    fn check(&self, name: &str, expected: &[usize]) -> Result<(), Error> {
        match self.model.tensor(name) {
            None => Err(self.refuse(name, format!("missing, expected {expected:?}"))),
            Some(entry) if entry.shape() != expected => {
                Err(self.refuse(name, format!("{:?}, expected {expected:?}", entry.shape())))
            }
            Some(_) => Ok(()),
        }
    }

    /// Makes a layer with the given numbers of outputs and inputs. It must have a bias if `bias` is
    /// true, and none otherwise.
    pub(crate) fn linear(&self, part: Part, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Error> {
        self.linear_named(&self.stem(part), outputs, inputs, bias)
    }

    fn linear_named(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Error> {
        self.check(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias_name = format!("{name}.bias");
        match bias {
            true => self.check(&bias_name, &[outputs])?,
            // Ignoring an existing bias would change every result.
            false if self.model.tensor(&bias_name).is_some() => {
                return Err(self.refuse(&bias_name, "found, expected none"));
            }
            false => {}
        }
        Ok(self.model.linear(name)?.with_isa(self.isa))
    }

    /// Reads a vector of `len` elements.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        self.check(name, &[len])?;
        self.model.plain(name)?.to_f32()
    }

    /// Makes an RMS norm.
    pub(crate) fn rms_norm(&self, part: Part, len: usize, spec: NormSpec) -> Result<Norm, Error> {
        Ok(Norm::rms(self.isa, self.vector(&format!("{}.weight", self.stem(part)), len)?, spec))
    }

    /// Makes a layer norm.
    pub(crate) fn layer_norm(&self, part: Part, len: usize, eps: f32) -> Result<Norm, Error> {
        let stem = self.stem(part);
        // Checkpoints converted from TensorFlow have other names.
        let is_old = self.model.tensor(&format!("{stem}.gamma")).is_some();
        let [weight, bias] = if is_old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let vector = |suffix: &str| self.vector(&format!("{stem}.{suffix}"), len);
        Ok(Norm::layer(self.isa, vector(weight)?, vector(bias)?, eps))
    }

    /// Makes `count` experts, each with the given numbers of outputs and inputs, from one tensor.
    pub(crate) fn experts(&self, part: Part, count: usize, outputs: usize, inputs: usize) -> Result<Experts, Error> {
        let stem = self.stem(part);
        let name = if self.model.tensor(&stem).is_some() { stem } else { format!("{stem}.weight") };
        if let Some(entry) = self.model.tensor(&name)
            && entry.shape() == [count, inputs, outputs]
            && outputs != inputs
        {
            let message = format!(
                "{:?}, expected {:?}: inputs come before outputs, and weights are not transposed in place; \
                 write the tensor the other way round",
                entry.shape(),
                [count, outputs, inputs]
            );
            return Err(self.refuse(&name, message));
        }
        self.check(&name, &[count, outputs, inputs])?;
        Ok(self.model.experts(&name)?.with_isa(self.isa))
    }

    /// Makes experts that have one tensor each.
    pub(crate) fn single_experts(
        &self,
        part: Part,
        count: usize,
        outputs: usize,
        inputs: usize,
    ) -> Result<Experts, Error> {
        let pattern = self.pattern(part, true);
        let name = |n: usize| self.name(part, pattern, n);
        let layers = (0..count).map(|n| self.linear_named(&name(n), outputs, inputs, false));
        let layers: Vec<Linear> = layers.collect::<Result<_, _>>()?;
        // Rows are prepared once for all experts.
        if let Some(n) = layers.iter().position(|layer| layer.is_exact() != layers[0].is_exact()) {
            let [found, expected] = if layers[n].is_exact() { ["plain", "packed"] } else { ["packed", "plain"] };
            let message =
                format!("{found}, expected {expected} as expert 0 is: convert with one --rule for all experts");
            return Err(self.refuse(&format!("{}.weight", name(n)), message));
        }
        Experts::new(layers)
    }
}
