//! The command line of commands that run networks.

use std::path::PathBuf;

use qruntime::{KvFormat, SampleOptions};

use super::model_parser;

/// Go on from a text.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A converted model or a checkpoint: a folder.
    #[arg(value_parser = model_parser())]
    pub model: PathBuf,
    /// The text to continue, or with --chat the message; `-` reads it from stdin, as does a pipe
    /// without --prompt.
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Have a conversation: every line is said to the model in the form of its chat template.
    /// Ctrl-C stops an answer, Ctrl-D ends the conversation. Where the context is full the oldest
    /// turns are forgotten. With --prompt there is one answer.
    #[arg(long)]
    pub chat: bool,
    /// Begin the conversation with these instructions.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Let special tokens that stand in what is said be special tokens [default: they are plain
    /// text].
    #[arg(long, requires = "chat")]
    pub special_tokens: bool,
    /// Tell the chat template of these tools: a JSON file with a list of descriptions of functions.
    #[arg(long, value_name = "FILE.json", requires = "chat")]
    pub tools: Option<PathBuf>,
    /// Hand a variable to the chat template, such as `enable_thinking=false`: JSON, or else a
    /// string; may be repeated.
    #[arg(long, value_name = "NAME=JSON", requires = "chat")]
    pub template_arg: Vec<String>,
    /// Stop after so many tokens [default: at the end of the text or of the context].
    #[arg(long, short = 'n', value_name = "N")]
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The longest sequence, prompt included [default: what the model is made for].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// How keys and values are kept: `f16`, or `q8` at half of the memory.
    #[arg(long, value_name = "FORMAT", value_parser = ["f16", "q8"], default_value = "f16")]
    pub kv: String,
    /// How the model gets into memory.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Print text and figures as JSON, when all is done.
    #[arg(long, conflicts_with = "chat")]
    pub json: bool,
}

impl RunArgs {
    /// The form of keys and values.
    pub(crate) fn kv(&self) -> KvFormat {
        if self.kv == "q8" { KvFormat::Q8 } else { KvFormat::F16 }
    }
}

/// How tokens are chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct SamplingArgs {
    /// Below 1 prefers likely tokens more, above 1 less; 0 always takes the most likely.
    #[arg(long, value_name = "X", default_value = "0.8")]
    pub temperature: f32,
    /// Choose among this many of the most likely tokens; 0 for all.
    #[arg(long, value_name = "N", default_value = "40")]
    pub top_k: usize,
    /// Choose among the most likely tokens that have this probability together; 1 for all.
    #[arg(long, value_name = "X", default_value = "0.95")]
    pub top_p: f32,
    /// Choose among tokens of at least this times the largest probability; 0 for all.
    #[arg(long, value_name = "X", default_value = "0.05")]
    pub min_p: f32,
    /// Above 1 makes tokens of the recent past less likely.
    #[arg(long, value_name = "X", default_value = "1")]
    pub repeat_penalty: f32,
    /// How many tokens are the recent past.
    #[arg(long, value_name = "N", default_value = "64")]
    pub repeat_last_n: usize,
    /// Where the random numbers begin; the same seed gives the same text on every machine [default:
    /// another one every time].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The options, with the seed that was asked for or else this one.
    pub(crate) fn options(&self, seed: u64) -> SampleOptions {
        let mut options = SampleOptions::default();
        options.temperature = self.temperature;
        options.top_k = self.top_k;
        options.top_p = self.top_p;
        options.min_p = self.min_p;
        options.repetition_penalty = self.repeat_penalty;
        options.repetition_window = self.repeat_last_n;
        options.seed = self.seed.unwrap_or(seed);
        options
    }
}

/// How the model gets into memory, and who computes.
#[derive(Clone, Debug, clap::Args)]
pub struct MachineArgs {
    /// Read the weights into huge pages, which are read faster than the small ones of a mapped
    /// file, instead of mapping them.
    #[arg(long)]
    pub huge_pages: bool,
    /// Number of threads [default: one per core]. Results do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
}

/// Make vectors of texts.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    /// A sentence encoder, converted or not: a folder.
    #[arg(value_parser = model_parser())]
    pub model: PathBuf,
    /// The texts, one in each line [default: stdin].
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Write the vectors into a .npy file, rows of 32-bit numbers, instead of printing each as
    /// JSON.
    #[arg(long, value_name = "FILE.npy")]
    pub output: Option<PathBuf>,
    /// Replace --output if it exists; never the model or --input.
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Put the model's prompt of this name before every line [default: the prompt that the model
    /// names, if any].
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    pub prompt_name: Option<String>,
    /// Put this text before every line; an empty one for no prompt.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Lines that are computed together, at most. Vectors are written when no more lines are
    /// waiting.
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// How the model gets into memory.
    #[command(flatten)]
    pub machine: MachineArgs,
}
