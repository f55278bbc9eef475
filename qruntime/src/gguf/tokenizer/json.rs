//! The form of `tokenizer.json`.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// The file.
#[derive(Serialize)]
pub(super) struct File<'a> {
    pub(super) version: &'static str,
    pub(super) truncation: (),
    pub(super) padding: (),
    pub(super) added_tokens: Vec<Added<'a>>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Model<'a>,
}

/// A token that is found in texts before they are normalized and split.
#[derive(Serialize)]
pub(super) struct Added<'a> {
    pub(super) id: u32,
    pub(super) content: &'a str,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// Pieces in the order of their IDs, written as a map to them.
pub(super) struct Ids<'a>(pub(super) &'a [Cow<'a, str>]);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(0..self.0.len()))
    }
}

/// A model, which makes tokens of pieces of text.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Model<'a> {
    #[serde(rename = "BPE")]
    Bpe {
        dropout: (),
        unk_token: Option<&'a str>,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        vocab: Ids<'a>,
        merges: Vec<(&'a str, &'a str)>,
    },
    WordPiece {
        unk_token: &'a str,
        continuing_subword_prefix: &'static str,
        max_input_chars_per_word: usize,
        vocab: Ids<'a>,
    },
    Unigram {
        unk_id: Option<u32>,
        vocab: Vec<(&'a str, f64)>,
        byte_fallback: bool,
    },
}

/// Returns several steps as one, or none.
pub(super) fn sequence(list: &str, mut steps: Vec<Value>) -> Value {
    match (steps.len(), steps.pop()) {
        (_, None) => Value::Null,
        (1, Some(only)) => only,
        (_, Some(last)) => {
            steps.push(last);
            json!({"type": "Sequence", list: steps})
        }
    }
}

/// Returns a step that splits texts into the matches of an expression and what is between them.
pub(super) fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// Returns a step that replaces a text, or all matches of an expression.
pub(super) fn replace(kind: &str, pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {kind: pattern}, "content": content})
}

/// Returns the post-processor that puts tokens around a text, each given by its text and ID.
pub(super) fn around(before: Option<(&str, u32)>, after: Option<(&str, u32)>) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let mark = |token: Option<(&str, u32)>, kind: u32| {
        token.map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": kind}}))
    };
    let text = |name: &str, kind: u32| Some(json!({"Sequence": {"id": name, "type_id": kind}}));
    let single: Vec<Value> = [mark(before, 0), text("A", 0), mark(after, 0)].into_iter().flatten().collect();
    // A second text follows the first; only one that ends texts separates them.
    let again = before.filter(|_| after.is_none());
    let second = [mark(again, 1), text("B", 1), mark(after, 1)];
    let pair: Vec<Value> = single.iter().cloned().chain(second.into_iter().flatten()).collect();
    let entry = |(text, id): (&str, u32)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
    let tokens: Map<String, Value> = before.into_iter().chain(after).map(entry).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// Writes bytes as base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
