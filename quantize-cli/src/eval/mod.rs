//! Measures what quantization changed in a model's answers.
//!
//! [`text`] makes [`windows`] of a text, [`causal`] feeds them to models and a reference,
//! [`statistics`] compares; [`logits_file`] keeps what a reference said. `docs/evaluation.md` has
//! the formulas.

pub mod bf16;
pub mod blame;
pub mod causal;
pub mod encoder;
pub mod gate;
pub mod limits;
pub mod logits_file;
pub mod size;
pub mod statistics;
pub mod text;
pub mod windows;
