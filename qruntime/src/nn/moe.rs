//! Mixtures of experts (Shazeer et al., 2017): for every row, a router chooses a few MLPs.

use kernels::softmax;

use super::mlp::{Middle, Mlp, MlpState, SHARED};
use super::norm::ELEMENT;
use super::spec::{DenseSpec, MixtureSpec};
use super::tap::Products;
use super::weights::Weights;
use super::{rows, rows_mut, sized};
use crate::error::Error;
use crate::experts::Experts;
use crate::linear::Linear;
use crate::names::Part;
use crate::parallel;

/// A mixture of experts.
pub(crate) struct Mixture {
    spec: MixtureSpec,
    router: Linear,
    /// Gate and up, or both fused.
    inputs: Vec<Experts>,
    middle: Middle,
    output: Experts,
    /// The shared expert, which every row takes, and the gate that weights it.
    shared: Option<(Mlp, Linear)>,
}

/// Scratch memory of mixtures, kept between calls.
#[derive(Default)]
pub(crate) struct MixtureState {
    mlp: MlpState,
    /// The router's scores; later the gates of the shared expert.
    scores: Vec<f32>,
    /// The experts of every row, best first, with their weights and the indices of their sorted
    /// rows.
    choices: Vec<Choice>,
    counts: Vec<usize>,
    /// Rows of inputs and of outputs, sorted by expert.
    x: Vec<f32>,
    y: Vec<f32>,
    /// The original row of each sorted row.
    rows: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Choice {
    expert: usize,
    weight: f32,
    place: usize,
}

impl Mixture {
    /// Makes the mixture from the tensors in `weights`.
    pub(crate) fn new(weights: &Weights, hidden: usize, spec: MixtureSpec) -> Result<Self, Error> {
        let MixtureSpec { experts, width, .. } = spec;
        let gates = [Part::ExpertGateUp, Part::ExpertGate];
        for parts in [&[Part::Router][..], &gates, &[Part::ExpertGateUp, Part::ExpertUp], &[Part::ExpertDown]] {
            weights.refuse_copies(parts, experts)?;
        }
        let fused = match (weights.has(Part::ExpertGateUp), weights.has_single(Part::ExpertGate)) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => weights.names().usual(Part::ExpertGate, Part::ExpertGateUp) == Part::ExpertGateUp,
        };
        let (inputs, output) = if fused {
            let inputs = weights.experts(Part::ExpertGateUp, experts, 2 * width, hidden)?;
            (vec![inputs], weights.experts(Part::ExpertDown, experts, hidden, width)?)
        } else {
            let single = |part, outputs, inputs| weights.single_experts(part, experts, outputs, inputs);
            let inputs = [single(Part::ExpertGate, width, hidden)?, single(Part::ExpertUp, width, hidden)?];
            (inputs.into(), single(Part::ExpertDown, hidden, width)?)
        };
        let shared = |mlp: DenseSpec| {
            let gate = weights.linear(Part::SharedRouter, 1, hidden, false)?;
            Ok::<_, Error>((Mlp::new(weights, hidden, mlp, SHARED)?, gate))
        };
        Ok(Self {
            spec,
            router: weights.linear(Part::Router, experts, hidden, false)?,
            inputs,
            middle: Middle { isa: weights.isa(), activation: spec.activation, width, gated: true, fused },
            output,
            shared: spec.shared.map(shared).transpose()?,
        })
    }

