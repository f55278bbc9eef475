//! Output that appears whole or not at all: a temporary sibling, renamed when it is complete.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qruntime::container::Header;
use serde_json::Value;

use crate::companions::is_written;
use crate::interrupt;
use crate::report::bytes;
use crate::source::{Source, is_described};

/// The name of a model in a folder.
pub(crate) const MODEL: &str = "model.safetensors";

/// A temporary file or folder beside its destination; removed when dropped before [`commit`](Self::commit), and when a
/// signal ends the program. One that a killed program left is removed by the next that makes one for the same
/// destination.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    placed: bool,
    /// Open and locked for as long as this lives: one without a lock is what a killed program left.
    _lock: Option<File>,
}

impl Temporary {
    /// An empty file beside `destination`, of a name that nothing had.
    pub(crate) fn file(destination: &Path) -> Result<Self> {
        Self::new(destination, "partial", |path| File::create_new(path).map(drop))
    }

    /// An empty folder beside `destination`, of a name that nothing had.
    pub(crate) fn folder(destination: &Path) -> Result<Self> {
        Self::new(destination, "partial", |path| fs::create_dir(path))
    }

    fn new(destination: &Path, kind: &str, create: impl Fn(&Path) -> io::Result<()>) -> Result<Self> {
        let destination = &behind_link(destination)?;
        sweep(destination)?;
        let name = file_name(destination)?.to_string_lossy();
        // A temporary folder beside a temporary one is of the same output.
        let name = base(&name);
        for attempt in 0u64.. {
            let path = parent(destination).join(format!(".{name}.{}-{attempt}.{kind}", std::process::id()));
            let created = interrupt::create(&path, |path| {
                create(path)?;
                Ok(lock(path))
            });
            match created {
                // Somebody else's, which stays as it is.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Another program took it for a leftover before it was locked, and removes it.
                Ok(Lock::Taken) => interrupt::forget(&path),
                Ok(_) if !path.exists() => interrupt::forget(&path),
                Ok(Lock::Held(file)) => return Ok(Self { path, placed: false, _lock: Some(file) }),
                Ok(Lock::Unsupported) => return Ok(Self { path, placed: false, _lock: None }),
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
        unreachable!("a folder does not hold 2^64 files")
    }

    /// Where to write for now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the output, which is complete, in its place. At every moment the old output is there, or the new one; only
    /// where the file system cannot exchange folders is there a moment between them.
    ///
    /// What appeared there meanwhile is treated as [`check_destination`] says. Between that and the renaming is a
    /// moment in which it can still appear: without `replace` it is not overwritten even then, except for a file where
    /// the file system has no hard links. If the destination is a link, what it leads to is replaced.
    pub(crate) fn commit(mut self, destination: &Path, replace: bool) -> Result<()> {
        check_destination(destination, replace)?;
        let destination = &behind_link(destination)?;
        synchronize(&self.path)?;
        let found = fs::symlink_metadata(destination).ok();
        let folders = self.path.is_dir() || found.as_ref().is_some_and(fs::Metadata::is_dir);
        if found.is_some() && folders {
            self.exchange(destination)
        } else if replace || folders || !link(&self.path, destination)? {
            self.rename(destination)
        } else {
            synchronize(parent(destination))
        }
    }

    /// Puts a file in the place of whatever file is there, which is not asked what it is.
    pub(crate) fn place(mut self, destination: &Path) -> Result<()> {
        let destination = &behind_link(destination)?;
        synchronize(&self.path)?;
        self.rename(destination)
    }

    fn rename(&mut self, destination: &Path) -> Result<()> {
        interrupt::release(&self.path, || fs::rename(&self.path, destination))
            .with_context(|| not_placed(destination))?;
        self.placed = true;
        synchronize(parent(destination))
    }

    /// Takes the place of an old output of which either is a folder: onto a folder nothing is renamed.
    fn exchange(&mut self, destination: &Path) -> Result<()> {
        if !exchange(&self.path, destination).with_context(|| not_placed(destination))? {
            return self.displace(destination);
        }
        // From here on this is the old output.
        synchronize(parent(destination))?;
        if let Err(error) = check_replaceable(&self.path) {
            // Something else came into it at the last moment.
            self.placed = true;
            interrupt::forget(&self.path);
            return Err(error).context(kept(&self.path, destination));
        }
        remove(&self.path).with_context(|| format!("cannot remove the replaced output {}", self.path.display()))
    }

    /// The same in two steps, between which there is no output.
    fn displace(&mut self, destination: &Path) -> Result<()> {
        let old = Displaced::new(destination)?;
        if let Err(error) = interrupt::release(&self.path, || fs::rename(&self.path, destination)) {
            old.put_back(destination)?;
            return Err(error).with_context(|| not_placed(destination));
        }
        self.placed = true;
        synchronize(parent(destination))?;
        old.remove(destination)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // There may be nothing to remove, and nobody to tell.
            let _ = remove(&self.path);
            interrupt::forget(&self.path);
        }
    }
}

fn not_placed(destination: &Path) -> String {
    format!("cannot put {} in its place", destination.display())
}

/// Exchanges what two paths name. Returns `false` where the file system cannot.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// An old output, in a folder of its own while the new one takes its place.
struct Displaced {
    folder: PathBuf,
    old: PathBuf,
    _lock: Option<File>,
}

impl Displaced {
    fn new(destination: &Path) -> Result<Self> {
        let mut folder = Temporary::new(destination, "old", |path| fs::create_dir(path))?;
        let old = folder.path.join(file_name(destination)?);
        // From here on it holds something that is not temporary.
        interrupt::release(&folder.path, || fs::rename(destination, &old))
            .with_context(|| format!("cannot put {} aside", destination.display()))?;
        folder.placed = true;
        Ok(Self { folder: std::mem::take(&mut folder.path), old, _lock: folder._lock.take() })
    }

