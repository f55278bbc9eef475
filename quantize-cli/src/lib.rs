//! Converts checkpoints to blocked quantized formats, and measures what it cost.
//!
//! The commands of the program `quantize` as functions, so that tests and other programs can call
//! them: a [`Source`](source::Source) is opened, a [`plan::Plan`] made for it, [`convert::convert`] carries
//! it out, [`compare::compare`] sets the result beside the source.

#![deny(unsafe_code)]

pub mod args;
pub mod bench;
mod clock;
pub mod command;
pub mod compare;
pub mod convert;
mod disk;
pub mod error;
pub mod eval;
mod finite;
mod interrupt;
pub mod layout;
pub mod load;
pub mod machine;
pub mod measure;
pub mod output;
pub mod page;
mod place;
pub mod plan;
pub mod plot;
pub mod progress;
pub mod report;
pub mod round;
pub mod source;
mod svg;
pub mod table;
pub mod version;
