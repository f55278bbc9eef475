//! What sentence-transformers adds to an encoder's folder: pooling and normalization.

use serde_json::{Value, json};

use super::read::Source;
use crate::error::FileError;

/// The ways of pooling: their numbers in GGUF, and their flags.
const POOLING: [(usize, &str); 3] =
    [(1, "pooling_mode_mean_tokens"), (2, "pooling_mode_cls_token"), (3, "pooling_mode_lasttoken")];

/// No pooling.
const NONE: usize = 0;

/// A classifier in place of pooling: such networks rank documents.
const RANK: usize = 4;

/// Reads the files of an encoder; none for other networks, or if the file does not say how to
/// pool. Programs for GGUF scale vectors to length 1, about which files say nothing.
pub(super) fn read(source: &Source<'_>) -> Result<Vec<(&'static str, Value)>, FileError> {
    let key = source.key("pooling_type");
    let Some(pooling) = source.metadata.size(&key, 0..=usize::MAX)? else { return Ok(vec![]) };
    if source.metadata.architecture()? != "bert" || pooling == NONE {
        return Ok(vec![]);
    }
    if !POOLING.iter().any(|(number, _)| *number == pooling) {
        let found = if pooling == RANK { "4 (a classifier that ranks documents)".into() } else { pooling.to_string() };
        return Err(source.metadata.refuse(&key, found, "1 (mean), 2 (first token) or 3 (last token)"));
    }
    let modules = [("", "models.Transformer"), ("1_Pooling", "models.Pooling"), ("2_Normalize", "models.Normalize")];
    let modules = modules.iter().enumerate().map(|(i, (path, class))| {
        json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.{class}")})
    });
    let mut config = json!({"word_embedding_dimension": source.size("embedding_length", 0..=usize::MAX)?});
    for (number, flag) in POOLING {
        config[flag] = (number == pooling).into();
    }
    Ok(vec![("modules.json", modules.collect()), ("1_Pooling/config.json", config)])
}
