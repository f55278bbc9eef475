//! Encoders: networks that embed a text as a vector, to be compared with others.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kernels::{Isa, ShapeError, normalize_l2};
use ndarray::{Array2, ArrayView2};

use crate::config::Config;
use crate::error::Error;
use crate::family;
use crate::folder::Folder;
use crate::model::Model;
use crate::model_files::ModelFiles;
use crate::names::Names;
use crate::nn::encoder::{EncoderNetwork, EncoderState};
use crate::nn::spec::EncoderSpec;
use crate::nn::tap::{Tap, lend};
use crate::nn::weights::Weights;
use crate::nn::{MAX_PASS_ELEMENTS, Spare};
use crate::parallel;
use crate::pooling::Pooling;
use crate::sentence::Sentence;

/// A sentence encoder, opened from a folder in sentence-transformers' layout. Its matrices are
/// plain or packed by `quantize convert`.
///
/// Cloning is cheap: clones share the weights, and threads may use them at once. A text's vector
/// has the same bits on every processor, with any number of threads, for a text alone or in a
/// batch.
#[derive(Clone)]
pub struct Encoder(Arc<Inner>);

struct Inner {
    model: Model,
    network: EncoderNetwork,
    names: &'static Names,
    spec: EncoderSpec,
    config: EncoderConfig,
    folder: Folder,
    states: Spare<EncoderState>,
}

/// The configuration of an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderConfig {
    /// The family, which is `model_type`.
    pub family: String,
    /// The size of the vocabulary: tokens are below this.
    pub vocab_size: usize,
    /// The longest sequence that the network can take, in tokens.
    pub context: usize,
    /// The length to cut sequences to, in tokens: from `sentence_bert_config.json`, or else
    /// `tokenizer_config.json`; at most `context`.
    pub max_tokens: usize,
    /// The number of layers.
    pub layers: usize,
    /// The hidden size: elements of a token's vector.
    pub hidden: usize,
    /// Elements of a text's vector: `hidden` for each way of pooling.
    pub dimensions: usize,
    /// How the vectors of a text's tokens become the vector of the text. If there are several ways,
    /// their vectors are concatenated; there is at least one.
    pub pooling: Vec<Pooling>,
    /// Whether the tokens of a prompt are pooled with those of the text.
    pub include_prompt: bool,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Whether texts are converted to lower case before they are tokenized, whatever the tokenizer
    /// does.
    pub lower_case: bool,
    /// Prompts by name: texts that precede a text to embed.
    pub prompts: BTreeMap<String, String>,
    /// The name of the prompt that is used by default.
    pub default_prompt: Option<String>,
}

/// Tokens that go through the network together, unless a single text has more.
const BLOCK: usize = 512;

