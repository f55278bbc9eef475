//! A whole language model, ours beside llama.cpp's and candle's: tokens per second of a prompt and
//! of generation, memory, and the time to the first token. `ci/network_speed.sh` makes the models
//! and runs this.
//!
//! FOLDER has the model unquantized twice, `f16` (safetensors) and `f16.gguf`, and for each format
//! a folder that `quantize convert` wrote. The GGUF files of the formats are written here, by
//! llama.cpp's own quantizer, where they are missing.

#![deny(unsafe_code)]

mod candle;
mod llama_cpp;
mod ours;
mod race;
mod start;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use peers::about;
use race::Raced;
use serde::{Deserialize, Serialize};
use start::Started;

/// A whole language model, ours beside llama.cpp's and candle's.
#[derive(Debug, Parser)]
struct Arguments {
    /// Has f16, f16.gguf, and a folder for each format
    folder: PathBuf,

    /// Formats; `f16` is the model as it was
    #[arg(long, value_delimiter = ',', default_value = "q4_0,q4_k")]
    format: Vec<String>,

    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,

    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt: usize,

    /// Tokens that are generated
    #[arg(long, default_value_t = 64)]
    generate: usize,

    /// How often everybody takes a turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Only these of ours, llama.cpp and candle
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Do one of the measurements in this process, which has the threads and the memory to itself
    #[arg(long, hide = true)]
    here: Option<Here>,
}

/// What a process of its own does.
#[derive(Clone, Debug, Deserialize, Serialize, clap::ValueEnum)]
enum Here {
    /// Lets all take turns.
    Race,
    /// Starts one of them.
    Start,
}

/// Everything that was measured.
#[derive(Default, Serialize)]
struct Measured {
    peers: String,
    prompt: usize,
    generate: usize,
    raced: Vec<Raced>,
    started: Vec<Started>,
}

/// Somebody's network, with what it has been fed.
trait Network {
    /// Forgets what it has been fed.
    fn reset(&mut self);

    /// Takes in more tokens; the logits after the last one.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// Who takes part. Ours begins, and is there twice when it is about starting: memory of its own is
/// what the race is run with.
const CONTESTANTS: [&str; 4] = ["ours", "ours, mapped", "llama.cpp", "candle"];

impl Arguments {
    /// Opens a contestant's model in a format, for sequences of so many tokens.
    fn open(&self, contestant: &str, format: &str, threads: usize) -> Result<Box<dyn Network>> {
        let gguf = self.folder.join(format!("{format}.gguf"));
        let context = self.prompt.max(self.generate) + 64;
        Ok(match contestant {
            "ours" => Box::new(ours::Ours::open(&self.folder.join(format), context)?),
            "ours, mapped" => Box::new(ours::Ours::map(&self.folder.join(format), context)?),
            "llama.cpp" => Box::new(llama_cpp::LlamaCpp::open(&gguf, context, threads)?),
            "candle" => Box::new(candle::Candle::open(&gguf)?),
            other => bail!("{other}: nobody of that name"),
        })
    }

    fn takes_part(&self, contestant: &str, format: &str) -> bool {
        let listed = self.only.is_empty() || self.only.iter().any(|only| contestant.starts_with(only.as_str()));
        listed && (contestant != "candle" || candle::FORMATS.contains(&format))
    }

    /// This program again, in a process of its own, in which everybody has so many threads.
    fn apart(&self, here: &str, format: &str, threads: usize, only: &str) -> Result<Vec<u8>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(&self.folder).args(["--here", here, "--format", format, "--threads", &threads.to_string()]);
        command.args(["--prompt", &self.prompt.to_string(), "--generate", &self.generate.to_string()]);
        command.args(["--rounds", &self.rounds.to_string()]);
        if !only.is_empty() {
            command.args(["--only", only]);
        }
        for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{format}, {threads} threads: {}", output.status);
        Ok(output.stdout)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.prompt > 0 && arguments.generate > 0 && arguments.rounds > 0, "nothing to do");
    let mut out = std::io::stdout().lock();
    if let Some(here) = &arguments.here {
        let (format, threads) = (&arguments.format[0], arguments.threads[0]);
        // llama.cpp's log is off from here on.
        about::ggml()?;
        rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global()?;
        match here {
            Here::Race => serde_json::to_writer(&mut out, &race::run(&arguments, format, threads)?)?,
            Here::Start => serde_json::to_writer(&mut out, &start::run(&arguments, format, threads)?)?,
        }
        return Ok(());
    }
    let measured = measure(&arguments)?;
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &measured)?;
        writeln!(out)?;
    } else {
        table::write(&mut out, &measured)?;
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Measured> {
    let peers = format!("{}; candle-transformers {}", about::ggml()?, about::version("candle-transformers")?);
    let (prompt, generate) = (arguments.prompt, arguments.generate);
    let mut measured = Measured { peers, prompt, generate, ..Measured::default() };
    for format in &arguments.format {
        let ours = arguments.folder.join(format);
        ensure!(ours.is_dir(), "{}: missing; quantize convert writes it", ours.display());
        ensure_gguf(&arguments.folder, format)?;
        for &threads in &arguments.threads {
            eprintln!("{format}, threads: {threads}");
            let race = arguments.apart("race", format, threads, &arguments.only.join(","))?;
            measured.raced.extend(serde_json::from_slice::<Vec<Raced>>(&race)?);
        }
        let threads = arguments.threads.iter().copied().max().unwrap_or(1);
        for contestant in CONTESTANTS.into_iter().filter(|contestant| arguments.takes_part(contestant, format)) {
            // A list of names has commas.
            let only = if contestant == "ours, mapped" { "mapped" } else { contestant };
            measured.started.push(serde_json::from_slice(&arguments.apart("start", format, threads, only)?)?);
        }
    }
    Ok(measured)
}

/// Has llama.cpp quantize its file, all matrices to the format but the embeddings and the head,
/// which get `q8_0`: as ours are by default.
fn ensure_gguf(folder: &Path, format: &str) -> Result<()> {
    let [from, to] = ["f16", format].map(|name| folder.join(format!("{name}.gguf")));
    if to.exists() {
        return Ok(());
    }
    eprintln!("{}: llama.cpp quantizes", to.display());
    let partial = to.with_extension("partial");
    llama_cpp::quantize(&from, &partial, format).with_context(|| format!("{}", to.display()))?;
    Ok(std::fs::rename(partial, to)?)
}
