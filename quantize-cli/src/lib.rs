//! Converts checkpoints to blocked quantized formats, and measures what it cost.
//!
//! The commands of the program `quantize` as functions, so that tests and other programs can call
//! them: a [`source::Source`] is opened, a [`plan::Plan`] is made for it, a [`convert::Conversion`]
//! carries it out, [`compare::compare`] sets the result beside the source.

#![deny(unsafe_code)]

#[cfg(feature = "cli")]
pub mod args;
pub mod bench;
#[cfg(feature = "cli")]
mod clock;
#[cfg(feature = "cli")]
pub mod command;
pub mod compare;
pub mod convert;
mod disk;
pub mod error;
pub mod eval;
mod finite;
pub mod layout;
#[cfg(feature = "cli")]
pub mod load;
pub mod machine;
pub mod measure;
pub mod output;
#[cfg(feature = "cli")]
pub mod page;
#[cfg(feature = "cli")]
mod place;
pub mod plan;
#[cfg(feature = "cli")]
pub mod plot;
pub mod progress;
pub mod report;
pub mod round;
pub mod source;
#[cfg(feature = "cli")]
mod svg;
pub mod table;
mod temporaries;
#[cfg(feature = "cli")]
pub mod version;
