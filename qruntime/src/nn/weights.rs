//! Tensors by the names that a network has for them, each compared with the shape that the network
//! needs.

use std::path::{Path, PathBuf};

use kernels::Isa;

use super::norm::Norm;
use super::spec::NormSpec;
use crate::error::{Error, FileError};
use crate::experts::Experts;
use crate::linear::Linear;
use crate::model::Model;

/// The tensors of a model whose names begin alike.
#[derive(Clone)]
pub(crate) struct Weights {
    model: Model,
    /// Where the model is, for messages.
    path: PathBuf,
    isa: Isa,
    scope: String,
}

impl Weights {
    /// All tensors, for layers that compute with `isa`.
    pub(crate) fn new(model: &Model, path: &Path, isa: Isa) -> Self {
        Self { model: model.clone(), path: path.into(), isa, scope: String::new() }
    }

    /// What layers compute with.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Those in a scope within this one; all if it has no name.
    pub(crate) fn at(&self, name: &str) -> Self {
        if name.is_empty() {
            return self.clone();
        }
        Self { scope: format!("{}{name}.", self.scope), ..self.clone() }
    }

    /// Those in the first of some scopes (each with its dot, or empty) that has a tensor.
    pub(crate) fn at_first(&self, scopes: &[&str], with: &str) -> Result<Self, Error> {
        let full = |scope: &&&str| self.model.tensor(&format!("{}{scope}{with}", self.scope)).is_some();
        match scopes.iter().find(full) {
            Some(scope) => Ok(Self { scope: format!("{}{scope}", self.scope), ..self.clone() }),
            None => Err(self.refuse(&format!("{}{with}", scopes.first().copied().unwrap_or_default()), "missing")),
        }
    }

    /// Whether there is such a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.model.tensor(&self.name(name)).is_some()
    }

    /// Whether a tensor is the same as another, byte for byte.
    pub(crate) fn is_same(&self, name: &str, other: &Self, other_name: &str) -> bool {
        self.model.is_same(&self.name(name), &other.name(other_name))
    }

    /// The full name of a tensor, for messages.
    pub(crate) fn quoted(&self, name: &str) -> String {
        format!("\"{}\"", self.name(name).escape_debug())
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// The error of a tensor.
    pub(crate) fn refuse(&self, name: &str, message: impl Into<String>) -> Error {
        FileError::network(&self.name(name), message).in_file(&self.path).into()
    }

    /// Compares a shape with what is expected.
    fn check(&self, name: &str, expected: &[usize]) -> Result<(), Error> {
        match self.model.tensor(&self.name(name)) {
            None => Err(self.refuse(name, format!("missing, expected {expected:?}"))),
            Some(entry) if entry.shape() != expected => {
                Err(self.refuse(name, format!("{:?}, expected {expected:?}", entry.shape())))
            }
            Some(_) => Ok(()),
        }
    }

    /// The layer `name` of so many outputs and inputs, which has a bias or has none.
    pub(crate) fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Error> {
        self.check(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias_name = format!("{name}.bias");
        match bias {
            true => self.check(&bias_name, &[outputs])?,
            // One that is there and not applied would change every result.
            false if self.has(&bias_name) => return Err(self.refuse(&bias_name, "found, expected none")),
            false => {}
        }
        Ok(self.model.linear(&self.name(name))?.with_isa(self.isa))
    }

    /// A vector of so many numbers.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        self.check(name, &[len])?;
        self.model.plain(&self.name(name))?.to_f32()
    }

    /// The RMS norm `name`.
    pub(crate) fn rms_norm(&self, name: &str, len: usize, spec: NormSpec) -> Result<Norm, Error> {
        Ok(Norm::rms(self.isa, self.vector(&format!("{name}.weight"), len)?, spec))
    }

    /// The layer norm `name`.
    pub(crate) fn layer_norm(&self, name: &str, len: usize, eps: f32) -> Result<Norm, Error> {
        // Checkpoints that were once TensorFlow's have other names.
        let [weight, bias] = if self.has(&format!("{name}.gamma")) { ["gamma", "beta"] } else { ["weight", "bias"] };
        let vector = |part: &str| self.vector(&format!("{name}.{part}"), len);
        Ok(Norm::layer(self.isa, vector(weight)?, vector(bias)?, eps))
    }

    /// A tensor with the matrices of so many experts, each of so many outputs and inputs.
    pub(crate) fn experts(&self, name: &str, count: usize, outputs: usize, inputs: usize) -> Result<Experts, Error> {
        let name = if self.has(name) { name.into() } else { format!("{name}.weight") };
        if let Some(entry) = self.model.tensor(&self.name(&name))
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
        Ok(self.model.experts(&self.name(&name))?.with_isa(self.isa))
    }

    /// Experts that have a layer `{scope}.N.{name}` each.
    pub(crate) fn single_experts(
        &self,
        scope: &str,
        count: usize,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Experts, Error> {
        let layer = |n: usize| self.linear(&format!("{scope}.{n}.{name}"), outputs, inputs, false);
        let layers: Vec<Linear> = (0..count).map(layer).collect::<Result<_, _>>()?;
        // Rows are made ready once for all of them.
        if let Some(n) = layers.iter().position(|layer| layer.is_exact() != layers[0].is_exact()) {
            let [found, expected] = if layers[n].is_exact() { ["plain", "packed"] } else { ["packed", "plain"] };
            let message =
                format!("{found}, expected {expected} as expert 0 is: convert with one --rule for all experts");
            return Err(self.refuse(&format!("{scope}.{n}.{name}.weight"), message));
        }
        Experts::new(layers)
    }
}
