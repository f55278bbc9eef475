//! The files that belong to a model besides its tensors, in a folder as Hugging Face lays it out:
//! which they are, and how they come along.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use qruntime::checkpoint::{file_names, is_plain_name, read_config, read_file};
use serde::Deserialize;
use serde_json::Value;

use super::SourceError;
use crate::disk::synchronize;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::report::quoted;

/// The file that says what kind of network a model is.
pub(crate) const CONFIG: &str = "config.json";

/// The file that lists the modules of a sentence encoder.
const MODULES: &str = "modules.json";

/// The file of the weights of a model, or of a module of its own.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// The files that are copied along with a converted model, if they are there.
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
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "README.md",
];

/// Bytes that are copied between two looks at whether that is still wanted.
const PIECE: u64 = 16 << 20;

/// The files that belong to a model besides its tensors; none for a single file of tensors.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    folder: PathBuf,
    /// Relative to `folder`, or to where it will be.
    paths: Vec<PathBuf>,
    /// The content of files that are in no folder, in the order of `paths`; none if they are all in
    /// `folder`.
    made: Vec<Vec<u8>>,
    config: Option<Value>,
}

impl Companions {
    /// Reads `config.json`, if the folder has one.
    pub(super) fn read_config(folder: &Path) -> Result<Option<Value>, SourceError> {
        let path = folder.join(CONFIG);
        // A link to nowhere is no missing file: reading it says so.
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        Ok(read_config(&path).map(Some)?)
    }

    /// Finds those of a checkpoint's folder, each of them once.
    ///
    /// # Errors
    /// If `modules.json` cannot be read, or names anything but folders beside it.
    pub(super) fn find(folder: &Path, config: Option<Value>) -> Result<Self, SourceError> {
        let mut found: Vec<PathBuf> = COMPANIONS.iter().map(PathBuf::from).collect();
        found.extend(file_names(folder, |name| name.starts_with("LICENSE"))?.into_iter().map(PathBuf::from));
        // A module such as a final dense layer has weights of its own, which stay as they are.
        let modules = module_folders(&folder.join(MODULES))?;
        found.extend(modules.iter().flat_map(|path| [CONFIG, WEIGHTS].map(|name| Path::new(path).join(name))));
        for path in &found {
            check_link(&folder.join(path))?;
        }
        found.retain(|path| folder.join(path).is_file());
        Ok(Self { folder: folder.into(), paths: found, made: vec![], config })
    }

    /// Makes them of names and contents.
    ///
    /// # Errors
    /// If `config.json` is no JSON.
    pub(super) fn made(files: Vec<(String, Vec<u8>)>) -> Result<Self, serde_json::Error> {
        let config = files.iter().find(|(name, _)| name == CONFIG);
        let config = config.map(|(_, content)| serde_json::from_slice(content)).transpose()?;
        let (paths, made) = files.into_iter().map(|(name, content)| (name.into(), content)).unzip();
        Ok(Self { folder: PathBuf::new(), paths, made, config })
    }

    /// Returns the same files in another folder, which has them, too.
    pub(crate) fn in_folder(&self, folder: &Path) -> Self {
        Self { folder: folder.into(), made: vec![], ..self.clone() }
    }

    /// Returns the model's `config.json`.
    #[must_use]
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// Returns the kind of network that `config.json` names.
    #[must_use]
    pub fn model_type(&self) -> Option<&str> {
        self.config()?.get("model_type")?.as_str()
    }

