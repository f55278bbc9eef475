//! Reads files of a model other than weights. They are untrusted: only ordinary files are opened,
//! and each has a maximum size.

use std::fs::{File, Metadata, read_dir, symlink_metadata};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Error, FileError, FileErrorKind};
use crate::json;
use crate::recognize;

/// Maximum size of a file that describes a network: a hundred times the largest known.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// Opens an ordinary file and returns its length; pipes and devices have none to trust.
pub(crate) fn open(path: &Path) -> Result<(File, usize), Error> {
    // Checked before the file is opened, too: opening a pipe would wait for a writer.
    let ordinary = |metadata: Metadata| {
        let len = usize::try_from(metadata.len()).ok().filter(|_| metadata.is_file());
        len.ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidInput, "not an ordinary file that fits the address space")
        })
    };
    let open = || {
        ordinary(std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        let len = ordinary(file.metadata()?)?;
        Ok((file, len))
    };
    open().map_err(|error: std::io::Error| match recognize::dangling(path) {
        Some(dangling) if error.kind() == ErrorKind::NotFound => dangling.into(),
        _ => Error::io(path)(error),
    })
}

/// Returns whether a path exists, even as a dangling link; opening that then reports it.
pub(crate) fn is_there(path: &Path) -> bool {
    symlink_metadata(path).is_ok()
}

/// Returns whether a name denotes something directly inside a folder, on every system.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name);
    one && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\' | ':'))
}

/// Returns the names of the `wanted` ordinary files in a folder, sorted. Names that are not UTF-8
/// are left out.
///
/// # Errors
/// If the folder cannot be read.
pub fn file_names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && wanted(&name)
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a JSON file of at most `most` bytes: the parsed value can be 40 times as large.
pub(crate) fn read_json_within<T: DeserializeOwned>(path: &Path, most: usize) -> Result<T, Error> {
    Ok(parse_json(&read_text(path, most)?).map_err(|error| error.in_file(path))?)
}

/// Parses the content of a JSON file.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, FileError> {
    let bad = |error| FileError::new(FileErrorKind::Json, format!("not the JSON that is expected here: {error}"));
    json::parse(text).map_err(bad)
}

/// Refuses a file of more than `most` bytes.
pub(crate) fn check_length(len: usize, most: usize) -> Result<(), FileError> {
    if len > most {
        let message = format!("{len} bytes, expected at most {most}");
        return Err(FileError::new(FileErrorKind::TooLong, message));
    }
    Ok(())
}

/// Returns where `config.json` and its companions are: in the folder, or beside the file.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !path.is_dir() => parent.into(),
        _ => path.into(),
    }
}

/// Reads a file of a model. It may have at most `most` bytes and must not be a pipe or device.
pub(crate) fn read_text(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let (mut file, len) = open(path)?;
    check_length(len, most).map_err(|error| error.in_file(path))?;
    let mut text = vec![0; len];
    file.read_exact(&mut text).map_err(Error::io(path))?;
    match recognize::replaced(&text) {
        Some(error) => Err(error.in_file(path).into()),
        None => Ok(text),
    }
}
