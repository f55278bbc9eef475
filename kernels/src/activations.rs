//! Rows of activations, quantized to 8 bits in blocks of 32 columns.
//!
//! A kernel multiplies several rows at a time and broadcasts four codes of each of them in turn.
//! Rows therefore lie interleaved in **quads**. Rows that do not fill a quad lie alone.
//!
//! ```text
//! quad, one block of 32 columns, 8 groups of 16 bytes:
//!   group 0   x0[0..4]    x1[0..4]    x2[0..4]    x3[0..4]      4 codes of each of 4 rows
//!   group 1   x0[4..8]    x1[4..8]    x2[4..8]    x3[4..8]
//!   ...
//!   group 7   x0[28..32]  x1[28..32]  x2[28..32]  x3[28..32]
//! then      scales, sums                                        one of each row
//! ```

use core::ops::Range;

use crate::block::{ACTIVATION_BLOCK, Group, QUAD, RowBlock};
use crate::error::ShapeError;
use crate::isa::{Isa, Kernel, Simd};
use crate::math::ROUND;

/// Rows are padded with zeros to a multiple of this many columns, the longest block of any format.
const PADDING: usize = 256;

impl<const R: usize> RowBlock<R> {
    /// Writes a block of one row as row `row`.
    #[inline(always)]
    fn set_row(&mut self, row: usize, block: &RowBlock<1>) {
        for (codes, group) in self.codes.iter_mut().zip(&block.codes) {
            codes[row] = group[0];
        }
        self.scales[row] = block.scales[0];
        self.offsets_8[row] = block.offsets_8[0];
        self.scaled_sums[row] = block.scaled_sums[0];
        for (offsets, offset) in self.offsets_32.iter_mut().zip(&block.offsets_32) {
            offsets[row] = offset[0];
        }
    }

    /// Extracts one row.
    fn row(&self, row: usize) -> ActivationBlock {
        ActivationBlock { codes: self.codes.map(|group| group[row]), scale: self.scales[row] }
    }
}

impl RowBlock<1> {
    /// Quantizes 32 activations as `docs/quantization.md` defines.
    #[inline(always)]
    fn quantize(x: &[f32; ACTIVATION_BLOCK]) -> Self {
        let (scale, inverse) = scale_and_inverse(x);
        if inverse == 0.0 {
            return Self { scales: [scale], scaled_sums: [scale], ..Self::default() };
        }
        let mut block = Self { scales: [scale], ..Self::default() };
        let codes = block.codes.as_flattened_mut().as_flattened_mut();
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * inverse + ROUND).to_bits() as i8;
        }
        for (offsets, codes) in block.offsets_32.iter_mut().zip(codes.as_chunks::<16>().0) {
            for codes in codes.as_chunks::<4>().0 {
                offsets[0][0] -= 32 * (i16::from(codes[0]) + i16::from(codes[1]));
                offsets[0][1] -= 32 * (i16::from(codes[2]) + i16::from(codes[3]));
            }
        }
        let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
        block.offsets_8 = [-8 * sum];
        block.scaled_sums = [scale * sum as f32];
        block
    }
}

/// Returns the scale of 8-bit codes for the given values, and its inverse. If a value is not finite
/// the scale is NaN and the inverse 0; if all are too small to have an inverse, both are 0.
#[inline(always)]
pub(crate) fn scale_and_inverse(numbers: &[f32]) -> (f32, f32) {
    // Without their sign bits floats order as integers do, with infinity and then NaN on top: one
    // maximum finds all three.
    let magnitude = f32::from_bits(numbers.iter().fold(0, |max: u32, x| max.max(x.to_bits() & 0x7fff_ffff)));
    if !magnitude.is_finite() {
        return (f32::NAN, 0.0);
    }
    if magnitude < SMALLEST_MAGNITUDE {
        return (0.0, 0.0);
    }
    (magnitude / 127.0, 127.0 / magnitude)
}

/// 2⁻¹²⁰: below it, `127 / magnitude` would overflow.
const SMALLEST_MAGNITUDE: f32 = f32::from_bits((127 - 120) << 23);

/// 32 consecutive activations of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationBlock {
    codes: [Group; 8],
    scale: f32,
}

impl ActivationBlock {
    /// Returns the codes in column order, each in `-127..=127`.
    #[must_use]
    pub fn codes(&self) -> &[i8; ACTIVATION_BLOCK] {
        self.codes.as_flattened().as_array().expect("8 groups of 4 codes")
    }

