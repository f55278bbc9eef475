//! What a model may not be worse than.

use anyhow::{Result, bail};
use serde::Serialize;

use super::network::Network;
use super::statistics::Summary;
use crate::report::digits;

/// Limits; those that are not there are not passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// The mean KL divergence of a language model, in nats per token.
    pub max_kld: Option<f64>,
    /// Its perplexity over the reference's.
    pub max_ppl_ratio: Option<f64>,
    /// The mean cosine between an encoder's vectors and the reference's.
    pub min_cosine: Option<f64>,
}

impl Limits {
    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Refuses limits that mean nothing for this kind of network, or are no numbers.
    ///
    /// # Errors
    /// If there is such a limit.
    pub fn check(&self, network: &Network) -> Result<()> {
        if [self.max_kld, self.max_ppl_ratio, self.min_cosine].into_iter().flatten().any(f64::is_nan) {
            bail!("a limit is not a number");
        }
        match network {
            Network::Lm(_) if self.min_cosine.is_some() => {
                bail!("--min-cosine is for sentence encoders; a language model has --max-kld")
            }
            Network::Encoder(_) if self.max_kld.or(self.max_ppl_ratio).is_some() => {
                bail!("--max-kld and --max-ppl-ratio are for language models; a sentence encoder has --min-cosine")
            }
            _ => Ok(()),
        }
    }

    /// The limits that a language model passes, in words. One whose figures are no numbers passes all.
    #[must_use]
    pub fn passed_by(&self, summary: &Summary) -> Vec<String> {
        let beyond = |name: &str, found: f64, limit: Option<f64>| {
            let limit = limit.filter(|&limit| found.is_nan() || found > limit)?;
            let (figure, limit_digits) = (digits(found, 4), digits(limit, 4));
            if found.is_nan() {
                return Some(format!(
                    "{name} is not a number, limit {limit_digits}: the answers of one of both are not"
                ));
            }
            Some(format!("{name} {figure}, limit {limit_digits} ({} times as much)", digits(found / limit, 3)))
        };
        let kld = beyond("mean KL divergence", summary.kld.mean, self.max_kld);
        kld.into_iter().chain(beyond("perplexity ratio", summary.ratio, self.max_ppl_ratio)).collect()
    }

    /// The limit that an encoder passes, in words.
    #[must_use]
    pub fn passed_by_cosine(&self, cosine: f64) -> Vec<String> {
        let passed = self.min_cosine.filter(|&limit| cosine.is_nan() || cosine < limit);
        let words = |limit| {
            let times = digits((1.0 - cosine) / (1.0 - limit), 3);
            format!("mean cosine {cosine:.6}, limit {limit} ({times} times as far from 1)")
        };
        passed.map(words).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::statistics::{Answer, Prediction, Statistics};
    use super::*;

    #[test]
    fn what_is_no_number_passes_every_limit() {
        let limits = Limits { max_kld: Some(0.1), max_ppl_ratio: Some(1.5), min_cosine: Some(0.9) };
        let of = |model: [f32; 2]| {
            let mut statistics = Statistics::default();
            statistics.add(&Prediction::compare(Answer::Logits(&[0.0, 0.0]), &model, 0));
            limits.passed_by(&statistics.summary())
        };
        assert!(of([0.0, 0.0]).is_empty());
        assert_eq!(of([f32::NAN, 0.0]).len(), 2);
        let worse = of([0.0, 5.0]);
        assert!(worse[0].starts_with("mean KL divergence 1.814, limit 0.1000 (18.1 times"), "{worse:?}");
        assert!(limits.passed_by_cosine(0.95).is_empty());
        assert_eq!(limits.passed_by_cosine(0.8), ["mean cosine 0.800000, limit 0.9 (2.00 times as far from 1)"]);
        assert_eq!(limits.passed_by_cosine(f64::NAN).len(), 1);
        assert!(!Limits::default().any() && limits.any());
    }
}
