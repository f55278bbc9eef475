//! Safetensors: a file, or a Hugging Face folder with one or with shards.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qruntime::checkpoint::{Checkpoint, Reader, refuse_foreign};
use qruntime::container::{Entry, Header};
use qruntime::{Error, FileErrorKind};

use super::float::Float;
use super::scheme::{self, Claims, Composed, Raw};
use super::shard::Shard;
use super::stamp::Stamp;
use super::tensor::{Stored, TensorInfo};
use super::{CONFIG, Companions, Source, SourceError};

/// Bytes that are read before they are converted: enough to hide the cost of a system call, and
/// they stay in cache.
const PIECE: usize = 64 * 1024;

/// Whether a path names a file of this kind, or a folder: which files a folder has is found out
/// when it is opened.
pub(super) fn recognizes(path: &Path) -> bool {
    !path.is_file() || path.extension().is_some_and(|extension| extension == "safetensors")
}

/// The error for a file that no container recognizes. It says what the file is, where its beginning
/// tells.
pub(super) fn refuse(path: &Path) -> SourceError {
    match Header::read(path) {
        Err(Error::File(error)) if error.kind() == FileErrorKind::Foreign => Error::File(error).into(),
        _ => SourceError::checkpoint(path, None, "expected a .safetensors file or a folder with one"),
    }
}

/// Whether a file says in its metadata what its packed tensors mean: whether it is a model that
/// this program wrote.
pub(crate) fn is_described(header: &Header) -> bool {
    header.metadata.contains_key("qruntime")
}

/// Opens a file and returns it with its tensors in the order of their data.
fn open_file(path: PathBuf) -> Result<(Shard, Vec<Entry>), SourceError> {
    let (header, file) = Header::read(&path)?;
    if is_described(&header) {
        let problem = "already quantized by qruntime; convert the original checkpoint";
        return Err(SourceError::checkpoint(&path, None, problem));
    }
    Ok((Shard::new(path, file)?, header.entries))
}

/// The tensors of the files as such, before any scheme has claimed some of them.
#[derive(Debug)]
struct RawTensors {
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Where the data of each of `tensors` begins.
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    /// Number of the file in `RawTensors::shards`.
    file: usize,
    /// Of the first byte in the file.
    offset: u64,
}

impl RawTensors {
    fn open(checkpoint: &Checkpoint) -> Result<Self, SourceError> {
        let mut raw = Self { shards: Vec::with_capacity(checkpoint.files().len()), tensors: vec![], places: vec![] };
        for (file, path) in checkpoint.files().iter().enumerate() {
            let (shard, entries) = open_file(path.clone())?;
            raw.shards.push(shard);
            for entry in entries {
                let stored = Stored::Plain(entry.storage().dtype());
                raw.tensors.push(TensorInfo::new(entry.name(), entry.shape(), stored, entry.bytes()));
                raw.places.push(Place { file, offset: entry.range().start as u64 });
            }
        }
        Ok(raw)
    }

    fn read_at(&self, tensor: usize, start: usize, out: &mut [u8]) -> Result<(), SourceError> {
        let offset = self.places[tensor].offset + start as u64;
        self.shard(tensor).read_at(self.tensors[tensor].name(), out, offset)
    }

    /// Refuses a range that is not within `len`, or not as long as the buffer it is read into.
    fn check_range(
        &self,
        tensor: usize,
        what: &str,
        range: &Range<usize>,
        len: usize,
        out: usize,
    ) -> Result<(), SourceError> {
        if range.start <= range.end && range.end <= len && range.len() == out {
            return Ok(());
        }
        Err(self.request(tensor, format!("{what} {range:?} of {len} into a buffer of {out}")))
    }

    fn request(&self, tensor: usize, problem: String) -> SourceError {
        SourceError::request(&self.shard(tensor).path, Some(self.tensors[tensor].name()), problem)
    }

    fn shard(&self, tensor: usize) -> &Shard {
        &self.shards[self.places[tensor].file]
    }
}

