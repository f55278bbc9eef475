//! Writes a file as a stream: first the header, with room for the checksums, which are filled in at
//! the end.

use std::fmt;
use std::io::{self, Seek, SeekFrom, Write};

use kernels::Format;
use safetensors::Dtype;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    ALIGNMENT, Description, KEY, LAYOUT, MAX_HEADER, MAX_RECIPE, METADATA, PackedDescription, Storage,
    TensorDescription, VERSION,
};

/// Returns the size of a packed tensor in bytes: the panels of each of its matrices one after the
/// other, then zeros up to a multiple of 64.
///
/// Returns `None` if the shape has fewer than two dimensions or an empty one, or if the size
/// overflows.
#[must_use]
pub fn packed_bytes(format: Format, shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return None;
    }
    let (&[rows, cols], matrices) = shape.split_last_chunk::<2>().map(|(matrices, matrix)| (matrix, matrices))?;
    let matrices = matrices.iter().try_fold(1usize, |n, &m| n.checked_mul(m))?;
    // The number of weights must be representable, too: callers compute it without checks.
    rows.checked_mul(cols)?.checked_mul(matrices)?;
    format.matrix_bytes(rows, cols)?.checked_mul(matrices)?.checked_next_multiple_of(ALIGNMENT)
}

/// A tensor to write.
#[derive(Debug)]
struct Planned {
    name: String,
    storage: Storage,
    shape: Vec<usize>,
    bytes: usize,
    checksum: u64,
}

/// Writes one file, tensor by tensor, in a single pass.
///
/// Packed tensors come first, so that each begins at a multiple of 64 bytes; plain ones follow, the
/// widest elements first, so that each is aligned to its elements. [`Writer::order`] gives the
/// order in which the caller must write its tensors.
pub struct Writer<W> {
    out: W,
    tensors: Vec<Planned>,
    /// For each of `tensors`, its index in the caller's list.
    order: Vec<usize>,
    recipe: Option<Box<RawValue>>,
    /// Bytes that are kept free in the header for a longer recipe.
    room: usize,
    /// The tensor being written, and the number of its bytes written so far.
    current: usize,
    written: usize,
    hash: Xxh3Default,
}

impl<W: Write + Seek> Writer<W> {
    /// Plans a file of the given tensors (name, storage, logical shape) and writes its header.
    ///
    /// `recipe` is kept in the file for people and programs to read.
    ///
    /// # Errors
    /// If the output fails; if a tensor's size overflows or is not a whole number of bytes; if two
    /// tensors have the same name, or one is named `__metadata__`; if the text of `recipe` exceeds
    /// 1 MiB.
    pub fn new(out: W, tensors: Vec<(String, Storage, Vec<usize>)>, recipe: Value) -> io::Result<Self> {
        Self::with_room(out, tensors, recipe, 0)
    }

