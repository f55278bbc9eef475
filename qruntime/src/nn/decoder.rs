//! A decoder of any family: embedding, layers, norm, output head.

use kernels::{Isa, KvFormat, softcap};

use super::attention::{Attention, AttentionState};
use super::batch::{Cache, Piece, Place, places};
use super::mlp::{DENSE, Mlp, MlpState};
use super::moe::{Mixture, MixtureState};
use super::norm::{ELEMENT, Norm};
use super::rope::Rope;
use super::spec::{DecoderSpec, LayerSpec, MlpSpec};
use super::tap::{Products, Tap, lend};
use super::weights::Weights;
use super::{after, beyond_range, gather, largest, rows, rows_mut, scatter, sized};
use crate::error::{Error, NetworkPart};
use crate::linear::{Linear, Workspace};
use crate::names::Part;
use crate::parallel;

/// A decoder, which computes the logits of the next token.
pub(crate) struct Decoder {
    isa: Isa,
    embedding: Linear,
    embedding_scale: f32,
    ropes: Vec<Rope>,
    layers: Vec<Layer>,
    norm: Norm,
    /// The output head; its rows are tokens.
    head: Linear,
    logits_divisor: f32,
    logits_softcap: Option<f32>,
    warning: Option<String>,
}

struct Layer {
    before_attention: Norm,
    attention: Attention,
    after_attention: Option<Norm>,
    before_mlp: Norm,
    mlp: AnyMlp,
    after_mlp: Option<Norm>,
    residual_scale: f32,
}

enum AnyMlp {
    Dense(Mlp),
    Mixture(Box<Mixture>),
}

/// Scratch memory of a decoder, kept between calls. It serves any model.
#[derive(Default)]
pub(crate) struct DecoderState {
    /// Hidden states.
    x: Vec<f32>,
    normed: Vec<f32>,
    /// The result of attention or of the MLP.
    part: Vec<f32>,
    places: Vec<Place>,
    attention: AttentionState,
    mlp: MlpState,
    mixture: MixtureState,
    workspace: Workspace,
}

impl DecoderState {
    /// Prepares for rows of some sequences: records their places and returns two buffers for them,
    /// one for the hidden states and one for these normalized.
    fn begin(&mut self, pieces: &[Piece<'_>], hidden: usize) -> (&mut [f32], &mut [f32]) {
        self.places.clear();
        self.places.extend(places(pieces));
        let len = self.places.len() * hidden;
        (sized(&mut self.x, len), sized(&mut self.normed, len))
    }
}

impl Decoder {
    /// Makes the network from the tensors in `weights`.
    pub(crate) fn new(spec: &DecoderSpec, weights: &Weights) -> Result<Self, Error> {
        let DecoderSpec { hidden, norm, .. } = *spec;
        let Ends { body, embedding, head, warning } = Ends::new(spec, weights)?;
        let layer = |(i, layer): (usize, &LayerSpec)| Layer::new(layer, &body.layer(i), spec);
        let isa = weights.isa();
        Ok(Self {
            isa,
            embedding,
            embedding_scale: spec.embedding_scale,
            layers: spec.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
            ropes: spec.ropes.iter().map(|rope| Rope::new(isa, rope, spec.context)).collect(),
            norm: body.rms_norm(Part::FinalNorm, hidden, norm)?,
            head,
            logits_divisor: spec.logits_divisor,
            logits_softcap: spec.logits_softcap,
            warning,
        })
    }

    /// Returns a warning about the files, if there is one; the network runs all the same.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Makes an empty cache for one sequence.
    pub(crate) fn cache(&self, format: KvFormat) -> Cache {
        Cache::new(self.layers.iter().map(|layer| layer.attention.spec()), format)
    }

    /// Makes an empty cache for one sequence and one layer.
    pub(crate) fn layer_cache(&self, layer: usize, format: KvFormat) -> Cache {
        Cache::new(std::iter::once(self.layers[layer].attention.spec()), format)
    }