impl Raw for RawTensors {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read_f32(
        &self,
        tensor: usize,
        elements: Range<usize>,
        out: &mut [f32],
        then: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<(), SourceError> {
        let info = &self.tensors[tensor];
        let Some(float) = Float::of(info.dtype()) else {
            let problem = format!("{} elements, expected a floating-point type", info.dtype());
            return Err(self.request(tensor, problem));
        };
        self.check_range(tensor, "elements", &elements, info.elements(), out.len())?;
        let size = float.size();
        let mut start = elements.start;
        let mut scratch = vec![0; PIECE.min(out.len() * size)];
        for piece in out.chunks_mut(PIECE / size) {
            let bytes = &mut scratch[..piece.len() * size];
            self.read_at(tensor, start * size, bytes)?;
            float.decode(bytes, piece);
            then(start, piece);
            start += piece.len();
        }
        Ok(())
    }

    fn read_bytes(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        self.check_range(tensor, "bytes", &bytes, self.tensors[tensor].bytes(), out.len())?;
        self.read_at(tensor, bytes.start, out)
    }

    fn refused(&self, tensor: usize, problem: String) -> SourceError {
        SourceError::checkpoint(&self.shard(tensor).path, Some(self.tensors[tensor].name()), problem)
    }
}

/// Where the elements of a listed tensor are.
#[derive(Debug)]
enum Content {
    /// They are those of this raw tensor.
    Raw,
    /// A scheme makes them.
    Composed(Box<dyn Composed>),
}

/// An open checkpoint of safetensors files.
#[derive(Debug)]
struct Safetensors {
    path: PathBuf,
    raw: RawTensors,
    tensors: Vec<TensorInfo>,
    /// For each of `tensors` the raw tensor in whose place it is, and its content.
    contents: Vec<(usize, Content)>,
    positions: HashMap<String, usize>,
    total_bytes: u64,
    companions: Companions,
    /// The companions as they were when the checkpoint was opened.
    stamps: Vec<Stamp>,
    dropped: Vec<String>,
    warnings: Vec<String>,
}

/// Opens a file, or the files of a folder.
pub(super) fn open(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let checkpoint = Checkpoint::find(path)?;
    let raw = RawTensors::open(&checkpoint)?;
    let names = raw.tensors.iter().map(TensorInfo::name);
    checkpoint.check(raw.places.iter().map(|place| place.file).zip(names))?;
    if raw.tensors.is_empty() {
        return Err(SourceError::checkpoint(path, None, "no tensors"));
    }

    let is_folder = path.is_dir();
    let folder = if is_folder { path } else { path.parent().unwrap_or(path) };
    // The config beside a single file says what its weights are, too; but it does not belong to
    // what was named.
    let config = Companions::read_config(folder)?;
    let companions = if is_folder { Companions::find(path, config.clone())? } else { Companions::default() };
    let stamps = companions.files().map(|file| Stamp::at(&file)).collect::<Result<_, _>>()?;
    let claims = scheme::claim(&raw, config.as_ref(), &folder.join(CONFIG));
    let is_left = |i: &usize| claims.as_ref().is_ok_and(|claims| !claims.is_claimed(*i));
    let left = (0..raw.tensors.len()).filter(is_left).map(|i| &raw.tensors[i]);
    let described = left.map(|tensor| (tensor.name(), tensor.dtype(), tensor.shape()));
    // Files of a method that is not decoded are refused as that, whatever else is wrong.
    // Beside codes that do not fit, their error says more.
    let has_decoded = claims.as_ref().map_or(true, |claims| !claims.composed.is_empty());
    let reader = Reader::Converter { has_decoded };
    refuse_foreign(path, |field| config.as_ref()?.get(field), described, reader)?;
    let claims = claims?;
    let source = Safetensors::new(path, raw, claims, companions, stamps, checkpoint.warnings().to_vec());
    if source.positions.len() != source.tensors.len() {
        let twice = source.tensors.iter().enumerate().find(|(i, info)| source.positions[info.name()] != *i);
        let name = twice.map(|(_, info)| info.name());
        return Err(SourceError::checkpoint(path, name, "is there twice: plain, and as codes of a quantized weight"));
    }
    Ok(Box::new(source))
}

impl Safetensors {
    fn new(
        path: &Path,
        raw: RawTensors,
        mut claims: Claims,
        companions: Companions,
        stamps: Vec<Stamp>,
        mut warnings: Vec<String>,
    ) -> Self {
        warnings.append(&mut claims.warnings);
        let mut tensors = vec![];
        let mut contents = vec![];
        for (i, info) in raw.tensors.iter().enumerate() {
            if let Some((info, composed)) = claims.composed.remove(&i) {
                tensors.push(info);
                contents.push((i, Content::Composed(composed)));
            } else if !claims.is_gone(i) {
                tensors.push(info.clone());
                contents.push((i, Content::Raw));
            }
        }
        Self {
            path: path.to_path_buf(),
            positions: tensors.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect(),
            total_bytes: raw.tensors.iter().map(|tensor| tensor.bytes() as u64).sum(),
            dropped: claims.dropped.iter().map(|&i| raw.tensors[i].name().to_owned()).collect(),
            tensors,
            contents,
            raw,
            companions,
            stamps,
            warnings,
        }
    }

    fn content(&self, tensor: usize) -> Result<&(usize, Content), SourceError> {
        let count = self.contents.len();
        let problem = || format!("no tensor {tensor}, expected one of {count}");
        self.contents.get(tensor).ok_or_else(|| SourceError::request(&self.path, None, problem()))
    }
}

impl Source for Safetensors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Vec<&Path> {
        self.raw.shards.iter().map(|shard| shard.path.as_path()).collect()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    fn read_f32(&self, tensor: usize, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        match self.content(tensor)? {
            (raw, Content::Raw) => self.raw.read_f32(*raw, elements, out, &mut |_, _| {}),
            (raw, Content::Composed(composed)) => {
                let len = self.tensors[tensor].elements();
                self.raw.check_range(*raw, "elements", &elements, len, out.len())?;
                composed.read_f32(&self.raw, elements, out)
            }
        }
    }

    fn read_stored(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        match self.content(tensor)? {
            (raw, Content::Raw) => self.raw.read_bytes(*raw, bytes, out),
            (raw, Content::Composed(_)) => {
                Err(self.raw.request(*raw, "bytes of codes that have scales, expected a tensor of its own".into()))
            }
        }
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.raw.shards.iter().map(|shard| &shard.stamp).chain(&self.stamps).try_for_each(Stamp::check)
    }

    fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
