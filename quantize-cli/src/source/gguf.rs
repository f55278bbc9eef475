//! GGUF: a file, or the files of a split model, as the checkpoint that a Hugging Face folder holds.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qruntime::gguf::{ElementType, Gguf, GgufTensor, Piece, config_files, pieces, tokenizer_files};
use qruntime::{Error, FileError};

use super::float::Float;
use super::shard::Shard;
use super::stamp::Stamp;
use super::tensor::{Stored, TensorInfo};
use super::{Companions, Source, SourceError};

/// Bytes that are read before they are decoded, as of other containers.
const PIECE: usize = 64 * 1024;

/// Most names of unused tensors that a warning has.
const NAMED: usize = 3;

/// The key of a file that has a tokenizer.
const TOKENIZER: &str = "tokenizer.ggml.model";

/// Whether a path names a GGUF file, whatever its ending.
pub(super) fn recognizes(path: &Path) -> bool {
    path.is_file() && Gguf::is_gguf(path)
}

/// An open GGUF model.
#[derive(Debug)]
struct GgufSource {
    path: PathBuf,
    /// The tensors of the files as such.
    files: Files,
    tensors: Vec<TensorInfo>,
    /// For each of `tensors` what it is made of.
    pieces: Vec<Piece>,
    /// For each of `tensors` the factor of its elements.
    factors: Vec<Option<f32>>,
    positions: HashMap<String, usize>,
    companions: Companions,
    warnings: Vec<String>,
}

/// Opens the model of which a file is one.
pub(super) fn open(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let files = Files::open(path)?;
    let found = pieces(&files.gguf).map_err(|error| in_file(error, path))?;
    if found.pieces.is_empty() {
        return Err(SourceError::checkpoint(path, None, "no tensors"));
    }
    let read = |tensor: usize| files.read_whole(tensor);
    let mut warnings: Vec<String> = unused(&files.gguf, &found.unused).into_iter().collect();
    let mut made = config_files(&files.gguf, &read)?;
    if files.gguf.metadata().get(TOKENIZER).is_some() {
        match tokenizer_files(files.gguf.metadata()) {
            Ok(tokenizer) => made.extend(tokenizer),
            // The weights can be converted all the same.
            Err(error) => warnings.push(format!("left out the tokenizer: {error}")),
        }
    }
    let made = made.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let companions =
        Companions::made(made).map_err(|error| SourceError::checkpoint(path, None, format!("metadata: {error}")))?;
    let of = |piece: &Piece| &files.gguf.tensors()[piece.tensor];
    let tensors: Vec<TensorInfo> = found.pieces.iter().map(|piece| describe(piece, of(piece))).collect();
    let factor = |piece: &Piece| piece.factor.map(|(tensor, element)| files.read_element(tensor, element)).transpose();
    Ok(Box::new(GgufSource {
        path: path.into(),
        positions: tensors.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect(),
        factors: found.pieces.iter().map(factor).collect::<Result<_, _>>()?,
        warnings,
        tensors,
        pieces: found.pieces,
        companions,
        files,
    }))
}

/// Puts the path into an error of the headers that names no file.
fn in_file(error: FileError, path: &Path) -> SourceError {
    match error.path() {
        Some(_) => Error::from(error).into(),
        None => SourceError::checkpoint(path, None, error.to_string()),
    }
}

/// Says which tensors are left out.
fn unused(gguf: &Gguf, unused: &[usize]) -> Option<String> {
    let names = unused.iter().take(NAMED).map(|&i| format!("\"{}\"", gguf.tensors()[i].name().escape_debug()));
    let names: Vec<String> = names.collect();
    let more = match unused.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = format!("left out {}{more}: tensors that such a network does not use", names.join(", "));
    (!names.is_empty()).then_some(what)
}

