//! Files that commands write beside models: pages, pictures, vectors, logits, manual pages. Writing
//! one never costs another file: what is there is replaced only if it is recognizably an earlier
//! output, or with `--force`; an input never is.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, ErrorKind, Result, Within, ensure};
use crate::output::{Temporary, parent, places};
use crate::report::quoted;

/// A kind of output file.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The name in messages.
    pub(crate) name: &'static str,
    /// The endings that a name may have, if it has one; any if there are none.
    pub(crate) endings: &'static [&'static str],
    /// Text in the beginning of every such file that this program wrote. Files of a kind without
    /// it, which may have cost hours, are replaced with `--force` only.
    pub(crate) mark: Option<&'static str>,
}

/// `bench --plot`.
pub(crate) const PICTURE: Kind =
    Kind { name: "an SVG image", endings: &["svg"], mark: Some("<metadata>quantize bench") };
/// `report -o`.
pub(crate) const PAGE: Kind = Kind {
    name: "an HTML page",
    endings: &["html", "htm"],
    mark: Some("<meta name=\"generator\" content=\"quantize "),
};
/// `embed --output`.
pub(crate) const VECTORS: Kind = Kind { name: "an array for NumPy", endings: &["npy"], mark: None };
/// `eval --save-logits`.
pub(crate) const LOGITS: Kind = Kind { name: "a file of logits", endings: &[], mark: None };
/// `man DIR`.
pub(crate) const MANUAL: Kind = Kind { name: "a manual page", endings: &["1"], mark: Some(".TH quantize") };

/// Bytes of a file within which its mark stands.
const BEGINNING: u64 = 4096;

/// Where an output file goes, found fit before the work begins.
#[derive(Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    replace: bool,
}

impl Destination {
    /// Checks that `path` may be written: its name has an ending of the kind, its folder exists and
    /// takes new files, and whatever has the name may be replaced.
    ///
    /// `inputs` are the files and folders that the command reads. They, and what is in the folders,
    /// are not replaced even with `force`, unless it is an earlier output.
    ///
    /// # Errors
    /// If not; the message says why.
    pub(crate) fn new(path: &Path, kind: &Kind, inputs: &[&Path], force: bool) -> Result<Self> {
        let context = || format!("cannot write {}", quoted(path));
        Self::check(path, kind, inputs, force).within(context)
    }

