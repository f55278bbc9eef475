//! Statistics of how far a model's answers are from a reference's, token by token and summed up.
//!
//! The figures are those of llama.cpp's `llama-perplexity --kl-divergence`, computed in binary64;
//! `docs/evaluation.md` has the formulas. One order of operations, no platform's `libm`: the same
//! logits give the same figures on every machine.

use serde::Serialize;

/// A reference's answer: a value for every token of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Logits: log-probabilities but for a constant.
    Logits(&'a [f32]),
    /// Log-probabilities as llama.cpp's files hold them: rounded, of a sum that is not quite 1, and
    /// at -16 or less of no meaning.
    Rounded(&'a [f32]),
}

/// One prediction, compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Negative log-likelihood of the token that came, by the model.
    pub nll: f64,
    /// The same, by the reference.
    pub reference_nll: f64,
    /// Kullback-Leibler divergence of the model from the reference, in nats.
    pub kld: f64,
    /// The probability of the token that came, by the model less by the reference.
    pub change: f64,
    /// Whether both have the same most likely token. Not if a figure of either is not a number.
    pub same_top: bool,
}

/// The negative log-likelihood of a token, from a row of logits: the same bits as
/// [`Prediction::nll`].
///
/// # Panics
/// If `token` is not below the length of the row.
#[must_use]
pub fn nll(logits: &[f32], token: u32) -> f64 {
    let highest = highest(logits).0;
    let sum = sums(logits, highest, logits, highest).model;
    libm::log(sum) - (f64::from(logits[token as usize]) - f64::from(highest))
}

impl Prediction {
    /// Compares what a reference and a model (its logits) say of the next token with each other and
    /// with the token that came.
    ///
    /// # Panics
    /// If they are not of the same length, or `token` is not below that.
    #[must_use]
    pub fn compare(reference: Answer<'_>, model: &[f32], token: u32) -> Self {
        let token = token as usize;
        let (kld, reference_nll, top, model_sum) = match reference {
            Answer::Logits(logits) => {
                assert_eq!(logits.len(), model.len(), "vocabularies");
                let (highest, top) = highest(logits);
                let sums = sums(logits, highest, model, self::highest(model).0);
                // The mean difference, less what makes both sums 1. Below zero by rounding alone.
                let kld = sums.difference / sums.reference - libm::log(sums.reference) + libm::log(sums.model);
                let nll = libm::log(sums.reference) - (f64::from(logits[token]) - f64::from(highest));
                (if kld < 0.0 { 0.0 } else { kld }, nll, top, sums.model)
            }
            Answer::Rounded(log_probabilities) => {
                assert_eq!(log_probabilities.len(), model.len(), "vocabularies");
                let (highest, top) = highest(log_probabilities);
                let highest_logit = self::highest(model).0;
                let model_sum = sums(log_probabilities, highest, model, highest_logit).model;
                let constant = f64::from(highest_logit) + libm::log(model_sum);
                let both = log_probabilities.iter().zip(model).filter(|(p, _)| **p > -16.0);
                let kld = both.map(|(&p, &q)| exp(f64::from(p)) * (f64::from(p) - (f64::from(q) - constant))).sum();
                (kld, -f64::from(log_probabilities[token]), top, model_sum)
            }
        };
        let (highest, model_top) = highest(model);
        let nll = libm::log(model_sum) - (f64::from(model[token]) - f64::from(highest));
        let change = libm::exp(-nll) - libm::exp(-reference_nll);
        let mut prediction = Self { nll, reference_nll, kld, change, same_top: false };
        prediction.same_top = top == model_top && prediction.is_number();
        prediction
    }

    /// Whether its figures are numbers: not where logits of the model or the reference are NaN or
    /// positive infinity.
    #[must_use]
    pub fn is_number(&self) -> bool {
        !(self.nll.is_nan() || self.reference_nll.is_nan() || self.kld.is_nan())
    }
}

/// The largest number and its place, the first of several.
fn highest(row: &[f32]) -> (f32, usize) {
    let value = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (value, row.iter().position(|&x| x == value).unwrap_or(0))
}

