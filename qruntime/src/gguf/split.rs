//! Models that are split into several files, as `llama-gguf-split` does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::parse::Header;
use super::value::Value;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::is_there;

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Most files of a model: the names number them with five digits.
const MAX_PARTS: usize = 99_999;

fn refuse(message: String) -> FileError {
    FileError::new(FileErrorKind::Shards, message)
}

/// Reads an integer of the metadata; `None` if it is missing.
fn size(header: &Header, key: &str, most: usize) -> Result<Option<usize>, FileError> {
    let Some(value) = header.values.get(key) else { return Ok(None) };
    let size = match *value {
        Value::Unsigned(number) => usize::try_from(number).ok(),
        Value::Signed(number) => usize::try_from(number).ok(),
        _ => None,
    };
    let expected = format!("an integer from 0 to {most}");
    size.filter(|size| *size <= most)
        .map(Some)
        .ok_or_else(|| refuse(format!("\"{key}\": {value}, expected {expected}")))
}

/// Returns how many files the model has that this file is of. Programs that join files write 0.
fn count(header: &Header) -> Result<usize, FileError> {
    Ok(size(header, COUNT, MAX_PARTS)?.unwrap_or(1).max(1))
}

/// Returns which file of its model this is, from 0.
fn number(header: &Header, count: usize) -> Result<usize, FileError> {
    size(header, NUMBER, count - 1)?.ok_or_else(|| refuse(format!("one of {count} files, but \"{NUMBER}\" is missing")))
}

/// Refuses one of several files.
pub(super) fn whole(header: &Header) -> Result<(), FileError> {
    match count(header)? {
        1 => Ok(()),
        count => {
            let number = number(header, count)? + 1;
            Err(refuse(format!("file {number} of {count}, without the others: open it by its path")))
        }
    }
}

/// Returns the paths of all files of the model that the file at `path` is of; `None` if it is the
/// only one.
pub(super) fn parts(path: &Path, header: &Header) -> Result<Option<Vec<PathBuf>>, FileError> {
    let find = || {
        let count = count(header)?;
        if count == 1 {
            return Ok(None);
        }
        let number = number(header, count)?;
        let ending = |number: usize| format!("-{:05}-of-{count:05}.gguf", number + 1);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(&ending(number)).ok_or_else(|| {
            let expected = ending(number);
            refuse(format!("file {} of {count}, whose name must end with \"{expected}\"", number + 1))
        })?;
        let paths: Vec<PathBuf> = (0..count).map(|i| path.with_file_name(format!("{stem}{}", ending(i)))).collect();
        match paths.iter().position(|path| !is_there(path)) {
            None => Ok(Some(paths)),
            Some(missing) => {
                let name = paths[missing].file_name().unwrap_or_default();
                Err(refuse(format!("file {} of {count} of this model is missing: {name:?}: download it", missing + 1)))
            }
        }
    };
    find().map_err(|error: FileError| error.in_file(path))
}

/// Checks that the files are those of one model, each once and in order.
pub(super) fn check(paths: &[PathBuf], headers: &[Header]) -> Result<(), Error> {
    let (Some((first, others)), count) = (headers.split_first(), headers.len()) else { return Ok(()) };
    if count == 1 {
        return Ok(());
    }
    let in_file = |file: usize| move |error: FileError| error.in_file(&paths[file]);
    let name = |file: usize| paths[file].file_name().unwrap_or_default();
    let announced = size(first, TENSORS, usize::MAX).map_err(in_file(0))?;
    let mut tensors = HashMap::new();
    for (i, header) in headers.iter().enumerate() {
        same(i, header, first, count).map_err(in_file(i))?;
        for info in &header.tensors {
            if let Some(other) = tensors.insert(info.name.as_str(), i) {
                let message = format!("also in {:?}", name(other));
                let error = FileError { kind: FileErrorKind::Shards, ..FileError::tensor(&info.name, message) };
                return Err(error.in_file(&paths[i]).into());
            }
        }
    }
    debug_assert_eq!(others.len() + 1, count);
    match announced {
        Some(announced) if announced != tensors.len() => {
            let message = format!("\"{TENSORS}\": {announced}, but {} in its {count} files together", tensors.len());
            Err(refuse(message).in_file(&paths[0]).into())
        }
        _ => Ok(()),
    }
}

/// Checks that a file is the `i`th of the model that `first` is of.
fn same(i: usize, header: &Header, first: &Header, files: usize) -> Result<(), FileError> {
    let found = count(header)?;
    if found != files {
        return Err(refuse(format!("one of {found} files, expected file {} of {files}", i + 1)));
    }
    let number = number(header, files)?;
    if number != i {
        return Err(refuse(format!("file {} of {files}, expected file {}", number + 1, i + 1)));
    }
    // The later files usually have no more keys than those of the split.
    for (key, value) in &header.values {
        if let Some(expected) = first.values.get(key).filter(|expected| *expected != value && key != NUMBER) {
            return Err(refuse(format!(
                "of another model than the first file: \"{key}\": {value}, expected {expected}"
            )));
        }
    }
    Ok(())
}