    /// Returns the step: an activation is about `scale · code`.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

/// Rows of quantized activations, in groups of rows that are multiplied together.
///
/// Products of one matrix take one group; those of a mixture of experts a group for each expert.
/// Memory is kept between uses.
///
/// ```
/// use kernels::{Activations, Isa};
///
/// let x: Vec<f32> = (0..6 * 40).map(|i| i as f32).collect(); // 6 rows of 40 columns
/// let mut activations = Activations::default();
/// activations.quantize(Isa::best(), &x, 40, &[6])?;
/// let rows = activations.group(0);
/// assert_eq!((rows.rows(), rows.cols()), (6, 40));
/// assert_eq!(rows.block(0, 0).scale(), 31.0 / 127.0);
/// # Ok::<(), kernels::ShapeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Activations {
    cols: usize,
    /// The groups' first rows among the quads and among the rest, and behind them the ends.
    starts: Vec<Start>,
    quads: Vec<RowBlock<QUAD>>,
    rest: Vec<RowBlock<1>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Start {
    quad: usize,
    rest: usize,
}

impl Activations {
    /// Quantizes rows of `cols` activations. `groups` holds the number of rows in each group.
    ///
    /// # Errors
    /// If `x` does not have that many rows.
    pub fn quantize(&mut self, isa: Isa, x: &[f32], cols: usize, groups: &[usize]) -> Result<(), ShapeError> {
        for part in self.parts(x, cols, groups, usize::MAX)? {
            part.quantize(isa);
        }
        Ok(())
    }

    /// Splits the work of [`quantize`](Self::quantize) into parts of at most about `rows` rows, for
    /// several threads. Rows of a part that is not quantized keep old contents.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize).
    pub fn parts<'a>(
        &'a mut self,
        mut x: &'a [f32],
        cols: usize,
        groups: &'a [usize],
        rows: usize,
    ) -> Result<impl Iterator<Item = ActivationsPart<'a>>, ShapeError> {
        let all = groups.iter().try_fold(0, |sum: usize, &rows| sum.checked_add(rows)).unwrap_or(usize::MAX);
        let expected = all.checked_mul(cols).filter(|_| all < usize::MAX).unwrap_or(usize::MAX);
        ShapeError::check("activations", x.len(), expected)?;
        let per_row = blocks(cols);
        self.cols = cols;
        self.starts.clear();
        let mut end = Start::default();
        self.starts.push(end);
        for rows in groups {
            end.quad += rows / QUAD;
            end.rest += rows % QUAD;
            self.starts.push(end);
        }
        self.quads.resize(end.quad * per_row, RowBlock::default());
        // Room for any rest, so that fewer rows later need no more memory.
        self.rest.reserve((groups.len() * (QUAD - 1) * per_row).saturating_sub(self.rest.len()));
        self.rest.resize(end.rest * per_row, RowBlock::default());

        let quads_per_part = (rows / QUAD).max(1);
        let (mut quads, mut rest) = (&mut self.quads[..], &mut self.rest[..]);
        // Rows of no columns are nothing to quantize, however many they are.
        let mut groups = if cols == 0 { [].iter() } else { groups.iter() };
        // Of the present group.
        let (mut quads_left, mut rest_left) = (0, 0);
        Ok(core::iter::from_fn(move || {
            while quads_left == 0 && rest_left == 0 {
                let rows = groups.next()?;
                (quads_left, rest_left) = (rows / QUAD, rows % QUAD);
            }
            if quads_left > 0 {
                let count = quads_left.min(quads_per_part);
                quads_left -= count;
                let (x, quads) = (x.split_off(..count * QUAD * cols)?, quads.split_off_mut(..count * per_row)?);
                return Some(ActivationsPart { cols, x, quads, rest: &mut [] });
            }
            let count = core::mem::take(&mut rest_left);
            let (x, rest) = (x.split_off(..count * cols)?, rest.split_off_mut(..count * per_row)?);
            Some(ActivationsPart { cols, x, quads: &mut [], rest })
        }))
    }

    /// Returns the rows of a group.
    ///
    /// # Panics
    /// If there is no such group.
    #[must_use]
    pub fn group(&self, group: usize) -> ActivationsRef<'_> {
        let (start, end) = (self.starts[group], self.starts[group + 1]);
        let per_row = blocks(self.cols);
        ActivationsRef {
            cols: self.cols,
            rows: QUAD * (end.quad - start.quad) + end.rest - start.rest,
            quads: &self.quads[start.quad * per_row..end.quad * per_row],
            rest: &self.rest[start.rest * per_row..end.rest * per_row],
        }
    }
}

/// Returns the number of blocks in a row, padding included.
fn blocks(cols: usize) -> usize {
    cols.div_ceil(PADDING) * (PADDING / ACTIVATION_BLOCK)
}

