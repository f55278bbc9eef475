//! Our products beside those of llama.cpp, candle, `ndarray` and `gemm`: the same matrix, the same
//! activations, in turn.
//!
//! `cargo run --release` in this folder (its `.cargo/config.toml` counts). Needs cmake, a C++
//! compiler and libclang. How it is measured, and what came out: `docs/benchmarking.md`.

#![deny(unsafe_code)]

mod candle;
mod contest;
mod dense;
mod elsewhere;
mod ggml;
mod ours;
mod table;

use std::io::Write;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use contest::{Contestant, Group, Measured, Problem};
use peers::about;

use crate::candle::Candle;
use crate::dense::Dense;
use crate::ggml::{Ggml, Layout};
use crate::ours::Ours;

/// Our products beside those of llama.cpp, candle, ndarray and gemm.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows and columns of the matrix; several are measured one after the other
    #[arg(long, value_name = "ROWSxCOLUMNS", default_value = "4096x4096")]
    size: Vec<Size>,

    /// Numbers of rows of activations
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512")]
    rows: Vec<usize>,

    /// Numbers of threads; 0 is one for each processor
    #[arg(long, value_delimiter = ',', default_value = "1,0")]
    threads: Vec<usize>,

    /// Only these formats (`f32` among them)
    #[arg(long, value_delimiter = ',')]
    format: Vec<String>,

    /// Seconds for each format and number of rows, at least
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Measure in this process: some contestants learn only once how many threads they have
    #[arg(long, hide = true)]
    here: bool,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    outputs: usize,
    inputs: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('x').and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
        let (outputs, inputs) = numbers.ok_or("expected ROWSxCOLUMNS")?;
        Ok(Self { outputs, inputs })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rows.iter().all(|&rows| rows > 0), "no rows");
    let peers = format!(
        "{}; candle-core {}; gemm {}; ndarray {} with matrixmultiply {}",
        about::ggml()?,
        about::version("candle-core")?,
        about::version("gemm")?,
        about::version("ndarray")?,
        about::version("matrixmultiply")?
    );
    let mut measured = Vec::new();
    for &size in &arguments.size {
        if arguments.here {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads[0]).use_current_thread();
            pool.build_global()?;
            measured.extend(measure(&arguments, size)?);
            continue;
        }
        for &threads in &arguments.threads {
            measured.extend(measure_apart(&arguments, size, threads)?);
        }
    }
    let mut out = std::io::stdout().lock();
    if arguments.here {
        serde_json::to_writer(&mut out, &measured)?;
    } else if arguments.json {
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({"peers": peers, "measured": measured}))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{peers}\n")?;
        table::write(&mut out, &measured)?;
    }
    Ok(())
}

/// Lets everybody multiply matrices of a size, in this process.
fn measure(arguments: &Arguments, size: Size) -> Result<Vec<Measured>> {
    let problem = Problem::new(size.outputs, size.inputs, arguments.rows.iter().copied().max().unwrap_or(1).max(2))?;
    let budget = Duration::try_from_secs_f64(arguments.seconds)?;
    let wanted = |format: &str| arguments.format.is_empty() || arguments.format.iter().any(|f| f == format);
    let mut measured = Vec::new();
    for format in ours::FORMATS {
        let name = &format.to_string();
        if !wanted(name) {
            continue;
        }
        eprintln!("{name}, {} x {}, threads: {}", size.outputs, size.inputs, rayon::current_num_threads());
        let ours = Ours::new(&problem, *format)?;
        let bytes = ours.bytes();
        let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(ours)];
        for layout in [Layout::Plain, Layout::Repacked] {
            contestants.extend(Ggml::new(&problem, name, layout)?.map(|ggml| Box::new(ggml) as Box<dyn Contestant>));
        }
        contestants.extend(Candle::new(&problem, name)?.map(|candle| Box::new(candle) as Box<dyn Contestant>));
        measured.extend(Group { format: name, bytes, contestants, ours: true }.measure(
            &problem,
            &arguments.rows,
            budget,
        )?);
    }
    if wanted("f32") {
        eprintln!("f32, {} x {}, threads: {}", size.outputs, size.inputs, rayon::current_num_threads());
        let contestants =
            Dense::all(&problem).into_iter().map(|dense| Box::new(dense) as Box<dyn Contestant>).collect();
        let bytes = size_of_val(problem.weights());
        measured.extend(Group { format: "f32", bytes, contestants, ours: false }.measure(
            &problem,
            &arguments.rows,
            budget,
        )?);
    }
    Ok(measured)
}

/// The same in a process of its own, in which everybody has so many threads.
fn measure_apart(arguments: &Arguments, size: Size, threads: usize) -> Result<Vec<Measured>> {
    let threads = if threads == 0 { std::thread::available_parallelism()?.get() } else { threads };
    let join = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--here").arg("--size").arg(format!("{}x{}", size.outputs, size.inputs));
    command.arg("--rows").arg(join(&arguments.rows)).arg("--threads").arg(threads.to_string());
    command.arg("--seconds").arg(arguments.seconds.to_string());
    if !arguments.format.is_empty() {
        command.arg("--format").arg(arguments.format.join(","));
    }
    for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "MATMUL_NUM_THREADS"] {
        command.env(variable, threads.to_string());
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "measuring with {threads} threads: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
