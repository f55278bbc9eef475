//! Sequences of tokens, with what the network has made of them.

use std::fmt;
use std::iter::FusedIterator;
use std::mem;
use std::ops::ControlFlow;

use kernels::KvFormat;

use crate::error::Error;
use crate::lm::{CausalLm, Watch};
use crate::nn::batch::{Cache, Piece};
use crate::sample::Sampler;

/// How a session keeps and computes its sequence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// How keys and values are stored: in half precision, or in 8 bits at half of the memory.
    pub kv: KvFormat,
    /// How many tokens go through the network together, at most. More need more memory; results are
    /// the same. A batch takes the least of its sessions.
    pub block: usize,
    /// The longest that the sequence may become; `None` for what
    /// [`LmConfig::default_context`](crate::LmConfig::default_context) says. It may not be longer
    /// than [`LmConfig::context`](crate::LmConfig::context). Memory is taken as the sequence grows.
    pub context: Option<usize>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { kv: KvFormat::F16, block: 512, context: None }
    }
}

impl SessionOptions {
    /// With keys and values stored so.
    #[must_use]
    pub fn kv(self, kv: KvFormat) -> Self {
        Self { kv, ..self }
    }

    /// With so many tokens at a time.
    #[must_use]
    pub fn block(self, block: usize) -> Self {
        Self { block, ..self }
    }

    /// With sequences of up to so many tokens.
    #[must_use]
    pub fn context(self, context: usize) -> Self {
        Self { context: Some(context), ..self }
    }
}

/// A sequence of tokens, and the keys and values that the network has for it.
///
/// A clone is a fork: it goes on from here by itself. What is fed or generated later has the same
/// bits as if the whole sequence had been fed at once.
///
/// Whatever appends tokens computes with the threads of rayon's current pool: all of the global
/// pool's, or, within `ThreadPool::install`, those of that pool. The calling thread computes as
/// well; it waits for no other job of the pool and runs none meanwhile, so it may hold a lock. A
/// call that fails, is cancelled or panics leaves the session as it was.
#[derive(Clone)]
pub struct Session {
    pub(crate) lm: CausalLm,
    pub(crate) options: SessionOptions,
    cache: Cache,
    tokens: Vec<u32>,
    /// How many of them the cache holds.
    pub(crate) computed: usize,
    /// After the last token; empty if they are not known.
    logits: Vec<f32>,
    /// How many tokens there were before the call that is under way.
    tokens_before: usize,
    /// The logits after these, while a call is under way that appended others.
    logits_before: Vec<f32>,
}

impl Session {
    pub(crate) fn new(lm: CausalLm, options: SessionOptions, cache: Cache) -> Self {
        Self {
            lm,
            options,
            cache,
            tokens: Vec::new(),
            computed: 0,
            logits: Vec::new(),
            tokens_before: 0,
            logits_before: Vec::new(),
        }
    }

    /// The model.
    #[must_use]
    pub fn lm(&self) -> &CausalLm {
        &self.lm
    }

