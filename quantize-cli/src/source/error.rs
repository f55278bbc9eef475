//! What can go wrong when a checkpoint is read, by who has to act.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be read.
///
/// Its `Display` names the file, the tensor where there is one, what was found and what was expected; the operating
/// system's or the JSON parser's own words are in [`source`](std::error::Error::source).
#[derive(Debug)]
pub struct SourceError {
    path: PathBuf,
    tensor: Option<String>,
    cause: Cause,
}

/// Who caused a [`SourceError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The operating system: a file cannot be opened or read.
    Io,
    /// The checkpoint: it is malformed, incomplete or contradicts itself.
    Checkpoint,
    /// The caller: a range or a conversion the tensor does not have.
    Request,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Json(serde_json::Error),
    Checkpoint(String),
    Request(String),
}

impl SourceError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self { path: path.to_path_buf(), tensor: None, cause: Cause::Io(error) }
    }

    pub(super) fn json(path: &Path, error: serde_json::Error) -> Self {
        Self { path: path.to_path_buf(), tensor: None, cause: Cause::Json(error) }
    }

    pub(super) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), tensor: None, cause: Cause::Checkpoint(problem.into()) }
    }

    pub(super) fn request(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), tensor: None, cause: Cause::Request(problem.into()) }
    }

    /// The same error, told of this tensor.
    pub(super) fn of_tensor(self, name: &str) -> Self {
        Self { tensor: Some(name.to_owned()), ..self }
    }

    /// Who caused it.
    pub fn kind(&self) -> SourceErrorKind {
        match self.cause {
            Cause::Io(_) => SourceErrorKind::Io,
            Cause::Json(_) | Cause::Checkpoint(_) => SourceErrorKind::Checkpoint,
            Cause::Request(_) => SourceErrorKind::Request,
        }
    }

    /// The file or folder it happened in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor it happened at, if at one.
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug, because names of files and tensors may come from a hostile file: it quotes and escapes.
        write!(f, "{:?}: ", self.path)?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}: ")?;
        }
        match &self.cause {
            Cause::Io(_) => f.write_str("cannot be read"),
            Cause::Json(_) => f.write_str("not the JSON that is expected here"),
            Cause::Checkpoint(problem) | Cause::Request(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            Cause::Json(error) => Some(error),
            Cause::Checkpoint(_) | Cause::Request(_) => None,
        }
    }
}
