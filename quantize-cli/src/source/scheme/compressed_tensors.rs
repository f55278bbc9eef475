//! compressed-tensors: packed and plain integers, and floats of 4 bits.
//!
//! | | codes | weight |
//! |---|---|---|
//! | pack-quantized | `weight_packed`, 4 or 8 bits in 32-bit words along the inputs | `scale · (code - zero)` |
//! | int-quantized, naive-quantized | `weight`, signed bytes | `scale · (code - zero)` |
//! | nvfp4-pack-quantized | `weight_packed`, two E2M1 codes in a byte | `(scale / global scale) · code` |
//! | mxfp4-pack-quantized | the same | `2^(scale - 127) · code` |
//!
//! Packed zero points lie along the outputs; without them the zero point is the middle. Floats of 8
//! bits (float-quantized) are those of [`fp8`](super::fp8). Widths and groups follow from the
//! shapes.

use std::path::Path;

use serde_json::Value;

use super::matrix::{ByRows, floats, groups_of_columns};
use super::rows::{Element, Factor, Groups, Rows, Zeros};
use super::{Claims, Named, Raw};
use crate::source::float::power_of_two;
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// What lies beside weights and says how activations are quantized.
const OF_ACTIVATIONS: &[&str] = &["input_scale", "input_zero_point", "input_global_scale"];

/// Claims the layers of compressed-tensors.
pub(super) fn claim(
    raw: &dyn Raw,
    _config: Option<&Value>,
    _config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let named = Named::new(raw);
    let packed = named.ending(".weight_packed").map(|(layer, codes)| (layer, codes, true));
    let plain = named.ending(".weight").filter(|&(layer, codes)| {
        raw.tensors()[codes].dtype() == Dtype::I8 && named.get(&format!("{layer}.weight_scale")).is_some()
    });
    let layers: Vec<_> = packed.chain(plain.map(|(layer, codes)| (layer, codes, false))).collect();
    let (count, mut kind) = (layers.len(), String::new());
    for (layer, codes, is_packed) in layers {
        let (rows, shape, parts) = describe(raw, &named, layer, codes, is_packed)?;
        let group = rows.cols.div_ceil(rows.groups.count(rows.cols));
        let what = if matches!(rows.element, Element::E2m1) { "floats of 4" } else { &rows.bits.to_string() };
        kind = format!("compressed-tensors ({what} bits, groups of {group})");
        let stored = Stored::Scaled(raw.tensors()[codes].dtype());
        let info = TensorInfo::new(&format!("{layer}.weight"), &shape, stored, raw.tensors()[codes].bytes());
        rows.check(raw, &info)?;
        claims.compose(raw, codes, &parts, info, Box::new(ByRows(rows)))?;
        for name in OF_ACTIVATIONS {
            if let Some(tensor) = named.get(&format!("{layer}.{name}")) {
                claims.drop(raw, tensor)?;
            }
        }
    }
    claims.warn_quantized(&kind, count);
    Ok(())
}

