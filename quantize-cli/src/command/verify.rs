//! `quantize verify`: is a model whole?

use anyhow::Result;
use qruntime::Error;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::report::{Answer, bytes};

#[derive(Default, Serialize)]
struct Report {
    whole: bool,
    /// Whether it is a model that this program wrote, with checksums, rather than any safetensors file.
    described: bool,
    tensors: usize,
    file_bytes: u64,
    /// What is wrong with the structure, if that is damaged.
    structure: Option<String>,
    /// Tensors whose bytes do not have the checksum that the file says.
    damaged: Vec<String>,
    /// Tensors for which the file has no checksum.
    unchecked: Vec<String>,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Answer> {
    let mut report = Report::default();
    match super::open(&args.model).map_err(|error| error.downcast::<Error>()) {
        Ok(model) => {
            report.described = model.is_described();
            report.file_bytes = model.file_bytes();
            for entry in model.tensors() {
                report.tensors += 1;
                match model.verify(entry.name())? {
                    Some(true) => {}
                    Some(false) => report.damaged.push(entry.name().into()),
                    None => report.unchecked.push(entry.name().into()),
                }
            }
        }
        // The file is there, and it is not what it should be: that is an answer.
        Err(Ok(Error::File(error))) => report.structure = Some(error.to_string()),
        Err(Ok(error)) => return Err(error.into()),
        Err(Err(error)) => return Err(error),
    }
    report.whole = report.described && report.damaged.is_empty() && report.unchecked.is_empty();
    Answer::of(&report, args.json, report.whole, to_text)
}

fn to_text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(structure) = &report.structure {
        return format!("damaged: {structure}\n");
    }
    if !report.described {
        return "no checksums: not a model that quantize wrote\n".into();
    }
    for name in &report.damaged {
        text.push_str(&format!("damaged: tensor \"{}\" does not have its checksum\n", name.escape_debug()));
    }
    if !report.unchecked.is_empty() {
        text.push_str(&format!("damaged: {} tensors have no checksum\n", report.unchecked.len()));
    }
    let (tensors, size) = (report.tensors, bytes(report.file_bytes));
    text + &match report.damaged.len() + report.unchecked.len() {
        0 => format!("whole: {tensors} tensors, {tensors} checksums, {size}\n"),
        n => format!("damaged: {n} of {tensors} tensors, {size}\n"),
    }
}
