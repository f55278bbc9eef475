//! Layers of networks, independent of any model: a [`spec`] describes them, and
//! [`Weights`](weights::Weights) provides their tensors.
//!
//! Slices hold rows of activations one after the other. Every row of every result is computed from
//! its own inputs, in an order that depends on its position alone, never on the rows beside it, the
//! number of threads or the instruction set.

pub(crate) mod attention;
pub(crate) mod batch;
pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod mlp;
pub(crate) mod moe;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod spec;
pub(crate) mod tap;
pub(crate) mod weights;

use std::sync::Mutex;

use kernels::KvFormat;
use ndarray::{ArrayView2, ArrayViewMut2};

use crate::error::{Error, NetworkPart};

/// Most `f32` elements of scratch for one forward pass (1 GiB).
pub(crate) const MAX_PASS_ELEMENTS: usize = 1 << 28;

/// Returns the first `len` elements of a buffer, which grows where it is shorter and keeps its
/// content.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Views elements as rows of `cols`.
pub(crate) fn rows(elements: &[f32], cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((elements.len() / cols, cols), elements).expect("whole rows")
}

/// Views elements as rows of `cols`, to be written.
pub(crate) fn rows_mut(elements: &mut [f32], cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((elements.len() / cols, cols), elements).expect("whole rows")
}

/// Copies the rows of several sequences into one buffer, one sequence after the other.
pub(crate) fn gather(rows: &[&mut [f32]], mut to: &mut [f32]) {
    for rows in rows {
        let (start, rest) = to.split_at_mut(rows.len());
        start.copy_from_slice(rows);
        to = rest;
    }
}

/// Copies the rows of several sequences back from the buffer that [`gather`] filled.
pub(crate) fn scatter(mut from: &[f32], rows: &mut [&mut [f32]]) {
    for rows in rows {
        let (start, rest) = from.split_at(rows.len());
        rows.copy_from_slice(start);
        from = rest;
    }
}

/// Returns the largest magnitude of some elements. Infinity exceeds all finite ones, and NaN
/// exceeds infinity.
pub(crate) fn largest(elements: &[f32]) -> f32 {
    // Without their sign bits, floats are ordered as integers are.
    f32::from_bits(elements.iter().fold(0, |largest, x| (x.to_bits() & !(1 << 31)).max(largest)))
}

/// Returns the part of a network before a layer, or the last layer.
pub(crate) fn after(layers: usize) -> NetworkPart {
    layers.checked_sub(1).map_or(NetworkPart::Embedding, NetworkPart::Layer)
}

/// Makes the error of a layer with a key or value of magnitude `found`, which cannot be stored. `x`
/// is the input of the layer.
pub(crate) fn beyond_range(layer: usize, found: f32, x: &[f32], alternative: Option<KvFormat>) -> Error {
    match (found.is_finite(), largest(x).is_finite()) {
        (true, _) => Error::CacheRange { layer, found, alternative },
        (false, true) => Error::NotFinite { part: NetworkPart::Layer(layer) },
        (false, false) => Error::NotFinite { part: after(layer) },
    }
}

/// A pool of scratch memory for reuse by later calls: as many pieces as there were concurrent
/// calls.
#[derive(Default)]
pub(crate) struct Spare<T>(Mutex<Vec<T>>);

impl<T: Default> Spare<T> {
    /// Runs `work` with scratch memory that no other call uses.
    pub(crate) fn lend<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let spare = || self.0.lock().expect("nothing panics that holds it");
        let mut state = spare().pop().unwrap_or_default();
        let result = work(&mut state);
        spare().push(state);
        result
    }
}
