//! The tensors of a Hugging Face checkpoint that a GGUF file holds: their names, and which rows of
//! which tensor of the file they are.
//!
//! Most tensors are the same under another name. These are not:
//!
//! * The rows of queries and keys of the architectures `llama`, `granite` and `granitemoe` are in
//!   the order in which llama.cpp rotates pairs: neighbours rather than halves of a head
//!   ([`RowOrder::Interleaved`]).
//! * Norms of Gemma are stored with 1 added ([`Piece::add`]).
//! * All experts of a layer are one tensor, of which each expert has some rows.
//! * Queries, keys and values may be one tensor, as may gates and the values that they multiply.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::architecture::{self, Architecture};
use super::{Gguf, GgufTensor};
use crate::config::LAYERS;
use crate::error::FileError;
use crate::names::{Names, Part, TensorName};

/// A tensor of a checkpoint: some rows of a tensor of the file.
///
/// Rows are those of the tensor as a matrix: all dimensions except the last are one, and a vector
/// has rows of one element.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Piece {
    /// The name in checkpoints.
    pub name: String,
    /// The shape in checkpoints: as many elements as the rows have.
    pub shape: Vec<usize>,
    /// The tensor's index in [`Gguf::tensors`].
    pub tensor: usize,
    /// The rows of that tensor.
    pub rows: Range<usize>,
    /// The order of these rows.
    pub order: RowOrder,
    /// What is added to every element: 0, or -1 for norms that are stored with 1 added.
    ///
    /// Elements are `f32` then. The difference is exact from 0.5 upwards; below, it is rounded to
    /// a multiple of 2⁻²⁴.
    pub add: f32,
    /// The factor of all elements, if the file has one beside the tensor: another tensor, and the
    /// index of an element of it.
    pub factor: Option<(usize, usize)>,
}

/// The order of the rows of a [`Piece`] in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowOrder {
    /// The order of checkpoints.
    AsIs,
    /// Row `2·i + j` of each head is row `i + j·size/2` of the head in checkpoints.
    Interleaved {
        /// The number of heads, a divisor of the number of rows.
        heads: usize,
    },
}

impl RowOrder {
    /// Returns which of `rows` rows in the file is this row of the checkpoint.
    #[must_use]
    pub fn row_in_file(self, row: usize, rows: usize) -> usize {
        match self {
            Self::AsIs => row,
            Self::Interleaved { heads } => {
                let size = rows / heads;
                let (head, row) = (row / size, row % size);
                head * size + row % (size / 2) * 2 + row / (size / 2)
            }
        }
    }

    /// Returns which of `rows` rows of the checkpoint is this row in the file.
    #[must_use]
    pub fn row_in_checkpoint(self, row: usize, rows: usize) -> usize {
        match self {
            Self::AsIs => row,
            Self::Interleaved { heads } => {
                let size = rows / heads;
                let (head, row) = (row / size, row % size);
                head * size + row % 2 * (size / 2) + row / 2
            }
        }
    }
}

/// The tensors of a checkpoint that a file holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pieces {
    /// The tensors, in the order of the file.
    pub pieces: Vec<Piece>,
    /// The indices of tensors that have no place in such a network, so that nothing reads them.
    pub unused: Vec<usize>,
}

/// Tensors that are read with the metadata: they give the frequencies of rotations.
pub(super) const FREQUENCIES: [&str; 3] = ["rope_freqs.weight", LONG_FACTORS, SHORT_FACTORS];
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Most pieces of a file: three times those of the largest known mixtures.
const MAX_PIECES: usize = 1 << 18;

