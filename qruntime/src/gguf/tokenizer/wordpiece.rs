//! WordPiece, GGUF's model `bert`. Where `tokenizer.json` marks pieces that continue a word by
//! `##`, a GGUF file marks those that begin one by `▁`.

use std::borrow::Cow;

use serde_json::json;

use super::json::{Ids, Model};
use super::vocabulary::{Kind, Roles, TOKENS, Vocabulary};
use super::{Built, SPACE};
use crate::error::FileError;

pub(super) const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
pub(super) const ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";

/// The mark of pieces that continue a word.
pub(super) const CONTINUES: &str = "##";
/// Most characters of a word, as in BERT; longer ones become the unknown token.
const MAX_WORD: usize = 100;

/// Writes the pieces as WordPiece does.
pub(super) fn pieces<'a>(vocabulary: Vocabulary<'a>) -> Result<Vocabulary<'a>, FileError> {
    let respell = |(piece, kind): (Cow<'a, str>, &Kind)| match piece.strip_prefix(SPACE) {
        _ if !matches!(kind, Kind::Normal | Kind::Unused) => piece,
        Some(beginning) if !beginning.is_empty() => Cow::Owned(beginning.to_owned()),
        // Older converters left all pieces in brackets as they were.
        _ if is_bracketed(&piece) => piece,
        _ => Cow::Owned(format!("{CONTINUES}{piece}")),
    };
    let pieces = vocabulary.pieces.into_iter().zip(&vocabulary.kinds).map(respell).collect();
    let vocabulary = Vocabulary { pieces, ..vocabulary };
    vocabulary.ids()?;
    Ok(vocabulary)
}

fn is_bracketed(piece: &str) -> bool {
    piece.len() > 2 && piece.starts_with('[') && piece.ends_with(']')
}

pub(super) fn build<'a>(vocabulary: &'a Vocabulary<'_>, roles: &Roles) -> Result<Built<'a>, FileError> {
    let metadata = vocabulary.metadata;
    let Some(unknown) = roles.get("unk_token") else {
        return Err(metadata.refuse(TOKENS, "no unknown token", "[UNK] or tokenizer.ggml.unknown_token_id"));
    };
    let lowercase = metadata.flag(LOWERCASE)?.unwrap_or_else(|| !has_capitals(vocabulary));
    let strip_accents = metadata.flag(ACCENTS)?;
    Ok(Built {
        normalizer: json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": strip_accents, "lowercase": lowercase}),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": CONTINUES, "cleanup": true}),
        model: Model::WordPiece {
            unk_token: vocabulary.text(unknown),
            continuing_subword_prefix: CONTINUES,
            max_input_chars_per_word: MAX_WORD,
            vocab: Ids(&vocabulary.pieces),
        },
        tidy: true,
    })
}

/// Returns whether pieces of words have capital letters, which a tokenizer that converts texts to
/// lower case could never find.
fn has_capitals(vocabulary: &Vocabulary<'_>) -> bool {
    let words = vocabulary.pieces.iter().zip(&vocabulary.kinds);
    words
        .filter(|(piece, kind)| **kind == Kind::Normal && !is_bracketed(piece))
        .any(|(piece, _)| piece.bytes().any(|byte| byte.is_ascii_uppercase()))
}
