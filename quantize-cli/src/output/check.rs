//! Whether an output can be put where it is to go, and may be: asked before the work, and again
//! before it takes its place.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::gguf;
use super::panels::{MODEL, companions_of, is_ours};
use crate::error::{Context, ErrorKind, Result, bail, ensure};
use crate::report::quoted;
use crate::source::Source;

/// Refuses a place where no output could be put in the end: no name, no folder around it, no right
/// to write there, or a mount point. Writes nothing.
pub fn check_place(path: &Path) -> Result<()> {
    let path = &behind_link(path)?;
    let name = file_name(path)?.to_string_lossy();
    let parent = parent(path);
    ensure!(ErrorKind::Output, parent.exists(), "cannot find the folder {}", quoted(parent));
    ensure!(ErrorKind::Output, parent.is_dir(), "{} is no folder", quoted(parent));
    ensure!(
        ErrorKind::Output,
        !system::is_mount_point(path, parent),
        "{} is a mount point, which nothing can replace: name a file or folder in it",
        quoted(path)
    );
    system::check_writable(parent)
        .with_context(ErrorKind::Output, || format!("cannot write into the folder {}", quoted(parent)))?;
    // The longest name that the output has on its way: too long for some file systems, perhaps.
    let temporary = parent.join(temporary_name(&name, 0, "partial"));
    if let Err(error) = fs::symlink_metadata(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(ErrorKind::Output, || format!("cannot create {}", quoted(path)));
    }
    let found = fs::symlink_metadata(path).ok();
    ensure!(
        ErrorKind::Output,
        found.as_ref().is_none_or(|found| found.is_dir() || found.is_file()),
        "{} is neither a file nor a folder",
        quoted(path)
    );
    // What is replaced is removed in the end.
    if found.is_some_and(|found| found.is_dir()) && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
    {
        let context = || format!("cannot replace {}: no right to remove what is in it", quoted(path));
        system::check_writable(path).with_context(ErrorKind::Output, context)?;
    }
    Ok(())
}

#[cfg(unix)]
mod system {
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::Access;

    /// Whether files can be made in a folder, and the folder opened.
    pub(super) fn check_writable(folder: &Path) -> io::Result<()> {
        Ok(rustix::fs::access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
    }

    /// Whether something is mounted at `path`, which is in the folder `parent`.
    pub(super) fn is_mount_point(path: &Path, parent: &Path) -> bool {
        is_mount_root(path).unwrap_or_else(|| {
            // Only folders: on some file systems files have another device number than folders.
            let here = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir);
            here.zip(fs::metadata(parent).ok()).is_some_and(|(here, parent)| here.dev() != parent.dev())
        })
    }

