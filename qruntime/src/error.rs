//! Errors, by who is at fault.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use kernels::{IsaError, KvFormat, ShapeError};

/// Any failure of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is invalid.
    File(FileError),
    /// The model has no such tensor.
    NoSuchTensor {
        /// The name asked for.
        name: String,
    },
    /// The tensor exists, but is not of the kind asked for.
    WrongKind {
        /// The tensor.
        name: String,
        /// The kind that it is.
        found: String,
        /// The kind asked for.
        expected: &'static str,
    },
    /// The caller's lengths do not agree.
    Shape(ShapeError),
    /// The requested instruction set is not available.
    Isa(IsaError),
    /// A network was given a token that is not in its vocabulary.
    Token {
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        vocabulary: usize,
    },
    /// A network was asked for a layer that it does not have.
    NoSuchLayer {
        /// The layer asked for, from 0.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
    /// A sequence would exceed its context.
    Context {
        /// The length it would have, in tokens.
        length: usize,
        /// The length it may have.
        context: usize,
        /// The longest sequence that the model allows.
        longest: usize,
    },
    /// A sequence has no tokens: there is nothing to compute from.
    NoTokens,
    /// A sentence encoder has no prompt of this name.
    NoSuchPrompt {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A session was handed to a model that it does not belong to.
    OtherModel,
    /// A model that was made from bytes was asked for a file.
    NoFolder {
        /// The file.
        file: &'static str,
    },
    /// A model is neither a path nor in the local cache of the Hugging Face Hub.
    NotCached {
        /// The model asked for.
        model: PathBuf,
        /// What is missing.
        what: String,
        /// The folder of the cache.
        cache: PathBuf,
        /// The command that fetches the model.
        command: String,
    },
    /// The caller cancelled a computation.
    Cancelled,
    /// A result of a network is NaN or infinite.
    NotFinite {
        /// The part of the network where it began: its inputs were finite.
        part: NetworkPart,
    },
    /// A key or value of attention has a magnitude that binary16 does not hold.
    CacheRange {
        /// The layer, from 0.
        layer: usize,
        /// The magnitude.
        found: f32,
        /// A format that would hold it, if the caller can choose one.
        alternative: Option<KvFormat>,
    },
    /// An option is out of range.
    Option {
        /// The option.
        name: &'static str,
        /// The value given.
        found: String,
        /// The permitted values.
        expected: &'static str,
    },
}

impl Error {
    /// Returns the name of this failure for programs in other languages. Messages may change in
    /// later versions, but codes do not; new failures get new codes. A refused file has the code of
    /// its [`FileErrorKind`].
    ///
    /// ```
    /// # use qruntime::{Error, Model};
    /// let error = Model::read("no such folder").unwrap_err();
    /// assert_eq!(error.code(), "io");
    /// ```
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::File(error) => error.kind.code(),
            Self::NoSuchTensor { .. } => "no_such_tensor",
            Self::WrongKind { .. } => "wrong_kind_of_tensor",
            Self::Shape(_) => "shape",
            Self::Isa(_) => "instruction_set",
            Self::Token { .. } => "token",
            Self::NoSuchLayer { .. } => "no_such_layer",
            Self::Context { .. } => "context",
            Self::NoTokens => "no_tokens",
            Self::NoSuchPrompt { .. } => "no_such_prompt",
            Self::OtherModel => "other_model",
            Self::NoFolder { .. } => "no_folder",
            Self::NotCached { .. } => "not_cached",
            Self::Cancelled => "cancelled",
            Self::NotFinite { .. } => "not_finite",
            Self::CacheRange { .. } => "cache_range",
            Self::Option { .. } => "option",
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot access {path:?}"),
            Self::File(error) => error.fmt(f),
            Self::NoSuchTensor { name } => write!(f, "the model has no tensor \"{}\"", name.escape_debug()),
            Self::WrongKind { name, found, expected } => {
                write!(f, "tensor \"{}\" is {found}, expected {expected}", name.escape_debug())
            }
            Self::Shape(error) => error.fmt(f),
            Self::Isa(error) => error.fmt(f),
            Self::Token { token, vocabulary } => write!(f, "token {token}, expected one below {vocabulary}"),
            Self::NoSuchLayer { layer, layers } => write!(f, "layer {layer}, expected one below {layers}"),
            Self::Context { length, context, longest } => {
                write!(f, "sequence of {length} tokens, expected at most {context}, its context")?;
                if longest > context {
                    write!(f, " (SessionOptions::context may be up to {longest})")?;
                }
                Ok(())
            }
            Self::NoTokens => f.write_str("sequence of 0 tokens, expected at least 1"),
            Self::NoSuchPrompt { name, known } => {
                write!(f, "the encoder has no prompt \"{}\"", name.escape_debug())?;
                match known.as_slice() {
                    [] => f.write_str(", nor any other"),
                    known => write!(f, ", expected one of {known:?}"),
                }
            }
            Self::OtherModel => f.write_str("a session of another model"),
            Self::NotCached { model, what, cache, command } => {
                let cache = cache.display();
                write!(
                    f,
                    "no file or folder {model:?}, and {what} in Hugging Face's cache ({cache}): `{command}` fetches it"
                )
            }
            Self::NoFolder { file } => {
                write!(f, "no folder to read {file} from: the model was made from bytes, make that from bytes, too")
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::NotFinite { part } => write!(
                f,
                "a result is NaN or infinite, which began in {part}: its weights are damaged, or values overflow"
            ),
            Self::CacheRange { layer, found, alternative } => {
                write!(f, "a key or value of {} is {found:e}", NetworkPart::Layer(*layer))?;
                f.write_str(", expected a magnitude below 65520 for the half precision in which they are kept")?;
                match alternative {
                    Some(KvFormat::Q8) => f.write_str("; 8 bits with a scale hold it (KvFormat::Q8, --kv q8)"),
                    _ => Ok(()),
                }
            }
            Self::Option { name, found, expected } => write!(f, "{name} {found}, expected {expected}"),
        }
    }
}

