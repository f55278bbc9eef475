//! MLX: codes of 2 to 8 bits with a scale and an offset for each group of columns, and floats of 4
//! and 8 bits with scales.
//!
//! | mode | `weight` (U32) | group | `scales` | weight |
//! |---|---|---|---|---|
//! | affine | a little-endian stream of 2 to 8 bits | 32, 64, 128 | floats, `biases` too | `scale · code + bias` |
//! | mxfp4 | E2M1 | 32 | bytes, E8M0 | `scale · code` |
//! | mxfp8 | E4M3 | 32 | bytes, E8M0 | `scale · code` |
//! | nvfp4 | E2M1 | 16 | bytes, E4M3 | `scale · code` |
//!
//! `quantization` in `config.json` names the mode, the width and the group, for all layers or for
//! one by its name. The shapes must agree with it.

use std::path::Path;

use serde_json::Value;

use super::matrix::ByRows;
use super::rows::{Element, Factor, Groups, Rows};
use super::{Claims, Named, Raw};
use crate::source::float::{e4m3, power_of_two};
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// Claims layers of MLX.
pub(super) fn claim(
    raw: &dyn Raw,
    config: Option<&Value>,
    _config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let named = Named::new(raw);
    let settings = config.and_then(|config| config.get("quantization").or_else(|| config.get("quantization_config")));
    let (mut count, mut kind) = (0, String::new());
    for (layer, scales) in named.ending(".scales") {
        let Some(codes) = named.get(&format!("{layer}.weight")) else { continue };
        let info = &raw.tensors()[codes];
        if info.dtype() != Dtype::U32 || info.shape().len() < 2 {
            continue;
        }
        let setting = |key: &str| settings?.get(layer).and_then(|own| own.get(key)).or_else(|| settings?.get(key));
        let biases = named.get(&format!("{layer}.biases"));
        let mode = setting("mode").and_then(Value::as_str).unwrap_or(if biases.is_some() { "affine" } else { "mxfp4" });
        let (element, byte_scale, usual_group): (_, fn(u8) -> f32, _) = match (mode, biases) {
            ("affine", Some(biases)) => (Element::Plus(biases), power_of_two, None),
            ("mxfp4", None) => (Element::E2m1, power_of_two, Some(32)),
            ("mxfp8", None) => (Element::E4m3, power_of_two, Some(32)),
            ("nvfp4", None) => (Element::E2m1, e4m3, Some(16)),
            _ => {
                let beside = if biases.is_some() { "with" } else { "without" };
                let problem = format!(
                    "mode {mode:?} {beside} biases, expected affine with them, or mxfp4, mxfp8 or nvfp4 without"
                );
                return Err(raw.refused(codes, problem));
            }
        };
        let size = |key: &str| setting(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let Some(group) = size("group_size").or(usual_group) else {
            let problem = "codes of MLX whose group_size no \"quantization\" in config.json tells";
            return Err(raw.refused(codes, problem.into()));
        };
        let (rows, words) = (info.rows(), info.cols());
        let groups = raw.tensors()[scales].cols();
        let cols = groups.checked_mul(group).filter(|&cols| cols > 0 && cols < 1 << 32);
        let bits = cols.map_or(0, |cols| words * 32 / cols);
        let fits = cols.is_some_and(|cols| {
            matches!(bits, 2..=6 | 8)
                && words * 32 == bits * cols
                && size("bits").is_none_or(|expected| expected == bits)
                && matches!((mode, bits), ("affine", _) | ("mxfp4" | "nvfp4", 4) | ("mxfp8", 8))
                && biases.is_none_or(|biases| raw.tensors()[biases].shape() == raw.tensors()[scales].shape())
                && biases.is_none_or(|biases| raw.tensors()[biases].is_float())
        });
        let (Some(cols), true) = (cols, fits) else {
            let problem = format!(
                "codes of shape {:?} with scales of shape {:?} do not fit quantization with mode {mode:?}, bits {:?} and group_size {group}",
                info.shape(),
                raw.tensors()[scales].shape(),
                size("bits")
            );
            return Err(raw.refused(codes, problem));
        };
        kind = format!("MLX ({mode}, {bits} bits, groups of {group})");
        let shape = [&info.shape()[..info.shape().len() - 1], &[cols]].concat();
        let described = TensorInfo::new(info.name(), &shape, Stored::Scaled(Dtype::U32), info.bytes());
        debug_assert_eq!(described.rows(), rows);
        let matrix = Rows {
            codes,
            bits,
            row_bytes: words * 4,
            cols,
            groups: Groups::Of(group),
            scales,
            byte_scale: Some(byte_scale),
            factor: Factor::None,
            element,
        };
        matrix.check(raw, &described)?;
        let parts: Vec<usize> = [Some(scales), biases].into_iter().flatten().collect();
        claims.compose(raw, codes, &parts, described, Box::new(ByRows(matrix)))?;
        count += 1;
    }
    claims.warn_quantized(&kind, count);
    Ok(())
}
