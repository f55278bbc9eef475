//! From a text to what is fed: the protocol of a measurement.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use qruntime::CausalLm;
use serde::Serialize;

use super::windows::{Score, Windows};

/// The longest text, in bytes: all of it is in memory as tokens.
const MAX_TEXT: u64 = 64 << 20;

/// How a text becomes windows.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Tokens of a window; of a document, at most.
    pub ctx: usize,
    /// What is counted of a window.
    pub score: Score,
    /// What separates the documents, each a window of its own, if the text has any.
    pub documents: Option<String>,
    /// How many windows are used, at most.
    pub limit: Option<usize>,
}

/// A protocol and what it came to, in words and numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// How the text was cut and scored.
    pub protocol: String,
    /// How many windows.
    pub windows: usize,
    /// How many predictions.
    pub predictions: usize,
}

impl Protocol {
    /// Cuts a text.
    ///
    /// # Errors
    /// If the model has no tokenizer, its context is too short, or the text is too short to predict anything.
    pub fn windows(&self, lm: &CausalLm, text: &str) -> Result<Windows> {
        let context = lm.config().default_context;
        ensure!(self.ctx <= context, "windows of {} tokens, but the model's context is {context}", self.ctx);
        let tokenizer = lm.tokenizer()?;
        let bos = tokenizer.beginning();
        let windows = match &self.documents {
            Some(separator) => {
                let documents = text.split(separator.as_str()).map(str::trim).filter(|text| !text.is_empty());
                let documents = documents.take(self.limit.unwrap_or(usize::MAX));
                let tokens = documents.map(|text| Ok(tokenizer.encode(text, false)?)).collect::<Result<Vec<_>>>()?;
                Windows::of_documents(&tokens, self.ctx, bos, self.score)
            }
            None => {
                let mut tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode(text, false)?).collect();
                if let Some(limit) = self.limit {
                    tokens.truncate(limit.saturating_mul(self.ctx));
                }
                Windows::of_text(tokens, self.ctx, bos, self.score)
            }
        };
        ensure!(windows.predictions() > 0, "the text is too short: not one window of {} tokens", self.ctx);
        Ok(windows)
    }

    /// What was done.
    #[must_use]
    pub fn describe(&self, windows: &Windows) -> Described {
        let scored = match self.score {
            Score::Half => "the second half scored",
            Score::All => "every token after the first scored",
        };
        let protocol = match &self.documents {
            Some(separator) => format!(
                "documents separated by {separator:?}, each from an empty context, cut to {} tokens, {scored}",
                self.ctx
            ),
            None => format!("windows of {} tokens that do not overlap, {scored}", self.ctx),
        };
        Described { protocol, windows: windows.iter().count(), predictions: windows.predictions() }
    }
}

/// Reads a text.
///
/// # Errors
/// If it cannot be read, is longer than 64 MiB, or is not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).with_context(context)?;
    ensure!(metadata.is_file(), "cannot read {}: not an ordinary file", path.display());
    let bytes = metadata.len();
    ensure!(bytes <= MAX_TEXT, "{}: {bytes} bytes of text, expected at most {MAX_TEXT}", path.display());
    fs::read_to_string(path).with_context(context)
}
