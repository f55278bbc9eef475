//! Output that appears whole or not at all: a temporary sibling, renamed when it is complete.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::check::{behind_link, check_destination, check_replaceable, file_name, parent, temporary_name};
use super::leftover::{Lock, base, lock, remove, sweep};
use crate::disk::synchronize;
use crate::error::{Context, ErrorKind, Result, Within, bail};
use crate::report::quoted;
use crate::temporaries;

/// A temporary file or folder beside its destination; removed when dropped before
/// [`commit`](Self::commit), and when a signal ends the program. One that a killed program left is
/// removed by the next that makes one for the same destination.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    placed: bool,
    /// Open and locked for as long as this lives: one without a lock is what a killed program left.
    _lock: Option<File>,
}

impl Temporary {
    /// Creates an empty file beside `destination`, of a name that nothing had.
    pub fn file(destination: &Path) -> Result<Self> {
        Self::new(destination, "partial", |path| File::create_new(path).map(drop))
    }

    /// Creates an empty folder beside `destination`, of a name that nothing had.
    pub fn folder(destination: &Path) -> Result<Self> {
        Self::new(destination, "partial", |path| fs::create_dir(path))
    }

    fn new(destination: &Path, kind: &str, create: impl Fn(&Path) -> io::Result<()>) -> Result<Self> {
        let destination = &behind_link(destination)?;
        sweep(destination)?;
        let name = file_name(destination)?.to_string_lossy();
        // A temporary folder beside a temporary one is of the same output.
        let name = base(&name);
        for attempt in 0u64.. {
            let path = parent(destination).join(temporary_name(name, attempt, kind));
            let created = temporaries::create(&path, |path| {
                create(path)?;
                Ok(lock(path))
            });
            match created {
                // Somebody else's, which stays as it is.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Another program took it for a leftover before it was locked, and removes it.
                Ok(Lock::Taken) => temporaries::forget(&path),
                Ok(_) if !path.exists() => temporaries::forget(&path),
                Ok(Lock::Held(file)) => return Ok(Self { path, placed: false, _lock: Some(file) }),
                Ok(Lock::Unsupported) => return Ok(Self { path, placed: false, _lock: None }),
                Err(error) => {
                    return Err(error).with_context(ErrorKind::Output, || format!("cannot create {}", quoted(&path)));
                }
            }
        }
        unreachable!("a folder does not hold 2^64 files")
    }

    /// Returns where to write for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the output, which is complete, in its place. At every moment the old output is there,
    /// or the new one; only where the file system cannot exchange folders is there a moment between
    /// them.
    ///
    /// What appeared there meanwhile is treated as [`check_destination`] says. Between that and the
    /// renaming is a moment in which it can still appear: without `replace` it is not overwritten
    /// even then, except for a file where the file system has no hard links. If the destination is
    /// a link, what it leads to is replaced.
    pub fn commit(mut self, destination: &Path, replace: bool) -> Result<()> {
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
    pub fn place(mut self, destination: &Path) -> Result<()> {
        let destination = &behind_link(destination)?;
        synchronize(&self.path)?;
        self.rename(destination)
    }

    fn rename(&mut self, destination: &Path) -> Result<()> {
        temporaries::release(&self.path, || fs::rename(&self.path, destination))
            .with_context(ErrorKind::Output, || not_placed(destination))?;
        self.placed = true;
        synchronize(parent(destination))
    }

    /// Takes the place of an old output of which either is a folder: onto a folder nothing is
    /// renamed.
    fn exchange(&mut self, destination: &Path) -> Result<()> {
        // The old output gets the temporary name. No signal removes it before it is known that it
        // may be removed.
        let exchange = || Ok(exchange(&self.path, destination)?.then(|| check_replaceable(&self.path)));
        let stays = |exchanged: &io::Result<Option<Result<()>>>| matches!(exchanged, Ok(Some(Err(_))));
        match temporaries::release_if(&self.path, exchange, stays)
            .with_context(ErrorKind::Output, || not_placed(destination))?
        {
            None => return self.displace(destination),
            // Something else came into it at the last moment.
            Some(Err(error)) => {
                self.placed = true;
                let kept = kept(&self.path, destination);
                synchronize(parent(destination)).within(|| kept.clone())?;
                return Err(error).within(|| kept);
            }
            Some(Ok(())) => synchronize(parent(destination))?,
        }
        remove(&self.path)
            .with_context(ErrorKind::Output, || format!("cannot remove the replaced output {}", quoted(&self.path)))
    }

    /// Takes its place in two steps, between which there is no output.
    fn displace(&mut self, destination: &Path) -> Result<()> {
        let old = Displaced::new(destination)?;
        if let Err(error) = temporaries::release(&self.path, || fs::rename(&self.path, destination)) {
            old.put_back(destination)?;
            return Err(error).with_context(ErrorKind::Output, || not_placed(destination));
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
            temporaries::forget(&self.path);
        }
    }
}

fn not_placed(destination: &Path) -> String {
    format!("cannot put {} in its place", quoted(destination))
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
        temporaries::release(&folder.path, || fs::rename(destination, &old))
            .with_context(ErrorKind::Output, || format!("cannot put {} aside", quoted(destination)))?;
        folder.placed = true;
        Ok(Self { folder: std::mem::take(&mut folder.path), old, _lock: folder._lock.take() })
    }

