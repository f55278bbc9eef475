//! The program `quantize`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use quantize_cli::args::Args;
use quantize_cli::command;
use quantize_cli::report::{printable, printable_lines};

fn main() -> ExitCode {
    ExitCode::from(command::main(Args::try_parse().unwrap_or_else(|error| refuse(&error))))
}

/// Prints what clap has to say, its errors and the help that was asked for, and ends the program. An argument that could
/// do something to the terminal is not repeated as it is.
fn refuse(error: &clap::Error) -> ! {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    if args.all(|arg| printable(&arg) == arg) {
        error.exit()
    }
    // With stderr gone there is nobody left to tell.
    let _ = write!(std::io::stderr(), "{}", printable_lines(&error.to_string()));
    std::process::exit(error.exit_code())
}
