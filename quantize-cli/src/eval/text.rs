//! The protocol of a measurement: how a text is cut into windows and scored.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use qruntime::CausalLm;
use serde::Serialize;

use super::windows::{Score, Windows};
use crate::error::{Context, ErrorKind, Result, ensure};
use crate::report::quoted;

/// The longest text, in bytes: all of it is in memory as tokens.
const MAX_TEXT: u64 = 64 << 20;

/// A way of cutting a text into windows.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Tokens of a window; of a document, at most.
    pub ctx: usize,
    /// The part of a window that is scored.
    pub score: Score,
    /// The mark between documents, each a window of its own, if the text has any.
    pub documents: Option<String>,
    /// The most windows that are used.
    pub limit: Option<usize>,
}

/// A protocol and its counts, in words and numbers: they are reported with every figure.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// How the text was cut and scored, in words.
    pub protocol: String,
    /// The most tokens of a window.
    pub context: usize,
    /// The part of a window that was scored: `half` or `all`.
    pub score: Option<Score>,
    /// The mark between documents, if each was a window.
    pub documents: Option<String>,
    /// The number of windows.
    pub windows: usize,
    /// The number of predictions.
    pub predictions: usize,
    /// Tokens of the text; of documents that a limit left out none is counted.
    pub text_tokens: Option<usize>,
    /// Tokens of the text that were fed or predicted.
    pub text_tokens_used: Option<usize>,
    /// Documents that are longer than a window and lost their end.
    pub documents_cut: Option<usize>,
}

impl Described {
    /// Describes windows that came out of a file of logits.
    #[must_use]
    pub fn of_file(windows: &Windows) -> Self {
        Self {
            protocol: "the windows of the file of logits".into(),
            context: windows.iter().map(|window| window.tokens.len()).max().unwrap_or(0),
            score: None,
            documents: None,
            windows: windows.iter().count(),
            predictions: windows.predictions(),
            text_tokens: None,
            text_tokens_used: None,
            documents_cut: None,
        }
    }

    /// Says how much was predicted: `40 documents, 7491 predictions; 7531 of 7600 tokens of
    /// the text used`.
    #[must_use]
    pub fn counts(&self) -> String {
        let kind = if self.documents.is_some() { "documents" } else { "windows" };
        let mut words = format!("{} {kind}, {} predictions", self.windows, self.predictions);
        if let (Some(used), Some(all)) = (self.text_tokens_used, self.text_tokens) {
            words.push_str(&format!("; {used} of {all} tokens of the text used"));
        }
        if let Some(cut) = self.documents_cut.filter(|&cut| cut > 0) {
            words.push_str(&format!("; {cut} documents cut to {} tokens", self.context));
        }
        words
    }
}

impl Protocol {
    /// Cuts a text.
    ///
    /// # Errors
    /// If the model has no tokenizer, its context is too short, the mark between documents never
    /// occurs, or the text is too short to predict anything.
    pub fn windows(&self, lm: &CausalLm, text: &str) -> Result<Windows> {
        let context = lm.config().default_context;
        ensure!(
            ErrorKind::Text,
            self.ctx <= context,
            "windows of {} tokens, but the model's context is {context}",
            self.ctx
        );
        let tokenizer = lm.tokenizer()?;
        let bos = tokenizer.beginning();
        let windows = match &self.documents {
            Some(separator) => {
                check_mark(separator, text, self.ctx)?;
                let documents = text.split(separator.as_str()).map(str::trim).filter(|text| !text.is_empty());
                let documents = documents.take(self.limit.unwrap_or(usize::MAX));
                let tokens = documents.map(|text| Ok(tokenizer.encode(text, false)?)).collect::<Result<Vec<_>>>()?;
                Windows::of_documents(&tokens, self.ctx, bos, self.score)
            }
            None => {
                let text = tokenizer.encode(text, false)?;
                let all = text.len();
                let mut tokens: Vec<u32> = bos.into_iter().chain(text).collect();
                if let Some(limit) = self.limit {
                    tokens.truncate(limit.saturating_mul(self.ctx));
                }
                Windows::of_text(tokens, self.ctx, bos, self.score).out_of(all)
            }
        };
        ensure!(
            ErrorKind::Text,
            windows.predictions() > 0,
            "the text is too short: not one window of {} tokens",
            self.ctx
        );
        Ok(windows)
    }

