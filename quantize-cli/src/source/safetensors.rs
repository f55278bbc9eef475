//! One safetensors file: its header, and positioned reads of its data.
//!
//! `safetensors` parses the entries but is not given the file: it wants all of it in memory, and a map would count
//! as this process's memory while a model many times larger than that passes through. So the relations between
//! entries and file are checked here, and each refusal can name the tensor.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{SourceError, SourceTensor};

/// The longest header that the format allows, so also the most that is read before anything is checked.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// An open file of tensors.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    file: File,
}

impl Shard {
    /// Opens a file and returns it with its tensors in the order of their data; their file has the number `number`.
    pub(super) fn open(path: PathBuf, number: usize) -> Result<(Self, Vec<SourceTensor>), SourceError> {
        let length = regular_file_length(&path)?;
        let file = File::open(&path).map_err(|error| SourceError::io(&path, error))?;
        let shard = Self { path, file };
        let malformed = |problem: String| SourceError::checkpoint(&shard.path, problem);

        let Some(rest) = length.checked_sub(PREFIX) else {
            return Err(malformed(format!("{length} bytes, too few for the length of a safetensors header")));
        };
        let mut prefix = [0; PREFIX as usize];
        shard.read_at(&mut prefix, 0)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER {
            return Err(malformed(format!("a header of {header_length} bytes, expected at most {MAX_HEADER}")));
        }
        let Some(data_length) = rest.checked_sub(header_length) else {
            return Err(malformed(format!("a header of {header_length} bytes, but only {rest} follow its length")));
        };
        let mut header = vec![0; header_length as usize];
        shard.read_at(&mut header, PREFIX)?;
        let Header { entries, converted } =
            serde_json::from_slice(&header).map_err(|error| SourceError::json(&shard.path, error))?;

        if converted {
            return Err(malformed("a converted model, expected the checkpoint that one is made from".into()));
        }
        let tensors = place(entries, number, PREFIX + header_length..length)
            .map_err(|(name, problem)| malformed(problem).of_tensor(&name))?;
        let expected: u64 = tensors.iter().map(|tensor| tensor.bytes as u64).sum();
        if data_length != expected {
            return Err(malformed(format!("{data_length} bytes of data, but the tensors are only {expected}")));
        }
        Ok((shard, tensors))
    }

    /// Fills `buffer` with the file's bytes from `offset`.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        read_exact_at(&self.file, buffer, offset).map_err(|error| SourceError::io(&self.path, error))
    }
}

/// The length of a file that can be opened without waiting: a pipe would hang.
pub(super) fn regular_file_length(path: &Path) -> Result<u64, SourceError> {
    let metadata = fs::metadata(path).map_err(|error| SourceError::io(path, error))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(SourceError::checkpoint(path, "not a regular file")) }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Checks that the tensors tile the data without gap or overlap, as the format demands, and that each is as long as
/// its type and shape say. The data lies at `data` in the file `file`. An error is a tensor's name and what is wrong.
fn place(
    mut entries: Vec<(String, TensorInfo)>,
    file: usize,
    data: Range<u64>,
) -> Result<Vec<SourceTensor>, (String, String)> {
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let data_length = data.end - data.start;
    let mut next = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in entries {
        let Some(bytes) = end.checked_sub(begin).filter(|_| begin == next) else {
            return Err((name, format!("data at {begin}..{end}, expected to begin at {next}")));
        };
        if end as u64 > data_length {
            return Err((name, format!("data at {begin}..{end}, but the file has only {data_length} bytes of data")));
        }
        let Some(bits) = shape.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim)) else {
            return Err((name, format!("shape {shape:?} is larger than any memory")));
        };
        if bytes.checked_mul(8) != Some(bits) {
            return Err((name, format!("{bytes} bytes, expected {bits} bits for {dtype} {shape:?}")));
        }
        next = end;
        let (elements, offset) = (bits / dtype.bitsize(), data.start + begin as u64);
        tensors.push(SourceTensor { name, dtype, shape, elements, bytes, file, offset, scales: None });
    }
    Ok(tensors)
}

/// The entries of a header. The crate's own type keeps them in a map, where the last of two equal names wins unseen.
struct Header {
    entries: Vec<(String, TensorInfo)>,
    /// Whether the metadata describes packed tensors, which would pass for plain bytes here.
    converted: bool,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        let mut converted = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let metadata: Option<HashMap<String, IgnoredAny>> = map.next_value()?;
                converted = metadata.is_some_and(|metadata| metadata.contains_key(qruntime::container::KEY));
                continue;
            }
            let info = map.next_value().map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor {name:?} appears twice")));
            }
            entries.push((name, info));
        }
        Ok(Header { entries, converted })
    }
}
