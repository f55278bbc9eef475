//! The folder of a model.

use std::path::{Path, PathBuf};

#[cfg(feature = "text")]
use crate::error::Error;

/// A model's folder, and what is read from it when it is first asked for.
pub(crate) struct Folder {
    /// None if the model was made from bytes.
    path: Option<PathBuf>,
    #[cfg(feature = "text")]
    pub(crate) tokenizer: std::sync::OnceLock<crate::text::Tokenizer>,
}

impl Folder {
    pub(crate) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            #[cfg(feature = "text")]
            tokenizer: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Where the model is, for messages.
    pub(crate) fn shown(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("memory"))
    }

    /// The folder, to read a file from it.
    #[cfg(feature = "text")]
    pub(crate) fn with(&self, file: &'static str) -> Result<&Path, Error> {
        self.path().ok_or(Error::NoFolder { file })
    }
}
