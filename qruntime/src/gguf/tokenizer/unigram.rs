//! SentencePiece's unigram model, GGUF's model `t5`: the tokens with the highest sum of scores.

use serde_json::json;

use super::json::{Model, base64, sequence};
use super::sentencepiece::{PREFIX, TRIM, trim};
use super::vocabulary::{Roles, Vocabulary};
use super::{Built, SPACE};
use crate::error::FileError;

/// A table of SentencePiece that replaces characters.
pub(super) const TABLE: &str = "tokenizer.ggml.precompiled_charsmap";

pub(super) fn build<'a>(vocabulary: &'a Vocabulary<'_>, roles: &Roles) -> Result<Built<'a>, FileError> {
    let metadata = vocabulary.metadata;
    let scores = vocabulary.scores()?;
    let trimmed = metadata.flag(TRIM)?.unwrap_or(false);
    let prefix = metadata.flag(PREFIX)?.unwrap_or(false) || trimmed;
    let mut normalizers = Vec::new();
    if let Some(table) = metadata.integers(TABLE)? {
        // The bytes are signed in some files.
        let byte = |&number: &i64| u8::try_from(number).ok().or_else(|| i8::try_from(number).ok().map(|n| n as u8));
        let bytes: Option<Vec<u8>> = table.iter().map(byte).collect();
        let bytes = bytes.ok_or_else(|| metadata.refuse(TABLE, "integers out of range", "bytes"))?;
        if !bytes.is_empty() {
            normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&bytes)}));
        }
    }
    if trimmed {
        normalizers.extend(trim());
    }
    let prepend = if prefix { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend, "split": true});
    let pieces = vocabulary.pieces.iter().map(AsRef::as_ref);
    Ok(Built {
        normalizer: sequence("normalizers", normalizers),
        pre_tokenizer: metaspace.clone(),
        decoder: metaspace,
        model: Model::Unigram {
            unk_id: roles.get("unk_token"),
            vocab: pieces.zip(scores.iter().map(|score| f64::from(*score))).collect(),
            byte_fallback: false,
        },
        tidy: false,
    })
}
