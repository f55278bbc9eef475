//! The tokens of a GGUF file, their kinds, and those with a role.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::FileError;
use crate::gguf::{Metadata, Value};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const KINDS: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// Most tokens, and most bytes of one: those of `tokenizer.json`.
const MAX_TOKENS: usize = 1 << 20;
const MAX_TOKEN: usize = 4096;

/// The kind of a token, by its number in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    /// Added by a user of the tokenizer: found in texts before anything else.
    Added = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            // No kind is given.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::Added,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Tokens with their kinds, in the order of their IDs.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) pieces: Vec<Cow<'a, str>>,
    pub(super) kinds: Vec<Kind>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &'a Metadata) -> Result<Self, FileError> {
        let Some(tokens) = metadata.texts(TOKENS)? else {
            return Err(metadata.refuse(TOKENS, "missing", "the texts of the tokens"));
        };
        if !(1..=MAX_TOKENS).contains(&tokens.len()) {
            let found = format!("{} texts", tokens.len());
            return Err(metadata.refuse(TOKENS, found, format_args!("1 to {MAX_TOKENS}")));
        }
        if let Some((id, token)) = tokens.iter().enumerate().find(|(_, token)| token.len() > MAX_TOKEN) {
            let found = format!("token {id} has {} bytes", token.len());
            return Err(metadata.refuse(TOKENS, found, format_args!("at most {MAX_TOKEN}")));
        }
        let kinds = match metadata.integers(KINDS)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(numbers) => {
                agree(metadata, KINDS, numbers.len(), tokens.len())?;
                let kind = |(id, &number)| {
                    let found = || format!("token {id} has type {number}");
                    Kind::of(number).ok_or_else(|| metadata.refuse(KINDS, found(), "types from 0 to 6"))
                };
                numbers.iter().enumerate().map(kind).collect::<Result<_, _>>()?
            }
        };
        let named = |(id, token): (usize, &'a String)| match token.is_empty() {
            // As llama.cpp names it, which needs a text for every token.
            true => Cow::Owned(format!("[EMPTY_{id}]")),
            false => Cow::Borrowed(token.as_str()),
        };
        let vocabulary = Self { metadata, pieces: tokens.iter().enumerate().map(named).collect(), kinds };
        vocabulary.ids()?;
        Ok(vocabulary)
    }

    /// Returns the IDs of all texts.
    ///
    /// # Errors
    /// If a text occurs twice.
    pub(super) fn ids(&self) -> Result<HashMap<&str, u32>, FileError> {
        let mut ids = HashMap::with_capacity(self.pieces.len());
        for (id, piece) in (0..).zip(&self.pieces) {
            if let Some(earlier) = ids.insert(piece.as_ref(), id) {
                let found = format!("tokens {earlier} and {id} are both {piece:?}");
                return Err(self.metadata.refuse(TOKENS, found, "every text once"));
            }
        }
        Ok(ids)
    }

    /// Reads the scores of the tokens.
    pub(super) fn scores(&self) -> Result<Vec<f32>, FileError> {
        let Some(scores) = self.metadata.numbers(SCORES)? else {
            return Err(self.metadata.refuse(SCORES, "missing", "the scores of the tokens"));
        };
        agree(self.metadata, SCORES, scores.len(), self.pieces.len())?;
        match scores.iter().position(|score| !score.is_finite()) {
            Some(id) => {
                let found = format!("token {id} has the score {}", scores[id]);
                Err(self.metadata.refuse(SCORES, found, "finite scores"))
            }
            None => Ok(scores),
        }
    }

    pub(super) fn text(&self, id: u32) -> &str {
        &self.pieces[id as usize]
    }

    /// Returns the only token of a text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        (0..).zip(&self.pieces).find(|(_, piece)| *piece == text).map(|(id, _)| id)
    }
}

/// Compares the length of a list with the number of tokens.
fn agree(metadata: &Metadata, key: &str, found: usize, tokens: usize) -> Result<(), FileError> {
    match found == tokens {
        true => Ok(()),
        false => Err(metadata.refuse(key, format_args!("{found} entries"), format_args!("{tokens}, one per token"))),
    }
}

/// The tokens with a role: what `tokenizer_config.json` calls them, and the key of their ID.
pub(super) const ROLES: [(&str, &str); 9] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    // GGUF's spelling.
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("cls_token", "tokenizer.ggml.cls_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
    ("eot_token", "tokenizer.ggml.eot_token_id"),
    ("eom_token", "tokenizer.ggml.eom_token_id"),
];

/// The IDs of the tokens with a role.
#[derive(Debug)]
pub(super) struct Roles {
    ids: [Option<u32>; ROLES.len()],
}

impl Roles {
    /// Reads the IDs. `usual` has those of roles that the file does not mention.
    pub(super) fn read(vocabulary: &Vocabulary<'_>, usual: &[(&str, u32)]) -> Result<Self, FileError> {
        let last = vocabulary.pieces.len() - 1;
        let mut roles = Self { ids: [None; ROLES.len()] };
        for ((role, key), id) in ROLES.iter().zip(&mut roles.ids) {
            *id = match vocabulary.metadata.get(key) {
                // Some converters write that there is none as -1.
                Some(Value::Signed(-1)) | Some(Value::Unsigned(0xffff_ffff)) => None,
                Some(_) => vocabulary.metadata.size(key, 0..=last)?.map(|id| id as u32),
                None => {
                    let usual = usual.iter().find(|(name, _)| name == role).map(|(_, id)| *id);
                    usual.filter(|id| *id as usize <= last)
                }
            };
        }
        Ok(roles)
    }

    pub(super) fn get(&self, role: &str) -> Option<u32> {
        self.all().find(|(name, _)| *name == role).map(|(_, id)| id)
    }

    /// Returns the roles that have a token.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u32)> {
        ROLES.iter().zip(self.ids).filter_map(|((role, _), id)| Some((*role, id?)))
    }
}
