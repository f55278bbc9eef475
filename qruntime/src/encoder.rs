//! Encoders: networks that make a vector of a text, to be compared with those of others.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kernels::{Isa, normalize_l2};
use ndarray::Array2;

use crate::checkpoint::{is_plain_name, read_json_within};
use crate::config::{Config, MAX_CONFIG, SIZES};
use crate::error::{Error, FileError, FileErrorKind};
use crate::family;
use crate::folder::Folder;
use crate::model::Model;
use crate::nn::encoder::{EncoderNetwork, EncoderState};
use crate::nn::spec::EncoderSpec;
use crate::nn::weights::{Weights, folder};
use crate::nn::{NUMBERS, Spare};
use crate::owned::OwnedEncoder;
use crate::parallel;

/// A sentence encoder: a folder as sentence-transformers lays it out, its matrices packed by `quantize convert` or plain.
///
/// Cloning is cheap: clones share the weights, and threads may use them at once. A text's vector has the same bits on every processor, with any number of threads, and for
/// a text alone or among others.
#[derive(Clone)]
pub struct Encoder(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    network: OwnedEncoder,
    spec: EncoderSpec,
    config: EncoderConfig,
    pub(crate) folder: Folder,
    states: Spare<EncoderState>,
}

/// What an encoder is, as its folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderConfig {
    /// The family, as `model_type` has it.
    pub family: String,
    /// Tokens are numbers below this.
    pub vocab_size: usize,
    /// The longest sequence that the network can take, in tokens.
    pub context: usize,
    /// The length that sequences are to be cut to, in tokens (`sentence_bert_config.json`); not more than `context`.
    pub max_tokens: usize,
    /// Layers.
    pub layers: usize,
    /// Numbers of a vector.
    pub dimensions: usize,
    /// How a text's vector is made of its tokens'.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
}

/// How a text's vector is made of its tokens'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
}

/// Tokens that go through the network together, unless a single text has more.
const BLOCK: usize = 512;

impl Encoder {
    /// Opens a folder with `config.json`, `modules.json` and what that names beside its safetensors files, reading the weights into memory. Without
    /// `modules.json`, vectors are means and are not normalized.
    ///
    /// # Errors
    /// If the files cannot be read, are damaged, are of a family that is not known, or the tensors are not those that `config.json` speaks of; if `modules.json` asks for
    /// what is not known.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::new(path, || Model::read(path))
    }

    /// The same, mapping the weights.
    ///
    /// # Safety
    /// That of [`Model::map`]: nobody changes or truncates the files while the encoder or a clone of it lives.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // SAFETY: the caller makes the promise.
        Self::new(path, || unsafe { Model::map(path) })
    }

    fn new(path: &Path, model: impl FnOnce() -> Result<Model, Error>) -> Result<Self, Error> {
        let folder = folder(path);
        let (family, spec) = family::encoder(&Config::read(&folder.join("config.json"))?)?;
        let config = EncoderConfig::new(family, &spec, &folder)?;
        let model = model()?;
        let isa = model.isa();
        let network = OwnedEncoder::try_new(Arc::new(model), |model| {
            EncoderNetwork::new(&spec, &Weights::new(model, path, isa))
        })?;
        Ok(Self(Arc::new(Inner { network, spec, config, folder: Folder::new(folder), states: Spare::default() })))
    }

    /// Uses another instruction set: for tests, measurements and bug reports. Results stay the same. Weights are shared with clones, which keep
    /// theirs.
    ///
    /// # Panics
    /// Never: the layers have been built before.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        let inner = &*self.0;
        let (spec, config, folder) = (inner.spec, inner.config.clone(), Folder::new(inner.folder.path()));
        let network = OwnedEncoder::try_new(Arc::clone(inner.network.borrow_owner()), |model| {
            EncoderNetwork::new(&spec, &Weights::new(model, folder.path(), isa))
        })
        .expect("these tensors have made a network before");
        Self(Arc::new(Inner { network, spec, config, folder, states: Spare::default() }))
    }

    /// What the encoder is.
    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.0.config
    }

    /// Its tensors.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.0.network.borrow_owner()
    }

    /// The folder that it is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    /// The vectors of texts that are already tokens, with those that a tokenizer adds at the beginning and the end: a row for each.
    ///
    /// # Errors
    /// If a sequence has no tokens or more than [`context`](EncoderConfig::context), or a token is not in the vocabulary.
    pub fn embed_ids(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Array2<f32>, Error> {
        let EncoderConfig { vocab_size: vocabulary, context, dimensions, .. } = *self.config();
        let sequences: Vec<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
        for tokens in &sequences {
            match tokens.len() {
                0 => return Err(Error::NoTokens),
                length if length > context => return Err(Error::Context { length, context, longest: context }),
                _ => {}
            }
            if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
                return Err(Error::Token { token, vocabulary });
            }
        }
        let mut vectors = Array2::zeros((sequences.len(), dimensions));
        let to = vectors.as_slice_mut().expect("an array of its own");
        parallel::enter(|| parallel::keep_awake(|| self.0.states.lend(|state| self.compute(&sequences, to, state))))?;
        Ok(vectors)
    }

    fn compute(&self, mut sequences: &[&[u32]], mut to: &mut [f32], state: &mut EncoderState) -> Result<(), Error> {
        let network = self.0.network.borrow_dependent();
        let dimensions = self.config().dimensions;
        // Fewer where rows are wide, or where many short texts begin tiny heads.
        let most_rows = BLOCK.min(NUMBERS / self.0.spec.row_numbers());
        let most = (NUMBERS / self.0.spec.attention.panel_bytes()).max(1);
        while !sequences.is_empty() {
            let mut rows = 0;
            let fits = sequences.iter().take(most).take_while(|tokens| {
                rows += tokens.len();
                rows <= most_rows
            });
            let (some, others) = sequences.split_at(fits.count().max(1));
            network.forward(some, state)?;
            let mut x = state.x.as_slice();
            let (vectors, rest) = to.split_at_mut(some.len() * dimensions);
            for (tokens, vector) in some.iter().zip(vectors.chunks_mut(dimensions)) {
                let (rows, others) = x.split_at(tokens.len() * dimensions);
                x = others;
                self.pool(rows, vector);
            }
            (sequences, to) = (others, rest);
        }
        Ok(())
    }

    /// The vector of a text from those of its tokens.
    fn pool(&self, rows: &[f32], vector: &mut [f32]) {
        let mut rows = rows.chunks(vector.len());
        let count = rows.len() as f32;
        vector.copy_from_slice(rows.next().expect("a text has tokens"));
        if self.config().pooling == Pooling::Mean {
            for row in rows {
                vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            vector.iter_mut().for_each(|sum| *sum /= count);
        }
        if self.config().normalize {
            normalize_l2(self.model().isa(), vector);
        }
    }
}

