//! Schemes: how weights are made of several tensors of a container.

mod fp8;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::{SourceError, TensorInfo};

/// The tensors of a container as such, before any scheme has claimed some of them. Each is named by
/// its position in [`tensors`](Self::tensors).
pub(super) trait Raw: Sync {
    fn tensors(&self) -> &[TensorInfo];

    /// Reads elements as `f32`, a piece at a time, and hands each piece on while it is in cache,
    /// with the position of its first element.
    fn read_f32(
        &self,
        tensor: usize,
        elements: Range<usize>,
        out: &mut [f32],
        then: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<(), SourceError>;

    /// Reads bytes as they are in the file.
    fn read_bytes(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError>;

    /// Makes an error of the file that names this tensor.
    fn refused(&self, tensor: usize, problem: String) -> SourceError;
}

/// Weights that a scheme makes of raw tensors.
pub(super) trait Composed: fmt::Debug + Send + Sync {
    /// Reads elements as [`Source::read_f32`](super::Source::read_f32) does.
    fn read_f32(&self, raw: &dyn Raw, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError>;
}

/// What schemes make of the tensors of a container, each of which is named by its position.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Weights, by the raw tensor in whose place they are listed.
    pub(super) composed: BTreeMap<usize, (TensorInfo, Box<dyn Composed>)>,
    /// Raw tensors that are not listed as themselves: such weights are made of them, or they are
    /// dropped.
    gone: BTreeSet<usize>,
    /// Raw tensors that mean nothing any more, in the order in which they were found.
    pub(super) dropped: Vec<usize>,
}

impl Claims {
    /// Lists `info` in the place of a raw tensor, and no longer the others that it is made of. An
    /// error if any of them is claimed already.
    fn compose(
        &mut self,
        raw: &dyn Raw,
        tensor: usize,
        of: &[usize],
        info: TensorInfo,
        composed: Box<dyn Composed>,
    ) -> Result<(), SourceError> {
        [tensor].iter().chain(of).try_for_each(|&tensor| self.check_free(raw, tensor))?;
        self.composed.insert(tensor, (info, composed));
        self.gone.extend(of);
        Ok(())
    }

    /// Drops a raw tensor. An error if it is claimed already.
    fn drop(&mut self, raw: &dyn Raw, tensor: usize) -> Result<(), SourceError> {
        self.check_free(raw, tensor)?;
        self.dropped.push(tensor);
        self.gone.insert(tensor);
        Ok(())
    }

    fn check_free(&self, raw: &dyn Raw, tensor: usize) -> Result<(), SourceError> {
        if self.is_gone(tensor) || self.composed.contains_key(&tensor) {
            return Err(raw.refused(tensor, "is part of two quantized tensors, expected one".into()));
        }
        Ok(())
    }

    /// Whether a raw tensor is not listed as itself any more.
    pub(super) fn is_gone(&self, tensor: usize) -> bool {
        self.gone.contains(&tensor)
    }
}

/// Looks for the tensors of one scheme; an error names the tensor, or the config at `config_path`.
type Claim =
    fn(raw: &dyn Raw, config: Option<&Value>, config_path: &Path, claims: &mut Claims) -> Result<(), SourceError>;

/// The schemes.
const SCHEMES: &[Claim] = &[fp8::claim];

/// Returns what all schemes make of the tensors of a container.
pub(super) fn claim(raw: &dyn Raw, config: Option<&Value>, config_path: &Path) -> Result<Claims, SourceError> {
    let mut claims = Claims::default();
    SCHEMES.iter().try_for_each(|scheme| scheme(raw, config, config_path, &mut claims))?;
    Ok(claims)
}
