//! The folder of a model.

use std::path::{Path, PathBuf};
#[cfg(feature = "text")]
use std::sync::OnceLock;

#[cfg(feature = "text")]
use crate::error::Error;
#[cfg(feature = "text")]
use crate::text::Tokenizer;

/// A model's folder, and what is read from it on first use.
pub(crate) struct Folder {
    /// `None` if the model was made from bytes.
    path: Option<PathBuf>,
    #[cfg(feature = "text")]
    tokenizer: OnceLock<Tokenizer>,
}

impl Folder {
    pub(crate) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            #[cfg(feature = "text")]
            tokenizer: OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns where the model is, for messages.
    pub(crate) fn shown(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("memory"))
    }

    /// Returns the folder, to read a file from it.
    #[cfg(feature = "text")]
    pub(crate) fn with(&self, file: &'static str) -> Result<&Path, Error> {
        self.path().ok_or(Error::NoFolder { file })
    }

    /// Returns the tokenizer in the folder, which the first call opens. If several threads open it
    /// at once, the first result is kept.
    #[cfg(feature = "text")]
    pub(crate) fn tokenizer(&self, open: impl FnOnce(&Path) -> Result<Tokenizer, Error>) -> Result<&Tokenizer, Error> {
        match self.tokenizer.get() {
            Some(tokenizer) => Ok(tokenizer),
            None => open(self.with("tokenizer.json")?).map(|tokenizer| self.tokenizer.get_or_init(|| tokenizer)),
        }
    }
}

/// Returns where `config.json` and its companions are: in the folder, or beside the file.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !path.is_dir() => parent.into(),
        _ => path.into(),
    }
}
