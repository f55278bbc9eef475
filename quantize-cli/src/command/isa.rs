//! `quantize isa`: which instruction sets there are.

use anyhow::Result;
use kernels::{ISA_VARIABLE, Isa, KNOWN_ISAS};
use serde::Serialize;

use crate::args::IsaArgs;
use crate::command::answer::Answer;
use crate::report::table;

#[derive(Serialize)]
struct Report {
    chosen: &'static str,
    known: Vec<Known>,
}

#[derive(Serialize)]
struct Known {
    name: &'static str,
    available: bool,
    needs: &'static str,
}

pub(super) fn run(args: &IsaArgs) -> Result<Answer> {
    let chosen = Isa::from_env()?.name();
    let available = |name| Isa::available().any(|isa| isa.name() == name);
    let known = KNOWN_ISAS.iter().map(|&(name, needs)| Known { name, available: available(name), needs });
    let report = Report { chosen, known: known.collect() };
    Answer::of(&report, args.json, true, |report| {
        let rows: Vec<Vec<String>> = report
            .known
            .iter()
            .map(|isa| {
                let state = match (isa.name == chosen, isa.available) {
                    (true, _) => "chosen",
                    (_, true) => "available",
                    _ => "missing",
                };
                vec![isa.name.into(), state.into(), isa.needs.into()]
            })
            .collect();
        let note =
            format!("\nResults do not depend on the choice.\n{ISA_VARIABLE}=NAME in the environment forces one.\n");
        table(&["name", "state", "needs"], &rows) + &note
    })
}
