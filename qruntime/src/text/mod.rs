//! Text: tokens from it and back, and what networks make of it.

mod chat;
mod date;
mod jinja;
mod sentence;
mod tokenizer;

use std::sync::OnceLock;

use serde_json::Value;

pub use chat::{ChatTemplate, Message};
pub use date::Date;
pub use sentence::{Embeddings, Prompt};
pub use tokenizer::{DecodeStream, Tokenizer};

use crate::error::Error;
use crate::lm::CausalLm;

impl CausalLm {
    /// The tokenizer in the model's folder. It is opened when it is first asked for.
    ///
    /// # Errors
    /// As [`Tokenizer::open`], and [`Error::NoFolder`] if the model was made from bytes.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        once(&self.0.folder.tokenizer, || Tokenizer::open(self.0.folder.with("tokenizer.json")?))
    }

    /// The chat template in the model's folder, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::open`], and [`Error::NoFolder`] if the model was made from bytes.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        ChatTemplate::open(self.0.folder.with("chat_template.jinja")?)
    }
}

/// What is in the cell, made first if need be. Of several threads that make it, the first one's stays.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    match cell.get() {
        Some(value) => Ok(value),
        None => make().map(|value| cell.get_or_init(|| value)),
    }
}

/// Bytes of `tokenizer_config.json` and of a template: the first may list a thousand tokens with all they are.
const MAX_TEXT: usize = 16 << 20;

/// A special token as `tokenizer_config.json` has it: its text, or an object with that.
fn special<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}
