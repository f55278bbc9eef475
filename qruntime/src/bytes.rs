//! The bytes of a file, mapped or read.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

use crate::error::Error;

/// The bytes of a file in memory that begins at a page, so that offsets in the file are alignments in memory.
pub(crate) struct Bytes(Option<Mmap>);

impl Bytes {
    /// Maps a file.
    ///
    /// # Safety
    /// As for [`Model::map`](crate::Model::map): nobody changes or truncates the file while the map lives.
    #[expect(unsafe_code, reason = "a memory map")]
    pub(crate) unsafe fn map(path: &Path) -> Result<Self, Error> {
        let (file, len) = open(path)?;
        if len == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the caller promises what `Mmap::map` asks for.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self(Some(map)))
    }

    /// Reads a file into memory of its own.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let (mut file, len) = open(path)?;
        Self::fill(len, |bytes| file.read_exact(bytes)).map_err(Error::io(path))
    }

    /// Copies bytes that are already in memory.
    pub(crate) fn copy(bytes: &[u8]) -> std::io::Result<Self> {
        Self::fill(bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn fill(len: usize, fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>) -> std::io::Result<Self> {
        if len == 0 {
            return Ok(Self(None));
        }
        let mut map = MmapMut::map_anon(len)?;
        fill(&mut map)?;
        Ok(Self(Some(map.make_read_only()?)))
    }
}

/// Opens an ordinary file and says how long it is: a pipe or a device has no length to trust.
pub(crate) fn open(path: &Path) -> Result<(File, usize), Error> {
    // Asked before the file is opened, too: opening a pipe would wait for someone to write into it.
    let ordinary = |metadata: Metadata| {
        let len = usize::try_from(metadata.len()).ok().filter(|_| metadata.is_file());
        len.ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidInput, "not an ordinary file that fits the address space")
        })
    };
    let open = || {
        ordinary(std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        let len = ordinary(file.metadata()?)?;
        Ok((file, len))
    };
    open().map_err(Error::io(path))
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