    /// Returns where the files are put in the folder of a model.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Returns where the files are; none that are made.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let in_folder = if self.made.is_empty() { self.paths.as_slice() } else { &[] };
        in_folder.iter().map(|path| self.folder.join(path))
    }

    /// Reads one of the files; `None` if there is none of this name.
    ///
    /// # Errors
    /// If it cannot be read, or is longer than any such file.
    pub(crate) fn read(&self, name: &str) -> std::result::Result<Option<Vec<u8>>, qruntime::Error> {
        match self.paths.iter().position(|path| path == Path::new(name)) {
            None => Ok(None),
            Some(i) => match self.made.get(i) {
                Some(content) => Ok(Some(content.clone())),
                None => read_file(&self.folder.join(name)).map(Some),
            },
        }
    }

    /// Returns the bytes of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        let made: u64 = self.made.iter().map(|content| content.len() as u64).sum();
        made + self.files().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum::<u64>()
    }

    /// Copies or writes the files into a folder and flushes them to the disk, until `cancelled`
    /// becomes true. `config` is written in the place of `config.json`, if it is given.
    ///
    /// # Errors
    /// If a file cannot be read or written; if `cancelled` became true.
    pub(crate) fn copy(&self, to: &Path, config: Option<&str>, cancelled: &AtomicBool) -> Result<()> {
        for (i, path) in self.paths.iter().enumerate() {
            let (from, to) = (self.folder.join(path), to.join(path));
            let context = || match self.made.is_empty() {
                true => format!("cannot copy {} to {}", quoted(&from), quoted(&to)),
                false => format!("cannot write {}", quoted(&to)),
            };
            let parent = to.parent().with_context(ErrorKind::Output, context)?;
            fs::create_dir_all(parent).with_context(ErrorKind::Output, context)?;
            match (config.filter(|_| path == Path::new(CONFIG)), self.made.get(i)) {
                (Some(text), _) => fs::write(&to, text).with_context(ErrorKind::Output, context)?,
                (None, Some(content)) => fs::write(&to, content).with_context(ErrorKind::Output, context)?,
                (None, None) => copy(&from, &to, cancelled, context)?,
            }
            synchronize(&to)?;
            synchronize(parent)?;
        }
        Ok(())
    }
}

/// Copies a file, until `cancelled` becomes true.
fn copy(from: &Path, to: &Path, cancelled: &AtomicBool, context: impl Fn() -> String) -> Result<()> {
    let mut reader = File::open(from).with_context(ErrorKind::Io, &context)?;
    let mut writer = File::create(to).with_context(ErrorKind::Output, &context)?;
    while io::copy(&mut (&mut reader).take(PIECE), &mut writer).with_context(ErrorKind::Io, &context)? > 0 {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
    }
    Ok(())
}

/// Returns the folders of the modules that a sentence encoder's `modules.json` lists, sorted; none
/// if there is no such file.
fn module_folders(modules: &Path) -> Result<Vec<String>, SourceError> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
    }
    if !modules.exists() {
        return Ok(vec![]);
    }
    let mut folders: Vec<String> = vec![];
    for Module { path } in read_config::<Vec<Module>>(modules)? {
        // The model itself is the module with an empty path.
        if path.is_empty() {
            continue;
        }
        if !is_plain_name(&path) {
            let problem = format!("module path {path:?}, expected the name of a folder beside it");
            return Err(SourceError::checkpoint(modules, None, problem));
        }
        folders.push(path);
    }
    folders.sort_unstable();
    folders.dedup();
    Ok(folders)
}

/// Whether a file of a converted model's folder can have this path in it: the model, a companion,
/// or a module's file.
pub(crate) fn is_written(path: &Path) -> bool {
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return false };
    if !parent.as_os_str().is_empty() {
        return [CONFIG, WEIGHTS].iter().any(|&file| name == file);
    }
    let is_license = name.to_str().is_some_and(|name| name.starts_with("LICENSE"));
    is_license || name == WEIGHTS || COMPANIONS.iter().any(|&file| name == file)
}

/// Refuses a link to nowhere: the file is missing, and nobody would be told.
fn check_link(path: &Path) -> Result<(), SourceError> {
    match fs::read_link(path) {
        Ok(target) if !path.exists() => {
            let problem = format!("a link to {target:?}, which is missing: download it again");
            Err(SourceError::checkpoint(path, None, problem))
        }
        _ => Ok(()),
    }
}
