//! The files of an open model, and what is read from them later.

use std::path::Path;
#[cfg(feature = "text")]
use std::sync::OnceLock;

#[cfg(feature = "text")]
use crate::error::Error;
use crate::model_files::ModelFiles;
#[cfg(feature = "text")]
use crate::text::Tokenizer;

/// A model's files, and what is read from them on first use.
pub(crate) struct Folder {
    /// `None` if the model was made from bytes.
    files: Option<ModelFiles>,
    #[cfg(feature = "text")]
    tokenizer: OnceLock<Tokenizer>,
}

impl Folder {
    pub(crate) fn new(files: Option<ModelFiles>) -> Self {
        Self {
            files,
            #[cfg(feature = "text")]
            tokenizer: OnceLock::new(),
        }
    }

    /// Returns the same files; what has been read from them is read again.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.files.clone())
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.files.as_ref().map(ModelFiles::place)
    }

    /// Returns where the model is, for messages.
    pub(crate) fn shown(&self) -> &Path {
        self.path().unwrap_or(Path::new("memory"))
    }

    /// Returns the files, to read one of them.
    #[cfg(feature = "text")]
    pub(crate) fn with(&self, file: &'static str) -> Result<&ModelFiles, Error> {
        self.files.as_ref().ok_or(Error::NoFolder { file })
    }

    /// Returns the model's tokenizer, which the first call opens. If several threads open it at
    /// once, the first result is kept.
    #[cfg(feature = "text")]
    pub(crate) fn tokenizer(
        &self,
        open: impl FnOnce(&ModelFiles) -> Result<Tokenizer, Error>,
    ) -> Result<&Tokenizer, Error> {
        match self.tokenizer.get() {
            Some(tokenizer) => Ok(tokenizer),
            None => open(self.with("tokenizer.json")?).map(|tokenizer| self.tokenizer.get_or_init(|| tokenizer)),
        }
    }
}