    /// Appends tokens. Returns the logits after the last: for every token of the vocabulary the
    /// logarithm of how likely it is to come next, but for a constant.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or the sequence would be longer than its context; if
    /// there are no tokens at all; if a result is not finite ([`Error::NotFinite`]) or a key or
    /// value too large for its format ([`Error::CacheRange`]). Nothing is appended then.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check(tokens)?;
        self.append(tokens);
        self.catch_up(Watch::default())
    }

    /// Appends tokens as [`feed`](Self::feed) does, and can be cancelled: `progress` is called
    /// before every layer with the number of `tokens` that have been computed, and the call ends
    /// when it breaks.
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// # let (lm, prompt) = (qruntime::CausalLm::open("model")?, vec![1, 2, 3]);
    /// static CANCELLED: AtomicBool = AtomicBool::new(false); // another thread, or a signal, sets it
    ///
    /// let mut session = lm.session();
    /// let fed = session.feed_with(&prompt, |_computed| match CANCELLED.load(Ordering::Relaxed) {
    ///     true => ControlFlow::Break(()),
    ///     false => ControlFlow::Continue(()),
    /// });
    /// if let Err(qruntime::Error::Cancelled) = fed {
    ///     assert!(session.is_empty()); // as before the call
    /// }
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`feed`](Self::feed), and [`Error::Cancelled`] if `progress` broke off.
    pub fn feed_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<&[f32], Error> {
        self.check(tokens)?;
        self.append(tokens);
        // Tokens that were appended before, and not computed, are none of `tokens`.
        let earlier = self.tokens_before - self.computed;
        let mut progress = |computed: usize| progress(computed.saturating_sub(earlier));
        self.catch_up(Watch { progress: Some(&mut progress), ..Watch::default() })
    }

    /// Appends tokens and tells `each` the logits after every one of them, with its place in
    /// `tokens`: to measure how well a text is foreseen. Takes no more memory for a long text than
    /// for a short one.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32]) + Send) -> Result<(), Error> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        if self.computed < self.tokens.len() {
            self.append(&[]);
            self.catch_up(Watch::default())?;
        }
        let start = self.tokens.len();
        self.append(tokens);
        let mut each = |position: usize, logits: &[f32]| each(position - start, logits);
        self.catch_up(Watch { logits: Some(&mut each), ..Watch::default() })?;
        Ok(())
    }

    /// The logits after the last token, as [`feed`](Self::feed) returned them; empty if they are
    /// not known: before the first token, after [`rewind`](Self::rewind), and while
    /// [`generate`](Self::generate) has appended a token that it has not been asked to go on from.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// How many tokens the sequence has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The longest that the sequence may become.
    #[must_use]
    pub fn context(&self) -> usize {
        let config = self.lm.config();
        self.options.context.unwrap_or(config.default_context).min(config.context)
    }

    /// Bytes that keys and values take.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Forgets all tokens from `len` on. That is cheap, and so is feeding others: those before are
    /// kept.
    pub fn rewind(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.computed = self.computed.min(len);
            self.logits.clear();
        }
    }

    /// Another session with the same tokens, which goes on by itself. What is computed is copied.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Generates tokens that `sampler` chooses until one ends the text
    /// ([`LmConfig::eos`](crate::LmConfig::eos)), which is not appended, or the context is full.
    /// Each token is appended when it is yielded, and computed when the next one is requested.
    /// [`Generate::finish_reason`] says why there are no more.
    ///
    /// ```no_run
    /// use qruntime::{FinishReason, Greedy};
    ///
    /// # let mut session = qruntime::CausalLm::open("model")?.session();
    /// let mut greedy = Greedy;
    /// let mut generate = session.generate(&mut greedy);
    /// let tokens: Vec<u32> = generate.by_ref().take(100).collect::<Result<_, _>>()?;
    /// match generate.finish_reason() {
    ///     Some(FinishReason::EndOfText(_)) => println!("the end"),
    ///     Some(FinishReason::ContextFull) => println!("no room for more"),
    ///     _ => println!("100 tokens, and there could be more"),
    /// }
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// Errors are those of [`feed`](Self::feed). After one the sequence is as it was when the token
    /// was requested.
    pub fn generate<'s, S: Sampler + ?Sized>(&'s mut self, sampler: &'s mut S) -> Generate<'s, S> {
        Generate { session: self, sampler, finish_reason: None }
    }

    /// Checks tokens that are to be appended.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let config = self.lm.config();
        let vocabulary = config.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let length = self.tokens.len().saturating_add(tokens.len());
        match self.context() {
            context if length > context => Err(Error::Context { length, context, longest: config.context }),
            _ if length == 0 => Err(Error::NoTokens),
            _ => Ok(()),
        }
    }

    /// Appends tokens that have been checked, to be computed by [`CausalLm::catch_up`]. Sees to it
    /// that the logits after the last one are computed if they are not known.
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

    /// Takes back what [`append`](Self::append) has appended.
    pub(crate) fn undo(&mut self) {
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

    fn catch_up(&mut self, watch: Watch<'_>) -> Result<&[f32], Error> {
        let lm = self.lm.clone();
        lm.catch_up(&mut [&mut *self], watch)?;
        Ok(&self.logits)
    }

    /// Whether all tokens are computed.
    pub(crate) fn is_complete(&self) -> bool {
        self.computed == self.tokens.len()
    }

    /// Keeps the logits after the last token.
    pub(crate) fn remember(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
    }

    /// The tokens to be computed next, at most so many.
    pub(crate) fn next_piece(&mut self, most: usize) -> Piece<'_> {
        let context = self.context();
        // What a failed or abandoned computation has left there is not trusted.
        self.cache.truncate(self.computed);
        let tokens = &self.tokens[self.computed..];
        Piece { tokens: &tokens[..tokens.len().min(most)], start: self.computed, context, cache: &mut self.cache }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} tokens of {:?})", self.len(), self.lm)
    }
}

/// Why a generation came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The sampler chose this token, which ends a text ([`LmConfig::eos`](crate::LmConfig::eos)).
    /// It is not appended.
    EndOfText(u32),
    /// The sequence is as long as its context ([`Session::context`]).
    ContextFull,
    /// The iterator returned an error.
    Failed,
}

/// The tokens of [`Session::generate`].
#[derive(Debug)]
pub struct Generate<'s, S: ?Sized> {
    session: &'s mut Session,
    sampler: &'s mut S,
    finish_reason: Option<FinishReason>,
}

impl<S: ?Sized> Generate<'_, S> {
    /// Why the iterator has ended; `None` before it has. A caller that stops asking is one reason
    /// that it does not know.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }
}

impl<S: Sampler + ?Sized> Generate<'_, S> {
    /// Chooses the next token and appends it.
    fn advance(&mut self) -> Result<Result<u32, FinishReason>, Error> {
        if self.session.len() >= self.session.context() {
            return Ok(Err(FinishReason::ContextFull));
        }
        self.session.feed(&[])?;
        let token = self.sampler.sample(&self.session.logits, &self.session.tokens);
        if self.session.lm.config().eos.contains(&token) {
            return Ok(Err(FinishReason::EndOfText(token)));
        }
        self.session.check(&[token])?;
        self.session.append(&[token]);
        self.session.keep();
        Ok(Ok(token))
    }
}

impl<S: Sampler + ?Sized> Iterator for Generate<'_, S> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish_reason.is_some() {
            return None;
        }
        match self.advance() {
            Ok(Ok(token)) => Some(Ok(token)),
            Ok(Err(reason)) => {
                self.finish_reason = Some(reason);
                None
            }
            Err(error) => {
                self.finish_reason = Some(FinishReason::Failed);
                Some(Err(error))
            }
        }
    }
}

impl<S: Sampler + ?Sized> FusedIterator for Generate<'_, S> {}
