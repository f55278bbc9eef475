//! Text from tokens that come one by one.

use super::Tokenizer;
use crate::error::Error;

/// How many tokens of the past a stream looks at.
const CONTEXT: usize = 8;

/// Tokens after which a character that is still not complete never will be.
const LONGEST: usize = 8;

/// Text from tokens that come one by one. A character may be several tokens long: what is not
/// complete is held back.
///
/// It owns what it needs: it can be stored beside the tokenizer and sent to another thread.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// What comes before the text to come, and the tokens of which no text has been given yet.
    tokens: Vec<u32>,
    /// How many of them are of the first kind.
    known: usize,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, context: &[u32]) -> Self {
        let tokens = context[context.len().saturating_sub(CONTEXT)..].to_vec();
        Self { tokenizer, known: tokens.len(), tokens }
    }

    /// The next token. Returns the text that is complete with it, which may be empty.
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
        // What has been given is the context of what comes.
        self.tokens.drain(..self.known);
        self.known = self.tokens.len();
        Ok(text)
    }

    /// What is held back, at the end of a text: with a replacement character for one that is not
    /// complete.
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
