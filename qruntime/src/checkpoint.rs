//! The files of a model in Hugging Face's layout: which files hold its tensors, and whether index
//! and shards agree.
//!
//! This is for programs that read checkpoints piece by piece; [`Model`](crate::Model) uses it,
//! too.

mod foreign;
mod instead;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::container::MAX_HEADER;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::{self, MAX_CONFIG, is_there};
use crate::recognize;

pub use crate::files::{file_names, is_plain_name};
pub use foreign::{Reader, refuse_foreign};

const INDEX: &str = "model.safetensors.index.json";
const MODEL: &str = "model.safetensors";

/// The safetensors files of a model.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<PathBuf>,
    /// The path of the index, and the file that it names for each tensor.
    index: Option<(PathBuf, BTreeMap<String, String>)>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Finds the files of the model at `path`: the file itself, or in a folder the first of these
    /// that exists: `model.safetensors`, the shards that `model.safetensors.index.json` lists, the
    /// only `.safetensors` file. This is the order of `transformers`. None of the weight files is
    /// opened.
    ///
    /// # Errors
    /// If the folder has none of these (the message says what it has instead) or cannot be read; if
    /// its index cannot be read, is malformed, lists no shard, or lists one that is missing or not
    /// directly in the folder.
    pub fn find(path: &Path) -> Result<Self, Error> {
        let single = |file, warnings| Self { files: vec![file], index: None, warnings };
        if !path.is_dir() {
            return Ok(single(path.into(), vec![]));
        }
        if let Some(error) = instead::adapter_alone(path) {
            return Err(error.into());
        }
        let mut warnings = vec![];
        if instead::has_adapter(path) {
            warnings.push(format!("{path:?}: an adapter lies beside the model and is not applied"));
        }
        let index = path.join(INDEX);
        let file = path.join(MODEL);
        if is_there(&file) {
            warnings.extend(stale(&index));
            return Ok(single(file, warnings));
        }
        if is_there(&index) {
            let Index { weight_map } = read_json(&index)?;
            let files = shards(path, &weight_map).map_err(|error| error.in_file(&index))?;
            return Ok(Self { files, index: Some((index, weight_map)), warnings });
        }
        let names = file_names(path, |name| name.ends_with(".safetensors"))?;
        if names.is_empty() {
            return Err(instead::without_weights(path).into());
        }
        Ok(single(path.join(only(&names).map_err(|error| error.in_file(path))?), warnings))
    }

    /// Returns the files, sorted by name.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns warnings about files that are ignored, each a sentence.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Checks that index and shards agree on which file holds which tensor. `tensors` lists the
    /// content of the files: for each tensor, the position of its file in [`files`](Self::files)
    /// and its name.
    ///
    /// # Errors
    /// If two files have a tensor of the same name; if a tensor is not in the file that the index
    /// names, or not in the index.
    ///
    /// # Panics
    /// If a position is out of range.
    pub fn check<'a>(&self, tensors: impl IntoIterator<Item = (usize, &'a str)>) -> Result<(), Error> {
        // Without an index there is only one file, whose names have been found to be unique.
        let Some((index, weight_map)) = &self.index else { return Ok(()) };
        let file_name = |file: usize| self.files[file].file_name().unwrap_or_default();
        let refuse =
            |file: &Path, name: &str, message: String| Err(shards_disagree(name, message).in_file(file).into());

        let mut found = BTreeMap::new();
        for (file, name) in tensors {
            if let Some(other) = found.insert(name, file) {
                return refuse(&self.files[file], name, format!("also in {:?}", file_name(other)));
            }
        }
        for (name, shard) in weight_map {
            match found.remove(name.as_str()).map(file_name) {
                Some(file) if file == shard.as_str() => {}
                Some(file) => return refuse(index, name, format!("found in {file:?}, expected in {shard:?}")),
                None => return refuse(index, name, format!("not in any shard, expected in {shard:?}")),
            }
        }
        match found.first_key_value() {
            Some((name, &file)) => refuse(&self.files[file], name, "not in the index".into()),
            None => Ok(()),
        }
    }
}

