//! What can go wrong at the public edge of this crate.

use core::fmt;

/// Lengths that do not agree: an error of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShapeError {
    /// What was measured.
    pub what: &'static str,
    /// Its length.
    pub found: usize,
    /// The length it should have.
    pub expected: usize,
}

impl ShapeError {
    /// Compares two lengths.
    ///
    /// # Errors
    /// If `found` is not `expected`.
    pub fn check(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self { what, found, expected }) }
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}", self.what, self.found, self.expected)
    }
}

impl std::error::Error for ShapeError {}

/// Why a row of weights cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum EncodeError {
    /// A buffer has the wrong length.
    Shape(ShapeError),
    /// A weight is NaN or infinite.
    NotFinite {
        /// Row of the weights that were given.
        row: usize,
        /// Column.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A factor of importance is negative, NaN or infinite.
    Importance {
        /// Column.
        col: usize,
        /// The factor.
        value: f32,
    },
    /// A block's scale does not fit the format's binary16.
    ScaleOverflow {
        /// Row of the weights that were given.
        row: usize,
        /// First column of the block.
        col: usize,
        /// Largest magnitude in the block.
        magnitude: f32,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::NotFinite { row, col, value } => {
                write!(f, "weight [{row}, {col}] is {value}, expected a finite number")
            }
            Self::Importance { col, value } => {
                write!(f, "the importance of column {col} is {value}, expected a finite number, 0 or more")
            }
            Self::ScaleOverflow { row, col, magnitude } => {
                write!(
                    f,
                    "weights from [{row}, {col}] reach {magnitude:e}, which the half-precision numbers of their block cannot express"
                )
            }
        }
    }
}

impl std::error::Error for EncodeError {}

impl From<ShapeError> for EncodeError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}