/// Returns the tensors of a checkpoint that a file holds.
///
/// # Errors
/// If the architecture is not known; if a tensor does not have the rows that its place in the
/// network needs, or is there twice.
pub fn pieces(gguf: &Gguf) -> Result<Pieces, FileError> {
    let found = Finder::new(gguf)?;
    let (mut pieces, mut unused) = (vec![], vec![]);
    for (index, tensor) in gguf.tensors().iter().enumerate() {
        if FREQUENCIES.contains(&tensor.name()) || found.is_factor(tensor.name()) {
            continue;
        }
        match found.parse(tensor.name()) {
            Some(name) => found.pieces(index, tensor, name, &mut pieces)?,
            None => unused.push(index),
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = pieces.iter().find(|piece| !names.insert(&piece.name)) {
        let message = format!("found twice: also \"{}\"", twice.name.escape_debug());
        return Err(FileError::network(gguf.tensors()[twice.tensor].name(), message));
    }
    Ok(Pieces { pieces, unused })
}

/// Finds the tensors of one file.
struct Finder<'a> {
    gguf: &'a Gguf,
    /// The indices of tensors by name.
    indices: BTreeMap<&'a str, usize>,
    architecture: &'static Architecture,
    names: &'static Names,
    heads: usize,
    kv_heads: usize,
    /// 0 if there are none.
    experts: usize,
}

impl<'a> Finder<'a> {
    fn new(gguf: &'a Gguf) -> Result<Self, FileError> {
        let metadata = gguf.metadata();
        let architecture = architecture::architecture(metadata)?;
        let (heads, kv_heads) = architecture::heads(metadata)?;
        let experts = architecture::experts(metadata)?;
        Ok(Self {
            gguf,
            indices: gguf.tensors().iter().enumerate().map(|(i, tensor)| (tensor.name(), i)).collect(),
            architecture,
            names: architecture.names(experts),
            heads,
            kv_heads,
            experts,
        })
    }

    /// Returns what a tensor does.
    fn parse(&self, name: &str) -> Option<TensorName> {
        let parsed = self.names.parse_gguf(name).or_else(|| self.parse_single_expert(name))?;
        (parsed.layer.unwrap_or(0) < LAYERS).then_some(parsed)
    }

    /// Returns what a tensor of one expert does, as files of early 2024 have it:
    /// `blk.0.ffn_gate.7.weight`.
    fn parse_single_expert(&self, name: &str) -> Option<TensorName> {
        let (stem, expert) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let number: usize = expert.parse().ok().filter(|number: &usize| number.to_string() == expert)?;
        let whole = self.names.parse_gguf(&format!("{stem}_exps.weight"))?;
        (number < self.experts).then_some(TensorName { expert: Some(number), ..whole })
    }

    /// Returns whether a tensor is the factor of another one.
    fn is_factor(&self, name: &str) -> bool {
        let of = name.strip_suffix(".scale").map(|stem| format!("{stem}.weight"));
        of.is_some_and(|of| self.indices.contains_key(of.as_str()))
    }

    /// Adds the pieces of a tensor.
    fn pieces(
        &self,
        index: usize,
        tensor: &GgufTensor,
        name: TensorName,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), FileError> {
        let rows = rows(tensor);
        let row_len = tensor.elements() / rows.max(1);
        let matrix = |rows: usize| if tensor.shape().len() < 2 { vec![rows] } else { vec![rows, row_len] };
        let mut add = |name: TensorName, rows: Range<usize>, expert: Option<usize>| {
            if pieces.len() == MAX_PIECES {
                return Err(FileError::network(tensor.name(), format!("more than {MAX_PIECES} tensors")));
            }
            pieces.push(Piece {
                name: self.names.candidates(name).next().unwrap_or_default(),
                shape: matrix(rows.len()),
                tensor: index,
                order: self.order(tensor, name.part, rows.len())?,
                rows,
                add: if self.architecture.plus_one && is_norm(name.part) { -1.0 } else { 0.0 },
                factor: self.factor(tensor, expert)?,
            });
            Ok(())
        };
        match name.part {
            Part::QueryKeyValue if !self.architecture.fused => {
                let heads = self.heads.saturating_add(self.kv_heads.saturating_mul(2));
                let size = self.divided(tensor, rows, heads, "heads")?;
                let (queries, keys) = (self.heads * size, self.kv_heads * size);
                let parts = [Part::Query, Part::Key, Part::Value];
                let ends = [0, queries, queries + keys, rows];
                for (part, ends) in parts.into_iter().zip(ends.windows(2)) {
                    add(TensorName { part, ..name }, ends[0]..ends[1], None)?;
                }
            }
            Part::ExpertGate | Part::ExpertUp | Part::ExpertDown | Part::ExpertGateUp if name.expert.is_none() => {
                if tensor.shape().len() != 3 || tensor.shape()[0] != self.experts {
                    let expected = format!("{:?}, expected [{}, rows, columns]", tensor.shape(), self.experts);
                    return Err(FileError::network(tensor.name(), expected));
                }
                let each = tensor.shape()[1];
                let parts: &[Part] = match name.part {
                    Part::ExpertGateUp => &[Part::ExpertGate, Part::ExpertUp],
                    _ => &[name.part],
                };
                let half = self.divided(tensor, each, parts.len(), "halves")?;
                for expert in 0..self.experts {
                    for (i, &part) in parts.iter().enumerate() {
                        let first = expert * each + i * half;
                        add(TensorName { part, expert: Some(expert), ..name }, first..first + half, Some(expert))?;
                    }
                }
            }
            _ => add(name, 0..rows, None)?,
        }
        // One row in checkpoints, and a vector in files.
        if name.part == Part::SharedRouter && tensor.shape().len() > 1 && tensor.rows() != 1 {
            return Err(FileError::network(tensor.name(), format!("{:?}, expected one row", tensor.shape())));
        }
        if name.part == Part::SharedRouter
            && let Some(piece) = pieces.last_mut()
        {
            piece.shape = vec![1, tensor.elements()];
        }
        Ok(())
    }

    /// Returns the order of a tensor's rows.
    fn order(&self, tensor: &GgufTensor, part: Part, rows: usize) -> Result<RowOrder, FileError> {
        let heads = match part {
            Part::Query => self.heads,
            Part::Key => self.kv_heads,
            _ => return Ok(RowOrder::AsIs),
        };
        if !self.architecture.interleaved {
            return Ok(RowOrder::AsIs);
        }
        self.divided(tensor, rows, heads.saturating_mul(2), "halves of heads")?;
        Ok(RowOrder::Interleaved { heads })
    }

    /// Divides rows into equal parts.
    fn divided(&self, tensor: &GgufTensor, rows: usize, parts: usize, what: &str) -> Result<usize, FileError> {
        match rows.checked_div(parts).filter(|size| *size > 0 && rows.is_multiple_of(parts)) {
            Some(size) => Ok(size),
            None => {
                let message = format!("{:?}, expected {parts} {what} of equal size", tensor.shape());
                Err(FileError::network(tensor.name(), message))
            }
        }
    }

    /// Returns the factor of a tensor: the one of all of it, or this of several.
    fn factor(&self, tensor: &GgufTensor, expert: Option<usize>) -> Result<Option<(usize, usize)>, FileError> {
        let Some(stem) = tensor.name().strip_suffix(".weight") else { return Ok(None) };
        let name = format!("{stem}.scale");
        let Some(&index) = self.indices.get(name.as_str()) else { return Ok(None) };
        match (self.gguf.tensors()[index].elements(), expert) {
            (1, _) => Ok(Some((index, 0))),
            (elements, Some(expert)) if elements == self.experts => Ok(Some((index, expert))),
            (elements, _) => {
                let message = format!("{elements} elements, expected 1, or one for each expert of a tensor of all");
                Err(FileError::network(&name, message))
            }
        }
    }
}

/// Returns the number of rows of a tensor; those of a vector are its elements.
fn rows(tensor: &GgufTensor) -> usize {
    match tensor.shape() {
        [elements] => *elements,
        _ => tensor.rows(),
    }
}

/// Returns whether a part is a norm without a bias.
pub(super) fn is_norm(part: Part) -> bool {
    use Part::*;
    matches!(part, FinalNorm | AttentionNorm | PostAttentionNorm | MlpNorm | PostMlpNorm | QueryNorm | KeyNorm)
}
