//! Errors of reading a checkpoint, by who has to act.

use std::fmt;
use std::path::{Path, PathBuf};

use qruntime::Error;

/// Why a checkpoint cannot be read.
///
/// Its `Display` names the file, the tensor where there is one, what was found and what was
/// expected; the operating system's own words are in [`source`](std::error::Error::source).
#[derive(Debug)]
pub struct SourceError(Cause);

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
    /// The files as such, as the runtime finds and reads them.
    Files(Error),
    /// What only a converter asks of them.
    Refused { kind: SourceErrorKind, path: PathBuf, tensor: Option<String>, problem: String },
}

impl SourceError {
    pub(super) fn checkpoint(path: &Path, tensor: Option<&str>, problem: impl Into<String>) -> Self {
        Self::refused(SourceErrorKind::Checkpoint, path, tensor, problem.into())
    }

    pub(super) fn request(path: &Path, tensor: Option<&str>, problem: impl Into<String>) -> Self {
        Self::refused(SourceErrorKind::Request, path, tensor, problem.into())
    }

    fn refused(kind: SourceErrorKind, path: &Path, tensor: Option<&str>, problem: String) -> Self {
        Self(Cause::Refused { kind, path: path.into(), tensor: tensor.map(str::to_owned), problem })
    }

    /// Who caused it.
    pub fn kind(&self) -> SourceErrorKind {
        match &self.0 {
            Cause::Files(Error::Io { .. }) => SourceErrorKind::Io,
            Cause::Files(_) => SourceErrorKind::Checkpoint,
            Cause::Refused { kind, .. } => *kind,
        }
    }

    /// The file or folder it happened in.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Cause::Files(Error::Io { path, .. }) | Cause::Refused { path, .. } => Some(path),
            Cause::Files(Error::File(error)) => error.path(),
            Cause::Files(_) => None,
        }
    }

    /// The tensor it happened at, if at one.
    pub fn tensor(&self) -> Option<&str> {
        match &self.0 {
            Cause::Files(Error::File(error)) => error.tensor_name(),
            Cause::Files(_) => None,
            Cause::Refused { tensor, .. } => tensor.as_deref(),
        }
    }
}

impl From<Error> for SourceError {
    fn from(error: Error) -> Self {
        Self(Cause::Files(error))
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Files(error) => error.fmt(f),
            Cause::Refused { path, tensor, problem, .. } => {
                // Debug, because names of files and tensors may come from a hostile file: it quotes
                // and escapes.
                write!(f, "{path:?}: ")?;
                if let Some(tensor) = tensor {
                    write!(f, "tensor {tensor:?}: ")?;
                }
                f.write_str(problem)
            }
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            // It speaks for this error, so what caused it comes next.
            Cause::Files(error) => error.source(),
            Cause::Refused { .. } => None,
        }
    }
}

impl From<SourceError> for crate::error::Error {
    fn from(error: SourceError) -> Self {
        use crate::error::ErrorKind;

        let kind = match error.kind() {
            SourceErrorKind::Io => ErrorKind::Io,
            SourceErrorKind::Checkpoint => ErrorKind::Source,
            SourceErrorKind::Request => ErrorKind::Request,
        };
        Self::from_cause(kind, error)
    }
}
