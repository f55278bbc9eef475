//! Converts text to tokens and back, as the folder's `tokenizer.json` specifies.

mod call;
mod file;
mod legacy;
mod pattern;
mod plain;
mod search;
mod steps;
mod stream;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{Decoder, Model, PostProcessor, TruncationDirection, TruncationParams};

use crate::error::{Error, FileError, FileErrorKind};
use crate::model_files::ModelFiles;
use call::Mask;
use file::{MAX_FILE, Pipeline};
pub use stream::DecodeStream;

/// The name of a tokenizer's file.
const FILE: &str = "tokenizer.json";

/// A tokenizer, which `tokenizer.json` describes completely, as for transformers since version 5:
/// `add_bos_token` and `add_eos_token` of `tokenizer_config.json` are ignored.
///
/// Cloning is cheap: clones share all large parts.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    pipeline: Pipeline,
    path: PathBuf,
}

impl Tokenizer {
    /// Opens the tokenizer of a folder. Padding and truncation in the file are ignored: they are
    /// for batches of a fixed length. The `dropout` of a BPE model, which makes its tokens random,
    /// is ignored, too: it is for training.
    ///
    /// A folder without `tokenizer.json` may have older files: `vocab.json` and `merges.txt` of
    /// GPT-2, Qwen 2 and 3 or RoBERTa, or `vocab.txt` of BERT. They are read as transformers 5
    /// reads them, with the options and special tokens of `tokenizer_config.json`,
    /// `special_tokens_map.json` and `added_tokens.json`.
    ///
    /// # Errors
    /// If there is none of these files, if it cannot be parsed, or if it exceeds the limits that
    /// keep memory and time in proportion to the file and to texts (`docs/security.md`).
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read(&ModelFiles::at(folder.as_ref())?, |_| ())
    }

    /// Opens the tokenizer of a model like [`open`](Self::open). Before anything is built, `change`
    /// gets an object with the file's normalizer and pre-tokenizer, which it may change, its
    /// truncation and the type of its model.
    pub(crate) fn read(files: &ModelFiles, change: impl FnOnce(&mut Value)) -> Result<Self, Error> {
        if !files.exists(FILE)
            && let Some((json, path)) = legacy::json(files)?
        {
            return Self::new(&json, path, change);
        }
        Self::new(&files.read(FILE, MAX_FILE)?, files.path(FILE), change)
    }

    /// Makes a tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// See [`open`](Self::open). Messages name the file `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self, Error> {
        Self::new(json, FILE.into(), |_| ())
    }

    fn new(json: &[u8], path: PathBuf, change: impl FnOnce(&mut Value)) -> Result<Self, Error> {
        let pipeline = guarded(&path, "not a tokenizer", json.len(), Vec::new(), || file::pipeline(json, change))?;
        Ok(Self(Arc::new(Inner { pipeline, path })))
    }

    /// Cuts texts to `tokens` tokens, including those that are added to them.
    ///
    /// # Errors
    /// If this leaves no room for the tokens that are added.
    pub fn with_limit(self, tokens: usize) -> Result<Self, Error> {
        self.with_limit_at(tokens, false)
    }

    /// Cuts texts like [`with_limit`](Self::with_limit), at their beginnings if `left` is true, or
    /// else at their ends.
    pub(crate) fn with_limit_at(mut self, tokens: usize, left: bool) -> Result<Self, Error> {
        let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
        let params = TruncationParams { max_length: tokens, direction, ..TruncationParams::default() };
        let Inner { pipeline, path } = Arc::make_mut(&mut self.0);
        guarded(path, &format!("texts of {tokens} tokens"), 0, Vec::new(), || {
            // The crate subtracts one from the other.
            let added = pipeline.get_post_processor().map_or(0, |last| last.added_tokens(false));
            match tokens < added {
                true => Err(format!("{added} are added to each").into()),
                false => pipeline.with_truncation(Some(params)).map(drop),
            }
        })?;
        Ok(self)
    }

    /// Converts a text to tokens. With `special`, adds the tokens that the model expects around a
    /// text: one at the beginning and, for some models, one at the end. Anything in the text that
    /// looks like a special token becomes that token; see [`encode_plain`](Self::encode_plain) for
    /// untrusted text.
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text; if normalization makes the text more
    /// than 8 times longer and longer than 64 KiB; or if splitting would read more than 64 times
    /// the text plus 16 MiB.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        self.encode_masked(text, Vec::new(), special)
    }

    /// Converts a partly masked text to tokens.
    fn encode_masked(&self, text: &str, masks: Vec<Mask>, special: bool) -> Result<Vec<u32>, Error> {
        let Inner { pipeline, path } = &*self.0;
        let masked = masks.iter().map(|mask| text.matches(mask.character).count() * mask.text.len());
        let bytes = text.len() + masked.sum::<usize>();
        let encode = || Ok(pipeline.encode_fast(text, special)?.get_ids().to_vec());
        guarded(path, "cannot encode a text", bytes, masks, encode)
    }

    /// Converts a text to tokens, with those that are added to it. Also returns whether it was cut
    /// to the limit.
    pub(crate) fn encode_cut(&self, text: &str) -> Result<(Vec<u32>, bool), Error> {
        let Inner { pipeline, path } = &*self.0;
        let encode = || pipeline.encode_fast(text, true);
        let encoding = guarded(path, "cannot encode a text", text.len(), Vec::new(), encode)?;
        Ok((encoding.get_ids().to_vec(), !encoding.get_overflowing().is_empty()))
    }

    /// Returns whether [`decode`](Self::decode) leaves out a token.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.piece(token).is_none()
    }

    /// Returns the token that is put before every text, if there is one.
    #[must_use]
    pub fn beginning(&self) -> Option<u32> {
        let first = self.encode("", true).ok()?.first().copied()?;
        (self.encode("", false).ok()?.first() != Some(&first)).then_some(first)
    }

    /// Converts tokens to text. Special tokens and numbers that are not tokens are left out.
    ///
    /// # Errors
    /// If the tokenizer fails, or would make the tokens more than 64 times longer.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        let pieces: Vec<String> = tokens.iter().filter_map(|&token| self.piece(token)).collect();
        match self.0.pipeline.get_decoder() {
            // Some of the crate's decoders rely on a first token.
            _ if pieces.is_empty() => Ok(String::new()),
            Some(decoder) => guarded(&self.0.path, "cannot decode tokens", 0, Vec::new(), || decoder.decode(pieces)),
            None => Ok(pieces.join(" ")),
        }
    }

    /// Returns the decoder's input for a token, unless [`decode`](Self::decode) leaves the token
    /// out.
    fn piece(&self, token: u32) -> Option<String> {
        let Inner { pipeline, .. } = &*self.0;
        let added = pipeline.get_added_vocabulary();
        let literal = added.simple_id_to_token(token);
        let is_added = literal.is_some();
        let piece = literal.or_else(|| pipeline.get_model().id_to_token(token))?;
        if added.is_special_token(&piece) {
            return None;
        }
        // An added token is text. Where tokens spell bytes, it must be spelled, too: "é" is the
        // letter, not the byte that it stands for in other tokens.
        let spelled = is_added && pipeline.get_decoder().is_some_and(|decoder| decoder.bytes);
        Some(if spelled { piece.bytes().map(spell).collect() } else { piece })
    }

    /// Returns the ID of a token, which may be a special one such as `<|im_end|>`.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<u32> {
        self.0.pipeline.token_to_id(token)
    }

    /// Starts decoding tokens one by one. `context` holds the tokens before them, on which a space
    /// at the beginning may depend.
    #[must_use]
    pub fn stream(&self, context: &[u32]) -> DecodeStream {
        DecodeStream::new(self.clone(), context)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.0.pipeline.get_vocab_size(true))
    }
}

