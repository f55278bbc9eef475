//! Chooses the next token.

use std::cmp::Ordering;

use kernels::Isa;

use crate::error::Error;

/// Chooses tokens from logits.
pub trait Sampler {
    /// Returns the next token after `history`. `logits` are those after its last token, one for
    /// each token of the vocabulary.
    fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32;
}

/// Chooses the most likely token; in a tie, the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Sampler for Greedy {
    fn sample(&mut self, logits: &[f32], _: &[u32]) -> u32 {
        let best = |best: usize, i: usize| if by_score(logits[i], logits[best]).is_lt() { i } else { best };
        (1..logits.len()).fold(0, best) as u32
    }
}

/// Options of [`Sample`]. They are applied in the order of these fields, which is llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SampleOptions {
    /// A value above 1 makes recent tokens less likely: their positive logits are divided by it,
    /// negative ones multiplied (Keskar et al., "CTRL", 2019). 1 does nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens count as recent.
    pub repetition_window: usize,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens until their probabilities sum up to this (Holtzman et al., "The
    /// curious case of neural text degeneration", 2019). 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens whose probability is at least this times the largest one (Nguyen et al.,
    /// "Turning up the heat: min-p sampling", 2024). 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of the kept tokens: a value below 1 makes likely tokens more likely. 0
    /// chooses the most likely one.
    pub temperature: f32,
    /// The seed of the random numbers. The same seed, options and logits give the same tokens on
    /// every processor.
    pub seed: u64,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            repetition_window: 64,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            temperature: 0.8,
            seed: 0,
        }
    }
}

/// Draws tokens at random, according to their probabilities and some [`SampleOptions`].
///
/// A token whose logit is NaN is never chosen, unless all are NaN.
///
/// ```
/// use qruntime::{Sample, SampleOptions, Sampler};
///
/// let mut options = SampleOptions::default();
/// options.seed = 42;
/// let mut sampler = Sample::new(options)?;
/// let token = sampler.sample(&[1.0, 5.0, 4.5, -3.0], &[]);
/// assert!(token == 1 || token == 2); // the others are below min_p
/// # Ok::<(), qruntime::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sample {
    options: SampleOptions,
    isa: Isa,
    state: u64,
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token with its logit or its probability.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    token: u32,
}

impl Sample {
    /// Makes a sampler.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn new(options: SampleOptions) -> Result<Self, Error> {
        let check = |name, found: f32, in_range: bool, expected| match in_range {
            true => Ok(()),
            false => Err(Error::Option { name, found: found.to_string(), expected }),
        };
        let SampleOptions { repetition_penalty: penalty, top_p, min_p, temperature, seed, .. } = options;
        check("repetition_penalty", penalty, penalty > 0.0 && penalty.is_finite(), "a number above 0")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "a number above 0, up to 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "a number from 0 to 1")?;
        check("temperature", temperature, (0.0..f32::INFINITY).contains(&temperature), "a number from 0 on")?;
        Ok(Self { options, isa: Isa::best(), state: seed, scores: Vec::new(), candidates: Vec::new() })
    }

    /// Returns the options.
    #[must_use]
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// Makes recent tokens less likely, each once.
    fn penalize(&mut self, history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut recent = history[history.len().saturating_sub(self.options.repetition_window)..].to_vec();
        recent.sort_unstable();
        recent.dedup();
        for token in recent {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
            }
        }
    }

    /// Keeps the `k` most likely tokens, most likely first.
    fn keep_best(&mut self, k: usize) {
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, Candidate::order);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(Candidate::order);
    }

    /// Keeps the most likely tokens until their probabilities sum up to `p`.
    fn keep_likely(&mut self, p: f32) {
        self.softmax(1.0);
        let probabilities = &self.scores;
        // Few tokens are likely, so only as much of the vocabulary is sorted as is needed.
        let mut order: Vec<Candidate> =
            probabilities.iter().zip(0..).map(|(&score, place)| Candidate { score, token: place }).collect();
        let mut sorted = 0;
        let mut sum = 0.0;
        let kept = 'kept: loop {
            let end = (4 * sorted + 256).min(order.len());
            let rest = &mut order[sorted..];
            if end - sorted < rest.len() {
                rest.select_nth_unstable_by(end - sorted - 1, Candidate::order);
            }
            rest[..end - sorted].sort_unstable_by(Candidate::order);
            for (i, candidate) in order[sorted..end].iter().enumerate() {
                sum += candidate.score;
                if sum >= p {
                    break 'kept sorted + i + 1;
                }
            }
            sorted = end;
            if end == order.len() {
                break end;
            }
        };
        self.candidates = order[..kept].iter().map(|place| self.candidates[place.token as usize]).collect();
    }

    /// Sets `scores` to the probabilities of the candidates, in their order.
    fn softmax(&mut self, temperature: f32) {
        let most = self.candidates.iter().fold(f32::NEG_INFINITY, |most, candidate| most.max(candidate.score));
        self.scores.clear();
        self.scores.extend(self.candidates.iter().map(|candidate| (candidate.score - most) / temperature));
        kernels::softmax(self.isa, &mut self.scores);
    }

    /// Returns a random number of 53 bits in `[0, 1)`: SplitMix64 (Steele, Lea, Flood, "Fast
    /// splittable pseudorandom number generators", 2014).
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Sampler for Sample {
    fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let SampleOptions { top_k, top_p, min_p, temperature, .. } = self.options;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.penalize(history);
        if temperature == 0.0 {
            return Greedy.sample(&self.scores, history);
        }
        self.candidates.clear();
        let tokens = self.scores.iter().zip(0..).filter(|(score, _)| **score > f32::NEG_INFINITY);
        self.candidates.extend(tokens.map(|(&score, token)| Candidate { score: score.min(f32::MAX), token }));
        if self.candidates.is_empty() {
            return Greedy.sample(&self.scores, history);
        }
        if top_k > 0 {
            self.keep_best(top_k);
        }
        if top_p < 1.0 {
            self.keep_likely(top_p);
        }
        if min_p > 0.0 {
            let most = self.candidates.iter().fold(f32::NEG_INFINITY, |most, candidate| most.max(candidate.score));
            let least = most + libm::logf(min_p);
            self.candidates.retain(|candidate| candidate.score >= least);
        }
        self.softmax(temperature);
        let total: f64 = self.scores.iter().map(|&p| f64::from(p)).sum();
        let mut left = self.random() * total;
        for (candidate, &p) in self.candidates.iter().zip(&self.scores) {
            left -= f64::from(p);
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Because of rounding, the number drawn can lie beyond the last sum.
        self.candidates.last().map_or(0, |candidate| candidate.token)
    }
}

