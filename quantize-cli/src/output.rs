//! Output that appears whole or not at all: a temporary sibling, renamed when it is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A temporary file or folder beside its destination; removed when dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub(crate) struct Staged {
    temporary: PathBuf,
    destination: PathBuf,
    replace: bool,
    committed: bool,
}

impl Staged {
    /// Prepares to write `destination`. Nothing exists yet.
    pub(crate) fn new(destination: &Path, replace: bool) -> Result<Self> {
        if fs::symlink_metadata(destination).is_ok() {
            if !replace {
                bail!("{} exists already; --force replaces it", destination.display());
            }
            check_replaceable(destination)?;
        }
        ensure!(parent(destination).is_dir(), "{} is no folder to write to", parent(destination).display());
        let name =
            destination.file_name().with_context(|| format!("{} is no name of a file", destination.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let temporary = parent(destination).join(hidden);
        Ok(Self { temporary, destination: destination.into(), replace, committed: false })
    }

    /// Where to write for now.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the output, which is complete and synchronized, in its place.
    pub(crate) fn commit(mut self) -> Result<()> {
        let context = || format!("cannot put {} in its place", self.destination.display());
        let old = self.temporary.with_extension("old");
        let displaced = self.replace && fs::symlink_metadata(&self.destination).is_ok();
        if displaced {
            fs::rename(&self.destination, &old).with_context(context)?;
        }
        if let Err(error) = fs::rename(&self.temporary, &self.destination) {
            if displaced {
                // The old output goes back; if that fails too, the error names it.
                fs::rename(&old, &self.destination).with_context(|| format!("the old output is {}", old.display()))?;
            }
            return Err(error).with_context(context);
        }
        self.committed = true;
        synchronize(parent(&self.destination))?;
        if displaced {
            remove(&old).with_context(|| format!("cannot remove the replaced output {}", old.display()))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // There may be nothing to remove, and nobody to tell.
            let _ = remove(&self.temporary);
        }
    }
}

/// Flushes a file's or folder's changes to the disk.
pub(crate) fn synchronize(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot synchronize {}", path.display()))
}

/// Only what looks like a model is replaced: `--force` with a mistyped path must not cost a folder of other files.
fn check_replaceable(path: &Path) -> Result<()> {
    if !path.is_dir() {
        let model = path.extension().is_some_and(|extension| extension == "safetensors");
        ensure!(model, "{} is a file, but no .safetensors: --force does not replace it", path.display());
        return Ok(());
    }
    let mut files = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?.peekable();
    if files.peek().is_none() || path.join("model.safetensors").exists() {
        return Ok(());
    }
    bail!("{} holds files, but no model.safetensors: not a model, so --force does not replace it", path.display())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
