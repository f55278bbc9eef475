//! Language models beside a reference, over a text: all of them go through a window together, so
//! that no logits are stored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qruntime::{CausalLm, Session, SessionOptions};
use rayon::prelude::*;

use super::logits_file::{LogitsReader, LogitsWriter};
use super::statistics::{Answer, Moments, Perplexity, Prediction, Statistics, nll};
use super::windows::Windows;
use crate::error::{ErrorKind, Result, bail, ensure};
use crate::progress::Progress;

/// Logits that are kept at a time of the reference, and of a model: 64 MB each.
const LOGITS: usize = 16 << 20;

/// Tokens that are fed at a time, at most.
const BLOCK: usize = 512;

/// The reference that models are measured against.
#[derive(Debug)]
pub enum Reference<'a> {
    /// The original network.
    Model(&'a CausalLm),
    /// A file with its logits for the windows that the file names.
    File(&'a mut LogitsReader),
}

impl Reference<'_> {
    fn vocabulary(&self) -> usize {
        match self {
            Self::Model(lm) => lm.config().vocab_size,
            Self::File(reader) => reader.vocabulary(),
        }
    }
}

/// The result of an evaluation.
#[derive(Debug)]
pub struct Outcome {
    /// The figures of every model.
    pub models: Vec<Measured>,
    /// The time that the reference took, if it was computed.
    pub reference: Option<Duration>,
}

/// The figures of one model.
#[derive(Debug)]
pub struct Measured {
    /// Its answers beside the reference's.
    pub statistics: Statistics,
    /// The time that computing them took.
    pub time: Duration,
}

