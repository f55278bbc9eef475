//! Reads the parts of `tokenizer.json` that a GGUF file is made of.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::bad;
use crate::error::FileError;

/// Most bytes of the file, as where a tokenizer is made of it.
const MAX_FILE: usize = 64 << 20;

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) vocab: Pieces,
    #[serde(default)]
    pub(super) merges: Vec<Merge>,
    pub(super) unk_token: Option<String>,
    pub(super) unk_id: Option<usize>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
}

/// Pieces with their IDs, or with their scores in the order of their IDs.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Pieces {
    Ids(HashMap<String, u32>),
    Scored(Vec<(String, f64)>),
}

/// A merge, as a pair or as a text.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    /// Returns the two pieces.
    pub(super) fn pair(&self) -> Result<(&str, &str), FileError> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Line(line) => line.split_once(' ').ok_or_else(|| bad(format!("merge {line:?}, expected two pieces"))),
        }
    }
}

impl File {
    pub(super) fn parse(json: &[u8]) -> Result<Self, FileError> {
        if json.len() > MAX_FILE {
            return Err(bad(format!("{} bytes, expected at most {MAX_FILE}", json.len())));
        }
        serde_json::from_slice(json).map_err(|error| bad(error.to_string()))
    }
}

/// Returns the steps of a part, which may be nested sequences.
pub(super) fn steps<'v>(part: &'v Value, list: &str) -> Vec<&'v Value> {
    let mut steps = Vec::new();
    let mut rest = vec![part];
    while let Some(part) = rest.pop() {
        match part[list].as_array().filter(|_| part["type"] == "Sequence") {
            Some(parts) => rest.extend(parts.iter().rev()),
            None if part.is_null() => {}
            None => steps.push(part),
        }
    }
    steps
}