    /// Computes the rows of `y` from the rows of `x`.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        state: &mut MixtureState,
        products: &mut Products<'_>,
        y: &mut [f32],
    ) -> Result<(), Error> {
        let hidden = self.output.out_features();
        self.route(x, state, products)?;
        let MixtureState { mlp, choices, counts, x: sorted, y: outputs, rows: sources, .. } = state;
        let slots = choices.len();
        let sorted = sized(sorted, slots * hidden);
        let copies = sorted.chunks_mut(hidden).zip(sources.iter());
        parallel::rows(hidden * ELEMENT, copies, |(to, &row)| to.copy_from_slice(&x[row * hidden..][..hidden]));

        let (width, other_width) = (self.middle.width, self.middle.other_width());
        let (inner, other) = self.middle.buffers(mlp, slots);
        let sorted = rows(sorted, hidden);
        if let [gate, up] = self.inputs.as_slice() {
            let mut outputs = [rows_mut(inner, width), rows_mut(other, other_width)];
            products.experts(&[gate, up], sorted, counts, &mut outputs)?;
        } else {
            products.experts(&[&self.inputs[0]], sorted, counts, &mut [rows_mut(other, other_width)])?;
        }
        self.middle.activate(inner, other);
        let outputs = sized(outputs, slots * hidden);
        products.experts(&[&self.output], rows(inner, width), counts, &mut [rows_mut(outputs, hidden)])?;

        let sums = y.chunks_mut(hidden).zip(choices.chunks(self.spec.chosen));
        parallel::rows(self.spec.chosen * hidden * ELEMENT, sums, |(y, choices)| {
            y.fill(0.0);
            for choice in choices {
                let output = &outputs[choice.place * hidden..][..hidden];
                y.iter_mut().zip(output).for_each(|(y, x)| *y += choice.weight * x);
            }
        });
        match &self.shared {
            Some((shared, gate)) => self.add_shared(shared, gate, x, state, products, y),
            None => Ok(()),
        }
    }

    /// Adds the output of the shared expert.
    fn add_shared(
        &self,
        shared: &Mlp,
        gate: &Linear,
        x: &[f32],
        state: &mut MixtureState,
        products: &mut Products<'_>,
        y: &mut [f32],
    ) -> Result<(), Error> {
        let hidden = gate.in_features();
        let gates = sized(&mut state.scores, x.len() / hidden);
        products.one(gate, rows(x, hidden), rows_mut(gates, 1))?;
        let outputs = sized(&mut state.x, x.len());
        shared.forward(x, &mut state.mlp, products, outputs)?;
        let sums = y.chunks_mut(hidden).zip(outputs.chunks(hidden)).zip(gates.iter());
        parallel::rows(hidden * ELEMENT, sums, |((y, x), gate)| {
            // The logistic function is the softmax of its argument and zero.
            let mut weights = [*gate, 0.0];
            softmax(self.middle.isa, &mut weights);
            y.iter_mut().zip(x).for_each(|(y, x)| *y += weights[0] * x);
        });
        Ok(())
    }

    /// Chooses the experts of every row and sorts the rows by expert.
    fn route(&self, x: &[f32], state: &mut MixtureState, products: &mut Products<'_>) -> Result<(), Error> {
        let MixtureSpec { experts, chosen, normalized, .. } = self.spec;
        let hidden = self.router.in_features();
        let count = x.len() / hidden;
        let scores = sized(&mut state.scores, count * experts);
        products.one(&self.router, rows(x, hidden), rows_mut(scores, experts))?;
        state.choices.clear();
        state.choices.resize(count * chosen, Choice { expert: 0, weight: 0.0, place: 0 });
        let each = scores.chunks_mut(experts).zip(state.choices.chunks_mut(chosen));
        parallel::rows(experts * (chosen + ELEMENT), each, |(scores, choices)| {
            softmax(self.middle.isa, scores);
            for choice in choices.iter_mut() {
                // The first of the largest; NaN counts as largest.
                let best = |best: usize, i: usize| if scores[i].total_cmp(&scores[best]).is_gt() { i } else { best };
                let expert = (1..experts).fold(0, best);
                *choice = Choice { expert, weight: scores[expert], place: 0 };
                scores[expert] = f32::NEG_INFINITY;
            }
            if normalized {
                let sum = choices.iter().fold(0.0, |sum, choice| sum + choice.weight);
                choices.iter_mut().for_each(|choice| choice.weight /= sum);
            }
        });

        state.counts.clear();
        state.counts.resize(experts, 0);
        state.choices.iter().for_each(|choice| state.counts[choice.expert] += 1);
        state.rows.clear();
        state.rows.resize(count * chosen, 0);
        let mut next: Vec<usize> = Vec::with_capacity(experts);
        state.counts.iter().fold(0, |first, count| {
            next.push(first);
            first + count
        });
        for (i, choice) in state.choices.iter_mut().enumerate() {
            choice.place = next[choice.expert];
            next[choice.expert] += 1;
            state.rows[choice.place] = i / chosen;
        }
        Ok(())
    }
}
