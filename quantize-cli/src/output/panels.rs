//! The model that this library reads: safetensors with packed matrices as panels, which the
//! description in the header of the file explains.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use kernels::Format;
use qruntime::container::{Header, Storage, Writer, packed_bytes, replace_recipe};
use serde_json::{Value, json};

use super::{Output, Recipe, Sink};
use crate::error::{Context, ErrorKind, Result};
use crate::layout::{Action, Form, Layout};
use crate::plan::Plan;
use crate::report::quoted;
use crate::source::{Source, Stored, TensorInfo, WEIGHTS, is_described};

/// The name of the file of tensors in the folder of a model.
pub const MODEL: &str = WEIGHTS;

/// Endings of files of other kinds, which no folder has.
const OTHER_ENDINGS: &[&str] = &["gguf", "ggml", "bin", "pt", "pth", "onnx", "npz"];

/// Panels of 16 rows, as [`qruntime::Model`] maps them.
#[derive(Clone, Copy, Debug)]
pub struct Panels;

impl Output for Panels {
    fn is_meant_by(&self, at: &Path) -> bool {
        let ending = at.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        ending.is_none_or(|ending| !OTHER_ENDINGS.contains(&ending.as_str()))
    }

    fn is_folder(&self, at: &Path) -> bool {
        at.extension().is_none_or(|ending| ending != "safetensors")
    }

    fn stored(&self, tensor: &TensorInfo, action: Action) -> Option<Layout> {
        match action {
            Action::Pack(format) => tensor.is_float().then(|| panels(format, tensor)).flatten(),
            Action::Keep => {
                if let Stored::Blocks(format) = tensor.stored() {
                    // The same blocks in another order.
                    return panels(format, tensor);
                }
                let dtype = tensor.kept_dtype();
                let bytes =
                    if tensor.is_plain(dtype) { tensor.bytes() } else { tensor.elements() * dtype.bitsize() / 8 };
                Some(Layout { form: Form::Plain(dtype), bytes, padding: 0 })
            }
        }
    }

    fn config(&self, config: &Value, plan: &Plan) -> Option<String> {
        let mut config = config.as_object()?.clone();
        // What other programs say of codes that are decoded now.
        for section in ["quantization", "compression_config"] {
            config.remove(section);
        }
        if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
            text.remove("quantization_config");
        }
        let quantization = json!({
            "quant_method": "qruntime",
            "version": qruntime::container::VERSION,
            "format": plan.to.name(),
            "rounding": plan.rounding,
            "rules": plan.rules,
        });
        config.insert("quantization_config".into(), quantization);
        Some(serde_json::to_string_pretty(&config).ok()? + "\n")
    }

    fn create(&self, at: &Path, plan: &Plan, recipe: &Recipe, _: &dyn Source) -> Result<Box<dyn Sink>> {
        let path = file_of(at);
        let storage = |form| match form {
            Form::Panels(format) | Form::Rows(format) => Storage::Packed(format),
            Form::Plain(dtype) => Storage::Plain(dtype),
        };
        let tensors = plan.steps.iter();
        let tensors = tensors.map(|step| (step.name.clone(), storage(step.layout.form), step.shape.clone())).collect();
        let file = File::create(&path);
        let file = file.with_context(ErrorKind::Output, || format!("cannot create {}", quoted(&path)))?;
        let writer = Writer::with_room(file, tensors, recipe.to_value(), recipe.room());
        Ok(Box::new(PanelSink(writer.context(ErrorKind::Output, "cannot write the output")?)))
    }

    fn amend(&self, at: &Path, recipe: &Recipe) -> Result<()> {
        let path = file_of(at);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let written = file.and_then(|mut file| {
            replace_recipe(&mut file, &recipe.to_value())?;
            file.sync_all()
        });
        written.with_context(ErrorKind::Output, || format!("cannot write the figures into {}", quoted(&path)))
    }
}

/// Returns how panels of a format store a tensor; `None` if it is no matrix.
fn panels(format: Format, tensor: &TensorInfo) -> Option<Layout> {
    let bytes = packed_bytes(format, tensor.shape())?;
    // Rounded down: a single weight is no whole number of bytes.
    let weights = tensor.elements() as u128 * format.block_bytes() as u128 / format.block_len() as u128;
    Some(Layout { form: Form::Panels(format), bytes, padding: bytes - weights as usize })
}

/// The file of tensors of the model at a path.
fn file_of(at: &Path) -> PathBuf {
    if at.is_dir() { at.join(MODEL) } else { at.into() }
}

/// A file that is being written.
#[derive(Debug)]
struct PanelSink(Writer<File>);

impl Sink for PanelSink {
    fn order(&self) -> &[usize] {
        self.0.order()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.sync_all()
    }
}

/// Whether the file at a path is a model that this program wrote.
pub(super) fn is_ours(path: &Path) -> bool {
    Header::read(path).is_ok_and(|(header, _)| is_described(&header))
}

/// Returns the companions that the model in a folder was written with, if that is recorded; nothing
/// if this program did not write the model.
pub(super) fn companions_of(folder: &Path) -> Option<Option<BTreeSet<PathBuf>>> {
    let (header, _) = Header::read(&folder.join(MODEL)).ok()?;
    let description: Value = serde_json::from_str(header.metadata.get("qruntime")?).ok()?;
    let companions = description.pointer("/recipe/companions").and_then(Value::as_array);
    Some(companions.map(|files| files.iter().filter_map(Value::as_str).map(PathBuf::from).collect()))
}
