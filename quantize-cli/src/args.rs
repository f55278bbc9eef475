//! The command line. The doc comments are the help texts.

mod network;

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgGroup, Parser, Subcommand};
use kernels::{Format, Isa};

pub use network::{EmbedArgs, MachineArgs, RunArgs, SamplingArgs};

use crate::bench::Size;
use crate::plan::mix::MIXES;
use crate::plan::{Rule, Target, format_named, format_or_mix_named};
use crate::round::{self, ROUNDERS, Rounder, rounder};

/// Convert checkpoints to blocked formats of 4 to 8 bits, and measure what it costs.
///
/// For example: quantize convert path/to/checkpoint model-q4_k --to q4_k
///
/// Wherever a model is expected, a path may be given, or the id of a model that `hf download` has
/// fetched: org/name, org/name@revision or org/name/file. Nothing is downloaded.
///
/// Exit status: 0 done; 1 the command ran and the answer is no (verify found damage or no
/// checksums, compare found a mismatch or went over the limit, eval went over a limit, convert met
/// a gate); 2 it could not run (verify: one of the models could not be read).
#[derive(Debug, Parser)]
#[command(name = "quantize", version = crate::version::VERSION, max_term_width = 110)]
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
    /// Say what a model is: format, architecture, scheme, tokenizer, size, uses.
    Inspect(InspectArgs),
    /// Check the structure and the checksums of models.
    Verify(VerifyArgs),
    /// Measure a model's error against the checkpoint it was made from, worst tensor first.
    Compare(CompareArgs),
    /// Measure a model's answers beside the original's: perplexity, KL divergence, cosines.
    ///
    /// Language models predict a text token by token; every prediction is compared with the
    /// original's. Both go through the text side by side, and no logits are stored. Sentence
    /// encoders embed the lines of the text, and the vectors are compared. The noise floor takes a
    /// copy of the reference in bfloat16 in the folder for temporary files (TMPDIR in the
    /// environment names another one).
    Eval(EvalArgs),
    /// Generate text with a language model, or chat with it.
    ///
    /// The text goes to stdout as it comes, speeds and the seed to stderr. For example: quantize
    /// run models/storyteller-6m --prompt "Once upon a time" --seed 1
    Run(RunArgs),
    /// Make vectors of texts with a sentence encoder: lines in, vectors out, as lines of JSON or as
    /// a .npy file.
    Embed(EmbedArgs),
    /// Convert a language model to several formats, measure all of them, and write a page about it.
    ///
    /// One HTML file that needs nothing else: size, speed and accuracy, in pictures and in a table.
    /// The models are kept in the folder for temporary files (TMPDIR in the environment names
    /// another one) until the page is done.
    Report(ReportArgs),
    /// List the instruction sets this program knows, and those of this processor.
    Isa(IsaArgs),
    /// Convert the model that comes with the repository to six formats, run all of them, and print
    /// size, speed, accuracy and sentences.
    Demo(DemoArgs),
    /// Measure this machine: what it can do, how near each format comes to it, and at what error.
    ///
    /// First the limits: how fast memory is read, how fast numbers are multiplied in registers.
    /// Then products of every format, with 1 thread and with all, beside those limits and beside
    /// f32. Contestants take turns and medians count, so that other work on the machine falls on
    /// all of them; weights come from memory, not from the last-level cache. Takes a minute, and
    /// some twelve times as much memory as that cache has.
    Bench(BenchArgs),
    /// Print a script with which a shell completes commands and options.
    ///
    /// For example, for bash: quantize completions bash >
    /// ~/.local/share/bash-completion/completions/quantize
    Completions(CompletionsArgs),
    /// Print this program's manual page, or write the pages of all commands into a folder.
    ///
    /// For example: quantize man ~/.local/share/man/man1
    Man(ManArgs),
}

/// Reads a format's name in any case; names of other programs are explained.
#[derive(Clone)]
struct FormatParser<T> {
    parse: fn(&str) -> Result<T, String>,
    takes_mixes: bool,
}

const FORMAT: FormatParser<Format> = FormatParser { parse: format_named, takes_mixes: false };
const FORMAT_OR_MIX: FormatParser<Target> = FormatParser { parse: format_or_mix_named, takes_mixes: true };

