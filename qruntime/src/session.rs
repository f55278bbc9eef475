//! Sequences of tokens, with what the network has computed for them.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;

use ndarray::Array2;

use crate::error::Error;
use crate::lm::{CausalLm, Watch};
use crate::sample::Sampler;
use crate::sequence::{Sequence, SessionOptions};

/// A sequence of tokens, with the keys and values that the network has computed for it.
///
/// A clone is a fork: it continues independently. Whatever is fed or generated later, the results
/// have the same bits as if the whole sequence had been fed at once.
///
/// Methods that append tokens compute on the threads of rayon's current pool: the global pool, or
/// within `ThreadPool::install`, that pool. The calling thread computes as well; it neither waits
/// for nor runs other jobs of the pool, so it may hold a lock. A call that fails, is cancelled or
/// panics leaves the session as it was.
#[derive(Clone)]
pub struct Session {
    lm: CausalLm,
    sequence: Sequence,
}

impl CausalLm {
    /// Starts an empty sequence.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session_with(SessionOptions::default())
    }

    /// Starts an empty sequence with the given options.
    #[must_use]
    pub fn session_with(&self, options: SessionOptions) -> Session {
        let sequence = Sequence::new(self.limits(&options), self.cache(options.kv));
        Session { lm: self.clone(), sequence }
    }

    /// Appends tokens to several sequences and computes them together, which is faster than one
    /// after the other. Each may already have any number of tokens and get any number more.
    ///
    /// Returns the logits after the last token of each sequence, one row for each.
    ///
    /// # Errors
    /// See [`Session::feed`]; the first failing sequence is reported. Also if a session belongs to
    /// another model; a model made by [`with_isa`](Self::with_isa) counts as another. On error, no
    /// sequence is changed.
    pub fn feed_batch(&self, batch: &mut [(&mut Session, &[u32])]) -> Result<Array2<f32>, Error> {
        self.feed_batch_watched(batch, Watch::default())
    }

    /// Feeds a batch as [`feed_batch`](Self::feed_batch) does, but can be cancelled. `progress` is
    /// called before every layer with the number of tokens computed so far in all sequences; if it
    /// breaks, the call ends.
    ///
    /// # Errors
    /// See [`feed_batch`](Self::feed_batch); and [`Error::Cancelled`] if `progress` breaks.
    pub fn feed_batch_with(
        &self,
        batch: &mut [(&mut Session, &[u32])],
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Array2<f32>, Error> {
        self.feed_batch_watched(batch, Watch { progress: Some(&mut progress), ..Watch::default() })
    }

    fn feed_batch_watched(&self, batch: &mut [(&mut Session, &[u32])], watch: Watch<'_>) -> Result<Array2<f32>, Error> {
        for (session, tokens) in &*batch {
            session.sequence.check(tokens)?;
            if !session.lm.is_clone_of(self) {
                return Err(Error::OtherModel);
            }
        }
        let mut sequences = Vec::with_capacity(batch.len());
        for (session, tokens) in batch {
            session.sequence.append(tokens);
            sequences.push(&mut session.sequence);
        }
        self.catch_up(&mut sequences, watch)?;
        let mut logits = Array2::zeros((sequences.len(), self.config().vocab_size));
        for (sequence, mut row) in sequences.iter().zip(logits.outer_iter_mut()) {
            row.as_slice_mut().expect("a row").copy_from_slice(sequence.logits());
        }
        Ok(logits)
    }
}

impl Session {
    /// Returns the model.
    #[must_use]
    pub fn lm(&self) -> &CausalLm {
        &self.lm
    }

