//! Matrices whose rows are streams of codes, with a scale for each group of columns.

use std::ops::Range;

use super::Raw;
use super::matrix::{E2M1, Matrix, code, floats};
use crate::source::float::{e4m3, power_of_two};
use crate::source::{Dtype, SourceError, TensorInfo};

/// A matrix of codes, row by row. Tensors are raw ones.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) codes: usize,
    /// The width of a code: 2 to 8.
    pub(super) bits: usize,
    /// The bytes of a row of codes.
    pub(super) row_bytes: usize,
    pub(super) cols: usize,
    pub(super) groups: Groups,
    /// Scales `[rows, groups]`, or one for all.
    pub(super) scales: usize,
    /// What a scale means that is a byte, if scales may be bytes.
    pub(super) byte_scale: Option<fn(u8) -> f32>,
    pub(super) factor: Factor,
    pub(super) element: Element,
}

/// Which scale a column has.
#[derive(Debug)]
pub(super) enum Groups {
    /// Groups of so many columns.
    Of(usize),
    /// The group of each column, and how many groups there are.
    Listed(Vec<u32>, usize),
}

/// A factor of all weights.
#[derive(Clone, Copy, Debug)]
pub(super) enum Factor {
    None,
    /// Scales are multiplied by it.
    OfScales(f32),
    /// Scales are divided by it.
    UnderScales(f32),
    /// Weights are multiplied by it.
    OfWeights(f32),
}

/// The value of a code before it is multiplied by its scale.
#[derive(Debug)]
pub(super) enum Element {
    /// The code less a constant.
    Less(i16),
    /// The code as a signed integer of 8 bits.
    Signed,
    /// The code less the zero point of its row and group; see [`Zeros`].
    LessZero(Zeros),
    /// The code; an offset `[rows, groups]` is added to the product.
    Plus(usize),
    /// A float of 4 bits.
    E2m1,
    /// A float of 8 bits.
    E4m3,
}

/// Where zero points are.
#[derive(Debug)]
pub(super) enum Zeros {
    /// Signed integers of 8 bits, `[rows, groups]`; codes are signed, too.
    Bytes(usize),
    /// Codes that are packed like the weights, but along the rows: `[rows · bits / 32, groups]`
    /// words.
    Packed(usize),
}

impl Groups {
    /// Returns how many groups `cols` columns have.
    pub(super) fn count(&self, cols: usize) -> usize {
        match self {
            Self::Of(size) => cols.div_ceil(*size),
            Self::Listed(_, count) => *count,
        }
    }

    /// Returns the group of a column.
    pub(super) fn of(&self, col: usize) -> usize {
        match self {
            Self::Of(size) => col / size,
            Self::Listed(groups, _) => groups[col] as usize,
        }
    }
}

