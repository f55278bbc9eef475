//! One sequence of tokens, and what a network has computed for it.

use std::mem;

use kernels::KvFormat;

use crate::error::Error;
use crate::nn::batch::{Cache, Piece};

/// Options of a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// How keys and values are stored: in half precision, or in 8 bits with half the memory.
    pub kv: KvFormat,
    /// The most tokens that go through the network together. More tokens need more memory; results
    /// are the same. A batch uses the smallest block of its sessions.
    pub block: usize,
    /// The maximum length of the sequence; `None` for
    /// [`LmConfig::default_context`](crate::LmConfig::default_context). It may not exceed
    /// [`LmConfig::context`](crate::LmConfig::context). Memory is taken as the sequence grows.
    pub context: Option<usize>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { kv: KvFormat::F16, block: 512, context: None }
    }
}

impl SessionOptions {
    /// Sets how keys and values are stored.
    #[must_use]
    pub fn kv(self, kv: KvFormat) -> Self {
        Self { kv, ..self }
    }

    /// Sets the most tokens that go through the network together.
    #[must_use]
    pub fn block(self, block: usize) -> Self {
        Self { block, ..self }
    }

    /// Sets the maximum length of the sequence, in tokens.
    #[must_use]
    pub fn context(self, context: usize) -> Self {
        Self { context: Some(context), ..self }
    }
}

/// The limits of a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tokens are below this.
    pub(crate) vocabulary: usize,
    /// The maximum length of the sequence.
    pub(crate) context: usize,
    /// The maximum length of any sequence of the model, for messages.
    pub(crate) longest: usize,
    /// Most tokens that go through the network together.
    pub(crate) block: usize,
}

/// Tokens, the number of them that are computed, their keys and values, and the logits after the
/// last one.
#[derive(Clone)]
pub(crate) struct Sequence {
    limits: Limits,
    cache: Cache,
    tokens: Vec<u32>,
    /// How many of the tokens the cache holds.
    computed: usize,
    /// The logits after the last token; empty if they are not known.
    logits: Vec<f32>,
    /// How many tokens there were before the call that is under way.
    tokens_before: usize,
    /// The logits after those tokens, while such a call is under way.
    logits_before: Vec<f32>,
}

impl Sequence {
    /// Makes an empty sequence with an empty cache.
    pub(crate) fn new(limits: Limits, cache: Cache) -> Self {
        Self {
            limits,
            cache,
            tokens: Vec::new(),
            computed: 0,
            logits: Vec::new(),
            tokens_before: 0,
            logits_before: Vec::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the logits after the last token; empty if they are not known.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Returns the size of keys and values in bytes.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Forgets all tokens from `len` on.
    pub(crate) fn rewind(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.computed = self.computed.min(len);
            self.logits.clear();
        }
    }

    /// Checks tokens to append.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let Limits { vocabulary, context, longest, .. } = self.limits;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        match self.tokens.len().saturating_add(tokens.len()) {
            length if length > context => Err(Error::Context { length, context, longest }),
            0 => Err(Error::NoTokens),
            _ => Ok(()),
        }
    }

    /// Appends checked tokens to compute. If there are none and the logits after the last token are
    /// not known, that token is recomputed.
    pub(crate) fn append(&mut self, tokens: &[u32]) {
        self.tokens_before = self.tokens.len();
        if !tokens.is_empty() {
            self.tokens.extend_from_slice(tokens);
            mem::swap(&mut self.logits, &mut self.logits_before);
            self.logits.clear();
        } else if self.logits.is_empty() {
            self.computed = self.computed.min(self.tokens.len() - 1);
        }
    }

    /// Removes what [`append`](Self::append) has appended.
    fn undo(&mut self) {
        if self.tokens.len() > self.tokens_before {
            self.tokens.truncate(self.tokens_before);
            self.computed = self.computed.min(self.tokens_before);
            mem::swap(&mut self.logits, &mut self.logits_before);
        }
        self.keep();
    }

    /// Keeps what [`append`](Self::append) has appended.
    pub(crate) fn keep(&mut self) {
        self.tokens_before = self.tokens.len();
        self.logits_before.clear();
    }

    /// Returns how many tokens are not computed yet.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Returns the tokens to compute next, at most `most`.
    pub(crate) fn next_piece(&mut self, most: usize) -> Piece<'_> {
        // Discard what a failed or cancelled computation has left.
        self.cache.truncate(self.computed);
        let tokens = &self.tokens[self.computed..];
        let tokens = &tokens[..tokens.len().min(most)];
        Piece { tokens, rows: tokens.len(), start: self.computed, context: self.limits.context, cache: &mut self.cache }
    }

    /// Records that the tokens before a position are computed.
    pub(crate) fn set_computed(&mut self, computed: usize) {
        self.computed = computed;
    }

    /// Keeps the logits after the last token.
    pub(crate) fn set_logits(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
    }
}

/// Removes the appended tokens of sequences when dropped, unless the computation succeeds.
pub(crate) struct Undo<'a, 's>(pub(crate) &'a mut [&'s mut Sequence]);

impl Undo<'_, '_> {
    pub(crate) fn keep(self) {
        self.0.iter_mut().for_each(|sequence| sequence.keep());
    }
}

impl Drop for Undo<'_, '_> {
    fn drop(&mut self) {
        // Sequences that keep their tokens have nothing left to remove.
        self.0.iter_mut().for_each(|sequence| sequence.undo());
    }
}
