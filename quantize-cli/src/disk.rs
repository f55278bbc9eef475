//! The disk under outputs: room before they are written, and that they are there afterwards.

use std::fs::File;
use std::path::Path;

use crate::error::{Context, ErrorKind, Result, ensure};
use crate::report::{bytes, quoted};

/// Flushes a file's or folder's changes to the disk.
pub(crate) fn synchronize(path: &Path) -> Result<()> {
    let flushed = File::open(path).and_then(|file| file.sync_all());
    flushed.with_context(ErrorKind::Output, || format!("cannot synchronize {}", quoted(path)))
}

/// Refuses to begin what would fill the disk: `needed` bytes in `folder`.
pub(crate) fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let free = free_space(folder).unwrap_or(u64::MAX);
    ensure!(
        ErrorKind::Output,
        needed <= free,
        "{} needs {} of free disk space, and {} are free",
        quoted(folder),
        bytes(needed),
        bytes(free)
    );
    Ok(())
}

/// Returns the bytes that may still be written to a folder's file system, if it says so.
#[cfg(unix)]
fn free_space(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // Some file systems that are served by a program know no sizes.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}
