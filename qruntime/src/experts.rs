//! The experts of a mixture: each group of rows has its own layer.

use std::fmt;

use kernels::{Isa, ShapeError};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

use crate::error::Error;
use crate::linear::{Linear, Workspace};
use crate::parallel::{self, Product};

/// The experts of a mixture: layers of one shape, each of which multiplies the rows that a router
/// sent to it.
///
/// All experts are multiplied at once on the threads of rayon's current pool. They do not wait for
/// each other, and the work is shared evenly even if one expert has most of the rows. The result
/// has the same bits as [`Linear::forward`] of each expert alone.
///
/// ```
/// # use kernels::{Format, Isa, Matrix, Rounding};
/// # use ndarray::{Array2, s};
/// # use qruntime::{Experts, Linear};
/// # let matrices = [1.0, 2.0, 3.0].map(|w| {
/// #     Matrix::encode(Isa::best(), Format::Q8_0, Rounding::Nearest, &[w; 20 * 32], 20, 32).unwrap()
/// # });
/// # let layers = matrices.into_iter().map(|matrix| Linear::new(matrix, Isa::best())).collect();
/// let experts = Experts::new(layers)?; // or `model.experts("...")`
/// let x = Array2::<f32>::ones((5, 32)); // sorted by expert: 2 rows for the first, none for the second, 3 for the third
/// let y = experts.forward(x.view(), &[2, 0, 3])?;
/// assert_eq!(y.slice(s![2.., ..]), experts.layers()[2].forward(x.slice(s![2.., ..]))?);
/// # Ok::<(), qruntime::Error>(())
/// ```
#[derive(Clone)]
pub struct Experts {
    /// Not empty, and consistent as `new` has checked.
    layers: Vec<Linear>,
}

impl Experts {
    /// Makes a mixture of layers, in the order of the router's outputs.
    ///
    /// # Errors
    /// If there are no layers, or they differ in shape or in whether they take exact activations.
    pub fn new(layers: Vec<Linear>) -> Result<Self, Error> {
        ShapeError::check("experts", layers.len(), layers.len().max(1))?;
        let first = &layers[0];
        for layer in &layers {
            ShapeError::check("columns of an expert", layer.in_features(), first.in_features())?;
            ShapeError::check("rows of an expert", layer.out_features(), first.out_features())?;
            let exact = [layer, first].map(|layer| usize::from(layer.is_exact()));
            ShapeError::check("exact activations of an expert (0 or 1)", exact[0], exact[1])?;
        }
        Ok(Self { layers })
    }

    /// Uses another instruction set, see [`Linear::with_isa`].
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { layers: self.layers.into_iter().map(|layer| layer.with_isa(isa)).collect() }
    }

    /// Multiplies with unrounded activations, see [`Linear::with_exact_activations`].
    #[must_use]
    pub fn with_exact_activations(self, exact: bool) -> Self {
        Self { layers: self.layers.into_iter().map(|layer| layer.with_exact_activations(exact)).collect() }
    }

    /// Returns the columns of each matrix.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.layers[0].in_features()
    }

    /// Returns the rows of each matrix.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.layers[0].out_features()
    }

    /// Returns the experts; there is at least one.
    #[must_use]
    pub fn layers(&self) -> &[Linear] {
        &self.layers
    }

    /// Multiplies rows that are sorted by expert: `(rows, in_features)` to `(rows, out_features)`.
    /// The first `counts[0]` rows belong to the first expert, the next `counts[1]` to the second,
    /// and so on.
    ///
    /// # Errors
    /// If `x` does not have `in_features` columns, or `counts` does not have one count for each
    /// expert, which sum up to the rows of `x`.
    pub fn forward(&self, x: ArrayView2<'_, f32>, counts: &[usize]) -> Result<Array2<f32>, Error> {
        let mut y = Array2::zeros((x.nrows(), self.out_features()));
        self.forward_into(x, counts, &mut Workspace::default(), y.view_mut())?;
        Ok(y)
    }

    /// Multiplies as [`forward`](Self::forward) does. Once `workspace` has grown, it allocates only
    /// a list of the experts that have rows.
    ///
    /// # Errors
    /// If the shapes do not agree. On error, nothing is written.
    pub fn forward_into(
        &self,
        x: ArrayView2<'_, f32>,
        counts: &[usize],
        workspace: &mut Workspace,
        y: ArrayViewMut2<'_, f32>,
    ) -> Result<(), Error> {
        Self::forward_each(&[self], x, counts, workspace, &mut [y])
    }

    /// Multiplies the same rows by several mixtures at once (gate and up), see
    /// [`Linear::forward_each`].
    ///
    /// # Errors
    /// If the numbers of outputs and mixtures differ, or shapes do not agree. On error, nothing is
    /// written.
    pub fn forward_each(
        mixtures: &[&Self],
        x: ArrayView2<'_, f32>,
        counts: &[usize],
        workspace: &mut Workspace,
        outputs: &mut [ArrayViewMut2<'_, f32>],
    ) -> Result<(), Error> {
        ShapeError::check("outputs of mixtures", outputs.len(), mixtures.len())?;
        let sum = counts.iter().fold(0, |sum: usize, &count| sum.saturating_add(count));
        ShapeError::check("rows of all experts", sum, x.nrows())?;
        for (mixture, y) in mixtures.iter().zip(&*outputs) {
            mixture.layers[0].check(x, y)?;
            ShapeError::check("counts of rows, one for each expert", counts.len(), mixture.layers.len())?;
        }
        let with_rows = counts.iter().filter(|&&count| count > 0).count();
        let mut outputs = outputs.iter_mut();
        // One region, unless only some mixtures take exact activations.
        for mixtures in mixtures.chunk_by(|a, b| a.layers[0].is_exact() == b.layers[0].is_exact()) {
            let x = workspace.prepare(&mixtures[0].layers[0], x, counts)?;
            let mut products: Vec<Product<'_>> = Vec::with_capacity(mixtures.len() * with_rows);
            for (mixture, y) in mixtures.iter().zip(outputs.by_ref()) {
                let (mut first, mut rest) = (0, y.view_mut());
                for (group, (layer, &count)) in mixture.layers.iter().zip(counts).enumerate() {
                    let (rows, after) = rest.split_at(Axis(0), count);
                    if count > 0 {
                        products.push(layer.product(x.group(group, first..first + count), rows));
                    }
                    (first, rest) = (first + count, after);
                }
            }
            parallel::multiply(&mut products)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Experts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Experts({} of {:?})", self.layers.len(), self.layers[0])
    }
}
