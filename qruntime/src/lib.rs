//! Maps quantized models, multiplies them in place, and runs networks.
//!
//! A language model is a [`CausalLm`], and a sequence of its tokens is a [`Session`]. A sentence
//! encoder is an [`Encoder`].
//!
//! ```no_run
//! use qruntime::{CausalLm, Greedy};
//!
//! let lm = CausalLm::open("model-q4_k")?; // a folder as Hugging Face lays it out, packed or not
//! let mut session = lm.session();
//! session.feed(&[1, 9038, 2501])?;
//! let story: Vec<u32> = session.generate(&mut Greedy).take(100).collect::<Result<_, _>>()?;
//!
//! session.rewind(3); // what was computed for the first three tokens is kept
//! let mut other = session.fork();
//! let logits = other.feed(&[263])?;
//! # Ok::<(), qruntime::Error>(())
//! ```
//!
//! Below these are matrices:
//!
//! ```no_run
//! use ndarray::Array2;
//! use qruntime::Model;
//!
//! // SAFETY: nothing changes the file while `model` or a layer of it lives. `Model::read` needs no
//! // such promise.
//! let model = unsafe { Model::map("model-q4_k")? };
//! for tensor in model.tensors() {
//!     println!("{:50} {:?} {:?}", tensor.name(), tensor.storage(), tensor.shape());
//! }
//!
//! let up = model.linear("model.layers.0.mlp.up_proj")?; // shares the map: no copy, no repacking
//! let x = Array2::<f32>::zeros((4, up.in_features()));
//! let y = up.forward(x.view())?;
//! assert_eq!(y.dim(), (4, up.out_features()));
//! # Ok::<(), qruntime::Error>(())
//! ```
//!
//! A [`Model`] is a safetensors file or a folder in Hugging Face's layout. Its matrices, packed or
//! plain, are multiplied in place ([`Linear`], or [`Experts`] for a mixture), and their rows can be
//! decoded ([`Linear::decode_row`], for embeddings). Layers share ownership of the model's memory
//! and borrow nothing: an application can keep them beside the model, or without it.
//!
//! # Threads
//!
//! Computations split their work over rayon's current pool, so the application chooses the threads:
//! those of the global pool, or of the pool in whose `ThreadPool::install` it calls. The calling
//! thread computes as well and neither waits for nor runs other jobs of the pool, so it may hold a
//! lock, and all other threads of the pool may be blocked. Programs that build networks from layers
//! should run each token within [`keep_awake`]; the networks above do so themselves.
//!
//! `QRUNTIME_ISA=scalar` (or another name) in the environment forces an instruction set; results do
//! not depend on it.
//!
//! [`checkpoint::Checkpoint`] and [`container::Header`] read checkpoints piece by piece, for
//! programs that do not compute with them.
//!
//! `docs/file-format.md` specifies the file format, `docs/quantization.md` the arithmetic, and
//! `docs/security.md` what a hostile file can and cannot do.

#![deny(unsafe_code)]

mod base64;
mod bytes;
pub mod checkpoint;
mod config;
pub mod container;
#[cfg(feature = "text")]
mod embed;
mod encoder;
mod error;
mod experts;
mod family;
mod files;
mod folder;
pub mod gguf;
pub mod hub;
mod json;
mod linear;
mod lm;
mod model;
mod model_files;
pub mod names;
mod network;
mod nn;
mod open;
mod parallel;
mod pooling;
mod recognize;
mod sample;
mod sentence;
mod sequence;
mod session;
mod tensor;
#[cfg(feature = "text")]
mod text;
mod weight;

pub use bytes::{Bytes, Pages};
#[cfg(feature = "text")]
pub use embed::{Embeddings, Prompt};
pub use encoder::{Encoder, EncoderConfig};
pub use error::{Error, FileError, FileErrorKind, NetworkPart};
pub use experts::Experts;
pub use family::names_of;
pub use kernels::{Format, Isa, KvFormat, MatrixRef, PlainRef, PlainType};
pub use linear::{Linear, WeightName, Workspace};
pub use lm::{CausalLm, LmConfig};
pub use model::Model;
pub use network::{Network, NetworkKind};
pub use nn::tap::Tap;
pub use parallel::keep_awake;
pub use pooling::Pooling;
pub use safetensors::Dtype;
pub use sample::{Greedy, Sample, SampleOptions, Sampler};
pub use sequence::SessionOptions;
pub use session::{FinishReason, Generate, Session};
pub use tensor::{PackedTensor, PlainTensor, first_not_finite};
#[cfg(feature = "text")]
pub use text::{ChatTemplate, Date, DecodeStream, Message, Tokenizer};
pub use weight::{SharedWeight, Weight};

/// The examples of `docs/library.md`, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Library;

/// The example of the crate's page, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
