//! Recognizes folders that are not checkpoints: for each common mistake, a message names it and
//! says what to do.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{INDEX, MODEL};
use crate::error::{FileError, FileErrorKind};
use crate::files::{file_names, is_there, read_json_within};
use crate::recognize::{dangling, foreign};

/// Most bytes of the description of an adapter.
const MAX_ADAPTER: usize = 1 << 20;

const ADAPTER: &str = "adapter_config.json";

/// The endings of files of weights in other forms, what such a file is, and what to do.
const FORMS: &[(&str, &str, &str)] = &[
    (".bin", "PyTorch weights", SAVE_AGAIN),
    (".pt", "PyTorch weights", SAVE_AGAIN),
    (".pth", "PyTorch weights", SAVE_AGAIN),
    (".ckpt", "PyTorch weights", SAVE_AGAIN),
    (".gguf", "a GGUF file", "give its own path"),
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

/// Recognizes an adapter without the model that it is made for.
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

/// Returns whether a complete model has an adapter beside it, which would be ignored.
pub(super) fn has_adapter(folder: &Path) -> bool {
    is_there(&folder.join(ADAPTER))
}

/// Recognizes a folder without safetensors files.
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

/// Finds a folder below this one that holds weights, as in Hugging Face's cache.
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
