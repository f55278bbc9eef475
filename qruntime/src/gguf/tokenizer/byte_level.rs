//! BPE with a list of merges: GGUF's model `gpt2`, in which characters spell bytes, and `gemma4`,
//! in which spaces are marked and characters without a token are written as bytes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::json::{Ids, Model, replace, sequence, split};
use super::pre::{self, LINES, Row};
use super::sentencepiece::decoder;
use super::vocabulary::{Kind, Roles, Vocabulary};
use super::{Built, PRE, SPACE};
use crate::error::FileError;

pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// Most merges, as in `tokenizer.json`.
const MAX_MERGES: usize = 1 << 20;

/// Names of pre-tokenizers whose tokens spell characters, as in `gemma4`.
const SPELLED: [&str; 3] = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"];
/// Names of pre-tokenizers that `tokenizer.json` cannot express, or that belong to other models.
const REFUSED: [&str; 2] = ["mmbert", "whitespace"];

/// How a file of the model `gpt2` splits texts.
pub(super) enum Pre {
    Bytes(&'static Row),
    Spelled,
}

/// Reads the name of the pre-tokenizer.
pub(super) fn pre(vocabulary: &Vocabulary<'_>) -> Result<Pre, FileError> {
    let metadata = vocabulary.metadata;
    let name = match metadata.text(PRE)? {
        None | Some("") => pre::DEFAULT,
        Some(name) => name,
    };
    let refuse = |expected| Err(metadata.refuse(PRE, format_args!("{name:?}"), expected));
    match pre::find(name) {
        _ if SPELLED.contains(&name) => Ok(Pre::Spelled),
        _ if REFUSED.contains(&name) => refuse("a pre-tokenizer that tokenizer.json can express"),
        None => refuse("the name of a pre-tokenizer that this version knows"),
        Some(row) => Ok(Pre::Bytes(row)),
    }
}

/// Builds a tokenizer whose tokens spell bytes.
pub(super) fn build<'a>(vocabulary: &'a Vocabulary<'_>, row: &Row) -> Result<Built<'a>, FileError> {
    let mut steps: Vec<Value> = row.patterns.iter().map(|pattern| split(pattern)).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    Ok(Built {
        normalizer: if row.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: sequence("pretokenizers", steps),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: model(vocabulary, None, false, row.whole)?,
        tidy: row.tidy,
    })
}

/// Builds a tokenizer whose tokens spell characters. Lines are split from one another, and line
/// ends that are a token together become that token.
pub(super) fn spelled<'a>(vocabulary: &'a Vocabulary<'_>, roles: &Roles) -> Result<Built<'a>, FileError> {
    let unknown = roles.get("unk_token").map(|id| vocabulary.text(id));
    Ok(Built {
        normalizer: replace("String", " ", SPACE),
        pre_tokenizer: split(LINES),
        decoder: decoder(false),
        model: model(vocabulary, unknown, vocabulary.kinds.contains(&Kind::Byte), true)?,
        tidy: false,
    })
}

fn model<'a>(
    vocabulary: &'a Vocabulary<'_>,
    unk_token: Option<&'a str>,
    byte_fallback: bool,
    ignore_merges: bool,
) -> Result<Model<'a>, FileError> {
    Ok(Model::Bpe {
        dropout: (),
        unk_token,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: unk_token.is_some(),
        byte_fallback,
        ignore_merges,
        vocab: Ids(&vocabulary.pieces),
        merges: merges(vocabulary)?,
    })
}

/// Reads the merges, each a text of two tokens with a space between them. Of equal ones, the first
/// counts.
fn merges<'a>(vocabulary: &'a Vocabulary<'_>) -> Result<Vec<(&'a str, &'a str)>, FileError> {
    let metadata = vocabulary.metadata;
    let Some(lines) = metadata.texts(MERGES)? else {
        return Err(metadata.refuse(MERGES, "missing", "pairs of tokens to be joined"));
    };
    if lines.len() > MAX_MERGES {
        return Err(metadata.refuse(
            MERGES,
            format_args!("{} texts", lines.len()),
            format_args!("at most {MAX_MERGES}"),
        ));
    }
    let ids = vocabulary.ids()?;
    let mut known = HashSet::with_capacity(lines.len());
    let mut merges = Vec::with_capacity(lines.len());
    let mut joined = String::new();
    for (i, line) in lines.iter().enumerate() {
        let refuse =
            |what: String, expected: &str| Err(metadata.refuse(MERGES, format_args!("merge {i} {what}"), expected));
        // The first token may itself be a space.
        let cut = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&line[..at], &line[at + 1..])).filter(|(_, right)| !right.is_empty())
        else {
            return refuse(format!("is {line:?}"), "two tokens with a space between them");
        };
        joined.clear();
        joined.extend([left, right]);
        if let Some(unknown) = [left, right, joined.as_str()].into_iter().find(|piece| !ids.contains_key(piece)) {
            return refuse(format!("has {unknown:?}, which is no token"), "tokens that make up a token");
        }
        if known.insert((left, right)) {
            merges.push((left, right));
        }
    }
    Ok(merges)
}
