//! SentencePiece's BPE, GGUF's model `llama`: of all neighbours that make a token together, those
//! whose token has the highest score are joined first, the leftmost of them if there are several.
//!
//! `tokenizer.json` has a list of merges instead. It is derived from the tokens:
//!
//! ```text
//! for each token, by descending score (equal scores: by ascending ID):
//!     for each way to write it as two tokens:  append these two
//! ```
//!
//! Both make the same tokens as long as no two tokens have the same score. Where they have, the
//! earlier one is joined first. Files whose converter did not know the scores have the same one
//! for all tokens; in their original, IDs ascend as merges do, and these are what is restored.
//!
//! Two ways to write one token can meet in a text only if they share a token in the middle, `x y z`
//! with `xy` equal to `yz`, and then `x y` must come before `y z` in the list: [`order`].

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::json::{Ids, Model, replace, sequence};
use super::vocabulary::{Kind, Roles, SCORES, TOKENS, Vocabulary};
use super::{Built, SPACE};
use crate::error::FileError;

/// Most bytes of a token that others make up, and of all of these together: SentencePiece makes
/// tokens of at most 16 characters, and Gemma has some of 31 (93 bytes).
const MAX_MERGED: usize = 256;
const MAX_MERGED_BYTES: usize = 16 << 20;
/// Most merges, as in `tokenizer.json`. Gemma 3 has 514,906.
const MAX_MERGES: usize = 1 << 20;

/// Whether texts begin with a space that they do not have.
pub(super) const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const TRIM: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// Marks the spaces of added tokens, where converters unmark them, so that a text's own marks are
/// the same as spaces for these tokens, too. Where texts begin with a space that they do not have,
/// so would the tokens, and they stay as they are.
pub(super) fn pieces<'a>(vocabulary: Vocabulary<'a>) -> Result<Vocabulary<'a>, FileError> {
    if vocabulary.metadata.flag(PREFIX)?.unwrap_or(true) {
        return Ok(vocabulary);
    }
    let respell = |(piece, kind): (Cow<'a, str>, &Kind)| match kind {
        Kind::Added if piece.contains(' ') => Cow::Owned(piece.replace(' ', SPACE)),
        _ => piece,
    };
    let pieces = vocabulary.pieces.into_iter().zip(&vocabulary.kinds).map(respell).collect();
    let vocabulary = Vocabulary { pieces, ..vocabulary };
    vocabulary.ids()?;
    Ok(vocabulary)
}

pub(super) fn build<'a>(vocabulary: &'a Vocabulary<'_>, roles: &Roles) -> Result<Built<'a>, FileError> {
    let metadata = vocabulary.metadata;
    let prefix = metadata.flag(PREFIX)?.unwrap_or(true);
    let mut normalizers = if metadata.flag(TRIM)? == Some(true) { trim() } else { Vec::new() };
    normalizers.extend(prefix.then(|| json!({"type": "Prepend", "prepend": SPACE})));
    normalizers.push(replace("String", " ", SPACE));
    Ok(Built {
        normalizer: sequence("normalizers", normalizers),
        pre_tokenizer: Value::Null,
        decoder: decoder(prefix),
        model: Model::Bpe {
            dropout: (),
            unk_token: roles.get("unk_token").map(|id| vocabulary.text(id)),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: vocabulary.kinds.contains(&Kind::Byte),
            ignore_merges: false,
            vocab: Ids(&vocabulary.pieces),
            merges: merges(vocabulary)?,
        },
        tidy: false,
    })
}

/// Returns steps that remove spaces at both ends of a text, and all but one of several.
pub(super) fn trim() -> Vec<Value> {
    vec![replace("Regex", " {2,}", " "), replace("Regex", "^ | $", "")]
}

/// Returns the decoder of pieces in which spaces are marked and unknown characters are bytes.
pub(super) fn decoder(prefix: bool) -> Value {
    let mut steps = vec![replace("String", SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    steps.extend(prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    sequence("decoders", steps)
}

/// Derives merges from tokens and their scores.
fn merges<'a>(vocabulary: &'a Vocabulary<'_>) -> Result<Vec<(&'a str, &'a str)>, FileError> {
    let scores = vocabulary.scores()?;
    let metadata = vocabulary.metadata;
    let joined = |(_, kind): &(&Cow<'_, str>, &Kind)| matches!(kind, Kind::Normal | Kind::Added | Kind::Unused);
    let mut pieces = HashMap::with_capacity(vocabulary.pieces.len());
    let mut ordered: Vec<(u32, &str)> = Vec::new();
    for (id, (piece, _)) in (0..).zip(vocabulary.pieces.iter().zip(&vocabulary.kinds)).filter(|(_, both)| joined(both))
    {
        if piece.len() > MAX_MERGED {
            let found = format!("token {id} has {} bytes", piece.len());
            return Err(metadata.refuse(TOKENS, found, format_args!("at most {MAX_MERGED} in a model \"llama\"")));
        }
        pieces.insert(piece.as_ref(), id);
        ordered.push((id, piece));
    }
    let bytes: usize = ordered.iter().map(|(_, piece)| piece.len()).sum();
    if bytes > MAX_MERGED_BYTES {
        let expected = format!("at most {MAX_MERGED_BYTES} in a model \"llama\"");
        return Err(metadata.refuse(TOKENS, format_args!("{bytes} bytes"), expected));
    }
    ordered.sort_by(|(a, _), (b, _)| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
    let mut merges = Vec::new();
    for (_, piece) in ordered {
        let mut cuts: Vec<usize> = piece.char_indices().map(|(at, _)| at).skip(1).collect();
        cuts.retain(|&at| pieces.contains_key(&piece[..at]) && pieces.contains_key(&piece[at..]));
        merges.extend(cuts.into_iter().map(|at| piece.split_at(at)));
        if merges.len() > MAX_MERGES {
            let found = format!("{} tokens make more than {MAX_MERGES} merges", vocabulary.pieces.len());
            return Err(metadata.refuse(SCORES, found, "at most so many"));
        }
    }
    Ok(merges)
}
