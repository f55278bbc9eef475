//! The folder of a checkpoint as Hugging Face lays it out: which files hold tensors, and which belong to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::SourceError;
use super::safetensors::{MAX_HEADER, regular_file_length};

const INDEX: &str = "model.safetensors.index.json";
const MODEL: &str = "model.safetensors";
pub(super) const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";

/// What is copied along with a converted model, if it is there.
const COMPANIONS: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    MODULES,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "README.md",
];

/// Where the tensors of a checkpoint are.
#[derive(Debug)]
pub(super) struct Layout {
    /// The files, sorted by name.
    pub(super) files: Vec<PathBuf>,
    /// The index, if there is one.
    pub(super) index: Option<Index>,
}

/// Which shard holds which tensor, as `model.safetensors.index.json` says.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(skip)]
    pub(super) path: PathBuf,
    pub(super) weight_map: BTreeMap<String, String>,
}

impl Layout {
    /// One file alone.
    pub(super) fn of_file(path: &Path) -> Result<Self, SourceError> {
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            return Err(SourceError::checkpoint(path, "expected a .safetensors file or a folder with one"));
        }
        Ok(Self { files: vec![path.to_path_buf()], index: None })
    }

    /// The shards of the index; or `model.safetensors`; or the only safetensors file.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, SourceError> {
        let index_path = folder.join(INDEX);
        if index_path.exists() {
            return Self::of_index(folder, Index { path: index_path.clone(), ..read_json(&index_path)? });
        }
        let model = folder.join(MODEL);
        if model.exists() {
            return Ok(Self { files: vec![model], index: None });
        }
        let names = file_names(folder, |name| name.ends_with(".safetensors"))?;
        match &names[..] {
            [] => Err(SourceError::checkpoint(folder, format!("no {INDEX}, {MODEL} or other .safetensors file"))),
            [name] if is_one_of_several(name) => {
                Err(SourceError::checkpoint(folder, format!("no {INDEX}, but {name:?} is one shard of several")))
            }
            [name] => Ok(Self { files: vec![folder.join(name)], index: None }),
            [..] => Err(SourceError::checkpoint(
                folder,
                format!("no {INDEX} to tell which of {} .safetensors files belong together: {names:?}", names.len()),
            )),
        }
    }

    fn of_index(folder: &Path, index: Index) -> Result<Self, SourceError> {
        let mut shards = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            shards.entry(shard).or_insert(tensor);
        }
        let mut files = Vec::with_capacity(shards.len());
        for (shard, tensor) in shards {
            // The index is as untrusted as any file: it must not lead out of its folder.
            if !is_plain_name(shard) {
                let problem = format!("shard {shard:?}, expected a file name without a folder");
                return Err(SourceError::checkpoint(&index.path, problem).of_tensor(tensor));
            }
            let file = folder.join(shard);
            if !file.exists() {
                let problem = format!("shard {shard:?} is missing");
                return Err(SourceError::checkpoint(&index.path, problem).of_tensor(tensor));
            }
            files.push(file);
        }
        Ok(Self { files, index: Some(index) })
    }
}

/// `config.json`, if the folder has one.
pub(super) fn config(folder: &Path) -> Result<Option<Value>, SourceError> {
    let path = folder.join(CONFIG);
    if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
}

/// The files that belong to the model besides its tensors, relative to the folder.
pub(super) fn companions(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut found: Vec<PathBuf> = COMPANIONS.iter().map(PathBuf::from).collect();
    found.extend(file_names(folder, |name| name.starts_with("LICENSE"))?.into_iter().map(PathBuf::from));

    let modules = folder.join(MODULES);
    if modules.exists() {
        #[derive(Deserialize)]
        struct Module {
            path: String,
        }
        for Module { path } in read_json::<Vec<Module>>(&modules)? {
            // The model itself is the module with an empty path.
            if path.is_empty() {
                continue;
            }
            if !is_plain_name(&path) {
                let problem = format!("module path {path:?}, expected the name of a folder beside it");
                return Err(SourceError::checkpoint(&modules, problem));
            }
            // A module such as a final dense layer has weights of its own, which stay as they are.
            found.extend([CONFIG, MODEL].map(|name| Path::new(&path).join(name)));
        }
    }
    found.retain(|path| folder.join(path).is_file());
    Ok(found)
}

/// Reads a JSON file, but no more of it than the format would allow a header to be.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, SourceError> {
    let length = regular_file_length(path)?;
    if length > MAX_HEADER {
        return Err(SourceError::checkpoint(path, format!("{length} bytes of JSON, expected at most {MAX_HEADER}")));
    }
    let bytes = fs::read(path).map_err(|error| SourceError::io(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| SourceError::json(path, error))
}

/// Sorted names of the folder's files. Names that are not UTF-8 are none that is looked for.
fn file_names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, SourceError> {
    let failed = |error| SourceError::io(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && wanted(&name)
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a name denotes something directly inside a folder, on every system.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['/', '\\', ':', '\0'])
}

/// Whether a name ends like `-00002-of-00003.safetensors`.
fn is_one_of_several(name: &str) -> bool {
    name.trim_end_matches(".safetensors")
        .rsplit_once("-of-")
        .and_then(|(_, count)| count.parse().ok())
        .is_some_and(|count: u32| count > 1)
}
