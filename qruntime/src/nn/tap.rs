//! The products of a network, and a tap that sees their inputs.

use std::ops::ControlFlow;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use crate::error::Error;
use crate::experts::Experts;
use crate::linear::{Linear, WeightName, Workspace};

/// An observer of the activations that enter the linear layers of a network, for measuring the
/// inputs of their weights.
///
/// [`CausalLm::forward_layer`](crate::CausalLm::forward_layer),
/// [`CausalLm::forward_head`](crate::CausalLm::forward_head) and
/// [`Encoder::forward_layer`](crate::Encoder::forward_layer) take a tap.
pub trait Tap {
    /// Called before a product with its input rows, one for each token.
    ///
    /// One call names all matrices that multiply the same rows (query, key and value; gate and up).
    /// An expert sees the rows that the router sends to it, and is not named if there are none. A
    /// long sequence may be split into several calls, and short ones share one.
    ///
    /// A break ends the computation with [`Error::Cancelled`].
    fn input(&mut self, weights: &[WeightName<'_>], x: ArrayView2<'_, f32>) -> ControlFlow<()>;
}

/// Computes the products of a network.
pub(crate) struct Products<'a> {
    pub(crate) workspace: &'a mut Workspace,
    pub(crate) tap: Option<&'a mut dyn Tap>,
}

impl Products<'_> {
    /// See [`Linear::forward_into`].
    pub(crate) fn one(
        &mut self,
        layer: &Linear,
        x: ArrayView2<'_, f32>,
        y: ArrayViewMut2<'_, f32>,
    ) -> Result<(), Error> {
        self.tell(&[layer], x)?;
        layer.forward_into(x, self.workspace, y)
    }

    /// See [`Linear::forward_each`].
    pub(crate) fn each(
        &mut self,
        layers: &[&Linear],
        x: ArrayView2<'_, f32>,
        outputs: &mut [ArrayViewMut2<'_, f32>],
    ) -> Result<(), Error> {
        self.tell(layers, x)?;
        Linear::forward_each(layers, x, self.workspace, outputs)
    }

    /// See [`Experts::forward_each`].
    pub(crate) fn experts(
        &mut self,
        mixtures: &[&Experts],
        x: ArrayView2<'_, f32>,
        counts: &[usize],
        outputs: &mut [ArrayViewMut2<'_, f32>],
    ) -> Result<(), Error> {
        if self.tap.is_some() {
            let mut first = 0;
            for (expert, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let layers: Vec<&Linear> = mixtures.iter().map(|mixture| &mixture.layers()[expert]).collect();
                self.tell(&layers, x.slice(s![first..first + count, ..]))?;
                first += count;
            }
        }
        Experts::forward_each(mixtures, x, counts, self.workspace, outputs)
    }

    fn tell(&mut self, layers: &[&Linear], x: ArrayView2<'_, f32>) -> Result<(), Error> {
        let Some(tap) = &mut self.tap else { return Ok(()) };
        let names: Vec<WeightName<'_>> = layers.iter().filter_map(|layer| layer.name()).collect();
        match tap.input(&names, x) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// Reborrows a tap for one of several calls.
pub(crate) fn lend<'s>(tap: &'s mut Option<&mut dyn Tap>) -> Option<&'s mut dyn Tap> {
    match tap {
        Some(tap) => Some(&mut **tap),
        None => None,
    }
}
