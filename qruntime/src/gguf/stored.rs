//! The tensors of a GGUF file that is made of a Hugging Face checkpoint: the way back of
//! [`tensors`](super::tensors).

use std::collections::BTreeMap;
use std::ops::Range;

use super::architecture::{self, Architecture, Head};
use super::tensors::{RowOrder, is_norm};
use crate::config::Config;
use crate::error::{Error, FileError};
use crate::family::{self, names_of};
use crate::names::{Part, TensorName};
use crate::nn::spec::AttentionSpec;

/// A tensor of a GGUF file: rows of tensors of a checkpoint, one after the other.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stored {
    /// The name in the file.
    pub name: String,
    /// The shape, the length of a row last.
    pub shape: Vec<usize>,
    /// Where the rows come from, in this order.
    pub parts: Vec<StoredPart>,
    /// What is added to every element: 0, or 1 for norms that are stored so.
    pub add: f32,
    /// Whether elements are `f32`, as programs demand of vectors and routers; others may have any
    /// type.
    pub single: bool,
}

/// Some rows of a tensor of a checkpoint. Rows of a vector are its elements.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredPart {
    /// The index of the tensor.
    pub tensor: usize,
    /// The rows.
    pub rows: Range<usize>,
    /// The order in which they are stored; see [`RowOrder::row_in_checkpoint`].
    pub order: RowOrder,
}

/// Returns the tensors of a GGUF file with the network that `config.json` describes, and the
/// indices of tensors that GGUF has no place for. `tensors` are the names and shapes of the
/// checkpoint's.
///
/// # Errors
/// If `config.json` cannot be read, or a tensor does not have the shape that its place demands.
pub fn stored(config: &[u8], tensors: &[(&str, &[usize])]) -> Result<(Vec<Stored>, Vec<usize>), Error> {
    let maker = Maker::new(&Config::from_bytes(config)?)?;
    let names = names_of(maker.family).ok_or_else(|| FileError::field("model_type", maker.family, "a known family"))?;
    let (mut found, mut unused) = (BTreeMap::new(), Vec::new());
    for (index, &(name, shape)) in tensors.iter().enumerate() {
        let parsed = names.parse(name).filter(|parsed| !(parsed.part == Part::Head && maker.drops_head));
        match parsed.filter(|parsed| parsed.gguf().is_some()) {
            Some(parsed) => maker.add(parsed, index, (name, shape), &mut found)?,
            None => unused.push(index),
        }
    }
    let mut stored = found.into_values().map(Growing::finish).collect::<Result<Vec<Stored>, FileError>>()?;
    // Programs want the output head of this one even if it is the embedding.
    if maker.architecture.head == Head::Always
        && !stored.iter().any(|tensor| tensor.name == "output.weight")
        && let Some(embedding) = stored.iter().find(|tensor| tensor.name == "token_embd.weight")
    {
        stored.push(Stored { name: "output.weight".into(), ..embedding.clone() });
    }
    Ok((stored, unused))
}

struct Maker {
    architecture: &'static Architecture,
    family: &'static str,
    attention: AttentionSpec,
    /// Whether an output head, if there is one, is the embedding once more.
    drops_head: bool,
}

/// A tensor of the file, to which experts may be added.
struct Growing {
    stored: Stored,
    /// Experts that have a tensor each, by number.
    experts: BTreeMap<usize, StoredPart>,
}

impl Growing {
    fn finish(mut self) -> Result<Stored, FileError> {
        if let Some((last, _)) = self.experts.last_key_value() {
            let count = self.experts.len();
            if *last >= count {
                let message = format!("{count} experts, expected one for each number up to {last}");
                return Err(FileError::network(&self.stored.name, message));
            }
            self.stored.shape[0] = count;
            self.stored.parts = self.experts.into_values().collect();
        }
        Ok(self.stored)
    }
}

/// Tensors of the file by name.
type Found = BTreeMap<String, Growing>;

