//! Language models: networks that compute the logits of the next token.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kernels::{Isa, KvFormat, ShapeError};
use ndarray::{Array2, ArrayView2};

use crate::config::Config;
use crate::error::Error;
use crate::family;
use crate::folder::Folder;
use crate::model::Model;
use crate::model_files::ModelFiles;
use crate::names::Names;
use crate::nn::batch::{Cache, Piece};
use crate::nn::decoder::{Decoder, DecoderState};
use crate::nn::spec::DecoderSpec;
use crate::nn::tap::{Tap, lend};
use crate::nn::weights::Weights;
use crate::nn::{MAX_PASS_ELEMENTS, Spare, sized};
use crate::parallel;
use crate::sequence::{Limits, Sequence, SessionOptions, Undo};
#[cfg(feature = "text")]
use crate::text::{ChatTemplate, Tokenizer};

/// A language model, opened from a checkpoint folder in Hugging Face's layout, with `config.json`.
/// Its matrices are plain or packed by `quantize convert`.
///
/// Cloning is cheap: clones share the weights, and threads may use them at once. Results have the
/// same bits on every processor, with any number of threads, for a sequence alone or in a batch,
/// and in whatever pieces it is fed.
///
/// ```no_run
/// use qruntime::{CausalLm, Greedy};
///
/// let lm = CausalLm::open("story-q4_k")?;
/// let mut session = lm.session();
/// let logits = session.feed(&[0, 326, 440])?; // one for each token of the vocabulary
/// assert_eq!(logits.len(), lm.config().vocab_size);
/// for token in session.generate(&mut Greedy).take(20) {
///     println!("{}", token?);
/// }
/// # Ok::<(), qruntime::Error>(())
/// ```
#[derive(Clone)]
pub struct CausalLm(Arc<Inner>);

struct Inner {
    model: Model,
    decoder: Decoder,
    names: &'static Names,
    spec: DecoderSpec,
    config: LmConfig,
    folder: Folder,
    states: Spare<State>,
}

/// The configuration of a language model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LmConfig {
    /// The family, which is `model_type`: `llama`, `qwen3_moe`, …
    pub family: String,
    /// The size of the vocabulary: tokens are below this.
    pub vocab_size: usize,
    /// The longest sequence that the model is made for, in tokens.
    pub context: usize,
    /// The default for the longest sequence of a session, in tokens. It is shorter than `context`
    /// where longer sequences change the results of short ones (LongRoPE).
    pub default_context: usize,
    /// The number of layers.
    pub layers: usize,
    /// The hidden size: elements per token between layers.
    pub hidden: usize,
    /// The number of query heads in each layer.
    pub heads: usize,
    /// The number of key and value heads in each layer.
    pub kv_heads: usize,
    /// The head dimension.
    pub head_dim: usize,
    /// The token that begins a text, if there is one.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

/// Scratch memory of a call.
#[derive(Default)]
struct State {
    decoder: DecoderState,
    logits: Vec<f32>,
}

/// Called with a position of the first sequence and the logits after its token, for every token
/// that is computed.
type OnLogits<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// Called before every layer with the number of tokens computed so far, of all sequences together.
type OnLayer<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// Callbacks of a computation.
#[derive(Default)]
pub(crate) struct Watch<'a> {
    pub(crate) logits: Option<&'a mut OnLogits<'a>>,
    pub(crate) progress: Option<&'a mut OnLayer<'a>>,
}

/// Most logits that are computed together, unless a single row has more: a vocabulary may have a
/// quarter of a million tokens.
const LOGITS: usize = 1 << 23;