impl Rows {
    /// Checks that the scales are numbers and one for each row and group of `weight`, or one for
    /// all.
    pub(super) fn check(&self, raw: &dyn Raw, weight: &TensorInfo) -> Result<(), SourceError> {
        let scales = &raw.tensors()[self.scales];
        let (rows, groups) = (weight.rows(), self.groups.count(self.cols));
        let is_byte = matches!(scales.dtype(), Dtype::F8_E8M0 | Dtype::U8);
        let is_float = matches!(scales.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3);
        if !is_float && (!is_byte || self.byte_scale.is_none()) {
            let problem = format!("scales of {}, which does not fit these codes", scales.dtype());
            return Err(raw.refused(self.scales, problem));
        }
        self.check_shape(raw, weight, self.scales, "scales")?;
        match self.element {
            Element::Plus(offsets) => self.check_shape(raw, weight, offsets, "offsets"),
            Element::LessZero(Zeros::Bytes(zeros)) => self.check_shape(raw, weight, zeros, "zero points"),
            Element::LessZero(Zeros::Packed(zeros)) => {
                let (found, expected) = (raw.tensors()[zeros].shape(), [(rows * self.bits).div_ceil(32), groups]);
                if found == expected {
                    return Ok(());
                }
                Err(raw.refused(zeros, format!("zero points of shape {found:?}, expected {expected:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a tensor has one element for each row and group of `weight`; scales may be one
    /// for all.
    fn check_shape(&self, raw: &dyn Raw, weight: &TensorInfo, tensor: usize, what: &str) -> Result<(), SourceError> {
        let groups = self.groups.count(self.cols);
        let found = raw.tensors()[tensor].shape();
        let leading = &weight.shape()[..weight.shape().len() - 1];
        let each = [leading, &[groups]].concat();
        let is_one = tensor == self.scales && !matches!(self.element, Element::Plus(_));
        let fits = found == each || groups == 1 && found == leading || is_one && found.iter().product::<usize>() == 1;
        if fits {
            return Ok(());
        }
        let (name, shape) = (weight.name(), weight.shape());
        Err(raw
            .refused(tensor, format!("{what} of shape {found:?} for {name:?} of shape {shape:?}, expected {each:?}")))
    }

    /// Reads the scales of rows.
    fn read_scales(&self, raw: &dyn Raw, rows: Range<usize>, groups: usize) -> Result<Vec<f32>, SourceError> {
        let info = &raw.tensors()[self.scales];
        let is_one = info.elements() == 1;
        let range = if is_one { 0..1 } else { rows.start * groups..rows.end * groups };
        let mut scales = match info.dtype() {
            Dtype::F8_E8M0 | Dtype::U8 => {
                let mut bytes = vec![0; range.len()];
                raw.read_bytes(self.scales, range, &mut bytes)?;
                let value = self.byte_scale.unwrap_or(power_of_two);
                bytes.into_iter().map(value).collect()
            }
            _ => floats(raw, self.scales, range)?,
        };
        if is_one {
            scales.resize(rows.len() * groups, scales[0]);
        }
        match self.factor {
            Factor::OfScales(factor) => scales.iter_mut().for_each(|scale| *scale *= factor),
            Factor::UnderScales(divisor) => scales.iter_mut().for_each(|scale| *scale /= divisor),
            Factor::None | Factor::OfWeights(_) => {}
        }
        Ok(scales)
    }

    /// Reads what is subtracted from the codes of rows, or added to their products.
    fn read_offsets(&self, raw: &dyn Raw, rows: Range<usize>, groups: usize) -> Result<Vec<f32>, SourceError> {
        match self.element {
            Element::Plus(offsets) => floats(raw, offsets, rows.start * groups..rows.end * groups),
            Element::LessZero(Zeros::Bytes(zeros)) => {
                let mut bytes = vec![0; rows.len() * groups];
                raw.read_bytes(zeros, rows.start * groups..rows.end * groups, &mut bytes)?;
                Ok(bytes.into_iter().map(|byte| f32::from(byte.cast_signed())).collect())
            }
            Element::LessZero(Zeros::Packed(zeros)) => {
                let per_word = 32 / self.bits;
                let first = rows.start / per_word;
                let mut words = vec![0; (rows.end.div_ceil(per_word) - first) * groups * 4];
                raw.read_bytes(zeros, first * groups * 4..first * groups * 4 + words.len(), &mut words)?;
                let zero = |row: usize, group: usize| {
                    let word = &words[((row / per_word - first) * groups + group) * 4..][..4];
                    f32::from(code(word, row % per_word, self.bits))
                };
                Ok(rows.flat_map(|row| (0..groups).map(move |group| (row, group))).map(|(r, g)| zero(r, g)).collect())
            }
            _ => Ok(vec![]),
        }
    }
}

impl Matrix for Rows {
    fn cols(&self) -> usize {
        self.cols
    }

    fn decode(&self, raw: &dyn Raw, rows: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        let groups = self.groups.count(self.cols);
        let mut bytes = vec![0; rows.len() * self.row_bytes];
        raw.read_bytes(self.codes, rows.start * self.row_bytes..rows.end * self.row_bytes, &mut bytes)?;
        let scales = self.read_scales(raw, rows.clone(), groups)?;
        let offsets = self.read_offsets(raw, rows, groups)?;
        let after = if let Factor::OfWeights(factor) = self.factor { factor } else { 1.0 };
        for (r, (out, bytes)) in out.chunks_exact_mut(self.cols).zip(bytes.chunks_exact(self.row_bytes)).enumerate() {
            for (col, out) in out.iter_mut().enumerate() {
                let code = code(bytes, col, self.bits);
                let at = r * groups + self.groups.of(col);
                *out = after
                    * match self.element {
                        Element::Less(zero) => f32::from(i16::from(code) - zero) * scales[at],
                        Element::Signed => f32::from(code.cast_signed()) * scales[at],
                        Element::LessZero(Zeros::Bytes(_)) => {
                            (f32::from(code.cast_signed()) - offsets[at]) * scales[at]
                        }
                        Element::LessZero(Zeros::Packed(_)) => (f32::from(code) - offsets[at]) * scales[at],
                        Element::Plus(_) => f32::from(code) * scales[at] + offsets[at],
                        Element::E2m1 => E2M1[usize::from(code & 15)] * scales[at],
                        Element::E4m3 => e4m3(code) * scales[at],
                    };
            }
        }
        Ok(())
    }
}
