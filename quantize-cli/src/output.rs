//! Output that appears whole or not at all: a temporary sibling, renamed when it is complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qruntime::container::Header;

use crate::interrupt;
use crate::source::{Source, is_described};

/// A temporary file or folder beside its destination; removed when dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    placed: bool,
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
        let name = file_name(destination)?.display();
        for attempt in 0u64.. {
            let path = parent(destination).join(format!(".{name}.{}-{attempt}.{kind}", std::process::id()));
            match interrupt::create(&path, &create) {
                // Somebody else's, which stays as it is.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => {
                    created.with_context(|| format!("cannot create {}", path.display()))?;
                    return Ok(Self { path, placed: false });
                }
            }
        }
        unreachable!("a folder does not hold 2^64 files")
    }

    /// Where to write for now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the output, which is complete and synchronized, in its place.
    ///
    /// What appeared there meanwhile is treated as [`check_destination`] says. Between that and the renaming is a moment in which it can still appear:
    /// without `replace` it is not overwritten even then, except for a file where the file system has no hard links.
    pub(crate) fn commit(mut self, destination: &Path, replace: bool) -> Result<()> {
        check_destination(destination, replace)?;
        let context = || format!("cannot put {} in its place", destination.display());
        let found = fs::symlink_metadata(destination).ok();
        let mut displaced = None;
        if self.path.is_dir() || found.as_ref().is_some_and(fs::Metadata::is_dir) {
            // Nothing is renamed onto a folder that holds files, so what is there goes aside first.
            if replace && found.is_some() {
                displaced = Some(Displaced::new(destination)?);
            }
            if let Err(error) = interrupt::release(&self.path, || fs::rename(&self.path, destination)) {
                displaced.map_or(Ok(()), |old| old.put_back(destination))?;
                return Err(error).with_context(context);
            }
            self.placed = true;
        } else if replace || !link(&self.path, destination)? {
            interrupt::release(&self.path, || fs::rename(&self.path, destination)).with_context(context)?;
            self.placed = true;
        }
        synchronize(parent(destination))?;
        displaced.map_or(Ok(()), Displaced::remove)
    }
}

impl Temporary {
    /// Puts a file in the place of whatever file is there, which is not asked what it is.
    pub(crate) fn place(mut self, destination: &Path) -> Result<()> {
        interrupt::release(&self.path, || fs::rename(&self.path, destination))
            .with_context(|| format!("cannot put {} in its place", destination.display()))?;
        self.placed = true;
        Ok(())
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

/// An old output, in a folder of its own while the new one takes its place.
struct Displaced {
    folder: PathBuf,
    old: PathBuf,
}

impl Displaced {
    fn new(destination: &Path) -> Result<Self> {
        let mut folder = Temporary::new(destination, "old", |path| fs::create_dir(path))?;
        let old = folder.path.join(file_name(destination)?);
        // From here on it holds something that is not temporary.
        interrupt::release(&folder.path, || fs::rename(destination, &old))
            .with_context(|| format!("cannot put {} aside", destination.display()))?;
        folder.placed = true;
        Ok(Self { folder: std::mem::take(&mut folder.path), old })
    }

    fn put_back(self, destination: &Path) -> Result<()> {
        fs::rename(&self.old, destination).with_context(|| format!("the old output is {}", self.old.display()))?;
        Ok(fs::remove_dir(self.folder)?)
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove the replaced output {}", self.old.display()))
    }
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

/// Refuses to replace anything unless that is wanted, and then anything but a model that this program wrote: `--force` with a mistyped path must not cost
/// other files.
pub(crate) fn check_destination(path: &Path, replace: bool) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    ensure!(replace, "{} exists already; --force replaces it", path.display());
    let described = |path: &Path| Header::read(path).is_ok_and(|(header, _)| is_described(&header));
    let replaceable = if path.is_dir() {
        let mut files = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        files.next().is_none() || described(&path.join("model.safetensors"))
    } else {
        described(path)
    };
    ensure!(replaceable, "{} is not a model that quantize wrote: remove it yourself", path.display());
    Ok(())
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

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn file_name(path: &Path) -> Result<&std::ffi::OsStr> {
    path.file_name().with_context(|| format!("{} is no name of a file", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
