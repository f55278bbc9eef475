//! Scales of 8-bit floating-point weights.
//!
//! Such a tensor is worth its codes times scales that lie beside it under one of the names in
//! [`SCALES`] (despite the name of one all are multiplied). The shape says what a scale covers. For
//! matrices `[.., rows, cols]`, `n` of them:
//!
//! | shape | covers |
//! |---|---|
//! | one element | the whole tensor |
//! | `[n]` or `[.., 1, 1]` | a matrix |
//! | `[n * rows]`, `[n * rows, 1]` or `[.., rows, 1]` | a row |
//! | `[.., 1, cols]` | a column |
//! | `[.., rows / b0, cols / b1]`, both rounded up | a block; those at the edges are smaller |
//!
//! A matrix of 8-bit floats without a scale is refused, and so is one with a scale of an unknown
//! name: its weights would be a hundred times too large, and nothing would say so.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Claims, Composed, Raw};
use crate::source::float::power_of_two;
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// Rows and columns of a block where the config names none.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// What follows the name of a tensor of 8-bit floats in the name of its scales.
const SCALES: &[&str] = &["_scale_inv", "_scale", "_weight_scale"];

/// The same after the name of the layer whose `.weight` it is.
const LAYER_SCALES: &[&str] = &[".scale_weight", ".scale"];

/// Scales of a layer's activations, and of what it writes: nothing needs them once the weights are
/// no 8-bit floats.
const ACTIVATION_SCALES: &[&str] = &[
    "input_scale",
    "activation_scale",
    "scale_input",
    "output_scale",
    "scale_output",
    "k_scale",
    "v_scale",
    "q_scale",
];

/// Codes of 8 bits and their scales.
#[derive(Debug)]
struct Scaled {
    /// The raw tensor of the codes.
    codes: usize,
    cols: usize,
    scales: Scales,
}

impl Composed for Scaled {
    fn read_f32(&self, raw: &dyn Raw, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        raw.read_f32(self.codes, elements, out, &mut |start, piece| self.scales.apply(start, self.cols, piece))
    }
}

/// The scales of one tensor: for each matrix of `matrix_rows` a grid, one value for each block.
#[derive(Debug)]
struct Scales {
    values: Vec<f32>,
    matrix_rows: usize,
    block_rows: usize,
    block_cols: usize,
    grid: [usize; 2],
}

impl Scales {
    /// Multiplies elements of a tensor with `cols` columns, which begin at element `start`, by
    /// their scales.
    fn apply(&self, mut start: usize, cols: usize, mut elements: &mut [f32]) {
        let [grid_rows, grid_cols] = self.grid;
        while !elements.is_empty() {
            let (row, col) = (start / cols, start % cols);
            let (matrix, row) = (row / self.matrix_rows, row % self.matrix_rows);
            let run = (cols - col).min(self.block_cols - col % self.block_cols).min(elements.len());
            let grid_row = matrix * grid_rows + row / self.block_rows;
            let scale = self.values[grid_row * grid_cols + col / self.block_cols];
            let (same_scale, rest) = elements.split_at_mut(run);
            same_scale.iter_mut().for_each(|x| *x *= scale);
            elements = rest;
            start += run;
        }
    }

    /// Reads the scales of `weight` and checks that they fit it. `position` is where they are.
    fn read(raw: &dyn Raw, weight: &TensorInfo, position: usize, block: [usize; 2]) -> Result<Self, SourceError> {
        let scale = &raw.tensors()[position];
        let refuse = |problem| raw.refused(position, problem);
        let (all_rows, cols, [b0, b1]) = (weight.rows(), weight.cols(), block);
        let (leading, rows) = match weight.shape() {
            [leading @ .., rows, _] => (leading, *rows),
            _ => (&[][..], 1),
        };
        let grid = [rows.div_ceil(b0), cols.div_ceil(b1)];
        let whole = usize::MAX;
        let [matrix_rows, block_rows, block_cols, grid_rows, grid_cols] = match scale.shape() {
            shape if shape.iter().product::<usize>() == 1 => [whole, whole, whole, 1, 1],
            &[n] | &[n, 1] if n == all_rows => [whole, 1, whole, all_rows, 1],
            &[n] if leading == [n] => [rows, whole, whole, 1, 1],
            [before @ .., 1, 1] if before == leading => [rows, whole, whole, 1, 1],
            &[ref before @ .., m, 1] if before == leading && m == rows => [rows, 1, whole, rows, 1],
            &[ref before @ .., m, n] if before == leading && [m, n] == grid => [rows, b0, b1, m, n],
            &[ref before @ .., 1, n] if before == leading && n == cols => [rows, whole, 1, 1, cols],
            found => {
                let of_rank = |last: [usize; 2]| [leading, &last].concat();
                let (row, by_block) = (of_rank([rows, 1]), of_rank(grid));
                return Err(refuse(format!(
                    "scales of shape {found:?} for {:?} of shape {:?}, expected [], [1], [{all_rows}], {row:?}, {by_block:?} (blocks of {b0} x {b1})",
                    weight.name(),
                    weight.shape()
                )));
            }
        };
        let mut values = vec![0.0; scale.elements()];
        match scale.dtype() {
            Dtype::F32 | Dtype::BF16 | Dtype::F16 => {
                raw.read_f32(position, 0..scale.elements(), &mut values, &mut |_, _| {})?;
            }
            Dtype::F8_E8M0 => {
                let mut exponents = vec![0; scale.elements()];
                raw.read_bytes(position, 0..scale.elements(), &mut exponents)?;
                values.iter_mut().zip(exponents).for_each(|(value, exponent)| *value = power_of_two(exponent));
            }
            other => return Err(refuse(format!("{other} scales, expected F32, BF16, F16 or F8_E8M0"))),
        }
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            return Err(refuse(format!("scale {i} is {}, expected a finite number", values[i])));
        }
        Ok(Self { values, matrix_rows, block_rows, block_cols, grid: [grid_rows, grid_cols] })
    }
}

