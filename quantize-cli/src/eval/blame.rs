//! Measures which tensors cause most of the divergence, by restoring them one by one.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use qruntime::container::{Storage, Writer};
use qruntime::{Model, Network};
use serde::Serialize;
use serde_json::Value;

use super::bf16::write_tensor;
use super::gate::Gate;
use crate::error::{Context, ErrorKind, Result, Within};
use crate::output::{MODEL, Temporary};
use crate::progress::Progress;
use crate::report::quoted;
use crate::source::Source;

/// A tensor, and the divergence recovered by leaving it unquantized.
#[derive(Clone, Debug, Serialize)]
pub struct Blamed {
    /// Its name.
    pub tensor: String,
    /// The share of the total divergence that is recovered: 0.2 is a fifth of it.
    pub share: f64,
    /// Relative RMS error of its weights.
    pub relative_rms: f64,
}

/// Measures the candidates (names, and errors of their weights), one by one: the model with that
/// tensor as it is in the source beside the model as it is. Returns them, the worst first; shares
/// are of the divergence over these questions.
///
/// For each of them the model is written once more, beside `folder`, where the model and its
/// companions are.
///
/// # Errors
/// If a file cannot be read or written, or a network cannot be asked.
pub fn blame(
    gate: &Gate<'_>,
    source: &dyn Source,
    folder: &Path,
    open: &dyn Fn(&Path) -> Result<Network>,
    candidates: &[(String, f64)],
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Vec<Blamed>> {
    let model = open(folder)?;
    let divergence = gate.measure(&model, progress, cancelled)?.divergence();
    let companions = source.companions().in_folder(folder);
    let mut found = vec![];
    for (tensor, relative_rms) in candidates {
        let temporary = Temporary::folder(folder)?;
        companions.copy(temporary.path(), None, cancelled)?;
        write_with(source, model.model(), tensor, &temporary.path().join(MODEL))?;
        let left = gate.measure(&open(temporary.path())?, progress, cancelled)?.divergence();
        let share = 1.0 - left / divergence;
        found.push(Blamed { tensor: tensor.clone(), share, relative_rms: *relative_rms });
    }
    found.sort_by(|a, b| b.share.total_cmp(&a.share));
    Ok(found)
}

/// Writes a model once more, with one tensor as it is in the source.
fn write_with(source: &dyn Source, model: &Model, original: &str, path: &Path) -> Result<()> {
    let context = || format!("cannot write {}", quoted(path));
    let position = source.position(original).with_context(ErrorKind::Request, || format!("no tensor {original:?}"))?;
    let dtype = source.tensors()[position].kept_dtype();
    let is_original = |name: &str| name == original;
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let storage = if is_original(entry.name()) { Storage::Plain(dtype) } else { entry.storage().clone() };
            (entry.name().to_owned(), storage, entry.shape().to_vec())
        })
        .collect();
    let names: Vec<(String, Storage)> =
        tensors.iter().map(|(name, storage, _)| (name.clone(), storage.clone())).collect();
    let file = BufWriter::new(File::create(path).with_context(ErrorKind::Output, context)?);
    let mut writer = Writer::new(file, tensors, Value::Null).with_context(ErrorKind::Output, context)?;
    for i in writer.order().to_vec() {
        let (name, storage) = &names[i];
        if is_original(name) {
            write_tensor(source, position, dtype, &mut writer).within(context)?;
        } else if let Storage::Packed(_) = storage {
            let tensor = model.packed(name)?;
            for matrix in 0..tensor.matrix_count() {
                writer.write(tensor.matrix(matrix).as_bytes()).with_context(ErrorKind::Output, context)?;
            }
        } else {
            writer.write(model.plain(name)?.as_bytes()).with_context(ErrorKind::Output, context)?;
        }
    }
    writer.finish().with_context(ErrorKind::Output, context)?;
    Ok(())
}
