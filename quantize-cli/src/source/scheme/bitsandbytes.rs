//! bitsandbytes: 4-bit codes of a table of 16 values, in blocks that run through the whole tensor,
//! and 8-bit integers with a scale for each row.
//!
//! | | tensors beside `weight` | weight |
//! |---|---|---|
//! | 4 bits (NF4, FP4) | `.absmax`, `.quant_map`, `.quant_state.bitsandbytes__*` | `map[code] · absmax[block]` |
//! | nested scales | `.nested_absmax`, `.nested_quant_map` too | `absmax = nested map[code] · nested absmax + offset` |
//! | 8 bits | `SCB` | `code · SCB / 127` |
//!
//! Of the two codes in a byte, the first is in the high half. `quant_state` is JSON in a tensor of
//! bytes, with the shape, the length of blocks and the offset.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::matrix::{ByRows, floats};
use super::rows::{Element, Factor, Groups, Rows};
use super::{Claims, Composed, Named, Raw};
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// What the name of a tensor with the state begins with, after the name of its weight.
const STATE: &str = ".quant_state.bitsandbytes__";

/// The state is small JSON.
const MAX_STATE: usize = 1 << 20;

#[derive(Deserialize)]
struct State {
    shape: Vec<usize>,
    blocksize: usize,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// A weight of 4-bit codes.
#[derive(Debug)]
struct Table {
    codes: usize,
    block: usize,
    values: Vec<f32>,
    scales: Scales,
}

/// The largest magnitudes of blocks.
#[derive(Debug)]
enum Scales {
    /// A tensor of floats.
    Plain(usize),
    /// A tensor of codes of 8 bits, whose values and scales are known.
    Nested { codes: usize, block: usize, values: Vec<f32>, scales: Vec<f32>, offset: f32 },
}

impl Composed for Table {
    fn read_f32(&self, raw: &dyn Raw, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        if elements.is_empty() {
            return Ok(());
        }
        let (first_byte, first_block) = (elements.start / 2, elements.start / self.block);
        let mut bytes = vec![0; elements.end.div_ceil(2) - first_byte];
        raw.read_bytes(self.codes, first_byte..first_byte + bytes.len(), &mut bytes)?;
        let blocks = first_block..elements.end.div_ceil(self.block);
        let scales = match &self.scales {
            Scales::Plain(tensor) => floats(raw, *tensor, blocks)?,
            Scales::Nested { codes, block, values, scales, offset } => {
                let mut nested = vec![0; blocks.len()];
                raw.read_bytes(*codes, blocks.clone(), &mut nested)?;
                let scale = |(i, code): (usize, u8)| values[usize::from(code)] * scales[i / block] + offset;
                blocks.zip(nested).map(scale).collect()
            }
        };
        for (out, i) in out.iter_mut().zip(elements) {
            let byte = bytes[i / 2 - first_byte];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *out = self.values[usize::from(code)] * scales[i / self.block - first_block];
        }
        Ok(())
    }
}

/// Claims the layers of bitsandbytes.
pub(super) fn claim(
    raw: &dyn Raw,
    _config: Option<&Value>,
    _config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let named = Named::new(raw);
    let (mut count, mut kind) = (0, String::new());
    for (name, scales) in named.ending(".absmax") {
        let Some(codes) = named.get(name) else { continue };
        let (info, table, parts) = four_bits(raw, &named, name, codes, scales)?;
        kind = format!("bitsandbytes (4 bits, blocks of {})", table.block);
        claims.compose(raw, codes, &parts, info, Box::new(table))?;
        count += 1;
    }
    for (layer, scales) in named.ending(".SCB") {
        let Some(codes) = named.get(&format!("{layer}.weight")) else { continue };
        let info = &raw.tensors()[codes];
        let (rows, cols) = (info.rows(), info.cols());
        if info.dtype() != Dtype::I8 || info.shape().len() != 2 || raw.tensors()[scales].shape() != [rows] {
            let problem = format!(
                "{} of shape {:?} with SCB, expected I8 [rows, columns] and SCB [rows]",
                info.dtype(),
                info.shape()
            );
            return Err(raw.refused(codes, problem));
        }
        let matrix = Rows {
            codes,
            bits: 8,
            row_bytes: cols,
            cols,
            groups: Groups::Of(cols.max(1)),
            scales,
            byte_scale: None,
            factor: Factor::OfWeights(1.0 / 127.0),
            element: Element::Signed,
        };
        let described = info.stored_as(Stored::Scaled(Dtype::I8));
        matrix.check(raw, &described)?;
        claims.compose(raw, codes, &[scales], described, Box::new(ByRows(matrix)))?;
        if let Some(tensor) = named.get(&format!("{layer}.weight_format")) {
            let mut order = [0];
            raw.read_bytes(tensor, 0..1, &mut order)?;
            if order != [0] {
                let problem = format!("{}, an order of bytes for one processor, expected 0 (row by row)", order[0]);
                return Err(raw.refused(tensor, problem));
            }
            claims.drop(raw, tensor)?;
        }
        kind = "bitsandbytes (8 bits, a scale for each row)".into();
        count += 1;
    }
    claims.warn_quantized(&kind, count);
    Ok(())
}

/// Describes a weight of 4-bit codes, and the tensors that it is made of besides these.
fn four_bits(
    raw: &dyn Raw,
    named: &Named<'_>,
    name: &str,
    codes: usize,
    scales: usize,
) -> Result<(TensorInfo, Table, Vec<usize>), SourceError> {
    let find = |what: &str| named.get(&format!("{name}{what}"));
    let need = |what: &str| find(what).ok_or_else(|| raw.refused(codes, format!("codes without \"{name}{what}\"")));
    let Some(state_at) = named.beginning(&format!("{name}{STATE}")) else {
        let problem = "codes of bitsandbytes without quant_state, which says their shape: give the original checkpoint";
        return Err(raw.refused(codes, problem.into()));
    };
    let state: State = state(raw, state_at)?;
    let map = need(".quant_map")?;
    let elements = state.shape.iter().try_fold(1usize, |n, &m| n.checked_mul(m)).unwrap_or(usize::MAX);
    let blocks = elements.div_ceil(state.blocksize.max(1));
    let info = &raw.tensors()[codes];
    let expected = |tensor: usize, dtype: Dtype, count: usize| {
        let found = &raw.tensors()[tensor];
        if found.dtype() == dtype && found.elements() == count {
            return Ok(());
        }
        Err(raw.refused(
            tensor,
            format!("{} elements of {}, expected {count} of {dtype}", found.elements(), found.dtype()),
        ))
    };
    if state.blocksize == 0 || state.nested_blocksize == Some(0) {
        return Err(raw.refused(state_at, "blocks of no elements".into()));
    }
    expected(codes, Dtype::U8, elements.div_ceil(2))?;
    expected(map, Dtype::F32, 16)?;
    let mut parts = vec![scales, map, state_at];
    let scales = match find(".nested_absmax") {
        None => {
            expected(scales, Dtype::F32, blocks)?;
            Scales::Plain(scales)
        }
        Some(nested) => {
            let nested_map = need(".nested_quant_map")?;
            parts.extend([nested, nested_map]);
            let block = state.nested_blocksize.unwrap_or(256);
            expected(scales, Dtype::U8, blocks)?;
            expected(nested, Dtype::F32, blocks.div_ceil(block))?;
            expected(nested_map, Dtype::F32, 256)?;
            Scales::Nested {
                codes: scales,
                block,
                values: floats(raw, nested_map, 0..256)?,
                scales: floats(raw, nested, 0..blocks.div_ceil(block))?,
                offset: state.nested_offset.unwrap_or(0.0),
            }
        }
    };
    let values = floats(raw, map, 0..16)?;
    let described = TensorInfo::new(name, &state.shape, Stored::Scaled(Dtype::U8), info.bytes());
    Ok((described, Table { codes, block: state.blocksize, values, scales }, parts))
}

/// Reads the state that describes the codes of a weight.
fn state(raw: &dyn Raw, tensor: usize) -> Result<State, SourceError> {
    let info = &raw.tensors()[tensor];
    if info.dtype() != Dtype::U8 || info.bytes() > MAX_STATE {
        let problem = format!("{} bytes of {}, expected at most {MAX_STATE} of U8", info.bytes(), info.dtype());
        return Err(raw.refused(tensor, problem));
    }
    let mut text = vec![0; info.bytes()];
    raw.read_bytes(tensor, 0..text.len(), &mut text)?;
    serde_json::from_slice(&text).map_err(|error| raw.refused(tensor, format!("not a state of bitsandbytes: {error}")))
}
