//! Sentence encoders beside a reference: how far vectors turn, and whether similarities still rank
//! as people do.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ndarray::{Array2, ArrayView1};
use qruntime::{Encoder, Tokenizer};
use serde::Serialize;

use super::statistics::percentile;
use crate::error::{Context, ErrorKind, Result, Within, bail, ensure};
use crate::progress::Progress;
use crate::report::quoted;

/// Texts that are embedded at a time.
const BATCH: usize = 32;

/// Cosines between vectors and those of the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cosines {
    /// The number of texts.
    pub texts: usize,
    /// Texts whose cosine is not a number. If there is one, neither are the figures.
    pub not_a_number: usize,
    /// Mean cosine between a text's two vectors.
    pub mean: f64,
    /// 1 % of the texts have less.
    pub worst_percent: f64,
    /// The least.
    pub min: f64,
}

impl Cosines {
    /// The figures of cosines, one for each text; NaN if there are none.
    #[must_use]
    pub fn of(cosines: &[f64]) -> Self {
        let mut sorted: Vec<f32> = cosines.iter().map(|&c| c as f32).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let not_a_number = cosines.iter().filter(|cosine| cosine.is_nan()).count();
        if not_a_number > 0 {
            let (texts, nan) = (cosines.len(), f64::NAN);
            return Self { texts, not_a_number, mean: nan, worst_percent: nan, min: nan };
        }
        Self {
            texts: cosines.len(),
            not_a_number,
            mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
            worst_percent: percentile(&sorted, 0.01),
            min: cosines.iter().copied().min_by(f64::total_cmp).unwrap_or(f64::NAN),
        }
    }
}

/// The cosine of the angle between two vectors; NaN if one is zero.
#[must_use]
pub fn cosine(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    let mut sums = [0.0; 3];
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        sums[0] += a * b;
        sums[1] += a * a;
        sums[2] += b * b;
    }
    sums[0] / (sums[1] * sums[2]).sqrt()
}

/// An encoder and the time that it has worked.
#[derive(Debug)]
pub struct Embedder<'a> {
    encoder: &'a Encoder,
    /// How long it has worked.
    pub time: Duration,
}

impl<'a> Embedder<'a> {
    /// Wraps an encoder that has not worked yet.
    #[must_use]
    pub fn new(encoder: &'a Encoder) -> Self {
        Self { encoder, time: Duration::ZERO }
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Array2<f32>> {
        let start = Instant::now();
        let vectors = self.encoder.embed(texts)?;
        self.time += start.elapsed();
        Ok(vectors)
    }
}

/// Counts the texts that are longer than an encoder reads: it sees their beginning only.
///
/// # Errors
/// If the encoder has no tokenizer, or a text cannot be encoded.
pub fn cut_texts(encoder: &Encoder, texts: &[&str]) -> Result<usize> {
    let whole =
        Tokenizer::open(encoder.folder().context(ErrorKind::Text, "the encoder has no folder, hence no tokenizer")?)?;
    let most = encoder.config().max_tokens;
    let mut cut = 0;
    for text in texts {
        cut += usize::from(whole.encode(text, true)?.len() > most);
    }
    Ok(cut)
}

/// Embeds texts with a reference and with models, some at a time, and returns for each model the
/// cosines between its vectors and the reference's.
///
/// # Errors
/// If a text cannot be embedded, or vectors differ in length; if `cancelled` became true.
pub fn cosines(
    reference: &mut Embedder<'_>,
    models: &mut [Embedder<'_>],
    texts: &[&str],
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Vec<Vec<f64>>> {
    let mut found = vec![Vec::with_capacity(texts.len()); models.len()];
    for texts in texts.chunks(BATCH) {
        if cancelled.load(Ordering::Relaxed) {
            bail!(ErrorKind::Cancelled, "interrupted");
        }
        let expected = reference.embed(texts)?;
        for (model, found) in models.iter_mut().zip(&mut found) {
            let vectors = model.embed(texts)?;
            let lengths = (vectors.ncols(), expected.ncols());
            ensure!(
                ErrorKind::Text,
                lengths.0 == lengths.1,
                "vectors of {} numbers, those of the reference have {}",
                lengths.0,
                lengths.1
            );
            found.extend(vectors.outer_iter().zip(expected.outer_iter()).map(|(a, b)| cosine(a, b)));
        }
        progress.advance(texts.len() as u64, "");
    }
    Ok(found)
}

/// Pairs of sentences, and how alike people found them.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    scores: Vec<f64>,
    pairs: Vec<[String; 2]>,
}

impl Labelled {
    /// Reads a file of the kind of the STS benchmark: lines of columns between tabs, of which the
    /// fifth is the score, the sixth and seventh are the sentences.
    ///
    /// # Errors
    /// If it cannot be read, or a line has no such columns.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&super::text::read(path)?).within(|| format!("cannot read {}", quoted(path)))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut found = Self { scores: vec![], pairs: vec![] };
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let columns: Vec<&str> = line.split('\t').collect();
            let &[_, _, _, _, score, first, second, ..] = columns.as_slice() else {
                bail!(
                    ErrorKind::Text,
                    "line {}: {} columns, expected 7 or more with tabs between them",
                    i + 1,
                    columns.len()
                );
            };
            let score: f64 = score.trim().parse().ok().filter(|score: &f64| score.is_finite()).with_context(
                ErrorKind::Text,
                || {
                    format!(
                        "line {}: the score {:?}, expected a number",
                        i + 1,
                        score.chars().take(20).collect::<String>()
                    )
                },
            )?;
            found.scores.push(score);
            found.pairs.push([first.trim().to_owned(), second.trim().to_owned()]);
        }
        ensure!(
            ErrorKind::Text,
            found.scores.len() > 1,
            "{} pairs of sentences, expected two or more",
            found.scores.len()
        );
        Ok(found)
    }

