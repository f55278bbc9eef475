//! Rounding: how the codes and scales of a tensor's blocks are chosen.

mod search;

use std::fmt;

use kernels::{Distortion, EncodeError, Format, Isa};

use crate::error::Result;

pub use self::search::Search;

/// A way of rounding.
pub trait Rounder: fmt::Debug + Send + Sync {
    /// Returns its name, as `--rounding` and the recipe of a model have it.
    fn name(&self) -> &'static str;

    /// Prepares to round the matrices of a tensor, of `cols` columns each. What has to be computed
    /// once for a tensor is computed here.
    ///
    /// # Errors
    /// If what it rests on does not fit the tensor.
    fn tensor<'a>(&'a self, name: &str, format: Format, cols: usize) -> Result<Box<dyn RoundPanel + 'a>>;
}

/// Rounds the panels of one tensor.
pub trait RoundPanel: fmt::Debug + Send + Sync {
    /// Returns the bytes that [`encode`](Self::encode) takes besides its arguments.
    fn memory(&self) -> usize;

    /// Encodes whole rows of weights, row-major, into consecutive panels of 16 rows each; rows that
    /// the last panel lacks become zero bytes. `place` says which rows of the tensor they are.
    /// Returns what that cost.
    ///
    /// # Errors
    /// If a weight is not finite, or a block's scale overflows. Rows are counted from the first
    /// panel.
    fn encode(&self, isa: Isa, place: Place, weights: &[f32], panels: &mut [u8]) -> Result<Distortion, EncodeError>;
}

/// The place of rows in a tensor of one or several matrices, such as those of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the matrix: 0 for a tensor of one.
    pub matrix: usize,
    /// The first row within the matrix, which begins a panel.
    pub row: usize,
}

/// The ways of rounding that need nothing but weights.
pub const ROUNDERS: &[&dyn Rounder] = &[&Search::NEAREST, &Search::BEST];

/// The way of rounding of a conversion that names none.
pub const DEFAULT: &dyn Rounder = &Search::BEST;

/// Returns the way of rounding of this name.
#[must_use]
pub fn rounder(name: &str) -> Option<&'static dyn Rounder> {
    ROUNDERS.iter().copied().find(|rounder| rounder.name() == name)
}
