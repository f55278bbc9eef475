//! Sequences of tokens, with what the network has made of them.

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
/// A clone is a fork: it goes on from here by itself. What is fed or generated later has the same
/// bits as if the whole sequence had been fed at once.
///
/// Whatever appends tokens computes with the threads of rayon's current pool: all of the global
/// pool's, or, within `ThreadPool::install`, those of that pool. The calling thread computes as
/// well; it waits for no other job of the pool and runs none meanwhile, so it may hold a lock. A
/// call that fails, is cancelled or panics leaves the session as it was.
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

    /// Starts an empty sequence with other options than the usual ones.
    #[must_use]
    pub fn session_with(&self, options: SessionOptions) -> Session {
        let sequence = Sequence::new(self.limits(&options), self.cache(options.kv));
        Session { lm: self.clone(), sequence }
    }

    /// Appends tokens to several sequences and computes them together, which is faster than one
    /// after the other. They may have different lengths, and any number of tokens before.
    ///
    /// Returns the logits after the last token of each: a row for each sequence.
    ///
    /// # Errors
    /// As [`Session::feed`], for the first sequence at fault, and if one is of another model (of
    /// the same weights, but another [`with_isa`](Self::with_isa), is another, too). Nothing is
    /// appended then, to none of them.
    pub fn feed_batch(&self, batch: &mut [(&mut Session, &[u32])]) -> Result<Array2<f32>, Error> {
        self.feed_batch_watched(batch, Watch::default())
    }

    /// Feeds a batch as [`feed_batch`](Self::feed_batch) does, and can be cancelled: `progress` is
    /// called before every layer with the number of tokens computed so far, of all sequences
    /// together, and the call ends when it breaks.
    ///
    /// # Errors
    /// As [`feed_batch`](Self::feed_batch), and [`Error::Cancelled`] if `progress` broke off.
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

    /// Appends tokens. Returns the logits after the last: for every token of the vocabulary the
    /// logarithm of how likely it is to come next, but for a constant.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or the sequence would be longer than its context; if
    /// there are no tokens at all; if a result is not finite ([`Error::NotFinite`]) or a key or
    /// value too large for its format ([`Error::CacheRange`]). Nothing is appended then.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.sequence.check(tokens)?;
        self.sequence.append(tokens);
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
        self.sequence.check(tokens)?;
        self.sequence.append(tokens);
        // Tokens that were appended before, and not computed, are none of `tokens`.
        let earlier = self.sequence.pending() - tokens.len();
        let mut progress = |computed: usize| progress(computed.saturating_sub(earlier));
        self.catch_up(Watch { progress: Some(&mut progress), ..Watch::default() })
    }

    /// Appends tokens and tells `each` the logits after every one of them, with its place in
    /// `tokens`: to measure how well a text is predicted. Takes no more memory for a long text than
    /// for a short one.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
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

    /// The logits after the last token, as [`feed`](Self::feed) returned them; empty if they are
    /// not known: before the first token, after [`rewind`](Self::rewind), and while
    /// [`generate`](Self::generate) has appended a token that it has not been asked to go on from.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        self.sequence.logits()
    }

    /// Returns how many tokens the sequence has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens().len()
    }

    /// Returns whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens().is_empty()
    }

    /// Returns the tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Returns the longest that the sequence may become.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sequence.limits().context
    }

    /// Returns the bytes that keys and values take.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.sequence.cache_bytes()
    }

    /// Forgets all tokens from `len` on. That is cheap, and so is feeding others: those before are
    /// kept.
    pub fn rewind(&mut self, len: usize) {
        self.sequence.rewind(len);
    }

    /// Copies the session with what is computed. The copy goes on by itself.
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