    /// Returns the number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there are none: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// The rank correlation (Spearman) between the scores and the cosines of the sentences'
    /// vectors.
    ///
    /// # Errors
    /// If a sentence cannot be embedded; if `cancelled` became true.
    pub fn correlation(
        &self,
        model: &mut Embedder<'_>,
        progress: &dyn Progress,
        cancelled: &AtomicBool,
    ) -> Result<f64> {
        let mut cosines = Vec::with_capacity(self.len());
        for pairs in self.pairs.chunks(BATCH / 2) {
            if cancelled.load(Ordering::Relaxed) {
                bail!(ErrorKind::Cancelled, "interrupted");
            }
            let sentences: Vec<&str> = pairs.iter().flatten().map(String::as_str).collect();
            let vectors = model.embed(&sentences)?;
            cosines.extend((0..pairs.len()).map(|i| cosine(vectors.row(2 * i), vectors.row(2 * i + 1))));
            progress.advance(sentences.len() as u64, "");
        }
        Ok(rank_correlation(&self.scores, &cosines))
    }
}

/// The correlation of the ranks of numbers (Spearman); equal ones share the mean of their ranks.
/// NaN if all of one side are equal.
#[must_use]
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let mut sums = [0.0; 3];
    for (a, b) in a.iter().zip(&b) {
        sums[0] += (a - mean) * (b - mean);
        sums[1] += (a - mean) * (a - mean);
        sums[2] += (b - mean) * (b - mean);
    }
    sums[0] / (sums[1] * sums[2]).sqrt()
}

fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| numbers[a] == numbers[b]) {
        let rank = before as f64 + (equal.len() as f64 - 1.0) / 2.0;
        equal.iter().for_each(|&i| ranks[i] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn cosines_are_those_of_angles() {
        let right = array![1.0, 0.0];
        assert_eq!(cosine(right.view(), array![3.0, 0.0].view()), 1.0);
        assert_eq!(cosine(right.view(), array![0.0, -2.0].view()), 0.0);
        assert_eq!(cosine(right.view(), array![-1.0, 0.0].view()), -1.0);
        assert!((cosine(right.view(), array![1.0, 1.0].view()) - 0.5f64.sqrt()).abs() < 1e-15);
        assert!(cosine(right.view(), array![0.0, 0.0].view()).is_nan());
        let found = Cosines::of(&[0.5, 1.0, 0.75]);
        assert_eq!((found.texts, found.mean, found.min), (3, 0.75, 0.5));
        let found = Cosines::of(&[0.5, f64::NAN, 0.75]);
        assert!(found.not_a_number == 1 && found.mean.is_nan() && found.worst_percent.is_nan() && found.min.is_nan());
        let found = Cosines::of(&[0.5, 1.0, 0.75]);
        // 0.02 of the way from the first to the second.
        assert!((found.worst_percent - 0.505).abs() < 1e-6);
    }

    #[test]
    fn ranks_of_equal_numbers_are_shared() {
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 7.0]), [1.5, 0.0, 1.5, 3.0]);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        // 1 - 6 (1 + 1) / (4 (16 - 1))
        assert!((rank_correlation(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]) - 0.8).abs() < 1e-15);
        assert!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[test]
    fn lines_of_seven_columns_are_pairs() {
        let found = Labelled::parse("a\tb\tc\t1\t2.5\tA man.\tA \"woman.\tx\ty\n\na\tb\tc\t2\t0\tOne\tTwo\n").unwrap();
        assert_eq!(found.scores, [2.5, 0.0]);
        assert_eq!(found.pairs[0], ["A man.", "A \"woman."]);
        for (text, fragment) in [
            ("a\tb", "line 1: 2 columns"),
            ("a\tb\tc\t1\tmuch\tA\tB", "line 1: the score \"much\""),
            ("a\tb\tc\t1\tNaN\tA\tB", "line 1: the score"),
            ("a\tb\tc\t1\t1\tA\tB", "1 pairs"),
        ] {
            assert!(Labelled::parse(text).unwrap_err().to_string().contains(fragment), "{text}");
        }
    }
}
