//! The matrix of a linear layer, packed or plain: a view of it, and a handle that owns its memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kernels::{Format, Matrix, MatrixRef, PlainRef, PlainType, ShapeError};

use crate::bytes::Bytes;

/// A view of a weight matrix, which is multiplied in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight<'a> {
    /// Blocks that share scales. Activations are rounded to 8 bits, unless the layer says
    /// otherwise.
    Packed(MatrixRef<'a>),
    /// Plain elements, as in checkpoints: `F32`, `F16` or `BF16`. Activations are never rounded.
    Plain(PlainRef<'a>),
}

impl<'a> Weight<'a> {
    /// Rows: outputs of a linear layer.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.rows(),
            Self::Plain(matrix) => matrix.rows(),
        }
    }

    /// Columns: inputs of a linear layer.
    #[must_use]
    pub fn cols(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.cols(),
            Self::Plain(matrix) => matrix.cols(),
        }
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Packed(matrix) => matrix.as_bytes(),
            Self::Plain(matrix) => matrix.as_bytes(),
        }
    }

    /// Returns the number of panels of 16 rows; the last may have fewer.
    #[must_use]
    pub fn panel_count(self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.panel_count(),
            Self::Plain(matrix) => matrix.panel_count(),
        }
    }

    /// Returns the matrix that consists of the rows of these panels.
    ///
    /// # Panics
    /// If the range is not within `0..panel_count()`.
    #[must_use]
    pub fn panels(self, range: Range<usize>) -> Self {
        match self {
            Self::Packed(matrix) => Self::Packed(matrix.panels(range)),
            Self::Plain(matrix) => Self::Plain(matrix.panels(range)),
        }
    }

    /// Decodes one row.
    ///
    /// # Errors
    /// If `weights` is not `cols` long, or there is no such row.
    pub fn decode_row(self, row: usize, weights: &mut [f32]) -> Result<(), ShapeError> {
        match self {
            Self::Packed(matrix) => matrix.decode_row(row, weights),
            Self::Plain(matrix) => matrix.decode_row(row, weights),
        }
    }
}

impl<'a> From<MatrixRef<'a>> for Weight<'a> {
    fn from(matrix: MatrixRef<'a>) -> Self {
        Self::Packed(matrix)
    }
}

impl<'a> From<PlainRef<'a>> for Weight<'a> {
    fn from(matrix: PlainRef<'a>) -> Self {
        Self::Plain(matrix)
    }
}

/// A weight matrix that shares ownership of the memory that holds it: a model's file, a
/// [`kernels::Matrix`], or [`Bytes`]. Cloning copies no weights.
///
/// ```
/// use kernels::{Format, Isa, Matrix, Rounding};
/// use qruntime::SharedWeight;
///
/// let matrix = Matrix::encode(Isa::best(), Format::Q8_0, Rounding::Nearest, &[0.5; 64], 2, 32)?;
/// let weight = SharedWeight::from(matrix);
/// assert_eq!((weight.rows(), weight.cols()), (2, 32));
/// # Ok::<(), kernels::EncodeError>(())
/// ```
///
/// Invariant: `range` lies within the memory and is exactly as long as a matrix of this kind and
/// shape.
#[derive(Clone)]
pub struct SharedWeight {
    memory: Memory,
    range: Range<usize>,
    kind: Kind,
    rows: usize,
    cols: usize,
}

#[derive(Clone)]
enum Memory {
    Bytes(Arc<Bytes>),
    Matrix(Arc<Matrix>),
}

/// How the bytes of a matrix are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Packed(Format),
    Plain(PlainType),
}

impl SharedWeight {
    /// Makes a packed matrix of a range of `bytes`.
    ///
    /// # Errors
    /// If the range is not within `bytes`, or not [`Format::matrix_bytes`]`(rows, cols)` long.
    pub fn packed(
        bytes: impl Into<Arc<Bytes>>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        Self::new(bytes.into(), range, Kind::Packed(format), rows, cols)
    }

    /// Makes a plain matrix, row-major and little-endian, of a range of `bytes`.
    ///
    /// # Errors
    /// If the range is not within `bytes`, or not `rows · cols` elements long.
    pub fn plain(
        bytes: impl Into<Arc<Bytes>>,
        range: Range<usize>,
        ty: PlainType,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        Self::new(bytes.into(), range, Kind::Plain(ty), rows, cols)
    }

    pub(crate) fn new(
        bytes: Arc<Bytes>,
        range: Range<usize>,
        kind: Kind,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ShapeError> {
        ShapeError::check("bytes up to the end of a matrix", bytes.len().min(range.end), range.end)?;
        ShapeError::check("bytes before a matrix", range.end.min(range.start), range.start)?;
        kind.view(rows, cols, &bytes[range.clone()])?;
        Ok(Self { memory: Memory::Bytes(bytes), range, kind, rows, cols })
    }

    /// Borrows the matrix. This costs a few loads and one comparison of lengths; nothing is
    /// decoded.
    #[must_use]
    pub fn view(&self) -> Weight<'_> {
        let bytes = match &self.memory {
            Memory::Bytes(bytes) => &bytes[self.range.clone()],
            Memory::Matrix(matrix) => matrix.view().as_bytes(),
        };
        self.kind.view(self.rows, self.cols, bytes).expect("the range is as long as the matrix")
    }

    /// Rows: outputs of a linear layer.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of a linear layer.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns whether the elements are plain rather than packed.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
    }
}

impl Kind {
    /// Views bytes as a matrix.
    fn view(self, rows: usize, cols: usize, bytes: &[u8]) -> Result<Weight<'_>, ShapeError> {
        match self {
            Self::Packed(format) => MatrixRef::new(format, rows, cols, bytes).map(Weight::Packed),
            Self::Plain(ty) => PlainRef::new(ty, rows, cols, bytes).map(Weight::Plain),
        }
    }
}

impl From<Arc<Matrix>> for SharedWeight {
    fn from(matrix: Arc<Matrix>) -> Self {
        let view = matrix.view();
        let (kind, range) = (Kind::Packed(view.format()), 0..view.as_bytes().len());
        Self { rows: view.rows(), cols: view.cols(), memory: Memory::Matrix(matrix), range, kind }
    }
}

impl From<Matrix> for SharedWeight {
    fn from(matrix: Matrix) -> Self {
        Arc::new(matrix).into()
    }
}

impl fmt::Debug for SharedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}