/// Returns the character that spells a byte in byte-level BPE: printable bytes spell themselves,
/// and the others become the characters from U+0100 on, in their order.
fn spell(byte: u8) -> char {
    let before = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => return char::from(byte),
        0..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        0xad => 0x43,
    };
    char::from_u32(0x100 + u32::from(before)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Runs the crate `tokenizers` on `bytes` of text and turns panics into errors: some files make the
/// crate panic, and a file must not end the program that opens it.
///
/// Unwind safety is asserted because no partial state is visible after a panic: a tokenizer under
/// construction is dropped; one in use is behind `&`, where only caches in locks change, which the
/// crate ignores once they are poisoned.
fn guarded<T>(
    path: &Path,
    what: &str,
    bytes: usize,
    masks: Vec<Mask>,
    call: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, Error> {
    match call::run(bytes, masks, || catch_unwind(AssertUnwindSafe(call))) {
        (_, Some(reason)) => Err(refuse(path, what, reason)),
        (Ok(result), _) => result.map_err(|error| refuse(path, what, error)),
        (Err(_), _) => Err(refuse(path, what, "the crate tokenizers panicked")),
    }
}

fn refuse(path: &Path, what: &str, error: impl fmt::Display) -> Error {
    FileError::new(FileErrorKind::Network, format!("{what}: {error}")).in_file(path).into()
}

#[cfg(test)]
mod tests {
    use super::spell;

    #[test]
    fn bytes_are_spelled_as_the_crate_reads_them() {
        use tokenizers::Decoder;
        let decoder = tokenizers::decoders::byte_level::ByteLevel::default();
        for byte in 0..128 {
            let text = decoder.decode(vec![spell(byte).to_string()]);
            assert_eq!(text.expect("a byte"), char::from(byte).to_string());
        }
        for letter in '\u{80}'..='\u{7ff}' {
            let text = decoder.decode(vec![letter.to_string().bytes().map(spell).collect()]);
            assert_eq!(text.expect("bytes"), letter.to_string());
        }
    }
}