    fn put_back(self, destination: &Path) -> Result<()> {
        fs::rename(&self.old, destination).with_context(|| format!("the old output is {}", self.old.display()))?;
        Ok(fs::remove_dir(self.folder)?)
    }

    fn remove(self, destination: &Path) -> Result<()> {
        if let Err(error) = check_replaceable(&self.old) {
            let kept = kept(&self.old, destination);
            // If the old output is in it still, it stays.
            let _ = fs::remove_dir(&self.folder);
            return Err(error).context(kept);
        }
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove the replaced output {}", self.old.display()))
    }
}

/// Gives a replaced output, which must not be removed, a name beside the new one that is no temporary one. Returns a
/// sentence that says where it is.
fn kept(old: &Path, destination: &Path) -> String {
    let place = (0u64..)
        .map(|number| {
            let mut name = destination.as_os_str().to_owned();
            name.push(format!(".replaced-{number}"));
            PathBuf::from(name)
        })
        .find(|place| fs::symlink_metadata(place).is_err());
    let place = place.filter(|place| fs::rename(old, place).is_ok());
    let place = place.as_deref().unwrap_or(old);
    format!("the new output is in its place, and the old one was kept: it is {} now", place.display())
}

/// Removes what killed programs left beside `destination`, and puts back the output that one of them had put aside.
/// What holds anything that this program did not write stays. Returns a sentence for each.
///
/// # Errors
/// If an output cannot be put back.
pub(crate) fn sweep(destination: &Path) -> Result<Vec<String>> {
    let destination = &behind_link(destination)?;
    let name = file_name(destination)?;
    let shown = name.to_string_lossy();
    let mut told = vec![];
    // A folder that cannot be listed is complained of when something is to be made in it.
    let entries = fs::read_dir(parent(destination)).into_iter().flatten().flatten();
    for (path, kind) in entries.filter_map(|entry| Some((entry.path(), leftover(&entry.file_name(), base(&shown))?))) {
        // A lock that is held, or cannot be: its program may be at work, on another machine even.
        let Lock::Held(_lock) = lock(&path) else { continue };
        let old = path.join(name);
        if kind == "old" && fs::symlink_metadata(&old).is_ok() && fs::symlink_metadata(destination).is_err() {
            fs::rename(&old, destination)
                .with_context(|| format!("{} is the old output, which cannot be put back", old.display()))?;
            told.push(format!("put {} back, which an interrupted run had put aside", destination.display()));
        }
        if let Err(error) = check_leftover(&path, kind, name) {
            told.push(format!("left {}, which an interrupted run had left: {error:#}", path.display()));
        } else if remove(&path).is_ok() && kind == "partial" {
            told.push(format!("removed {}, which an interrupted run had left", path.display()));
        }
    }
    Ok(told)
}

/// Refuses what a killed program left if it holds anything that this program did not write: it can be an old output,
/// into which something else came at the last moment.
fn check_leftover(path: &Path, kind: &str, name: &OsStr) -> Result<()> {
    let context = || format!("cannot read {}", path.display());
    if kind == "old" {
        for entry in fs::read_dir(path).with_context(context)? {
            let entry = entry.with_context(context)?;
            ensure!(entry.file_name() == name, "quantize did not write {:?} in it", entry.file_name());
            check_replaceable(&entry.path())?;
        }
        return Ok(());
    }
    if !path.is_dir() || path.is_symlink() {
        return Ok(());
    }
    let header = Header::read(&path.join(MODEL)).ok();
    if header.and_then(|(header, _)| companions_of(&header)).flatten().is_some() {
        return check_replaceable(path);
    }
    // It was not written to its end: nothing tells its files but their names.
    check_names(path, Path::new("")).with_context(context)?.map_or(Ok(()), |foreign| {
        bail!("it holds {foreign:?}, which quantize does not write");
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

/// The kind of a temporary file or folder of the output `name`: "partial" or "old". Nothing if it is anything else.
fn leftover(found: &OsStr, name: &str) -> Option<&'static str> {
    let (of, kind) = temporary_name(found.to_str()?)?;
    (of == name).then_some(kind)
}

/// The output's name in that of its temporary file or folder; any other name as it is.
fn base(name: &str) -> &str {
    temporary_name(name).map_or(name, |(of, _)| of)
}

/// The parts of `.NAME.PROCESS-NUMBER.KIND`: name and kind.
fn temporary_name(text: &str) -> Option<(&str, &'static str)> {
    let kind = ["partial", "old"].into_iter().find(|kind| text.ends_with(kind))?;
    let (name, number) = text.strip_prefix('.')?.strip_suffix(kind)?.strip_suffix('.')?.rsplit_once('.')?;
    let (process, attempt) = number.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(process) && is_number(attempt)).then_some((name, kind))
}

/// What came of locking a temporary file or folder.
enum Lock {
    /// It is locked until the file is closed, at the latest when the program ends, however it does.
    Held(File),
    /// Another program holds the lock.
    Taken,
    /// There are no locks here.
    Unsupported,
}

/// Locks a file or a folder, without ever waiting for anything.
#[cfg(unix)]
fn lock(path: &Path) -> Lock {
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
fn lock(_: &Path) -> Lock {
    Lock::Unsupported
}

/// Gives a file its second name, which unlike renaming never overwrites. Returns `false` where there are no links.
fn link(temporary: &Path, destination: &Path) -> Result<bool> {
    match fs::hard_link(temporary, destination) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{} appeared meanwhile", destination.display()),
        linked => Ok(linked.is_ok()),
    }
}

/// Flushes a file's or folder's changes to the disk.
pub(crate) fn synchronize(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot synchronize {}", path.display()))
}

/// Refuses to replace anything unless that is wanted, and then anything but what this program wrote: `--force` with a
/// mistyped path must not cost other files, nor must it cost what somebody put beside a model.
pub(crate) fn check_destination(path: &Path, replace: bool) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    ensure!(replace, "{} exists already; --force replaces it", path.display());
    check_replaceable(&behind_link(path)?)
}

/// Refuses what holds anything that this program did not write: all of it must be an empty folder, or a model with the
/// companions that its recipe lists.
fn check_replaceable(path: &Path) -> Result<()> {
    let refusal = || format!("{} is not a model that quantize wrote: remove it yourself", path.display());
    if !path.is_dir() {
        ensure!(Header::read(path).is_ok_and(|(header, _)| is_described(&header)), refusal());
        return Ok(());
    }
    let context = || format!("cannot read {}", path.display());
    if fs::read_dir(path).with_context(context)?.next().is_none() {
        return Ok(());
    }
    let written = Header::read(&path.join(MODEL)).ok().and_then(|(header, _)| companions_of(&header));
    let recorded = written.with_context(refusal)?;
    let is_old = recorded.is_none();
    let mut written = recorded.unwrap_or_default();
    written.insert(MODEL.into());
    let mut foreign = vec![];
    find_foreign(path, Path::new(""), &written, &mut foreign).with_context(context)?;
    ensure!(
        !is_old || foreign.is_empty(),
        "{} was written by an older version, which did not record its files: remove it yourself",
        path.display()
    );
    foreign.sort_unstable();
    let named: Vec<String> = foreign.iter().take(3).map(|path| format!("{path:?}")).collect();
    let more = foreign.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    ensure!(
        foreign.is_empty(),
        "{} holds what quantize did not write: {}{more}; move it away, or choose another output",
        path.display(),
        named.join(", ")
    );
    Ok(())
}

/// The companions that a model was written with, if that is recorded; nothing if this program did not write it.
fn companions_of(header: &Header) -> Option<Option<BTreeSet<PathBuf>>> {
    let description: Value = serde_json::from_str(header.metadata.get("qruntime")?).ok()?;
    let companions = description.pointer("/recipe/companions").and_then(Value::as_array);
    Some(companions.map(|files| files.iter().filter_map(Value::as_str).map(PathBuf::from).collect()))
}

/// Collects what is in a folder of a model and is none of its files, a folder without any of them as a whole.
fn find_foreign(
    model: &Path,
    folder: &Path,
    written: &BTreeSet<PathBuf>,
    foreign: &mut Vec<PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(model.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() && written.iter().any(|file| file.starts_with(&path)) {
            find_foreign(model, &path, written, foreign)?;
        } else if !written.contains(&path) {
            foreign.push(path);
        }
    }
    Ok(())
}

/// Refuses to begin what would fill the disk: `needed` bytes in `folder`.
pub(crate) fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let free = free_space(folder).unwrap_or(u64::MAX);
    ensure!(
        needed <= free,
        "{} needs {} of free disk space, and {} are free",
        folder.display(),
        bytes(needed),
        bytes(free)
    );
    Ok(())
}

