//! The tensors of a GGUF model in memory, as a Hugging Face folder has them: blocks repacked into
//! panels, rows in the order of checkpoints.
//!
//! ```text
//! lay out the tensors in one memory, each at a multiple of 64 bytes
//! cut them into jobs of whole panels, and between heads where rows are interleaved
//! for each job, on any thread:
//!     read its rows from the file into a buffer that stays in the cache
//!     write them, in the order of the checkpoint, as panels into the memory
//! ```
//!
//! Every byte is read and written once; beside the memory of the tensors there are only the
//! buffers.

use std::collections::BTreeMap;
use std::ops::Range;

use kernels::{Encoding, Format, Isa, Rounding, panel};
use rayon::prelude::*;
use safetensors::Dtype;

use super::source::Source;
use super::tensors::{Piece, Pieces, RowOrder, pieces};
use super::{ElementType, GgufTensor};
use crate::bytes::{Bytes, Pages};
use crate::container::{ALIGNMENT, Entry, Storage};
use crate::error::{Error, FileError};

/// Bytes of the file that a job reads, unless its least number of rows has more: they stay in the
/// cache of a core until they are written.
const JOB_BYTES: usize = 256 << 10;

/// Most names of unused tensors in a warning.
const MAX_NAMES: usize = 3;

/// The tensors of a model in memory.
pub(crate) struct Loaded {
    pub(crate) bytes: Bytes,
    pub(crate) entries: Vec<Entry>,
    pub(crate) warnings: Vec<String>,
}

/// How a tensor gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Its bytes as they are, row by row.
    Copy(Dtype),
    /// Its blocks as they are, in panels.
    Pack(Format),
    /// Its elements as `f32`.
    Decode,
    /// Its elements, encoded in another format.
    Encode(Format),
}

/// A tensor to be loaded.
struct Load<'a> {
    piece: &'a Piece,
    tensor: &'a GgufTensor,
    how: How,
    factor: f32,
    /// Rows of the piece, and elements and bytes of each in the file. A vector whose elements are
    /// in order is one row.
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// Where in the tensor of the file the rows begin, in bytes.
    offset: u64,
    /// Bytes in memory.
    bytes: usize,
}

/// Some rows of a tensor, and where they go.
struct Job<'a> {
    load: &'a Load<'a>,
    rows: Range<usize>,
    to: &'a mut [u8],
}

/// Memory of a thread.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    weights: Vec<f32>,
    ordered: Vec<f32>,
}

/// Loads the tensors of a model, on the threads of rayon's current pool. The bytes do not depend on
/// their number.
pub(crate) fn load(source: &Source) -> Result<Loaded, Error> {
    let found = pieces(source.gguf()).map_err(|error| in_file(error, source))?;
    let loads = found.pieces.iter().map(|piece| Load::new(piece, source)).collect::<Result<Vec<_>, Error>>()?;
    let mut end: usize = 0;
    let mut entries = Vec::with_capacity(loads.len());
    for load in &loads {
        let start = end.next_multiple_of(ALIGNMENT);
        end = start.checked_add(load.bytes).ok_or_else(|| load.refuse("more bytes than memory can have", source))?;
        let Piece { name, shape, .. } = load.piece;
        let storage = match load.how {
            How::Copy(dtype) => Storage::Plain(dtype),
            How::Decode => Storage::Plain(Dtype::F32),
            How::Pack(format) | How::Encode(format) => Storage::Packed(format),
        };
        let entry = Entry { name: name.clone(), storage, shape: shape.clone(), range: start..end, checksum: None };
        entries.push(entry);
    }
    let mut result = Ok(());
    let bytes = Bytes::fill(end, Pages::Huge, |memory| {
        let mut jobs = Vec::new();
        let (mut rest, mut at) = (memory, 0);
        for (load, entry) in loads.iter().zip(&entries) {
            let (before, after) = rest.split_at_mut(entry.range.end - at);
            load.jobs(&mut before[entry.range.start - at..], &mut jobs);
            (rest, at) = (after, entry.range.end);
        }
        let run = |buffers: &mut Buffers, job: Job<'_>| job.run(source, buffers);
        result = jobs.into_par_iter().try_for_each_init(Buffers::default, run);
        Ok(())
    });
    let bytes = bytes.map_err(Error::io(source.path()))?;
    result?;
    Ok(Loaded { bytes, entries, warnings: warnings(&loads, &found, source) })
}

fn in_file(error: FileError, source: &Source) -> Error {
    match error.path() {
        Some(_) => error.into(),
        None => error.in_file(source.path()).into(),
    }
}

