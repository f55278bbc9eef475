//! Reads files of a model other than weights. They are as untrusted as any file: only ordinary ones
//! are opened, and each may have so many bytes and no more.

use std::fs::{File, Metadata, read_dir, symlink_metadata};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

use serde::de::DeserializeOwned;

use crate::error::{Error, FileError, FileErrorKind};
use crate::json;
use crate::recognize;

/// Bytes of a file that says what a network is: a hundred times those of the longest.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// Opens an ordinary file and says how long it is: a pipe or a device has no length to trust.
pub(crate) fn open(path: &Path) -> Result<(File, usize), Error> {
    // Asked before the file is opened, too: opening a pipe would wait for someone to write into it.
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

/// Whether a name is taken in a folder, if only by a link to nowhere, which is then reported as
/// such when it is opened.
pub(crate) fn is_there(path: &Path) -> bool {
    symlink_metadata(path).is_ok()
}

/// Whether a name denotes something directly inside a folder, on every system.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name);
    one && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\' | ':'))
}

/// Sorted names of the ordinary files in a folder that are wanted. Names that are not UTF-8 are
/// left out.
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

/// Reads a JSON file that may have up to `most` bytes: what is made of it can be 40 times as large.
pub(crate) fn read_json_within<T: DeserializeOwned>(path: &Path, most: usize) -> Result<T, Error> {
    let text = read_text(path, most)?;
    let bad = |error| FileError::new(FileErrorKind::Json, format!("not the JSON that is expected here: {error}"));
    Ok(json::parse(&text).map_err(|error| bad(error).in_file(path))?)
}

/// Reads a file that says something of a model. It may have so many bytes, and is no pipe or
/// device.
pub(crate) fn read_text(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let (mut file, len) = open(path)?;
    if len > most {
        let message = format!("{len} bytes, expected at most {most}");
        return Err(FileError::new(FileErrorKind::TooLong, message).in_file(path).into());
    }
    let mut text = vec![0; len];
    file.read_exact(&mut text).map_err(Error::io(path))?;
    match recognize::replaced(&text) {
        Some(error) => Err(error.in_file(path).into()),
        None => Ok(text),
    }
}
