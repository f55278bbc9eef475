//! The subcommands, one file each. They return their answers, and printing is done
//! here; text that comes bit by bit they write to the writer that they are given.

mod answer;
mod bar;
mod bench;
mod chat;
mod compare;
mod completions;
mod convert;
mod demo;
mod embed;
mod eval;
mod gate;
mod inspect;
mod interrupt;
mod isa;
mod man;
mod report;
mod run;
mod trial;
mod verify;

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use qruntime::{CausalLm, Encoder, Model, Network, NetworkKind};

use self::interrupt::cancel_on_signal;
use crate::args::{Args, Command};
use crate::command::answer::Answer;
use crate::error::{Error, Within};
use crate::report::{printable_lines, quoted};

/// Runs a command, prints its answer to stdout or its error to stderr, and returns the exit status.
/// Handles signals from then on.
#[must_use]
pub fn main(args: Args) -> u8 {
    interrupt::handle_signals();
    let mut out = std::io::stdout();
    let printed = run(args, &mut out).and_then(|answer| {
        match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has read enough: no error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(answer.status),
            written => written.map(|()| answer.status).context("cannot write to stdout"),
        }
    });
    match printed {
        Ok(status) => status,
        // Whoever reads has read enough, in the middle of a text.
        Err(error) if interrupt::status().is_none() && error.chain().any(is_broken_pipe) => 0,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
            let _ = complain(&error);
            interrupt::status().unwrap_or(2)
        }
    }
}

/// Writes an error to stderr as clap writes those of the command line: coloured if that is a
/// terminal which shows colours and `NO_COLOR` is not set. What a file's name or a file could do to
/// the terminal is escaped.
fn complain(error: &anyhow::Error) -> std::io::Result<()> {
    let style = clap::builder::Styles::styled();
    let style = style.get_error();
    writeln!(anstream::stderr(), "{style}error:{style:#} {}", printable_lines(&format!("{error:#}")))
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
        || error.downcast_ref::<Error>().is_some_and(Error::is_broken_pipe)
}

/// Runs a command. Some write to `out` while they run; the answer is for whoever calls to write.
///
/// # Errors
/// If it could not run.
fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<Answer> {
    match args.command {
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Run(args) => run::run(&args, out),
        Command::Embed(args) => embed::run(&args, out),
        Command::Report(args) => report::run(&args),
        Command::Isa(args) => isa::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Tells a person what happened besides what was asked for.
fn note(sentences: &[String]) {
    for sentence in sentences {
        // With stderr gone there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "note: {}", printable_lines(sentence));
    }
}

/// Maps a model: a file of any size is listed or checked without reading it into memory.
#[expect(unsafe_code, reason = "a memory map, the one of this program")]
fn open(path: &Path) -> Result<Model> {
    // SAFETY: this program writes to no model while it has it open: `convert` replaces files by
    // renaming. That no other program changes them meanwhile is for the person to see to who runs
    // it, as with every program that maps its input; `docs/guide.md` says so.
    let model = unsafe { Model::map(path) }?;
    model.warnings().iter().for_each(|warning| warn(warning));
    Ok(model)
}

/// Maps a network of either kind.
#[expect(unsafe_code, reason = "a memory map, the one of this program")]
fn open_network(path: &Path) -> Result<Network, Error> {
    // SAFETY: as for `open`.
    let network = unsafe { Network::map(path) };
    let network = network.map_err(Error::from).within(|| format!("cannot run {}", quoted(path)))?;
    if let Network::CausalLm(lm) = &network {
        lm.warnings().for_each(warn);
    }
    Ok(network)
}

/// Maps a file that has no name, as `tempfile::tempfile` makes them.
#[expect(unsafe_code, reason = "a memory map of a file that nobody else can reach")]
fn map_unnamed(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the file has no name by which another program could open and change it, and this one
    // writes nothing to it from here on.
    unsafe { memmap2::Mmap::map(file) }
}

/// Opens a language model.
#[expect(unsafe_code, reason = "a memory map, the one of this program")]
fn open_lm(path: &Path, huge_pages: bool) -> Result<CausalLm> {
    ensure!(path.exists(), "there is no {}", quoted(path));
    if let Ok(NetworkKind::Encoder { .. }) = Network::kind(path) {
        bail!("{} is a sentence encoder: see quantize embed", quoted(path));
    }
    // SAFETY: as for `open`.
    let lm = if huge_pages { CausalLm::open(path) } else { unsafe { CausalLm::map(path) } };
    let lm = lm.with_context(|| format!("cannot run {}", quoted(path)))?;
    lm.warnings().for_each(warn);
    lm.model().warnings().iter().for_each(|warning| warn(warning));
    Ok(lm)
}

/// Opens a sentence encoder.
#[expect(unsafe_code, reason = "a memory map, the one of this program")]
fn open_encoder(path: &Path, huge_pages: bool) -> Result<Encoder> {
    ensure!(path.exists(), "there is no {}", quoted(path));
    if let Ok(NetworkKind::CausalLm { .. }) = Network::kind(path) {
        bail!("{} is a language model: see quantize run", quoted(path));
    }
    // SAFETY: as for `open`.
    let encoder = if huge_pages { Encoder::open(path) } else { unsafe { Encoder::map(path) } };
    let encoder = encoder.with_context(|| format!("cannot run {}", quoted(path)))?;
    encoder.model().warnings().iter().for_each(|warning| warn(warning));
    Ok(encoder)
}

/// Tells whoever is at stderr of something doubtful that does not stop the program.
fn warn(message: &str) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "warning: {}", printable_lines(message));
}

/// Starts a pool of so many threads, or of one for every core.
fn pool(threads: Option<u16>) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.map_or(0, usize::from));
    pool.build().context("cannot start threads")
}
