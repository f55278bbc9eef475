//! One file per subcommand: what it means. They return what they have to say; printing is done here.

mod compare;
mod convert;
mod demo;
mod inspect;
mod isa;
mod verify;

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use qruntime::Model;

use crate::args::{Args, Command};
use crate::report::Answer;

/// Runs a command, prints its answer to stdout or its error to stderr, and returns the exit status.
#[must_use]
pub fn main(args: Args) -> u8 {
    let printed = run(args).and_then(|answer| {
        match std::io::stdout().lock().write_all(answer.text.as_bytes()) {
            // Whoever reads has read enough: no error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(answer.yes),
            written => written.map(|()| answer.yes).context("cannot write to stdout"),
        }
    });
    match printed {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "quantize: {error:#}");
            2
        }
    }
}

/// Runs a command.
///
/// # Errors
/// If it could not run.
pub fn run(args: Args) -> Result<Answer> {
    match args.command {
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Isa(args) => isa::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Maps a model: a file of any size is listed or checked without reading it into memory.
#[expect(unsafe_code, reason = "a memory map, the one of this program")]
fn open(path: &Path) -> Result<Model> {
    // SAFETY: this program does not write to models that it opens: `convert` replaces files by renaming. That no other program changes
    // them meanwhile is for the person to see to who runs it, as with every program that maps its input; the README says so.
    Ok(unsafe { Model::map(path) }?)
}