/// A part of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkPart {
    /// The embedding of tokens.
    Embedding,
    /// A layer, from 0.
    Layer(usize),
    /// The final norm and the output head.
    Head,
}

impl fmt::Display for NetworkPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("the embedding"),
            Self::Layer(layer) => write!(f, "layer {layer}"),
            Self::Head => f.write_str("the final norm or the output head"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<ShapeError> for Error {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl From<IsaError> for Error {
    fn from(error: IsaError) -> Self {
        Self::Isa(error)
    }
}

/// What is wrong with a file, for programs; the message gives the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileErrorKind {
    /// It is not a safetensors file, or a damaged one.
    NotSafetensors,
    /// It is not a GGUF file, or a damaged one.
    NotGguf,
    /// Its description of the packed tensors cannot be read.
    Metadata,
    /// It needs a later version of this library.
    Version,
    /// A tensor's description does not agree with its bytes.
    Tensor,
    /// Files of a model are missing or do not agree with each other.
    Shards,
    /// It is not JSON, or not JSON of the expected form.
    Json,
    /// It exceeds the maximum length of a file of its kind.
    TooLong,
    /// The description of the network (`config.json` and its companions) asks for something unknown
    /// or disagrees with the tensors.
    Network,
    /// It is not a checkpoint of plain weights, but quantized by another program, an adapter, a
    /// file of another kind, or an incomplete download.
    Foreign,
}

impl FileErrorKind {
    /// All kinds.
    #[cfg(test)]
    const ALL: [Self; 10] = {
        use FileErrorKind::*;
        let all = [NotSafetensors, NotGguf, Metadata, Version, Tensor, Shards, Json, TooLong, Network, Foreign];
        // Whoever adds a kind adds it to both lists.
        match all[0] {
            NotSafetensors | NotGguf | Metadata | Version | Tensor | Shards | Json | TooLong | Network | Foreign => all,
        }
    };

    /// Returns the code of the kind; see [`Error::code`].
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotSafetensors => "file_not_safetensors",
            Self::NotGguf => "file_not_gguf",
            Self::Metadata => "file_metadata",
            Self::Version => "file_version",
            Self::Tensor => "file_tensor",
            Self::Shards => "file_shards",
            Self::Json => "file_json",
            Self::TooLong => "file_too_long",
            Self::Network => "file_network",
            Self::Foreign => "file_foreign",
        }
    }
}

/// The error of a refused file: what is wrong with it, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub(crate) kind: FileErrorKind,
    pub(crate) path: Option<PathBuf>,
    pub(crate) tensor: Option<String>,
    pub(crate) message: String,
}

