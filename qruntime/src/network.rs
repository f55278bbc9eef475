//! A network of either kind; `config.json` says which.

use std::fmt;
use std::path::Path;

use crate::encoder::Encoder;
use crate::error::Error;
use crate::family::{self, Found};
use crate::lm::CausalLm;
use crate::model::Model;
use crate::model_files::ModelFiles;

/// A network of either kind.
///
/// ```no_run
/// use qruntime::Network;
///
/// match Network::open("model")? {
///     Network::CausalLm(lm) => println!("{} tokens", lm.config().vocab_size),
///     Network::Encoder(encoder) => println!("{} dimensions", encoder.config().dimensions),
///     other => println!("{other:?}"),
/// }
/// # Ok::<(), qruntime::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Network {
    /// A language model.
    CausalLm(CausalLm),
    /// A sentence encoder.
    Encoder(Encoder),
}

/// The kind of network in a folder, according to `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkKind {
    /// A language model, which [`CausalLm`] opens.
    CausalLm {
        /// Its family; see [`LmConfig::family`](crate::LmConfig::family).
        family: &'static str,
    },
    /// A sentence encoder, which [`Encoder`] opens.
    Encoder {
        /// Its family; see [`EncoderConfig::family`](crate::EncoderConfig::family).
        family: &'static str,
    },
    /// An unknown family.
    Unknown {
        /// `model_type`, or else the first of `architectures`; empty if `config.json` has neither.
        family: String,
    },
}

impl Network {
    /// Returns the kind of the network in a folder (or in a safetensors file beside its
    /// `config.json`) without opening the weights.
    ///
    /// # Errors
    /// If there is no checkpoint, or `config.json` cannot be read.
    pub fn kind(path: impl AsRef<Path>) -> Result<NetworkKind, Error> {
        let files = ModelFiles::open(path.as_ref())?;
        Ok(match family::find(&files.config("config.json")?)? {
            Found::Decoder(family) => NetworkKind::CausalLm { family },
            Found::Encoder(family) => NetworkKind::Encoder { family },
            Found::Unknown(_, family) => NetworkKind::Unknown { family },
        })
    }

    /// Opens the network in a folder, reading the weights into memory.
    ///
    /// # Errors
    /// Those of [`CausalLm::open`] or [`Encoder::open`], depending on the kind that `config.json`
    /// names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::by_kind(path, || Model::read(path))
    }

    /// Opens the network in a folder, mapping the weights.
    ///
    /// # Safety
    /// That of [`Model::map`]: while the network, a clone of it, a session, its [`Model`] or a
    /// layer made from that lives, nobody changes or truncates the files.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // SAFETY: the caller upholds this function's contract.
        Self::by_kind(path, || unsafe { Model::map(path) })
    }

    /// Opens the network; `model` opens the weights.
    fn by_kind(path: &Path, model: impl FnOnce() -> Result<Model, Error>) -> Result<Self, Error> {
        let files = ModelFiles::open(path)?;
        let config = files.config("config.json")?;
        match family::find(&config)? {
            Found::Decoder(_) => CausalLm::of_files(files, path, model).map(Self::CausalLm),
            Found::Encoder(_) => Encoder::of_files(files, path, model).map(Self::Encoder),
            Found::Unknown(field, family) => Err(family::unknown(&config, field, &family)),
        }
    }

    /// Returns its tensors.
    #[must_use]
    pub fn model(&self) -> &Model {
        match self {
            Self::CausalLm(lm) => lm.model(),
            Self::Encoder(encoder) => encoder.model(),
        }
    }
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CausalLm { family } => write!(f, "language model ({family})"),
            Self::Encoder { family } => write!(f, "sentence encoder ({family})"),
            Self::Unknown { family } => write!(f, "unknown family ({family:?})"),
        }
    }
}
