//! Norms of rows.

use kernels::Isa;

use super::spec::NormSpec;
use crate::parallel;

/// The cost of one element of a norm, an activation or a sum, in bytes of packed weights.
pub(crate) const ELEMENT: usize = 8;

/// RMS norm (Zhang and Sennrich, 2019) or layer norm (Ba, Kiros and Hinton, 2016) with its weights.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    isa: Isa,
    weight: Vec<f32>,
    /// The bias of a layer norm.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    pub(crate) fn rms(isa: Isa, mut weight: Vec<f32>, spec: NormSpec) -> Self {
        if spec.plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Self { isa, weight, bias: None, eps: spec.eps }
    }

    pub(crate) fn layer(isa: Isa, weight: Vec<f32>, bias: Vec<f32>, eps: f32) -> Self {
        Self { isa, weight, bias: Some(bias), eps }
    }

    /// Normalizes one row.
    pub(crate) fn row(&self, x: &[f32], y: &mut [f32]) {
        match &self.bias {
            None => kernels::rms_norm(self.isa, x, &self.weight, self.eps, y),
            Some(bias) => kernels::layer_norm(self.isa, x, &self.weight, bias, self.eps, y),
        }
    }

    /// Normalizes consecutive rows.
    pub(crate) fn rows(&self, x: &[f32], y: &mut [f32]) {
        let cols = self.weight.len();
        parallel::rows(cols * ELEMENT, y.chunks_mut(cols).zip(x.chunks(cols)), |(y, x)| self.row(x, y));
    }
}