    /// Appends tokens. Returns the logits after the last one: for every token of the vocabulary,
    /// the logarithm of its probability to come next, up to a constant.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; if the sequence would exceed its context; if it would
    /// be empty; if a result is not finite ([`Error::NotFinite`]); if a key or value is too large
    /// for its format ([`Error::CacheRange`]). On error, nothing is appended.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.sequence.check(tokens)?;
        self.sequence.append(tokens);
        self.catch_up(Watch::default())
    }

    /// Appends tokens as [`feed`](Self::feed) does, but can be cancelled. `progress` is called
    /// before every layer with the number of `tokens` computed so far; if it breaks, the call
    /// ends.
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
    /// See [`feed`](Self::feed); and [`Error::Cancelled`] if `progress` breaks.
    pub fn feed_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<&[f32], Error> {
        self.sequence.check(tokens)?;
        self.sequence.append(tokens);
        // Tokens appended earlier but not yet computed do not count as `tokens`.
        let earlier = self.sequence.pending() - tokens.len();
        let mut progress = |computed: usize| progress(computed.saturating_sub(earlier));
        self.catch_up(Watch { progress: Some(&mut progress), ..Watch::default() })
    }

    /// Appends tokens and calls `each` with the index of every token in `tokens` and the logits
    /// after it, to measure how well a text is predicted. Memory does not grow with the length of
    /// the text.
    ///
    /// # Errors
    /// See [`feed`](Self::feed).
    pub fn feed_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32]) + Send) -> Result<(), Error> {
        self.sequence.check(tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        if self.sequence.pending() > 0 {
            self.sequence.append(&[]);
            self.catch_up(Watch::default())?;
        }
        let start = self.len();
        self.sequence.append(tokens);
        let mut each = |position: usize, logits: &[f32]| each(position - start, logits);
        self.catch_up(Watch { logits: Some(&mut each), ..Watch::default() })?;
        Ok(())
    }

    /// Returns the logits after the last token, as [`feed`](Self::feed) returned them. They are
    /// empty if unknown: before the first token, after [`rewind`](Self::rewind), and while the last
    /// token of [`generate`](Self::generate) has not been computed.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        self.sequence.logits()
    }

    /// Returns the number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens().len()
    }

    /// Returns whether the sequence has no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens().is_empty()
    }

    /// Returns the tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Returns the maximum length of the sequence.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sequence.limits().context
    }

    /// Returns the size of the keys and values in bytes.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.sequence.cache_bytes()
    }

    /// Forgets all tokens from `len` on. This is cheap, and so is feeding others: what was computed
    /// for the first `len` tokens is kept.
    pub fn rewind(&mut self, len: usize) {
        self.sequence.rewind(len);
    }

    /// Copies the session with everything computed so far. The copy continues independently.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Generates tokens that `sampler` chooses, until one ends the text
    /// ([`LmConfig::eos`](crate::LmConfig::eos)) or the context is full. The token that ends the
    /// text is not appended. Each token is appended when it is yielded, and computed when the next
    /// one is requested. [`Generate::finish_reason`] says why there are no more.
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
    /// The iterator returns the errors of [`feed`](Self::feed). After one, the sequence is as it
    /// was when the token was requested.
    pub fn generate<'s, S: Sampler + ?Sized>(&'s mut self, sampler: &'s mut S) -> Generate<'s, S> {
        Generate { session: self, sampler, finish_reason: None }
    }

    fn catch_up(&mut self, watch: Watch<'_>) -> Result<&[f32], Error> {
        self.lm.catch_up(&mut [&mut self.sequence], watch)?;
        Ok(self.sequence.logits())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} tokens of {:?})", self.len(), self.lm)
    }
}

/// Why a generation ended.
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

/// Iterator over the tokens of [`Session::generate`].
#[derive(Debug)]
pub struct Generate<'s, S: ?Sized> {
    session: &'s mut Session,
    sampler: &'s mut S,
    finish_reason: Option<FinishReason>,
}

impl<S: ?Sized> Generate<'_, S> {
    /// Returns why the iterator ended; `None` while it has not, for example because the caller
    /// stopped early.
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
        let Session { lm, sequence } = &mut *self.session;
        let token = self.sampler.sample(sequence.logits(), sequence.tokens());
        if lm.config().eos.contains(&token) {
            return Ok(Err(FinishReason::EndOfText(token)));
        }
        sequence.check(&[token])?;
        sequence.append(&[token]);
        sequence.keep();
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
