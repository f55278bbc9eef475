//! Opens models of every kind: safetensors files, folders, GGUF files.

use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::gguf;
use crate::gguf::load::{Loaded, load};
use crate::gguf::source::Source;
use crate::model::{Model, ModelFile};

impl Model {
    /// Maps the file or folder at `path`. Nothing is copied: pages come from the operating system's
    /// cache as they are used. GGUF files are not mapped, but loaded as [`read`](Self::read) does.
    ///
    /// # Safety
    /// While the model, a clone of it or one of its layers lives, nobody may change or truncate its
    /// files, neither this process nor another one. The operating system does not enforce this. A
    /// changed weight can only change results: lengths, offsets and names are copied out of the map
    /// and checked once, here. But Rust assumes that mapped bytes are constant, and touching a page
    /// beyond the end of a truncated file kills the process (`SIGBUS`). `quantize convert` replaces
    /// files by renaming, which is harmless to a map. Where this cannot be promised, use
    /// [`read`](Self::read).
    ///
    /// # Errors
    /// If a file cannot be opened or is invalid, or if the environment asks for an instruction set
    /// that is not available.
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Self, Error> {
        // SAFETY: the caller upholds this function's contract.
        Self::open(path.as_ref(), |path| unsafe { Bytes::map(path) })
    }

    /// Reads the file or folder at `path` into owned memory. It uses huge pages where the system
    /// has them, because memory in huge pages is read faster (`docs/benchmarking.md` says by how
    /// much); a map has them only where the file system supports it. Opening takes the time to read
    /// the file, and the memory is taken for as long as the model lives.
    ///
    /// A GGUF file, any file of a split model, or a folder with the files of one GGUF model is
    /// loaded on the threads of rayon's current pool: tensors get the names and the order of rows
    /// that checkpoints have, and blocks are repacked into panels. `docs/gguf.md` says what is
    /// read.
    ///
    /// # Errors
    /// See [`map`](Self::map). Also if the system refuses the memory.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open(path.as_ref(), Bytes::read)
    }

    fn open(path: &Path, bytes: impl Fn(&Path) -> Result<Bytes, Error>) -> Result<Self, Error> {
        if let Some(file) = gguf::find(path)? {
            return Self::load(&Source::open(&file)?);
        }
        let checkpoint = Checkpoint::find(path)?;
        let open = |path: &PathBuf| Ok(ModelFile::new(bytes(path)?).map_err(|error| error.in_file(path))?);
        let files = checkpoint.files().iter().map(open).collect::<Result<Vec<ModelFile>, Error>>()?;
        checkpoint.check(
            files.iter().enumerate().flat_map(|(f, file)| file.entries().iter().map(move |entry| (f, entry.name()))),
        )?;
        Self::new(files, checkpoint.warnings().to_vec())
    }

    /// Loads a GGUF model.
    pub(crate) fn load(source: &Source) -> Result<Self, Error> {
        let Loaded { bytes, entries, warnings } = load(source)?;
        Self::of_gguf(bytes, entries, source.file_bytes()?, warnings)
    }
}
