//! Scales of 8-bit floating-point weights.
//!
//! Such a tensor `N` is worth its codes times scales that lie beside it, in a tensor `N_scale_inv` or `N_scale` (so
//! `X.weight_scale_inv` for `X.weight`). Despite the first name both are multiplied. The shape says what a scale
//! covers: `[]` or `[1]` the whole tensor; `[rows]` or `[rows, 1]` a row; `[⌈rows/b₀⌉, ⌈cols/b₁⌉]` a block, those at
//! the edges smaller.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use qruntime::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::shard::Shard;
use super::{SourceError, SourceTensor};

/// Rows and columns of a block where the config names none.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// The scales of one tensor: `values[(row / block_rows) * grid_cols + col / block_cols]` for every row and column.
#[derive(Debug)]
pub(super) struct Scales {
    values: Vec<f32>,
    block_rows: usize,
    block_cols: usize,
    grid_cols: usize,
}

impl Scales {
    /// Multiplies elements of a tensor with `cols` columns, which begin at element `start`, by their scales.
    pub(super) fn apply(&self, mut start: usize, cols: usize, mut elements: &mut [f32]) {
        while !elements.is_empty() {
            let (row, col) = (start / cols, start % cols);
            let run = (cols - col).min(self.block_cols - col % self.block_cols).min(elements.len());
            let scale = self.values[(row / self.block_rows) * self.grid_cols + col / self.block_cols];
            let (same_scale, rest) = elements.split_at_mut(run);
            same_scale.iter_mut().for_each(|x| *x *= scale);
            elements = rest;
            start += run;
        }
    }

    /// Reads the scales of `weight` and checks that they fit it.
    fn read(
        shards: &[Shard],
        weight: &SourceTensor,
        scale: &SourceTensor,
        block: [usize; 2],
    ) -> Result<Self, SourceError> {
        let refuse = |problem| scale.refused(shards, problem);
        if !matches!(scale.dtype(), Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            return Err(refuse(format!("{} scales, expected F32, BF16 or F16", scale.dtype())));
        }
        let (rows, cols, [b0, b1]) = (weight.rows(), weight.cols(), block);
        let grid = [rows.div_ceil(b0), cols.div_ceil(b1)];
        let is_matrix = weight.shape().len() == 2;
        let (block_rows, block_cols, grid_cols) = match scale.shape() {
            [] | [1] => (usize::MAX, usize::MAX, 1),
            &[n] | &[n, 1] if n == rows => (1, usize::MAX, 1),
            &[m, n] if is_matrix && [m, n] == grid => (b0, b1, n),
            _ => {
                let by_block = if is_matrix { format!(", {grid:?} (blocks of {b0} x {b1})") } else { String::new() };
                return Err(refuse(format!(
                    "scales of shape {:?} for {:?} of shape {:?}, expected [], [1], [{rows}], [{rows}, 1]{by_block}",
                    scale.shape(),
                    weight.name(),
                    weight.shape()
                )));
            }
        };
        let mut values = vec![0.0; scale.elements()];
        scale.read_f32(shards, 0..scale.elements(), &mut values)?;
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            return Err(refuse(format!("scale {i} is {}, expected a finite number", values[i])));
        }
        Ok(Self { values, block_rows, block_cols, grid_cols })
    }
}

/// Moves the scales of 8-bit tensors into them. Returns the names of tensors that are dropped: scales of the
/// activations (`X.input_scale`, `X.activation_scale`) of such weights, which nothing needs once they are none.
pub(super) fn absorb(
    shards: &[Shard],
    tensors: &mut Vec<SourceTensor>,
    block: [usize; 2],
) -> Result<Vec<String>, SourceError> {
    let positions: HashMap<&str, usize> = tensors.iter().enumerate().map(|(i, t)| (t.name(), i)).collect();
    let mut gone = vec![false; tensors.len()];
    let mut dropped = Vec::new();
    let mut found = Vec::new();
    for (i, weight) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.is_fp8()) {
        let position = |name: String| positions.get(name.as_str()).copied();
        let beside = ["_scale_inv", "_scale"].map(|suffix| position(weight.name().to_owned() + suffix));
        if beside.iter().all(Option::is_some) {
            return Err(weight.refused(shards, "both scale_inv and scale lie beside it, expected one".to_owned()));
        }
        if let Some(j) = beside.into_iter().flatten().next() {
            found.push((i, Scales::read(shards, weight, &tensors[j], block)?));
            gone[j] = true;
        }
        let Some(layer) = weight.name().strip_suffix(".weight") else { continue };
        for suffix in [".input_scale", ".activation_scale"] {
            if let Some(j) = position(layer.to_owned() + suffix) {
                dropped.push(tensors[j].name().to_owned());
                gone[j] = true;
            }
        }
    }
    for (i, scales) in found {
        tensors[i].scales = Some(scales);
    }
    let mut gone = gone.into_iter();
    tensors.retain(|_| gone.next() == Some(false));
    Ok(dropped)
}

/// The block size that a config names. An error is what is wrong with it.
pub(super) fn block_size(config: Option<&Value>) -> Result<[usize; 2], String> {
    match config.and_then(|config| config.pointer("/quantization_config/weight_block_size")) {
        None | Some(Value::Null) => Ok(DEFAULT_BLOCK),
        Some(value) => <[NonZeroUsize; 2]>::deserialize(value)
            .map(|block| block.map(NonZeroUsize::get))
            .map_err(|_| format!("quantization_config.weight_block_size is {value}, expected two positive integers")),
    }
}
