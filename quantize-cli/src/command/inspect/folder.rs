//! What a checkpoint of safetensors or a converted model says of itself.

use std::path::Path;

use anyhow::Result;
use qruntime::checkpoint::{read_config, read_json};
use qruntime::container::Storage;
use serde_json::Value;

use super::{Described, Tensor, Tokenizer};

pub(super) fn describe(path: &Path) -> Result<Described> {
    let model = super::super::open(path)?;
    let tensor = |entry: &qruntime::container::Entry| {
        let (storage, packed) = match entry.storage() {
            Storage::Packed(format) => (format.name().to_owned(), true),
            Storage::Plain(dtype) => (format!("{dtype:?}").to_lowercase(), false),
        };
        Tensor::new(entry.name(), storage, packed, entry.shape(), entry.bytes())
    };
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    // What cannot be read is not said here: the commands that need it complain.
    let config: Value = read_config(&folder.join("config.json")).unwrap_or_default();
    let text = |pointer: &str| config.pointer(pointer)?.as_str().map(str::to_owned);
    let is_ours = model.is_described();
    Ok(Described {
        format: if is_ours { "safetensors, packed by quantize".into() } else { "safetensors".into() },
        architecture: text("/model_type").or_else(|| text("/architectures/0")),
        name: text("/_name_or_path").filter(|name| !name.is_empty()),
        context: config.get("max_position_embeddings").and_then(Value::as_u64),
        tokenizer: tokenizer(folder),
        tensors: model.tensors().map(tensor).collect(),
        file_bytes: model.file_bytes(),
        recipe: model.recipe().clone(),
        is_ours,
    })
}

fn tokenizer(folder: &Path) -> Option<Tokenizer> {
    let chat_template = || {
        let config: Value = read_config(&folder.join("tokenizer_config.json")).unwrap_or_default();
        config.get("chat_template").is_some() || folder.join("chat_template.jinja").exists()
    };
    let file: Value = read_json(&folder.join("tokenizer.json")).ok()?;
    let model = file.get("model")?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("tokenizer.json").to_owned();
    let tokens = match model.get("vocab") {
        Some(Value::Object(vocabulary)) => Some(vocabulary.len()),
        Some(Value::Array(vocabulary)) => Some(vocabulary.len()),
        _ => None,
    };
    Some(Tokenizer { kind, tokens, chat_template: chat_template() })
}
