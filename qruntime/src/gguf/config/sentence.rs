//! What sentence-transformers adds to an encoder's folder: pooling and normalization.

use serde_json::{Value, json};

use super::read::Source;
use super::write::ReadFile;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::is_plain_name;
use crate::json;

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

/// Returns the way of pooling that a folder's files name: that of sentence-transformers, if there
/// are none.
pub(super) fn write(read: &ReadFile<'_>) -> Result<usize, Error> {
    const MODES: [(&str, usize); 3] = [("mean", 1), ("cls", 2), ("lasttoken", 3)];
    let parse = |name: &str| {
        let text = read(name)?.unwrap_or_else(|| b"null".to_vec());
        Ok::<Value, Error>(json::parse(&text).map_err(|error| FileError::new(FileErrorKind::Json, error))?)
    };
    let modules = parse("modules.json")?;
    let class = |module: &&Value| module["type"].as_str().is_some_and(|class| class.ends_with("Pooling"));
    let Some(module) = modules.as_array().and_then(|modules| modules.iter().find(class)) else { return Ok(1) };
    let folder = module["path"].as_str().filter(|folder| is_plain_name(folder));
    let config = parse(&format!("{}/config.json", folder.unwrap_or("1_Pooling")))?;
    let flags = config.as_object().into_iter().flatten();
    let mut chosen: Vec<&str> = flags
        .filter(|(name, value)| name.starts_with("pooling_mode_") && value.as_bool() == Some(true))
        .map(|(name, _)| name.as_str())
        .collect();
    chosen.extend(config["pooling_mode"].as_str());
    let number = |name: &str| {
        let flag = POOLING.iter().find(|(_, flag)| *flag == name).map(|(number, _)| *number);
        flag.or_else(|| MODES.iter().find(|(mode, _)| *mode == name).map(|(_, number)| *number))
    };
    match chosen.as_slice() {
        [] => Ok(1),
        [one] if number(one).is_some() => Ok(number(one).unwrap_or(1)),
        other => {
            let expected = "one of the mean, the first and the last token: GGUF has no other";
            Err(FileError::field("pooling_mode", format!("{other:?}"), expected)
                .in_file("1_Pooling/config.json".as_ref())
                .into())
        }
    }
}
