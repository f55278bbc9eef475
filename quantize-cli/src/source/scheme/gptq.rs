//! GPTQ and AWQ: 2- to 8-bit codes with zero points, `[inputs, outputs]`.
//!
//! A layer has `qweight`, `qzeros` (which may be missing if all are the middle) and `scales`, and
//! with GPTQ perhaps `g_idx`, the group of each input. A weight is `scale · (code - zero)`.
//!
//! | | `qweight` | order in a word | `qzeros` |
//! |---|---|---|---|
//! | GPTQ | `[inputs · bits / 32, outputs]` | inputs, a little-endian stream | one less than the zero point |
//! | GPTQ v2 | the same | | the zero point |
//! | AWQ (GEMM) | `[inputs, outputs / 8]` | outputs 0 2 4 6 1 3 5 7 | the zero point, in the same order |
//!
//! Widths and groups follow from the shapes. `quantization_config`, or `quantize_config.json` of
//! older checkpoints, tells the versions apart, and must not contradict the shapes.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::columns::{Columns, Packing};
use super::matrix::{ByRows, Whole, groups_of_columns};
use super::rows::Groups;
use super::{Claims, Named, Raw, Settings};
use crate::source::{Dtype, SourceError, Stored, TensorInfo};

/// Claims layers of GPTQ and AWQ.
pub(super) fn claim(
    raw: &dyn Raw,
    config: Option<&Value>,
    config_path: &Path,
    claims: &mut Claims,
) -> Result<(), SourceError> {
    let named = Named::new(raw);
    let layers: Vec<(&str, usize)> = named.ending(".qweight").collect();
    if layers.is_empty() {
        return Ok(());
    }
    let settings = Settings::find(config, config_path, &["quantize_config.json", "quant_config.json"])?;
    let variant = Variant::of(&settings)?;
    let whole = Arc::new(Whole::default());
    let mut kinds = (0, String::new());
    for (layer, codes) in layers {
        let (columns, parts) = variant.columns(raw, &named, layer, codes, &settings, &whole)?;
        let shape = [columns.rows, columns.cols];
        kinds = (kinds.0 + 1, columns.describe());
        let bytes = raw.tensors()[codes].bytes();
        let info = TensorInfo::new(&format!("{layer}.weight"), &shape, Stored::Scaled(Dtype::I32), bytes);
        claims.compose(raw, codes, &parts, info, Box::new(ByRows(columns)))?;
    }
    claims.warn_quantized(&kinds.1, kinds.0);
    Ok(())
}

/// What the config says of all layers.
struct Variant {
    /// Whether codes of outputs share a word; `None` if the shapes decide.
    is_awq: Option<bool>,
    /// What is added to a stored zero point of GPTQ.
    zero_offset: u8,
}

impl Variant {
    fn of(settings: &Settings<'_>) -> Result<Self, SourceError> {
        let method = settings.text("quant_method")?.unwrap_or_default();
        let packing = settings.text("packing_format")?.unwrap_or_default();
        let is_awq = match method {
            "gptq" => Some(false),
            "awq" => Some(true),
            // AutoRound writes either.
            "auto-round" | "intel/auto-round" if packing.contains("auto_gptq") => Some(false),
            "auto-round" | "intel/auto-round" if packing.contains("auto_awq") => Some(true),
            "" => None,
            other => {
                let found = format!("{other:?}, packing_format {packing:?}");
                return Err(settings.refuse(
                    "quant_method",
                    found,
                    "\"gptq\" or \"awq\", or AutoRound's packing as one of them, beside tensors named qweight",
                ));
            }
        };
        let version = settings.text("version")?.unwrap_or("gemm");
        if is_awq == Some(true) && !version.eq_ignore_ascii_case("gemm") {
            return Err(settings.refuse(
                "version",
                format!("{version:?}"),
                "\"gemm\", the order of codes that is read",
            ));
        }
        let zero_offset = match settings.text("checkpoint_format")?.unwrap_or("gptq") {
            "gptq" => 1,
            "gptq_v2" => 0,
            "gemm" if is_awq == Some(true) => 0,
            other => {
                return Err(settings.refuse("checkpoint_format", format!("{other:?}"), "\"gptq\" or \"gptq_v2\""));
            }
        };
        Ok(Self { is_awq, zero_offset })
    }

