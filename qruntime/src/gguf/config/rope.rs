//! Rotary embeddings: `rope_scaling`, and the keys and tensors that say the same.

use serde_json::{Map, Value, json};

use super::read::{Source, number};
use crate::config::SIZES;
use crate::error::{Error, FileError};
use crate::gguf::tensors::{FREQUENCIES, LONG_FACTORS, SHORT_FACTORS};

/// The kinds of scaling, as GGUF names them.
const KINDS: &str = "none, linear, yarn, longrope";

/// The factors of Llama 3.1, which turns on the wavelengths beyond which rotations are slowed down.
const LLAMA3_FACTORS: (f64, f64) = (1.0, 4.0);

/// The context for which Llama 3 was trained; others are found by trying powers of two.
const LLAMA3_CONTEXT: u32 = 8192;

/// Largest relative difference between a factor of a file, computed in `f32`, and ours.
const LLAMA3_TOLERANCE: f64 = 1e-4;

/// Reads `rope_scaling` and what belongs to it, for `rotated` elements of a head.
pub(super) fn read(source: &Source<'_>, fields: &mut Map<String, Value>, rotated: usize) -> Result<(), Error> {
    let theta = source.number("rope.freq_base")?.unwrap_or(10_000.0);
    fields.insert("rope_theta".into(), number(theta));
    let original = source.size("rope.scaling.original_context_length", SIZES)?;
    let factor = match source.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => source.number("rope.scale_linear")?,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    let attention = source.number("rope.scaling.attn_factor")?;
    let kind_key = source.key("rope.scaling.type");
    let kind = source.metadata.text(&kind_key)?;

    if let Some(scaling) = tensors(source, fields, theta, original, rotated)? {
        if let (Some("linear" | "yarn") | None, Some(factor)) = (kind, factor.filter(|factor| *factor != 1.0)) {
            let expected = "none beside factors of single rotations";
            return Err(source.refuse("rope.scaling.factor", factor, expected).into());
        }
        let mut scaling = scaling;
        if let Some(attention) = attention {
            scaling.insert("attention_factor".into(), number(attention));
        }
        fields.insert("rope_scaling".into(), scaling.into());
        return Ok(());
    }
    let scaling = match (kind.unwrap_or("linear"), factor) {
        ("none", _) | ("linear", None) => return Ok(()),
        ("linear", Some(1.0)) => return Ok(()),
        ("linear", Some(factor)) => json!({"rope_type": "linear", "factor": number(factor)}),
        ("yarn", Some(factor)) => yarn(source, factor, original, attention)?,
        ("yarn", None) => return Err(source.refuse("rope.scaling.factor", "missing", "a number: of YaRN").into()),
        ("longrope", _) => {
            let message = "missing, expected beside rope.scaling.type \"longrope\"";
            return Err(FileError::network(LONG_FACTORS, message).into());
        }
        (other, _) => return Err(source.metadata.refuse(&kind_key, format!("{other:?}"), KINDS).into()),
    };
    fields.insert("rope_scaling".into(), scaling);
    Ok(())
}

/// Reads the parameters of YaRN.
fn yarn(source: &Source<'_>, factor: f64, original: Option<usize>, attention: Option<f64>) -> Result<Value, FileError> {
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), "yarn".into());
    scaling.insert("factor".into(), number(factor));
    if let Some(original) = original {
        scaling.insert("original_max_position_embeddings".into(), original.into());
    }
    for field in ["beta_fast", "beta_slow"] {
        if let Some(beta) = source.number(&format!("rope.scaling.yarn_{field}"))? {
            scaling.insert(field.into(), number(beta));
        }
    }
    if let Some(part) = source.number("rope.scaling.yarn_ext_factor")?
        && part != 1.0
    {
        return Err(source.refuse("rope.scaling.yarn_ext_factor", part, 1.0));
    }
    let own = source.number("rope.scaling.yarn_attn_factor")?;
    let all = source.number("rope.scaling.yarn_log_multiplier")?.filter(|all| *all != 0.0);
    let magnitude = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * libm::log(factor) + 1.0 };
    match (own, all, attention.filter(|attention| *attention != 1.0)) {
        (Some(own), _, _) => {
            scaling.insert("attention_factor".into(), number(own));
        }
        (None, Some(all), None) => {
            scaling.insert("mscale".into(), 1.0.into());
            scaling.insert("mscale_all_dim".into(), number(all));
        }
        (None, all, Some(attention)) => {
            let scale = attention * magnitude(1.0) / all.map_or(1.0, magnitude);
            scaling.insert("attention_factor".into(), scale.into());
        }
        (None, None, None) => {}
    }
    Ok(scaling.into())
}

