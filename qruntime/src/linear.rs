//! A linear layer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kernels::{Activations, Isa, ShapeError};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::error::Error;
use crate::parallel::{self, Product, Rows};
use crate::weight::{SharedWeight, Weight};

/// A linear layer, `y = x·Wᵀ + b`, with a packed or plain matrix `W`. It computes on all threads of
/// rayon's current pool: the global one, or the one in whose `ThreadPool::install` the call is
/// made. The calling thread runs no other job of the pool meanwhile, so it may hold a lock.
///
/// A layer shares ownership of its matrix's memory and keeps it alive. Cloning copies the bias but
/// no weights.
///
/// A row's result has the same bits on every processor, with any number of threads, alone or among
/// other rows.
#[derive(Clone)]
pub struct Linear {
    weight: SharedWeight,
    name: Option<(Arc<str>, usize)>,
    bias: Option<Vec<f32>>,
    isa: Isa,
    exact: bool,
}

/// The name of a weight matrix: a tensor and the index of the matrix in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightName<'a> {
    /// The full name of the tensor.
    pub tensor: &'a str,
    /// The index of the matrix, from 0: the expert, if the tensor holds several.
    pub matrix: usize,
}

/// Scratch memory of [`Linear::forward_into`] and similar methods. It grows to the need of the
/// largest product and is kept between calls.
#[derive(Debug, Default)]
pub struct Workspace {
    quantized: Activations,
    rows: Vec<f32>,
}

impl Linear {
    /// Makes a layer without bias.
    #[must_use]
    pub fn new(weight: impl Into<SharedWeight>, isa: Isa) -> Self {
        Self { weight: weight.into(), name: None, bias: None, isa, exact: false }
    }

    /// Adds a bias.
    ///
    /// # Errors
    /// If the number of elements is not the number of outputs.
    pub fn with_bias(self, bias: Vec<f32>) -> Result<Self, Error> {
        ShapeError::check("elements of a bias", bias.len(), self.out_features())?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// Uses another instruction set, for tests, measurements and bug reports. The result stays the
    /// same.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Multiplies packed weights with unrounded activations instead of 8-bit ones. This is slower,
    /// but then only the weights are approximate. Plain weights are always multiplied this way.
    #[must_use]
    pub fn with_exact_activations(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Returns the columns of the matrix.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.cols()
    }

    /// Returns the rows of the matrix.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.rows()
    }