impl<T: Clone + Send + Sync + 'static> TypedValueParser for FormatParser<T> {
    type Value = T;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<T, clap::Error> {
        (self.parse)(&value.to_string_lossy()).map_err(|problem| {
            let arg = arg.map_or_else(|| "a format".into(), ToString::to_string);
            clap::Error::raw(ErrorKind::InvalidValue, format!("{problem}, for '{arg}'\n")).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let formats = Format::ALL.iter().map(|format| {
            let help = format!("{} bits per weight, blocks of {}", format.bits_per_weight(), format.block_len());
            PossibleValue::new(format.name()).help(help)
        });
        let mixes = MIXES.iter().filter(|_| self.takes_mixes);
        let mixes = mixes.map(|mix| PossibleValue::new(mix.name()).help("llama.cpp's mix of formats"));
        Some(Box::new(formats.chain(mixes)))
    }
}

/// Reads the path of a model, or the id of one in Hugging Face's local cache.
fn model_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|model| qruntime::hub::locate(&model))
}

fn rounding_parser() -> impl TypedValueParser<Value = &'static dyn Rounder> {
    PossibleValuesParser::new(ROUNDERS.iter().map(|rounder| rounder.name()))
        .map(|name| rounder(&name).expect("clap accepts the names of the table only"))
}

/// Convert a checkpoint.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("protocol of a gate").args(["ctx", "score", "documents", "windows"]).multiple(true).requires("eval_text"))]
pub struct ConvertArgs {
    /// A safetensors file, a Hugging Face folder with one file or with shards and their index, or a
    /// GGUF file.
    #[arg(value_parser = model_parser())]
    pub source: PathBuf,
    /// The folder to write; a name that ends in .safetensors means a single file.
    pub out: PathBuf,
    /// The format of the packed matrices, or the name of a mix of formats [default: q4_k, or what a
    /// GGUF file has].
    ///
    /// Without it the blocks of a GGUF file stay as they are, bit for bit, as do its plain tensors;
    /// formats that are only read (iq2_xs, tq1_0, nvfp4, ...) become the smallest format that adds
    /// less than 3 % error. With it, a file that is quantized already is quantized once more.
    ///
    /// Mixes give each matrix the format that llama.cpp's mix of this name does, embeddings and
    /// heads included.
    ///
    /// Formats with blocks of 256 columns fill up rows to whole blocks. Where that would make a
    /// matrix larger than the next better format with blocks of 32, that one is taken: q4_1 for
    /// q4_k, iq4_nl for iq4_xs, q3_k and q2_k, q8_0 for q5_k and q6_k. A rule says otherwise.
    #[arg(long, visible_alias = "format", value_parser = FORMAT_OR_MIX, value_name = "FORMAT")]
    pub to: Option<Target>,
    /// Another format, or `keep`, for the tensors whose names match GLOB (`*.down_proj.*=q8_0`);
    /// the last rule that matches decides.
    ///
    /// Rules come before the built-in choices: token embeddings and output heads are packed as q8_0
    /// when the rest has fewer bits; norms, biases, routers and position embeddings are kept. A
    /// rule for many tensors packs those that are matrices, and keeps the norms among them; a rule
    /// that matches nothing is worth a warning.
    #[arg(long = "rule", value_name = "GLOB=FORMAT")]
    pub rules: Vec<Rule>,
    /// How codes and scales are chosen: `search` for the least squared error; `nearest`, faster,
    /// from the largest weights alone.
    #[arg(long, value_parser = rounding_parser(), default_value = round::DEFAULT.name())]
    pub rounding: &'static dyn Rounder,
    /// Measure the model on this text before it takes its place, beside the source, and write the
    /// figures into it: see `quantize eval`. `-` reads it from stdin.
    #[arg(long, value_name = "FILE", help_heading = "Gate", conflicts_with = "dry_run")]
    pub eval_text: Option<PathBuf>,
    /// Leave no model (exit status 1) whose mean KL divergence from the source is above this, in
    /// nats per token.
    #[arg(long, value_name = "X", help_heading = "Gate", requires = "eval_text")]
    pub max_kld: Option<f64>,
    /// Leave no model (exit status 1) whose perplexity over the source's is above this.
    #[arg(long, value_name = "X", help_heading = "Gate", requires = "eval_text")]
    pub max_ppl_ratio: Option<f64>,
    /// Leave no sentence encoder (exit status 1) whose vectors have a mean cosine to the source's
    /// below this; the text's lines are the sentences.
    #[arg(long, value_name = "X", help_heading = "Gate", requires = "eval_text")]
    pub min_cosine: Option<f64>,
    /// How the text is cut.
    #[command(flatten, next_help_heading = "Gate")]
    pub protocol: ProtocolArgs,
    /// Print what would be done, with sizes, and write nothing.
    #[arg(long, help_heading = "Options")]
    pub dry_run: bool,
    /// Replace the output if it exists and is a model that this program wrote.
    #[arg(long, help_heading = "Options")]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long, help_heading = "Options")]
    pub json: bool,
    /// Print no progress and no table, only the last line, and which limit was exceeded.
    #[arg(long, short, help_heading = "Options")]
    pub quiet: bool,
    /// Number of threads [default: one per core]. The output does not depend on it.
    #[arg(long, value_name = "N", help_heading = "Options", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
}

