//! Bytes that stay as they are: a mapped file, or memory of their own in pages of a size to be chosen.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::ops::Deref;
use std::path::Path;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};

use crate::checkpoint::recognize;
use crate::error::Error;

/// In units of what size a processor looks up where memory is. The larger, the fewer look-ups, and the faster memory is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// As the system gives them to memory that asks for nothing.
    Usual,
    /// The smallest, 4 KiB on most systems, even where the usual ones are huge.
    Small,
    /// Huge ones where the system has them: 2 MiB on most.
    Huge,
}

/// Bytes that stay as they are: a mapped file, or memory of their own. They begin at a page, so that offsets in a file are alignments in memory.
pub struct Bytes(Option<Mmap>);

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
        // File systems with large folios then read in units of huge pages, and map them as such.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self(Some(map)))
    }

    /// Reads a file into memory of its own.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let (mut file, len) = open(path)?;
        Self::fill(len, Pages::Huge, |bytes| file.read_exact(bytes)).map_err(Error::io(path))
    }

    /// Copies bytes into pages of a size.
    ///
    /// ```
    /// use qruntime::{Bytes, Pages};
    ///
    /// assert_eq!(*Bytes::copy(&[1, 2, 3], Pages::Huge)?, [1, 2, 3]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the system refuses the memory. That it has no pages of that size is no error: then it gives others.
    pub fn copy(bytes: &[u8], pages: Pages) -> std::io::Result<Self> {
        Self::fill(bytes.len(), pages, |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn fill(len: usize, pages: Pages, fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>) -> std::io::Result<Self> {
        if len == 0 {
            return Ok(Self(None));
        }
        let mut map = MmapMut::map_anon(len)?;
        // Before a page is touched. A system without huge pages says no, and gives plain ones.
        #[cfg(target_os = "linux")]
        let _ = match pages {
            Pages::Usual => Ok(()),
            Pages::Small => map.advise(Advice::NoHugePage),
            Pages::Huge => map.advise(Advice::HugePage),
        };
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
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
    open().map_err(|error: std::io::Error| match recognize::dangling(path) {
        Some(dangling) if error.kind() == ErrorKind::NotFound => dangling.into(),
        _ => Error::io(path)(error),
    })
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}
