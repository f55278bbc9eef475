//! A decoder of any family: embedding, layers, norm, output head.

use kernels::{Isa, KvFormat, softcap};

use super::attention::{Attention, AttentionState};
use super::batch::{Cache, Piece, Place, places};
use super::mlp::{Mlp, MlpState};
use super::moe::{Mixture, MixtureState};
use super::norm::{ELEMENT, Norm};
use super::rope::Rope;
use super::spec::{DecoderSpec, LayerSpec, MlpSpec};
use super::weights::Weights;
use super::{after, beyond_range, largest, rows, rows_mut, sized};
use crate::error::{Error, NetworkPart};
use crate::linear::{Linear, Workspace};
use crate::parallel;

/// A network that says what comes next.
pub(crate) struct Decoder {
    isa: Isa,
    embedding: Linear,
    embedding_scale: f32,
    ropes: Vec<Rope>,
    layers: Vec<Layer>,
    norm: Norm,
    /// Rows are tokens.
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

/// Memory that a decoder needs, kept between calls. One serves any model.
#[derive(Default)]
pub(crate) struct DecoderState {
    /// What goes from layer to layer.
    x: Vec<f32>,
    normed: Vec<f32>,
    /// What a part of a layer gives.
    part: Vec<f32>,
    places: Vec<Place>,
    attention: AttentionState,
    mlp: MlpState,
    mixture: MixtureState,
    workspace: Workspace,
}

impl Decoder {
    /// Finds the tensors in `weights`.
    pub(crate) fn new(spec: &DecoderSpec, weights: &Weights) -> Result<Self, Error> {
        let DecoderSpec { hidden, norm, .. } = *spec;
        let Ends { body, embedding, head, warning } = Ends::new(spec, weights)?;
        let layer = |(i, layer): (usize, &LayerSpec)| Layer::new(layer, &body.at(&format!("layers.{i}")), spec);
        let isa = weights.isa();
        Ok(Self {
            isa,
            embedding,
            embedding_scale: spec.embedding_scale,
            layers: spec.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
            ropes: spec.ropes.iter().map(|rope| Rope::new(isa, rope, spec.context)).collect(),
            norm: body.rms_norm("norm", hidden, norm)?,
            head,
            logits_divisor: spec.logits_divisor,
            logits_softcap: spec.logits_softcap,
            warning,
        })
    }

    /// What in the files is not as it should be, though the network runs.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// An empty cache for one sequence.
    pub(crate) fn cache(&self, format: KvFormat) -> Cache {
        Cache::new(self.layers.iter().map(|layer| layer.attention.spec()), format)
    }

