//! Products of plain weights: matrices of floats, row after row as checkpoints store them.
//!
//! ```text
//! for panel of 16 rows of weights, chunk of 16 vectors of columns:
//!     widened = f32(chunk)                            16 KB, once for up to 32 rows of activations
//!     for some rows of x and of weights:              as many sums as fit in registers
//!         for vector in chunk:
//!             sum[x][w] = fma(widened[w][vector], x[vector], sum[x][w])
//! y[x][w] = sum of the lanes of sum[x][w]
//!
//! lane        0          1                 15
//! weights   w[k]       w[k + 1]    ...   w[k + 15]       16 columns of one row
//! x         x[k]       x[k + 1]    ...   x[k + 15]
//! sum       k mod 16   = 1         ...   = 15            16 sums of one output
//! ```
//!
//! An output is one dot product: 16 sums, of the columns `k mod 16`, by fused multiply-adds in
//! ascending order, then added in halves. The other rows do not change its bits.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

use half::{bf16, f16};

use crate::error::ShapeError;
use crate::format::PANEL_ROWS;
use crate::isa::{Isa, Kernel, Simd};
use crate::vector::padded;

/// The type of the elements of a plain matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlainType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl PlainType {
    /// Returns the bytes of an element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A view of a matrix of plain elements, little-endian and row-major, at any alignment.
///
/// Invariant: `bytes` is exactly `rows · cols` elements long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlainRef<'a> {
    ty: PlainType,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> PlainRef<'a> {
    /// Makes a view of `bytes`.
    ///
    /// # Errors
    /// If the length is not `rows · cols` elements.
    pub fn new(ty: PlainType, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, ShapeError> {
        // In whole panels, and where there are no rows or columns: no size that is computed from
        // them overflows.
        let panels = rows.checked_next_multiple_of(PANEL_ROWS).and_then(|rows| rows.max(1).checked_mul(cols.max(1)));
        let bounded = panels.and_then(|numbers| numbers.checked_mul(ty.bytes()));
        let expected = bounded.map(|_| rows * cols * ty.bytes());
        ShapeError::check("bytes of a plain matrix", bytes.len(), expected.unwrap_or(usize::MAX))?;
        Ok(Self { ty, rows, cols, bytes })
    }

    /// Returns the type of the elements.
    #[must_use]
    pub fn ty(self) -> PlainType {
        self.ty
    }

    /// Returns the number of rows: outputs of a linear layer.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Returns the number of columns: inputs of a linear layer.
    #[must_use]
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the number of panels of 16 rows, as packed matrices have them; the last may have
    /// fewer rows.
    #[must_use]
    pub fn panel_count(self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Returns the matrix of the rows of some panels.
    ///
    /// # Panics
    /// If the range is not within `0..panel_count()`.
    #[must_use]
    pub fn panels(self, range: Range<usize>) -> Self {
        let count = self.panel_count();
        assert!(range.start <= range.end && range.end <= count, "panels {range:?} of {count}");
        let rows = (range.start * PANEL_ROWS).min(self.rows)..(range.end * PANEL_ROWS).min(self.rows);
        let row_bytes = self.row_bytes();
        Self { rows: rows.len(), bytes: &self.bytes[rows.start * row_bytes..rows.end * row_bytes], ..self }
    }

    fn row_bytes(self) -> usize {
        self.cols * self.ty.bytes()
    }

    /// Widens one row.
    ///
    /// # Errors
    /// If `weights` is not `cols` long, or there is no such row.
    pub fn decode_row(self, row: usize, weights: &mut [f32]) -> Result<(), ShapeError> {
        ShapeError::check("weights of a row", weights.len(), self.cols)?;
        if row >= self.rows {
            return Err(ShapeError {
                what: "rows, counted up to the one asked for",
                found: row.saturating_add(1),
                expected: self.rows,
            });
        }
        let bytes = &self.bytes[row * self.row_bytes()..][..self.row_bytes()];
        let pairs = bytes.as_chunks::<2>().0.iter();
        match self.ty {
            PlainType::F32 => {
                weights.iter_mut().zip(bytes.as_chunks().0).for_each(|(w, b)| *w = f32::from_le_bytes(*b));
            }
            PlainType::F16 => weights.iter_mut().zip(pairs).for_each(|(w, b)| *w = f16::from_le_bytes(*b).to_f32()),
            PlainType::Bf16 => weights.iter_mut().zip(pairs).for_each(|(w, b)| *w = bf16::from_le_bytes(*b).to_f32()),
        }
        Ok(())
    }
}

impl fmt::Debug for PlainRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainRef({:?} {} x {})", self.ty, self.rows, self.cols)
    }
}

