//! What belongs to a model besides its tensors, in the folder of a checkpoint as Hugging Face lays it out.

use std::path::Path;

use qruntime::checkpoint::read_config;
use serde_json::Value;

use super::SourceError;
use crate::companions::CONFIG;

/// `config.json`, if the folder has one.
pub(super) fn config(folder: &Path) -> Result<Option<Value>, SourceError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    Ok(read_config(&path).map(Some)?)
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