impl FileError {
    pub(crate) fn new(kind: FileErrorKind, message: impl Into<String>) -> Self {
        Self { kind, path: None, tensor: None, message: message.into() }
    }

    /// Makes the error of a tensor whose description does not agree with its bytes.
    pub(crate) fn tensor(name: &str, message: impl Into<String>) -> Self {
        Self { tensor: Some(name.into()), ..Self::new(FileErrorKind::Tensor, message) }
    }

    /// Makes the error of a field of `config.json` or a companion. `found` may quote the file.
    pub(crate) fn field(field: &str, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::new(FileErrorKind::Network, format!("\"{field}\": {found}, expected {expected}"))
    }

    /// Makes the error of a tensor that is not what the network needs.
    pub(crate) fn network(tensor: &str, message: impl Into<String>) -> Self {
        Self { kind: FileErrorKind::Network, ..Self::tensor(tensor, message) }
    }

    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Returns what is wrong.
    #[must_use]
    pub fn kind(&self) -> FileErrorKind {
        self.kind
    }

    /// Returns the file, if it has a name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the tensor at fault, if there is one.
    #[must_use]
    pub fn tensor_name(&self) -> Option<&str> {
        self.tensor.as_deref()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            // Quoted and escaped: a folder's files may have any names.
            write!(f, "{path:?}: ")?;
        }
        if let Some(name) = &self.tensor {
            write!(f, "tensor \"{}\": ", name.escape_debug())?;
        }
        // The message may quote the file, which must not send control characters to a terminal.
        self.message.chars().try_for_each(|c| match c {
            c if c.is_control() => c.escape_default().fmt(f),
            c => f.write_char(c),
        })
    }
}

impl std::error::Error for FileError {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns one failure of each kind.
    fn all() -> Vec<Error> {
        use Error::*;
        // Whoever adds a failure adds it to the list below.
        let _ = |error: &Error| match error {
            Io { .. } | File(_) | NoSuchTensor { .. } | WrongKind { .. } | Shape(_) | Isa(_) | Token { .. } => {}
            NoSuchLayer { .. } | Context { .. } | NoTokens | NoSuchPrompt { .. } | OtherModel | NoFolder { .. } => {}
            NotCached { .. } | Cancelled | NotFinite { .. } | CacheRange { .. } | Error::Option { .. } => {}
        };
        let name = String::new;
        let mut errors = vec![
            Error::Io { path: PathBuf::new(), source: std::io::ErrorKind::NotFound.into() },
            Error::NoSuchTensor { name: name() },
            Error::WrongKind { name: name(), found: name(), expected: "" },
            ShapeError::check("", 0, 1).unwrap_err().into(),
            "none".parse::<kernels::Isa>().unwrap_err().into(),
            Error::Token { token: 0, vocabulary: 0 },
            Error::NoSuchLayer { layer: 0, layers: 0 },
            Error::Context { length: 0, context: 0, longest: 0 },
            Error::NoTokens,
            Error::NoSuchPrompt { name: name(), known: vec![] },
            Error::OtherModel,
            Error::NoFolder { file: "" },
            Error::NotCached { model: PathBuf::new(), what: name(), cache: PathBuf::new(), command: name() },
            Error::Cancelled,
            Error::NotFinite { part: NetworkPart::Head },
            Error::CacheRange { layer: 0, found: 0.0, alternative: None },
            Error::Option { name: "", found: name(), expected: "" },
        ];
        errors.extend(FileErrorKind::ALL.map(|kind| FileError::new(kind, "").into()));
        errors
    }

    #[test]
    fn every_failure_has_a_code_of_its_own() {
        let codes: Vec<&str> = all().iter().map(Error::code).collect();
        let distinct: BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(distinct.len(), codes.len(), "{codes:?}");
        assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')), "{codes:?}");
    }

    /// Programs in other languages compare with these codes: add codes, but never change one.
    #[test]
    fn codes_stay_what_they_are() {
        let codes: Vec<&str> = all().iter().map(Error::code).collect();
        let expected = "io no_such_tensor wrong_kind_of_tensor shape instruction_set token no_such_layer context no_tokens \
                        no_such_prompt other_model no_folder not_cached cancelled not_finite cache_range option \
                        file_not_safetensors file_not_gguf file_metadata file_version file_tensor file_shards file_json file_too_long \
                        file_network file_foreign";
        assert_eq!(codes.join(" "), expected);
    }
}