impl CausalLm {
    /// Opens a folder with `config.json` beside its safetensors files (or such a file beside
    /// `config.json`), reading the weights into memory.
    ///
    /// # Errors
    /// If the files cannot be read, are damaged or are of an unknown family, or if the tensors are
    /// not those that `config.json` describes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::of_files(ModelFiles::open(path)?, path, || Model::read(path))
    }

    /// Opens a folder as [`open`](Self::open) does, but maps the weights.
    ///
    /// # Safety
    /// That of [`Model::map`]: while the model, a clone of it, a session, its [`Model`] or a layer
    /// made from that lives, nobody changes or truncates the files.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    #[expect(unsafe_code, reason = "hands the caller's promise on to the map")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // SAFETY: the caller upholds this function's contract.
        Self::of_files(ModelFiles::open(path)?, path, || unsafe { Model::map(path) })
    }

    /// Opens a model whose files are found; `model` opens the weights unless the files are made of
    /// those, too.
    pub(crate) fn of_files(
        files: ModelFiles,
        path: &Path,
        model: impl FnOnce() -> Result<Model, Error>,
    ) -> Result<Self, Error> {
        let file = files.config("config.json")?;
        Self::assemble(Some(files), path, &file, model)
    }

    /// Assembles a model from its parts. `path` is for messages.
    fn assemble(
        files: Option<ModelFiles>,
        path: &Path,
        file: &Config,
        model: impl FnOnce() -> Result<Model, Error>,
    ) -> Result<Self, Error> {
        let (family, names, spec) = family::decoder(file)?;
        let config = LmConfig::new(family, &spec, file, files.as_ref())?;
        let model = match files.as_ref().and_then(ModelFiles::gguf) {
            Some(source) => Model::load(source)?,
            None => model()?,
        };
        model.refuse_unrunnable(path, |field| file.get(field))?;
        let decoder = Decoder::new(&spec, &Weights::new(&model, path, model.isa(), names))?;
        let folder = Folder::new(files);
        Ok(Self(Arc::new(Inner { model, decoder, names, spec, config, folder, states: Spare::default() })))
    }

    /// Makes a model from files in memory: the bytes of `config.json` and of the safetensors file,
    /// which are copied. Use it for data within the program, or where there are no files. The
    /// tokens that end a text are those of `config.json`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn from_bytes(config: &[u8], weights: &[u8]) -> Result<Self, Error> {
        Self::assemble(None, Path::new("memory"), &Config::from_bytes(config)?, || Model::from_bytes(weights))
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
        let decoder = Decoder::new(spec, &Weights::new(model, folder.shown(), isa, names));
        let decoder = decoder.expect("these tensors have made a network before");
        let (model, spec, config, folder) = (model.clone(), spec.clone(), config.clone(), folder.again());
        Self(Arc::new(Inner { model, decoder, names, spec, config, folder, states: Spare::default() }))
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &LmConfig {
        &self.0.config
    }

    /// Returns warnings about the model's files, as sentences for the user; usually there are none.
    /// The model runs as `transformers` runs it, which gives the same warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.0.decoder.warning().into_iter()
    }

    /// Returns the tensors.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// Returns the model's folder; `None` if it was made from bytes.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.0.folder.path()
    }

    /// Returns whether two models are clones: the same weights and the same way to compute.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Makes an empty cache for one sequence.
    pub(crate) fn cache(&self, format: KvFormat) -> Cache {
        self.0.decoder.cache(format)
    }

    /// Returns the limits of a sequence with these options.
    pub(crate) fn limits(&self, options: &SessionOptions) -> Limits {
        let LmConfig { vocab_size: vocabulary, context: longest, default_context, .. } = *self.config();
        let context = options.context.unwrap_or(default_context).min(longest);
        Limits { vocabulary, context, longest, block: options.block }
    }

    /// Returns the most rows that go through the network together.
    fn most_rows(&self, block: usize) -> usize {
        block.min(MAX_PASS_ELEMENTS / self.0.spec.row_elements()).max(1)
    }

    /// Computes the hidden states that enter layer 0, one row per token.
    ///
    /// With [`forward_layer`](Self::forward_layer) and [`forward_head`](Self::forward_head) this
    /// runs a network one layer at a time over sequences whose hidden states the caller keeps, with
    /// the same bits as a whole run. Several sequences go through a layer together, up to
    /// [`SessionOptions::block`] tokens, so that its weights are read once for all of these, and a
    /// [`Tap`] sees the inputs of its matrices:
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    ///
    /// use ndarray::ArrayView2;
    /// use qruntime::{CausalLm, SessionOptions, Tap, WeightName};
    ///
    /// struct Rows(usize);
    ///
    /// impl Tap for Rows {
    ///     fn input(&mut self, weights: &[WeightName<'_>], x: ArrayView2<'_, f32>) -> ControlFlow<()> {
    ///         self.0 += x.nrows() * weights.len();
    ///         ControlFlow::Continue(())
    ///     }
    /// }
    ///
    /// let lm = CausalLm::open("model")?;
    /// let sequences = [[1, 2, 3], [4, 5, 6]];
    /// let mut states = sequences.iter().map(|tokens| lm.embed_tokens(tokens)).collect::<Result<Vec<_>, _>>()?;
    /// let mut rows = Rows(0);
    /// for layer in 0..lm.config().layers {
    ///     lm.forward_layer(layer, &mut states, &SessionOptions::default(), Some(&mut rows))?;
    /// }
    /// let logits = lm.forward_head(states[0].view(), Some(&mut rows))?;
    /// assert_eq!(logits.dim(), (3, lm.config().vocab_size));
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Array2<f32>, Error> {
        let LmConfig { vocab_size: vocabulary, hidden, .. } = *self.config();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let mut states = Array2::zeros((tokens.len(), hidden));
        self.0.decoder.embed(tokens.iter(), states.as_slice_mut().expect("an array of its own"))?;
        Ok(states)
    }

    /// Runs one layer in place on the hidden states of whole sequences, one row per token. Keys and
    /// values are stored as `options` say, during the call only.
    ///
    /// # Errors
    /// If there is no such layer ([`Error::NoSuchLayer`]); if a sequence exceeds the context, or
    /// its rows do not have [`hidden`](LmConfig::hidden) elements; if a key or value is too large
    /// ([`Error::CacheRange`]) or not finite ([`Error::NotFinite`]). Some sequences may already
    /// have gone through the layer then.
    pub fn forward_layer(
        &self,
        layer: usize,
        states: &mut [Array2<f32>],
        options: &SessionOptions,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let LmConfig { layers, hidden, .. } = *self.config();
        if layer >= layers {
            return Err(Error::NoSuchLayer { layer, layers });
        }
        let Limits { context, longest, block, .. } = self.limits(options);
        for rows in &*states {
            ShapeError::check("columns of hidden states", rows.ncols(), hidden)?;
            if rows.nrows() > context {
                return Err(Error::Context { length: rows.nrows(), context, longest });
            }
        }
        for rows in states.iter_mut().filter(|rows| !rows.is_standard_layout()) {
            *rows = rows.as_standard_layout().into_owned();
        }
        let states = states.iter_mut().map(|rows| rows.as_slice_mut().expect("in standard layout"));
        let mut states: Vec<&mut [f32]> = states.filter(|rows| !rows.is_empty()).collect();
        let (decoder, most) = (&self.0.decoder, self.most_rows(block) * hidden);
        let mut all = |state: &mut State| {
            let mut left = states.as_mut_slice();
            while !left.is_empty() {
                // Whole sequences up to the most rows, or one longer one.
                let mut elements = 0;
                let fits = left.iter().take_while(|rows| {
                    elements += rows.len();
                    elements <= most
                });
                let (some, others) = left.split_at_mut(fits.count().max(1));
                left = others;
                let mut caches: Vec<Cache> = some.iter().map(|_| decoder.layer_cache(layer, options.kv)).collect();
                if let ([rows], [cache]) = (&mut *some, caches.as_mut_slice()) {
                    for (i, rows) in rows.chunks_mut(most).enumerate() {
                        let (start, count) = (i * most / hidden, rows.len() / hidden);
                        let piece = Piece { tokens: &[], rows: count, start, context, cache };
                        decoder.forward_layer(layer, &mut [piece], &mut [rows], &mut state.decoder, lend(&mut tap))?;
                    }
                } else {
                    let piece = |(rows, cache): (&&mut [f32], _)| Piece {
                        tokens: &[],
                        rows: rows.len() / hidden,
                        start: 0,
                        context,
                        cache,
                    };
                    let mut pieces: Vec<_> = some.iter().zip(&mut caches).map(piece).collect();
                    decoder.forward_layer(layer, &mut pieces, some, &mut state.decoder, lend(&mut tap))?;
                }
            }
            Ok(())
        };
        parallel::keep_awake(|| self.0.states.lend(&mut all))
    }

    /// Computes one row of logits for each row of hidden states that have left the last layer.
    ///
    /// # Errors
    /// If rows do not have [`hidden`](LmConfig::hidden) elements, or a result is not finite.
    pub fn forward_head(
        &self,
        states: ArrayView2<'_, f32>,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<Array2<f32>, Error> {
        let LmConfig { vocab_size: vocabulary, hidden, .. } = *self.config();
        ShapeError::check("columns of hidden states", states.ncols(), hidden)?;
        let states = states.as_standard_layout();
        let mut logits = Array2::zeros((states.nrows(), vocabulary));
        let rows = states.as_slice().expect("in standard layout").chunks(self.logit_rows() * hidden);
        let to = logits.as_slice_mut().expect("an array of its own").chunks_mut(self.logit_rows() * vocabulary);
        parallel::keep_awake(|| {
            self.0.states.lend(|state| {
                rows.zip(to).try_for_each(|(rows, logits)| {
                    self.0.decoder.head(rows, &mut state.decoder, logits, lend(&mut tap))
                })
            })
        })?;
        Ok(logits)
    }

    /// Returns the most rows of logits that are computed together.
    fn logit_rows(&self) -> usize {
        (LOGITS / self.config().vocab_size).clamp(1, 64)
    }

    /// Computes the tokens of sequences that the network has not seen yet, some rows at a time. If
    /// that fails, takes back those that [`Sequence::append`] appended.
    pub(crate) fn catch_up(&self, sequences: &mut [&mut Sequence], watch: Watch<'_>) -> Result<(), Error> {
        let undo = Undo(sequences);
        parallel::keep_awake(|| self.0.states.lend(|state| self.compute(undo.0, watch, state)))?;
        undo.keep();
        Ok(())
    }

    fn compute(&self, sequences: &mut [&mut Sequence], mut watch: Watch<'_>, state: &mut State) -> Result<(), Error> {
        let decoder = &self.0.decoder;
        let vocabulary = self.config().vocab_size;
        let logit_rows = self.logit_rows();
        let block = sequences.iter().map(|sequence| sequence.limits().block).min().unwrap_or(1);
        let most = self.most_rows(block);
        let mut computed = 0;
        loop {
            // Take the next tokens of every sequence, up to the most rows.
            let mut rows = 0;
            let mut pieces = Vec::with_capacity(sequences.len());
            let mut last = Vec::with_capacity(sequences.len());
            for (i, sequence) in sequences.iter_mut().enumerate() {
                let piece = sequence.next_piece(most - rows);
                if piece.tokens.is_empty() {
                    continue;
                }
                rows += piece.tokens.len();
                last.push((i, piece.start + piece.tokens.len(), rows - 1));
                pieces.push(piece);
            }
            if pieces.is_empty() {
                return Ok(());
            }
            let start = pieces[0].start;
            let mut go_on = || match watch.progress.as_mut().map(|progress| progress(computed)) {
                Some(ControlFlow::Break(())) => Err(Error::Cancelled),
                Some(ControlFlow::Continue(())) | None => Ok(()),
            };
            decoder.forward(&mut pieces, &mut state.decoder, &mut go_on)?;
            drop::<Vec<Piece<'_>>>(pieces);
            computed += rows;
            if let Some(tell) = watch.logits.as_mut() {
                for first in (0..rows).step_by(logit_rows) {
                    let some = first..rows.min(first + logit_rows);
                    let logits = sized(&mut state.logits, some.len() * vocabulary);
                    decoder.logits(some.clone(), &mut state.decoder, logits, None)?;
                    for (row, logits) in some.zip(logits.chunks(vocabulary)) {
                        tell(start + row, logits);
                    }
                }
            }
            for &(i, computed, _) in &last {
                sequences[i].set_computed(computed);
            }
            last.retain(|&(i, _, _)| sequences[i].pending() == 0);
            for last in last.chunks(logit_rows) {
                let logits = sized(&mut state.logits, last.len() * vocabulary);
                decoder.logits(last.iter().map(|&(_, _, row)| row), &mut state.decoder, logits, None)?;
                for (&(i, _, _), logits) in last.iter().zip(logits.chunks(vocabulary)) {
                    sequences[i].set_logits(logits);
                }
            }
        }
    }
}

