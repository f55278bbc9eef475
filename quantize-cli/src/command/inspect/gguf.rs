//! What a GGUF file says of itself.

use std::fs;
use std::path::Path;

use anyhow::Result;
use qruntime::gguf::{Array, ElementType, Gguf, Metadata, Value};

use super::{Described, Tensor, Tokenizer};

pub(super) fn describe(path: &Path) -> Result<Described> {
    let gguf = Gguf::open(path)?;
    let metadata = gguf.metadata();
    let files = match gguf.paths().len() {
        1 => String::new(),
        files => format!(", {files} files"),
    };
    let tensor = |tensor: &qruntime::gguf::GgufTensor| {
        let element_type = tensor.element_type();
        let storage = element_type.to_string().to_lowercase();
        let packed = !matches!(element_type, ElementType::Plain(_));
        let bytes = (tensor.range().end - tensor.range().start) as usize;
        Tensor::new(tensor.name(), storage, packed, tensor.shape(), bytes)
    };
    let context = metadata.key("context_length").ok().and_then(|key| metadata.size(&key, 0..=usize::MAX).ok()?);
    Ok(Described {
        format: format!("GGUF, version {}{files}", gguf.version()),
        architecture: text(metadata, "general.architecture"),
        name: text(metadata, "general.name"),
        context: context.map(|tokens| tokens as u64),
        tokenizer: tokenizer(metadata),
        tensors: gguf.tensors().iter().map(tensor).collect(),
        file_bytes: gguf.paths().iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum(),
        recipe: serde_json::Value::Null,
        is_ours: false,
    })
}

/// A text of the metadata; nothing if it is missing or something else.
fn text(metadata: &Metadata, key: &str) -> Option<String> {
    metadata.text(key).ok()?.map(str::to_owned)
}

fn tokenizer(metadata: &Metadata) -> Option<Tokenizer> {
    let model = text(metadata, "tokenizer.ggml.model")?;
    let kind = match (model.as_str(), text(metadata, "tokenizer.ggml.pre")) {
        ("llama", _) => "SentencePiece (llama)".into(),
        ("gpt2", Some(pre)) => format!("byte-level BPE ({pre})"),
        ("gpt2", None) => "byte-level BPE".into(),
        ("bert", _) => "WordPiece (bert)".into(),
        ("t5", _) => "Unigram (t5)".into(),
        _ => model,
    };
    let tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::Texts(tokens))) => Some(tokens.len()),
        _ => None,
    };
    Some(Tokenizer { kind, tokens, chat_template: metadata.get("tokenizer.chat_template").is_some() })
}
