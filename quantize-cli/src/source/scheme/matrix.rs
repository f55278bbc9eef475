//! What schemes of codes share: matrices that are decoded by whole rows.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Composed, Raw};
use crate::source::SourceError;

/// The values of the codes of E2M1, a float of 4 bits.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A weight, seen as a matrix, whose rows are decoded one by one.
pub(super) trait Matrix: fmt::Debug + Send + Sync {
    /// Returns the number of columns.
    fn cols(&self) -> usize;

    /// Decodes rows into `out`, which is as long as they are.
    fn decode(&self, raw: &dyn Raw, rows: Range<usize>, out: &mut [f32]) -> Result<(), SourceError>;
}

/// Reads any elements of a [`Matrix`].
#[derive(Debug)]
pub(super) struct ByRows<M>(pub(super) M);

impl<M: Matrix> Composed for ByRows<M> {
    fn read_f32(&self, raw: &dyn Raw, elements: Range<usize>, mut out: &mut [f32]) -> Result<(), SourceError> {
        let cols = self.0.cols();
        let mut start = elements.start;
        while !out.is_empty() {
            let (row, col) = (start / cols, start % cols);
            let taken = if col == 0 && out.len() >= cols {
                let rows = out.len() / cols;
                self.0.decode(raw, row..row + rows, &mut out[..rows * cols])?;
                rows * cols
            } else {
                let mut whole = vec![0.0; cols];
                self.0.decode(raw, row..row + 1, &mut whole)?;
                let taken = (cols - col).min(out.len());
                out[..taken].copy_from_slice(&whole[col..col + taken]);
                taken
            };
            out = &mut out[taken..];
            start += taken;
        }
        Ok(())
    }
}

/// The raw tensors that were read as a whole last: those of two or three layers.
///
/// Schemes that store matrices by columns need all of a tensor for a few rows.
#[derive(Debug, Default)]
pub(super) struct Whole {
    bytes: Recent<u8>,
    floats: Recent<f32>,
}

impl Whole {
    /// Returns the bytes of a raw tensor.
    pub(super) fn bytes(&self, raw: &dyn Raw, tensor: usize) -> Result<Arc<Vec<u8>>, SourceError> {
        self.bytes.get(tensor, || {
            let mut bytes = vec![0; raw.tensors()[tensor].bytes()];
            raw.read_bytes(tensor, 0..bytes.len(), &mut bytes)?;
            Ok(bytes)
        })
    }

    /// Returns the elements of a raw tensor.
    pub(super) fn floats(&self, raw: &dyn Raw, tensor: usize) -> Result<Arc<Vec<f32>>, SourceError> {
        self.floats.get(tensor, || floats(raw, tensor, 0..raw.tensors()[tensor].elements()))
    }
}

/// The values that were asked for last, each with its tensor.
#[derive(Debug)]
struct Recent<T>(Mutex<VecDeque<(usize, Arc<Vec<T>>)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Recent<T> {
    /// The codes and zero points of three layers.
    const MOST: usize = 6;

    /// Returns what is known of a tensor, or else reads it; other threads wait meanwhile.
    fn get(
        &self,
        tensor: usize,
        read: impl FnOnce() -> Result<Vec<T>, SourceError>,
    ) -> Result<Arc<Vec<T>>, SourceError> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = recent.iter().find(|(known, _)| *known == tensor) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(read()?);
        recent.truncate(Self::MOST - 1);
        recent.push_front((tensor, Arc::clone(&found)));
        Ok(found)
    }
}

/// Reads elements of a raw tensor.
pub(super) fn floats(raw: &dyn Raw, tensor: usize, elements: Range<usize>) -> Result<Vec<f32>, SourceError> {
    let mut out = vec![0.0; elements.len()];
    raw.read_f32(tensor, elements, &mut out, &mut |_, _| {})?;
    Ok(out)
}

/// Reads a raw tensor of 32-bit integers, all of which must be below `count`.
pub(super) fn groups_of_columns(raw: &dyn Raw, tensor: usize, count: usize) -> Result<Vec<u32>, SourceError> {
    let mut bytes = vec![0; raw.tensors()[tensor].bytes()];
    raw.read_bytes(tensor, 0..bytes.len(), &mut bytes)?;
    let groups: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    match groups.iter().position(|&group| group as usize >= count) {
        Some(col) => {
            let found = groups[col].cast_signed();
            Err(raw.refused(tensor, format!("column {col} is of group {found}, expected one of {count} groups")))
        }
        None => Ok(groups),
    }
}

/// Returns code `index` of a little-endian stream of codes of up to 8 bits.
#[inline]
pub(super) fn code(stream: &[u8], index: usize, bits: usize) -> u8 {
    let at = index * bits;
    let low = u16::from(stream[at / 8]);
    let high = stream.get(at / 8 + 1).map_or(0, |&byte| u16::from(byte) << 8);
    ((low | high) >> (at % 8)) as u8 & (u8::MAX >> (8 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_any_width_are_a_little_endian_stream() {
        for bits in 2..=8 {
            let codes: Vec<u8> = (0..64).map(|i: u8| i.wrapping_mul(37) & (u8::MAX >> (8 - bits))).collect();
            let mut stream = vec![0u8; 64 * bits / 8];
            for (i, code) in codes.iter().enumerate() {
                for bit in (0..bits).filter(|bit| code >> bit & 1 == 1) {
                    stream[(i * bits + bit) / 8] |= 1 << ((i * bits + bit) % 8);
                }
            }
            let found: Vec<u8> = (0..64).map(|i| code(&stream, i, bits)).collect();
            assert_eq!(found, codes, "{bits} bits");
        }
    }
}
