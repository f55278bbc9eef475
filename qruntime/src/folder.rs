//! The folder of a model.

use std::path::{Path, PathBuf};

/// A model's folder, and what is read from it when it is first asked for.
pub(crate) struct Folder {
    path: PathBuf,
    #[cfg(feature = "text")]
    pub(crate) tokenizer: std::sync::OnceLock<crate::text::Tokenizer>,
}

impl Folder {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            #[cfg(feature = "text")]
            tokenizer: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