    /// Takes all rows of some sequences through the layers. [`logits`](Self::logits) then tells of
    /// each. Before every layer asks whether to go on.
    ///
    /// Tokens must be in the vocabulary, and positions within the contexts.
    pub(crate) fn forward(
        &self,
        pieces: &mut [Piece<'_>],
        state: &mut DecoderState,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let hidden = self.embedding.in_features();
        state.places.clear();
        state.places.extend(places(pieces));
        let count = state.places.len();
        let x = sized(&mut state.x, count * hidden);
        let normed = sized(&mut state.normed, count * hidden);
        let part = sized(&mut state.part, count * hidden);
        let workspace = &mut state.workspace;

        self.embed(pieces, x)?;
        if let Some(first) = self.layers.first() {
            first.before_attention.rows(x, normed);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            go_on()?;
            let rows = (self.ropes.as_slice(), state.places.as_slice());
            let memory = (&mut state.attention, &mut *workspace);
            if let Some(found) = layer.attention.forward(normed, pieces, i, rows, memory, part)? {
                return Err(beyond_range(i, found, x, Some(KvFormat::Q8)));
            }
            layer.add(layer.after_attention.as_ref(), x, part, Some(&layer.before_mlp), normed, hidden);
            match &layer.mlp {
                AnyMlp::Dense(mlp) => mlp.forward(normed, &mut state.mlp, workspace, part)?,
                AnyMlp::Mixture(mixture) => mixture.forward(normed, &mut state.mixture, workspace, part)?,
            }
            let next = self.layers.get(i + 1).map(|next| &next.before_attention);
            layer.add(layer.after_mlp.as_ref(), x, part, next, normed, hidden);
        }
        Ok(())
    }

    /// The logits of some of the rows that [`forward`](Self::forward) has just taken through: as
    /// many numbers for each as there are tokens, all of them finite.
    pub(crate) fn logits(
        &self,
        of: impl ExactSizeIterator<Item = usize> + Clone,
        state: &mut DecoderState,
        logits: &mut [f32],
    ) -> Result<(), Error> {
        let (hidden, vocabulary) = (self.head.in_features(), self.head.out_features());
        let normed = sized(&mut state.normed, of.len() * hidden);
        let x = |row: usize| &state.x[row * hidden..][..hidden];
        for (row, normed) in of.clone().zip(normed.chunks_mut(hidden)) {
            self.norm.row(x(row), normed);
        }
        self.head.forward_into(rows(normed, hidden), &mut state.workspace, rows_mut(logits, vocabulary))?;
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

    fn embed(&self, pieces: &[Piece<'_>], x: &mut [f32]) -> Result<(), Error> {
        let hidden = self.embedding.in_features();
        let tokens = pieces.iter().flat_map(|piece| piece.tokens);
        for (token, x) in tokens.zip(x.chunks_mut(hidden)) {
            self.embedding.decode_row(*token as usize, x)?;
            if self.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= self.embedding_scale);
            }
        }
        Ok(())
    }
}

/// Logits that are divided and bent together.
const PART: usize = 2048;

/// What is before and after the layers, as far as the files decide it.
struct Ends {
    /// Where the tensors of the layers are.
    body: Weights,
    embedding: Linear,
    head: Linear,
    warning: Option<String>,
}

impl Ends {
    /// Finds the tensors. Of two tied ones a file may have either. If it has both, they count, not
    /// the flag.
    fn new(spec: &DecoderSpec, weights: &Weights) -> Result<Self, Error> {
        const EMBEDDING: &str = "embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let matrix = |of: &Weights, name: &str| of.linear(name, spec.vocabulary, spec.hidden, false);
        let tied = |body: Weights, both: Linear| Self { body, embedding: both.clone(), head: both, warning: None };
        let head_at = weights.at_first(&HEAD_PREFIXES, HEAD);
        let body = match (weights.at_first(&PREFIXES, EMBEDDING), &head_at) {
            (Err(_), Ok(head_at)) if spec.tied => {
                return Ok(tied(weights.at_first(&PREFIXES, "norm.weight")?, matrix(head_at, "lm_head")?));
            }
            (body, _) => body?,
        };
        let embedding = matrix(&body, "embed_tokens")?;
        let head_at = match head_at {
            Err(_) if spec.tied => return Ok(tied(body, embedding)),
            head_at => head_at?,
        };
        let head = matrix(&head_at, "lm_head")?;
        if spec.tied && body.is_same(EMBEDDING, &head_at, HEAD) {
            return Ok(tied(body, embedding));
        }
        let warning = spec.tied.then(|| {
            let (head, embedding) = (head_at.quoted(HEAD), body.quoted(EMBEDDING));
            format!(
                "config.json says that the output head is the embedding (\"tie_word_embeddings\": true), but {head} and \
                 {embedding} differ: {head} is used"
            )
        });
        Ok(Self { body, embedding, head, warning })
    }
}

/// What the names of the layers' tensors may begin with: of a language model, of one within a
/// larger one, of one without an output head.
const PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

/// And that of the output head.
const HEAD_PREFIXES: [&str; 2] = ["", "language_model."];

impl Layer {
    fn new(layer: &LayerSpec, weights: &Weights, spec: &DecoderSpec) -> Result<Self, Error> {
        let hidden = spec.hidden;
        let norm = |name: &str| weights.rms_norm(name, hidden, spec.norm);
        let names = layer.norms;
        Ok(Self {
            before_attention: norm(names.before_attention)?,
            attention: Attention::new(&weights.at("self_attn"), hidden, layer.attention)?,
            after_attention: names.after_attention.map(norm).transpose()?,
            before_mlp: norm(names.before_mlp)?,
            mlp: match layer.mlp {
                MlpSpec::Dense(spec) => AnyMlp::Dense(Mlp::new(weights, hidden, spec)?),
                MlpSpec::Mixture(spec) => AnyMlp::Mixture(Box::new(Mixture::new(weights, hidden, spec)?)),
            },
            after_mlp: names.after_mlp.map(norm).transpose()?,
            residual_scale: layer.residual_scale,
        })
    }

    /// Adds what a part of the layer gave to what goes from layer to layer, and normalizes that for
    /// the next part.
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