    /// Plans a file like [`new`](Self::new), with `room` bytes free in the header for
    /// [`replace_recipe`](super::replace_recipe).
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn with_room(
        out: W,
        tensors: Vec<(String, Storage, Vec<usize>)>,
        recipe: Value,
        room: usize,
    ) -> io::Result<Self> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        let alignment = |storage: &Storage| match storage {
            Storage::Packed(_) => usize::MAX,
            Storage::Plain(dtype) => dtype.bitsize(),
        };
        order.sort_by_key(|&i| std::cmp::Reverse(alignment(&tensors[i].1)));
        let mut tensors: Vec<_> = tensors.into_iter().map(Some).collect();
        let tensors = order
            .iter()
            .filter_map(|&i| tensors[i].take())
            .map(|(name, storage, shape)| {
                let bytes = match storage {
                    Storage::Packed(format) => packed_bytes(format, &shape),
                    Storage::Plain(dtype) => plain_bytes(dtype, &shape),
                };
                let bytes = bytes.ok_or_else(|| {
                    misuse(format!("tensor \"{}\": cannot store {storage:?} {shape:?}", name.escape_debug()))
                })?;
                Ok(Planned { name, storage, shape, bytes, checksum: 0 })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let recipe = (!recipe.is_null()).then(|| to_raw_value(&recipe)).transpose()?;
        if let Some(recipe) = recipe.as_ref().filter(|recipe| recipe.get().len() > MAX_RECIPE) {
            return Err(misuse(format!("recipe of {} bytes, expected at most {MAX_RECIPE}", recipe.get().len())));
        }
        let mut writer = Self { out, tensors, order, recipe, room, current: 0, written: 0, hash: Xxh3Default::new() };
        let header = writer.header()?;
        writer.out.write_all(&header)?;
        writer.skip_finished();
        Ok(writer)
    }

    /// Returns the order of writing, as indices into the list given to [`new`](Self::new).
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Returns the size of the whole file in bytes, header included.
    ///
    /// # Errors
    /// If the header cannot be built.
    pub fn file_bytes(&self) -> io::Result<u64> {
        Ok(self.header()?.len() as u64 + self.tensors.iter().map(|t| t.bytes as u64).sum::<u64>())
    }

    /// Appends bytes to the current tensor. When it is complete, adds its padding and begins the
    /// next one.
    ///
    /// # Errors
    /// If the output fails, or `bytes` exceed the end of the tensor.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(()); // all of an empty tensor
        }
        let tensor = self.tensors.get_mut(self.current).filter(|t| bytes.len() <= t.bytes - self.written);
        let tensor = tensor.ok_or_else(|| misuse("more bytes than the tensor holds".into()))?;
        self.hash.update(bytes);
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        let left = tensor.bytes - self.written;
        if matches!(tensor.storage, Storage::Packed(_)) && left < ALIGNMENT && left > 0 && self.at_last_panel() {
            return self.write(&[0; ALIGNMENT][..left]);
        }
        self.skip_finished();
        Ok(())
    }

    /// Returns whether all panels of the current packed tensor are written and only padding is
    /// missing.
    fn at_last_panel(&self) -> bool {
        let tensor = &self.tensors[self.current];
        match (&tensor.storage, tensor.shape.as_slice()) {
            (Storage::Packed(format), [matrices @ .., rows, cols]) => {
                let matrix = format.matrix_bytes(*rows, *cols).unwrap_or(usize::MAX);
                matrix.saturating_mul(matrices.iter().product()) == self.written
            }
            _ => false,
        }
    }

    /// Advances to the next tensor that lacks bytes.
    fn skip_finished(&mut self) {
        while let Some(tensor) = self.tensors.get_mut(self.current).filter(|t| t.bytes == self.written) {
            tensor.checksum = self.hash.digest();
            self.hash.reset();
            self.current += 1;
            self.written = 0;
        }
    }

    /// Writes the checksums into the header and returns the output.
    ///
    /// # Errors
    /// If the output fails, or tensors lack bytes.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let message =
                format!("tensor \"{}\" has {} of {} bytes", tensor.name.escape_debug(), self.written, tensor.bytes);
            return Err(misuse(message));
        }
        let header = self.header()?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Returns the header with the current checksums. Its length is always the same.
    fn header(&self) -> io::Result<Vec<u8>> {
        let mut entries = Map::new();
        let mut offset = 0usize;
        for tensor in &self.tensors {
            let end = offset.checked_add(tensor.bytes).ok_or_else(|| misuse("the tensors' sizes overflow".into()))?;
            let shape = match tensor.storage {
                Storage::Packed(_) => vec![tensor.bytes],
                Storage::Plain(_) => tensor.shape.clone(),
            };
            let entry = json!({"dtype": tensor.storage.dtype(), "shape": shape, "data_offsets": [offset, end]});
            if tensor.name == METADATA || entries.insert(tensor.name.clone(), entry).is_some() {
                return Err(misuse(format!("tensor \"{}\": there is one of this name", tensor.name.escape_debug())));
            }
            offset = end;
        }
        let description = Description {
            version: VERSION,
            tensors: self.tensors.iter().map(Planned::describe).collect(),
            recipe: self.recipe.clone(),
        };
        let mut header = Map::new();
        header.insert(METADATA.into(), json!({KEY: serde_json::to_string(&description)?}));
        header.append(&mut entries);
        let json = serde_json::to_vec(&header)?;
        let len = (json.len() + self.room + size_of::<u64>()).next_multiple_of(ALIGNMENT) - size_of::<u64>();
        if len > MAX_HEADER {
            return Err(misuse(format!("header of {len} bytes, expected at most {MAX_HEADER}")));
        }
        let mut bytes = (len as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        bytes.resize(len + size_of::<u64>(), b' ');
        Ok(bytes)
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({} of {} tensors written)", self.current, self.tensors.len())
    }
}

impl Planned {
    fn describe(&self) -> TensorDescription {
        let packed = match self.storage {
            Storage::Packed(format) => Some(PackedDescription {
                format: format.name().into(),
                layout: LAYOUT.into(),
                shape: self.shape.clone(),
            }),
            Storage::Plain(_) => None,
        };
        TensorDescription { name: self.name.clone(), xxh3: format!("{:016x}", self.checksum), packed }
    }
}

/// Makes the error of a caller's mistake.
fn misuse(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Returns the size of plain elements in bytes; `None` if it is not a whole number or overflows.
pub(super) fn plain_bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().try_fold(dtype.bitsize(), |n, &d| n.checked_mul(d))?;
    (bits % 8 == 0).then_some(bits / 8)
}
