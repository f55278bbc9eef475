//! The program `quantize`.

use std::process::ExitCode;

use clap::Parser;
use quantize_cli::args::Args;
use quantize_cli::command;

fn main() -> ExitCode {
    ExitCode::from(command::main(Args::parse()))
}