/// Describes a tensor of the checkpoint.
fn describe(piece: &Piece, tensor: &GgufTensor) -> TensorInfo {
    let is_changed = piece.add != 0.0 || piece.factor.is_some();
    let is_matrix = tensor.shape().len() > 1 && piece.shape.last() == tensor.shape().last();
    let stored = match tensor.element_type() {
        ElementType::Plain(dtype) if !is_changed => Stored::Plain(dtype),
        ElementType::Blocks(format) if !is_changed && is_matrix => Stored::Blocks(format),
        element_type => Stored::Decoded(element_type),
    };
    let elements: usize = piece.shape.iter().product();
    let (range, all) = (tensor.range(), tensor.elements().max(1));
    let bytes = u128::from(range.end - range.start) * elements as u128 / all as u128;
    TensorInfo::new(&piece.name, &piece.shape, stored, bytes as usize)
}

/// The files, and the tensors in them.
#[derive(Debug)]
struct Files {
    gguf: Gguf,
    shards: Vec<Shard>,
}

impl Files {
    fn open(path: &Path) -> Result<Self, SourceError> {
        let gguf = Gguf::open(path)?;
        let open = |path: &PathBuf| {
            let file = File::open(path).map_err(|source| Error::Io { path: path.clone(), source })?;
            Shard::new(path.clone(), file)
        };
        let shards = gguf.paths().iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { gguf, shards })
    }

    fn shard(&self, tensor: usize) -> &Shard {
        &self.shards[self.gguf.tensors()[tensor].file()]
    }

    /// Reads all bytes of a tensor.
    fn read_whole(&self, tensor: usize) -> Result<Vec<u8>, Error> {
        let range = self.gguf.tensors()[tensor].range();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.shard(tensor).read(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn read_element(&self, tensor: usize, element: usize) -> Result<f32, SourceError> {
        let mut factor = [0.0];
        self.read_f32(tensor, element, &mut factor)?;
        Ok(factor[0])
    }

    fn read_bytes(&self, tensor: usize, start: usize, out: &mut [u8]) -> Result<(), SourceError> {
        let found = &self.gguf.tensors()[tensor];
        self.shard(tensor).read_at(found.name(), out, found.range().start + start as u64)
    }

    /// Reads elements of a tensor as they follow each other in the file, from `start` on.
    fn read_f32(&self, tensor: usize, mut start: usize, mut out: &mut [f32]) -> Result<(), SourceError> {
        let element_type = self.gguf.tensors()[tensor].element_type();
        let (len, bytes) = (element_type.block_len(), element_type.block_bytes());
        let most = (PIECE / bytes).max(1);
        let (mut blocks, mut decoded) = (vec![], vec![]);
        while !out.is_empty() {
            let (first, skipped) = (start / len, start % len);
            let count = most.min((skipped + out.len()).div_ceil(len));
            blocks.resize(count * bytes, 0);
            self.read_bytes(tensor, first * bytes, &mut blocks)?;
            let (now, rest) = out.split_at_mut(out.len().min(count * len - skipped));
            start += now.len();
            if now.len() == count * len {
                self.decode(tensor, &blocks, now)?;
            } else {
                decoded.resize(count * len, 0.0);
                self.decode(tensor, &blocks, &mut decoded)?;
                now.copy_from_slice(&decoded[skipped..skipped + now.len()]);
            }
            out = rest;
        }
        Ok(())
    }

    /// Decodes whole blocks of a tensor.
    fn decode(&self, tensor: usize, blocks: &[u8], out: &mut [f32]) -> Result<(), SourceError> {
        let decoded = match self.gguf.tensors()[tensor].element_type() {
            ElementType::Blocks(format) => format.decode(blocks, out).map_err(|error| error.to_string()),
            ElementType::Foreign(foreign) => foreign.decode(blocks, out).map_err(|error| error.to_string()),
            ElementType::Plain(dtype) => match Float::of(dtype) {
                Some(float) => {
                    float.decode(blocks, out);
                    Ok(())
                }
                None => Err(format!("{dtype} elements, expected a floating-point type")),
            },
        };
        decoded.map_err(|problem| {
            let name = self.gguf.tensors()[tensor].name();
            SourceError::request(&self.shard(tensor).path, Some(name), problem)
        })
    }
}

impl GgufSource {
    fn info(&self, tensor: usize) -> Result<&TensorInfo, SourceError> {
        let problem = || format!("no tensor {tensor}, expected one of {}", self.tensors.len());
        self.tensors.get(tensor).ok_or_else(|| self.request(None, problem()))
    }

    fn request(&self, info: Option<&TensorInfo>, problem: String) -> SourceError {
        SourceError::request(&self.path, info.map(TensorInfo::name), problem)
    }

    /// Refuses a range that is not within `len`, or not as long as the buffer it is read into.
    fn check_range(
        &self,
        info: &TensorInfo,
        what: &str,
        range: &Range<usize>,
        len: usize,
        out: usize,
    ) -> Result<(), SourceError> {
        if range.start <= range.end && range.end <= len && range.len() == out {
            return Ok(());
        }
        Err(self.request(Some(info), format!("{what} {range:?} of {len} into a buffer of {out}")))
    }
}

/// Calls `read` with runs of units, elements or bytes, of a piece that follow each other in the
/// file: the first unit of the run in the tensor, and the range of the run within `units`.
fn for_each_run(
    piece: &Piece,
    row_len: usize,
    units: Range<usize>,
    mut read: impl FnMut(usize, Range<usize>) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let in_tensor = |unit: usize| {
        let row = piece.rows.start + piece.order.row_in_file(unit / row_len, piece.rows.len());
        row * row_len + unit % row_len
    };
    let mut start = units.start;
    while start < units.end {
        let first = in_tensor(start);
        let mut end = (start / row_len + 1) * row_len;
        while end < units.end && in_tensor(end) == first + (end - start) {
            end += row_len;
        }
        let end_of_run = end.min(units.end);
        read(first, start - units.start..end_of_run - units.start)?;
        start = end_of_run;
    }
    Ok(())
}

impl Source for GgufSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Vec<&Path> {
        self.files.shards.iter().map(|shard| shard.path.as_path()).collect()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    fn read_f32(&self, tensor: usize, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        let info = self.info(tensor)?;
        let piece = &self.pieces[tensor];
        if !info.is_float() {
            let problem = format!("{} elements, expected a floating-point type", info.stored());
            return Err(self.request(Some(info), problem));
        }
        self.check_range(info, "elements", &elements, info.elements(), out.len())?;
        let row_len = info.elements() / piece.rows.len().max(1);
        for_each_run(piece, row_len, elements, |first, run| self.files.read_f32(piece.tensor, first, &mut out[run]))?;
        if piece.add != 0.0 {
            out.iter_mut().for_each(|x| *x += piece.add);
        }
        if let Some(factor) = self.factors[tensor] {
            out.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }

    fn read_stored(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let info = self.info(tensor)?;
        let piece = &self.pieces[tensor];
        if matches!(info.stored(), Stored::Decoded(_)) {
            return Err(self.request(Some(info), "bytes of elements that are only decoded".into()));
        }
        self.check_range(info, "bytes", &bytes, info.bytes(), out.len())?;
        let row_len = info.bytes() / piece.rows.len().max(1);
        for_each_run(piece, row_len, bytes, |first, run| self.files.read_bytes(piece.tensor, first, &mut out[run]))
    }

    fn total_bytes(&self) -> u64 {
        self.files.gguf.tensors().iter().map(|tensor| tensor.range().end - tensor.range().start).sum()
    }

    fn companions(&self) -> &Companions {
        &self.companions
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.files.shards.iter().map(|shard| &shard.stamp).try_for_each(Stamp::check)
    }

    fn dropped(&self) -> &[String] {
        &[]
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
