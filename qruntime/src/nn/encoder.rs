//! An encoder like BERT (Devlin et al., 2018): every token sees all others, and norms follow the
//! residual additions.

use kernels::KvFormat;

use super::attention::{Attention, AttentionState};
use super::batch::{Cache, Piece, Place};
use super::mlp::{DENSE, Mlp, MlpState};
use super::norm::{ELEMENT, Norm};
use super::spec::EncoderSpec;
use super::tap::{Products, Tap, lend};
use super::weights::Weights;
use super::{after, beyond_range, gather, largest, scatter, sized};
use crate::error::Error;
use crate::linear::{Linear, Workspace};
use crate::names::Part;
use crate::parallel;

/// An encoder, which computes a vector for every token.
pub(crate) struct EncoderNetwork {
    words: Linear,
    positions: Linear,
    /// The embedding of the first token type, which all tokens have.
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

/// Scratch memory of an encoder, kept between calls.
#[derive(Default)]
pub(crate) struct EncoderState {
    /// Hidden states of the rows that [`begin`](Self::begin) prepared for.
    pub(crate) x: Vec<f32>,
    part: Vec<f32>,
    places: Vec<Place>,
    /// Keys and values of one layer, for each sequence.
    caches: Vec<Cache>,
    attention: AttentionState,
    mlp: MlpState,
    workspace: Workspace,
}

impl EncoderState {
    /// Prepares for rows of sequences of these lengths.
    fn begin(&mut self, lengths: impl Iterator<Item = usize>, hidden: usize) {
        let places = lengths.flat_map(|len| (0..len).map(move |position| Place { position, context: len }));
        self.places.clear();
        self.places.extend(places);
        self.caches.clear();
        let len = self.places.len() * hidden;
        sized(&mut self.x, len);
        sized(&mut self.part, len);
    }
}

impl EncoderNetwork {
    /// Makes the network from the tensors in `weights`.
    pub(crate) fn new(spec: &EncoderSpec, weights: &Weights) -> Result<Self, Error> {
        let EncoderSpec { hidden, eps, .. } = *spec;
        let body = weights.at_body(Part::TokenEmbedding)?;
        let mut kind = vec![0.0; hidden];
        body.linear(Part::TokenTypes, spec.kinds, hidden, false)?.decode_row(0, &mut kind)?;
        let layer = |i: usize| {
            let weights = body.layer(i);
            Ok::<_, Error>(Layer {
                attention: Attention::new(&weights, hidden, spec.attention)?,
                after_attention: weights.layer_norm(Part::AttentionSumNorm, hidden, eps)?,
                mlp: Mlp::new(&weights, hidden, spec.mlp, DENSE)?,
                after_mlp: weights.layer_norm(Part::MlpSumNorm, hidden, eps)?,
            })
        };
        Ok(Self {
            words: body.linear(Part::TokenEmbedding, spec.vocabulary, hidden, false)?,
            positions: body.linear(Part::PositionEmbedding, spec.positions, hidden, false)?,
            kind,
            norm: body.layer_norm(Part::EmbeddingNorm, hidden, eps)?,
            layers: (0..spec.layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Computes a row of [`EncoderState::x`] for every token of some sequences.
    ///
    /// Tokens must be in the vocabulary, and sequences must not exceed the number of positions.
    pub(crate) fn forward(&self, sequences: &[&[u32]], state: &mut EncoderState) -> Result<(), Error> {
        let hidden = self.words.in_features();
        state.begin(sequences.iter().map(|tokens| tokens.len()), hidden);
        let len = state.places.len() * hidden;
        self.embed(sequences, &mut state.x[..len], &mut state.part[..len])?;
        for i in 0..self.layers.len() {
            self.layer(i, sequences.iter().map(|tokens| tokens.len()), state, None)?;
        }
        self.check(&state.x[..len])
    }

    /// Checks that rows that have left the last layer are finite.
    pub(crate) fn check(&self, x: &[f32]) -> Result<(), Error> {
        match largest(x).is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite { part: after(self.layers.len()) }),
        }
    }

    /// Embeds the tokens of a sequence, one row each.
    pub(crate) fn embed_one(&self, tokens: &[u32], x: &mut [f32], state: &mut EncoderState) -> Result<(), Error> {
        self.embed(&[tokens], x, sized(&mut state.part, x.len()))
    }

    /// Runs one layer on the rows of sequences, one slice each.
    pub(crate) fn forward_layer(
        &self,
        layer: usize,
        rows: &mut [&mut [f32]],
        state: &mut EncoderState,
        tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let hidden = self.words.in_features();
        state.begin(rows.iter().map(|rows| rows.len() / hidden), hidden);
        gather(rows, &mut state.x);
        self.layer(layer, rows.iter().map(|rows| rows.len() / hidden), state, tap)?;
        scatter(&state.x, rows);
        Ok(())
    }

    /// Runs a layer on the rows of a state, which belong to sequences of these lengths.
    fn layer(
        &self,
        i: usize,
        lengths: impl ExactSizeIterator<Item = usize>,
        state: &mut EncoderState,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<(), Error> {
        let (layer, hidden) = (&self.layers[i], self.words.in_features());
        let EncoderState { x, part, places, caches, attention, mlp, workspace } = state;
        let spec = layer.attention.spec();
        caches.resize_with(lengths.len(), || Cache::new(std::iter::once(spec), KvFormat::F16));
        let piece = |(rows, cache): (usize, _)| Piece { tokens: &[], rows, start: 0, context: rows, cache };
        let mut pieces: Vec<Piece<'_>> = lengths.zip(caches).map(piece).collect();
        pieces.iter_mut().for_each(|piece| piece.cache.truncate(0));
        let [x, part] = [x, part].map(|rows| sized(rows, places.len() * hidden));
        let mut products = Products { workspace, tap: lend(&mut tap) };
        let rows = (&[][..], places.as_slice());
        if let Some(found) = layer.attention.forward(x, &mut pieces, 0, rows, (attention, &mut products), part)? {
            return Err(beyond_range(i, found, x, None));
        }
        add_and_norm(&layer.after_attention, x, part, hidden);
        // Attention takes a text as a whole. The MLP treats rows independently, and they may be
        // much wider there.
        let rows = layer.mlp.rows_at_once() * hidden;
        for (x, part) in x.chunks(rows).zip(part.chunks_mut(rows)) {
            layer.mlp.forward(x, mlp, &mut products, part)?;
        }
        add_and_norm(&layer.after_mlp, x, part, hidden);
        Ok(())
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

/// Computes `x = norm(x + part)`; the content of `part` is then unspecified.
fn add_and_norm(norm: &Norm, x: &mut [f32], part: &mut [f32], hidden: usize) {
    let rows = x.chunks_mut(hidden).zip(part.chunks_mut(hidden));
    parallel::rows(2 * hidden * ELEMENT, rows, |(x, part)| {
        part.iter_mut().zip(&*x).for_each(|(part, x)| *part += x);
        norm.row(part, x);
    });
}
