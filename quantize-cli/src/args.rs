//! What was typed. The doc comments are the help texts.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use kernels::{Format, Rounding};

use crate::plan::Rule;

/// Convert checkpoints to int8 and 4-bit blocked formats, and measure what it costs.
///
/// For example: quantize convert path/to/checkpoint model-q4_0 --to q4_0
///
/// Exit status: 0 done; 1 the command ran and the answer is no (verify found damage or no checksums, compare found a mismatch or went over the limit); 2 it could not run.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Convert a checkpoint: pack its matrices, keep the rest.
    Convert(ConvertArgs),
    /// List the tensors of a model: formats, shapes, bytes, bits per weight.
    Inspect(InspectArgs),
    /// Check a model's structure and checksums.
    Verify(VerifyArgs),
    /// Measure a model's error against the checkpoint it was made from, worst tensor first.
    Compare(CompareArgs),
    /// List the instruction sets this program knows, and those of this processor.
    Isa(IsaArgs),
    /// Convert the model that comes with the repository to every format, multiply, and print size, error and speed.
    Demo(DemoArgs),
}

fn format_parser() -> impl TypedValueParser<Value = Format> {
    let value = |format: &Format| {
        let help = format!("{} bits per weight", format.bits_per_weight());
        PossibleValue::new(format.name()).help(help)
    };
    PossibleValuesParser::new(Format::ALL.iter().map(value)).try_map(|name| name.parse::<Format>())
}

fn rounding_parser() -> impl TypedValueParser<Value = Rounding> {
    PossibleValuesParser::new(Rounding::ALL.iter().map(|rounding| rounding.name())).map(|name| {
        let found = Rounding::ALL.iter().find(|rounding| rounding.name() == name);
        *found.expect("clap accepts the names of the table only")
    })
}

/// Convert a checkpoint.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// A safetensors file, or a Hugging Face folder with one file or with shards and their index.
    pub source: PathBuf,
    /// The folder to write; a name that ends in .safetensors means a single file.
    pub out: PathBuf,
    /// The format of the packed matrices.
    #[arg(long, value_parser = format_parser(), value_name = "FORMAT")]
    pub to: Format,
    /// Another format, or `keep`, for the tensors whose names match GLOB (`*.down_proj.*=q8_0`); the last rule that matches decides.
    ///
    /// Rules come before the built-in choices: token embeddings and output heads are packed as q8_0 when the rest has fewer bits;
    /// norms, biases, routers and position embeddings are kept.
    #[arg(long = "rule", value_name = "GLOB=FORMAT")]
    pub rules: Vec<Rule>,
    /// How codes and scales are chosen: `search` for the least squared error, `nearest` as GGUF's reference quantizer does.
    #[arg(long, value_parser = rounding_parser(), default_value = Rounding::default().name())]
    pub rounding: Rounding,
    /// Print what would be done, with sizes, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace the output if it exists and is a model that this program wrote.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print no progress and no table, only the last line.
    #[arg(long, short)]
    pub quiet: bool,
    /// Number of threads [default: one per core]. The output does not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
}

/// List the tensors of a model.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A converted model or any safetensors checkpoint: file or folder.
    pub model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Check a model.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A converted model: file or folder.
    pub model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measure a model's error.
///
/// Exit status 1 if a tensor is missing, new, of another shape, kept but changed, or packed with an error that is not finite, or above --max-error.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The checkpoint the model was made from.
    pub source: PathBuf,
    /// The converted model.
    pub model: PathBuf,
    /// Fail (exit status 1) if a packed tensor's relative RMS error is above this fraction: 0.01 is 1 %.
    #[arg(long, value_name = "X")]
    pub max_error: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// List instruction sets.
#[derive(Debug, clap::Args)]
pub struct IsaArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Show what the program does.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The checkpoint to convert.
    #[arg(default_value = "models/storyteller-6m")]
    pub model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
