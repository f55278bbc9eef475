//! Floats of 4 bits with their scales, as ModelOpt and gpt-oss store them.
//!
//! | | codes (U8, two in a byte, the first in the low half) | scales | weight |
//! |---|---|---|---|
//! | NVFP4 of ModelOpt | `weight` `[.., columns / 2]` | `weight_scale` E4M3 `[.., columns / 16]`, `weight_scale_2` | `scale · scale_2 · code` |
//! | MXFP4 of gpt-oss | `*_blocks` `[.., columns / 32, 16]` | `*_scales` E8M0 `[.., columns / 32]` | `scale · code` |

use std::path::Path;

use serde_json::Value;

use super::compressed_tensors::one_float;
use super::matrix::ByRows;
use super::rows::{Element, Factor, Groups, Rows};
use super::{Claims, Named, Raw};
use crate::source::float::power_of_two;
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// Claims weights of 4-bit floats.
pub(super) fn claim(
    raw: &dyn Raw,
    _config: Option<&Value>,
    _config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let named = Named::new(raw);
    let nvfp4 = named.ending(".weight_scale_2").filter_map(|(layer, global)| {
        let (codes, scales) = (named.get(&format!("{layer}.weight"))?, named.get(&format!("{layer}.weight_scale"))?);
        (raw.tensors()[codes].dtype() == Dtype::U8).then_some((layer, codes, scales, global))
    });
    let mut count = 0;
    for (layer, codes, scales, global) in nvfp4 {
        let info = &raw.tensors()[codes];
        let name = format!("{layer}.weight");
        let factor = Factor::OfScales(one_float(raw, global)?);
        let shape = [&info.shape()[..info.shape().len().saturating_sub(1)], &[info.cols() * 2]].concat();
        compose(raw, claims, codes, &[scales, global], (&name, &shape), scales, 16, factor)?;
        if let Some(tensor) = named.get(&format!("{layer}.input_scale")) {
            claims.drop(raw, tensor)?;
        }
        count += 1;
    }
    claims.warn_quantized("NVFP4 (4 bits, groups of 16)", count);
    count = 0;
    for (name, codes) in named.ending("_blocks") {
        let info = &raw.tensors()[codes];
        let (Some(scales), &[ref leading @ .., groups, 16], Dtype::U8) =
            (named.get(&format!("{name}_scales")), info.shape(), info.dtype())
        else {
            continue;
        };
        let shape = [leading, &[groups * 32]].concat();
        compose(raw, claims, codes, &[scales], (name, &shape), scales, 32, Factor::None)?;
        count += 1;
    }
    claims.warn_quantized("MXFP4 (4 bits, groups of 32)", count);
    Ok(())
}

/// Lists a weight of a name and a shape in place of its codes.
#[expect(clippy::too_many_arguments, reason = "what a weight is made of")]
fn compose(
    raw: &dyn Raw,
    claims: &mut Claims,
    codes: usize,
    parts: &[usize],
    (name, shape): (&str, &[usize]),
    scales: usize,
    group: usize,
    factor: Factor,
) -> Result<(), SourceError> {
    let info = &raw.tensors()[codes];
    let described = TensorInfo::new(name, shape, Stored::Scaled(Dtype::U8), info.bytes());
    let cols = described.cols();
    let matrix = Rows {
        codes,
        bits: 4,
        row_bytes: cols / 2,
        cols,
        groups: Groups::Of(group),
        scales,
        byte_scale: if group == 16 { None } else { Some(power_of_two) },
        factor,
        element: Element::E2m1,
    };
    if cols == 0 {
        return Err(raw.refused(codes, format!("shape {:?}, which has no elements", info.shape())));
    }
    matrix.check(raw, &described)?;
    claims.compose(raw, codes, parts, described, Box::new(ByRows(matrix)))
}