/// Feeds windows to a reference and to some models, and compares what they say. The reference's
/// logits go into `save`, too.
///
/// `progress` counts the tokens fed to all of them; when `cancelled` becomes true, it ends with an
/// error.
///
/// # Errors
/// If vocabularies differ, a window is longer than a model's context or has a token that is none of
/// its own, or a file cannot be read or written.
pub fn evaluate(
    mut reference: Reference<'_>,
    models: &[&CausalLm],
    windows: &Windows,
    mut save: Option<&mut LogitsWriter>,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Outcome> {
    let vocabulary = reference.vocabulary();
    for lm in models {
        let found = lm.config().vocab_size;
        ensure!(
            ErrorKind::Text,
            found == vocabulary,
            "a vocabulary of {found} tokens, but the reference has one of {vocabulary}"
        );
    }
    check_tokens(windows, vocabulary)?;
    let block = (LOGITS / vocabulary.max(1)).clamp(1, BLOCK);
    let (mut expected, mut found) = (vec![], vec![]);
    let mut reference_time = Duration::ZERO;
    let new = |_: &&CausalLm| Measured { statistics: Statistics::default(), time: Duration::ZERO };
    let mut measured: Vec<Measured> = models.iter().map(new).collect();

    for window in windows.iter() {
        let mut teacher = match &reference {
            Reference::Model(lm) => Some(Contestant::new(lm)),
            Reference::File(_) => None,
        };
        let mut students: Vec<Contestant> = models.iter().map(|lm| Contestant::new(lm)).collect();
        let fed = &window.tokens[..window.tokens.len() - 1];
        let (before, predicting) = fed.split_at(window.first);
        for contestant in teacher.iter_mut().chain(&mut students) {
            contestant.feed(before)?;
        }
        advance(progress, before, &measured, &teacher);
        for (i, tokens) in predicting.chunks(block).enumerate() {
            if cancelled.load(Ordering::Relaxed) {
                bail!(ErrorKind::Cancelled, "interrupted");
            }
            let mut rounded = false;
            match (&mut reference, &mut teacher) {
                (_, Some(teacher)) => teacher.answer(tokens, vocabulary, &mut expected)?,
                (Reference::File(reader), None) => rounded = read(reader, tokens.len(), vocabulary, &mut expected)?,
                (Reference::Model(_), None) => unreachable!("a model has a session"),
            }
            if let Some(save) = &mut save {
                expected.chunks(vocabulary).try_for_each(|row| save.write(row))?;
            }
            let came = &window.tokens[window.first + i * block + 1..][..tokens.len()];
            for (student, measured) in students.iter_mut().zip(&mut measured) {
                student.answer(tokens, vocabulary, &mut found)?;
                let rows = expected.par_chunks(vocabulary).zip(found.par_chunks(vocabulary)).zip(came);
                let compare = |((expected, found), &token)| {
                    let expected = if rounded { Answer::Rounded(expected) } else { Answer::Logits(expected) };
                    Prediction::compare(expected, found, token)
                };
                let predictions: Vec<Prediction> = rows.map(compare).collect();
                predictions.iter().for_each(|prediction| measured.statistics.add(prediction));
            }
            advance(progress, tokens, &measured, &teacher);
        }
        for (student, measured) in students.iter().zip(&mut measured) {
            measured.time += student.time;
        }
        reference_time += teacher.map_or(Duration::ZERO, |teacher| teacher.time);
    }
    let computed = matches!(reference, Reference::Model(_));
    Ok(Outcome { models: measured, reference: computed.then_some(reference_time) })
}

/// Measures how well a model predicts windows, without a reference.
#[derive(Debug)]
pub struct Predicted {
    /// Its perplexity; NaN if any logits are.
    pub perplexity: Perplexity,
    /// Predictions at which the model's logits are not numbers.
    pub not_a_number: usize,
    /// The time that the model took.
    pub time: Duration,
}

/// Feeds windows to a model alone and adds up how likely it thought the tokens that came.
///
/// `progress` counts the tokens fed; when `cancelled` becomes true, it ends with an error.
///
/// # Errors
/// If a window is longer than the model's context or has a token that is none of its own.
pub fn perplexity(
    lm: &CausalLm,
    windows: &Windows,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Predicted> {
    let vocabulary = lm.config().vocab_size;
    check_tokens(windows, vocabulary)?;
    let block = (LOGITS / vocabulary.max(1)).clamp(1, BLOCK);
    let (mut sum, mut not_a_number, mut time) = (Moments::default(), 0, Duration::ZERO);
    let mut logits = vec![];
    for window in windows.iter() {
        let mut student = Contestant::new(lm);
        let fed = &window.tokens[..window.tokens.len() - 1];
        let (before, predicting) = fed.split_at(window.first);
        student.feed(before)?;
        progress.advance(before.len() as u64, "");
        for (i, tokens) in predicting.chunks(block).enumerate() {
            if cancelled.load(Ordering::Relaxed) {
                bail!(ErrorKind::Cancelled, "interrupted");
            }
            student.answer(tokens, vocabulary, &mut logits)?;
            let came = &window.tokens[window.first + i * block + 1..][..tokens.len()];
            let rows = logits.par_chunks(vocabulary).zip(came);
            let found: Vec<f64> = rows.map(|(logits, &token)| nll(logits, token)).collect();
            not_a_number += found.iter().filter(|nll| nll.is_nan()).count();
            found.iter().for_each(|&nll| sum.add(nll));
            progress.advance(tokens.len() as u64, &format!("perplexity so far {:.3}", libm::exp(sum.mean())));
        }
        time += student.time;
    }
    Ok(Predicted { perplexity: Perplexity::of(&sum), not_a_number, time })
}

fn check_tokens(windows: &Windows, vocabulary: usize) -> Result<()> {
    if let Some(token) = windows.highest().filter(|&token| token as usize >= vocabulary) {
        bail!(ErrorKind::Text, "the text has the token {token}, but the vocabulary only {vocabulary}");
    }
    Ok(())
}

/// Counts tokens, and tells the mean divergence so far of the first model.
fn advance(progress: &dyn Progress, tokens: &[u32], measured: &[Measured], teacher: &Option<Contestant>) {
    let contestants = measured.len() + usize::from(teacher.is_some());
    let kld = measured.first().map(|first| first.statistics.mean_kld()).filter(|kld| !kld.is_nan());
    let so_far = kld.map_or_else(String::new, |kld| format!("KL divergence so far {kld:.5}"));
    progress.advance((tokens.len() * contestants) as u64, &so_far);
}

/// A network in a window, and how long it has worked.
struct Contestant {
    session: Session,
    time: Duration,
}

impl Contestant {
    fn new(lm: &CausalLm) -> Self {
        Self { session: lm.session_with(SessionOptions::default().block(BLOCK)), time: Duration::ZERO }
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            let start = Instant::now();
            self.session.feed(tokens)?;
            self.time += start.elapsed();
        }
        Ok(())
    }

    /// Feeds tokens and keeps the logits after each.
    fn answer(&mut self, tokens: &[u32], vocabulary: usize, rows: &mut Vec<f32>) -> Result<()> {
        rows.clear();
        rows.reserve(tokens.len() * vocabulary);
        let start = Instant::now();
        self.session.feed_each(tokens, |_, logits| rows.extend_from_slice(logits))?;
        self.time += start.elapsed();
        Ok(())
    }
}

/// Reads rows of a file; whether they are rounded as llama.cpp does.
fn read(reader: &mut LogitsReader, count: usize, vocabulary: usize, rows: &mut Vec<f32>) -> Result<bool> {
    rows.clear();
    rows.reserve(count * vocabulary);
    let mut rounded = false;
    for _ in 0..count {
        match reader.next_row()? {
            Answer::Logits(row) => rows.extend_from_slice(row),
            Answer::Rounded(row) => {
                rounded = true;
                rows.extend_from_slice(row);
            }
        }
    }
    Ok(rounded)
}
