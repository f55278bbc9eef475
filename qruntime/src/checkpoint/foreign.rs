//! Recognizes checkpoints whose weights are codes of another method. If codes are taken for
//! numbers, or scales are quantized again, the model runs but answers nonsense.
//!
//! Three things reveal a method: `config.json`, a file beside it, and the names and types of the
//! tensors. The last of these works for a single file, too.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use super::instead;
use crate::container::MAX_HEADER;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::{folder, is_there, read_json_within};

/// The values of `quant_method`, and the names of the methods.
const METHODS: &[(&str, &str)] = &[
    ("aqlm", "AQLM"),
    ("awq", "AWQ"),
    ("bitnet", "BitNet"),
    ("eetq", "EETQ"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("gptq", "GPTQ"),
    ("higgs", "HIGGS"),
    ("hqq", "HQQ"),
    ("modelopt", "ModelOpt"),
    ("mxfp4", "MXFP4"),
    ("quip", "QuIP#"),
    ("spqr", "SpQR"),
    ("vptq", "VPTQ"),
];

/// Files that a method writes beside the weights.
const FILES: &[(&str, &str)] = &[
    ("quantize_config.json", "GPTQ"),
    ("quant_config.json", "AWQ"),
    ("quantization_map.json", "quanto"),
    ("quanto_qmap.json", "quanto"),
];

/// The methods that `quantize convert` decodes.
const CONVERTED: &[&str] = &[
    "AWQ",
    "GPTQ",
    "GPTQ or AWQ",
    "MLX",
    "MXFP4",
    "ModelOpt",
    "NVFP4",
    "auto-round",
    "bitsandbytes",
    "compressed-tensors",
    "intel/auto-round",
];

/// Endings of tensor names that only a method's codes and their parameters have.
const NAMES: &[(&str, &str)] = &[
    (".g_idx", "GPTQ"),
    (".qweight", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors"),
    (".weight_global_scale", "NVFP4"),
    (".weight_scale_2", "NVFP4"),
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".weight_format", "bitsandbytes"),
    (".weight._data", "quanto"),
    (".W_q", "HQQ"),
    (".weight_scales", "EETQ"),
    (".codes", "AQLM"),
    (".centroids.weight", "VPTQ"),
    (".Qidxs", "QuIP#"),
    (".dense_weights", "SpQR"),
    (".q_weight", "EXL2"),
    (".q_invperm", "EXL2"),
    (".trellis", "EXL3"),
    ("._weight_qdata", "torchao"),
    (".weight_qdata", "torchao"),
];

/// What becomes of the codes of other methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Weights are multiplied as they are.
    Runtime,
    /// The codes of some methods are decoded. Tensors of such codes are not listed.
    Converter {
        /// Whether there were any.
        has_decoded: bool,
    },
}

/// Refuses a checkpoint whose weights are codes of another method, or an adapter's. 8-bit floats
/// with scales are accepted: a converter can read them.
///
/// `path` is the checkpoint, a folder or a file with others beside it; `field` returns the fields
/// of its `config.json`, and `tensors` lists names, types and shapes.
///
/// # Errors
/// An error of [`FileErrorKind::Foreign`] names the method, what reveals it, and what to do.
pub fn refuse_foreign<'a, 'v>(
    path: &Path,
    field: impl Fn(&str) -> Option<&'v Value>,
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
    reader: Reader,
) -> Result<(), Error> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let folder = &folder(path);
    let refuse = |path: &Path, method: &str, shown: &str| {
        let advice = match reader {
            _ if !CONVERTED.contains(&method) => "which is not read; give the original checkpoint",
            Reader::Runtime => {
                "which only `quantize convert` reads: convert the model first, or give the original checkpoint"
            }
            Reader::Converter { .. } => "but no tensor is stored as that; give the original checkpoint",
        };
        let message = format!("already quantized by {method} ({shown}), {advice}");
        Err(FileError::new(FileErrorKind::Foreign, message).in_file(path).into())
    };
    let has_decoded = reader == Reader::Converter { has_decoded: true };
    let is_decoded = |method: &str| has_decoded && CONVERTED.contains(&method);
    if let Some((method, shown)) = by_config(&field)
        && !is_decoded(&method)
    {
        return refuse(&folder.join("config.json"), &method, &shown);
    }
    for (name, method) in FILES {
        if is_there(&folder.join(name)) && !is_decoded(method) {
            return refuse(folder, method, name);
        }
    }
    if let Some(shown) = by_modelopt(folder)
        && !is_decoded("ModelOpt")
    {
        return refuse(&folder.join(MODELOPT), "ModelOpt", &shown);
    }
    if let Some((method, shown)) = by_tensors(&tensors) {
        return refuse(path, method, &shown);
    }
    let is_adapter = |name: &str| name.starts_with("base_model.model.") || name.contains(".lora_");
    if !tensors.is_empty() && tensors.iter().all(|(name, ..)| is_adapter(name)) {
        let message = format!("a LoRA adapter without the model that it changes: {}", instead::merge("its base model"));
        return Err(FileError::new(FileErrorKind::Foreign, message).in_file(path).into());
    }
    Ok(())
}

