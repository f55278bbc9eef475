//! Blocked quantization formats and the SIMD products that run on them.
//!
//! Weights are rows of blocks in one of the [`Format`]s, which are GGUF's, byte for byte. (GGUF's
//! other block types are [`Foreign`]: read exactly, not multiplied.) In memory
//! and on disk 16 rows lie interleaved in a **panel** ([`panel`]), the order in which every
//! instruction set reads them: one vector lane is one row. An [`Isa`] is detected at run time;
//! every one computes the same `f32` bits as the scalar reference.
//!
//! ```
//! use kernels::{Activations, Format, Isa, Matrix, Rounding};
//!
//! // 20 outputs, 64 inputs.
//! let (rows, cols) = (20, 64);
//! let weights: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
//! let isa = Isa::best();
//! let packed = Matrix::encode(isa, Format::Q8_0, Rounding::Nearest, &weights, rows, cols)?;
//!
//! // One row of activations.
//! let x: Vec<f32> = (0..cols).map(|i| (i as f32 * 0.1).sin()).collect();
//! let mut activations = Activations::default();
//! activations.quantize(isa, &x, cols, &[1])?;
//!
//! let mut y = [[f32::NAN; 16]; 2]; // two panels of 16 rows
//! kernels::multiply(isa, packed.view(), activations.group(0), &mut y)?;
//!
//! let exact: f32 = weights[..cols].iter().zip(&x).map(|(w, x)| w * x).sum();
//! assert!((y[0][0] - exact).abs() < 0.05);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate knows nothing of files, names or threads: it computes the part of the output that it
//! is given. `docs/quantization.md` defines the arithmetic, `docs/file-format.md` the layout.
//!
//! Modules import each other in one direction, which `ci/imports.py` checks; each imports only
//! modules from lines above its own:
//!
//! ```text
//! error                              lengths that do not agree, weights that cannot be encoded
//! block                              a block of quantized activations
//! isa                                instruction sets: detection, operations, dispatch
//! math                               exponential functions on 16 lanes
//! activations, format, foreign       quantized activations; formats of weights
//! panel, peak, vector                16 rows interleaved; limits of a core; norms, softmax
//! encode, kv, plain                  weights to panels; keys and values; matrices of floats
//! matrix, attention
//! multiply
//! ```

#![deny(unsafe_code)]

mod activations;
mod attention;
mod block;
mod encode;
mod error;
mod foreign;
mod format;
#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "intrinsics, behind values that prove the instruction set is present")
)]
mod isa;
mod kv;
mod math;
mod matrix;
mod multiply;
pub mod panel;
pub mod peak;
mod plain;
mod vector;

pub use activations::{ActivationBlock, Activations, ActivationsPart, ActivationsRef};
pub use attention::{AttentionOptions, AttentionScratch, attend};
pub use block::{ACTIVATION_BLOCK, QUAD};
pub use encode::{Distortion, Encoding};
pub use error::{EncodeError, ShapeError};
pub use foreign::Foreign;
pub use format::{Format, Rounding, UnknownFormat};
pub use isa::{ISA_VARIABLE, Isa, IsaError, KNOWN_ISAS};
pub use kv::{KvFormat, KvHead};
pub use matrix::{Matrix, MatrixRef};
pub use multiply::{multiply, multiply_exact};
pub use plain::{PlainRef, PlainType, multiply_plain};
pub use vector::{Activation, activate, activate_gated, layer_norm, normalize_l2, rms_norm, rotate, softcap, softmax};
