//! Text: tokens from it and back, and what networks make of it.

mod chat;
mod date;
mod jinja;
mod tokenizer;

use serde_json::Value;

pub use chat::{ChatTemplate, Message};
pub use date::Date;
pub use tokenizer::{DecodeStream, Tokenizer};

/// Bytes of `tokenizer_config.json` and of a template: the first may list a thousand tokens with
/// all they are.
pub(crate) const MAX_TEXT: usize = 16 << 20;

/// A special token as `tokenizer_config.json` has it: its text, or an object with that.
fn special<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}
