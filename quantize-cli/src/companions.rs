//! The files that belong to a model besides its tensors: which they are, and how they come along.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use qruntime::checkpoint::{file_names, is_plain_name, read_config};
use serde::Deserialize;

use crate::output::synchronize;
use crate::report::quoted;
use crate::source::SourceError;

/// What says what kind of network a model is.
pub(crate) const CONFIG: &str = "config.json";

/// What lists the modules of a sentence encoder.
const MODULES: &str = "modules.json";

/// The file of a module's own weights.
const WEIGHTS: &str = "model.safetensors";

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

/// The companions that a checkpoint's folder has, relative to it, each of them once.
///
/// # Errors
/// If `modules.json` cannot be read, or names anything but folders beside it.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut found: Vec<PathBuf> = COMPANIONS.iter().map(PathBuf::from).collect();
    found.extend(file_names(folder, |name| name.starts_with("LICENSE"))?.into_iter().map(PathBuf::from));

    let modules = folder.join(MODULES);
    if modules.exists() {
        #[derive(Deserialize)]
        struct Module {
            path: String,
        }
        let mut folders: Vec<String> = vec![];
        for Module { path } in read_config::<Vec<Module>>(&modules)? {
            // The model itself is the module with an empty path.
            if path.is_empty() {
                continue;
            }
            if !is_plain_name(&path) {
                let problem = format!("module path {path:?}, expected the name of a folder beside it");
                return Err(SourceError::checkpoint(&modules, None, problem));
            }
            folders.push(path);
        }
        folders.sort_unstable();
        folders.dedup();
        // A module such as a final dense layer has weights of its own, which stay as they are.
        found.extend(folders.iter().flat_map(|path| [CONFIG, WEIGHTS].map(|name| Path::new(path).join(name))));
    }
    for path in &found {
        check_link(&folder.join(path))?;
    }
    found.retain(|path| folder.join(path).is_file());
    Ok(found)
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

/// Copies companions from one folder to another and flushes them to the disk, until `cancelled`
/// becomes true. What `changed` returns for a companion is written in its place.
///
/// # Errors
/// If a file cannot be read or written; if `cancelled` became true.
pub(crate) fn copy(
    companions: &[PathBuf],
    from: &Path,
    to: &Path,
    changed: impl Fn(&Path) -> Option<String>,
    cancelled: &AtomicBool,
) -> Result<()> {
    for companion in companions {
        let (from, to) = (from.join(companion), to.join(companion));
        let context = || format!("cannot copy {} to {}", quoted(&from), quoted(&to));
        let parent = to.parent().with_context(context)?;
        fs::create_dir_all(parent).with_context(context)?;
        match changed(companion) {
            Some(text) => fs::write(&to, text).with_context(context)?,
            None => {
                let (mut reader, mut writer) =
                    File::open(&from).and_then(|from| Ok((from, File::create(&to)?))).with_context(context)?;
                while io::copy(&mut (&mut reader).take(PIECE), &mut writer).with_context(context)? > 0 {
                    if cancelled.load(Ordering::Relaxed) {
                        bail!("interrupted");
                    }
                }
            }
        }
        synchronize(&to)?;
        synchronize(parent)?;
    }
    Ok(())
}

/// Bytes of all companions in a folder together.
pub(crate) fn bytes(companions: &[PathBuf], folder: &Path) -> u64 {
    let len = |companion| fs::metadata(folder.join(companion)).map_or(0, |metadata| metadata.len());
    companions.iter().map(len).sum()
}
