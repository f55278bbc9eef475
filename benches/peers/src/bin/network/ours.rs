//! Our own network, as applications call it.

use std::path::Path;

use anyhow::Result;
use qruntime::{CausalLm, Session, SessionOptions};

use crate::Network;

/// A session of a model.
pub(crate) struct Ours(Session);

impl Ours {
    /// With the weights in memory of its own.
    pub(crate) fn open(folder: &Path, context: usize) -> Result<Self> {
        Ok(Self::new(&CausalLm::open(folder)?, context))
    }

    /// With the weights mapped.
    #[expect(unsafe_code, reason = "mapping a file is the caller's responsibility")]
    pub(crate) fn map(folder: &Path, context: usize) -> Result<Self> {
        // SAFETY: whoever runs this leaves the files alone meanwhile.
        let model = unsafe { CausalLm::map(folder)? };
        Ok(Self::new(&model, context))
    }

    fn new(model: &CausalLm, context: usize) -> Self {
        Self(model.session_with(SessionOptions::default().context(context)))
    }
}

impl Network for Ours {
    fn reset(&mut self) {
        self.0.rewind(0);
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        Ok(self.0.feed(tokens)?.to_vec())
    }
}
