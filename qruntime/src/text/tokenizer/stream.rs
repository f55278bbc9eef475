//! Decodes tokens that arrive one by one.

use super::Tokenizer;
use crate::error::Error;

/// How many past tokens a stream uses as context.
const CONTEXT: usize = 8;

/// The number of tokens after which an incomplete character will never be completed.
const LONGEST: usize = 8;

/// A decoder of tokens that arrive one by one. A character may consist of several tokens:
/// incomplete characters are held back.
///
/// It owns everything it needs, so it can be stored beside the tokenizer and sent to another
/// thread.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// The context, and then the tokens whose text has not been returned yet.
    tokens: Vec<u32>,
    /// How many of the tokens are context.
    known: usize,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, context: &[u32]) -> Self {
        let tokens = context[context.len().saturating_sub(CONTEXT)..].to_vec();
        Self { tokenizer, known: tokens.len(), tokens }
    }

    /// Appends a token. Returns the text that it completes, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<String, Error> {
        if self.tokenizer.piece(token).is_none() {
            return Ok(String::new());
        }
        self.tokens.push(token);
        let text = self.new_text()?;
        let may_grow = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
        if may_grow && self.tokens.len() < self.known + LONGEST {
            return Ok(String::new());
        }
        // Tokens whose text has been returned are the context of the next ones.
        self.tokens.drain(..self.known);
        self.known = self.tokens.len();
        Ok(text)
    }

    /// Returns the remaining text, with a replacement character for an incomplete one.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(self) -> Result<String, Error> {
        self.new_text()
    }

    /// Returns the text of the tokens after the context.
    fn new_text(&self) -> Result<String, Error> {
        let before = self.tokenizer.decode(&self.tokens[..self.known])?;
        let mut text = self.tokenizer.decode(&self.tokens)?;
        // A character that began in the context may end differently there.
        let same = before.char_indices().zip(text.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        text.drain(..same.unwrap_or(before.len()).min(text.len()));
        Ok(text)
    }
}
