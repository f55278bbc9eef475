//! Leftovers of killed programs beside an output: found by their names, told from work in progress
//! by their locks, and removed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::check::{behind_link, check_replaceable, file_name, parent};
use super::panels::companions_of;
use crate::error::{Context, ErrorKind, Result, bail, ensure};
use crate::report::quoted;
use crate::source::is_written;

/// Removes what killed programs left beside `destination`, and puts back the output that one of
/// them had put aside. What holds anything that this program did not write stays. Returns a
/// sentence for each.
///
/// # Errors
/// If an output cannot be put back.
pub fn sweep(destination: &Path) -> Result<Vec<String>> {
    let destination = &behind_link(destination)?;
    let name = file_name(destination)?;
    let mut told = vec![];
    for (path, kind, _lock) in abandoned(destination)? {
        let old = path.join(name);
        if kind == "old" && fs::symlink_metadata(&old).is_ok() && fs::symlink_metadata(destination).is_err() {
            fs::rename(&old, destination).with_context(ErrorKind::Output, || {
                format!("{} is the old output, which cannot be put back", quoted(&old))
            })?;
            told.push(format!("put {} back, which an interrupted run had put aside", quoted(destination)));
        }
        if let Err(error) = check_leftover(&path, kind, name) {
            told.push(format!("left {}, which an interrupted run had left: {error:#}", quoted(&path)));
        } else if remove(&path).is_ok() && kind == "partial" {
            told.push(format!("removed {}, which an interrupted run had left", quoted(&path)));
        }
    }
    Ok(told)
}

/// Refuses an output that [`sweep`] would put back, as
/// [`check_destination`](super::check_destination) would then. Writes nothing.
pub fn check_aside(destination: &Path, replace: bool) -> Result<()> {
    let destination = &behind_link(destination)?;
    if fs::symlink_metadata(destination).is_ok() {
        return Ok(());
    }
    for (path, kind, _lock) in abandoned(destination)? {
        let old = path.join(file_name(destination)?);
        if kind == "old" && fs::symlink_metadata(&old).is_ok() {
            ensure!(
                ErrorKind::Output,
                replace,
                "{} exists already, as {}, where an interrupted run put it; --force replaces it",
                quoted(destination),
                quoted(&old)
            );
            return check_replaceable(&old);
        }
    }
    Ok(())
}

/// Finds what killed programs left beside `destination`, each with its kind and a lock on it.
fn abandoned(destination: &Path) -> Result<Vec<(PathBuf, &'static str, File)>> {
    let name = file_name(destination)?.to_string_lossy();
    // A folder that cannot be listed is complained of when something is to be made in it.
    let entries = fs::read_dir(parent(destination)).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let (path, kind) = (entry.path(), leftover(&entry.file_name(), base(&name))?);
        match lock(&path) {
            Lock::Held(file) => Some((path, kind, file)),
            // A lock that is held, or cannot be: its program may be at work, on another machine
            // even.
            Lock::Taken | Lock::Unsupported => None,
        }
    });
    Ok(found.collect())
}

/// Refuses what a killed program left if it holds anything that this program did not write: it can
/// be an old output, into which something else came at the last moment.
fn check_leftover(path: &Path, kind: &str, name: &OsStr) -> Result<()> {
    let context = || format!("cannot read {}", quoted(path));
    if kind == "old" {
        for entry in fs::read_dir(path).with_context(ErrorKind::Output, context)? {
            let entry = entry.with_context(ErrorKind::Output, context)?;
            ensure!(
                ErrorKind::Output,
                entry.file_name() == name,
                "quantize did not write {:?} in it",
                entry.file_name()
            );
            check_replaceable(&entry.path())?;
        }
        return Ok(());
    }
    if !path.is_dir() || path.is_symlink() {
        return Ok(());
    }
    if companions_of(path).flatten().is_some() {
        return check_replaceable(path);
    }
    // It was not written to its end, and nothing but their names tells its files yet: the recipe,
    // which lists them, is written with the model. The folder itself has a hidden name that only
    // this program gives, so that what is in it under names of this program's files, too, is taken
    // for them.
    check_names(path, Path::new("")).with_context(ErrorKind::Output, context)?.map_or(Ok(()), |foreign| {
        bail!(ErrorKind::Output, "it holds {foreign:?}, which quantize does not write");
    })
}

/// The first file in a folder of an unfinished model that is not named as this program names them.
fn check_names(model: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(model.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let foreign = if entry.file_type()?.is_dir() && folder.as_os_str().is_empty() {
            check_names(model, &path)?
        } else {
            (!entry.file_type()?.is_file() || !is_written(&path)).then_some(path)
        };
        if foreign.is_some() {
            return Ok(foreign);
        }
    }
    Ok(None)
}

/// The kind of a temporary file or folder of the output `name`: "partial" or "old". Nothing if it
/// is anything else.
fn leftover(found: &OsStr, name: &str) -> Option<&'static str> {
    let (of, kind) = parts(found.to_str()?)?;
    (of == name).then_some(kind)
}

/// The output's name in that of its temporary file or folder; any other name as it is.
pub(super) fn base(name: &str) -> &str {
    parts(name).map_or(name, |(of, _)| of)
}

/// The parts of the name of a temporary file or folder, see
/// [`temporary_name`](super::check::temporary_name): that of the output, and the kind.
fn parts(text: &str) -> Option<(&str, &'static str)> {
    let kind = ["partial", "old"].into_iter().find(|kind| text.ends_with(kind))?;
    let (name, number) = text.strip_prefix('.')?.strip_suffix(kind)?.strip_suffix('.')?.rsplit_once('.')?;
    let (process, attempt) = number.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(process) && is_number(attempt)).then_some((name, kind))
}

/// The result of locking a temporary file or folder.
#[cfg_attr(not(unix), expect(dead_code, reason = "there are no locks"))]
pub(super) enum Lock {
    /// It is locked until the file is closed, at the latest when the program ends, however it does.
    Held(File),
    /// Another program holds the lock.
    Taken,
    /// There are no locks here.
    Unsupported,
}

/// Locks a file or a folder, without ever waiting for anything.
#[cfg(unix)]
pub(super) fn lock(path: &Path) -> Lock {
    use std::fs::{OpenOptions, TryLockError};
    use std::os::unix::fs::OpenOptionsExt;

    // In a folder that everybody writes to, the name may be a link or a pipe.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let Ok(file) = open else { return Lock::Unsupported };
    match file.try_lock() {
        Ok(()) => Lock::Held(file),
        Err(TryLockError::WouldBlock) => Lock::Taken,
        Err(TryLockError::Error(_)) => Lock::Unsupported,
    }
}

/// Elsewhere a lock keeps everybody from writing, and a folder cannot be opened.
#[cfg(not(unix))]
pub(super) fn lock(_: &Path) -> Lock {
    Lock::Unsupported
}

/// Removes a file or a folder with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // A link to a folder is removed as a link.
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_temporary_files() {
        assert_eq!(parts(".a.b.12-0.partial"), Some(("a.b", "partial")));
        assert_eq!(parts(".out.1-2.old"), Some(("out", "old")));
        assert_eq!(base(".out.1-2.partial"), "out");
        for other in ["out.1-2.partial", ".out.1-.partial", ".out.1-2.partial2", ".out.a-2.partial", ".1-2.partial", ""]
        {
            assert_eq!((parts(other), base(other)), (None, other));
        }
    }
}
