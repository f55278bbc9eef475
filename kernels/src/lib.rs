//! Blocked quantization formats and the SIMD products that run on them.
//!
//! Weights are rows of blocks in one of the [`Format`]s, which are GGUF's, byte for byte. In memory
//! and on disk 16 rows lie interleaved in a **panel** ([`panel`]), the order in which every
//! instruction set reads them: one vector lane is one row. An [`Isa`] is found at run time; every
//! one of them computes the same `f32` bits as the scalar reference.
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
//! This crate knows nothing of files, names or threads: it computes the part of the output it is
//! given. The arithmetic is laid down in `docs/quantization.md`, the layout in
//! `docs/file-format.md`.

#![deny(unsafe_code)]

mod activations;
mod attention;
mod encode;
mod error;
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

pub use activations::{ACTIVATION_BLOCK, ActivationBlock, Activations, ActivationsPart, ActivationsRef, QUAD};
pub use attention::{AttentionOptions, AttentionScratch, attend};
pub use encode::{Distortion, Encoding};
pub use error::{EncodeError, IsaError, ShapeError, UnknownFormat};
pub use format::{Format, Rounding};
pub use isa::{ISA_VARIABLE, Isa, KNOWN_ISAS};
pub use kv::{KvFormat, KvHead};
pub use matrix::{Matrix, MatrixRef};
pub use multiply::{multiply, multiply_exact};
pub use plain::{PlainRef, PlainType, multiply_plain};
pub use vector::{Activation, activate, activate_gated, layer_norm, normalize_l2, rms_norm, rotate, softcap, softmax};
