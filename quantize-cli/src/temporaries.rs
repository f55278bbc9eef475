//! The temporary files and folders that are there: what has to be removed when the program ends
//! before it has given them their places.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The paths that are removed when a signal ends the program.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Makes a temporary file or folder. Until [`release`] or [`forget`] it is removed if a signal ends
/// the program.
///
/// # Errors
/// Those of `make`; nothing is registered then.
pub(crate) fn create<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    // Under the lock: never made and not yet registered when a signal ends the program.
    let mut temporaries = temporaries();
    let made = make(path)?;
    temporaries.insert(std::path::absolute(path)?);
    Ok(made)
}

/// Gives a temporary file or folder its place by `place`, after which it is temporary no more.
///
/// # Errors
/// Those of `place`; it stays registered then.
pub(crate) fn release<T, E>(path: &Path, place: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    release_if(path, place, Result::is_ok)
}

/// Does something to a temporary file or folder, which is temporary no more if `stays` says so of
/// what came of it. No signal removes anything meanwhile.
pub(crate) fn release_if<T>(path: &Path, act: impl FnOnce() -> T, stays: impl FnOnce(&T) -> bool) -> T {
    // Under the lock: what is in its place is not removed any more.
    let mut temporaries = temporaries();
    let done = act();
    if stays(&done)
        && let Ok(path) = std::path::absolute(path)
    {
        temporaries.remove(&path);
    }
    done
}

/// Whether a signal that came now would remove `path`, and `so` is the case of it.
#[cfg(test)]
pub(crate) fn with_temporary(path: &Path, so: impl FnOnce() -> bool) -> bool {
    temporaries().contains(path) && so()
}

/// Strikes a temporary file or folder off, which was removed.
pub(crate) fn forget(path: &Path) {
    let forgotten: Result<(), ()> = release(path, || Ok(()));
    debug_assert!(forgotten.is_ok(), "nothing that can fail");
}

/// Removes all of them. Nothing is made or put in its place any more.
#[cfg(feature = "cli")]
pub(crate) fn remove_all() {
    let temporaries = temporaries();
    temporaries.iter().for_each(|path| remove(path));
    std::mem::forget(temporaries);
}

/// Removes a file or a folder, into which other threads may still be writing.
#[cfg(feature = "cli")]
fn remove(path: &Path) {
    for _ in 0..100 {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}
