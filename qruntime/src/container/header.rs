//! Reads the header of a safetensors file into a table of contents, and checks every entry against
//! the file.
//!
//! The crate `safetensors` is not used for this: it first builds a tree of the whole text, which
//! takes up to fifty times its size, adds up the ends of tensors unchecked, and needs the whole
//! file in memory.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::write::plain_bytes;
use super::{Entry, MAX_HEADER, METADATA, Storage};
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::open;
use crate::recognize::{BEGINNING, by_beginning};

/// Bytes before the header, which hold its length.
const PREFIX: usize = size_of::<u64>();

/// The table of contents of any safetensors file, as the format defines it: packed tensors appear
/// as the plain bytes in which they are stored.
///
/// This is for programs that read tensors piece by piece; [`Model`](crate::Model) is for programs
/// that compute with them.
#[derive(Debug)]
pub struct Header {
    /// The metadata; empty if the file has none.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, all of them plain, in the order of their data: each begins where the previous
    /// one ends, and the last ends with the file.
    pub entries: Vec<Entry>,
}

impl Header {
    /// Reads only the header of a file. Also returns the file: [`Entry::range`] says where in it a
    /// tensor is.
    ///
    /// # Errors
    /// If the file cannot be read, is not an ordinary file, or is not a complete safetensors file.
    pub fn read(path: &Path) -> Result<(Self, File), Error> {
        let (mut file, file_bytes) = open(path)?;
        let mut beginning = vec![0; file_bytes.min(PREFIX)];
        file.read_exact(&mut beginning).map_err(Error::io(path))?;
        let len = match Self::length(&beginning, file_bytes) {
            Ok(len) => len,
            Err(error) => {
                let mut more = vec![0; BEGINNING.min(file_bytes - beginning.len())];
                file.read_exact(&mut more).map_err(Error::io(path))?;
                beginning.extend(more);
                return Err(by_beginning(&beginning).unwrap_or(error).in_file(path).into());
            }
        };
        let mut text = vec![0; len];
        file.read_exact(&mut text).map_err(Error::io(path))?;
        Ok((Self::parse(&text, file_bytes).map_err(|error| error.in_file(path))?, file))
    }

    /// Reads the header of a file in memory.
    pub(super) fn of(file: &[u8]) -> Result<Self, FileError> {
        let len = Self::length(file, file.len()).map_err(|error| by_beginning(file).unwrap_or(error))?;
        Self::parse(&file[PREFIX..][..len], file.len())
    }

    /// Returns the length of the header, which then fits in the file. `beginning` is at least the
    /// first eight bytes of the file, or all of it if there are fewer.
    fn length(beginning: &[u8], file_bytes: usize) -> Result<usize, FileError> {
        let len = *beginning.first_chunk().ok_or_else(|| {
            bad(format!("{file_bytes} bytes, shorter than the length of its header, expected at least {PREFIX}"))
        })?;
        let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
        if len == 0 {
            return Err(bad("header of 0 bytes: the file was perhaps not written or downloaded to its end".into()));
        }
        let rest = file_bytes - PREFIX;
        if len > MAX_HEADER {
            return Err(bad(format!("header of {len} bytes, expected at most {MAX_HEADER}")));
        }
        if len > rest {
            return Err(bad(format!("header of {len} bytes, of which {rest} are there")));
        }
        Ok(len)
    }

    /// Parses the header from its text. The data follows it up to the end of the file.
    fn parse(text: &[u8], file_bytes: usize) -> Result<Self, FileError> {
        let text = std::str::from_utf8(text).map_err(|e| bad(format!("header: {e}")))?;
        let Text { metadata, tensors } = serde_json::from_str(text).map_err(|e| bad(format!("header: {e}")))?;
        let entries = tile(tensors, PREFIX + text.len(), file_bytes)?;
        Ok(Self { metadata: metadata.unwrap_or_default(), entries })
    }
}

fn bad(message: String) -> FileError {
    FileError::new(FileErrorKind::NotSafetensors, format!("not a whole safetensors file: {message}"))
}

/// The header as written in the file. A repeated tensor is in the list twice.
#[derive(Default)]
struct Text {
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut text = Text::default();
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                let info = map.next_value().map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
                text.tensors.push((name, info));
            } else if text.metadata.is_some() {
                return Err(A::Error::custom("metadata is there twice"));
            } else {
                // Some writers write `null` if they have none.
                text.metadata = Some(map.next_value::<Option<_>>()?.unwrap_or_default());
            }
        }
        Ok(text)
    }
}

/// Checks that the tensors follow each other without gap or overlap up to the end of the file, that
/// their ranges agree with their shapes, and that names are unique. `data` is the offset of the
/// data in the file.
fn tile(mut tensors: Vec<(String, TensorInfo)>, data: usize, file_bytes: usize) -> Result<Vec<Entry>, FileError> {
    let kind = FileErrorKind::NotSafetensors;
    let data_bytes = file_bytes - data;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut entries = Vec::with_capacity(tensors.len());
    let mut at = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in tensors {
        let bad = |message: String| FileError { kind, ..FileError::tensor(&name, message) };
        if start != at || end < start {
            return Err(bad(format!(
                "bytes {start}..{end} of the data, expected to begin at {at}, after the one before"
            )));
        }
        if end > data_bytes {
            return Err(bad(format!("bytes {start}..{end} of the data, of which {data_bytes} are there")));
        }
        let expected = plain_bytes(dtype, &shape).ok_or_else(|| {
            bad(format!("{dtype} {shape:?}, expected a whole number of bytes, of a representable size"))
        })?;
        if end - start != expected {
            return Err(bad(format!("{} bytes, expected {expected} for {dtype} {shape:?}", end - start)));
        }
        at = end;
        let range = data + start..data + end;
        entries.push(Entry { name, storage: Storage::Plain(dtype), shape, range, checksum: None });
    }
    if at != data_bytes {
        return Err(bad(format!("its tensors end at byte {at} of {data_bytes} bytes of data")));
    }
    let mut names = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !names.insert(&entry.name)) {
        Some(Entry { name, .. }) => Err(FileError { kind, ..FileError::tensor(name, "there twice") }),
        None => Ok(entries),
    }
}