    /// Runs all layers on the rows of some sequences, whose [`logits`](Self::logits) can then be
    /// computed. Before every layer, asks whether to go on.
    ///
    /// Tokens must be in the vocabulary, and positions within the contexts.
    pub(crate) fn forward(
        &self,
        pieces: &mut [Piece<'_>],
        state: &mut DecoderState,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (x, normed) = state.begin(pieces, self.embedding.in_features());
        let tokens = pieces.iter().flat_map(|piece| piece.tokens);
        self.embed(tokens, x)?;
        if let Some(first) = self.layers.first() {
            first.before_attention.rows(x, normed);
        }
        for i in 0..self.layers.len() {
            go_on()?;
            let next = self.layers.get(i + 1).map(|next| &next.before_attention);
            self.layer(i, i, next, pieces, state, None)?;
        }
        Ok(())
    }

    /// Runs one layer on rows of sequences, one slice for each piece. The caches are those of
    /// [`layer_cache`](Self::layer_cache).
    pub(crate) fn forward_layer(
        &self,
        layer: usize,
        pieces: &mut [Piece<'_>],
        rows: &mut [&mut [f32]],
        state: &mut DecoderState,
        tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let (x, normed) = state.begin(pieces, self.embedding.in_features());
        gather(rows, x);
        self.layers[layer].before_attention.rows(x, normed);
        self.layer(layer, 0, None, pieces, state, tap)?;
        scatter(&state.x, rows);
        Ok(())
    }

    /// Runs one layer on the rows of a state, which are normalized for it, and normalizes them for
    /// the next layer. `slot` is the layer's index in the caches.
    fn layer(
        &self,
        i: usize,
        slot: usize,
        next: Option<&Norm>,
        pieces: &mut [Piece<'_>],
        state: &mut DecoderState,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let (layer, hidden) = (&self.layers[i], self.embedding.in_features());
        let DecoderState { x, normed, part, places, attention, mlp, mixture, workspace } = state;
        let [x, normed, part] = [x, normed, part].map(|rows| sized(rows, places.len() * hidden));
        let mut products = Products { workspace, tap: lend(&mut tap) };
        let rows = (self.ropes.as_slice(), places.as_slice());
        if let Some(found) = layer.attention.forward(normed, pieces, slot, rows, (attention, &mut products), part)? {
            return Err(beyond_range(i, found, x, Some(KvFormat::Q8)));
        }
        layer.add(layer.after_attention.as_ref(), x, part, Some(&layer.before_mlp), normed, hidden);
        match &layer.mlp {
            AnyMlp::Dense(dense) => dense.forward(normed, mlp, &mut products, part)?,
            AnyMlp::Mixture(experts) => experts.forward(normed, mixture, &mut products, part)?,
        }
        layer.add(layer.after_mlp.as_ref(), x, part, next, normed, hidden);
        Ok(())
    }

    /// Computes the logits of rows that have left the last layer.
    pub(crate) fn head(
        &self,
        rows: &[f32],
        state: &mut DecoderState,
        logits: &mut [f32],
        tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        sized(&mut state.x, rows.len()).copy_from_slice(rows);
        self.logits(0..rows.len() / self.head.in_features(), state, logits, tap)
    }

    /// Computes the logits of some of the rows of the last [`forward`](Self::forward): one for each
    /// token of the vocabulary, all of them finite.
    pub(crate) fn logits(
        &self,
        of: impl ExactSizeIterator<Item = usize> + Clone,
        state: &mut DecoderState,
        logits: &mut [f32],
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let (hidden, vocabulary) = (self.head.in_features(), self.head.out_features());
        let normed = sized(&mut state.normed, of.len() * hidden);
        let x = |row: usize| &state.x[row * hidden..][..hidden];
        for (row, normed) in of.clone().zip(normed.chunks_mut(hidden)) {
            self.norm.row(x(row), normed);
        }
        let mut products = Products { workspace: &mut state.workspace, tap: lend(&mut tap) };
        products.one(&self.head, rows(normed, hidden), rows_mut(logits, vocabulary))?;
        parallel::rows(PART * ELEMENT, logits.chunks_mut(PART), |logits| {
            if self.logits_divisor != 1.0 {
                logits.iter_mut().for_each(|x| *x /= self.logits_divisor);
            }
            if let Some(cap) = self.logits_softcap {
                softcap(self.isa, logits, cap);
            }
        });
        if largest(logits).is_finite() {
            return Ok(());
        }
        let finite = of.map(x).all(|x| largest(x).is_finite());
        let part = if finite { NetworkPart::Head } else { after(self.layers.len()) };
        Err(Error::NotFinite { part })
    }

    /// Embeds tokens, one row each.
    pub(crate) fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32>, x: &mut [f32]) -> Result<(), Error> {
        let hidden = self.embedding.in_features();
        for (token, x) in tokens.zip(x.chunks_mut(hidden)) {
            self.embedding.decode_row(*token as usize, x)?;
            if self.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= self.embedding_scale);
            }
        }
        Ok(())
    }
}

/// The number of logits that are divided and capped together.
const PART: usize = 2048;

/// Embedding and output head, located in the files.
struct Ends {
    /// The tensors of the layers.
    body: Weights,
    embedding: Linear,
    head: Linear,
    warning: Option<String>,
}

impl Ends {
    /// Finds the tensors. If they are tied, a file may have either. If it has both, they take
    /// precedence over the flag.
    fn new(spec: &DecoderSpec, weights: &Weights) -> Result<Self, Error> {
        let matrix = |of: &Weights, part: Part| of.linear(part, spec.vocabulary, spec.hidden, false);
        let tied = |body: Weights, both: Linear| Self { body, embedding: both.clone(), head: both, warning: None };
        let head_at = weights.at_head();
        let body = match (weights.at_body(Part::TokenEmbedding), &head_at) {
            (Err(_), Ok(head_at)) if spec.tied => {
                return Ok(tied(weights.at_body(Part::FinalNorm)?, matrix(head_at, Part::Head)?));
            }
            (body, _) => body?,
        };
        let embedding = matrix(&body, Part::TokenEmbedding)?;
        let head_at = match head_at {
            Err(_) if spec.tied => return Ok(tied(body, embedding)),
            head_at => head_at?,
        };
        let head = matrix(&head_at, Part::Head)?;
        if spec.tied && body.is_same(Part::TokenEmbedding, &head_at, Part::Head) {
            return Ok(tied(body, embedding));
        }
        let warning = spec.tied.then(|| {
            let (head, embedding) = (head_at.quoted(Part::Head), body.quoted(Part::TokenEmbedding));
            format!(
                "config.json says that the output head is the embedding (\"tie_word_embeddings\": true), but {head} and \
                 {embedding} differ: {head} is used"
            )
        });
        Ok(Self { body, embedding, head, warning })
    }
}

impl Layer {
    fn new(layer: &LayerSpec, weights: &Weights, spec: &DecoderSpec) -> Result<Self, Error> {
        let hidden = spec.hidden;
        let norm = |part| weights.rms_norm(part, hidden, spec.norm);
        let after = |part| layer.norms_after.then(|| norm(part)).transpose();
        Ok(Self {
            before_attention: norm(Part::AttentionNorm)?,
            attention: Attention::new(weights, hidden, layer.attention)?,
            after_attention: after(Part::PostAttentionNorm)?,
            before_mlp: norm(Part::MlpNorm)?,
            mlp: match layer.mlp {
                MlpSpec::Dense(spec) => AnyMlp::Dense(Mlp::new(weights, hidden, spec, DENSE)?),
                MlpSpec::Mixture(spec) => AnyMlp::Mixture(Box::new(Mixture::new(weights, hidden, spec)?)),
            },
            after_mlp: after(Part::PostMlpNorm)?,
            residual_scale: layer.residual_scale,
        })
    }

    /// Adds the output of one part of the layer to the hidden states, and normalizes them for the
    /// next part.
    fn add(
        &self,
        after: Option<&Norm>,
        x: &mut [f32],
        part: &[f32],
        next: Option<&Norm>,
        normed: &mut [f32],
        hidden: usize,
    ) {
        let rows = x.chunks_mut(hidden).zip(part.chunks(hidden)).zip(normed.chunks_mut(hidden));
        parallel::rows(3 * hidden * ELEMENT, rows, |((x, mut part), normed)| {
            if let Some(after) = after {
                after.row(part, normed);
                part = normed;
            }
            x.iter_mut().zip(part).for_each(|(x, part)| *x += self.residual_scale * part);
            if let Some(next) = next {
                next.row(x, normed);
            }
        });
    }
}