/// Sums over a vocabulary of `p = exp(r)`, `exp(m)` and `p (r - m)`, where `r` and `m` are logits
/// less the highest one.
struct Sums {
    reference: f64,
    model: f64,
    difference: f64,
}

/// Sums in eight strands, which the compiler makes vectors of.
fn sums(reference: &[f32], highest: f32, model: &[f32], model_highest: f32) -> Sums {
    const STRANDS: usize = 8;
    let (highest, model_highest) = (f64::from(highest), f64::from(model_highest));
    let mut sums = [[0.0; STRANDS]; 3];
    let mut add = |reference: &[f32], model: &[f32]| {
        for (i, (&r, &m)) in reference.iter().zip(model).enumerate() {
            let (r, m) = (f64::from(r) - highest, f64::from(m) - model_highest);
            let p = exp(r);
            sums[0][i] += p;
            sums[1][i] += exp(m);
            sums[2][i] += p * (r - m);
        }
    };
    let (rows, rest) = reference.as_chunks::<STRANDS>();
    let (model_rows, model_rest) = model.as_chunks::<STRANDS>();
    for (reference, model) in rows.iter().zip(model_rows) {
        add(reference, model);
    }
    add(rest, model_rest);
    let [reference, model, difference] = sums.map(|strands| strands.iter().sum());
    Sums { reference, model, difference }
}

/// The logarithm of the sum of `e` to the power of each number.
pub(super) fn log_sum_exp(row: &[f32]) -> f64 {
    let highest = highest(row).0;
    f64::from(highest) + libm::log(sums(row, highest, row, highest).reference)
}

/// `e^x` for `x` up to 0, to 2^-51 of its value: 2^n times the Taylor polynomial of the rest,
/// without a branch. Below -700 it is e^-700, as good as nothing; a NaN stays one.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Added and subtracted, it rounds to a whole number, which is then in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts; the first has 21 bits to spare, so that its product with n is exact.
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    const COEFFICIENTS: [f64; 13] = {
        let mut coefficients = [1.0; 13];
        let mut i = 1;
        while i < 13 {
            coefficients[i] = coefficients[i - 1] / i as f64;
            i += 1;
        }
        coefficients
    };
    let x = if x < -700.0 { -700.0 } else { x };
    let rounded = x * std::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let rest = x - n * LN_2[0] - n * LN_2[1];
    let mut sum = COEFFICIENTS[12];
    for &coefficient in COEFFICIENTS[..12].iter().rev() {
        sum = sum * rest + coefficient;
    }
    f64::from_bits(sum.to_bits().wrapping_add(rounded.to_bits() << 52))
}

/// Adds predictions up. Of each it keeps four bytes, of a text of a million tokens 4 MB.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    nll: Moments,
    reference_nll: Moments,
    difference: Moments,
    kld: Moments,
    change: Moments,
    squared_change: Moments,
    same_top: usize,
    not_a_number: usize,
    /// The divergence of every prediction.
    divergences: Vec<f32>,
}

impl Statistics {
    /// Counts a prediction in.
    pub fn add(&mut self, prediction: &Prediction) {
        let Prediction { nll, reference_nll, kld, change, same_top } = *prediction;
        self.nll.add(nll);
        self.reference_nll.add(reference_nll);
        self.difference.add(nll - reference_nll);
        self.kld.add(kld);
        self.change.add(change);
        self.squared_change.add(change * change);
        self.same_top += usize::from(same_top);
        self.not_a_number += usize::from(!prediction.is_number());
        self.divergences.push(kld as f32);
    }

