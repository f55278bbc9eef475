//! GGUF files of plain tensors as Hugging Face folders.

use std::path::Path;

use half::{bf16, f16};
use qruntime::Dtype;
use qruntime::gguf::{ElementType, Gguf, Piece, config_files, pieces};
use serde_json::{Map, json};
use tempfile::TempDir;

use super::assembled;

/// Returns the elements of a piece.
pub fn elements(gguf: &Gguf, file: &[u8], piece: &Piece) -> Vec<f32> {
    let tensor = &gguf.tensors()[piece.tensor];
    let ElementType::Plain(dtype) = tensor.element_type() else { panic!("{tensor:?}") };
    let range = tensor.range();
    let bytes = &file[range.start as usize..range.end as usize];
    let all: Vec<f32> = match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => panic!("{other:?}"),
    };
    let row_len = if tensor.shape().len() < 2 { 1 } else { *tensor.shape().last().unwrap() };
    let count = piece.rows.len();
    let row = |row| {
        let first = (piece.rows.start + piece.order.row_in_file(row, count)) * row_len;
        all[first..first + row_len].iter().map(|x| x + piece.add)
    };
    (0..count).flat_map(row).collect()
}

/// Writes the folder that a GGUF file stands for, all tensors in single precision.
pub fn folder(path: &Path) -> TempDir {
    let file = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let read = |tensor: usize| {
        let range = gguf.tensors()[tensor].range();
        Ok(file[range.start as usize..range.end as usize].to_vec())
    };
    for (name, text) in config_files(&gguf, &read).unwrap() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let found = pieces(&gguf).unwrap();
    assert!(found.unused.is_empty(), "{path:?}: {:?}", found.unused);
    let (mut header, mut data) = (Map::new(), Vec::new());
    for piece in &found.pieces {
        let bytes = elements(&gguf, &file, piece).into_iter().flat_map(f32::to_le_bytes);
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": "F32", "shape": piece.shape, "data_offsets": [start, data.len()]});
        header.insert(piece.name.clone(), entry);
    }
    let file = assembled(&serde_json::to_string(&header).unwrap(), &data);
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}
