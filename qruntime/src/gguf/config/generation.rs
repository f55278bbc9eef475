//! `generation_config.json`: which tokens end a text, and how to sample.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::read::number;
use crate::error::FileError;
use crate::gguf::Metadata;

/// Fields with a token, and their keys.
const TOKENS: [(&str, &str); 3] = [
    ("bos_token_id", "tokenizer.ggml.bos_token_id"),
    ("eos_token_id", "tokenizer.ggml.eos_token_id"),
    ("pad_token_id", "tokenizer.ggml.padding_token_id"),
];

/// More keys with a token that ends a text: the end of a turn, and of a message.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Tokens that end a text whatever the metadata says: many files do not name them.
const END_TEXTS: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
];

/// The types of tokens that are not a part of ordinary texts: control tokens and those of users.
const SPECIAL: [i64; 2] = [3, 4];

/// Fields that say how to sample, and their keys.
pub(super) const SAMPLING: [(&str, &str); 5] = [
    ("temperature", "general.sampling.temp"),
    ("top_k", "general.sampling.top_k"),
    ("top_p", "general.sampling.top_p"),
    ("min_p", "general.sampling.min_p"),
    ("repetition_penalty", "general.sampling.penalty_repeat"),
];

/// Reads a token. Files write the largest number, or one beyond the vocabulary, for "none".
fn token(metadata: &Metadata, key: &str, vocabulary: usize) -> Result<Option<usize>, FileError> {
    Ok(metadata.size(key, 0..=usize::MAX)?.filter(|token| *token < vocabulary))
}

/// Reads the fields with a token.
pub(super) fn tokens(metadata: &Metadata, vocabulary: usize) -> Result<Map<String, Value>, FileError> {
    let mut fields = Map::new();
    for (field, key) in TOKENS {
        if let Some(token) = token(metadata, key, vocabulary)? {
            fields.insert(field.into(), token.into());
        }
    }
    Ok(fields)
}

/// Reads the file; `None` if there is nothing to say.
pub(super) fn read(metadata: &Metadata, vocabulary: usize) -> Result<Option<Map<String, Value>>, FileError> {
    let mut fields = tokens(metadata, vocabulary)?;
    let mut ends: Vec<usize> = Vec::new();
    for key in [TOKENS[1].1].into_iter().chain(ENDS) {
        ends.extend(token(metadata, key, vocabulary)?);
    }
    let types = metadata.integers("tokenizer.ggml.token_type")?;
    let special = |i: usize| types.is_none_or(|types| types.get(i).is_some_and(|kind| SPECIAL.contains(kind)));
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default().iter().enumerate();
    ends.extend(tokens.filter(|(i, text)| END_TEXTS.contains(&text.as_str()) && special(*i)).map(|(i, _)| i));
    let mut seen = BTreeSet::new();
    ends.retain(|end| seen.insert(*end));
    if ends.len() > 1 {
        fields.insert("eos_token_id".into(), ends.into());
    }
    for (field, key) in SAMPLING {
        if let Some(found) = metadata.number(key)? {
            fields.insert(field.into(), if field == "top_k" { (found as i64).into() } else { number(found) });
        }
    }
    if let Some(temperature) = fields.get("temperature").and_then(Value::as_f64) {
        fields.insert("do_sample".into(), (temperature > 0.0).into());
    }
    Ok((!fields.is_empty()).then_some(fields))
}
