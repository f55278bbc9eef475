//! Recognizes files that are not what they should be: for each common mistake, a message names it
//! and says what to do.

use std::fs;
use std::path::Path;

use crate::error::{FileError, FileErrorKind};

/// Number of leading bytes of a file that suffice to recognize it.
pub(crate) const BEGINNING: usize = 512;

/// The leading bytes of other kinds of files, and the message for each.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"GGUF", "a GGUF file in place of a safetensors file: give its own path"),
    (b"lmgg", BEFORE_GGUF),
    (b"fmgg", BEFORE_GGUF),
    (b"tjgg", BEFORE_GGUF),
    (b"PK\x03\x04", "a zip archive, as torch.save writes it: load it in PyTorch and save it as safetensors"),
    (b"\x80", "a Python pickle, as torch.save writes it: load it in PyTorch and save it as safetensors"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it: load it in its framework and save it as safetensors"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"{", "JSON text, expected a .safetensors file or a folder with one"),
];

const BEFORE_GGUF: &str = "a GGML file of the time before GGUF: give the original checkpoint that it was made from";

/// Recognizes a file that is not of a kind that is read by its first bytes.
pub(crate) fn by_beginning(bytes: &[u8]) -> Option<FileError> {
    let bytes = &bytes[..bytes.len().min(BEGINNING)];
    if let Some(error) = replaced(bytes) {
        return Some(error);
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Some(foreign(*what));
    }
    let line = bytes.split(|&b| matches!(b, b'\n' | b'\r')).next().unwrap_or_default();
    let text = std::str::from_utf8(&line[..line.len().min(40)]).ok()?;
    let is_text = text.len() >= 8 && !text.contains(char::is_control);
    is_text.then(|| foreign(format!("text that begins {text:?}, expected weights: download the file again")))
}

/// Recognizes what stands in place of a file, text or not, whose content was not downloaded.
pub(crate) fn replaced(bytes: &[u8]) -> Option<FileError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        let what = "a Git LFS pointer in place of the file itself: run `git lfs pull` in its folder, or download it";
        return Some(foreign(what));
    }
    let text = bytes.trim_ascii();
    if text.starts_with(b"../") && text.len() < BEGINNING && !text.contains(&b'\n') {
        let what = "the text of a link in place of the file that it leads to: copy or download the file itself";
        return Some(foreign(what));
    }
    let begins = |tag: &[u8]| text.get(..tag.len()).is_some_and(|text| text.eq_ignore_ascii_case(tag));
    (begins(b"<!doctype html") || begins(b"<html"))
        .then(|| foreign("an HTML page in place of the file, such as a login or error page: download it again"))
}

/// Recognizes a link whose target is missing.
pub(crate) fn dangling(path: &Path) -> Option<FileError> {
    let target = fs::read_link(path).ok()?;
    (!path.exists()).then(|| foreign(format!("{}: download it again", to_nowhere(&target))).in_file(path))
}

pub(crate) fn to_nowhere(target: &Path) -> String {
    format!("a link to {target:?}, which is missing (an interrupted download, or a file that was moved)")
}

/// Returns the error for anything other than a checkpoint of plain weights.
pub(crate) fn foreign(message: impl Into<String>) -> FileError {
    FileError::new(FileErrorKind::Foreign, message)
}
