//! Schemes: how weights are made of several tensors of a container.

mod bitsandbytes;
mod columns;
mod compressed_tensors;
mod fp4;
mod fp8;
mod gptq;
mod matrix;
mod mlx;
mod rows;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qruntime::checkpoint::read_config;
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
    /// Sentences about weights that were quantized already.
    pub(super) warnings: Vec<String>,
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
        if self.is_claimed(tensor) {
            return Err(raw.refused(tensor, "is part of two quantized tensors, expected one".into()));
        }
        Ok(())
    }

    /// Whether a raw tensor is not listed as itself any more.
    pub(super) fn is_gone(&self, tensor: usize) -> bool {
        self.gone.contains(&tensor)
    }

    /// Whether a scheme made anything of a raw tensor.
    pub(super) fn is_claimed(&self, tensor: usize) -> bool {
        self.is_gone(tensor) || self.composed.contains_key(&tensor)
    }

    /// Warns that `count` weights, if there are any, were quantized by `method` before.
    fn warn_quantized(&mut self, method: &str, count: usize) {
        if count > 0 {
            self.warnings.push(format!(
                "{count} weights are quantized by {method} already: they are decoded exactly, and packing them again adds its own error; the original checkpoint gives a better model"
            ));
        }
    }
}

/// Looks for the tensors of one scheme; an error names the tensor, or the config at `config_path`.
type Claim =
    fn(raw: &dyn Raw, config: Option<&Value>, config_path: &Path, claims: &mut Claims) -> Result<(), SourceError>;

/// The schemes. 8-bit floats come last: scales of others may be such floats.
const SCHEMES: &[Claim] =
    &[gptq::claim, compressed_tensors::claim, mlx::claim, bitsandbytes::claim, fp4::claim, fp8::claim];

/// Returns what all schemes make of the tensors of a container.
pub(super) fn claim(raw: &dyn Raw, config: Option<&Value>, config_path: &Path) -> Result<Claims, SourceError> {
    let mut claims = Claims::default();
    SCHEMES.iter().try_for_each(|scheme| scheme(raw, config, config_path, &mut claims))?;
    Ok(claims)
}

/// Most rows and columns of a weight that a scheme decodes: far beyond any network, and small
/// enough for arithmetic with bits.
const MAX_SIZE: usize = 1 << 24;

/// Raw tensors by name, without those that have no elements or are too wide for a weight.
struct Named<'a>(BTreeMap<&'a str, usize>);

impl<'a> Named<'a> {
    fn new(raw: &'a dyn Raw) -> Self {
        let usual = |tensor: &TensorInfo| tensor.shape().iter().all(|size| (1..=MAX_SIZE).contains(size));
        let tensors = raw.tensors().iter().enumerate().filter(|(_, tensor)| usual(tensor));
        Self(tensors.map(|(i, tensor)| (tensor.name(), i)).collect())
    }

    fn get(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }

    /// Returns the first tensor whose name begins so.
    fn beginning(&self, beginning: &str) -> Option<usize> {
        self.0.range(beginning..).next().filter(|(name, _)| name.starts_with(beginning)).map(|(_, &tensor)| tensor)
    }

    /// Returns the tensors whose names end so, and their names without the ending.
    fn ending(&self, ending: &'static str) -> impl Iterator<Item = (&'a str, usize)> {
        self.0.iter().filter_map(move |(name, &tensor)| Some((name.strip_suffix(ending)?, tensor)))
    }
}

/// The settings of a method, as `quantization_config` of `config.json` or a file beside it has
/// them. Errors name that file.
struct Settings<'a> {
    path: PathBuf,
    fields: Cow<'a, Value>,
}

impl<'a> Settings<'a> {
    /// Finds the settings; those of `config.json` come before the files.
    fn find(config: Option<&'a Value>, config_path: &Path, files: &[&str]) -> Result<Self, SourceError> {
        let sections = ["/quantization_config", "/text_config/quantization_config", "/compression_config"];
        if let Some(fields) = sections.iter().find_map(|section| config?.pointer(section)) {
            return Ok(Self { path: config_path.into(), fields: Cow::Borrowed(fields) });
        }
        let beside = files.iter().map(|name| config_path.with_file_name(name));
        if let Some(path) = beside.into_iter().find(|path| path.exists()) {
            return Ok(Self { fields: Cow::Owned(read_config(&path)?), path });
        }
        Ok(Self { path: config_path.into(), fields: Cow::Owned(Value::Null) })
    }

    fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>, SourceError> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.refuse(key, other, "text")),
        }
    }

    /// Reads a size; -1 means that there is none.
    fn size(&self, key: &str) -> Result<Option<usize>, SourceError> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if value.as_i64() == Some(-1) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0) {
                Some(size) => Ok(Some(size)),
                None => Err(self.refuse(key, value, "a positive whole number or -1")),
            },
        }
    }

    /// Makes the error of a setting.
    fn refuse(&self, key: &str, found: impl fmt::Display, expected: &str) -> SourceError {
        SourceError::checkpoint(
            &self.path,
            None,
            format!("\"{key}\" of the quantization: {found}, expected {expected}"),
        )
    }
}
