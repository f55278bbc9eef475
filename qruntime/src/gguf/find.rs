//! Finds the GGUF file of a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Gguf;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::file_names;

/// Most names in a message.
const MAX_NAMES: usize = 8;

/// Returns the file if `path` is a GGUF file, whatever its name, or a folder with those of one
/// model and no safetensors files; `None` otherwise.
///
/// # Errors
/// If the folder has the files of several models.
pub(crate) fn find(path: &Path) -> Result<Option<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(Gguf::is_gguf(path).then(|| path.into()));
    }
    // A folder that cannot be listed may still have files of known names.
    let listed = file_names(path, |name| name.ends_with(".gguf") || name.contains(".safetensors"));
    let names = listed.unwrap_or_default();
    if names.iter().any(|name| name.contains(".safetensors")) {
        return Ok(None);
    }
    // Of a split model, the first file there is: if it is not the first one, that is an error.
    let mut models = BTreeMap::new();
    for name in &names {
        models.entry(stem(name)).or_insert(name);
    }
    let mut models = models.into_values();
    match (models.next(), models.len()) {
        (None, _) => Ok(None),
        (Some(only), 0) => Ok(Some(path.join(only))),
        (Some(first), more) => {
            let names: Vec<&String> = [first].into_iter().chain(models).take(MAX_NAMES).collect();
            let message = format!("{} GGUF models, expected one: name a file, such as one of {names:?}", more + 1);
            Err(FileError::new(FileErrorKind::Shards, message).in_file(path).into())
        }
    }
}

/// Returns the name without what numbers the files of a split model, and how many of these there
/// are, as the name says; none of a model in one file.
fn stem(name: &str) -> (&str, &str) {
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let numbered = stem.rsplit_once("-of-").filter(|(_, count)| count.bytes().all(|b| b.is_ascii_digit()));
    let number = numbered.and_then(|(before, count)| Some((before.rsplit_once('-')?, count)));
    let number = number.filter(|((_, number), _)| number.bytes().all(|b| b.is_ascii_digit()));
    number.map_or((stem, ""), |((stem, _), count)| (stem, count))
}