    fn put_back(self, destination: &Path) -> Result<()> {
        fs::rename(&self.old, destination)
            .with_context(ErrorKind::Output, || format!("the old output is {}", quoted(&self.old)))?;
        Ok(fs::remove_dir(self.folder)?)
    }

    fn remove(self, destination: &Path) -> Result<()> {
        if let Err(error) = check_replaceable(&self.old) {
            let kept = kept(&self.old, destination);
            // If the old output is in it still, it stays.
            let _ = fs::remove_dir(&self.folder);
            return Err(error).within(|| kept);
        }
        fs::remove_dir_all(&self.folder)
            .with_context(ErrorKind::Output, || format!("cannot remove the replaced output {}", quoted(&self.old)))
    }
}

/// Gives a replaced output, which must not be removed, a name beside the new one that is no
/// temporary one. Returns a sentence that says where it is.
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
    format!("the new output is in its place, and the old one was kept: it is {} now", quoted(place))
}

/// Gives a file its second name, which unlike renaming never overwrites. Returns `false` where
/// there are no links.
fn link(temporary: &Path, destination: &Path) -> Result<bool> {
    match fs::hard_link(temporary, destination) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!(ErrorKind::Output, "{} appeared meanwhile", quoted(destination))
        }
        linked => Ok(linked.is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signal_removes_an_old_output_into_which_something_came() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for round in 0..20 {
            let out = folder.path().join(format!("out{round}"));
            fs::create_dir(&out)?;
            fs::write(out.join("mine"), "mine")?;
            let mut temporary = Temporary::folder(&out)?;
            let path = temporary.path().to_path_buf();
            fs::write(path.join("new"), "new")?;
            let done = std::sync::atomic::AtomicBool::new(false);
            let lost = std::thread::scope(|scope| {
                // What a signal would remove at any moment.
                let watch = scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        if temporaries::with_temporary(&path, || path.join("mine").exists()) {
                            return true;
                        }
                    }
                    false
                });
                temporary.exchange(&out).unwrap_err();
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                watch.join().expect("the watching thread does not panic")
            });
            assert!(!lost, "round {round}");
            drop(temporary);
            assert_eq!(fs::read_to_string(folder.path().join(format!("out{round}.replaced-0/mine")))?, "mine");
        }
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn an_old_output_gets_its_name_before_the_disk_is_asked() -> Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let out = folder.join("out");
        fs::create_dir(&out)?;
        fs::write(out.join("mine"), "mine")?;
        let mut temporary = Temporary::folder(&out)?;
        // Files can be renamed in it, but it cannot be opened.
        fs::set_permissions(folder, PermissionsExt::from_mode(0o300))?;
        let unreadable = File::open(folder).is_err();
        let error = temporary.exchange(&out).expect_err("the old output holds another file");
        drop(temporary);
        fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
        let error = format!("{error:#}");
        assert!(error.contains("out.replaced-0"), "{error}");
        assert_eq!(fs::read_to_string(folder.join("out.replaced-0/mine"))?, "mine");
        if unreadable {
            assert!(error.contains("cannot synchronize"), "{error}");
        } else {
            println!("NOT RUN: an administrator opens any folder");
        }
        Ok(())
    }

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
        assert!(error.contains(&quoted(&kept).to_string()), "{error}");
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
}