#[cfg(feature = "text")]
impl CausalLm {
    /// Returns the tokenizer in the model's folder. The first call opens it.
    ///
    /// # Errors
    /// See [`Tokenizer::open`]; and [`Error::NoFolder`] if the model was made from bytes.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.0.folder.tokenizer(|files| Tokenizer::read(files, |_| ()))
    }

    /// Returns the chat template in the model's folder, if it has one.
    ///
    /// # Errors
    /// See [`ChatTemplate::open`]; and [`Error::NoFolder`] if the model was made from bytes.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        ChatTemplate::read(self.0.folder.with("chat_template.jinja")?)
    }
}

impl LmConfig {
    fn new(family: &str, spec: &DecoderSpec, file: &Config, files: Option<&ModelFiles>) -> Result<Self, Error> {
        let generation = files.map(|files| files.config_if("generation_config.json")).transpose()?.flatten();
        let tokens = |field: &str| {
            let range = 0..=spec.vocabulary - 1;
            let file = generation.as_ref().filter(|generation| generation.has(field)).unwrap_or(file);
            file.tokens(field, range)
        };
        let tokens = |field: &str| {
            let tokens = tokens(field)?.into_iter();
            Ok::<_, Error>(tokens.map(|token| token as u32).collect::<Vec<u32>>())
        };
        let attention = &spec.layers[0].attention;
        Ok(Self {
            family: family.into(),
            vocab_size: spec.vocabulary,
            context: spec.context,
            default_context: spec.default_context(),
            layers: spec.layers.len(),
            hidden: spec.hidden,
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            bos: tokens("bos_token_id")?.first().copied(),
            eos: tokens("eos_token_id")?,
        })
    }
}

impl fmt::Debug for CausalLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CausalLm({}, {} layers, {:?})", self.config().family, self.config().layers, self.model())
    }
}