/// Describes the matrix of a layer, its shape, and the tensors that it is made of besides the
/// codes.
fn describe(
    raw: &dyn Raw,
    named: &Named<'_>,
    layer: &str,
    codes: usize,
    is_packed: bool,
) -> Result<(Rows, Vec<usize>, Vec<usize>), SourceError> {
    let info = &raw.tensors()[codes];
    let find = |what: &str| named.get(&format!("{layer}.{what}"));
    let Some(scales) = find("weight_scale") else {
        return Err(raw.refused(codes, format!("codes without \"{layer}.weight_scale\"")));
    };
    let (zeros, listed, global) = (find("weight_zero_point"), find("weight_g_idx"), find("weight_global_scale"));
    let logical = find("weight_shape");
    let mut shape = match logical {
        Some(tensor) => sizes(raw, tensor)?,
        None if info.dtype() == Dtype::U8 => {
            [&info.shape()[..info.shape().len().saturating_sub(1)], &[info.cols() * 2]].concat()
        }
        None => info.shape().to_vec(),
    };
    // Where only the matrix has its shape written down, experts come first.
    if shape.len() == 2 && info.shape().len() > 2 {
        shape = [&info.shape()[..info.shape().len() - 2], &shape].concat();
    }
    let rows = shape.split_last().map_or(1, |(_, rest)| rest.iter().fold(1usize, |n, &m| n.saturating_mul(m)));
    let cols = shape.last().copied().unwrap_or(0);
    let row_bytes = if info.rows() > 0 { info.bytes() / info.rows() } else { 0 };
    let bits = match info.dtype() {
        Dtype::U8 if is_packed => 4,
        Dtype::I32 if is_packed && cols > 0 => {
            // 3, 5, 6 and 7 bits are packed in two ways, depending on the version.
            [4, 8].into_iter().find(|bits| row_bytes == (cols * bits).div_ceil(32) * 4).unwrap_or(0)
        }
        Dtype::I8 if !is_packed => 8,
        _ => 0,
    };
    let unit = if info.dtype() == Dtype::I32 { 32 } else { 8 };
    if bits == 0
        || rows != info.rows()
        || cols == 0
        || rows == 0
        || row_bytes != (cols * bits).div_ceil(unit) * unit / 8
    {
        let problem = format!(
            "{} of shape {:?} for a weight of shape {shape:?}, expected codes of 4 or 8 bits in I32 (or U8: floats of 4 bits)",
            info.dtype(),
            info.shape()
        );
        return Err(raw.refused(codes, problem));
    }
    let is_float = info.dtype() == Dtype::U8;
    let count = match (is_float, raw.tensors()[scales].dtype()) {
        (true, Dtype::F8_E4M3) => cols.div_ceil(16),
        (true, _) => cols.div_ceil(32),
        (false, _) => (raw.tensors()[scales].elements() / rows).max(1),
    };
    if !is_float && !cols.is_multiple_of(count) {
        let problem = format!("{count} groups for {cols} columns, expected groups of equal size");
        return Err(raw.refused(scales, problem));
    }
    let groups = match listed {
        Some(listed) if raw.tensors()[listed].shape() == [cols] => {
            Groups::Listed(groups_of_columns(raw, listed, count)?, count)
        }
        Some(listed) => return Err(raw.refused(listed, format!("expected the shape [{cols}]"))),
        None => Groups::Of(cols.div_ceil(count)),
    };
    let element = match zeros {
        Some(_) if is_float => return Err(raw.refused(codes, "floats of 4 bits with zero points".into())),
        None if is_float => Element::E2m1,
        None if is_packed => Element::Less(1 << (bits - 1)),
        None => Element::Signed,
        Some(zeros) => {
            let (found, expected) = match is_packed {
                true => {
                    ((Dtype::I32, raw.tensors()[zeros].elements()), (Dtype::I32, (rows * bits).div_ceil(32) * count))
                }
                false => ((Dtype::I8, raw.tensors()[zeros].elements()), (Dtype::I8, rows * count)),
            };
            if raw.tensors()[zeros].dtype() != expected.0 || found.1 != expected.1 {
                let problem = format!(
                    "{} zero points in {}, expected {} in {}",
                    found.1,
                    raw.tensors()[zeros].dtype(),
                    expected.1,
                    expected.0
                );
                return Err(raw.refused(zeros, problem));
            }
            Element::LessZero(if is_packed { Zeros::Packed(zeros) } else { Zeros::Bytes(zeros) })
        }
    };
    let factor = match global {
        Some(global) => Factor::UnderScales(one_float(raw, global)?),
        None => Factor::None,
    };
    let byte_scale: Option<fn(u8) -> f32> = if is_float { Some(power_of_two) } else { None };
    let matrix = Rows { codes, bits, row_bytes, cols, groups, scales, byte_scale, factor, element };
    let parts = [Some(scales), zeros, listed, global, logical].into_iter().flatten().collect();
    Ok((matrix, shape, parts))
}

/// Reads a tensor that is one finite float, above zero.
pub(super) fn one_float(raw: &dyn Raw, tensor: usize) -> Result<f32, SourceError> {
    let info = &raw.tensors()[tensor];
    if info.elements() != 1 || !info.is_float() {
        return Err(raw.refused(tensor, format!("{} of shape {:?}, expected one float", info.dtype(), info.shape())));
    }
    match floats(raw, tensor, 0..1)?[..] {
        [value] if value.is_finite() && value > 0.0 => Ok(value),
        ref found => Err(raw.refused(tensor, format!("{found:?}, expected a positive number"))),
    }
}

/// Reads a shape that is written down in a tensor.
fn sizes(raw: &dyn Raw, tensor: usize) -> Result<Vec<usize>, SourceError> {
    let info = &raw.tensors()[tensor];
    if info.dtype() != Dtype::I64 || info.elements() != 2 {
        return Err(raw.refused(tensor, format!("{} of shape {:?}, expected I64 [2]", info.dtype(), info.shape())));
    }
    let mut bytes = [0; 16];
    raw.read_bytes(tensor, 0..16, &mut bytes)?;
    let sizes: Vec<usize> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .filter_map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).ok().filter(|&size| size < 1 << 32))
        .collect();
    match sizes.len() {
        2 => Ok(sizes),
        _ => Err(raw.refused(tensor, "sizes that are negative or too large".into())),
    }
}
