//! Rounding that looks at one block at a time: to the nearest code, with scales that cover the
//! largest weight or with those of the least error among several.

use kernels::{Distortion, EncodeError, Encoding, Format, Isa, Rounding};

use super::{Place, RoundPanel, Rounder};
use crate::error::Result;

/// Rounds each block by itself.
#[derive(Clone, Copy, Debug)]
pub struct Search(Rounding);

impl Search {
    /// Searches for the scales of the least error.
    pub const BEST: Self = Self(Rounding::Search);

    /// Rounds to the nearest code with the usual scales.
    pub const NEAREST: Self = Self(Rounding::Nearest);
}

impl Rounder for Search {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn tensor<'a>(&'a self, _: &str, format: Format, cols: usize) -> Result<Box<dyn RoundPanel + 'a>> {
        Ok(Box::new(Blocks { rounding: self.0, format, cols }))
    }
}

/// The blocks of one tensor.
#[derive(Debug)]
struct Blocks {
    rounding: Rounding,
    format: Format,
    cols: usize,
}

impl RoundPanel for Blocks {
    fn memory(&self) -> usize {
        0
    }

    fn encode(&self, isa: Isa, _: Place, weights: &[f32], panels: &mut [u8]) -> Result<Distortion, EncodeError> {
        let Self { rounding, format, cols } = *self;
        Encoding { isa, format, rounding, importance: None }.encode(weights, cols, panels)
    }
}
