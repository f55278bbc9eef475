//! What belongs to a model besides its tensors, in the folder of a checkpoint as Hugging Face lays it out.

use std::path::{Path, PathBuf};

use qruntime::checkpoint::{file_names, is_plain_name, read_json};
use serde::Deserialize;
use serde_json::Value;

use super::SourceError;

pub(super) const CONFIG: &str = "config.json";
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

/// `config.json`, if the folder has one.
pub(super) fn config(folder: &Path) -> Result<Option<Value>, SourceError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    Ok(read_json(&path).map(Some)?)
}

/// Refuses weights that are already codes of another method, which would be taken for numbers. An error is what to say.
pub(super) fn check_not_quantized(config: Option<&Value>) -> Result<(), String> {
    let Some(quantization) = config.and_then(|config| config.get("quantization_config")) else { return Ok(()) };
    match quantization.get("quant_method") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(method)) => match method.as_str() {
            // 8-bit floats with scales, which are read.
            "fp8" | "fbgemm_fp8" => Ok(()),
            "compressed-tensors" if is_float8(quantization) => Ok(()),
            method => Err(format!("already quantized by {}; convert the original checkpoint", method.escape_debug())),
        },
        Some(other) => Err(format!("quantization_config.quant_method is {other}, expected a name")),
    }
}

/// Whether all groups of `compressed-tensors` have weights of 8-bit floats.
fn is_float8(quantization: &Value) -> bool {
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    groups.is_some_and(|groups| {
        groups.values().all(|group| {
            let weights = |key| group.pointer("/weights").and_then(|weights| weights.get(key));
            weights("type") == Some(&Value::from("float")) && weights("num_bits") == Some(&Value::from(8))
        })
    })
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
                return Err(SourceError::checkpoint(&modules, None, problem));
            }
            // A module such as a final dense layer has weights of its own, which stay as they are.
            found.extend([CONFIG, WEIGHTS].map(|name| Path::new(&path).join(name)));
        }
    }
    found.retain(|path| folder.join(path).is_file());
    Ok(found)
}
