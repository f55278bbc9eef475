//! One safetensors file: its tensors, and positioned reads of their data.
//!
//! Not a map: that would count as this process's memory while a model many times larger than that passes through.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use qruntime::Error;
use qruntime::container::{Entry, Header, KEY};

use super::SourceError;

/// An open file of tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    file: File,
}

impl Shard {
    /// Opens a file and returns it with its tensors in the order of their data.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Vec<Entry>), SourceError> {
        let (Header { entries, metadata }, file) = Header::read(&path)?;
        if metadata.contains_key(KEY) {
            // Its packed tensors would pass for plain bytes.
            return Err(SourceError::checkpoint(
                &path,
                "a converted model, expected the checkpoint that one is made from",
            ));
        }
        Ok((Self { path, file }, entries))
    }

    /// Fills `buffer` with the file's bytes from `offset`.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        read_exact_at(&self.file, buffer, offset).map_err(|source| Error::Io { path: self.path.clone(), source }.into())
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