/// Returns a warning if an index beside a single file lists other files.
fn stale(index: &Path) -> Option<String> {
    if !is_there(index) {
        return None;
    }
    let listed = match read_json(index) {
        Ok(Index { weight_map }) => weight_map.into_values().filter(|shard| shard != MODEL).collect(),
        Err(_) => BTreeSet::new(),
    };
    let listed = match (listed.first(), listed.len()) {
        (None, _) => return None,
        (Some(first), 1) => format!("{first:?}"),
        (Some(first), count) => format!("{first:?} and {} more", count - 1),
    };
    Some(format!(
        "{index:?}: ignored, with the files that it lists ({listed}): {MODEL} beside it is read, as transformers does"
    ))
}

fn shards_disagree(tensor: &str, message: String) -> FileError {
    FileError { kind: FileErrorKind::Shards, ..FileError::tensor(tensor, message) }
}

/// Returns the shards that an index lists, each once. Errors name a tensor of the shard.
fn shards(folder: &Path, weight_map: &BTreeMap<String, String>) -> Result<Vec<PathBuf>, FileError> {
    let wanted: BTreeMap<&String, &String> = weight_map.iter().map(|(tensor, shard)| (shard, tensor)).collect();
    if wanted.is_empty() {
        return Err(FileError::new(FileErrorKind::Shards, "lists no shards"));
    }
    let find = |(shard, tensor): (&String, &String)| {
        // The index is untrusted: it must not lead out of its folder.
        if !is_plain_name(shard) {
            let message = format!("shard {shard:?}, expected the name of a file in the same folder");
            return Err(shards_disagree(tensor, message));
        }
        let file = folder.join(shard);
        match std::fs::read_link(&file) {
            _ if file.exists() => Ok(file),
            Ok(target) => {
                let target = recognize::to_nowhere(&target);
                Err(shards_disagree(tensor, format!("shard {shard:?} is {target}: download it again")))
            }
            Err(_) => Err(shards_disagree(tensor, format!("shard {shard:?} is missing: download it"))),
        }
    };
    wanted.into_iter().map(find).collect()
}

/// Returns the only one of these files that can be a model without an index.
fn only(names: &[String]) -> Result<&str, FileError> {
    let message = match names {
        [name] if !is_one_of_several(name) => return Ok(name),
        [name] => format!("no {INDEX}, but {name:?} is one shard of several"),
        names => {
            format!("no {INDEX} to tell which of {} .safetensors files belong together: {names:?}", names.len())
        }
    };
    Err(FileError::new(FileErrorKind::Shards, message))
}

/// Returns whether a name ends like `-00002-of-00003.safetensors`.
fn is_one_of_several(name: &str) -> bool {
    name.trim_end_matches(".safetensors")
        .rsplit_once("-of-")
        .and_then(|(_, count)| count.parse().ok())
        .is_some_and(|count: u32| count > 1)
}

/// Most bytes of a file that belongs to a model besides its weights.
const MAX_COMPANION: usize = 64 << 20;

/// Reads a JSON file of a checkpoint, which may be at most as long as the header of a safetensors
/// file.
///
/// # Errors
/// If the file cannot be read, is not an ordinary file, is too long, or is not JSON of the form of
/// `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    files::read_json_within(path, MAX_HEADER)
}

/// Reads a JSON file such as `config.json`, which may have up to 4 MiB.
///
/// # Errors
/// Those of [`read_json`].
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    files::read_json_within(path, MAX_CONFIG)
}

/// Reads a file of a model other than its weights, which may have up to 64 MiB.
///
/// # Errors
/// If the file cannot be read, is not an ordinary file, is too long, or something else was
/// downloaded in its place.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    files::read_text(path, MAX_COMPANION)
}
