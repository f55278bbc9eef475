//! `quantize man`: manual pages, one for the program and one for each command.

use std::fs;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Args, ManArgs};
use crate::command::answer::Answer;
use crate::place::{self, Destination};
use crate::report::quoted;

pub(super) fn run(args: &ManArgs) -> Result<Answer> {
    let mut program = Args::command().disable_help_subcommand(true);
    let Some(folder) = &args.folder else { return Ok(Answer::yes(page(program)?)) };
    // Commands learn their whole names, such as quantize-convert.
    program.build();
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", quoted(folder)))?;
    let commands = || std::iter::once(&program).chain(program.get_subcommands());
    for command in commands() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let path = folder.join(format!("{name}.1"));
        let page = page(command.clone())?;
        Destination::new(&path, &place::MANUAL, &[], false)?.write(page.as_bytes())?;
    }
    Ok(Answer::yes(format!("wrote {} pages into {}\n", commands().count(), quoted(folder))))
}

/// A page as troff.
fn page(command: clap::Command) -> Result<String> {
    let mut page = vec![];
    Man::new(command).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}