impl<'a> Load<'a> {
    fn new(piece: &'a Piece, source: &'a Source) -> Result<Self, Error> {
        let tensor = &source.gguf().tensors()[piece.tensor];
        let factor = match piece.factor {
            Some((tensor, element)) => read_element(source, tensor, element)?,
            None => 1.0,
        };
        let is_matrix = tensor.shape().len() > 1;
        let is_changed = piece.add != 0.0 || factor != 1.0;
        let how = match tensor.element_type() {
            ElementType::Plain(dtype) if !is_changed => How::Copy(dtype),
            ElementType::Blocks(format) if !is_changed && is_matrix => How::Pack(format),
            ElementType::Blocks(_) | ElementType::Foreign(_) if is_matrix => {
                How::Encode(tensor.element_type().stand_in())
            }
            _ => How::Decode,
        };
        let elements = tensor.elements();
        let (rows, cols) = match (is_matrix, piece.order) {
            (true, _) => (piece.rows.len(), elements / tensor.rows()),
            // Elements of a vector are rows; in the order of the file, they are one.
            (false, RowOrder::AsIs) => (1, piece.rows.len()),
            (false, _) => (piece.rows.len(), 1),
        };
        let mut load = Self { piece, tensor, how, factor, rows, cols, row_bytes: 0, offset: 0, bytes: 0 };
        let refuse = || load.refuse("a part that is not of whole rows or blocks, or too large", source);
        let row_bytes = |cols| tensor.element_type().row_bytes(cols);
        let is_whole = piece.shape.iter().product::<usize>() == rows * cols;
        // A vector of blocks is decoded as a whole.
        let bytes = row_bytes(cols).or_else(|| row_bytes(elements).filter(|_| how == How::Decode));
        let row_bytes = bytes.filter(|_| is_whole).ok_or_else(refuse)?;
        let bytes = match how {
            How::Copy(_) => rows.checked_mul(row_bytes),
            How::Decode => (rows * cols).checked_mul(4),
            How::Pack(format) | How::Encode(format) => format.matrix_bytes(rows, cols),
        };
        let bytes = bytes.ok_or_else(refuse)?;
        // A vector is copied from the middle of a tensor only if it is plain.
        let unit = if is_matrix { row_bytes } else { tensor.element_type().block_bytes() };
        (load.row_bytes, load.bytes, load.offset) = (row_bytes, bytes, piece.rows.start as u64 * unit as u64);
        Ok(load)
    }

    fn refuse(&self, what: &str, source: &Source) -> Error {
        let message = format!("{} {:?}: {what}", self.tensor.element_type(), self.tensor.shape());
        in_file(FileError::network(self.tensor.name(), message), source)
    }

    /// Returns which of the piece's rows in the file is this row.
    fn row_in_file(&self, row: usize) -> usize {
        match self.piece.order {
            RowOrder::AsIs => row,
            order => order.row_in_file(row, self.rows),
        }
    }

    /// Returns the least rows of a job: a multiple of them is whole panels, and its rows are the
    /// same in the file, in another order.
    fn unit(&self) -> usize {
        let panel = match self.how {
            How::Pack(_) | How::Encode(_) => panel::PANEL_ROWS,
            How::Copy(_) => 1,
            How::Decode => return self.rows,
        };
        match self.piece.order {
            RowOrder::Interleaved { heads } => least_multiple(panel, self.rows / heads),
            _ => panel,
        }
    }

    /// Cuts the tensor into jobs that write to `to`.
    fn jobs<'m>(&'m self, mut to: &'m mut [u8], jobs: &mut Vec<Job<'m>>) {
        let unit = self.unit().max(1);
        let step = (JOB_BYTES / self.row_bytes.max(1) / unit).max(1).saturating_mul(unit);
        let mut start = 0;
        while start < self.rows {
            let end = self.rows.min(start.saturating_add(step));
            let bytes = match self.how {
                _ if end == self.rows => to.len(),
                How::Copy(_) => (end - start) * self.row_bytes,
                How::Decode => (end - start) * self.cols * 4,
                How::Pack(format) | How::Encode(format) => {
                    format.matrix_bytes(end - start, self.cols).expect("less than that of all rows")
                }
            };
            let (now, after) = to.split_at_mut(bytes);
            jobs.push(Job { load: self, rows: start..end, to: now });
            (to, start) = (after, end);
        }
    }
}

