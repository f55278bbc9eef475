//! Text: tokenizers, chat templates and dates.

mod chat;
mod date;
mod jinja;
mod tokenizer;

use serde_json::Value;

pub use chat::{ChatTemplate, Message};
pub use date::Date;
pub use tokenizer::{DecodeStream, Tokenizer};

/// Most bytes of `tokenizer_config.json` and of a template: the former may list a thousand tokens
/// with all their properties.
pub(crate) const MAX_TEXT: usize = 16 << 20;

/// Returns a special token of `tokenizer_config.json`, which is its text or an object that holds
/// the text.
fn special<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}