/// Reads the factors of single rotations, if the file has tensors of them.
fn tensors(
    source: &Source<'_>,
    fields: &mut Map<String, Value>,
    theta: f64,
    original: Option<usize>,
    rotated: usize,
) -> Result<Option<Map<String, Value>>, Error> {
    let [long, short] = [LONG_FACTORS, SHORT_FACTORS].map(|name| source.factors(name, rotated / 2));
    let scaling = match (long?, short?) {
        (Some(long), Some(short)) => {
            if let Some(original) = original {
                fields.insert("original_max_position_embeddings".into(), original.into());
            }
            longrope(&long, &short)
        }
        (None, None) => match source.factors(FREQUENCIES[0], rotated / 2)? {
            None => return Ok(None),
            Some(factors) if factors.iter().all(|factor| *factor == 1.0) => return Ok(None),
            Some(factors) => match llama3(&factors, theta) {
                Some(scaling) => scaling,
                None => {
                    // With the same factors for all lengths, there is no context to choose by.
                    let context = fields.get("max_position_embeddings").cloned().unwrap_or_default();
                    fields.insert("original_max_position_embeddings".into(), context);
                    let mut scaling = longrope(&factors, &factors);
                    scaling.insert("attention_factor".into(), 1.0.into());
                    scaling
                }
            },
        },
        (long, _) => {
            let [there, missing] =
                if long.is_some() { [LONG_FACTORS, SHORT_FACTORS] } else { [SHORT_FACTORS, LONG_FACTORS] };
            return Err(FileError::network(missing, format!("missing, expected beside \"{there}\"")).into());
        }
    };
    Ok(Some(scaling))
}

fn longrope(long: &[f32], short: &[f32]) -> Map<String, Value> {
    let list = |factors: &[f32]| factors.iter().map(|factor| number((*factor).into())).collect::<Vec<_>>();
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), "longrope".into());
    scaling.insert("long_factor".into(), list(long).into());
    scaling.insert("short_factor".into(), list(short).into());
    scaling
}

/// Finds the parameters of Llama 3.1 that give these factors. The file has only the factors, which
/// are rounded; the parameters give the frequencies that transformers computes.
fn llama3(factors: &[f32], theta: f64) -> Option<Map<String, Value>> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let contexts = std::iter::once(LLAMA3_CONTEXT).chain((4..24).map(|bits| 1 << bits));
    let context = contexts.into_iter().find(|context| {
        let expected = llama3_factors(theta, factors.len(), factor, LLAMA3_FACTORS, f64::from(*context));
        expected
            .zip(factors)
            .all(|(expected, found)| (f64::from(*found) - expected).abs() <= LLAMA3_TOLERANCE * expected)
    })?;
    let (low, high) = LLAMA3_FACTORS;
    let scaling = json!({
        "rope_type": "llama3", "factor": number(factor), "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": context,
    });
    scaling.as_object().cloned()
}

/// Computes the factors by which Llama 3.1 slows down `pairs` rotations.
pub(super) fn llama3_factors(
    theta: f64,
    pairs: usize,
    factor: f64,
    (low, high): (f64, f64),
    original: f64,
) -> impl Iterator<Item = f64> {
    (0..pairs).map(move |i| {
        let wavelength = 2.0 * std::f64::consts::PI * libm::pow(theta, i as f64 / pairs as f64);
        let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    })
}
