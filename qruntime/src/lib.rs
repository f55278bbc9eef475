//! Maps quantized models, multiplies in place, and runs networks.
//!
//! A language model is a [`CausalLm`], a sequence of tokens a [`Session`]; a sentence encoder is an
//! [`Encoder`]:
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
//! Below that are matrices:
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
//! A [`Model`] is a safetensors file or a folder as Hugging Face lays it out. Its matrices, packed
//! or plain, are multiplied where they lie ([`Linear`], for a mixture [`Experts`]), and their rows
//! can be read back ([`Linear::decode_row`]: embeddings). Layers own a share of the model's memory
//! and borrow nothing: an application keeps them beside the model, or without it.
//!
//! # Threads
//!
//! Whatever computes splits its work over rayon's current pool, so the application decides about
//! threads: those of the global pool, or those of the pool in whose `ThreadPool::install` it calls.
//! The calling thread computes as well, waits for no other job of the pool and runs none meanwhile:
//! it may hold a lock, and all other threads of the pool may be blocked. Networks that are put
//! together of layers run each token within [`keep_awake`]; those above do it themselves.
//!
//! `QRUNTIME_ISA=scalar` (or another name) in the environment forces an instruction set; results do
//! not depend on it.
//!
//! To read checkpoints piece by piece rather than to compute with them, there are
//! [`checkpoint::Checkpoint`] and [`container::Header`].
//!
//! The file format is laid down in `docs/file-format.md`, the arithmetic in `docs/quantization.md`,
//! what a hostile file can and cannot do in `docs/security.md`.

#![deny(unsafe_code)]

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
mod json;
mod linear;
mod lm;
mod model;
pub mod names;
mod network;
mod nn;
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