/// Multiplies `x_rows` rows of activations by a plain matrix.
///
/// `out[panel · x_rows + row]` receives the 16 outputs of a panel for a row of activations, as in
/// [`multiply`](crate::multiply); in the last panel, outputs beyond the matrix's rows are
/// undefined.
///
/// # Errors
/// If the lengths do not agree.
pub fn multiply_plain(
    isa: Isa,
    weights: PlainRef<'_>,
    x: &[f32],
    x_rows: usize,
    out: &mut [[f32; PANEL_ROWS]],
) -> Result<(), ShapeError> {
    ShapeError::check("activations", x.len(), x_rows.saturating_mul(weights.cols()))?;
    ShapeError::check("outputs", out.len(), x_rows.saturating_mul(weights.panel_count()))?;
    let product = MultiplyPlain { weights, x, x_rows, out };
    match weights.ty {
        PlainType::F32 => isa.run_without_dots(MultiplyPlainAs::<F32, 64>(product, PhantomData)),
        PlainType::F16 => isa.run_without_dots(MultiplyPlainAs::<F16, 32>(product, PhantomData)),
        PlainType::Bf16 => isa.run_without_dots(MultiplyPlainAs::<Bf16, 32>(product, PhantomData)),
    }
    Ok(())
}

/// Elements as they lie in memory, 16 of them in `N` bytes.
trait Numbers<const N: usize> {
    /// Widens the elements. Is `#[inline(always)]`.
    fn load<S: Simd>(simd: S, numbers: &[u8; N]) -> S::F32;
}

struct F32;

impl Numbers<64> for F32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[u8; 64]) -> S::F32 {
        simd.load_f32_bytes(numbers)
    }
}

struct F16;

impl Numbers<32> for F16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[u8; 32]) -> S::F32 {
        simd.load_f16(numbers)
    }
}

struct Bf16;

impl Numbers<32> for Bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[u8; 32]) -> S::F32 {
        simd.load_bf16(numbers)
    }
}

struct MultiplyPlain<'a> {
    weights: PlainRef<'a>,
    x: &'a [f32],
    x_rows: usize,
    out: &'a mut [[f32; PANEL_ROWS]],
}

struct MultiplyPlainAs<'a, T, const N: usize>(MultiplyPlain<'a>, PhantomData<T>);

/// 16 elements.
type Vector = [f32; PANEL_ROWS];

/// Vectors of a row that are widened at a time: with those of 15 other rows, 16 KB.
const CHUNK: usize = 16;

/// Rows of activations whose sums are in memory together.
const ROWS: usize = 32;

/// The sums of a row of activations for the rows of a panel.
type PanelSums = [Vector; PANEL_ROWS];

impl<T: Numbers<N>, const N: usize> Kernel for MultiplyPlainAs<'_, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let MultiplyPlain { weights, x, x_rows, out } = self.0;
        let (cols, row_bytes) = (weights.cols, weights.row_bytes());
        out.fill([0.0; PANEL_ROWS]);
        if row_bytes == 0 || x_rows == 0 {
            return;
        }
        let panels = weights.bytes.chunks(PANEL_ROWS * row_bytes).zip(out.chunks_exact_mut(x_rows));
        if x_rows == 1 {
            for (panel, out) in panels {
                for (row, out) in panel.chunks_exact(row_bytes).zip(&mut out[0]) {
                    *out = dot::<S, T, N>(simd, row, x);
                }
            }
            return;
        }
        let mut widened = [[[0.0; PANEL_ROWS]; CHUNK]; PANEL_ROWS];
        let mut sums = [[[0.0; PANEL_ROWS]; PANEL_ROWS]; ROWS];
        let whole = cols / PANEL_ROWS * PANEL_ROWS;
        for (panel, out) in panels {
            for (x, out) in x.chunks(ROWS * cols).zip(out.chunks_mut(ROWS)) {
                let sums = &mut sums[..out.len()];
                sums.fill([[0.0; PANEL_ROWS]; PANEL_ROWS]);
                for first in (0..whole).step_by(CHUNK * PANEL_ROWS) {
                    let len = (whole - first).min(CHUNK * PANEL_ROWS);
                    for (row, widened) in panel.chunks_exact(row_bytes).zip(&mut widened) {
                        let row = &row[first * (N / PANEL_ROWS)..][..len * (N / PANEL_ROWS)];
                        for (numbers, widened) in row.as_chunks().0.iter().zip(widened) {
                            simd.store(T::load(simd, numbers), widened);
                        }
                    }
                    rows(simd, &widened, Rows { x: &x[first..], stride: cols, len }, sums);
                }
                if whole < cols {
                    for (row, widened) in panel.chunks_exact(row_bytes).zip(&mut widened) {
                        simd.store(T::load(simd, &padded(&row[whole * (N / PANEL_ROWS)..], 0)), &mut widened[0]);
                    }
                    let mut last = [[0.0; PANEL_ROWS]; ROWS];
                    for (x, last) in x.chunks_exact(cols).zip(&mut last) {
                        *last = padded(&x[whole..], 0.0);
                    }
                    rows(simd, &widened, Rows { x: last.as_flattened(), stride: PANEL_ROWS, len: PANEL_ROWS }, sums);
                }
                for (sums, out) in sums.iter().zip(out) {
                    for (sums, out) in sums.iter().zip(out) {
                        *out = simd.sum(simd.load_f32(sums));
                    }
                }
            }
        }
    }
}

