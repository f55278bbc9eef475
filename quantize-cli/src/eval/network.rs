//! Models of either kind, and the bits that they take.

use std::path::Path;

use anyhow::Result;
use qruntime::{CausalLm, Encoder, Error, FileErrorKind, Model};
use serde::Serialize;

use crate::plan::role::is_vocabulary;

/// A network that can be evaluated.
#[derive(Debug)]
pub enum Network {
    /// One that says what comes next.
    Lm(CausalLm),
    /// One that makes vectors of texts.
    Encoder(Encoder),
}

impl Network {
    /// Maps the network in a folder, whichever its kind is.
    ///
    /// # Safety
    /// That of [`Model::map`]: nobody changes or truncates the files while the network lives.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a family that is not known.
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: &Path) -> Result<Self> {
        // SAFETY: the caller makes the promise.
        match unsafe { CausalLm::map(path) } {
            Ok(lm) => Ok(Self::Lm(lm)),
            // Perhaps it is not a language model. If it is nothing else either, the modules beside
            // it tell which of the two complaints is of use.
            Err(Error::File(error)) if error.kind() == FileErrorKind::Network => {
                // SAFETY: as above.
                match unsafe { Encoder::map(path) } {
                    Ok(encoder) => Ok(Self::Encoder(encoder)),
                    Err(error) if path.join("modules.json").exists() => Err(error.into()),
                    Err(_) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Its tensors.
    #[must_use]
    pub fn model(&self) -> &Model {
        match self {
            Self::Lm(lm) => lm.model(),
            Self::Encoder(encoder) => encoder.model(),
        }
    }
}

/// What weights take.
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
    /// Of a model.
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
