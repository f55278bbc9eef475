//! The metadata of a GGUF file, from the files of a Hugging Face folder.

use kernels::Activation;
use serde_json::Value as Json;

use super::generation::SAMPLING;
use super::{card, sentence, windows};
use crate::config::{Config, SIZES};
use crate::error::Error;
use crate::family;
use crate::gguf::architecture::{self, Architecture, Family, Windows};
use crate::gguf::rows::{self, Kind, Missing, Row};
use crate::gguf::tensors::{FREQUENCIES, LONG_FACTORS, SHORT_FACTORS};
use crate::gguf::{Array, Value};
use crate::nn::rope::{RopeSpec, Scaling};
use crate::nn::spec::{DecoderSpec, EncoderSpec, Mask, MlpSpec};

/// Reads a file of a folder by its name; `None` if it does not exist.
pub type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, Error> + 'a;

/// What a folder does not say about the file that is made of it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct About {
    /// The name of the model, if its card has none: usually that of its folder.
    pub name: String,
    /// The number of elements of all tensors.
    pub parameters: u64,
    /// How many of these belong to experts.
    pub expert_parameters: u64,
    /// llama.cpp's number of the type that most tensors have (`LlamaFileType` in PyPI's `gguf`).
    pub file_type: Option<u32>,
}

/// What a GGUF file says about a network: its metadata without those of the tokenizer, and tensors
/// that checkpoints do not have.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// Keys and values. Those of type `Unsigned` are written as 32 bits, as are floats.
    pub values: Vec<(String, Value)>,
    /// Names and elements of vectors in single precision: factors of rotations.
    pub tensors: Vec<(&'static str, Vec<f32>)>,
}

/// Returns the metadata of the network in a folder, of which `read` reads the files. `config.json`
/// must exist.
///
/// # Errors
/// If a file cannot be read; if GGUF cannot say what it says.
pub fn metadata_of(read: &ReadFile<'_>, about: &About) -> Result<Description, Error> {
    let config = Config::from_bytes(&read("config.json")?.unwrap_or_default())?;
    let writer = match family::find(&config)? {
        family::Found::Decoder(name) => {
            let (_, _, spec) = family::decoder(&config)?;
            let mut writer = Writer::new(name, config)?;
            // The language model of one that also takes images.
            if let Some(part) = writer.config.section_if("text_config")? {
                writer.config = part;
            }
            let usual = writer.architecture.families[0];
            match architecture::family(name).or_else(|| architecture::family(usual)) {
                Some(family) => writer.decoder(family, &spec)?,
                None => return Err(family::unknown(&writer.config, "model_type", name)),
            }
        }
        family::Found::Encoder(name) => {
            let (_, _, spec) = family::encoder(&config)?;
            let pooling = sentence::write(read)?;
            Writer::new(name, config)?.encoder(&spec, pooling)?
        }
        family::Found::Unknown(field, name) => return Err(family::unknown(&config, field, &name)),
    };
    let mut values = vec![("general.architecture".into(), Value::Text(writer.architecture.name.into()))];
    values.push(("general.type".into(), Value::Text("model".into())));
    values.extend(sampling(read)?);
    values.extend(card::values(read("README.md")?.as_deref(), about, writer.experts));
    values.extend(writer.description.values);
    if let Some(number) = about.file_type {
        values.push(("general.file_type".into(), Value::Unsigned(number.into())));
    }
    values.push(("general.quantization_version".into(), Value::Unsigned(2)));
    Ok(Description { values, tensors: writer.description.tensors })
}

/// Returns how to sample, as `generation_config.json` says.
fn sampling(read: &ReadFile<'_>) -> Result<Vec<(String, Value)>, Error> {
    let Some(text) = read("generation_config.json")? else { return Ok(vec![]) };
    let fields: Json = crate::json::parse(&text).unwrap_or_default();
    let found = SAMPLING.iter().filter_map(|(field, key)| {
        let value = match *field {
            "top_k" => Value::Signed(fields.get(field)?.as_i64()?),
            _ => Value::Float(fields.get(field)?.as_f64()?),
        };
        Some(((*key).to_owned(), value))
    });
    Ok(found.collect())
}

struct Writer {
    architecture: &'static Architecture,
    config: Config,
    description: Description,
    /// The number of experts; 0 if there are none.
    experts: usize,
}

