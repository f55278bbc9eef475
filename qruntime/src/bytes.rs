//! Immutable bytes: a mapped file, or owned memory in pages of a chosen size.

use std::fmt;
#[cfg(any(test, miri, not(any(unix, windows))))]
use std::io::ErrorKind;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;

use crate::error::Error;
use crate::files::open;

/// The page size of a piece of memory. With larger pages, the processor looks up fewer addresses
/// and reads memory faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The system's default.
    Usual,
    /// The smallest, 4 KiB on most systems, even where the default is huge.
    Small,
    /// Huge pages where the system has them, 2 MiB on most.
    Huge,
}

/// Immutable bytes: a mapped file, or owned memory. They begin at a page boundary, so an offset in
/// a file has the same alignment in memory; on systems without pages (WebAssembly), they begin at a
/// multiple of 64.
pub struct Bytes(Memory);

enum Memory {
    /// `None` for an empty file, which cannot be mapped.
    Mapped(Option<Mmap>),
    #[cfg(any(test, miri, not(any(unix, windows))))]
    Aligned(Aligned),
}

/// Memory that begins at a multiple of 64 bytes, for systems that cannot map.
#[cfg(any(test, miri, not(any(unix, windows))))]
struct Aligned {
    memory: Vec<u8>,
    range: std::ops::Range<usize>,
}

#[cfg(any(test, miri, not(any(unix, windows))))]
impl Aligned {
    fn fill(len: usize, fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>) -> std::io::Result<Self> {
        const ALIGNMENT: usize = 64;
        let mut memory = Vec::new();
        let size = len.checked_add(ALIGNMENT).ok_or(ErrorKind::OutOfMemory)?;
        memory.try_reserve_exact(size).map_err(|_| ErrorKind::OutOfMemory)?;
        memory.resize(size, 0);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let range = start..start + len;
        fill(&mut memory[range.clone()])?;
        Ok(Self { memory, range })
    }
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Safety
    /// As for [`Model::map`](crate::Model::map): nobody changes or truncates the file while the map
    /// lives.
    #[expect(unsafe_code, reason = "a memory map")]
    pub(crate) unsafe fn map(path: &Path) -> Result<Self, Error> {
        let (file, len) = open(path)?;
        if len == 0 {
            return Ok(Self(Memory::Mapped(None)));
        }
        // SAFETY: the caller promises what `Mmap::map` asks for.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        // File systems with large folios then read in units of huge pages, and map them as such.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self(Memory::Mapped(Some(map))))
    }

    /// Reads a file into owned memory.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let (mut file, len) = open(path)?;
        Self::fill(len, Pages::Huge, |bytes| file.read_exact(bytes)).map_err(Error::io(path))
    }

    /// Copies bytes into pages of the given size.
    ///
    /// ```
    /// use qruntime::{Bytes, Pages};
    ///
    /// assert_eq!(*Bytes::copy(&[1, 2, 3], Pages::Huge)?, [1, 2, 3]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the system refuses the memory. If it has no pages of that size, it provides others; this
    /// is not an error.
    pub fn copy(bytes: &[u8], pages: Pages) -> std::io::Result<Self> {
        Self::fill(bytes.len(), pages, |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    #[cfg(all(any(unix, windows), not(miri)))]
    pub(crate) fn fill(
        len: usize,
        pages: Pages,
        fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>,
    ) -> std::io::Result<Self> {
        if len == 0 {
            return Ok(Self(Memory::Mapped(None)));
        }
        let mut map = memmap2::MmapMut::map_anon(len)?;
        // Advise before a page is touched. A system without huge pages refuses and provides plain
        // ones.
        #[cfg(target_os = "linux")]
        let _ = match pages {
            Pages::Usual => Ok(()),
            Pages::Small => map.advise(Advice::NoHugePage),
            Pages::Huge => map.advise(Advice::HugePage),
        };
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        fill(&mut map)?;
        Ok(Self(Memory::Mapped(Some(map.make_read_only()?))))
    }

    #[cfg(not(all(any(unix, windows), not(miri))))]
    pub(crate) fn fill(
        len: usize,
        _: Pages,
        fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>,
    ) -> std::io::Result<Self> {
        Ok(Self(Memory::Aligned(Aligned::fill(len, fill)?)))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Mapped(map) => map.as_deref().unwrap_or_default(),
            #[cfg(any(test, miri, not(any(unix, windows))))]
            Memory::Aligned(Aligned { memory, range }) => &memory[range.clone()],
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests the memory used on systems without pages.
    #[test]
    fn memory_that_is_not_mapped_is_aligned() {
        for len in [0, 1, 63, 64, 1000] {
            let aligned = Aligned::fill(len, |bytes| {
                bytes.fill(7);
                Ok(())
            });
            let bytes = Bytes(Memory::Aligned(aligned.unwrap()));
            assert_eq!(*bytes, vec![7; len]);
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
        }
        assert!(Aligned::fill(usize::MAX, |_| Ok(())).is_err());
    }
}
