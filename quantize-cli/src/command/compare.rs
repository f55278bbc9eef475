//! `quantize compare`: what did it cost?

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::args::CompareArgs;
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::compare::{Comparison, compare};
use crate::report::{percent, shape};
use crate::source;
use crate::table::{Column, Table};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    comparison: Comparison,
    max_error: Option<f64>,
    within: bool,
}

pub(super) fn run(args: &CompareArgs) -> Result<Answer> {
    let limit = args.max_error;
    ensure!(
        limit.is_none_or(|limit| limit >= 0.0),
        "--max-error {}: expected a number from 0 on",
        limit.unwrap_or(0.0)
    );
    let source = source::open(&args.source)?;
    source.warnings().iter().for_each(|warning| super::warn(warning));
    let model = super::open(&args.model)?;
    let progress = Bar::new(source.total_bytes(), args.json);
    let comparison = compare(&*source, &model, &progress)?;
    progress.finish();
    let within = comparison.mismatches.is_empty()
        && limit.is_none_or(|limit| comparison.packed.iter().all(|t| t.relative_rms <= limit));
    let report = Report { comparison, max_error: limit, within };
    Answer::of(&report, args.json, report.within, to_text)
}

fn to_text(report: &Report) -> String {
    let Comparison { packed, identical, converted, mismatches } = &report.comparison;
    let rows: Vec<Vec<String>> = packed
        .iter()
        .map(|t| {
            vec![
                t.name.escape_debug().to_string(),
                t.format.into(),
                shape(&t.shape),
                percent(t.relative_rms),
                format!("{:.1}", t.sqnr_db),
                percent(t.product_random),
                percent(t.product_realistic),
            ]
        })
        .collect();
    let columns = [
        Column::left("tensor").shortened(),
        Column::left("format"),
        Column::left("shape").optional(),
        Column::right("weights"),
        Column::right("SQNR\ndB"),
        Column::right("product,\nrandom x"),
        Column::right("product,\nrealistic x"),
    ];
    let mut text = Table::new(columns).with_rows(rows).to_string();
    text.push_str("\nErrors are relative RMS; products are what the runtime computes, activations\nin 8 bits.\n");
    text.push_str(&format!("{} tensors packed, {identical} kept and identical", packed.len()));
    if !converted.is_empty() {
        text.push_str(&format!(", {} kept in another type", converted.len()));
    }
    text.push('\n');
    for mismatch in mismatches {
        text.push_str(&format!("mismatch: {}\n", mismatch.escape_debug()));
    }
    if let Some(limit) = report.max_error
        && let Some(worst) = packed.iter().find(|t| t.relative_rms > limit)
    {
        let (limit, name, error) = (percent(limit), worst.name.escape_debug(), percent(worst.relative_rms));
        text.push_str(&format!("over the limit of {limit}: {name} at {error}\n"));
    }
    text
}