/// Returns the method that `config.json` names, and where it does.
fn by_config<'v>(field: &impl Fn(&str) -> Option<&'v Value>) -> Option<(String, String)> {
    for section in ["", "text_config", "llm_config", "language_config"] {
        let get = |key: &str| if section.is_empty() { field(key) } else { field(section)?.get(key) };
        let at = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        // Later versions of MLX also write the second name.
        if let Some(quantization) = get("quantization")
            && (quantization.get("bits").is_some() || quantization.get("group_size").is_some())
        {
            return Some(("MLX".into(), at("quantization")));
        }
        for key in ["quantization_config", "compression_config"] {
            if let Some((method, shown)) = get(key).and_then(by_section) {
                return Some((method, format!("{}.{shown}", at(key))));
            }
        }
    }
    None
}

/// Returns the method of a `quantization_config`, and the field that names it; `None` if it means
/// plain weights or 8-bit floats.
fn by_section(section: &Value) -> Option<(String, String)> {
    let is_true = |key: &str| section.get(key) == Some(&Value::Bool(true));
    match section.get("quant_method") {
        Some(Value::String(method)) => {
            let plain = match method.as_str() {
                // This library's own models; their files describe what is packed.
                "qruntime" => true,
                // 8-bit floats with scales.
                "fp8" | "fbgemm_fp8" => true,
                "compressed-tensors" => is_float8(section),
                "modelopt" => section.get("quant_algo").is_some_and(is_fp8_algorithm),
                "bitsandbytes" => {
                    section.get("load_in_4bit").is_some() && !is_true("load_in_4bit") && !is_true("load_in_8bit")
                }
                _ => false,
            };
            let name = METHODS.iter().find(|(known, _)| known == method).map_or(method.as_str(), |(_, name)| name);
            (!plain).then(|| (name.to_owned(), format!("quant_method is {method:?}")))
        }
        None | Some(Value::Null) => {
            if let Some(key) = ["load_in_4bit", "load_in_8bit"].into_iter().find(|key| is_true(key)) {
                return Some(("bitsandbytes".into(), key.into()));
            }
            let grouped = section.get("bits").or_else(|| section.get("w_bit")).is_some();
            grouped.then(|| ("a method without a name".into(), "bits".into()))
        }
        Some(other) => Some(("a method without a name".into(), format!("quant_method is {other}"))),
    }
}

/// Returns whether all groups of `compressed-tensors` have weights of 8-bit floats.
fn is_float8(section: &Value) -> bool {
    let groups = section.get("config_groups").and_then(Value::as_object);
    groups.is_some_and(|groups| {
        groups.values().all(|group| {
            let weights = |key| group.pointer("/weights").and_then(|weights| weights.get(key));
            weights("type") == Some(&Value::from("float")) && weights("num_bits") == Some(&Value::from(8))
        })
    })
}

const MODELOPT: &str = "hf_quant_config.json";

/// Returns the method in ModelOpt's own file, unless it is 8-bit floats.
fn by_modelopt(folder: &Path) -> Option<String> {
    let path = folder.join(MODELOPT);
    if !is_there(&path) {
        return None;
    }
    let config: Value = read_json_within(&path, MAX_HEADER).unwrap_or_default();
    let algorithm = config.pointer("/quantization/quant_algo").unwrap_or(&Value::Null);
    (!is_fp8_algorithm(algorithm)).then(|| format!("quant_algo is {algorithm}"))
}

fn is_fp8_algorithm(algorithm: &Value) -> bool {
    algorithm.as_str().is_some_and(|name| name.starts_with("FP8"))
}

/// Returns the method that the name and type of a tensor reveal.
fn by_tensors(tensors: &[(&str, Dtype, &[usize])]) -> Option<(&'static str, String)> {
    let shown = |method: &'static str, name: &str| Some((method, format!("tensor \"{}\"", name.escape_debug())));
    // The order of the table matters: of GPTQ and AWQ, only the former has an index of groups.
    for (ending, method) in NAMES {
        if let Some((name, ..)) = tensors.iter().find(|(name, ..)| name.ends_with(ending)) {
            return shown(method, name);
        }
    }
    if let Some((name, ..)) = tensors.iter().find(|(name, ..)| name.contains(".quant_state.")) {
        return shown("bitsandbytes", name);
    }
    for &(name, dtype, shape) in tensors {
        let is_code = matches!(dtype, Dtype::U8 | Dtype::I8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32);
        let is_matrix = shape.len() > 1;
        if matches!(dtype, Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2) {
            return shown("a method with floats of 4 or 6 bits", name);
        }
        if !is_code || !is_matrix {
            continue;
        }
        if name.ends_with("_blocks") {
            return shown("MXFP4", name);
        }
        if name.ends_with(".weight") || name.contains("experts") {
            let stem = name.strip_suffix("weight").unwrap_or(name);
            let scales = format!("{stem}scales");
            let is_mlx = dtype == Dtype::U32 && tensors.iter().any(|(name, ..)| *name == scales);
            return shown(if is_mlx { "MLX" } else { "a method with whole numbers for weights" }, name);
        }
    }
    None
}
