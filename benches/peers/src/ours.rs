//! Our own product: [`Linear`], on rayon's current pool, as applications call it.

use std::sync::Arc;

use anyhow::Result;
use kernels::{Format, Isa, Matrix, Rounding};
use ndarray::{Array2, s};
use qruntime::{Linear, Workspace};

use crate::contest::{Contestant, Problem, Turns};

/// The formats that we have.
pub(crate) const FORMATS: &[Format] = Format::ALL;

/// Matrices in one of our formats, encoded as a conversion does it when nothing else is asked for.
pub(crate) struct Ours {
    isa: Isa,
    matrix: Arc<Matrix>,
    layers: Turns<Linear>,
    workspace: Workspace,
    x: Array2<f32>,
    y: Array2<f32>,
}

impl Ours {
    /// Encodes the matrix of a problem.
    pub(crate) fn new(problem: &Problem, format: Format) -> Result<Self> {
        let (rows, cols) = problem.weights.dim();
        let isa = Isa::from_env()?;
        let matrix = Matrix::encode(isa, format, Rounding::Search, problem.weights(), rows, cols)?;
        let layers = Turns::cold(matrix.view().as_bytes().len(), || Linear::new(matrix.clone(), isa));
        let (x, y) = Default::default();
        Ok(Self { isa, matrix: Arc::new(matrix), layers, workspace: Workspace::default(), x, y })
    }

    /// Bytes of the matrix: for GGUF's formats everybody's, before anyone rearranges them.
    pub(crate) fn bytes(&self) -> usize {
        self.matrix.view().as_bytes().len()
    }
}

impl Contestant for Ours {
    fn name(&self) -> String {
        format!("ours, {}", self.isa)
    }

    fn prepare(&mut self, problem: &Problem, rows: usize) -> Result<()> {
        self.x = problem.x.slice(s![..rows, ..]).to_owned();
        self.y = Array2::zeros((rows, problem.weights.nrows()));
        Ok(())
    }

    fn multiply(&mut self) -> Result<()> {
        Ok(self.layers.turn().forward_into(self.x.view(), &mut self.workspace, self.y.view_mut())?)
    }

    fn product(&self) -> Result<Array2<f32>> {
        Ok(self.y.clone())
    }

    fn weights(&self) -> Result<Array2<f32>> {
        let matrix = self.matrix.view();
        let mut weights = Array2::zeros((matrix.rows(), matrix.cols()));
        for (i, mut row) in weights.outer_iter_mut().enumerate() {
            matrix.decode_row(i, row.as_slice_mut().expect("rows of a new array are contiguous"))?;
        }
        Ok(weights)
    }
}
