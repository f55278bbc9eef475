//! Helpers of this crate's tests: files made by hand and by the writer, seeded numbers, and a count
//! of allocations.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(unreachable_pub, reason = "a module of tests")]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stderr, reason = "says what did not run")]

pub mod allocations;
pub mod expected;
pub mod gguf;
pub mod models;
pub mod npy;
#[path = "../../../kernels/tests/support/random.rs"]
mod random;
pub mod unpacked;

use std::io::Cursor;

use kernels::{Format, Isa, Matrix, Rounding};
use qruntime::container::{Storage, Writer};
pub use random::Random;
use serde_json::Value;

/// One tensor for the writer: name, storage, logical shape and bytes.
pub type Tensor = (String, Storage, Vec<usize>, Vec<u8>);

/// Returns a file of the writer.
pub fn written(tensors: &[Tensor], recipe: Value) -> Vec<u8> {
    let plan = tensors.iter().map(|(name, storage, shape, _)| (name.clone(), storage.clone(), shape.clone()));
    let mut writer = Writer::new(Cursor::new(Vec::new()), plan.collect(), recipe).unwrap();
    for i in writer.order().to_vec() {
        writer.write(&tensors[i].3).unwrap();
    }
    let announced = writer.file_bytes().unwrap();
    let file = writer.finish().unwrap().into_inner();
    assert_eq!(file.len() as u64, announced);
    file
}

/// Assembles a safetensors file from its parts without checks.
pub fn assembled(header: &str, data: &[u8]) -> Vec<u8> {
    let padding = (header.len() + 8).next_multiple_of(64) - 8 - header.len();
    let len = ((header.len() + padding) as u64).to_le_bytes();
    [&len[..], header.as_bytes(), &b" ".repeat(padding), data].concat()
}

/// Returns the panels of matrices of random weights, one after the other. The matrices are the last
/// two dimensions of `shape`.
pub fn packed(random: &mut Random, format: Format, shape: &[usize]) -> Vec<u8> {
    let (&[rows, cols], matrices) = shape.split_last_chunk().map(|(matrices, matrix)| (matrix, matrices)).unwrap();
    let encode = |_| {
        let weights: Vec<f32> = (0..rows * cols).map(|_| random.unit()).collect();
        Matrix::encode(Isa::best(), format, Rounding::Nearest, &weights, rows, cols).unwrap().view().as_bytes().to_vec()
    };
    (0..matrices.iter().product()).flat_map(encode).collect()
}

/// Returns a small file with a packed and a plain tensor.
pub fn small_file() -> Vec<u8> {
    let weight = packed(&mut Random(1), Format::Q4_0, &[1, 32]);
    let bias: Vec<u8> = [0.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    written(
        &[
            ("w".into(), Storage::Packed(Format::Q4_0), vec![1, 32], weight),
            ("b".into(), Storage::Plain(qruntime::Dtype::F32), vec![2], bias),
        ],
        Value::Null,
    )
}