impl Candidate {
    fn order(&self, other: &Self) -> Ordering {
        by_score(self.score, other.score).then(self.token.cmp(&other.token))
    }
}

/// Orders the larger number first, NaN last.
fn by_score(a: f32, b: f32) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).expect("both are numbers"),
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options that do nothing, for a test to change.
    fn plain() -> SampleOptions {
        SampleOptions { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..SampleOptions::default() }
    }

    fn counts(options: SampleOptions, logits: &[f32], history: &[u32]) -> Vec<usize> {
        let mut sampler = Sample::new(options).expect("options in range");
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            counts[sampler.sample(logits, history) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // Probabilities 1/2, 1/4, 1/8, 1/8: five standard deviations of 10,000 draws are 250 at
        // most.
        let logits = [0.0, -1.0, -2.0, -2.0].map(|x: f32| x * core::f32::consts::LN_2);
        for (found, expected) in counts(plain(), &logits, &[]).into_iter().zip([5000i64, 2500, 1250, 1250]) {
            assert!((found as i64 - expected).abs() <= 250, "{found} draws, expected {expected}");
        }
        // At half the temperature, probabilities are squared: 16, 4, 1, 1 of 22.
        let cold = counts(SampleOptions { temperature: 0.5, ..plain() }, &logits, &[]);
        assert!((cold[0] as i64 - 7273).abs() <= 250, "{cold:?}");
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0, -1.0, -2.0, -2.0].map(|x: f32| x * core::f32::consts::LN_2);
        let kept = |options| counts(options, &logits, &[]).iter().map(|&n| n > 0).collect::<Vec<_>>();
        assert_eq!(kept(SampleOptions { top_k: 2, ..plain() }), [true, true, false, false]);
        // In a tie, the first.
        assert_eq!(kept(SampleOptions { top_k: 3, ..plain() }), [true, true, true, false]);
        assert_eq!(kept(SampleOptions { top_p: 0.7, ..plain() }), [true, true, false, false]);
        assert_eq!(kept(SampleOptions { top_p: 0.4, ..plain() }), [true, false, false, false]);
        assert_eq!(kept(SampleOptions { top_p: 0.8, ..plain() }), [true, true, true, false]);
        assert_eq!(kept(SampleOptions { min_p: 0.3, ..plain() }), [true, true, false, false]);
        assert_eq!(kept(SampleOptions { min_p: 1.0, ..plain() }), [true, false, false, false]);
        assert_eq!(kept(SampleOptions { temperature: 0.0, ..plain() }), [true, false, false, false]);
        // Of the best two, with probabilities 2/3 and 1/3, the first alone reaches 0.6.
        assert_eq!(kept(SampleOptions { top_k: 2, top_p: 0.6, ..plain() }), [true, false, false, false]);
    }

    #[test]
    fn a_large_vocabulary_is_sorted_as_far_as_needed() {
        let logits: Vec<f32> = (0..5000).map(|i| -((i * 7919 % 5000) as f32) / 400.0).collect();
        let mut by_sorting: Vec<usize> = (0..5000).collect();
        by_sorting.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for p in [0.05f32, 0.5, 0.9, 0.999] {
            let mut sampler = Sample::new(SampleOptions { top_p: p, ..plain() }).expect("in range");
            sampler.candidates = logits.iter().zip(0..).map(|(&score, token)| Candidate { score, token }).collect();
            sampler.keep_likely(p);
            let mut sum = 0.0;
            let expected = by_sorting.iter().take_while(|&&i| {
                let before = sum;
                sum += f64::from(logits[i]).exp() / total;
                before < f64::from(p)
            });
            // Sums of 5000 binary32 numbers: the end may be off by a token or two.
            let (expected, kept) = (expected.count(), sampler.candidates.len());
            assert!(kept.abs_diff(expected) <= 2, "{kept} of {expected} at {p}");
            assert!(sampler.candidates.iter().zip(&by_sorting).all(|(a, &b)| a.token as usize == b));
        }
    }

    #[test]
    fn the_recent_past_is_less_likely() {
        let options = SampleOptions { repetition_penalty: 1e6, temperature: 0.0, repetition_window: 2, ..plain() };
        let mut sampler = Sample::new(options).expect("in range");
        assert_eq!(sampler.sample(&[3.0, 2.0, 1.0], &[]), 0);
        assert_eq!(sampler.sample(&[3.0, 2.0, 1.0], &[0]), 1);
        assert_eq!(sampler.sample(&[3.0, 2.0, 1.0], &[0, 1, 1, 9]), 0, "only the last two count");
        assert_eq!(sampler.sample(&[-1.0, -2.0], &[0]), 1, "negative logits are multiplied");
        // A token counts once, however often it occurs.
        let twice = Sample::new(SampleOptions { repetition_penalty: 2.0, temperature: 0.0, ..plain() });
        assert_eq!(twice.expect("in range").sample(&[4.0, 1.5], &[0, 0, 0]), 0);
    }

    /// A window over a long text with many different tokens costs no more time than sorting them.
    #[test]
    fn the_recent_past_may_be_long() {
        let options = SampleOptions { repetition_penalty: 2.0, repetition_window: usize::MAX, ..plain() };
        let mut sampler = Sample::new(options).expect("in range");
        let history: Vec<u32> = (0..1 << 19).chain(0..1 << 19).collect();
        sampler.scores = vec![1.0; (1 << 19) + 1];
        sampler.penalize(&history);
        assert!(sampler.scores[..1 << 19].iter().all(|&score| score == 0.5) && sampler.scores[1 << 19] == 1.0);
    }

    #[test]
    fn a_seed_gives_the_same_tokens() {
        let logits: Vec<f32> = (0..100).map(|i| (i * 37 % 100) as f32 / 25.0).collect();
        let draw = |seed| {
            let mut sampler = Sample::new(SampleOptions { seed, ..SampleOptions::default() }).expect("in range");
            (0..20).map(|_| sampler.sample(&logits, &[])).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn logits_that_are_no_numbers_are_not_chosen() {
        for options in [plain(), SampleOptions::default(), SampleOptions { temperature: 0.0, ..plain() }] {
            let mut sampler = Sample::new(options).expect("in range");
            for _ in 0..100 {
                assert_eq!(sampler.sample(&[f32::NAN, -5.0, f32::NEG_INFINITY, f32::NAN], &[]), 1);
                assert_eq!(sampler.sample(&[0.0, f32::INFINITY, 1.0], &[]), 1);
            }
            assert!(sampler.sample(&[f32::NAN; 3], &[]) < 3);
        }
        assert_eq!(Greedy.sample(&[f32::NAN, 1.0, 2.0, 2.0], &[]), 2);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for (options, name) in [
            (SampleOptions { temperature: -1.0, ..plain() }, "temperature"),
            (SampleOptions { temperature: f32::NAN, ..plain() }, "temperature"),
            (SampleOptions { top_p: 0.0, ..plain() }, "top_p"),
            (SampleOptions { min_p: 1.5, ..plain() }, "min_p"),
            (SampleOptions { repetition_penalty: 0.0, ..plain() }, "repetition_penalty"),
        ] {
            let error = Sample::new(options).expect_err("out of range").to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