    fn check(path: &Path, kind: &Kind, inputs: &[&Path], force: bool) -> Result<Self> {
        let folder = parent(path);
        ensure!(ErrorKind::Output, folder.is_dir(), "{} is no folder", quoted(folder));
        let found = match fs::symlink_metadata(path) {
            Ok(_) => Some(fs::metadata(path).context(ErrorKind::Output, "it is a link that leads nowhere")?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        ensure!(ErrorKind::Output, found.as_ref().is_none_or(fs::Metadata::is_file), "it is no ordinary file");
        check_ending(path, kind)?;
        let mut destination = Self { path: path.into(), replace: false };
        if found.is_some() {
            // A link stays, and what it leads to is replaced.
            destination.path = path.canonicalize()?;
            destination.replace = true;
            if !kind.mark.is_some_and(|mark| begins_with_mark(path, mark)) {
                for input in inputs {
                    ensure!(
                        ErrorKind::Output,
                        !holds(input, path)?,
                        "it is an input of this command ({})",
                        quoted(input)
                    );
                }
                let other = kind.mark.map(|_| format!(" and is not {} that quantize wrote", kind.name));
                ensure!(
                    ErrorKind::Output,
                    force,
                    "it exists already{}; --force replaces it",
                    other.unwrap_or_default()
                );
            }
        }
        // What cannot be written is found out before the work, not after it.
        drop(Temporary::file(&destination.path)?);
        Ok(destination)
    }

    /// The place.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates an empty file beside the place, to write into; it is removed if it is dropped before
    /// [`commit`](Self::commit).
    ///
    /// # Errors
    /// If it cannot be created.
    pub(crate) fn temporary(&self) -> Result<Temporary> {
        Temporary::file(&self.path)
    }

    /// Puts a complete and synchronized file in its place. What appeared there since the check is
    /// not replaced.
    ///
    /// # Errors
    /// If that is not possible.
    pub(crate) fn commit(&self, temporary: Temporary) -> Result<()> {
        if self.replace { temporary.place(&self.path) } else { temporary.commit(&self.path, false) }
    }

    /// Writes the whole content, synchronizes it, and puts it in its place.
    ///
    /// # Errors
    /// If that is not possible; then whatever was there is unchanged.
    pub(crate) fn write(&self, content: &[u8]) -> Result<()> {
        let temporary = self.temporary()?;
        let write = || {
            let mut file = File::create(temporary.path())?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().with_context(ErrorKind::Output, || format!("cannot write {}", quoted(&self.path)))?;
        self.commit(temporary)
    }
}

/// Refuses a name whose ending promises another kind of file.
fn check_ending(path: &Path, kind: &Kind) -> Result<()> {
    let (Some(first), Some(ending)) = (kind.endings.first(), path.extension()) else { return Ok(()) };
    let ending = ending.to_string_lossy().to_lowercase();
    ensure!(
        ErrorKind::Output,
        kind.endings.contains(&ending.as_str()),
        "the output is {}, expected a name that ends in .{first}",
        kind.name
    );
    Ok(())
}

/// Whether a file's beginning has the mark. What cannot be read has not.
fn begins_with_mark(path: &Path, mark: &str) -> bool {
    let mut beginning = vec![];
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    read.is_ok() && beginning.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// Whether a file is an input, is in a folder that is one, or is what a link in such a folder leads
/// to.
fn holds(input: &Path, file: &Path) -> Result<bool> {
    let Ok(real) = input.canonicalize() else {
        // It is not there: that is for its reader to say.
        return Ok(false);
    };
    let mut inputs = vec![real.clone()];
    if real.is_dir() {
        let entries =
            fs::read_dir(&real).with_context(ErrorKind::Output, || format!("cannot read {}", quoted(&real)))?;
        inputs.extend(entries.flatten().filter_map(|entry| entry.path().canonicalize().ok()));
    }
    Ok(places(file)?.iter().any(|place| inputs.iter().any(|input| place.starts_with(input))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, kind: &Kind, inputs: &[&Path], force: bool) -> String {
        format!("{:#}", Destination::new(path, kind, inputs, force).unwrap_err())
    }

    fn write(path: &Path, kind: &Kind, force: bool) {
        let content = format!("<!-- -->{}...", kind.mark.unwrap_or_default());
        Destination::new(path, kind, &[], force).unwrap().write(content.as_bytes()).unwrap();
    }

    #[test]
    fn earlier_outputs_are_replaced_and_other_files_with_force_only() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, name) in [(&PICTURE, "a.svg"), (&PAGE, "b.HTML"), (&MANUAL, "c.1"), (&PAGE, "no-ending")] {
            let path = folder.path().join(name);
            write(&path, kind, false);
            write(&path, kind, false);
            fs::write(&path, "notes").unwrap();
            let message = refused(&path, kind, &[], false);
            assert!(message.contains("it exists already and is not ") && message.contains("--force"), "{message}");
            write(&path, kind, true);
            write(&path, kind, false);
        }
        // What may have cost hours is not recognized at all.
        for (kind, name) in [(&VECTORS, "d.npy"), (&LOGITS, "e.anything")] {
            let path = folder.path().join(name);
            write(&path, kind, false);
            assert!(refused(&path, kind, &[], false).ends_with("it exists already; --force replaces it"));
            write(&path, kind, true);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6, "nothing temporary is left");
    }

    #[test]
    fn no_place_for_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(refused(folder, &LOGITS, &[], true).contains("no ordinary file"));
        assert!(refused(&folder.join("no/x.svg"), &PICTURE, &[], true).contains("is no folder"));
        assert!(refused(&folder.join("x.png"), &PICTURE, &[], true).contains("expected a name that ends in .svg"));
        #[cfg(unix)]
        {
            let (link, target) = (folder.join("link"), folder.join("target"));
            std::os::unix::fs::symlink(&target, &link).unwrap();
            assert!(refused(&link, &LOGITS, &[], true).contains("a link that leads nowhere"));
            fs::write(&target, "notes").unwrap();
            write(&link, &LOGITS, true);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_ne!(fs::read(&target).unwrap(), b"notes", "what the link leads to was replaced");
        }
    }

    #[test]
    fn what_appears_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        let destination = Destination::new(&path, &PICTURE, &[], true).unwrap();
        fs::write(&path, "notes").unwrap();
        destination.write(b"picture").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"notes");
    }

    #[test]
    fn inputs_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [model, blob] = ["model", "blob"].map(|name| folder.path().join(name));
        fs::create_dir(&model).unwrap();
        for path in [&blob, &model.join("config.json"), &model.join("weights.svg")] {
            fs::write(path, "an input").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&blob, model.join("weights")).unwrap();
        let inputs = [model.join("config.json"), model.join("weights.svg"), model.join("../model/config.json")];
        for path in inputs.iter().chain(cfg!(unix).then_some(&blob)) {
            assert!(refused(path, &LOGITS, &[&model], true).contains("is an input"), "{}", path.display());
            if path.exists() && path != &blob {
                assert!(refused(path, &LOGITS, &[path], true).contains("is an input"), "{}", path.display());
            }
        }
        // New files and earlier outputs in such a folder are no inputs.
        let picture = model.join("speed.svg");
        for _ in 0..2 {
            let content = PICTURE.mark.unwrap();
            Destination::new(&picture, &PICTURE, &[&model], false).unwrap().write(content.as_bytes()).unwrap();
        }
    }
}
