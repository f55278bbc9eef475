//! A model: its files, and its tensors by name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use kernels::Isa;
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::{Bytes, Pages};
use crate::checkpoint::{Reader, refuse_foreign};
use crate::container::parse::{Contents, parse};
use crate::container::{Entry, Storage};
use crate::error::{Error, FileError, FileErrorKind};
use crate::experts::Experts;
use crate::linear::Linear;
use crate::tensor::{Matrices, PackedTensor, PlainTensor};

/// A model in memory, mapped or read: a safetensors file, a folder in Hugging Face's layout, or a
/// GGUF file.
///
/// Mapping reads only the headers; weights are touched when they are multiplied. Any safetensors
/// checkpoint can be opened; its tensors are then plain.
///
/// Cloning is cheap: clones share the files. Layers share them, too, and keep alive what they
/// multiply, so a model and its layers can be fields of one struct.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    files: Vec<ModelFile>,
    /// Tensor name to file and entry.
    tensors: BTreeMap<String, (usize, usize)>,
    isa: Isa,
    warnings: Vec<String>,
}

pub(crate) struct ModelFile {
    bytes: Arc<Bytes>,
    /// The size of the file, which a GGUF model in memory does not have.
    file_bytes: u64,
    entries: Vec<Entry>,
    recipe: serde_json::Value,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A safetensors file with this library's description.
    Described,
    /// Any other safetensors file.
    Plain,
    /// All files of a GGUF model.
    Gguf,
}

impl Model {
    /// Opens a file whose bytes are already in memory; they are copied.
    ///
    /// # Errors
    /// See [`map`](Self::map).
    pub fn from_bytes(file: &[u8]) -> Result<Self, Error> {
        let bytes = Bytes::copy(file, Pages::Huge).map_err(|source| Error::Io { path: "memory".into(), source })?;
        Self::new(vec![ModelFile::new(bytes)?], vec![])
    }

    /// Takes the tensors of a GGUF model, which lie in `bytes`; its files have `file_bytes`.
    pub(crate) fn of_gguf(
        bytes: Bytes,
        entries: Vec<Entry>,
        file_bytes: u64,
        warnings: Vec<String>,
    ) -> Result<Self, Error> {
        let recipe = serde_json::Value::Null;
        let file = ModelFile { bytes: bytes.into(), file_bytes, entries, recipe, kind: Kind::Gguf };
        Self::new(vec![file], warnings)
    }

    /// Makes a model of files; no two may have a tensor of the same name.
    pub(crate) fn new(files: Vec<ModelFile>, warnings: Vec<String>) -> Result<Self, Error> {
        let mut tensors = BTreeMap::new();
        for (f, file) in files.iter().enumerate() {
            for (e, entry) in file.entries.iter().enumerate() {
                tensors.insert(entry.name.clone(), (f, e));
            }
        }
        Ok(Self(Arc::new(Inner { files, tensors, isa: Isa::from_env()?, warnings })))
    }

