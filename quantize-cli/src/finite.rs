//! Finds elements that are NaN or infinite: a single one in a kept tensor makes every answer of a
//! model NaN.
//!
//! Packing refuses them anyway. Here are the tensors that are kept. Masks, which are added to
//! scores, may hold minus infinity, which means "not seen", and nothing else that is not finite.

use half::{bf16, f16};
use qruntime::first_not_finite;

use crate::plan::role::is_mask;
use crate::source::Dtype;

/// Returns what is wrong with a part of a kept tensor whose first element has the position `start`:
/// where the first NaN or infinity is that it must not have.
pub(crate) fn complaint(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8], start: usize) -> Option<String> {
    let value = |i: usize| -> f64 {
        match dtype {
            Dtype::F64 => f64::from_le_bytes(bytes.as_chunks().0[i]),
            Dtype::F32 => f32::from_le_bytes(bytes.as_chunks().0[i]).into(),
            Dtype::F16 => f16::from_le_bytes(bytes.as_chunks().0[i]).into(),
            _ => bf16::from_le_bytes(bytes.as_chunks().0[i]).into(),
        }
    };
    let mut i = first_not_finite(dtype, bytes)?;
    if is_mask(name) {
        let is_wrong = |&i: &usize| !value(i).is_finite() && value(i) != f64::NEG_INFINITY;
        i = (i..8 * bytes.len() / dtype.bitsize()).find(is_wrong)?;
    }
    Some(at(shape, start + i, value(i)))
}

/// Says what an element is, and where in a tensor.
pub(crate) fn at(shape: &[usize], mut position: usize, value: f64) -> String {
    let mut indices = vec![];
    for &size in shape.iter().rev() {
        indices.insert(0, position % size.max(1));
        position /= size.max(1);
    }
    format!("element {indices:?} is {value}")
}
