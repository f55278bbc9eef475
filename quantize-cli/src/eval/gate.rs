//! A measurement that is repeated with several models of the same original: by a conversion, and to
//! find the tensors that cause most of the divergence.

use std::sync::atomic::AtomicBool;

use qruntime::{CausalLm, Encoder, Network};
use serde::Serialize;

use super::causal::{Reference, evaluate};
use super::encoder::{Cosines, Embedder, cosines, cut_texts};
use super::limits::Limits;
use super::statistics::Summary;
use super::text::{Described, Protocol};
use super::windows::Windows;
use crate::error::{ErrorKind, Result, bail, ensure};
use crate::progress::Progress;

/// The figures of a measurement as they are recorded: the same on every machine.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Figures of a language model.
    LanguageModel {
        /// The text and how it was cut.
        #[serde(flatten)]
        protocol: Described,
        /// The figures.
        #[serde(flatten)]
        summary: Box<Summary>,
    },
    /// Figures of a sentence encoder.
    Encoder {
        /// The figures.
        cosine: Cosines,
        /// Texts that are longer than the encoder reads.
        texts_cut: usize,
    },
}

/// With fewer predictions than this a mean divergence is known to 4 % or less well, and a gate
/// passes by luck.
const FEW_PREDICTIONS: usize = 1000;

/// With fewer texts than this an encoder's figures are as uncertain.
const FEW_TEXTS: usize = 100;

/// Returns a warning if an encoder's figures rest on few texts.
#[must_use]
pub fn few_texts(count: usize) -> Option<String> {
    (count < FEW_TEXTS).then(|| format!("the figures rest on {count} texts; {FEW_TEXTS} or more tell more"))
}

/// Returns a warning if a language model's figures rest on few predictions.
#[must_use]
pub fn few_predictions(count: usize) -> Option<String> {
    (count < FEW_PREDICTIONS)
        .then(|| format!("the figures rest on {count} predictions; {FEW_PREDICTIONS} or more tell more"))
}

impl Figures {
    /// Returns the divergence from the original, 0 for the original itself: the mean KL divergence,
    /// or what the mean cosine lacks to 1.
    #[must_use]
    pub fn divergence(&self) -> f64 {
        match self {
            Self::LanguageModel { summary, .. } => summary.kld.mean,
            Self::Encoder { cosine, .. } => 1.0 - cosine.mean,
        }
    }

    /// The limits that are exceeded, in words.
    #[must_use]
    pub fn beyond(&self, limits: &Limits) -> Vec<String> {
        match self {
            Self::LanguageModel { summary, .. } => limits.exceeded_by(summary),
            Self::Encoder { cosine, .. } => limits.exceeded_by_cosine(cosine),
        }
    }

    /// Returns a warning if the figures rest on little.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::LanguageModel { protocol, .. } => few_predictions(protocol.predictions),
            Self::Encoder { cosine, .. } => few_texts(cosine.texts),
        }
    }
}

/// An original and the questions that models are compared by.
#[derive(Debug)]
pub enum Gate<'a> {
    /// A language model, and the windows that it predicts.
    LanguageModel(&'a CausalLm, Protocol, Windows),
    /// An encoder, and the sentences that it embeds.
    Encoder(&'a Encoder, Vec<&'a str>),
}

impl<'a> Gate<'a> {
    /// Asks an original to predict a text, or to embed its lines, of which `lines` are used at
    /// most.
    ///
    /// # Errors
    /// If the original has no tokenizer, or the text is too short.
    pub fn new(
        original: &'a Network,
        text: &'a str,
        lines: Option<usize>,
        protocol: impl FnOnce(&CausalLm) -> Protocol,
    ) -> Result<Self> {
        match original {
            Network::CausalLm(lm) => {
                let protocol = protocol(lm);
                let windows = protocol.windows(lm, text)?;
                Ok(Self::LanguageModel(lm, protocol, windows))
            }
            Network::Encoder(encoder) => {
                let all = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let lines: Vec<&str> = all.take(lines.unwrap_or(usize::MAX)).collect();
                ensure!(ErrorKind::Text, !lines.is_empty(), "the text has no lines");
                Ok(Self::Encoder(encoder, lines))
            }
            _ => bail!(ErrorKind::Text, "neither a language model nor an encoder"),
        }
    }

    /// Returns the same with fewer questions: so many predictions or sentences, or a few more.
    #[must_use]
    pub fn shortened(&self, count: usize) -> Self {
        match self {
            Self::LanguageModel(lm, protocol, windows) => {
                let mut some = Windows::default();
                for window in windows.iter() {
                    if some.predictions() < count {
                        some.push(window.tokens, window.first);
                    }
                }
                Self::LanguageModel(lm, protocol.clone(), some)
            }
            Self::Encoder(encoder, lines) => Self::Encoder(encoder, lines.iter().copied().take(count).collect()),
        }
    }

    /// Returns the amount of work of a measurement, as its progress counts it.
    #[must_use]
    pub fn steps(&self) -> usize {
        match self {
            Self::LanguageModel(_, _, windows) => 2 * windows.fed(),
            Self::Encoder(_, lines) => lines.len(),
        }
    }

    /// Asks a model the same.
    ///
    /// # Errors
    /// If it is of another kind, or cannot be asked.
    pub fn measure(&self, model: &Network, progress: &dyn Progress, cancelled: &AtomicBool) -> Result<Figures> {
        match (self, model) {
            (Self::LanguageModel(original, protocol, windows), Network::CausalLm(lm)) => {
                let outcome = evaluate(Reference::Model(original), &[lm], windows, None, progress, cancelled)?;
                let summary = Box::new(outcome.models[0].statistics.summary());
                Ok(Figures::LanguageModel { protocol: protocol.describe(windows), summary })
            }
            (Self::Encoder(original, lines), Network::Encoder(encoder)) => {
                let mut models = [Embedder::new(encoder)];
                let found = cosines(&mut Embedder::new(original), &mut models, lines, progress, cancelled)?;
                Ok(Figures::Encoder { cosine: Cosines::of(&found[0]), texts_cut: cut_texts(original, lines)? })
            }
            _ => bail!(ErrorKind::Text, "a model of another kind than the original"),
        }
    }
}