/// Bytes that may still be written to a folder's file system, if it says so.
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

/// Refuses an output whose place holds any file of the source, by whatever name or link.
pub(crate) fn check_apart(source: &Source, destination: &Path) -> Result<()> {
    let places: Vec<PathBuf> = places(destination)?;
    let companions = source.companions().iter().map(|companion| source.path().join(companion));
    let files = source.files().map(Path::to_path_buf).chain(companions);
    for file in files.chain([source.path().to_path_buf()]) {
        let at_or_below = |path: &PathBuf| places.iter().any(|place| path.starts_with(place));
        if self::places(&file)?.iter().any(at_or_below) {
            bail!("{} holds {}, which is converted: choose another output", destination.display(), file.display());
        }
    }
    Ok(())
}

/// Where a path is, and what it leads to if it is a link; the latter only if it exists.
pub(crate) fn places(path: &Path) -> Result<Vec<PathBuf>> {
    let real = path.canonicalize().ok();
    // A path such as `..` has no name of its own, and is no link.
    let Some(name) = path.file_name() else {
        return Ok(vec![real.with_context(|| format!("cannot find {}", path.display()))?]);
    };
    let parent = parent(path);
    let parent = parent.canonicalize().with_context(|| format!("cannot find the folder {}", parent.display()))?;
    Ok([parent.join(name)].into_iter().chain(real).collect())
}

