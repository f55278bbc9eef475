//! Merges as texts, or as the scores that they can be derived from.

use std::collections::{HashMap, HashSet};

use super::super::vocabulary::Kind;
use super::bad;
use super::file::File;
use super::tokens::Tokens;
use crate::error::FileError;

/// Returns the merges as texts of two tokens with a space between them.
pub(super) fn lines(file: &File) -> Result<Vec<String>, FileError> {
    let line = |merge: &super::file::Merge| {
        let (left, right) = merge.pair()?;
        match left.contains(' ') || right.contains(' ') {
            true => Err(bad(format!("merge of {left:?} and {right:?}, expected no spaces: a GGUF file cannot say it"))),
            false => Ok(format!("{left} {right}")),
        }
    };
    file.model.merges.iter().map(line).collect()
}

/// Returns scores from which the same merges follow: of all neighbours that make a token together,
/// those whose token has the highest score are joined first.
///
/// # Errors
/// If the merges are not of this kind: if neighbours that make a token are not merged, or if merges
/// into different tokens take turns.
pub(super) fn scores(file: &File, tokens: &Tokens) -> Result<Vec<f32>, FileError> {
    let mergeable = |kind: &Kind| *kind == Kind::Normal;
    let pieces = tokens.texts.iter().zip(&tokens.kinds).enumerate().filter(|(_, (_, kind))| mergeable(kind));
    let ids: HashMap<&str, usize> = pieces.map(|(id, (text, _))| (text.as_str(), id)).collect();
    let mut scores = vec![0.0_f32; tokens.texts.len()];
    let mut merged: HashSet<(&str, &str)> = HashSet::with_capacity(file.model.merges.len());
    let mut finished = vec![false; tokens.texts.len()];
    let (mut order, mut last) = (0_u32, None);
    for merge in &file.model.merges {
        let (left, right) = merge.pair()?;
        let joined = [left, right].concat();
        // An added token is found before anything is merged.
        let Some(&id) = ids.get(joined.as_str()).filter(|_| ids.contains_key(left) && ids.contains_key(right)) else {
            continue;
        };
        if last != Some(id) {
            if finished[id] {
                return Err(bad(format!(
                    "merges into {joined:?} and other tokens take turns, expected all merges into a token together: \
                     a GGUF file has one score per token"
                )));
            }
            if let Some(last) = last.replace(id) {
                finished[last] = true;
            }
            order += 1;
            scores[id] = -(order as f32);
        }
        merged.insert((left, right));
    }
    for (id, (text, kind)) in tokens.texts.iter().zip(&tokens.kinds).enumerate() {
        if !mergeable(kind) {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) && !merged.contains(&(left, right)) {
                return Err(bad(format!(
                    "{left:?} and {right:?} are not merged into {text:?}, expected a merge: programs that read GGUF \
                     files join all neighbours that make a token"
                )));
            }
        }
        if scores[id] == 0.0 {
            // A single character, or a token that no others make up.
            order += 1;
            scores[id] = -(order as f32);
        }
    }
    Ok(scores)
}
