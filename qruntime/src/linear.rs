//! A linear layer on packed weights.

use std::fmt;

use kernels::{ActivationBlock, Isa, MatrixRef, ShapeError};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::error::Error;
use crate::parallel::{self, Activations};

/// `y = x·Wᵀ + b` with a packed matrix `W`, on all threads of rayon's current pool.
///
/// The result has the same bits on every processor, with any number of threads, and for a row alone or among others.
#[derive(Clone)]
pub struct Linear<'a> {
    weight: MatrixRef<'a>,
    bias: Option<Vec<f32>>,
    isa: Isa,
    exact: bool,
}

/// Memory that [`Linear::forward_into`] needs between calls; it grows to what the largest product needs and stays.
#[derive(Debug, Default)]
pub struct Workspace {
    blocks: Vec<ActivationBlock>,
    rows: Vec<f32>,
}

impl<'a> Linear<'a> {
    /// A layer without bias.
    #[must_use]
    pub fn new(weight: MatrixRef<'a>, isa: Isa) -> Self {
        Self { weight, bias: None, isa, exact: false }
    }

    /// Adds a bias.
    ///
    /// # Errors
    /// If it has not one number per output.
    pub fn with_bias(self, bias: Vec<f32>) -> Result<Self, Error> {
        ShapeError::check("numbers of a bias", bias.len(), self.out_features())?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// Uses another instruction set: for tests, measurements and bug reports. The result stays the same.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Multiplies with unrounded activations instead of 8-bit ones: slower, and only the weights are approximate.
    #[must_use]
    pub fn with_exact_activations(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Columns of the matrix.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.cols()
    }

    /// Rows of the matrix.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.rows()
    }

    /// The matrix.
    #[must_use]
    pub fn weight(&self) -> MatrixRef<'a> {
        self.weight
    }

    /// The bias.
    #[must_use]
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Multiplies rows of activations: `(rows, in_features)` to `(rows, out_features)`.
    ///
    /// # Errors
    /// If `x` has not `in_features` columns.
    pub fn forward(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, Error> {
        let mut y = Array2::zeros((x.nrows(), self.out_features()));
        self.forward_into(x, &mut Workspace::default(), y.view_mut())?;
        Ok(y)
    }

    /// The same without allocating, once `workspace` has grown.
    ///
    /// # Errors
    /// If the shapes do not agree.
    pub fn forward_into(
        &self,
        x: ArrayView2<'_, f32>,
        workspace: &mut Workspace,
        y: ArrayViewMut2<'_, f32>,
    ) -> Result<(), Error> {
        ShapeError::check("columns of the activations", x.ncols(), self.in_features())?;
        ShapeError::check("rows of the output", y.nrows(), x.nrows())?;
        ShapeError::check("columns of the output", y.ncols(), self.out_features())?;
        let Workspace { blocks, rows } = workspace;
        let rows = match x.as_slice() {
            Some(contiguous) => contiguous,
            None => {
                rows.clear();
                rows.extend(x.iter());
                rows
            }
        };
        let x = if self.exact {
            Activations::Exact(rows)
        } else {
            let per_row = self.weight.activation_blocks();
            blocks.resize(x.nrows() * per_row, ActivationBlock::default());
            parallel::quantize(self.isa, rows, x.ncols(), blocks, per_row)?;
            Activations::Quantized(blocks)
        };
        parallel::multiply(self.isa, self.weight, x, self.bias.as_deref(), y)?;
        Ok(())
    }
}

impl fmt::Debug for Linear<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linear({:?}, bias: {})", self.weight, self.bias.is_some())
    }
}