impl EncoderConfig {
    fn new(family: &str, spec: &EncoderSpec, folder: &Path) -> Result<Self, Error> {
        let sentence = folder.join("sentence_bert_config.json");
        let max_tokens = match sentence.exists() {
            true => Config::read(&sentence)?.size_if("max_seq_length", SIZES)?,
            false => None,
        };
        let modules = folder.join("modules.json");
        let (pooling, normalize) = match modules.exists() {
            true => read_modules(&modules, folder)?,
            false => (Pooling::Mean, false),
        };
        Ok(Self {
            family: family.into(),
            vocab_size: spec.vocabulary,
            context: spec.positions,
            max_tokens: max_tokens.unwrap_or(spec.positions).min(spec.positions),
            layers: spec.layers,
            dimensions: spec.hidden,
            pooling,
            normalize,
        })
    }
}

/// What follows the network: pooling, and perhaps normalization.
fn read_modules(path: &Path, folder: &Path) -> Result<(Pooling, bool), Error> {
    #[derive(serde::Deserialize)]
    struct Module {
        path: String,
        r#type: String,
    }

    let refuse = |message: String| Error::from(FileError::new(FileErrorKind::Network, message).in_file(path));
    let modules: Vec<Module> = read_json_within(path, MAX_CONFIG).map_err(Config::as_network)?;
    let (mut pooling, mut normalize) = (Pooling::Mean, false);
    for (i, module) in modules.iter().enumerate() {
        match (i, module.r#type.rsplit('.').next().unwrap_or_default()) {
            (0, "Transformer") => {}
            (1, "Pooling") => {
                // It must not lead out of the folder.
                if !is_plain_name(&module.path) {
                    return Err(refuse(format!("\"path\": {:?}, expected the name of a folder", module.path)));
                }
                pooling = read_pooling(&Config::read(&folder.join(&module.path).join("config.json"))?)?;
            }
            (2.., "Normalize") => normalize = true,
            _ => {
                let message = format!("module {i}: {:?}, expected Transformer, Pooling, Normalize", module.r#type);
                return Err(refuse(message));
            }
        }
    }
    Ok((pooling, normalize))
}

fn read_pooling(config: &Config) -> Result<Pooling, Error> {
    const MODES: [(&str, Option<Pooling>); 6] = [
        ("pooling_mode_cls_token", Some(Pooling::Cls)),
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_max_tokens", None),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
        ("pooling_mode_lasttoken", None),
    ];
    if let Some(pooling) = config.one_of("pooling_mode", &[("mean", Pooling::Mean), ("cls", Pooling::Cls)])? {
        return Ok(pooling);
    }
    let mut chosen = None;
    for (field, mode) in MODES {
        if config.flag_if(field)?.unwrap_or(false) {
            if mode.is_none() || chosen.is_some() {
                return Err(config.refuse(field, true, "one of the mean and that of the first token alone"));
            }
            chosen = mode;
        }
    }
    chosen.ok_or_else(|| config.refuse("pooling_mode_mean_tokens", "false, as all others", "one to be true"))
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({}, {} layers, {:?})", self.config().family, self.config().layers, self.model())
    }
}