/// Rows of [`Activations`] that are still to be quantized.
#[derive(Debug)]
#[must_use = "rows that are not quantized keep old contents"]
pub struct ActivationsPart<'a> {
    cols: usize,
    x: &'a [f32],
    /// Iterates over the quads, each a slice of its blocks.
    quads: &'a mut [RowBlock<QUAD>],
    rest: &'a mut [RowBlock<1>],
}

impl ActivationsPart<'_> {
    /// Quantizes these rows.
    pub fn quantize(self, isa: Isa) {
        isa.run_without_dots(self);
    }
}

impl Kernel for ActivationsPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { cols, x, quads, rest } = self;
        if cols == 0 {
            return;
        }
        let per_row = blocks(cols);
        for (x, quad) in x.chunks_exact(QUAD * cols).zip(quads.chunks_exact_mut(per_row)) {
            for (row, x) in x.chunks_exact(cols).enumerate() {
                each_block(x, quad, |to, block| to.set_row(row, block));
            }
        }
        for (x, blocks) in x.chunks_exact(cols).zip(rest.chunks_exact_mut(per_row)) {
            each_block(x, blocks, |to, block| *to = *block);
        }
    }
}

/// Quantizes a row and calls `put` with each place and its block; places beyond the row get blocks
/// of zeros.
#[inline(always)]
fn each_block<T>(x: &[f32], to: &mut [T], mut put: impl FnMut(&mut T, &RowBlock<1>)) {
    let (whole, last) = x.as_chunks::<ACTIVATION_BLOCK>();
    let mut to = to.iter_mut();
    for (x, to) in whole.iter().zip(to.by_ref()) {
        put(to, &RowBlock::quantize(x));
    }
    let mut padded = [0.0; ACTIVATION_BLOCK];
    padded[..last.len()].copy_from_slice(last);
    for to in to {
        put(to, &RowBlock::quantize(&padded));
        padded = [0.0; ACTIVATION_BLOCK];
    }
}

/// A view of rows of quantized activations.
///
/// Invariant: `quads` and `rest` hold `rows` rows of `blocks(cols)` blocks, as many as possible in
/// `quads`.
#[derive(Clone, Copy, Debug)]
pub struct ActivationsRef<'a> {
    cols: usize,
    rows: usize,
    quads: &'a [RowBlock<QUAD>],
    rest: &'a [RowBlock<1>],
}

impl<'a> ActivationsRef<'a> {
    /// Returns the number of columns.
    #[must_use]
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Returns a view of some of the rows.
    ///
    /// # Panics
    /// If there are not as many, or the range begins or ends within a quad. The rows behind the
    /// last quad may be cut anywhere.
    #[must_use]
    pub fn range(self, rows: Range<usize>) -> Self {
        let whole = self.rows / QUAD * QUAD;
        let at_edge = |row: usize| row.is_multiple_of(QUAD) || row >= whole;
        assert!(
            rows.start <= rows.end && rows.end <= self.rows && at_edge(rows.start) && at_edge(rows.end),
            "rows {rows:?} of {}, in quads",
            self.rows
        );
        let per_row = blocks(self.cols);
        let quads = rows.start.min(whole) / QUAD..rows.end.min(whole) / QUAD;
        let rest = rows.start.max(whole) - whole..rows.end.max(whole) - whole;
        Self {
            cols: self.cols,
            rows: rows.end - rows.start,
            quads: &self.quads[quads.start * per_row..quads.end * per_row],
            rest: &self.rest[rest.start * per_row..rest.end * per_row],
        }
    }

    /// Returns one block of a row.
    ///
    /// # Panics
    /// If there is no such row or block.
    #[must_use]
    pub fn block(self, row: usize, block: usize) -> ActivationBlock {
        let per_row = blocks(self.cols);
        assert!(row < self.rows && block < per_row, "block {block} of {per_row}, row {row} of {}", self.rows);
        match self.quads.get(row / QUAD * per_row + block) {
            Some(quad) => quad.row(row % QUAD),
            None => self.rest[(row - self.quads.len() / per_row * QUAD) * per_row + block].row(0),
        }
    }

    /// Iterates over the quads, each a slice of its blocks.
    pub(crate) fn quads(self) -> core::slice::ChunksExact<'a, RowBlock<QUAD>> {
        self.quads.chunks_exact(blocks(self.cols).max(1))
    }

    /// Iterates over the rows beyond the last quad, each a slice of its blocks.
    pub(crate) fn rest(self) -> core::slice::ChunksExact<'a, RowBlock<1>> {
        self.rest.chunks_exact(blocks(self.cols).max(1))
    }
}
