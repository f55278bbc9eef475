//! Tokens from text and back, as the folder's `tokenizer.json` says.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{PostProcessor, Tokenizer as Pipeline, TruncationDirection, TruncationParams};

use super::{MAX_TEXT, special};
use crate::checkpoint::{read_json_within, read_text};
use crate::container::MAX_HEADER;
use crate::error::{Error, FileError, FileErrorKind};

/// A tokenizer: `tokenizer.json`, and from `tokenizer_config.json` beside it whether a text begins with a token of its own.
pub struct Tokenizer {
    pipeline: Pipeline,
    path: PathBuf,
    /// What `tokenizer_config.json` says about a first token, where the pipeline may know nothing of it.
    bos: Option<(u32, bool)>,
}

impl Tokenizer {
    /// Opens the tokenizer of a folder. Padding and truncation that the file asks for are left out: they belong to batches of a fixed length.
    ///
    /// # Errors
    /// If there is no `tokenizer.json` or it cannot be understood.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_changed(folder.as_ref(), |_| false)
    }

    /// The same, with the file changed before anything is made of it, if `change` says that it has changed something.
    pub(super) fn open_changed(folder: &Path, change: impl FnOnce(&mut Value) -> bool) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let bytes = changed(read_text(&path, MAX_HEADER)?, change);
        let pipeline = guarded(&path, "not a tokenizer", || {
            let mut pipeline = Pipeline::from_bytes(bytes)?;
            pipeline.with_padding(None);
            pipeline.with_truncation(None)?;
            Ok(pipeline)
        })?;
        let config = folder.join("tokenizer_config.json");
        let bos = match config.exists() {
            true => first_token(&read_json_within(&config, MAX_TEXT)?, &pipeline),
            false => None,
        };
        Ok(Self { pipeline, path, bos })
    }

    /// Cuts texts to `tokens`, those that are added to them included.
    ///
    /// # Errors
    /// If that leaves no room for the tokens that are added.
    pub fn with_limit(self, tokens: usize) -> Result<Self, Error> {
        self.with_limit_at(tokens, false)
    }

    /// The same; texts lose their beginnings if `left` is true, or else their ends.
    pub(super) fn with_limit_at(mut self, tokens: usize, left: bool) -> Result<Self, Error> {
        let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
        let params = TruncationParams { max_length: tokens, direction, ..TruncationParams::default() };
        let Self { pipeline, path, .. } = &mut self;
        guarded(path, &format!("texts of {tokens} tokens"), || {
            // The crate subtracts one from the other.
            let added = pipeline.get_post_processor().map_or(0, |last| last.added_tokens(false));
            match tokens < added {
                true => Err(format!("{added} are added to each").into()),
                false => pipeline.with_truncation(Some(params)).map(drop),
            }
        })?;
        Ok(self)
    }

    /// The tokens of a text. With `special`, those are added that the model expects around a text: one at the beginning, for some models one at the end. What looks
    /// like a special token in the text becomes that token.
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let encode = || Ok(self.pipeline.encode(text, special)?.get_ids().to_vec());
        let mut tokens = guarded(&self.path, "cannot encode a text", encode)?;
        if let Some((bos, wanted)) = self.bos.filter(|_| special) {
            match tokens.first() == Some(&bos) {
                false if wanted => tokens.insert(0, bos),
                // The text may begin with it by itself.
                true if !wanted && self.encode(text, false)?.first() != Some(&bos) => drop(tokens.remove(0)),
                _ => {}
            }
        }
        Ok(tokens)
    }

    /// The tokens of a text with those that are added to it, and whether it was cut to the limit.
    pub(super) fn encode_cut(&self, text: &str) -> Result<(Vec<u32>, bool), Error> {
        let encoding = guarded(&self.path, "cannot encode a text", || self.pipeline.encode_fast(text, true))?;
        Ok((encoding.get_ids().to_vec(), !encoding.get_overflowing().is_empty()))
    }

    /// Whether a token is one that [`decode`](Self::decode) leaves out.
    pub(super) fn is_special(&self, token: u32) -> bool {
        !self.is_text(token)
    }

    /// The token that is put before every text, if one is.
    #[must_use]
    pub fn beginning(&self) -> Option<u32> {
        let first = self.encode("", true).ok()?.first().copied()?;
        (self.encode("", false).ok()?.first() != Some(&first)).then_some(first)
    }

    /// The text of tokens, special ones left out. Numbers that are no tokens are left out, too.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        guarded(&self.path, "cannot decode tokens", || self.pipeline.decode(tokens, true))
    }

    /// Whether a token is one that [`decode`](Self::decode) does not leave out.
    fn is_text(&self, token: u32) -> bool {
        let text = self.pipeline.id_to_token(token);
        text.is_some_and(|text| !self.pipeline.get_added_vocabulary().is_special_token(&text))
    }

    /// The number of a token, special ones included: `<|im_end|>`.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// Decodes tokens one by one. `context` is what comes before them: whether a text begins with a space may depend on it.
    #[must_use]
    pub fn stream(&self, context: &[u32]) -> DecodeStream<'_> {
        let tokens = context[context.len().saturating_sub(CONTEXT)..].to_vec();
        DecodeStream { tokenizer: self, known: tokens.len(), tokens }
    }
}