/// The path itself, or what it leads to if it is a link.
fn behind_link(path: &Path) -> Result<PathBuf> {
    if !path.is_symlink() {
        return Ok(path.into());
    }
    path.canonicalize().with_context(|| format!("{} is a link that leads nowhere: remove it yourself", path.display()))
}

fn remove(path: &Path) -> io::Result<()> {
    // A link to a folder is removed as a link.
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn file_name(path: &Path) -> Result<&OsStr> {
    path.file_name().with_context(|| format!("{} is no name of a file", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_two_steps_where_folders_cannot_be_exchanged() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        fs::create_dir(&out)?;
        let mut temporary = Temporary::folder(&out)?;
        fs::write(temporary.path().join("new"), "new")?;
        temporary.displace(&out)?;
        drop(temporary);
        assert_eq!(fs::read_to_string(out.join("new"))?, "new");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);

        // What came into the old output at the last moment is not lost.
        let mut temporary = Temporary::folder(&out)?;
        let error = temporary.displace(&out).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("the old one was kept"), "{error}");
        drop(temporary);
        assert_eq!(fs::read_dir(&out)?.count(), 0);
        let kept = folder.path().join("out.replaced-0");
        assert!(error.contains(&kept.display().to_string()), "{error}");
        assert_eq!(fs::read_dir(folder.path())?.count(), 2, "nothing temporary is left");
        // Nor what was there when the program was killed before it could say so.
        let left = [".out.1-0.old/out", ".out.1-1.partial"].map(|name| folder.path().join(name));
        for left in &left {
            fs::create_dir_all(left)?;
            fs::write(left.join("new"), "new")?;
        }
        let told = sweep(&out)?;
        assert_eq!(told.iter().filter(|told| told.starts_with("left ")).count(), if cfg!(unix) { 2 } else { 0 });
        for folder in left.iter().chain([&kept]) {
            assert_eq!(fs::read_to_string(folder.join("new"))?, "new", "{told:?}");
        }
        Ok(())
    }

    #[test]
    fn names_of_temporary_files() {
        assert_eq!(temporary_name(".a.b.12-0.partial"), Some(("a.b", "partial")));
        assert_eq!(temporary_name(".out.1-2.old"), Some(("out", "old")));
        assert_eq!(base(".out.1-2.partial"), "out");
        for other in ["out.1-2.partial", ".out.1-.partial", ".out.1-2.partial2", ".out.a-2.partial", ".1-2.partial", ""]
        {
            assert_eq!((temporary_name(other), base(other)), (None, other));
        }
    }
}