/// Say what a model is: format, architecture, scheme, tokenizer, size, uses.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A converted model, any safetensors checkpoint (file or folder), or a GGUF file.
    #[arg(value_parser = model_parser())]
    pub model: PathBuf,
    /// List the tensors: formats, shapes, bytes, bits per weight.
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Check models.
///
/// Exit status 1 if one is damaged, has no checksums or holds NaN or infinities; 2 if one cannot be
/// read, whatever the others are. All of them are checked.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Converted models: files or folders.
    #[arg(value_parser = model_parser(), required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// Print JSON: of one model its report, of several an object with all of them.
    #[arg(long)]
    pub json: bool,
}

/// Measure a model's error.
///
/// Exit status 1 if a tensor is missing, new, of another shape, kept but changed or not finite, or
/// packed with an error that is not finite, or above --max-error.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The checkpoint the model was made from.
    #[arg(value_parser = model_parser())]
    pub source: PathBuf,
    /// The converted model.
    #[arg(value_parser = model_parser())]
    pub model: PathBuf,
    /// Fail (exit status 1) if a packed tensor's relative RMS error is above this fraction: 0.01 is
    /// 1 %.
    #[arg(long, value_name = "X")]
    pub max_error: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measure a model's answers.
///
/// Exit status 1 if a limit is exceeded, or if the model or the reference computes NaN or infinity.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("against").args(["reference", "reference_logits"]).multiple(true))]
pub struct EvalArgs {
    /// The converted model: a folder, or a safetensors file beside its config.json.
    #[arg(value_parser = model_parser())]
    pub model: PathBuf,
    /// The checkpoint that it was made from, or any other model of the same vocabulary. Without
    /// one, a language model's perplexity is measured alone.
    #[arg(value_parser = model_parser(), long, value_name = "SOURCE")]
    pub reference: Option<PathBuf>,
    /// What the reference said, as --save-logits wrote it or llama-perplexity --kl-divergence-base;
    /// the file has the text, too.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "text", "documents", "score", "ctx", "windows"])]
    pub reference_logits: Option<PathBuf>,
    /// The text, `-` for stdin; for an encoder, one sentence in each line.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["reference_logits", "sts"])]
    pub text: Option<PathBuf>,
    /// How the text is cut.
    #[command(flatten)]
    pub protocol: ProtocolArgs,
    /// Write what the reference says into FILE: 16 bits for every token of the vocabulary and every
    /// prediction.
    ///
    /// A name that ends in .safetensors means the sharper of two forms, any other one that
    /// llama-perplexity --kl-divergence reads.
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub save_logits: Option<PathBuf>,
    /// Replace --save-logits if it exists; never the models or the text.
    #[arg(long, requires = "save_logits")]
    pub force: bool,
    /// For encoders: pairs of sentences with scores, as the STS benchmark has them; columns 5, 6
    /// and 7 between tabs.
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub sts: Option<PathBuf>,
    /// Do not measure the noise floor: what rounding the reference's weights to bfloat16 does.
    #[arg(long)]
    pub no_noise_floor: bool,
    /// Fail (exit status 1) if the mean KL divergence is above this, in nats per token.
    #[arg(long, value_name = "X", requires = "against")]
    pub max_kld: Option<f64>,
    /// Fail (exit status 1) if the model's perplexity over the reference's is above this.
    #[arg(long, value_name = "X", requires = "against")]
    pub max_ppl_ratio: Option<f64>,
    /// Fail (exit status 1) if the model's perplexity is above this.
    #[arg(long, value_name = "X")]
    pub max_ppl: Option<f64>,
    /// Fail (exit status 1) if the mean cosine between an encoder's vectors and the reference's is
    /// below this.
    #[arg(long, value_name = "X", requires = "against")]
    pub min_cosine: Option<f64>,
    /// Number of threads [default: one per core]. No figure but the speed depends on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a text is cut.
#[derive(Clone, Debug, clap::Args)]
pub struct ProtocolArgs {
    /// Tokens in a window; windows do not overlap [default: 512, or the model's context if that is
    /// shorter].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=1 << 20))]
    pub ctx: Option<u32>,
    /// What is counted of a window: its second `half`, as llama-perplexity does, or `all` of it
    /// [default: half; all with --documents].
    #[arg(long, value_name = "PART", value_parser = ["half", "all"])]
    pub score: Option<String>,
    /// The text is documents separated by MARK, which must occur in it: each is read from an empty
    /// context and cut to --ctx tokens.
    #[arg(long, value_name = "MARK", num_args = 0..=1, require_equals = true, default_missing_value = "<|endoftext|>")]
    pub documents: Option<String>,
    /// Use so many windows or documents, or lines for an encoder, from the beginning of the text
    /// on, and no more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
}

/// Write a page about a model in several formats.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The checkpoint: a Hugging Face folder.
    #[arg(value_parser = model_parser())]
    pub source: PathBuf,
    /// The formats, separated by commas.
    #[arg(long, value_parser = FORMAT, value_delimiter = ',', value_name = "FORMAT,...",
        default_value = "q8_0,q6_k,q5_k,q4_k,iq4_xs,q4_0")]
    pub formats: Vec<Format>,
    /// The text to predict; `-` reads it from stdin.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// How the text is cut.
    #[command(flatten)]
    pub protocol: ProtocolArgs,
    /// The page to write; an earlier report there is replaced.
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// Replace whatever file has the page's name; never the checkpoint or the text.
    #[arg(long)]
    pub force: bool,
    /// Number of threads [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
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
    /// The text to predict, documents separated by `<|endoftext|>` [default: heldout.txt beside the
    /// checkpoint].
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measure this machine.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The formats, separated by commas [default: all].
    #[arg(long, value_parser = FORMAT, value_delimiter = ',', value_name = "FORMAT,...")]
    pub formats: Vec<Format>,
    /// Numbers of rows of activations, separated by commas: 1 is generating a token, 512 reading a
    /// prompt.
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,8,64,512",
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub rows: Vec<u16>,
    /// Numbers of threads to measure beside one, separated by commas [default: one per core].
    #[arg(long, value_delimiter = ',', value_name = "N,...", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Vec<u16>,
    /// The instruction set, see `quantize isa` [default: what QRUNTIME_ISA says, or else the best
    /// one].
    #[arg(long, value_name = "NAME", value_parser = |name: &str| name.parse::<Isa>())]
    pub isa: Option<Isa>,
    /// Take the weights from the matrices of this checkpoint, so that errors are those of its
    /// weights [default: normally distributed weights].
    #[arg(value_parser = model_parser(), long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Put the weights into huge pages, as `Model::read` does, instead of the pages that the system
    /// gives unasked.
    #[arg(long)]
    pub huge_pages: bool,
    /// Multiply activations as they are (f32) instead of rounding them to 8 bits.
    #[arg(long)]
    pub exact_activations: bool,
    /// Take some ten seconds instead of a minute: fewer rounds, smaller matrices, and weights of
    /// 256 MiB at most, which very large caches hold (the answer says so then).
    #[arg(long)]
    pub quick: bool,
    /// Rows (outputs) and columns (inputs) of the matrices, such as 14336x4096; one number for both
    /// [default: 4096, with --quick 2048].
    #[arg(long, value_name = "ROWSxCOLUMNS")]
    pub size: Option<Size>,
    /// Set the speeds beside those of an earlier run: a file of what --json printed.
    ///
    /// Prints the ratio of each, and what the runs do not have in common. The exit status does not
    /// depend on it.
    #[arg(long, value_name = "FILE.json")]
    pub compare: Option<PathBuf>,
    /// Draw speed against error into FILE, an SVG image; an earlier one of this command is
    /// replaced.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Replace whatever file has the picture's name; never the checkpoint.
    #[arg(long, requires = "plot")]
    pub force: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Complete commands in a shell.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Show or write manual pages.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Where to write quantize.1, quantize-convert.1 and so on; made if it is not there [default:
    /// print the program's own page].
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}