    /// Returns the matrix.
    #[must_use]
    pub fn weight(&self) -> Weight<'_> {
        self.weight.view()
    }

    /// Returns the name of the matrix; `None` if the layer was made from memory.
    #[must_use]
    pub fn name(&self) -> Option<WeightName<'_>> {
        self.name.as_ref().map(|(tensor, matrix)| WeightName { tensor, matrix: *matrix })
    }

    /// Names the matrix.
    pub(crate) fn named(self, tensor: &Arc<str>, matrix: usize) -> Self {
        Self { name: Some((Arc::clone(tensor), matrix)), ..self }
    }

    /// Returns the bias.
    #[must_use]
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Decodes one row of the matrix: the vector of a token, if the matrix is an embedding.
    ///
    /// # Errors
    /// If `weights` is not [`in_features`](Self::in_features) long, or there is no such row.
    pub fn decode_row(&self, row: usize, weights: &mut [f32]) -> Result<(), Error> {
        Ok(self.weight.view().decode_row(row, weights)?)
    }

    /// Multiplies rows of activations: `(rows, in_features)` to `(rows, out_features)`.
    ///
    /// # Errors
    /// If `x` does not have `in_features` columns.
    pub fn forward(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, Error> {
        let mut y = Array2::zeros((x.nrows(), self.out_features()));
        self.forward_into(x, &mut Workspace::default(), y.view_mut())?;
        Ok(y)
    }

    /// Multiplies as [`forward`](Self::forward) does, without allocating once `workspace` has
    /// grown.
    ///
    /// # Errors
    /// If the shapes do not agree.
    pub fn forward_into(
        &self,
        x: ArrayView2<'_, f32>,
        workspace: &mut Workspace,
        y: ArrayViewMut2<'_, f32>,
    ) -> Result<(), Error> {
        self.check(x, &y)?;
        let x = workspace.prepare(self, x, &[x.nrows()])?;
        parallel::multiply(&mut [self.product(x.group(0, 0..y.nrows()), y)])?;
        Ok(())
    }

    /// Multiplies the same rows by several layers at once (query, key and value; gate and up):
    /// `outputs[i]` receives the result of `layers[i]` alone, bit for bit. Activations are
    /// quantized once and threads are woken once, which matters for small products.
    ///
    /// ```
    /// # use kernels::{Format, Isa, Matrix, Rounding};
    /// use ndarray::Array2;
    /// use qruntime::{Linear, Workspace};
    ///
    /// # let matrix = |rows| Matrix::encode(Isa::best(), Format::Q8_0, Rounding::Nearest, &vec![0.5; rows * 32], rows, 32).unwrap();
    /// # let (gate, up) = (matrix(48), matrix(48));
    /// # let (gate, up) = (Linear::new(gate, Isa::best()), Linear::new(up, Isa::best()));
    /// # let x = Array2::<f32>::ones((2, 32));
    /// let mut workspace = Workspace::default();
    /// let (mut g, mut u) = (Array2::zeros((2, 48)), Array2::zeros((2, 48)));
    /// Linear::forward_each(&[&gate, &up], x.view(), &mut workspace, &mut [g.view_mut(), u.view_mut()])?;
    /// assert_eq!(u, up.forward(x.view())?);
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the numbers of outputs and layers differ, or shapes do not agree. On error, nothing is
    /// written.
    pub fn forward_each(
        layers: &[&Self],
        x: ArrayView2<'_, f32>,
        workspace: &mut Workspace,
        outputs: &mut [ArrayViewMut2<'_, f32>],
    ) -> Result<(), Error> {
        ShapeError::check("outputs of layers", outputs.len(), layers.len())?;
        for (layer, y) in layers.iter().zip(&*outputs) {
            layer.check(x, y)?;
        }
        let mut outputs = outputs.iter_mut();
        // One region, unless only some layers take exact activations.
        for layers in layers.chunk_by(|a, b| a.is_exact() == b.is_exact()) {
            let x = workspace.prepare(layers[0], x, &[x.nrows()])?;
            let products = layers.iter().zip(outputs.by_ref());
            let mut products: Vec<Product<'_>> =
                products.map(|(layer, y)| layer.product(x.group(0, 0..y.nrows()), y.view_mut())).collect();
            parallel::multiply(&mut products)?;
        }
        Ok(())
    }

    pub(crate) fn check(&self, x: ArrayView2<'_, f32>, y: &ArrayViewMut2<'_, f32>) -> Result<(), ShapeError> {
        ShapeError::check("columns of the activations", x.ncols(), self.in_features())?;
        ShapeError::check("rows of the output", y.nrows(), x.nrows())?;
        ShapeError::check("columns of the output", y.ncols(), self.out_features())
    }

    /// Returns whether the layer takes unrounded activations.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact || self.weight.is_plain()
    }

    /// Returns the product with rows that [`Workspace::prepare`] has prepared.
    pub(crate) fn product<'p>(&'p self, x: Rows<'p>, y: ArrayViewMut2<'p, f32>) -> Product<'p> {
        Product { isa: self.isa, weights: self.weight.view(), x, bias: self.bias.as_deref(), y }
    }
}

impl Workspace {
    /// Prepares the rows of `x` for `layer`, in groups of the given sizes.
    pub(crate) fn prepare<'w>(
        &'w mut self,
        layer: &Linear,
        x: ArrayView2<'w, f32>,
        groups: &[usize],
    ) -> Result<Prepared<'w>, ShapeError> {
        let Self { quantized, rows } = self;
        let rows = match x.to_slice() {
            Some(contiguous) => contiguous,
            None => {
                rows.clear();
                rows.extend(x.iter());
                rows
            }
        };
        if layer.is_exact() {
            return Ok(Prepared::Exact(rows, x.ncols()));
        }
        parallel::quantize(layer.isa, rows, x.ncols(), groups, quantized)?;
        Ok(Prepared::Quantized(quantized))
    }
}

/// Groups of rows, ready to be multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Prepared<'w> {
    Quantized(&'w Activations),
    Exact(&'w [f32], usize),
}

impl<'w> Prepared<'w> {
    /// Returns the group with this index, which consists of these rows of all.
    pub(crate) fn group(self, group: usize, rows: Range<usize>) -> Rows<'w> {
        match self {
            Self::Quantized(activations) => Rows::Quantized(activations.group(group)),
            Self::Exact(x, cols) => Rows::Exact(&x[rows.start * cols..rows.end * cols], cols),
        }
    }
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linear({:?}, bias: {})", self.weight, self.bias.is_some())
    }
}
