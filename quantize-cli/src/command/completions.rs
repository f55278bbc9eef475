//! `quantize completions`: a script with which a shell completes this program's commands and
//! options.

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::command::answer::Answer;

pub(super) fn run(args: &CompletionsArgs) -> Result<Answer> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Args::command(), "quantize", &mut script);
    Ok(Answer::yes(String::from_utf8(script)?))
}
