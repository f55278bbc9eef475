//! Says what a file or a folder is when it is no checkpoint: each common mistake has a sentence
//! that names it and what to do.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{INDEX, MODEL, file_names, is_there, read_json_within};
use crate::error::{FileError, FileErrorKind};

/// Bytes at the beginning of a file that tell what it is.
pub(crate) const BEGINNING: usize = 512;

/// Bytes that the description of an adapter may have.
const MAX_ADAPTER: usize = 1 << 20;

const ADAPTER: &str = "adapter_config.json";

/// How files of other kinds begin, and what to say of them.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"GGUF", "a GGUF file, which is not read: give the original checkpoint that it was made from"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes it: load it in PyTorch and save it as safetensors"),
    (b"\x80", "a Python pickle, as torch.save writes it: load it in PyTorch and save it as safetensors"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it: load it in its framework and save it as safetensors"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"{", "JSON text, expected a .safetensors file or a folder with one"),
];

/// How the names of weights in other forms end, what such a file is, and what to do.
const FORMS: &[(&str, &str, &str)] = &[
    (".bin", "PyTorch weights", SAVE_AGAIN),
    (".pt", "PyTorch weights", SAVE_AGAIN),
    (".pth", "PyTorch weights", SAVE_AGAIN),
    (".ckpt", "PyTorch weights", SAVE_AGAIN),
    (".gguf", "a GGUF file", "give the original checkpoint that it was made from"),
    (".ggml", "a GGML file", "give the original checkpoint that it was made from"),
    (".onnx", "an ONNX model", "give the original checkpoint that it was made from"),
    (".tflite", "a TensorFlow Lite model", "give the original checkpoint that it was made from"),
    (".xml", "an OpenVINO model", "give the original checkpoint that it was made from"),
    (".npz", "NumPy arrays", "save them as safetensors first"),
    (".h5", "TensorFlow weights", SAVE_AGAIN),
    (".msgpack", "Flax weights", SAVE_AGAIN),
    (".incomplete", "an unfinished download", "download it again"),
    (".part", "an unfinished download", "download it again"),
    (".crdownload", "an unfinished download", "download it again"),
    (".aria2", "an unfinished download", "download it again"),
];

const SAVE_AGAIN: &str = "load the model with transformers and save it with save_pretrained, which writes safetensors";

/// What a file is that is not safetensors, by its first bytes.
pub(crate) fn by_beginning(bytes: &[u8]) -> Option<FileError> {
    let bytes = &bytes[..bytes.len().min(BEGINNING)];
    if let Some(error) = replaced(bytes) {
        return Some(error);
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Some(foreign(*what));
    }
    let line = bytes.split(|&b| matches!(b, b'\n' | b'\r')).next().unwrap_or_default();
    let text = std::str::from_utf8(&line[..line.len().min(40)]).ok()?;
    let is_text = text.len() >= 8 && !text.contains(char::is_control);
    is_text.then(|| foreign(format!("text that begins {text:?}, expected weights: download the file again")))
}

/// What lies in the place of any file, text or not, if its content was not downloaded.
pub(crate) fn replaced(bytes: &[u8]) -> Option<FileError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        let what = "a Git LFS pointer in place of the file itself: run `git lfs pull` in its folder, or download it";
        return Some(foreign(what));
    }
    let text = bytes.trim_ascii();
    if text.starts_with(b"../") && text.len() < BEGINNING && !text.contains(&b'\n') {
        let what = "the text of a link in place of the file that it leads to: copy or download the file itself";
        return Some(foreign(what));
    }
    let begins = |tag: &[u8]| text.get(..tag.len()).is_some_and(|text| text.eq_ignore_ascii_case(tag));
    (begins(b"<!doctype html") || begins(b"<html"))
        .then(|| foreign("an HTML page in place of the file, such as a login or error page: download it again"))
}

/// What a link is whose target is missing.
pub(crate) fn dangling(path: &Path) -> Option<FileError> {
    let target = fs::read_link(path).ok()?;
    (!path.exists()).then(|| foreign(format!("{}: download it again", to_nowhere(&target))).in_file(path))
}

pub(super) fn to_nowhere(target: &Path) -> String {
    format!("a link to {target:?}, which is missing (an interrupted download, or a file that was moved)")
}

/// An adapter without the model that it is made for.
pub(super) fn adapter_alone(folder: &Path) -> Option<FileError> {
    let path = folder.join(ADAPTER);
    if !is_there(&path) {
        return None;
    }
    let weights = file_names(folder, |name| name.ends_with(".safetensors")).ok()?;
    weights.iter().all(|name| name.starts_with("adapter_")).then(|| {
        let config: Value = read_json_within(&path, MAX_ADAPTER).unwrap_or_default();
        let text = |field: &str| config.get(field).and_then(Value::as_str);
        let kind = if text("peft_type").is_none_or(|kind| kind == "LORA") { "LoRA" } else { "PEFT" };
        let base = text("base_model_name_or_path").map_or("its base model".into(), |base| format!("{base:?}"));
        foreign(format!("a {kind} adapter without the model that it changes: {}", merge(&base))).in_file(folder)
    })
}

pub(super) fn merge(base: &str) -> String {
    format!("merge it into {base} (PEFT: merge_and_unload, then save_pretrained) and give the result")
}

/// Whether a whole model has an adapter beside it, which would be left out.
pub(super) fn has_adapter(folder: &Path) -> bool {
    is_there(&folder.join(ADAPTER))
}

/// What a folder is that has no safetensors file.
pub(super) fn without_weights(folder: &Path) -> FileError {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    if names.is_empty() {
        return foreign("an empty folder, expected a checkpoint: config.json and .safetensors files").in_file(folder);
    }
    if let Some(error) =
        names.iter().filter(|name| name.ends_with(".safetensors")).find_map(|name| dangling(&folder.join(name)))
    {
        return error;
    }
    for (ending, what, to_do) in FORMS {
        let found =
            names.iter().find(|name| name.to_ascii_lowercase().ends_with(ending) && *name != "training_args.bin");
        if let Some(name) = found {
            return foreign(format!("no .safetensors file, but {what} ({name:?}): {to_do}")).in_file(folder);
        }
    }
    let message = match below(folder, &names) {
        Some(inner) => format!("no .safetensors file here, but in {inner:?}: give that folder"),
        None => format!("no {INDEX}, {MODEL} or other .safetensors file"),
    };
    FileError::new(FileErrorKind::Shards, message).in_file(folder)
}

/// A folder below this one that holds weights, as in a cache of Hugging Face.
fn below(folder: &Path, names: &[String]) -> Option<String> {
    let holds = |inner: &str| {
        let folder = folder.join(inner);
        folder.is_dir()
            && file_names(&folder, |name| name.ends_with(".safetensors")).is_ok_and(|names| !names.is_empty())
    };
    let snapshots = fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    let mut snapshots: Vec<String> =
        snapshots.filter_map(|entry| Some(format!("snapshots/{}", entry.file_name().into_string().ok()?))).collect();
    snapshots.sort_unstable();
    snapshots.iter().chain(names).find(|inner| holds(inner)).cloned()
}

fn foreign(message: impl Into<String>) -> FileError {
    FileError::new(FileErrorKind::Foreign, message)
}
