//! Maps quantized models and multiplies in place.
//!
//! ```no_run
//! use ndarray::Array2;
//! use qruntime::Model;
//!
//! // SAFETY: nothing changes the file while `model` lives. `Model::read` needs no such promise.
//! let model = unsafe { Model::map("model-q4_0")? };
//! for tensor in model.tensors() {
//!     println!("{:50} {:?} {:?}", tensor.name(), tensor.storage(), tensor.shape());
//! }
//!
//! let up = model.linear("model.layers.0.mlp.up_proj")?; // borrows the map: no copy, no repacking
//! let x = Array2::<f32>::zeros((4, up.in_features()));
//! let y = up.forward(x.view())?;
//! assert_eq!(y.dim(), (4, up.out_features()));
//! # Ok::<(), qruntime::Error>(())
//! ```
//!
//! A [`Model`] is a safetensors file or a folder as Hugging Face lays it out. Its packed tensors are multiplied where they lie
//! ([`Linear`]), its rows can be read back ([`PackedTensor::matrix`], [`kernels::MatrixRef::decode_row`]: embeddings). Work is split over rayon's current pool, so the
//! application decides about threads. `QRUNTIME_ISA=scalar` (or another name) in the environment forces an instruction set; results do not depend on it.
//!
//! To read checkpoints piece by piece rather than to compute with them, there are [`checkpoint::Checkpoint`] and [`container::Header`].
//!
//! The file format is laid down in `docs/file-format.md`, the arithmetic in `docs/quantization.md`, what a hostile file can and cannot do in `docs/security.md`.

#![deny(unsafe_code)]

mod bytes;
pub mod checkpoint;
pub mod container;
mod error;
mod linear;
mod model;
mod parallel;
mod tensor;

pub use error::{Error, FileError, FileErrorKind};
pub use kernels::{Format, Isa, MatrixRef};
pub use linear::{Linear, Workspace};
pub use model::Model;
pub use safetensors::Dtype;
pub use tensor::{PackedTensor, PlainTensor};

/// The examples of the README, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