    /// Describes what was done.
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
        let coverage = windows.coverage();
        Described {
            protocol,
            context: self.ctx,
            score: Some(self.score),
            documents: self.documents.clone(),
            windows: windows.iter().count(),
            predictions: windows.predictions(),
            text_tokens: coverage.map(|coverage| coverage.tokens),
            text_tokens_used: coverage.map(|coverage| coverage.used),
            documents_cut: coverage.filter(|_| self.documents.is_some()).map(|coverage| coverage.cut),
        }
    }
}

/// Refuses a mark between documents that the text does not have: all of it would be one document,
/// of which only the beginning is scored.
fn check_mark(mark: &str, text: &str, ctx: usize) -> Result<()> {
    ensure!(
        ErrorKind::Text,
        !mark.is_empty(),
        "--documents= names an empty mark, expected the text between two documents"
    );
    ensure!(
        ErrorKind::Text,
        text.contains(mark),
        "--documents: the mark {mark:?} never occurs in the text, of which only the first {ctx} tokens would be \
         scored; leave out --documents to score all of it, or name the text's own mark (--documents=MARK)"
    );
    Ok(())
}

/// The path that stands for stdin.
const STDIN: &str = "-";

/// The name of a text, as figures quote it: the file's own, without its folder.
#[must_use]
pub fn name(path: &Path) -> String {
    match path.to_str() {
        Some(STDIN) => "stdin".into(),
        _ => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    }
}

/// Reads a text from a file or a pipe; `-` is stdin.
///
/// # Errors
/// If it cannot be read, is longer than 64 MiB, or is not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", quoted(path));
    let mut bytes = vec![];
    let read = |from: &mut dyn Read, bytes: &mut Vec<u8>| from.take(MAX_TEXT + 1).read_to_end(bytes);
    let length = match path.to_str() {
        Some(STDIN) => read(&mut io::stdin().lock(), &mut bytes),
        _ => File::open(path).and_then(|mut file| read(&mut file, &mut bytes)),
    };
    let length = length.with_context(ErrorKind::Io, context)? as u64;
    ensure!(
        ErrorKind::Text,
        length <= MAX_TEXT,
        "{}: more than {MAX_TEXT} bytes of text, the most that is read",
        quoted(path)
    );
    String::from_utf8(bytes).with_context(ErrorKind::Text, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_must_occur() {
        assert!(check_mark("<|endoftext|>", "One.<|endoftext|>Two.", 512).is_ok());
        let message = |mark| check_mark(mark, "One. Two.", 256).unwrap_err().to_string();
        let never = message("<|endoftext|>");
        assert!(never.contains("\"<|endoftext|>\" never occurs") && never.contains("first 256 tokens"), "{never}");
        assert!(never.contains("leave out --documents"), "{never}");
        assert!(message("").contains("empty mark"));
    }

    #[test]
    fn a_missing_file_is_no_useless_text() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let kind = |path: &Path| read(path).expect_err("no text").kind();
        assert_eq!(kind(&folder.path().join("none.txt")), ErrorKind::Io);
        let path = folder.path().join("latin1.txt");
        std::fs::write(&path, [b'a', 0xe9])?;
        assert_eq!(kind(&path), ErrorKind::Text);
        let labelled = crate::eval::encoder::Labelled::read(&folder.path().join("none.tsv"));
        assert_eq!(labelled.expect_err("no file").kind(), ErrorKind::Io);
        Ok(())
    }

    #[test]
    fn a_text_is_called_by_its_file() {
        assert_eq!(name(Path::new("some/where/heldout.txt")), "heldout.txt");
        assert_eq!((name(Path::new("-")), name(Path::new("/dev/stdin"))), ("stdin".into(), "stdin".into()));
    }
}