/// Claims tensors of 8-bit floats with their scales, and drops scales of the activations of such
/// weights, which nothing needs once they are none.
pub(super) fn claim(
    raw: &dyn Raw,
    config: Option<&Value>,
    config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let block = block_size(config).map_err(|problem| SourceError::checkpoint(config_path, None, problem))?;
    let tensors = raw.tensors();
    if !tensors.iter().any(is_fp8) {
        return Ok(());
    }
    let names: BTreeMap<&str, usize> = tensors.iter().enumerate().map(|(i, t)| (t.name(), i)).collect();
    for (i, weight) in tensors.iter().enumerate().filter(|(_, tensor)| is_fp8(tensor)) {
        if claims.is_gone(i) {
            continue;
        }
        let layer = weight.name().strip_suffix(".weight");
        if let Some(j) = scales_of(raw, i, layer, &names)? {
            let scaled = Scaled { codes: i, cols: weight.cols(), scales: Scales::read(raw, weight, j, block)? };
            let info = weight.stored_as(Stored::Scaled(weight.dtype()));
            claims.compose(raw, i, &[j], info, Box::new(scaled))?;
        }
        let scope = layer.map_or_else(|| format!("{}_", weight.name()), |layer| format!("{layer}."));
        for (name, &j) in names.range(scope.as_str()..).take_while(|(name, _)| name.starts_with(&scope)) {
            let what = &name[scope.len()..];
            if ACTIVATION_SCALES.contains(&what) {
                // It may lie beside several weights.
                if !claims.is_gone(j) {
                    claims.drop(raw, j)?;
                }
            } else if !claims.is_gone(j)
                && what != "weight"
                && ["scale", "amax", "zero"].iter().any(|word| what.contains(word))
            {
                let problem =
                    format!("lies beside the 8-bit floats of {:?}, and what it means is not known", weight.name());
                return Err(raw.refused(j, problem));
            }
        }
    }
    for (name, &j) in &names {
        let cache = ["k_scale", "v_scale", "q_scale"].iter().any(|scale| name.ends_with(&format!(".{scale}")));
        // The mark that ComfyUI leaves, and scales for keys and values in 8 bits.
        if !claims.is_gone(j) && (*name == "scaled_fp8" || cache && tensors[j].elements() == 1) {
            claims.drop(raw, j)?;
        }
    }
    Ok(())
}

/// Finds the scales that lie beside a tensor of 8-bit floats. `layer` is the name of the layer
/// whose weight it is.
fn scales_of(
    raw: &dyn Raw,
    weight: usize,
    layer: Option<&str>,
    names: &BTreeMap<&str, usize>,
) -> Result<Option<usize>, SourceError> {
    let tensors = raw.tensors();
    let info = &tensors[weight];
    let after = |name: &str, endings: &[&str]| endings.iter().map(|end| format!("{name}{end}")).collect::<Vec<_>>();
    let candidates = [after(info.name(), SCALES), layer.map_or(vec![], |layer| after(layer, LAYER_SCALES))].concat();
    let beside: Vec<usize> = candidates.iter().filter_map(|name| names.get(name.as_str()).copied()).collect();
    let problem = match *beside {
        [j] => return Ok(Some(j)),
        // A vector may be what it says; a matrix would have lost its size.
        [] if info.shape().len() < 2 => return Ok(None),
        [] => format!(
            "{} without scales, expected one of {}: give the original checkpoint",
            info.dtype(),
            candidates.join(", ")
        ),
        [a, b, ..] => {
            format!("both {:?} and {:?} lie beside it, expected one", tensors[a].name(), tensors[b].name())
        }
    };
    Err(raw.refused(weight, problem))
}

/// Whether the elements of a tensor are 8-bit floats, which come with scales.
fn is_fp8(tensor: &TensorInfo) -> bool {
    matches!(tensor.dtype(), Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// The block size that a config names. An error is what is wrong with it.
fn block_size(config: Option<&Value>) -> Result<[usize; 2], String> {
    match config.and_then(|config| config.pointer("/quantization_config/weight_block_size")) {
        None | Some(Value::Null) => Ok(DEFAULT_BLOCK),
        Some(value) => <[NonZeroUsize; 2]>::deserialize(value)
            .map(|block| block.map(NonZeroUsize::get))
            .map_err(|_| format!("quantization_config.weight_block_size is {value}, expected two positive integers")),
    }
}