/// Distance in bytes at which a row is prefetched while it is multiplied, into the next rows.
const AHEAD: usize = 4096;

/// Computes the dot product of a row of weights and a row of activations.
///
/// One row after the other: two at a time, whose sums would not wait for themselves, are two
/// streams, and memory delivers one faster.
#[inline(always)]
fn dot<S: Simd, T: Numbers<N>, const N: usize>(simd: S, weights: &[u8], x: &[f32]) -> f32 {
    let ((weights, rest), (x, x_rest)) = (weights.as_chunks(), x.as_chunks::<PANEL_ROWS>());
    let mut sums = simd.splat(0.0);
    for (weights, x) in weights.iter().zip(x) {
        simd.prefetch(weights.as_ptr().wrapping_add(AHEAD));
        sums = simd.mul_add(T::load(simd, weights), simd.load_f32(x), sums);
    }
    if !rest.is_empty() {
        sums = simd.mul_add(T::load(simd, &padded(rest, 0)), simd.load_f32(&padded(x_rest, 0.0)), sums);
    }
    simd.sum(sums)
}

/// Some columns of rows of activations: `len` of them, in whole vectors, from rows `stride`
/// elements apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    stride: usize,
    len: usize,
}

/// Adds the products of a panel's widened columns and rows of activations to their sums.
#[inline(always)]
fn rows<S: Simd>(simd: S, weights: &[[Vector; CHUNK]; PANEL_ROWS], x: Rows<'_>, sums: &mut [PanelSums]) {
    let mut row = 0;
    while S::MANY_SUMS && row + 4 <= sums.len() {
        panel::<S, 4, 4>(simd, weights, x, row, sums);
        row += 4;
    }
    while !S::MANY_SUMS && row + 3 <= sums.len() {
        panel::<S, 2, 3>(simd, weights, x, row, sums);
        row += 3;
    }
    while row < sums.len() {
        panel::<S, 4, 1>(simd, weights, x, row, sums);
        row += 1;
    }
}

/// Does so for `X` rows, with `W` rows of weights at a time: as many sums as fit in registers.
#[inline(always)]
fn panel<S: Simd, const W: usize, const X: usize>(
    simd: S,
    weights: &[[Vector; CHUNK]; PANEL_ROWS],
    x: Rows<'_>,
    row: usize,
    sums: &mut [PanelSums],
) {
    let mut vectors: [&[Vector]; X] = [&[]; X];
    for (i, vectors) in vectors.iter_mut().enumerate() {
        *vectors = x.x[(row + i) * x.stride..][..x.len].as_chunks().0;
    }
    for (i, weights) in weights.as_chunks::<W>().0.iter().enumerate() {
        let mut acc = [[simd.splat(0.0); W]; X];
        for (acc, sums) in acc.iter_mut().zip(&sums[row..]) {
            for (acc, sum) in acc.iter_mut().zip(&sums[i * W..]) {
                *acc = simd.load_f32(sum);
            }
        }
        for v in 0..x.len / PANEL_ROWS {
            for (w, weights) in weights.iter().enumerate() {
                let weights = simd.load_f32(&weights[v]);
                for (acc, x) in acc.iter_mut().zip(&vectors) {
                    acc[w] = simd.mul_add(weights, simd.load_f32(&x[v]), acc[w]);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(&mut sums[row..]) {
            for (acc, sum) in acc.iter().zip(&mut sums[i * W..]) {
                simd.store(*acc, sum);
            }
        }
    }
}
