//! `quantize verify`: are models whole?

use std::path::{Path, PathBuf};

use anyhow::Result;
use qruntime::Error;
use qruntime::container::Storage;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::command::answer::Answer;
use crate::finite;
use crate::report::{bytes, printable, quoted};

#[derive(Default, Serialize)]
struct Report {
    whole: bool,
    /// Whether it is a model that this program wrote, with checksums, rather than any safetensors
    /// file.
    described: bool,
    tensors: usize,
    file_bytes: u64,
    /// What is wrong with the structure, if that is damaged.
    structure: Option<String>,
    /// Tensors whose bytes do not have the checksum that the file says.
    damaged: Vec<String>,
    /// Tensors for which the file has no checksum.
    unchecked: Vec<String>,
    /// Kept tensors with numbers that are NaN or infinite, and where.
    not_finite: Vec<String>,
}

/// Several models.
#[derive(Serialize)]
struct Reports {
    whole: bool,
    models: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    path: String,
    /// Why the model cannot be read.
    error: Option<String>,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Answer> {
    if let [model] = &args.models[..] {
        let report = check(model)?;
        return Answer::of(&report, args.json, report.whole, to_text);
    }
    let named = |model: &PathBuf| {
        let (report, error) = match check(model) {
            Ok(report) => (report, None),
            Err(error) => (Report::default(), Some(format!("{error:#}"))),
        };
        Named { path: model.display().to_string(), error, report }
    };
    let models: Vec<Named> = args.models.iter().map(named).collect();
    let reports = Reports { whole: models.iter().all(|model| model.report.whole), models };
    let answer = Answer::of(&reports, args.json, reports.whole, |reports| {
        let lines = reports.models.iter().flat_map(|model| {
            let path = quoted(Path::new(&model.path));
            let text = match &model.error {
                Some(error) => format!("error: {}\n", printable(error)),
                None => to_text(&model.report),
            };
            text.lines().map(|line| format!("{path}: {line}\n")).collect::<Vec<_>>()
        });
        lines.collect()
    })?;
    // The same as of one that cannot be read, whatever the others are.
    let unread = reports.models.iter().any(|model| model.error.is_some());
    Ok(if unread { Answer { status: 2, ..answer } } else { answer })
}

fn check(path: &Path) -> Result<Report> {
    let mut report = Report::default();
    match super::open(path).map_err(|error| error.downcast::<Error>()) {
        Ok(model) => {
            report.described = model.is_described();
            report.file_bytes = model.file_bytes();
            for entry in model.tensors() {
                report.tensors += 1;
                if matches!(entry.storage(), Storage::Plain(_)) {
                    let plain = model.plain(entry.name())?;
                    let complaint = finite::complaint(plain.name(), plain.dtype(), plain.shape(), plain.as_bytes(), 0);
                    let complaint =
                        complaint.map(|complaint| format!("tensor \"{}\": {complaint}", plain.name().escape_debug()));
                    report.not_finite.extend(complaint);
                }
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
    let faults = report.damaged.len() + report.unchecked.len() + report.not_finite.len();
    report.whole = report.described && faults == 0;
    Ok(report)
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
    for complaint in &report.not_finite {
        text.push_str(&format!("not finite: {complaint}\n"));
    }
    if !report.unchecked.is_empty() {
        text.push_str(&format!("damaged: {} tensors have no checksum\n", report.unchecked.len()));
    }
    let (tensors, size) = (report.tensors, bytes(report.file_bytes));
    text + &match report.damaged.len() + report.unchecked.len() {
        0 if !report.not_finite.is_empty() => {
            format!("unusable: {} of {tensors} tensors are not finite, {size}\n", report.not_finite.len())
        }
        0 => format!("whole: {tensors} tensors, {tensors} checksums, {size}\n"),
        n => format!("damaged: {n} of {tensors} tensors, {size}\n"),
    }
}
