//! One file of tensors, and positioned reads of their data.
//!
//! Not a map: that would count as this process's memory while a model many times larger than that
//! passes through.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use qruntime::Error;

use super::SourceError;
use super::stamp::Stamp;

/// An open file of tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    file: File,
    /// The file as it was opened.
    pub(super) stamp: Stamp,
}

impl Shard {
    /// Takes an open file, which was found at `path`.
    pub(super) fn new(path: PathBuf, file: File) -> Result<Self, SourceError> {
        let stamp = Stamp::of(&path, &file)?;
        Ok(Self { path, file, stamp })
    }

    /// Fills `buffer` with the file's bytes from `offset`, where `tensor` has them.
    pub(super) fn read_at(&self, tensor: &str, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.read(buffer, offset).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                self.cut_off(tensor, offset, buffer.len())
            }
            error => error.into(),
        })
    }

    /// Fills `buffer` with the file's bytes from `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        read_exact_at(&self.file, buffer, offset).map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// The file was whole when it was opened.
    fn cut_off(&self, tensor: &str, offset: u64, len: usize) -> SourceError {
        let now = self.file.metadata().map_or_else(|_| "fewer".into(), |metadata| metadata.len().to_string());
        let problem = format!(
            "cut off while it was read: expected {len} bytes at offset {offset} of a file of {} bytes, which now has \
             {now}",
            self.stamp.len()
        );
        SourceError::checkpoint(&self.path, Some(tensor), problem)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
