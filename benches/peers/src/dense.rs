//! Products in `f32`: `ndarray`, which is `matrixmultiply`, and `gemm`. Their threads:
//! `MATMUL_NUM_THREADS`, and rayon's current pool.

use std::sync::Arc;

use anyhow::Result;
use gemm::Parallelism;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, s};

use crate::contest::{Contestant, Problem, Turns};

/// Whose product.
#[derive(Clone, Copy)]
pub(crate) enum Library {
    /// `ndarray::linalg::general_mat_mul`.
    Ndarray,
    /// `gemm::gemm`.
    Gemm,
}

/// Matrices as they are, that several may share.
pub(crate) struct Dense {
    library: Library,
    matrices: Turns<Arc<Array2<f32>>>,
    x: Array2<f32>,
    y: Array2<f32>,
}

impl Dense {
    /// All of them, on the same copies.
    pub(crate) fn all(problem: &Problem) -> Vec<Self> {
        let bytes = size_of_val(problem.weights());
        let matrices = Turns::cold(bytes, || Arc::new(problem.weights.clone()));
        let libraries = [Library::Ndarray, Library::Gemm];
        libraries
            .map(|library| Self {
                library,
                matrices: matrices.clone(),
                x: Array2::default((0, 0)),
                y: Array2::default((0, 0)),
            })
            .into()
    }
}

impl Contestant for Dense {
    fn name(&self) -> String {
        match self.library {
            Library::Ndarray => "ndarray (matrixmultiply)".into(),
            Library::Gemm => "gemm".into(),
        }
    }

    fn prepare(&mut self, problem: &Problem, rows: usize) -> Result<()> {
        self.x = problem.x.slice(s![..rows, ..]).to_owned();
        self.y = Array2::zeros((rows, problem.weights.nrows()));
        Ok(())
    }

    fn multiply(&mut self) -> Result<()> {
        let weights = self.matrices.turn();
        match self.library {
            Library::Ndarray => general_mat_mul(1.0, &self.x, &weights.t(), 0.0, &mut self.y),
            Library::Gemm => gemm(&self.x, weights, &mut self.y),
        }
        Ok(())
    }

    fn product(&self) -> Result<Array2<f32>> {
        Ok(self.y.clone())
    }

    fn weights(&self) -> Result<Array2<f32>> {
        Ok(self.matrices.first().as_ref().clone())
    }
}

/// `y = x·Wᵀ`.
#[expect(unsafe_code, reason = "gemm takes pointers")]
fn gemm(x: &Array2<f32>, weights: &Array2<f32>, y: &mut Array2<f32>) {
    let ((rows, cols), outputs) = (x.dim(), weights.nrows());
    assert!(weights.ncols() == cols && y.dim() == (rows, outputs), "shapes");
    assert!(x.is_standard_layout() && weights.is_standard_layout() && y.is_standard_layout(), "layouts");
    let threads = rayon::current_num_threads();
    let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    let (row, column) = (cols as isize, outputs as isize);
    // SAFETY: each array holds as many numbers as its shape says, in rows without gaps; the strides
    // given are of those rows (of the transposed weights: of their columns). `y` is borrowed alone,
    // and is written without being read.
    unsafe {
        gemm::gemm(
            rows,
            outputs,
            cols,
            y.as_mut_ptr(),
            1,
            column,
            false,
            x.as_ptr(),
            1,
            row,
            weights.as_ptr(),
            row,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
