//! Models for tests: the one in this repository, plain and packed.

use std::path::{Path, PathBuf};

use kernels::{Format, Isa, Matrix, Rounding};
use qruntime::Model;
use qruntime::container::Storage;
use serde_json::Value;
use tempfile::TempDir;

use super::written;

/// Returns the language model in this repository.
pub fn storyteller() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/storyteller-6m")
}

/// Makes a copy of the model in `folder` with packed matrices.
pub fn packed_model(folder: &Path, format: Format) -> TempDir {
    let model = Model::read(folder).unwrap();
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let (name, shape) = (entry.name().to_owned(), entry.shape().to_vec());
            let tensor = model.plain(&name).unwrap();
            match *shape {
                [rows, cols] if cols >= 32 => {
                    let weights = tensor.to_f32().unwrap();
                    let matrix = Matrix::encode(Isa::best(), format, Rounding::Nearest, &weights, rows, cols).unwrap();
                    (name, Storage::Packed(format), shape, matrix.view().as_bytes().to_vec())
                }
                _ => (name, entry.storage().clone(), shape, tensor.as_bytes().to_vec()),
            }
        })
        .collect();
    let packed = tempfile::tempdir().unwrap();
    std::fs::write(packed.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
    for file in ["config.json", "generation_config.json"] {
        if folder.join(file).exists() {
            std::fs::copy(folder.join(file), packed.path().join(file)).unwrap();
        }
    }
    packed
}

/// Returns the tiny models, one or more of each family, by name.
pub fn families() -> impl Iterator<Item = (String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let mut folders: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.into_iter().map(|folder| (folder.file_name().unwrap().to_str().unwrap().to_owned(), folder))
}

/// Returns a folder of data that is too large for this repository, if it is present.
pub fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    folder.exists().then_some(folder)
}

/// Copies the files of a folder, except the expected results.
pub fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if !["expected.safetensors", "cases.json"].iter().any(|name| entry.file_name() == *name) {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
