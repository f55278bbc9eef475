//! Limits that a model must not exceed.

use qruntime::Network;
use serde::Serialize;

use super::encoder::Cosines;
use super::statistics::{Perplexity, Summary};
use crate::error::{ErrorKind, Result, bail};
use crate::report::digits;

/// Limits; NaN exceeds every limit, and one that is not set is never exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// The mean KL divergence of a language model, in nats per token.
    pub max_kld: Option<f64>,
    /// Its perplexity over the reference's.
    pub max_ppl_ratio: Option<f64>,
    /// Its perplexity.
    pub max_ppl: Option<f64>,
    /// The mean cosine between an encoder's vectors and the reference's.
    pub min_cosine: Option<f64>,
}

impl Limits {
    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Refuses limits that mean nothing for this kind of network, or are not numbers.
    ///
    /// # Errors
    /// If there is such a limit.
    pub fn check(&self, network: &Network) -> Result<()> {
        if [self.max_kld, self.max_ppl_ratio, self.max_ppl, self.min_cosine].into_iter().flatten().any(f64::is_nan) {
            bail!(ErrorKind::Request, "a limit is not a number");
        }
        match network {
            Network::CausalLm(_) if self.min_cosine.is_some() => {
                bail!(ErrorKind::Request, "--min-cosine is for sentence encoders; a language model has --max-kld")
            }
            Network::Encoder(_) if self.max_kld.or(self.max_ppl_ratio).or(self.max_ppl).is_some() => {
                bail!(
                    ErrorKind::Request,
                    "--max-kld, --max-ppl-ratio and --max-ppl are for language models; a sentence encoder has \
                     --min-cosine"
                )
            }
            _ => Ok(()),
        }
    }

    /// Returns the limits that a language model exceeds, in words. Figures that are not numbers
    /// exceed every limit, and are a complaint of their own.
    #[must_use]
    pub fn exceeded_by(&self, summary: &Summary) -> Vec<String> {
        let found = not_numbers(summary.not_a_number, summary.predictions, "predictions");
        let figures = [
            above("mean KL divergence", summary.kld.mean, self.max_kld),
            above("perplexity ratio", summary.ratio, self.max_ppl_ratio),
            above("perplexity", summary.model.value, self.max_ppl),
        ];
        found.into_iter().chain(figures.into_iter().flatten()).collect()
    }

    /// Returns the limits that a model without a reference exceeds.
    #[must_use]
    pub fn exceeded_by_perplexity(&self, model: Perplexity, not_a_number: usize, predictions: usize) -> Vec<String> {
        let found = not_numbers(not_a_number, predictions, "predictions");
        found.into_iter().chain(above("perplexity", model.value, self.max_ppl)).collect()
    }

    /// Returns the limit that an encoder exceeds, in words. Figures that are not numbers are a
    /// complaint of their own.
    #[must_use]
    pub fn exceeded_by_cosine(&self, cosine: &Cosines) -> Vec<String> {
        let found = not_numbers(cosine.not_a_number, cosine.texts, "cosines");
        let mean = cosine.mean;
        let exceeded = self.min_cosine.filter(|&limit| mean.is_nan() || mean < limit);
        let words = |limit| {
            if mean.is_nan() {
                return format!("mean cosine is not a number, limit {limit}");
            }
            let times = digits((1.0 - mean) / (1.0 - limit), 3);
            format!("mean cosine {mean:.6}, limit {limit} ({times} times as far from 1)")
        };
        found.into_iter().chain(exceeded.map(words)).collect()
    }
}

/// Returns a complaint about figures that are not numbers, if there are any.
fn not_numbers(count: usize, all: usize, what: &str) -> Option<String> {
    let whose = "the model or the reference computes NaN or infinity";
    (count > 0).then(|| format!("{count} of {all} {what} are not numbers, limit 0 ({whose})"))
}

/// Returns a complaint about a figure above its limit; NaN is above every limit.
fn above(name: &str, found: f64, limit: Option<f64>) -> Option<String> {
    let limit = limit.filter(|&limit| found.is_nan() || found > limit)?;
    let (figure, limit_digits) = (digits(found, 4), digits(limit, 4));
    if found.is_nan() {
        return Some(format!("{name} is not a number, limit {limit_digits}"));
    }
    Some(format!("{name} {figure}, limit {limit_digits} ({} times as much)", digits(found / limit, 3)))
}

#[cfg(test)]
mod tests {
    use super::super::statistics::{Answer, Prediction, Statistics};
    use super::*;

    #[test]
    fn what_is_not_a_number_exceeds_every_limit() {
        let limits = Limits { max_kld: Some(0.1), max_ppl_ratio: Some(1.5), max_ppl: Some(9.0), min_cosine: Some(0.9) };
        let of = |model: [f32; 2]| {
            let mut statistics = Statistics::default();
            statistics.add(&Prediction::compare(Answer::Logits(&[0.0, 0.0]), &model, 0));
            statistics.summary()
        };
        let summary = of([f32::NAN, 0.0]);
        let of = |model| limits.exceeded_by(&of(model));
        assert!(of([0.0, 0.0]).is_empty());
        assert_eq!(of([f32::NAN, 0.0]).len(), 4);
        let found = Limits::default().exceeded_by(&summary);
        assert!(found.len() == 1 && found[0].starts_with("1 of 1 predictions are not numbers"), "{found:?}");
        let worse = of([0.0, 5.0]);
        assert!(worse[0].starts_with("mean KL divergence 1.814, limit 0.1000 (18.1 times"), "{worse:?}");
        let cosine = |cosine| limits.exceeded_by_cosine(&Cosines::of(&[cosine]));
        assert!(cosine(0.95).is_empty());
        assert_eq!(cosine(0.8), ["mean cosine 0.800000, limit 0.9 (2.00 times as far from 1)"]);
        assert_eq!(cosine(f64::NAN).len(), 2);
        let predicted = |nll: f64, not_a_number| {
            let perplexity = Perplexity { nll, value: nll.exp(), error: 0.0 };
            limits.exceeded_by_perplexity(perplexity, not_a_number, 10)
        };
        assert!(predicted(2.0, 0).is_empty());
        assert!(predicted(3.0, 0)[0].starts_with("perplexity 20.09, limit 9.000 (2.23 times"));
        assert_eq!(predicted(f64::NAN, 1).len(), 2);
        assert!(!Limits::default().any() && limits.any());
    }
}
