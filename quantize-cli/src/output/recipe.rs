//! The recipe: a model's own account of how it was made.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::plan::Plan;
use crate::source::Source;

/// A model's own account of how it was made, and the room that it has for more.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    fields: Value,
    room: usize,
}

impl Recipe {
    /// Describes a conversion. `companions` are the files that are put beside the model, relative
    /// to its folder.
    #[must_use]
    pub fn new(source: &dyn Source, plan: &Plan, companions: &[PathBuf]) -> Self {
        let mut fields = json!({
            "created_by": concat!("quantize ", env!("CARGO_PKG_VERSION")),
            "to": plan.to.name(),
            "rounding": plan.rounding,
            "rules": plan.rules,
            "source": {"tensors": source.tensors().len(), "bytes": source.total_bytes()},
        });
        if !companions.is_empty() {
            // With `--force` these files of the folder may be replaced, and no others.
            fields["companions"] = companions.iter().map(|path| path.to_string_lossy()).collect();
        }
        Self { fields, room: 0 }
    }

    /// Keeps so many bytes free in the file, for figures that are measured with the model.
    #[must_use]
    pub fn with_room(self, room: usize) -> Self {
        Self { room, ..self }
    }

    /// Adds what was measured with the model.
    #[must_use]
    pub fn with_evaluation(mut self, evaluation: Value) -> Self {
        self.fields["evaluation"] = evaluation;
        self
    }

    /// Returns it as the file has it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.fields.clone()
    }

    /// Returns the bytes that are kept free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }
}
