//! Whether a file is still what it was when it was opened.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use qruntime::Error;

use super::SourceError;

/// A file at one moment.
#[derive(Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    len: u64,
    /// Where the file system knows.
    modified: Option<SystemTime>,
    identity: Option<(u64, u64)>,
}

impl Stamp {
    /// Remembers an open file. `path` is where it was found.
    pub(super) fn of(path: &Path, file: &File) -> Result<Self, SourceError> {
        Self::new(path, file.metadata())
    }

    /// Remembers the file at `path`.
    pub(super) fn at(path: &Path) -> Result<Self, SourceError> {
        Self::new(path, fs::metadata(path))
    }

    fn new(path: &Path, metadata: io::Result<Metadata>) -> Result<Self, SourceError> {
        let metadata = metadata.map_err(|source| Error::Io { path: path.into(), source })?;
        Ok(Self { path: path.into(), state: State::of(&metadata) })
    }

    /// Bytes that the file had.
    pub(super) fn len(&self) -> u64 {
        self.state.len
    }

    /// Refuses a file that was written to or replaced since.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let now = Self::at(&self.path)?.state;
        let problem = match &now {
            now if *now == self.state => return Ok(()),
            now if now.len != self.state.len => format!("had {} bytes and now has {}", self.state.len, now.len),
            now if now.identity != self.state.identity => "was replaced by another file".into(),
            _ => "was written to".into(),
        };
        let problem = format!("{problem} while it was read: convert again when nothing writes to the source");
        Err(SourceError::checkpoint(&self.path, None, problem))
    }
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        Self { len: metadata.len(), modified: metadata.modified().ok(), identity }
    }
}
