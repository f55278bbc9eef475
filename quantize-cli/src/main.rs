//! The program `quantize`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use quantize_cli::args::Args;
use quantize_cli::command;
use quantize_cli::report::{printable, printable_lines};

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => ExitCode::from(command::main(args)),
        Err(error) => refuse(&error),
    }
}

/// Prints what clap has to say: an error, or the help that was asked for. An argument that could do
/// something to the terminal is not repeated as it is.
fn refuse(error: &clap::Error) -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    if args.all(|arg| printable(&arg) == arg) {
        error.exit()
    }
    // With stderr gone there is nobody left to tell.
    let _ = write!(std::io::stderr(), "{}", printable_lines(&error.to_string()));
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