impl Writer {
    fn new(family: &str, config: Config) -> Result<Self, Error> {
        let Some(architecture) = architecture::of_family(family) else {
            return Err(config.refuse("model_type", format!("{family:?}"), "a family that GGUF has"));
        };
        let description = Description { values: vec![], tensors: vec![] };
        Ok(Self { architecture, config, description, experts: 0 })
    }

    fn add(&mut self, suffix: &str, value: Value) {
        self.description.values.push((format!("{}.{suffix}", self.architecture.name), value));
    }

    fn size(&mut self, suffix: &str, size: usize) {
        self.add(suffix, Value::Unsigned(size as u64));
    }

    /// Writes what a table says.
    fn table<Spec>(&mut self, rows: &[Row<Spec>], spec: &Spec) -> Result<(), Error> {
        for Row { field, key, kind, missing, of } in rows {
            let found = match (of(spec), kind) {
                (Some(found), _) => Some(found),
                (None, Kind::Size(range)) => self.config.size_if(field, range.clone())?.map(|size| size as f64),
                (None, Kind::Number(range)) => self.config.number_if(field, range.clone())?,
            };
            match (found, missing, kind) {
                (Some(found), _, Kind::Size(_)) => self.size(key, found as usize),
                (Some(found), _, Kind::Number(_)) => self.add(key, Value::Float(found)),
                (None, Missing::None, _) => {}
                (None, ..) => return Err(self.config.refuse(field, "missing", "a number: GGUF always has one")),
            }
        }
        Ok(())
    }

    fn decoder(mut self, family: &Family, spec: &DecoderSpec) -> Result<Self, Error> {
        self.refuse(family, spec)?;
        for rows in family.rows {
            self.table(rows, spec)?;
        }
        let attention = &spec.layers[0].attention;
        self.size("vocab_size", spec.vocabulary);
        self.size("attention.key_length", attention.head_dim);
        self.size("attention.value_length", attention.head_dim);
        self.experts = match spec.layers[0].mlp {
            MlpSpec::Mixture(mixture) => mixture.experts,
            MlpSpec::Dense(_) => 0,
        };
        self.rope(family, &spec.ropes[0])?;
        if let Some(local) = spec.ropes.get(1) {
            if !matches!(local.scaling, Scaling::None) {
                return Err(self.config.refuse(
                    "rope_parameters",
                    "scaled for layers with a window",
                    "no scaling there",
                ));
            }
            self.add("rope.freq_base_swa", Value::Float(local.theta));
        }
        self.windows(family.windows, spec);
        Ok(self)
    }

    /// Refuses what programs take for granted, so that GGUF has no key for it.
    fn refuse(&self, family: &Family, spec: &DecoderSpec) -> Result<(), Error> {
        let config = &self.config;
        let activation = if family.gelu { Activation::GeluTanh } else { Activation::Silu };
        for layer in &spec.layers {
            let (found, normalized) = match layer.mlp {
                MlpSpec::Dense(dense) => (dense.activation, true),
                MlpSpec::Mixture(mixture) => {
                    let usual = family.normalized.unwrap_or(true);
                    (mixture.activation, mixture.normalized == usual)
                }
            };
            if found != activation {
                let field = if family.gelu { "hidden_activation" } else { "hidden_act" };
                return Err(config.refuse(
                    field,
                    format!("{found:?}"),
                    format!("{activation:?}, as GGUF's programs take it"),
                ));
            }
            if !normalized {
                let usual = family.normalized.unwrap_or(true);
                return Err(config.refuse("norm_topk_prob", !usual, format!("{usual}, as GGUF's programs take it")));
            }
            if matches!(layer.mlp, MlpSpec::Mixture(_)) != matches!(spec.layers[0].mlp, MlpSpec::Mixture(_)) {
                return Err(config.refuse(
                    "mlp_only_layers",
                    "layers without experts among others",
                    "experts in all layers",
                ));
            }
        }
        if family.scalar {
            let attention = &spec.layers[0].attention;
            let usual = super::scalar_of_scores(spec.layers.len(), spec.hidden, attention.heads, attention.head_dim);
            if attention.scale != (1.0 / (usual as f64).sqrt()) as f32 {
                let found = config.number("query_pre_attn_scalar", 1e-3..=1e6)?;
                return Err(config.refuse(
                    "query_pre_attn_scalar",
                    found,
                    format!("{usual}, as GGUF's programs take it"),
                ));
            }
        }
        Ok(())
    }

