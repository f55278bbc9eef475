//! Reads GGUF files: their metadata, and where their tensors are.
//!
//! Versions 2 and 3 are read, little-endian. A model may be split into files; see [`Gguf::open`].
//!
//! ```no_run
//! use std::path::Path;
//!
//! use qruntime::gguf::Gguf;
//!
//! let gguf = Gguf::open(Path::new("model-q4_k_m.gguf"))?;
//! println!("{}", gguf.metadata().architecture()?);
//! for tensor in gguf.tensors() {
//!     println!("{:30} {:8} {:?}", tensor.name(), tensor.element_type(), tensor.shape());
//! }
//! # Ok::<(), qruntime::Error>(())
//! ```

mod architecture;
mod config;
mod element;
mod find;
pub(crate) mod load;
mod parse;
mod rows;
pub(crate) mod source;
mod split;
mod stored;
mod tensors;
mod tokenizer;
mod value;
mod write;

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use config::{About, Description, ReadFile, config_files, metadata_of};
pub use element::{ElementType, UnreadType};
pub(crate) use find::find;
pub use kernels::Foreign;
pub use stored::{Stored, StoredPart, stored};
pub use tensors::{Piece, Pieces, RowOrder, pieces};
pub use tokenizer::{tokenizer_files, tokenizer_metadata};
pub use value::{Array, Metadata, Value};
pub use write::Writer;

use crate::error::{Error, FileError};
use crate::files;
use parse::{Fault, Header};

/// The headers of a GGUF file, or of all files of a split model.
///
/// Invariant: the range of every tensor is within its file, and as long as its shape says.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    tensors: Vec<GgufTensor>,
    paths: Vec<PathBuf>,
}

/// A tensor of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    name: String,
    shape: Vec<usize>,
    element_type: ElementType,
    file: usize,
    range: Range<u64>,
}

impl Gguf {
    /// Reads the headers of the file at `path` and, if the model is split, of its other files. Any
    /// of these may be named; the others lie beside it, and their names end like
    /// `-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// If a file cannot be read or is not a whole GGUF file; if a file of a split model is missing
    /// or belongs to another model.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let first = Self::header(path)?;
        let (paths, headers) = match split::parts(path, &first)? {
            None => (vec![path.to_owned()], vec![first]),
            Some(parts) => {
                let others = |part: &PathBuf| if part == path { Ok(None) } else { Self::header(part).map(Some) };
                let headers = parts.iter().map(others).collect::<Result<Vec<_>, Error>>()?;
                let mut first = Some(first);
                let headers = headers.into_iter().map(|header| header.or_else(|| first.take()));
                (parts, headers.map(|header| header.expect("one part is at `path`")).collect())
            }
        };
        split::check(&paths, &headers)?;
        Ok(Self::of(headers, paths))
    }

    /// Parses a file in memory.
    ///
    /// # Errors
    /// If it is not a whole GGUF file, or one of the files of a split model.
    pub fn parse(file: &[u8]) -> Result<Self, FileError> {
        let header = parse::header(file, file.len() as u64).map_err(|fault| match fault {
            Fault::File(error) => error,
            Fault::Io(error) => unreachable!("{error}: lengths are checked before memory is read"),
        })?;
        split::whole(&header)?;
        Ok(Self::of(vec![header], vec![]))
    }

    /// Returns whether the file at `path` begins as GGUF files do, whatever its name.
    #[must_use]
    pub fn is_gguf(path: &Path) -> bool {
        let beginning = || {
            let mut magic = [0; 4];
            files::open(path).ok()?.0.read_exact(&mut magic).ok()?;
            Some(magic)
        };
        beginning() == Some(parse::MAGIC)
    }

    fn header(path: &Path) -> Result<Header, Error> {
        let (file, len): (File, usize) = files::open(path)?;
        parse::header(BufReader::new(file), len as u64).map_err(|fault| match fault {
            Fault::File(error) => error.in_file(path).into(),
            Fault::Io(error) => Error::io(path)(error),
        })
    }

    fn of(headers: Vec<Header>, paths: Vec<PathBuf>) -> Self {
        let mut headers = headers.into_iter().enumerate();
        let (mut tensors, mut first) = (vec![], None);
        for (file, Header { version, values, tensors: infos }) in headers.by_ref() {
            first.get_or_insert((version, values));
            tensors.extend(infos.into_iter().map(|info| GgufTensor {
                name: info.name,
                shape: info.shape,
                element_type: info.element_type,
                file,
                range: info.range,
            }));
        }
        let (version, values) = first.expect("at least one file");
        let metadata = Metadata::new(values);
        let metadata = match paths.first() {
            Some(path) => metadata.in_file(path.clone()),
            None => metadata,
        };
        Self { version, metadata, tensors, paths }
    }

    /// Returns the version of the format, 2 or 3: that of the first file.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the metadata: those of the first file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the tensors of all files, file by file, each file's in the order of their data.
    #[must_use]
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// Returns the paths of the files, in order; none if the file was in memory.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl GgufTensor {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the shape. The length of a row comes last, as in PyTorch; in the file it comes
    /// first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns how the elements are stored. Rows are whole blocks.
    #[must_use]
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Returns which file holds the tensor: its position in [`Gguf::paths`], 0 if there are none.
    #[must_use]
    pub fn file(&self) -> usize {
        self.file
    }

    /// Returns the range of the tensor's bytes in its file.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the number of rows of all matrices together; 1 for a vector.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}
