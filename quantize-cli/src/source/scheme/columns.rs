//! Matrices of codes that lie column by column, as GPTQ and AWQ store them: `[inputs, outputs]`.

use std::ops::Range;
use std::sync::Arc;

use super::Raw;
use super::matrix::{Matrix, Whole, code};
use super::rows::Groups;
use crate::source::SourceError;

/// A matrix of codes of whole numbers with zero points and scales `[groups, outputs]`. Tensors are
/// raw ones, and known to fit.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) codes: usize,
    /// None if all zero points are half of the codes' range.
    pub(super) zeros: Option<usize>,
    pub(super) scales: usize,
    /// The width of a code.
    pub(super) bits: usize,
    /// Outputs, which are the rows of the weight.
    pub(super) rows: usize,
    /// Inputs.
    pub(super) cols: usize,
    pub(super) groups: Groups,
    /// What is added to a stored zero point.
    pub(super) zero_offset: u8,
    pub(super) packing: Packing,
    pub(super) whole: Arc<Whole>,
}

/// Which codes share a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Those of successive inputs: each column of words is a stream of codes.
    Inputs,
    /// Those of eight successive outputs, in the order of [`AWQ_ORDER`].
    Outputs,
}

/// The nibble of a word in which AWQ stores each of eight outputs.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Columns {
    /// Returns the code of a zero point.
    fn zero(&self, zeros: &[u8], group: usize, row: usize) -> u8 {
        // Along the outputs in both packings; a row of words is a stream of codes.
        let words = self.rows * self.bits / 8;
        let row = if self.packing == Packing::Outputs { row / 8 * 8 + AWQ_ORDER[row % 8] } else { row };
        code(&zeros[group * words..][..words], row, self.bits)
    }
}

impl Matrix for Columns {
    fn cols(&self) -> usize {
        self.cols
    }

    fn decode(&self, raw: &dyn Raw, rows: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        let codes = self.whole.bytes(raw, self.codes)?;
        let scales = self.whole.floats(raw, self.scales)?;
        let zeros = self.zeros.map(|zeros| self.whole.bytes(raw, zeros)).transpose()?;
        let middle = 1u8 << (self.bits - 1);
        // A zero point of 0 is stored as the largest code by the version that stores one less.
        let most = u8::MAX >> (8 - self.bits);
        let zero = |group, row| match &zeros {
            Some(zeros) => f32::from(self.zero(zeros, group, row).wrapping_add(self.zero_offset) & most),
            None => f32::from(middle),
        };
        let groups = self.groups.count(self.cols);
        let pairs = (0..groups).flat_map(|group| rows.clone().map(move |row| (group, row)));
        let parameters: Vec<(f32, f32)> =
            pairs.map(|(group, row)| (zero(group, row), scales[group * self.rows + row])).collect();
        for col in 0..self.cols {
            let parameters = &parameters[self.groups.of(col) * rows.len()..][..rows.len()];
            for (r, (row, &(zero, scale))) in rows.clone().zip(parameters).enumerate() {
                let code = match self.packing {
                    Packing::Outputs => {
                        let words = self.rows * self.bits / 8;
                        code(&codes[col * words..][..words], row / 8 * 8 + AWQ_ORDER[row % 8], self.bits)
                    }
                    Packing::Inputs => {
                        // Two bytes of the column's stream, of which the second may be in the next
                        // word.
                        let at = col * self.bits;
                        let byte = |at: usize| codes.get((at / 4 * self.rows + row) * 4 + at % 4).copied();
                        let pair = [byte(at / 8).unwrap_or(0), byte(at / 8 + 1).unwrap_or(0)];
                        (u16::from_le_bytes(pair) >> (at % 8)) as u8 & (u8::MAX >> (8 - self.bits))
                    }
                };
                out[r * self.cols + col] = (f32::from(code) - zero) * scale;
            }
        }
        Ok(())
    }
}
