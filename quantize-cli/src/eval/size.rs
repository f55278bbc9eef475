//! The bits that a model's weights take.

use qruntime::Model;
use serde::Serialize;

use crate::plan::role::is_vocabulary;

/// The bytes that weights take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Bits for each weight of the file, headers included.
    pub bits_per_weight: f64,
    /// Bits for each weight of the layers: without token embeddings and output head, which are most
    /// of a small model, and seldom as small.
    pub layer_bits_per_weight: f64,
}

impl Size {
    /// Returns the size of a model.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let (mut all, mut layers, mut layer_bytes) = (0, 0, 0);
        for entry in model.tensors() {
            all += entry.elements();
            if !is_vocabulary(entry.name()) {
                layers += entry.elements();
                layer_bytes += entry.bytes();
            }
        }
        Self {
            file_bytes: model.file_bytes(),
            bits_per_weight: 8.0 * model.file_bytes() as f64 / all.max(1) as f64,
            layer_bits_per_weight: 8.0 * layer_bytes as f64 / layers.max(1) as f64,
        }
    }
}