impl Maker {
    fn new(config: &Config) -> Result<Self, Error> {
        let (family, attention, tied) = match family::find(config)? {
            family::Found::Encoder(_) => {
                let (family, _, spec) = family::encoder(config)?;
                (family, spec.attention, true)
            }
            _ => {
                let (family, _, spec) = family::decoder(config)?;
                (family, spec.layers[0].attention, spec.tied)
            }
        };
        let Some(architecture) = architecture::of_family(family) else {
            return Err(config.refuse("model_type", format!("{family:?}"), "a family that GGUF has"));
        };
        let drops_head = architecture.head == Head::Never;
        if drops_head && !tied {
            let expected = "true: GGUF has no output head in this family";
            return Err(config.refuse("tie_word_embeddings", false, expected));
        }
        Ok(Self { architecture, family, attention, drops_head })
    }

    /// Adds a tensor of the checkpoint.
    fn add(
        &self,
        name: TensorName,
        index: usize,
        (text, shape): (&str, &[usize]),
        found: &mut Found,
    ) -> Result<(), Error> {
        let refuse =
            |expected: String| Error::from(FileError::network(text, format!("{shape:?}, expected {expected}")));
        if shape.contains(&0) {
            return Err(refuse("no dimension to be empty".into()));
        }
        let rows = match shape {
            [elements] => *elements,
            [outer @ .., _] => outer.iter().product(),
            [] => return Err(refuse("at least one dimension".into())),
        };
        let part = |rows: Range<usize>, order: RowOrder| StoredPart { tensor: index, rows, order };
        match (name.part, name.expert) {
            (Part::ExpertGateUp, None) => {
                let &[experts, both, columns] = shape else { return Err(refuse("[experts, rows, columns]".into())) };
                if both % 2 == 1 {
                    return Err(refuse("an even number of rows".into()));
                }
                let half = both / 2;
                for (i, of) in [Part::ExpertGate, Part::ExpertUp].into_iter().enumerate() {
                    let parts = (0..experts).map(|expert| {
                        let first = expert * both + i * half;
                        part(first..first + half, RowOrder::AsIs)
                    });
                    let parts = parts.collect();
                    self.insert(TensorName { part: of, ..name }, text, vec![experts, half, columns], parts, found)?;
                }
                Ok(())
            }
            (Part::ExpertGate | Part::ExpertUp | Part::ExpertDown, Some(expert)) => {
                let &[rows, columns] = shape else { return Err(refuse("a matrix".into())) };
                let stem = TensorName { expert: None, ..name };
                let stored = self.stored(stem, vec![0, rows, columns], vec![]);
                let entry = found.entry(stored.name.clone());
                let growing = entry.or_insert_with(|| Growing { stored, experts: BTreeMap::new() });
                if growing.stored.shape[1..] != [rows, columns] {
                    return Err(refuse(format!("{:?}, as the other experts", &growing.stored.shape[1..])));
                }
                match growing.experts.insert(expert, part(0..rows, RowOrder::AsIs)) {
                    Some(_) => Err(FileError::network(text, "found twice, under two names").into()),
                    None => Ok(()),
                }
            }
            _ => {
                let heads = match name.part {
                    Part::Query if self.architecture.interleaved => Some(self.attention.heads),
                    Part::Key if self.architecture.interleaved => Some(self.attention.kv_heads),
                    _ => None,
                };
                let order = match heads {
                    Some(heads) if rows == 0 || !rows.is_multiple_of(2 * heads) => {
                        return Err(refuse(format!("rows of {heads} heads of even size")));
                    }
                    Some(heads) => RowOrder::Interleaved { heads },
                    None => RowOrder::AsIs,
                };
                self.insert(name, text, shape.to_vec(), vec![part(0..rows, order)], found)
            }
        }
    }

    fn insert(
        &self,
        name: TensorName,
        text: &str,
        shape: Vec<usize>,
        parts: Vec<StoredPart>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let stored = self.stored(name, shape, parts);
        match found.insert(stored.name.clone(), Growing { stored, experts: BTreeMap::new() }) {
            Some(_) => Err(FileError::network(text, "found twice, under two names").into()),
            None => Ok(()),
        }
    }

    fn stored(&self, name: TensorName, shape: Vec<usize>, parts: Vec<StoredPart>) -> Stored {
        let is_added = self.architecture.plus_one && is_norm(name.part) && !name.bias;
        let parts_in_single = [Part::Router, Part::SharedRouter, Part::PositionEmbedding, Part::TokenTypes];
        let single = shape.len() < 2 || parts_in_single.contains(&name.part);
        let add = if is_added { 1.0 } else { 0.0 };
        Stored { name: name.gguf().unwrap_or_default(), shape, parts, add, single }
    }
}