impl Encoder {
    /// Opens a folder with `config.json`, `modules.json` and the modules that it names beside the
    /// safetensors files, reading the weights into memory. Without `modules.json`, vectors are
    /// means and are not normalized.
    ///
    /// # Errors
    /// If the files cannot be read, are damaged or are of an unknown family; if the tensors are not
    /// those that `config.json` describes; if `modules.json` or a file beside it asks for something
    /// unknown.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::of_files(ModelFiles::open(path)?, path, || Model::read(path))
    }

    /// Opens a folder as [`open`](Self::open) does, but maps the weights.
    ///
    /// # Safety
    /// That of [`Model::map`]: while the encoder, a clone of it, its [`Model`] or a layer made from
    /// that lives, nobody changes or truncates the files.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // SAFETY: the caller upholds this function's contract.
        Self::of_files(ModelFiles::open(path)?, path, || unsafe { Model::map(path) })
    }

    /// Makes an encoder from files in memory: the bytes of `config.json` and of the safetensors
    /// file, which are copied, and what `modules.json` would say. Use it for data within the
    /// program, or where there are no files.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn from_bytes(config: &[u8], weights: &[u8], pooling: Pooling, normalize: bool) -> Result<Self, Error> {
        let sentence = Sentence { pooling: vec![pooling], normalize, ..Sentence::default() };
        let config = Config::from_bytes(config)?;
        Self::assemble(None, Path::new("memory"), &config, sentence, || Model::from_bytes(weights))
    }

    /// Opens a model whose files are found; `model` opens the weights unless the files are made of
    /// those, too.
    pub(crate) fn of_files(
        files: ModelFiles,
        path: &Path,
        model: impl FnOnce() -> Result<Model, Error>,
    ) -> Result<Self, Error> {
        let file = files.config("config.json")?;
        let sentence = Sentence::read(&files)?;
        Self::assemble(Some(files), path, &file, sentence, model)
    }

    /// Assembles an encoder from its parts. `path` is for messages.
    fn assemble(
        files: Option<ModelFiles>,
        path: &Path,
        file: &Config,
        sentence: Sentence,
        model: impl FnOnce() -> Result<Model, Error>,
    ) -> Result<Self, Error> {
        let (family, names, spec) = family::encoder(file)?;
        let config = EncoderConfig::new(family, &spec, sentence);
        let model = match files.as_ref().and_then(ModelFiles::gguf) {
            Some(source) => Model::load(source)?,
            None => model()?,
        };
        model.refuse_unrunnable(path, |field| file.get(field))?;
        let network = EncoderNetwork::new(&spec, &Weights::new(&model, path, model.isa(), names))?;
        let folder = Folder::new(files);
        Ok(Self(Arc::new(Inner { model, network, names, spec, config, folder, states: Spare::default() })))
    }

    /// Uses another instruction set, for tests, measurements and bug reports. Results stay the
    /// same. Clones share the weights but keep their instruction set.
    ///
    /// # Panics
    /// Never: the same layers have been built before.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        let Inner { model, names, spec, config, folder, .. } = &*self.0;
        let names = *names;
        let network = EncoderNetwork::new(spec, &Weights::new(model, folder.shown(), isa, names));
        let network = network.expect("these tensors have made a network before");
        let (model, config, folder) = (model.clone(), config.clone(), folder.again());
        Self(Arc::new(Inner { model, network, names, spec: *spec, config, folder, states: Spare::default() }))
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.0.config
    }

    /// Returns the tensors.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// Returns the encoder's folder; `None` if it was made from bytes.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.0.folder.path()
    }

    /// Returns the folder, with what is read from it later.
    #[cfg(feature = "text")]
    pub(crate) fn files(&self) -> &Folder {
        &self.0.folder
    }

    /// Computes the vectors of texts that are already tokenized, with the tokens that a tokenizer
    /// adds at both ends: one row for each.
    ///
    /// It computes on the threads of rayon's current pool, as [`Session`](crate::Session) does.
    ///
    /// # Errors
    /// If a sequence has no tokens or more than [`context`](EncoderConfig::context), or a token is
    /// not in the vocabulary; if a result is not finite ([`Error::NotFinite`]) or a key or value
    /// too large ([`Error::CacheRange`]).
    pub fn embed_ids(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Array2<f32>, Error> {
        self.embed_ids_after(sequences, 0)
    }

    /// Does the same, but leaves the first `skipped` tokens of each sequence out of pooling.
    pub(crate) fn embed_ids_after(
        &self,
        sequences: &[impl AsRef<[u32]>],
        skipped: usize,
    ) -> Result<Array2<f32>, Error> {
        let EncoderConfig { dimensions, .. } = *self.config();
        let sequences: Vec<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
        sequences.iter().try_for_each(|tokens| self.check(tokens))?;
        let mut vectors = Array2::zeros((sequences.len(), dimensions));
        let to = vectors.as_slice_mut().expect("an array of its own");
        parallel::keep_awake(|| self.0.states.lend(|state| self.compute(&sequences, skipped, to, state)))?;
        Ok(vectors)
    }

    /// Checks the tokens of a sequence.
    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let EncoderConfig { vocab_size: vocabulary, context, .. } = *self.config();
        match tokens.len() {
            0 => return Err(Error::NoTokens),
            length if length > context => return Err(Error::Context { length, context, longest: context }),
            _ => {}
        }
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Error::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Computes the hidden states that enter layer 0, one row per token. See
    /// [`CausalLm::embed_tokens`](crate::CausalLm::embed_tokens) for running a network one layer at
    /// a time.
    ///
    /// # Errors
    /// If there are no tokens or more than [`context`](EncoderConfig::context), or a token is not
    /// in the vocabulary.
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Array2<f32>, Error> {
        self.check(tokens)?;
        let mut states = Array2::zeros((tokens.len(), self.config().hidden));
        let to = states.as_slice_mut().expect("an array of its own");
        self.0.states.lend(|state| self.0.network.embed_one(tokens, to, state))?;
        Ok(states)
    }

    /// Runs one layer in place on the hidden states of whole sequences, one row per token.
    ///
    /// # Errors
    /// If there is no such layer ([`Error::NoSuchLayer`]); if a sequence exceeds the context, or
    /// its rows do not have [`hidden`](EncoderConfig::hidden) elements; if a key or value is too
    /// large ([`Error::CacheRange`]) or not finite ([`Error::NotFinite`]). Some sequences may
    /// already have gone through the layer then.
    pub fn forward_layer(
        &self,
        layer: usize,
        states: &mut [Array2<f32>],
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let EncoderConfig { layers, hidden, context, .. } = *self.config();
        if layer >= layers {
            return Err(Error::NoSuchLayer { layer, layers });
        }
        for rows in &*states {
            ShapeError::check("columns of hidden states", rows.ncols(), hidden)?;
            if rows.nrows() > context {
                return Err(Error::Context { length: rows.nrows(), context, longest: context });
            }
        }
        for rows in states.iter_mut().filter(|rows| !rows.is_standard_layout()) {
            *rows = rows.as_standard_layout().into_owned();
        }
        let states = states.iter_mut().map(|rows| rows.as_slice_mut().expect("in standard layout"));
        let mut states: Vec<&mut [f32]> = states.filter(|rows| !rows.is_empty()).collect();
        parallel::keep_awake(|| {
            self.0.states.lend(|state| {
                let mut left = states.as_mut_slice();
                while !left.is_empty() {
                    let count = self.together(left.iter().map(|rows| rows.len() / hidden));
                    let (some, others) = left.split_at_mut(count);
                    left = others;
                    self.0.network.forward_layer(layer, some, state, lend(&mut tap))?;
                }
                Ok(())
            })
        })
    }

    /// Computes the vector of a text from the hidden states that have left the last layer, one row
    /// per token.
    ///
    /// # Errors
    /// If there are no rows, they do not have [`hidden`](EncoderConfig::hidden) elements, or an
    /// element is not finite.
    pub fn pool(&self, states: ArrayView2<'_, f32>) -> Result<Vec<f32>, Error> {
        ShapeError::check("columns of hidden states", states.ncols(), self.config().hidden)?;
        if states.is_empty() {
            return Err(Error::NoTokens);
        }
        let states = states.as_standard_layout();
        let rows = states.as_slice().expect("in standard layout");
        self.0.network.check(rows)?;
        let mut vector = vec![0.0; self.config().dimensions];
        self.pool_rows(rows, 0, &mut vector);
        Ok(vector)
    }

    /// Returns how many of the first sequences of these lengths go through the network together.
    fn together(&self, lengths: impl Iterator<Item = usize>) -> usize {
        // Fewer where rows are wide, or where many short texts begin tiny heads.
        let most_rows = BLOCK.min(MAX_PASS_ELEMENTS / self.0.spec.row_elements());
        let most = (MAX_PASS_ELEMENTS / self.0.spec.attention.panel_bytes()).max(1);
        let mut rows = 0;
        let fits = lengths.take(most).take_while(|length| {
            rows += length;
            rows <= most_rows
        });
        fits.count().max(1)
    }

    fn compute(
        &self,
        mut sequences: &[&[u32]],
        skipped: usize,
        mut to: &mut [f32],
        state: &mut EncoderState,
    ) -> Result<(), Error> {
        let network = &self.0.network;
        let EncoderConfig { hidden, dimensions, .. } = *self.config();
        while !sequences.is_empty() {
            let (some, others) = sequences.split_at(self.together(sequences.iter().map(|tokens| tokens.len())));
            network.forward(some, state)?;
            let mut x = state.x.as_slice();
            let (vectors, rest) = to.split_at_mut(some.len() * dimensions);
            for (tokens, vector) in some.iter().zip(vectors.chunks_mut(dimensions)) {
                let (rows, others) = x.split_at(tokens.len() * hidden);
                x = others;
                self.pool_rows(rows, skipped, vector);
            }
            (sequences, to) = (others, rest);
        }
        Ok(())
    }

    /// Computes the vector of a text from those of its tokens except the first `skipped`. There
    /// must be more tokens than that.
    fn pool_rows(&self, rows: &[f32], skipped: usize, vector: &mut [f32]) {
        let EncoderConfig { hidden, pooling, normalize, .. } = self.config();
        let all = rows.chunks(*hidden).enumerate().skip(skipped);
        for (pooling, vector) in pooling.iter().zip(vector.chunks_mut(*hidden)) {
            pooling.apply(all.clone(), vector);
        }
        if *normalize {
            normalize_l2(self.model().isa(), vector);
        }
    }
}

impl EncoderConfig {
    fn new(family: &str, spec: &EncoderSpec, sentence: Sentence) -> Self {
        Self {
            family: family.into(),
            vocab_size: spec.vocabulary,
            context: spec.positions,
            max_tokens: sentence.max_tokens.unwrap_or(spec.positions).min(spec.positions),
            layers: spec.layers,
            hidden: spec.hidden,
            dimensions: spec.hidden * sentence.pooling.len(),
            pooling: sentence.pooling,
            include_prompt: sentence.include_prompt,
            normalize: sentence.normalize,
            lower_case: sentence.lower_case,
            prompts: sentence.prompts,
            default_prompt: sentence.default_prompt,
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({}, {} layers, {:?})", self.config().family, self.config().layers, self.model())
    }
}
