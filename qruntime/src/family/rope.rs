//! Reads rotary embeddings from `rope_parameters`, or from `rope_theta` and `rope_scaling` in older
//! files. Frequencies are computed as in transformers, in `f64` and rounded once.

use std::ops::RangeInclusive;

use crate::config::{Config, SIZES};
use crate::error::Error;
use crate::nn::rope::{RopeSpec, Scaling};

/// The supported kinds. "dynamic" is missing because its rotations depend on the current length of
/// a sequence, so keys would have to be rotated again.
const KINDS: &[(&str, Kind)] = &[
    ("default", Kind::Default),
    ("linear", Kind::Linear),
    ("llama3", Kind::Llama3),
    ("yarn", Kind::Yarn),
    ("longrope", Kind::LongRope),
    ("su", Kind::LongRope),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Default,
    Linear,
    Llama3,
    Yarn,
    LongRope,
}

/// The permitted factors and ratios.
const FACTORS: RangeInclusive<f64> = 1e-6..=1e6;

/// The permitted bases of frequencies.
pub(super) const THETAS: RangeInclusive<f64> = 1.0..=1e15;

/// The part of a head that is rotated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The whole head: `partial_rotary_factor` has no meaning for the family.
    Whole,
    /// The part that `partial_rotary_factor` gives.
    AsConfigured,
}

/// Reads the rotary embedding of heads of `head_dim` elements, for sequences of up to `context`
/// tokens.
pub(super) fn read(config: &Config, head_dim: usize, context: usize, part: Part) -> Result<RopeSpec, Error> {
    // If both exist, transformers uses only `rope_scaling`: model cards tell people to add it.
    let section = match config.section_if("rope_scaling")?.filter(|section| !section.is_empty()) {
        Some(section) => Some(section),
        None => config.section_if("rope_parameters")?,
    };
    if let Some(section) = &section
        && let Some(kind) = ["full_attention", "sliding_attention"].into_iter().find(|kind| section.has(kind))
    {
        return Err(section.refuse(kind, "an object", "no rotations by kind of layer in this family"));
    }
    scaled(config, section, head_dim, context, part, None)
}

/// Reads the rotary embedding of one kind of layer, for families where each kind has its own within
/// `rope_parameters`. `theta` is the default base; `rope_scaling` applies if `scaling` is true.
pub(super) fn read_for(
    config: &Config,
    layers: &str,
    head_dim: usize,
    context: usize,
    theta: f64,
    scaling: bool,
) -> Result<RopeSpec, Error> {
    let within = config.section_if("rope_parameters")?.map(|all| all.section_if(layers)).transpose()?.flatten();
    let over = if scaling { config.section_if("rope_scaling")? } else { None };
    let section = match (within, over) {
        (Some(within), Some(over)) => Some(within.overlaid(&over)),
        (within, over) => within.or(over),
    };
    scaled(config, section, head_dim, context, Part::Whole, Some(theta))
}

/// Reads the kind and its numbers from `section`, and numbers of the whole network from `config`.
fn scaled(
    config: &Config,
    section: Option<Config>,
    head_dim: usize,
    context: usize,
    part: Part,
    theta: Option<f64>,
) -> Result<RopeSpec, Error> {
    let in_section = |field: &str, range: RangeInclusive<f64>| match &section {
        Some(section) => section.number_if(field, range),
        None => Ok(None),
    };
    // The caller's value takes precedence over `config`, which then describes other layers.
    let theta = match (in_section("rope_theta", THETAS)?, theta) {
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) => config.number_if("rope_theta", THETAS)?.unwrap_or(10_000.0),
    };
    let kind = match &section {
        Some(section) => match section.one_of("rope_type", KINDS)? {
            Some(kind) => kind,
            None => section.one_of("type", KINDS)?.unwrap_or(Kind::Default),
        },
        None => Kind::Default,
    };
    let partial = match in_section("partial_rotary_factor", 0.0..=1.0)? {
        Some(partial) => partial,
        None => config.number_if("partial_rotary_factor", 0.0..=1.0)?.unwrap_or(1.0),
    };
    let partial = match (part, kind) {
        (Part::AsConfigured, _) => partial,
        (Part::Whole, Kind::Default) => 1.0,
        (Part::Whole, _) if partial == 1.0 => 1.0,
        // Frequencies for a part, but the whole head is rotated: transformers fails here.
        (Part::Whole, _) => {
            return Err(config.refuse(
                "partial_rotary_factor",
                partial,
                "1 in this family, whose heads are rotated whole",
            ));
        }
    };
    let dim = (head_dim as f64 * partial) as usize;
    if dim < 2 || dim % 2 == 1 {
        return Err(config.refuse("partial_rotary_factor", partial, format!("an even part of {head_dim}, head_dim")));
    }
    let exponents = (0..dim / 2).map(|i| (2 * i) as f64 / dim as f64);
    let base: Vec<f64> = exponents.map(|exponent| libm::pow(theta, exponent)).collect();
    let plain = |period: &f64| (1.0 / period) as f32;
    let frequencies = base.iter().map(plain).collect();
    let default = RopeSpec {
        frequencies,
        long: None,
        original: context,
        scale: 1.0,
        reach: context,
        theta,
        scaling: Scaling::None,
    };
    let Some(section) = section else { return Ok(default) };
    let factor = || section.number("factor", FACTORS);
    let original = || original(config, &section);
    let (frequencies, scaling) = match kind {
        Kind::Default => return Ok(default),
        Kind::Linear => {
            let factor = factor()?;
            (base.iter().map(|period| (1.0 / (factor * period)) as f32).collect(), Scaling::Linear(factor))
        }
        Kind::Llama3 => {
            let low = section.number("low_freq_factor", FACTORS)?;
            let high = section.number("high_freq_factor", FACTORS)?;
            if high <= low {
                return Err(section.refuse("high_freq_factor", high, format!("more than {low}, low_freq_factor")));
            }
            let original = original()?.unwrap_or(context);
            let frequencies = llama3(&base, factor()?, low, high, original as f64);
            let factors = base.iter().zip(&frequencies).map(|(period, frequency)| 1.0 / (period * frequency));
            (frequencies.iter().map(|frequency| *frequency as f32).collect(), Scaling::Single(factors.collect()))
        }
        Kind::Yarn => {
            let first = original()?;
            let original = first.unwrap_or(context);
            let factor = match section.has("factor") {
                true => factor()?,
                false => context as f64 / original as f64,
            };
            // Files to which this was added later still have the original context.
            let longest = first.map_or(context, |first| (first as f64 * factor) as usize);
            let reach = longest.clamp(context, *SIZES.end());
            return yarn(&section, RopeSpec { reach, original, ..default }, &base, factor);
        }
        Kind::LongRope => {
            let original = original()?;
            let factor = match (section.has("factor"), original) {
                (true, _) => factor()?,
                (false, Some(original)) => context as f64 / original as f64,
                (false, None) => 1.0,
            };
            return longrope(&section, default, &base, original.unwrap_or(context), factor);
        }
    };
    Ok(RopeSpec { frequencies, scaling, ..default })
}