    /// Returns the number of predictions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.divergences.len()
    }

    /// The mean divergence so far; NaN without predictions.
    #[must_use]
    pub fn mean_kld(&self) -> f64 {
        self.kld.mean()
    }

    /// The divergence of every prediction, in the order in which they came.
    #[must_use]
    pub fn divergences(&self) -> &[f32] {
        &self.divergences
    }

    /// The figures. They are NaN where there are no predictions, or any number was not finite.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let perplexity = Perplexity::of;
        let mut sorted = self.divergences.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        if self.not_a_number > 0 {
            // Percentiles of the rest would look as if nothing had happened.
            sorted.clear();
        }
        let ratio = libm::exp(self.difference.mean());
        let same_top = self.same_top as f64 / self.count() as f64;
        let rms_change = self.squared_change.mean().sqrt();
        Summary {
            predictions: self.count(),
            not_a_number: self.not_a_number,
            reference: perplexity(&self.reference_nll),
            model: perplexity(&self.nll),
            ratio,
            ratio_error: ratio * self.difference.error(),
            ln_ratio: self.difference.mean(),
            ln_ratio_error: self.difference.error(),
            kld: Divergence {
                mean: self.kld.mean(),
                error: self.kld.error(),
                median: percentile(&sorted, 0.5),
                p90: percentile(&sorted, 0.9),
                p95: percentile(&sorted, 0.95),
                p99: percentile(&sorted, 0.99),
                p999: percentile(&sorted, 0.999),
                max: percentile(&sorted, 1.0),
            },
            same_top,
            same_top_error: (same_top * (1.0 - same_top) / (self.count() as f64 - 1.0)).sqrt(),
            mean_change: self.change.mean(),
            mean_change_error: self.change.error(),
            rms_change,
            rms_change_error: if rms_change == 0.0 { 0.0 } else { 0.5 * self.squared_change.error() / rms_change },
        }
    }
}

/// Mean and standard error of numbers that come one by one (Welford).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: usize,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
}

impl Moments {
    pub(super) fn add(&mut self, x: f64) {
        self.count += 1;
        let distance = x - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (x - self.mean);
    }

    pub(super) fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.mean }
    }

    /// Returns the standard error of the mean: the root of the mean squared distance over `n - 1`.
    fn error(&self) -> f64 {
        (self.squares / self.count as f64 / (self.count as f64 - 1.0)).sqrt()
    }
}

/// The number below which a fraction of them lies: between the two nearest of the sorted numbers,
/// in proportion. NaN if there are none.
#[must_use]
pub fn percentile(sorted: &[f32], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction * last as f64;
    let below = (place as usize).min(last);
    let [low, high] = [below, (below + 1).min(last)].map(|i| f64::from(sorted[i]));
    // Without the difference of two infinities.
    if low == high { low } else { low + (place - below as f64) * (high - low) }
}

/// The figures of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The number of predicted tokens.
    pub predictions: usize,
    /// At how many of them logits of the model or of the reference are not numbers. If there is
    /// one, all figures but the share of same most likely tokens are NaN.
    pub not_a_number: usize,
    /// By the reference.
    pub reference: Perplexity,
    /// By the model.
    pub model: Perplexity,
    /// The model's perplexity over the reference's.
    pub ratio: f64,
    /// Its standard error: smaller than the perplexities', because both err at the same tokens.
    pub ratio_error: f64,
    /// Logarithm of the ratio: the mean difference of the negative log-likelihoods.
    pub ln_ratio: f64,
    /// Its standard error.
    pub ln_ratio_error: f64,
    /// Kullback-Leibler divergence.
    pub kld: Divergence,
    /// The share of predictions for which both have the same most likely token.
    pub same_top: f64,
    /// Its standard error.
    pub same_top_error: f64,
    /// Mean change of the probability of the token that came.
    pub mean_change: f64,
    /// Its standard error.
    pub mean_change_error: f64,
    /// Root of the mean square of that change.
    pub rms_change: f64,
    /// Its standard error.
    pub rms_change_error: f64,
}

/// The perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Mean negative log-likelihood.
    pub nll: f64,
    /// e to the power of it.
    #[serde(rename = "perplexity")]
    pub value: f64,
    /// The perplexity's standard error.
    pub error: f64,
}

impl Perplexity {
    /// The perplexity of predictions with these negative log-likelihoods.
    pub(super) fn of(nll: &Moments) -> Self {
        let value = libm::exp(nll.mean());
        Self { nll: nll.mean(), value, error: value * nll.error() }
    }
}

/// The distribution of the divergence over the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean, in nats per token.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
    /// Half of the tokens have less.
    pub median: f64,
    /// 90 % have less.
    pub p90: f64,
    /// 95 % have less.
    pub p95: f64,
    /// 99 % have less.
    pub p99: f64,
    /// 99.9 % have less.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

#[cfg(test)]
mod tests;