    /// The system's own answer to whether something is mounted there, if it has one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_mount_root(path: &Path) -> Option<bool> {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
        let found = found.ok().filter(|found| found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT))?;
        Some(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn is_mount_root(_: &Path) -> Option<bool> {
        None
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;
    use std::path::Path;

    /// What a folder grants is seen when something is made in it.
    pub(super) fn check_writable(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn is_mount_point(_: &Path, _: &Path) -> bool {
        false
    }
}

/// Refuses to replace anything unless that is wanted, and then anything but what this program
/// wrote: `--force` with a mistyped path must not cost other files, nor must it cost what somebody
/// put beside a model.
pub fn check_destination(path: &Path, replace: bool) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    ensure!(ErrorKind::Output, replace, "{} exists already; --force replaces it", quoted(path));
    check_replaceable(&behind_link(path)?)
}

/// Refuses what holds anything that this program did not write: all of it must be an empty folder,
/// or a model with the companions that its recipe lists.
pub(super) fn check_replaceable(path: &Path) -> Result<()> {
    let refusal = || format!("{} is not a model that quantize wrote: remove it yourself", quoted(path));
    if !path.is_dir() {
        // Opening anything else could wait forever.
        ensure!(ErrorKind::Output, path.is_file(), "{}", refusal());
        ensure!(ErrorKind::Output, is_ours(path) || gguf::is_ours(path), "{}", refusal());
        return Ok(());
    }
    let context = || format!("cannot read {}", quoted(path));
    if fs::read_dir(path).with_context(ErrorKind::Output, context)?.next().is_none() {
        return Ok(());
    }
    let written = companions_of(path);
    let recorded = written.with_context(ErrorKind::Output, refusal)?;
    let unlisted =
        if recorded.is_none() { ", of whose files it has no list (earlier versions wrote none)" } else { "" };
    let mut written = recorded.unwrap_or_default();
    written.insert(MODEL.into());
    let mut foreign = vec![];
    find_foreign(path, Path::new(""), &written, &mut foreign).with_context(ErrorKind::Output, context)?;
    foreign.sort_unstable();
    let named: Vec<String> = foreign.iter().take(3).map(|path| format!("{path:?}")).collect();
    let more = foreign.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    ensure!(
        ErrorKind::Output,
        foreign.is_empty(),
        "{} holds what quantize did not write: {}{more}{unlisted}; move it away, or choose another output",
        quoted(path),
        named.join(", ")
    );
    Ok(())
}

/// Collects what is in a folder of a model and is none of its files, a folder without any of them
/// as a whole.
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

/// Refuses an output whose place holds any file of the source, by whatever name or link.
pub fn check_apart(source: &dyn Source, destination: &Path) -> Result<()> {
    let places: Vec<PathBuf> = places(destination)?;
    let files = source.files().into_iter().map(Path::to_path_buf).chain(source.companions().files());
    for file in files.chain([source.path().to_path_buf()]) {
        let at_or_below = |path: &PathBuf| places.iter().any(|place| path.starts_with(place));
        if self::places(&file)?.iter().any(at_or_below) {
            bail!(
                ErrorKind::Output,
                "{} holds {}, which is converted: choose another output",
                quoted(destination),
                quoted(&file)
            );
        }
    }
    Ok(())
}

/// Returns where a path is, and what it leads to if it is a link; the latter only if it exists.
pub fn places(path: &Path) -> Result<Vec<PathBuf>> {
    let real = path.canonicalize().ok();
    // A path such as `..` has no name of its own, and is no link.
    let Some(name) = path.file_name() else {
        return Ok(vec![real.with_context(ErrorKind::Output, || format!("cannot find {}", quoted(path)))?]);
    };
    let parent = parent(path);
    let parent = parent
        .canonicalize()
        .with_context(ErrorKind::Output, || format!("cannot find the folder {}", quoted(parent)))?;
    Ok([parent.join(name)].into_iter().chain(real).collect())
}

/// Returns the path itself, or what it leads to if it is a link.
pub(super) fn behind_link(path: &Path) -> Result<PathBuf> {
    if !path.is_symlink() {
        return Ok(path.into());
    }
    path.canonicalize().with_context(ErrorKind::Output, || {
        format!("{} is a link that leads nowhere: remove it yourself", quoted(path))
    })
}

pub(super) fn file_name(path: &Path) -> Result<&OsStr> {
    path.file_name().with_context(ErrorKind::Output, || format!("{} is no name of a file or folder", quoted(path)))
}

/// Returns the folder that a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.PROCESS-NUMBER.KIND`: a temporary file or folder of the output `name`.
pub(super) fn temporary_name(name: &str, attempt: u64, kind: &str) -> String {
    format!(".{name}.{}-{attempt}.{kind}", std::process::id())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn another_device_number_alone_is_no_mount_point() {
        // No folder of a test's own has another device number than what is in it.
        assert!(!system::is_mount_point(Path::new("/proc/self/status"), Path::new("/")));
        assert!(!system::is_mount_point(Path::new("/proc/self/fd"), Path::new("/")));
        assert!(system::is_mount_point(Path::new("/proc"), Path::new("/")));
    }

    #[test]
    fn what_a_link_leads_to_has_the_longest_name() -> Result<()> {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir()?;
        let [long, short] = ["n".repeat(250), "short".into()].map(|name| folder.path().join(name));
        fs::create_dir(&short)?;
        symlink(&short, &long)?;
        check_place(&long)?;
        fs::remove_file(&long)?;
        fs::remove_dir(&short)?;
        fs::create_dir(&long)?;
        symlink(&long, &short)?;
        let error = check_place(&short).expect_err("there is no room for a longer name").to_string();
        assert!(error.starts_with("cannot create "), "{error}");
        Ok(())
    }
}
