//! The open files of a GGUF model.

use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use super::{ElementType, Gguf};
use crate::error::{Error, FileError, FileErrorKind};
use crate::files;

/// The headers of a model's files, and the files, of which any thread reads any part.
#[derive(Debug)]
pub(crate) struct Source {
    gguf: Gguf,
    files: Vec<Positioned>,
}

impl Source {
    /// Opens the file at `path` and, if the model is split, its other files.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let open = |path: &PathBuf| Ok(Positioned::new(files::open(path)?.0));
        let files = gguf.paths().iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { gguf, files })
    }

    pub(crate) fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Returns the path of the first file.
    pub(crate) fn path(&self) -> &Path {
        &self.gguf.paths()[0]
    }

    /// Returns the sizes of all files together.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        let size = |path: &PathBuf| std::fs::metadata(path).map(|found| found.len()).map_err(Error::io(path));
        self.gguf.paths().iter().map(size).sum()
    }

    /// Reads bytes of a tensor, from `start` on within it.
    pub(crate) fn read(&self, tensor: usize, start: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let tensor = &self.gguf.tensors()[tensor];
        let path = &self.gguf.paths()[tensor.file()];
        self.files[tensor.file()].read(bytes, tensor.range().start + start).map_err(Error::io(path))
    }

    /// Reads all bytes of a tensor.
    pub(crate) fn read_whole(&self, tensor: usize) -> Result<Vec<u8>, Error> {
        let range = self.gguf.tensors()[tensor].range();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read(tensor, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Decodes whole blocks of a tensor, or plain elements.
    pub(crate) fn decode(&self, tensor: usize, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
        let tensor = &self.gguf.tensors()[tensor];
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        match tensor.element_type() {
            ElementType::Blocks(format) => format.decode(bytes, out)?,
            ElementType::Foreign(foreign) => foreign.decode(bytes, out)?,
            ElementType::Plain(Dtype::F32) => fill(out, bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes)),
            ElementType::Plain(Dtype::F16) => fill(out, pairs().map(|pair| f16::from_le_bytes(pair).to_f32())),
            ElementType::Plain(Dtype::BF16) => fill(out, pairs().map(|pair| bf16::from_le_bytes(pair).to_f32())),
            ElementType::Plain(dtype) => {
                let message = format!("{dtype:?} elements, expected F32, F16 or BF16");
                let error = FileError { kind: FileErrorKind::Network, ..FileError::tensor(tensor.name(), message) };
                return Err(error.in_file(&self.gguf.paths()[tensor.file()]).into());
            }
        }
        Ok(())
    }
}

fn fill(out: &mut [f32], elements: impl Iterator<Item = f32>) {
    out.iter_mut().zip(elements).for_each(|(to, element)| *to = element);
}

/// A file that is read at any place, by several threads at once.
#[derive(Debug)]
struct Positioned {
    #[cfg(any(unix, windows))]
    file: File,
    #[cfg(not(any(unix, windows)))]
    file: std::sync::Mutex<File>,
}

impl Positioned {
    #[cfg(any(unix, windows))]
    fn new(file: File) -> Self {
        Self { file }
    }

    #[cfg(not(any(unix, windows)))]
    fn new(file: File) -> Self {
        Self { file: file.into() }
    }

    #[cfg(unix)]
    fn read(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, offset)
    }

    #[cfg(windows)]
    fn read(&self, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, bytes, offset)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => {
                    bytes = &mut bytes[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(not(any(unix, windows)))]
    fn read(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}
