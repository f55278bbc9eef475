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
    for (path, kind, _lock) in abandoned(destination, KINDS)? {
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
    // No others are locked: a run that makes one meanwhile must not take it for that of another.
    for (path, _, _lock) in abandoned(destination, &["old"])? {
        let old = path.join(file_name(destination)?);
        if fs::symlink_metadata(&old).is_ok() {
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

/// Kinds of temporary files and folders.
const KINDS: &[&str] = &["partial", "old"];

/// Finds what killed programs left beside `destination` of some kinds, each with its kind and a
/// lock on it, which it gets when the iterator comes to it.
fn abandoned(
    destination: &Path,
    kinds: &[&str],
) -> Result<impl Iterator<Item = (PathBuf, &'static str, File)> + use<>> {
    let name = file_name(destination)?.to_string_lossy();
    // A folder that cannot be listed is complained of when something is to be made in it.
    let entries = fs::read_dir(parent(destination)).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| Some((entry.path(), leftover(&entry.file_name(), base(&name))?)));
    let found: Vec<_> = found.filter(|(_, kind)| kinds.contains(kind)).collect();
    Ok(found.into_iter().filter_map(|(path, kind)| match lock(&path) {
        Lock::Held(file) => Some((path, kind, file)),
        // A lock that is held, or cannot be: its program may be at work, on another machine even.
        Lock::Taken | Lock::Unsupported => None,
    }))
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
    let kind = KINDS.iter().copied().find(|kind| text.ends_with(kind))?;
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

    #[cfg(unix)]
    #[test]
    fn one_leftover_is_locked_at_a_time_and_only_of_the_kinds_that_are_asked_for() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        let names = [".out.1-0.partial", ".out.1-1.partial", ".out.1-0.old"].map(|name| folder.path().join(name));
        names.iter().try_for_each(fs::create_dir)?;
        let locked = || names.iter().filter(|path| matches!(lock(path), Lock::Taken)).count();
        let mut all = abandoned(&out, KINDS)?;
        for _ in 0..names.len() {
            let found = all.next();
            assert!(found.is_some());
            assert_eq!(locked(), 1);
        }
        assert!(all.next().is_none() && locked() == 0);
        let old: Vec<_> = abandoned(&out, &["old"])?.collect();
        assert!(matches!(old.as_slice(), [(path, "old", _)] if *path == names[2]) && locked() == 1);
        Ok(())
    }

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