    /// Describes the matrix of a layer. Also returns the tensors that it is made of besides the
    /// codes.
    fn columns(
        &self,
        raw: &dyn Raw,
        named: &Named<'_>,
        layer: &str,
        codes: usize,
        settings: &Settings<'_>,
        whole: &Arc<Whole>,
    ) -> Result<(Columns, Vec<usize>), SourceError> {
        let info = |tensor: usize| &raw.tensors()[tensor];
        let find = |what: &str| named.get(&format!("{layer}.{what}"));
        let Some(scales) = find("scales") else {
            return Err(raw.refused(codes, format!("codes without \"{layer}.scales\"")));
        };
        let (zeros, listed) = (find("qzeros"), find("g_idx"));
        for tensor in [Some(codes), zeros, listed].into_iter().flatten() {
            if info(tensor).dtype() != Dtype::I32 {
                return Err(raw.refused(tensor, format!("{}, expected I32", info(tensor).dtype())));
            }
        }
        if !info(scales).is_float() {
            return Err(raw.refused(scales, format!("scales of {}, expected a float", info(scales).dtype())));
        }
        let ([groups, rows], [height, width]) = match (info(scales).shape(), info(codes).shape()) {
            (&[groups, rows], &[height, width]) if groups > 0 && rows > 0 => ([groups, rows], [height, width]),
            (scales, found) => {
                return Err(raw.refused(codes, format!("shape {found:?} with scales {scales:?}, expected matrices")));
            }
        };
        let is_awq = self.is_awq.unwrap_or(width != rows);
        let expected_bits = settings.size("bits")?.or(settings.size("w_bit")?);
        let bits = match (is_awq, zeros) {
            (true, _) => 4,
            // As wide as the words of zero points say.
            (false, Some(zeros)) => info(zeros).cols() * 32 / rows,
            (false, None) => expected_bits.unwrap_or(4),
        };
        let (packing, cols) = match is_awq {
            true => (Packing::Outputs, height),
            false => (Packing::Inputs, (height * 32).checked_div(bits).unwrap_or(0)),
        };
        let words = if is_awq { [cols, rows / 8] } else { [cols * bits / 32, rows] };
        let fits = matches!(bits, 2 | 3 | 4 | 8)
            && (rows * bits).is_multiple_of(32)
            && (cols * bits).is_multiple_of(if is_awq { 1 } else { 32 })
            && cols > 0
            && [height, width] == words
            && zeros.is_none_or(|zeros| info(zeros).shape() == [groups, rows * bits / 32])
            && listed.is_none_or(|listed| info(listed).shape() == [cols]);
        if !fits {
            let shapes = [zeros, Some(scales), listed].into_iter().flatten().map(|tensor| info(tensor).shape());
            let shapes: Vec<String> = shapes.map(|shape| format!("{shape:?}")).collect();
            let method = if is_awq { "AWQ (gemm)" } else { "GPTQ" };
            let problem =
                format!("shape {:?} beside {}, which do not fit as {method}", info(codes).shape(), shapes.join(", "));
            return Err(raw.refused(codes, problem));
        }
        let uniform = !settings.has("dynamic") && !settings.has("extra_config");
        if let Some(expected) = expected_bits.filter(|&expected| uniform && expected != bits) {
            return Err(raw.refused(codes, format!("codes of {bits} bits, but the config says {expected}")));
        }
        let size = settings.size("group_size")?.or(settings.size("q_group_size")?);
        let even = if cols.is_multiple_of(groups) { cols / groups } else { 0 };
        let size = size.filter(|_| uniform).unwrap_or(even).min(cols);
        let order = listed.map(|listed| groups_of_columns(raw, listed, groups)).transpose()?;
        let groups = match order {
            Some(order) => Groups::Listed(order, groups),
            None if size > 0 && cols.div_ceil(size) == groups => Groups::Of(size),
            None => {
                let problem = format!(
                    "{groups} groups of {size} columns, but {cols} columns: the config and the scales do not agree"
                );
                return Err(raw.refused(scales, problem));
            }
        };
        let zero_offset = if is_awq { 0 } else { self.zero_offset };
        let parts = [zeros, Some(scales), listed].into_iter().flatten().collect();
        let whole = Arc::clone(whole);
        Ok((Columns { codes, zeros, scales, bits, rows, cols, groups, zero_offset, packing, whole }, parts))
    }
}

impl Columns {
    /// Describes the kind of codes.
    fn describe(&self) -> String {
        let method = if self.packing == Packing::Outputs { "AWQ" } else { "GPTQ" };
        let groups = self.groups.count(self.cols);
        format!("{method} ({} bits, groups of {})", self.bits, self.cols.div_ceil(groups))
    }
}