/// Returns the context of the original training, which is in one place or the other.
fn original(config: &Config, section: &Config) -> Result<Option<usize>, Error> {
    const FIELD: &str = "original_max_position_embeddings";
    match config.size_if(FIELD, SIZES)? {
        Some(original) => Ok(Some(original)),
        None => section.size_if(FIELD, SIZES),
    }
}

/// Computes Llama 3.1's frequencies: slow rotations are slowed down further, fast ones are not, and
/// those between are interpolated.
fn llama3(base: &[f64], factor: f64, low: f64, high: f64, original: f64) -> Vec<f64> {
    let scaled = |period: &f64| {
        let wavelength = 2.0 * std::f64::consts::PI * period;
        let frequency = 1.0 / period;
        let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    };
    base.iter().map(scaled).collect()
}

/// Computes YaRN (Peng et al., 2023).
fn yarn(section: &Config, default: RopeSpec, base: &[f64], factor: f64) -> Result<RopeSpec, Error> {
    let (theta, original) = (default.theta, default.original as f64);
    let number = |field: &str, otherwise: f64| Ok::<_, Error>(section.number_if(field, FACTORS)?.unwrap_or(otherwise));
    let (fast, slow) = (number("beta_fast", 32.0)?, number("beta_slow", 1.0)?);
    let magnitude = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * libm::log(factor) + 1.0 };
    let scale = match section.number_if("attention_factor", FACTORS)? {
        Some(scale) => scale,
        None => match (section.number_if("mscale", 0.0..=1e6)?, section.number_if("mscale_all_dim", 0.0..=1e6)?) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
            _ => magnitude(1.0),
        },
    };
    let dim = (2 * base.len()) as f64;
    // The pair that makes this many turns over the original context.
    let pair = |turns: f64| {
        dim * libm::log(original / (turns * 2.0 * std::f64::consts::PI)) / (2.0 * libm::log(theta).max(1e-9))
    };
    let (mut low, mut high) = (pair(fast), pair(slow));
    let truncate = section.flag_if("truncate")?.unwrap_or(true);
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let scaled = |(i, period): (usize, &f64)| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (ramp / (factor * period) + (1.0 - ramp) / period) as f32
    };
    let frequencies = base.iter().enumerate().map(scaled).collect();
    let scaling = Scaling::Yarn { factor, fast, slow, truncate };
    Ok(RopeSpec { frequencies, scale: scale as f32, scaling, ..default })
}

/// Computes LongRoPE (Ding et al., 2024): one factor for each pair, and different factors for
/// sequences longer than those of the original training.
fn longrope(
    section: &Config,
    default: RopeSpec,
    base: &[f64],
    original: usize,
    factor: f64,
) -> Result<RopeSpec, Error> {
    let factors = |field: &str| section.numbers(field, base.len(), FACTORS);
    let (short, long) = (factors("short_factor")?, factors("long_factor")?);
    let frequencies = |factors: &[f64]| -> Vec<f32> {
        factors.iter().zip(base).map(|(factor, period)| (1.0 / (factor * period)) as f32).collect()
    };
    let scale = match section.number_if("attention_factor", FACTORS)? {
        Some(scale) => scale,
        None if factor <= 1.0 || original < 2 => 1.0,
        None => (1.0 + libm::log(factor) / libm::log(original as f64)).sqrt(),
    };
    Ok(RopeSpec {
        frequencies: frequencies(&short),
        long: Some(frequencies(&long)),
        original: original.min(default.original),
        scale: scale as f32,
        scaling: Scaling::LongRope { short, long },
        ..default
    })
}
