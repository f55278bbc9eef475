//! Layers of networks, which know no model: what they consist of comes from a [`spec`], their tensors from [`Weights`](weights::Weights).
//!
//! Rows of activations lie one after the other in slices. Every row of every result is computed from its own inputs, in an order that depends on its
//! position alone: never on the rows beside it, the number of threads or the instruction set.

pub(crate) mod attention;
pub(crate) mod batch;
pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod mlp;
pub(crate) mod moe;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod spec;
pub(crate) mod weights;

use std::sync::Mutex;

use ndarray::{ArrayView2, ArrayViewMut2};

/// Numbers that rows may take which go through a network together, in all.
pub(crate) const NUMBERS: usize = 1 << 28;

/// The first `len` numbers of a buffer that grows as it must, and keeps what it has.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Numbers as rows of `cols`.
pub(crate) fn rows(numbers: &[f32], cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((numbers.len() / cols, cols), numbers).expect("whole rows")
}

/// Numbers as rows of `cols`, to be written.
pub(crate) fn rows_mut(numbers: &mut [f32], cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((numbers.len() / cols, cols), numbers).expect("whole rows")
}

/// Memory of calls that are over, for those to come: as many as there were calls at one time.
#[derive(Default)]
pub(crate) struct Spare<T>(Mutex<Vec<T>>);

impl<T: Default> Spare<T> {
    /// Does `work` with memory that no other call has.
    pub(crate) fn lend<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let spare = || self.0.lock().expect("nothing panics that holds it");
        let mut state = spare().pop().unwrap_or_default();
        let result = work(&mut state);
        spare().push(state);
        result
    }
}