    /// Returns the tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Entry> {
        self.0.tensors.values().map(|&(f, e)| &self.0.files[f].entries[e])
    }

    /// Returns the tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.0.tensors.get(name).map(|&(f, e)| &self.0.files[f].entries[e])
    }

    /// Returns the recipe by which the model was made, as its converter recorded it; null if it
    /// recorded none.
    #[must_use]
    pub fn recipe(&self) -> &serde_json::Value {
        self.0.files.first().map_or(&serde_json::Value::Null, |file| &file.recipe)
    }

    /// Returns whether every file describes its tensors, that is, was written by this library.
    #[must_use]
    pub fn is_described(&self) -> bool {
        self.0.files.iter().all(|file| file.kind == Kind::Described)
    }

    /// Returns warnings about the files, each a sentence; see
    /// [`Checkpoint::warnings`](crate::checkpoint::Checkpoint::warnings).
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Returns the total size of all files in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.0.files.iter().map(|file| file.file_bytes).sum()
    }

    /// Returns the instruction set of this model's layers: the best available, or the one that
    /// `QRUNTIME_ISA` names.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// Finds a tensor and the file that holds it.
    fn locate(&self, name: &str) -> Result<(&Entry, &Arc<Bytes>), Error> {
        let &(f, e) = self.0.tensors.get(name).ok_or_else(|| Error::NoSuchTensor { name: name.into() })?;
        let file = &self.0.files[f];
        Ok((&file.entries[e], &file.bytes))
    }

    fn find(&self, name: &str) -> Result<(&Entry, &[u8]), Error> {
        let (entry, file) = self.locate(name)?;
        Ok((entry, &file[entry.range.clone()]))
    }

    /// Returns a packed tensor.
    ///
    /// # Errors
    /// If there is no tensor of that name, or it is plain.
    pub fn packed(&self, name: &str) -> Result<PackedTensor<'_>, Error> {
        let (entry, bytes) = self.find(name)?;
        PackedTensor::new(entry, bytes).ok_or_else(|| wrong_kind(entry, "a packed tensor"))
    }

    /// Returns a plain tensor.
    ///
    /// # Errors
    /// If there is no tensor of that name, or it is packed.
    pub fn plain(&self, name: &str) -> Result<PlainTensor<'_>, Error> {
        let (entry, bytes) = self.find(name)?;
        PlainTensor::new(entry, bytes).ok_or_else(|| wrong_kind(entry, "a plain tensor"))
    }

    /// Returns the matrices of a tensor, packed or plain; their number must be in the range.
    fn matrices(
        &self,
        name: &str,
        count: RangeInclusive<usize>,
        expected: &'static str,
    ) -> Result<Matrices<'_>, Error> {
        let (entry, file) = self.locate(name)?;
        let matrices = Matrices::new(entry, file);
        if !count.contains(&matrices.count()) {
            let found = format!("{} matrices (shape {:?})", matrices.count(), entry.shape);
            return Err(Error::WrongKind { name: name.into(), found, expected });
        }
        Ok(matrices)
    }

    /// Makes a linear layer of the matrix `{name}.weight`, packed or plain, and of `{name}.bias` if
    /// there is one. It shares the model's memory: no copy, no repacking.
    ///
    /// # Errors
    /// If there is no such matrix, its type cannot be multiplied, or the bias is not a vector with
    /// one element per row of the matrix.
    pub fn linear(&self, name: &str) -> Result<Linear, Error> {
        let matrix = self.matrices(&format!("{name}.weight"), 1..=1, "one matrix")?;
        let linear = Linear::new(matrix.get(0)?, self.0.isa).named(&matrix.name().into(), 0);
        match self.plain(&format!("{name}.bias")) {
            Ok(bias) => linear.with_bias(bias.to_f32()?),
            Err(Error::NoSuchTensor { .. }) => Ok(linear),
            Err(error) => Err(error),
        }
    }

    /// Makes the experts of a mixture from the tensor `name` or else `{name}.weight`, packed or
    /// plain, whose dimensions are experts, outputs, inputs. They have no biases and share the
    /// model's memory.
    ///
    /// If each expert has its own tensor, make layers with [`linear`](Self::linear) and combine
    /// them with [`Experts::new`].
    ///
    /// # Errors
    /// If there is no such tensor, its type cannot be multiplied, or it holds no matrix or more
    /// than 65536.
    pub fn experts(&self, name: &str) -> Result<Experts, Error> {
        // More than any router has: a file of tiny matrices must not cost many times its size.
        let find = |name: &str| self.matrices(name, 1..=1 << 16, "1 to 65536 matrices");
        let weights = match find(name) {
            Err(Error::NoSuchTensor { .. }) => find(&format!("{name}.weight"))?,
            found => found?,
        };
        let name = weights.name().into();
        let layer = |i| Ok(Linear::new(weights.get(i)?, self.0.isa).named(&name, i));
        Experts::new((0..weights.count()).map(layer).collect::<Result<_, Error>>()?)
    }

    /// Returns whether two tensors have the same form and the same bytes. If their checksums
    /// differ, the bytes are not read.
    pub(crate) fn is_same(&self, name: &str, other: &str) -> bool {
        let (Ok((a, bytes)), Ok((b, other_bytes))) = (self.find(name), self.find(other)) else { return false };
        let sums_differ = a.checksum.is_some() && b.checksum.is_some() && a.checksum != b.checksum;
        a.shape == b.shape && a.storage == b.storage && !sums_differ && bytes == other_bytes
    }

    /// Refuses files that may be complete but cannot make a network: codes of other methods,
    /// adapters, 8-bit floats.
    pub(crate) fn refuse_unrunnable<'v>(
        &self,
        path: &Path,
        field: impl Fn(&str) -> Option<&'v serde_json::Value>,
    ) -> Result<(), Error> {
        if self.0.files.iter().all(|file| file.kind != Kind::Plain) {
            return Ok(());
        }
        let tensors = || self.tensors().map(|entry| (entry.name(), entry.storage().dtype(), entry.shape()));
        refuse_foreign(path, field, tensors(), Reader::Runtime)?;
        for (name, dtype, shape) in tensors() {
            if shape.len() > 1 && dtype.bitsize() == 8 && format!("{dtype:?}").starts_with('F') {
                let message =
                    format!("{dtype:?}: 8-bit floats, which only `quantize convert` reads: convert the model first");
                let error = FileError { kind: FileErrorKind::Foreign, ..FileError::tensor(name, message) };
                return Err(error.in_file(path).into());
            }
        }
        Ok(())
    }

    /// Compares a tensor's bytes with its checksum; `None` if the file has none for it.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn verify(&self, name: &str) -> Result<Option<bool>, Error> {
        let (entry, bytes) = self.find(name)?;
        Ok(entry.checksum.map(|checksum| xxh3_64(bytes) == checksum))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({} tensors in {} files)", self.0.tensors.len(), self.0.files.len())
    }
}

impl ModelFile {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn new(bytes: Bytes) -> Result<Self, FileError> {
        let Contents { entries, recipe, described } = parse(&bytes)?;
        let kind = if described { Kind::Described } else { Kind::Plain };
        Ok(Self { file_bytes: bytes.len() as u64, bytes: Arc::new(bytes), entries, recipe, kind })
    }
}

fn wrong_kind(entry: &Entry, expected: &'static str) -> Error {
    let found = match &entry.storage {
        Storage::Packed(format) => format!("packed as {format}"),
        Storage::Plain(dtype) => format!("plain {dtype:?}"),
    };
    Error::WrongKind { name: entry.name.clone(), found, expected }
}
