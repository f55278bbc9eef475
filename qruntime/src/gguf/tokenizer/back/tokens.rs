//! The texts of tokens and their kinds.

use std::collections::HashMap;

use super::super::vocabulary::Kind;
use super::super::wordpiece::CONTINUES;
use super::super::{SPACE, Strip};
use super::bad;
use super::file::{File, Pieces};
use crate::error::FileError;
use crate::gguf::Value;

/// Most tokens, as in `tokenizer.json`.
const MAX_TOKENS: usize = 1 << 20;

pub(super) struct Tokens {
    pub(super) texts: Vec<String>,
    pub(super) kinds: Vec<Kind>,
}

impl Tokens {
    /// Lists the tokens by ID. Places without a token are filled, up to the number of embeddings;
    /// added tokens beyond them are left out.
    pub(super) fn of(file: &File, embeddings: usize) -> Result<Self, FileError> {
        let pieces: Vec<(&str, u32)> = match &file.model.vocab {
            Pieces::Ids(ids) => ids.iter().map(|(piece, id)| (piece.as_str(), *id)).collect(),
            Pieces::Scored(list) => list.iter().map(|(piece, _)| piece.as_str()).zip(0..).collect(),
        };
        let added = file.added_tokens.iter().map(|token| token.id);
        let all = pieces.iter().map(|(_, id)| *id).chain(added).max().map_or(0, |last| last as usize + 1);
        let count = if embeddings == 0 { all } else { embeddings };
        if count == 0 || count.max(all) > MAX_TOKENS {
            return Err(bad(format!("{} tokens, expected 1 to {MAX_TOKENS}", count.max(all))));
        }
        let mut texts: Vec<Option<&str>> = vec![None; count];
        let mut kinds = vec![Kind::Unused; count];
        for (piece, id) in pieces {
            let Some(place) = texts.get_mut(id as usize) else {
                return Err(bad(format!(
                    "token {id} ({piece:?}), expected tokens below {count}, as there are embeddings"
                )));
            };
            if let Some(other) = place.replace(piece) {
                return Err(bad(format!("tokens {other:?} and {piece:?} have the ID {id}, expected one of them")));
            }
            let byte = file.model.byte_fallback && is_byte(piece);
            kinds[id as usize] = match byte {
                true => Kind::Byte,
                // What stands for no token.
                false if *piece == unused(id as usize) => Kind::Unused,
                false => Kind::Normal,
            };
        }
        for token in file.added_tokens.iter().filter(|token| (token.id as usize) < count) {
            let id = token.id as usize;
            texts[id] = Some(&token.content);
            kinds[id] = if token.special { Kind::Control } else { Kind::Added };
        }
        let unknown = file.model.unk_token.as_deref();
        let unknown = texts.iter().position(|text| text.is_some() && *text == unknown).or(file.model.unk_id);
        if let Some(unknown) = unknown.filter(|id| *id < count && file.model.kind != "WordPiece") {
            kinds[unknown] = Kind::Unknown;
        }
        let named = |(id, text): (usize, Option<&str>)| text.map_or_else(|| unused(id), str::to_owned);
        let tokens = Self { texts: texts.into_iter().enumerate().map(named).collect(), kinds };
        let mut known = HashMap::with_capacity(count);
        for (id, text) in tokens.texts.iter().enumerate() {
            if let Some(other) = known.insert(text.as_str(), id) {
                return Err(bad(format!("tokens {other} and {id} are both {text:?}, expected every text once")));
            }
        }
        drop(known);
        Ok(tokens)
    }

    /// Returns the ID of a text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|other| other == text).map(|id| id as u32)
    }

    /// Writes the spaces of added tokens as spaces, which is how they are found in texts.
    pub(super) fn unmark_added(&mut self) {
        for (text, kind) in self.texts.iter_mut().zip(&self.kinds) {
            if *kind == Kind::Added {
                *text = text.replace(SPACE, " ");
            }
        }
    }

    /// Marks pieces that begin a word rather than those that continue one.
    pub(super) fn mark_beginnings(&mut self) {
        for (text, _) in self.texts.iter_mut().zip(&self.kinds).filter(|(_, kind)| **kind == Kind::Normal) {
            *text = match text.strip_prefix(CONTINUES) {
                Some(rest) if !rest.is_empty() => rest.to_owned(),
                _ => format!("{SPACE}{text}"),
            };
        }
    }

    /// Compares which added tokens take spaces along with what programs that read GGUF files do.
    pub(super) fn check_spaces(
        &self,
        file: &File,
        architecture: &str,
        keys: &[(String, Value)],
    ) -> Result<(), FileError> {
        let text = |key: &str| keys.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let text = |key: &str| match text(key) {
            Some(Value::Text(text)) => text.as_str(),
            _ => "",
        };
        let strip = Strip::by(architecture, text(super::MODEL), text(super::PRE));
        let in_texts = |id: u32| (id as usize) < self.texts.len();
        for token in file.added_tokens.iter().filter(|token| in_texts(token.id)) {
            // A mask is in no text but those of training.
            let is_mask = token.content == "<mask>" || token.content == "[MASK]";
            if token.single_word || !is_mask && (token.lstrip, token.rstrip) != strip.sides(&token.content) {
                return Err(bad(format!(
                    "added token {:?} has lstrip {}, rstrip {} and single_word {}, expected false: a GGUF file cannot say it",
                    token.content, token.lstrip, token.rstrip, token.single_word
                )));
            }
        }
        Ok(())
    }
}

/// Returns the text that stands for a missing token, as converters write it.
fn unused(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Returns whether a piece spells a byte: `<0x0A>`.
fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