/// How many tokens of the past a stream looks at.
const CONTEXT: usize = 8;

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.pipeline.get_vocab_size(true))
    }
}

/// What `tokenizer_config.json` says about a first token: which one, and whether a text gets it.
fn first_token(config: &Value, pipeline: &Pipeline) -> Option<(u32, bool)> {
    let wanted = config.get("add_bos_token")?.as_bool()?;
    Some((pipeline.token_to_id(special(config, "bos_token")?)?, wanted))
}

/// The text of a file after a change. What is not JSON stays as it is, to be refused as such.
fn changed(text: Vec<u8>, change: impl FnOnce(&mut Value) -> bool) -> Vec<u8> {
    let mut file = serde_json::from_slice(&text).unwrap_or_default();
    if change(&mut file) { file.to_string().into_bytes() } else { text }
}

/// What the crate `tokenizers` gives. Some files make it panic where others give an error; a file must not end the program that opens it.
///
/// Nothing half done is seen after a panic, which is what is asserted here: a tokenizer that is being made is dropped; one that is used is behind `&`, and what changes
/// there are caches in locks, which that crate passes by once they are poisoned.
fn guarded<T>(path: &Path, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| refuse(path, what, error)),
        Err(_) => Err(refuse(path, what, "the crate tokenizers panicked")),
    }
}

fn refuse(path: &Path, what: &str, error: impl fmt::Display) -> Error {
    FileError::new(FileErrorKind::Network, format!("{what}: {error}")).in_file(path).into()
}

/// Text from tokens that come one by one. A character may be several tokens long: what is not complete is held back.
#[derive(Clone, Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// What comes before the text to come, and the tokens of which no text has been given yet.
    tokens: Vec<u32>,
    /// How many of them are of the first kind.
    known: usize,
}

impl DecodeStream<'_> {
    /// The next token. Returns the text that is complete with it, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<String, Error> {
        if !self.tokenizer.is_text(token) {
            return Ok(String::new());
        }
        self.tokens.push(token);
        let text = self.new_text()?;
        let may_grow = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
        if may_grow && self.tokens.len() < self.known + LONGEST {
            return Ok(String::new());
        }
        // What has been given is the context of what comes.
        self.tokens.drain(..self.known);
        self.known = self.tokens.len();
        Ok(text)
    }

    /// What is held back, at the end of a text: with a replacement character for one that is not complete.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(self) -> Result<String, Error> {
        self.new_text()
    }

    /// The text of the tokens that are not known yet.
    fn new_text(&self) -> Result<String, Error> {
        let before = self.tokenizer.decode(&self.tokens[..self.known])?;
        let mut text = self.tokenizer.decode(&self.tokens)?;
        // A character that began in the context ends differently there.
        let same = before.char_indices().zip(text.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        text.drain(..same.unwrap_or(before.len()).min(text.len()));
        Ok(text)
    }
}

/// Tokens after which a character that is still not complete never will be.
const LONGEST: usize = 8;