    /// Writes a rotary embedding.
    fn rope(&mut self, family: &Family, rope: &RopeSpec) -> Result<(), Error> {
        self.size("rope.dimension_count", 2 * rope.frequencies.len());
        self.add("rope.freq_base", Value::Float(rope.theta));
        let kind = |writer: &mut Self, kind: &str| writer.add("rope.scaling.type", Value::Text(kind.into()));
        let single = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect();
        match &rope.scaling {
            Scaling::None => {}
            Scaling::Linear(factor) => {
                kind(self, "linear");
                self.add("rope.scaling.factor", Value::Float(*factor));
            }
            Scaling::Single(factors) => self.description.tensors.push((FREQUENCIES[0], single(factors))),
            Scaling::Yarn { factor, fast, slow, truncate } => {
                if !truncate {
                    return Err(self.config.refuse("rope_scaling.truncate", false, "true, as GGUF's programs take it"));
                }
                kind(self, "yarn");
                self.add("rope.scaling.factor", Value::Float(*factor));
                self.size("rope.scaling.original_context_length", rope.original);
                self.add("rope.scaling.yarn_beta_fast", Value::Float(*fast));
                self.add("rope.scaling.yarn_beta_slow", Value::Float(*slow));
                let usual = if *factor <= 1.0 { 1.0 } else { 0.1 * libm::log(*factor) + 1.0 };
                if rope.scale != usual as f32 {
                    // The first is what llama.cpp multiplies its own factor by, the second is the
                    // whole factor.
                    self.add("rope.scaling.attn_factor", Value::Float(f64::from(rope.scale) / usual));
                    self.add("rope.scaling.yarn_attn_factor", Value::Float(rope.scale.into()));
                }
            }
            Scaling::LongRope { short, long } => {
                kind(self, "longrope");
                self.size("rope.scaling.original_context_length", rope.original);
                self.add("rope.scaling.attn_factor", Value::Float(rope.scale.into()));
                self.description.tensors.push((LONG_FACTORS, single(long)));
                self.description.tensors.push((SHORT_FACTORS, single(short)));
            }
        }
        if family.partial && matches!(rope.scaling, Scaling::None) {
            let original = self.config.size_if("original_max_position_embeddings", SIZES)?;
            self.size("rope.scaling.original_context_length", original.unwrap_or(4096));
        }
        Ok(())
    }

    /// Writes which layers see which window.
    fn windows(&mut self, kind: Windows, spec: &DecoderSpec) {
        let windows = spec.layers.iter().map(|layer| match layer.attention.mask {
            Mask::Window(window) => Some(window),
            Mask::Causal | Mask::Full => None,
        });
        let windows: Vec<Option<usize>> = windows.collect();
        let pattern: Vec<bool> = windows.iter().map(Option::is_some).collect();
        let window = windows.iter().find_map(|window| *window);
        let usual = match (kind, windows::usual_period(kind)) {
            (_, Some(period)) => (0..pattern.len()).map(|i| !(i + 1).is_multiple_of(period)).collect(),
            // Programs that do not read windows write no pattern.
            (Windows::Switched | Windows::AllSwitched, _) => vec![],
            _ => vec![true; pattern.len()],
        };
        match (window, kind) {
            (Some(window), _) => self.size("attention.sliding_window", window),
            // Without the key, there would be a window.
            (None, Windows::Period { default: Some(_), .. }) => {}
            // Some programs tell Phi-4 by it.
            (None, Windows::All) if self.architecture.fused => return self.size("attention.sliding_window", 0),
            (None, _) => return,
        }
        if pattern != usual {
            self.add("attention.sliding_window_pattern", Value::Array(Array::Bools(pattern)));
        }
    }

    fn encoder(mut self, spec: &EncoderSpec, pooling: usize) -> Result<Self, Error> {
        self.table(rows::BERT, spec)?;
        if spec.mlp.activation != Activation::Gelu {
            let found = format!("{:?}", spec.mlp.activation);
            return Err(self.config.refuse("hidden_act", found, "Gelu, as GGUF's programs take it"));
        }
        self.add("attention.causal", Value::Bool(spec.attention.mask == Mask::Causal));
        self.size("pooling_type", pooling);
        self.description.values.push(("tokenizer.ggml.token_type_count".into(), Value::Unsigned(spec.kinds as u64)));
        Ok(self)
    }
}
