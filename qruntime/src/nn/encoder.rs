//! An encoder as BERT is one (Devlin et al., 2018): every token sees all others, norms come after
//! what is added.

use kernels::KvFormat;

use super::attention::{Attention, AttentionState};
use super::batch::{Cache, Piece, Place, places};
use super::mlp::{Mlp, MlpState};
use super::norm::{ELEMENT, Norm};
use super::spec::EncoderSpec;
use super::weights::Weights;
use super::{after, beyond_range, largest, sized};
use crate::error::Error;
use crate::linear::{Linear, Workspace};
use crate::parallel;

/// A network that makes a vector of every token.
pub(crate) struct EncoderNetwork {
    words: Linear,
    positions: Linear,
    /// Of the first kind of tokens, which all are.
    kind: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    attention: Attention,
    after_attention: Norm,
    mlp: Mlp,
    after_mlp: Norm,
}

/// Memory that an encoder needs, kept between calls.
#[derive(Default)]
pub(crate) struct EncoderState {
    /// What goes from layer to layer.
    pub(crate) x: Vec<f32>,
    part: Vec<f32>,
    places: Vec<Place>,
    /// Keys and values of one layer, for each sequence.
    caches: Vec<Cache>,
    attention: AttentionState,
    mlp: MlpState,
    workspace: Workspace,
}

impl EncoderNetwork {
    /// Finds the tensors in `weights`.
    pub(crate) fn new(spec: &EncoderSpec, weights: &Weights) -> Result<Self, Error> {
        let EncoderSpec { hidden, eps, .. } = *spec;
        let body = weights.at_first(&["", "bert."], "embeddings.word_embeddings.weight")?;
        let embeddings = body.at("embeddings");
        let mut kind = vec![0.0; hidden];
        embeddings.linear("token_type_embeddings", spec.kinds, hidden, false)?.decode_row(0, &mut kind)?;
        let layer = |i: usize| {
            let weights = body.at(&format!("encoder.layer.{i}"));
            Ok::<_, Error>(Layer {
                attention: Attention::new(&weights.at("attention"), hidden, spec.attention)?,
                after_attention: weights.layer_norm("attention.output.LayerNorm", hidden, eps)?,
                mlp: Mlp::new(&weights, hidden, spec.mlp)?,
                after_mlp: weights.layer_norm("output.LayerNorm", hidden, eps)?,
            })
        };
        Ok(Self {
            words: embeddings.linear("word_embeddings", spec.vocabulary, hidden, false)?,
            positions: embeddings.linear("position_embeddings", spec.positions, hidden, false)?,
            kind,
            norm: embeddings.layer_norm("LayerNorm", hidden, eps)?,
            layers: (0..spec.layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Makes a row of [`EncoderState::x`] of every token of some sequences.
    ///
    /// Tokens must be in the vocabulary, and sequences no longer than there are positions.
    pub(crate) fn forward(&self, sequences: &[&[u32]], state: &mut EncoderState) -> Result<(), Error> {
        let hidden = self.words.in_features();
        let count: usize = sequences.iter().map(|tokens| tokens.len()).sum();
        // What another network has left there may be of another shape.
        state.caches.clear();
        let attentions = || self.layers.iter().take(1).map(|layer| layer.attention.spec());
        state.caches.resize_with(sequences.len(), || Cache::new(attentions(), KvFormat::F16));
        let caches = sequences.iter().zip(&mut state.caches);
        let mut pieces: Vec<Piece<'_>> =
            caches.map(|(&tokens, cache)| Piece { tokens, start: 0, context: tokens.len(), cache }).collect();
        state.places.clear();
        state.places.extend(places(&pieces));
        let x = sized(&mut state.x, count * hidden);
        let part = sized(&mut state.part, count * hidden);

        self.embed(sequences, x, part)?;
        for (i, layer) in self.layers.iter().enumerate() {
            pieces.iter_mut().for_each(|piece| piece.cache.truncate(0));
            let rows = (&[][..], state.places.as_slice());
            let memory = (&mut state.attention, &mut state.workspace);
            if let Some(found) = layer.attention.forward(x, &mut pieces, 0, rows, memory, part)? {
                return Err(beyond_range(i, found, x, None));
            }
            add_and_norm(&layer.after_attention, x, part, hidden);
            // A text goes through attention as a whole. Here rows know nothing of each other, and
            // may be much wider.
            let rows = layer.mlp.rows_at_once() * hidden;
            for (x, part) in x.chunks(rows).zip(part.chunks_mut(rows)) {
                layer.mlp.forward(x, &mut state.mlp, &mut state.workspace, part)?;
            }
            add_and_norm(&layer.after_mlp, x, part, hidden);
        }
        match largest(x).is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite { part: after(self.layers.len()) }),
        }
    }

    fn embed(&self, sequences: &[&[u32]], x: &mut [f32], part: &mut [f32]) -> Result<(), Error> {
        let hidden = self.words.in_features();
        let tokens = sequences.iter().flat_map(|tokens| tokens.iter().enumerate());
        for ((position, &token), (x, part)) in tokens.zip(x.chunks_mut(hidden).zip(part.chunks_mut(hidden))) {
            self.words.decode_row(token as usize, x)?;
            x.iter_mut().zip(&self.kind).for_each(|(x, kind)| *x += kind);
            self.positions.decode_row(position, part)?;
        }
        add_and_norm(&self.norm, x, part, hidden);
        Ok(())
    }
}

/// `x = norm(x + part)`; `part` is then anything.
fn add_and_norm(norm: &Norm, x: &mut [f32], part: &mut [f32], hidden: usize) {
    let rows = x.chunks_mut(hidden).zip(part.chunks_mut(hidden));
    parallel::rows(2 * hidden * ELEMENT, rows, |(x, part)| {
        part.iter_mut().zip(&*x).for_each(|(part, x)| *part += x);
        norm.row(part, x);
    });
}