impl Job<'_> {
    fn run(self, source: &Source, buffers: &mut Buffers) -> Result<(), Error> {
        let Self { load, rows, to } = self;
        let tensor = load.piece.tensor;
        let start = load.offset + rows.start as u64 * load.row_bytes as u64;
        let is_in_order = load.piece.order == RowOrder::AsIs;
        if matches!(load.how, How::Copy(_)) && is_in_order {
            return source.read(tensor, start, to);
        }
        let Buffers { bytes, weights, ordered } = buffers;
        let count = rows.len();
        if load.how == How::Decode && load.tensor.shape().len() < 2 {
            return decode_vector(load, source, to);
        }
        bytes.resize(count * load.row_bytes, 0);
        source.read(tensor, start, bytes)?;
        let row_of = |row: usize| load.row_in_file(row) - rows.start;
        let bytes_of = |row: usize| &bytes[row_of(row) * load.row_bytes..][..load.row_bytes];
        match load.how {
            How::Copy(_) => {
                for (row, to) in rows.clone().zip(to.chunks_exact_mut(load.row_bytes)) {
                    to.copy_from_slice(bytes_of(row));
                }
            }
            How::Pack(format) => {
                let panel_bytes = format.panel_bytes(load.cols).expect("less than that of all panels");
                let mut each: [&[u8]; panel::PANEL_ROWS] = [&[]; panel::PANEL_ROWS];
                for (first, to) in rows.clone().step_by(each.len()).zip(to.chunks_exact_mut(panel_bytes)) {
                    let some = each.len().min(rows.end - first);
                    (first..first + some).zip(&mut each).for_each(|(row, to)| *to = bytes_of(row));
                    panel::pack_rows(format, load.cols, &each[..some], to)?;
                }
            }
            How::Decode | How::Encode(_) => {
                weights.resize(count * load.cols, 0.0);
                source.decode(tensor, bytes, weights)?;
                weights.iter_mut().for_each(|x| *x = (*x + load.piece.add) * load.factor);
                ordered.clear();
                for row in rows.clone() {
                    ordered.extend_from_slice(&weights[row_of(row) * load.cols..][..load.cols]);
                }
                match load.how {
                    How::Encode(format) => encode(load, format, ordered, rows.start, to, source)?,
                    _ => write(ordered, to),
                }
            }
        }
        Ok(())
    }
}

/// Decodes a vector, whose rows are elements: those of blocks only as a whole.
fn decode_vector(load: &Load<'_>, source: &Source, to: &mut [u8]) -> Result<(), Error> {
    let mut all = vec![0.0; load.tensor.elements()];
    source.decode(load.piece.tensor, &source.read_whole(load.piece.tensor)?, &mut all)?;
    let count = load.piece.rows.len();
    let element = |i: usize| all[load.piece.rows.start + load.piece.order.row_in_file(i, count)];
    let elements: Vec<f32> = (0..count).map(|i| (element(i) + load.piece.add) * load.factor).collect();
    write(&elements, to);
    Ok(())
}

fn write(elements: &[f32], to: &mut [u8]) {
    elements.iter().zip(to.as_chunks_mut::<4>().0).for_each(|(element, to)| *to = element.to_le_bytes());
}

/// Encodes rows as the converter does by default.
fn encode(
    load: &Load<'_>,
    format: Format,
    weights: &[f32],
    first: usize,
    to: &mut [u8],
    source: &Source,
) -> Result<(), Error> {
    let encoding = Encoding { isa: Isa::best(), format, rounding: Rounding::Search, importance: None };
    let result = encoding.encode(weights, load.cols, to);
    result.map(drop).map_err(|error| load.refuse(&format!("rows from {first} on as {format}: {error}"), source))
}

fn read_element(source: &Source, tensor: usize, element: usize) -> Result<f32, Error> {
    let mut all = vec![0.0; source.gguf().tensors()[tensor].elements()];
    source.decode(tensor, &source.read_whole(tensor)?, &mut all)?;
    Ok(all[element])
}

/// Returns the least common multiple.
fn least_multiple(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor.max(1) * b
}

/// Returns sentences about what a person who uses the model may want to know.
fn warnings(loads: &[Load<'_>], found: &Pieces, source: &Source) -> Vec<String> {
    let mut counts = BTreeMap::new();
    for load in loads {
        if let How::Encode(format) = load.how {
            *counts.entry((load.tensor.element_type().to_string(), format)).or_insert(0) += 1;
        }
    }
    let encoded = counts.into_iter().map(|((from, format), count)| {
        format!(
            "{count} tensors of {from} were encoded as {format} while loading, which is not multiplied as it is: \
             `quantize convert` does this once, and to another format if asked"
        )
    });
    let name = |&index: &usize| format!("\"{}\"", source.gguf().tensors()[index].name().escape_debug());
    let names: Vec<String> = found.unused.iter().take(MAX_NAMES).map(name).collect();
    let more = match found.unused.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unused = format!("tensors that such a network does not use were left out: {}{more}", names.join(", "));
    encoded.chain((!names.is_empty()).then_some(unused)).collect()
}
