//! MLPs, the part of a layer that computes each row independently. Gated ones follow Shazeer,
//! 2020.

use kernels::{Activation, Isa, activate, activate_gated};

use super::norm::ELEMENT;
use super::spec::DenseSpec;
use super::tap::Products;
use super::weights::Weights;
use super::{MAX_PASS_ELEMENTS, rows, rows_mut, sized};
use crate::error::Error;
use crate::linear::Linear;
use crate::names::Part;
use crate::parallel;

/// The MLP of a layer.
pub(crate) struct Mlp {
    /// Gate and up, both fused, or up alone.
    inputs: Vec<Linear>,
    middle: Middle,
    output: Linear,
}

/// The matrices of an MLP: gate, up, both fused, down.
pub(crate) const DENSE: [Part; 4] = [Part::Gate, Part::Up, Part::GateUp, Part::Down];

/// The matrices of the shared expert, which are never fused.
pub(crate) const SHARED: [Part; 4] = [Part::SharedGate, Part::SharedUp, Part::SharedUp, Part::SharedDown];

/// The step between the first matrices and the last.
pub(crate) struct Middle {
    pub(crate) isa: Isa,
    pub(crate) activation: Activation,
    /// The inputs of the last matrix.
    pub(crate) width: usize,
    pub(crate) gated: bool,
    /// Whether gate and up are one fused matrix.
    pub(crate) fused: bool,
}

/// Scratch memory of MLPs, kept between calls.
#[derive(Default)]
pub(crate) struct MlpState {
    /// Gates, or without gates the output of up; after activation, the input of the last matrix.
    inner: Vec<f32>,
    /// The values that gates multiply; or, from a fused matrix, gates and values.
    other: Vec<f32>,
}

impl Middle {
    /// Returns the elements of a row in the second of the [`buffers`](Self::buffers).
    pub(crate) fn other_width(&self) -> usize {
        match (self.gated, self.fused) {
            (false, _) => 0,
            (true, false) => self.width,
            (true, true) => 2 * self.width,
        }
    }

    /// Returns the output buffers of the first matrices: separate ones write to the first and the
    /// second, a fused one to the second alone.
    pub(crate) fn buffers<'s>(&self, state: &'s mut MlpState, rows: usize) -> (&'s mut [f32], &'s mut [f32]) {
        let MlpState { inner, other } = state;
        (sized(inner, rows * self.width), sized(other, rows * self.other_width()))
    }

    /// Computes the input of the last matrix from the [`buffers`](Self::buffers), in the first of
    /// them.
    pub(crate) fn activate(&self, inner: &mut [f32], other: &[f32]) {
        let (width, other_width) = (self.width, self.other_width());
        let cost = 2 * width * ELEMENT;
        if !self.gated {
            return parallel::rows(cost, inner.chunks_mut(width), |row| activate(self.isa, self.activation, row));
        }
        parallel::rows(cost, inner.chunks_mut(width).zip(other.chunks(other_width)), |(gate, other)| {
            let up = &other[other_width - width..];
            if self.fused {
                gate.copy_from_slice(&other[..width]);
            }
            activate_gated(self.isa, self.activation, gate, up);
        });
    }
}

impl Mlp {
    /// Makes the layer from the tensors in `weights`.
    pub(crate) fn new(weights: &Weights, hidden: usize, spec: DenseSpec, parts: [Part; 4]) -> Result<Self, Error> {
        let DenseSpec { width, activation, gated, fused, bias } = spec;
        let [gate, up, gate_up, down] = parts;
        let inputs: &[(Part, usize)] = match (gated, fused) {
            (true, true) => &[(gate_up, 2 * width)],
            (true, false) => &[(gate, width), (up, width)],
            (false, _) => &[(up, width)],
        };
        let input = |&(part, outputs)| weights.linear(part, outputs, hidden, bias);
        Ok(Self {
            inputs: inputs.iter().map(input).collect::<Result<_, _>>()?,
            middle: Middle { isa: weights.isa(), activation, width, gated, fused },
            output: weights.linear(down, hidden, width, bias)?,
        })
    }

    /// Returns how many rows fit in the memory of one forward pass.
    pub(crate) fn rows_at_once(&self) -> usize {
        (MAX_PASS_ELEMENTS / (self.middle.width + self.middle.other_width())).max(1)
    }

    /// Computes the rows of `y` from the rows of `x`.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        state: &mut MlpState,
        products: &mut Products<'_>,
        y: &mut [f32],
    ) -> Result<(), Error> {
        let hidden = self.output.out_features();
        let (width, other_width) = (self.middle.width, self.middle.other_width());
        let (inner, other) = self.middle.buffers(state, x.len() / hidden);
        let x = rows(x, hidden);
        match self.inputs.as_slice() {
            [gate, up] => {
                let mut outputs = [rows_mut(inner, width), rows_mut(other, other_width)];
                products.each(&[gate, up], x, &mut outputs)?;
            }
            [both, ..] if self.middle.fused => products.one(both, x, rows_mut(other, other_width))?,
            [up, ..] => products.one(up, x, rows_mut(inner, width))?,
            [] => {}
        }
        self.middle.activate(inner, other);
        products.one(&self.output, rows(inner, width), rows_mut(y, hidden))
    }
}
