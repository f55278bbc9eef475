//! Errors, by who has to act.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io;

/// The result of what can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
///
/// Its `Display` says what, where, what was found and what was expected; what caused it is in
/// [`source`](StdError::source), each cause saying no more than itself. The alternate form, `{:#}`,
/// says the causes, too.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    /// Nothing where the cause speaks for this error.
    message: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// Who has to act on an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system could not read or write a file.
    Io,
    /// The checkpoint is malformed, incomplete, or contradicts itself.
    Source,
    /// The model or network cannot be read, or does not compute.
    Model,
    /// The caller asks for what cannot be: a rule, a limit, an option.
    Request,
    /// The weights have no place in a format: one is not finite, or too large.
    Weights,
    /// The output cannot be put where it is to go.
    Output,
    /// The text, or the file of logits, that a measurement rests on is of no use.
    Text,
    /// The system lacks memory or threads.
    Resources,
    /// The work was cancelled.
    Cancelled,
}

impl ErrorKind {
    /// Returns a short name that stays the same in later versions, for programs and bindings.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Source => "source",
            Self::Model => "model",
            Self::Request => "request",
            Self::Weights => "weights",
            Self::Output => "output",
            Self::Text => "text",
            Self::Resources => "resources",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Error {
    /// Makes an error without a cause.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: Some(message.into()), cause: None }
    }

    /// Makes an error for which its cause speaks.
    pub(crate) fn from_cause(kind: ErrorKind, cause: impl StdError + Send + Sync + 'static) -> Self {
        Self { kind, message: None, cause: Some(Box::new(cause)) }
    }

    /// Returns who has to act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the [`code`](ErrorKind::code) of its kind.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Returns what caused it, with its type, even where it speaks for this error and
    /// [`source`](StdError::source) passes over it.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.cause.as_deref()
    }

    /// Whether it was caused by a pipe that nobody reads any more.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = self.cause.as_deref().map(|cause| cause as _);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<Self>() {
                return error.is_broken_pipe();
            }
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, &self.cause) {
            (Some(message), _) => f.write_str(message),
            (None, Some(cause)) => write!(f, "{cause}"),
            (None, None) => f.write_str(self.code()),
        }?;
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let cause = self.cause.as_deref()?;
        if self.message.is_some() { Some(cause) } else { cause.source() }
    }
}

impl From<qruntime::Error> for Error {
    fn from(error: qruntime::Error) -> Self {
        let kind = match error {
            qruntime::Error::Io { .. } => ErrorKind::Io,
            qruntime::Error::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Model,
        };
        Self::from_cause(kind, error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::from_cause(ErrorKind::Io, error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::from_cause(ErrorKind::Request, error)
    }
}

impl From<kernels::ShapeError> for Error {
    fn from(error: kernels::ShapeError) -> Self {
        Self::from_cause(ErrorKind::Model, error)
    }
}

/// Says of an error, or of what is missing, what could not be done.
pub(crate) trait Context<T> {
    /// Adds a message.
    fn context(self, kind: ErrorKind, message: impl Into<String>) -> Result<T>;

    /// Adds a message that is made only if it is needed.
    fn with_context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for Result<T, E> {
    fn context(self, kind: ErrorKind, message: impl Into<String>) -> Result<T> {
        self.with_context(kind, || message.into())
    }

    fn with_context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error { kind, message: Some(message()), cause: Some(Box::new(cause)) })
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, kind: ErrorKind, message: impl Into<String>) -> Result<T> {
        self.with_context(kind, || message.into())
    }

    fn with_context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.ok_or_else(|| Error::new(kind, message()))
    }
}

/// Says of an error of this crate what could not be done; it keeps its kind.
pub(crate) trait Within<T> {
    /// Adds a message.
    fn within(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Within<T> for Result<T> {
    fn within(self, message: impl FnOnce() -> String) -> Self {
        self.map_err(|error| Error { kind: error.kind, message: Some(message()), cause: Some(Box::new(error)) })
    }
}

/// Returns an error of a kind.
macro_rules! bail {
    ($kind:expr, $($message:tt)+) => {
        return Err($crate::error::Error::new($kind, format!($($message)+)))
    };
}

/// Returns an error of a kind unless a condition holds.
macro_rules! ensure {
    ($kind:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::error::bail!($kind, $($message)+)
        }
    };
}

pub(crate) use {bail, ensure};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once_and_kinds_are_kept() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let alone = Error::from(broken());
        assert_eq!((alone.to_string(), alone.code()), (broken().to_string(), "io"));
        assert!(alone.source().is_none() && alone.is_broken_pipe());
        let cause = alone.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
        assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::BrokenPipe));
        let inner: Result<()> = Err(broken()).context(ErrorKind::Output, "cannot write x");
        let outer = inner.within(|| "no x was made".into()).unwrap_err();
        assert_eq!((outer.to_string(), outer.code()), ("no x was made".into(), "output"));
        assert_eq!(outer.source().map(ToString::to_string), Some("cannot write x".into()));
        assert_eq!(format!("{outer:#}"), format!("no x was made: cannot write x: {}", broken()));
        assert!(outer.is_broken_pipe());
        assert_eq!(Error::from(qruntime::Error::Cancelled).kind(), ErrorKind::Cancelled);
        let missing = None::<()>.context(ErrorKind::Request, "no tensor").unwrap_err();
        assert!(missing.source().is_none() && !missing.is_broken_pipe());
    }
}
