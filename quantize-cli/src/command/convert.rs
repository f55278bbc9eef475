//! `quantize convert`: a checkpoint into a model.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use kernels::{Distortion, Isa};
use serde::Serialize;

use super::gate::{self, Evaluation, Question};
use crate::args::ConvertArgs;
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::convert::{Conversion, Distortions, losses};
use crate::disk::check_space;
use crate::output::{
    Output, Recipe, Temporary, check_apart, check_aside, check_destination, check_place, output, parent, sweep,
};
use crate::plan::{Plan, Request, Target};
use crate::report::{bytes, percent, quoted, shape, three_digits};
use crate::source::{self, Source};
use crate::table::{Column, Table, paragraph, terminal_width};

/// How many tensors a person is shown after a conversion.
const WORST: usize = 10;

/// The share of padding from which on a person is told of it.
const NOTABLE_PADDING: f64 = 0.01;

#[derive(Serialize)]
struct Report {
    out: String,
    dry_run: bool,
    tensors: Vec<Tensor>,
    /// Bytes of the tensors in the model, and in the source.
    bytes: u64,
    source_bytes: u64,
    /// Bytes in the model that fill up rows, panels and tensors.
    padding_bytes: u64,
    bits_per_weight: f64,
    /// Warnings: no errors, yet worth knowing.
    warnings: Vec<String>,
    /// Tensors of the source that mean nothing in the model: activation scales of 8-bit layers.
    dropped: Vec<String>,
    /// Whole-model relative RMS error of the packed weights.
    relative_rms: Option<f64>,
    /// What was measured on a text, and whether that is good enough.
    evaluation: Option<Evaluation>,
    /// Without those of the evaluation.
    seconds: f64,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    action: String,
    why: String,
    shape: Vec<usize>,
    bytes: usize,
    /// Of the weights, where they are packed.
    relative_rms: Option<f64>,
}

pub(super) fn run(args: &ConvertArgs) -> Result<Answer> {
    let start = Instant::now();
    let isa = Isa::from_env()?;
    let output = output(&args.out)?;
    let source = &*output.arrange(source::open(&args.source)?)?;
    let request = Request { to: args.to.unwrap_or(Target::Kept), rules: &args.rules, rounding: args.rounding.name() };
    let plan = Plan::new(source.tensors(), source.companions().model_type(), request, &|t, a| output.stored(t, a))?;
    let mut warnings = [source.warnings(), &plan.warnings].concat();
    warnings.iter().for_each(|warning| super::warn(warning));
    // What a real run refuses in the end it refuses now, and a dry run, too.
    check_output(args, source, &plan, output)?;
    let (distortions, evaluation) = if args.dry_run {
        (vec![None; plan.steps.len()], None)
    } else {
        super::pool(args.threads)?.install(|| write(args, source, &plan, output, isa))?
    };
    let lost = losses(&plan, &distortions);
    lost.iter().for_each(|warning| super::warn(warning));
    warnings.extend(lost);
    let measuring = evaluation.as_ref().map_or(0.0, |evaluation| evaluation.seconds);
    let seconds = start.elapsed().as_secs_f64() - measuring;
    let report = Report { warnings, seconds, ..report(args, source, &plan, &distortions, evaluation) };
    let good = report.evaluation.as_ref().is_none_or(Evaluation::is_within);
    Answer::of(&report, args.json, good, |report| to_text(report, args.quiet))
}

/// Refuses an output that cannot be written, or must not be. A dry run writes nothing meanwhile;
/// any other one removes what an earlier one left.
fn check_output(args: &ConvertArgs, source: &dyn Source, plan: &Plan, output: &dyn Output) -> Result<()> {
    check_place(&args.out)?;
    check_apart(source, &args.out)?;
    if args.dry_run {
        check_aside(&args.out, args.force)?;
    } else {
        // It may put an output back, which is there then.
        super::note(&sweep(&args.out)?);
    }
    check_destination(&args.out, args.force)?;
    let beside = if output.is_folder(&args.out) { source.companions().bytes() } else { 0 };
    Ok(check_space(parent(&args.out), plan.bytes() + beside)?)
}

/// Converts into a temporary sibling of the output and puts it in its place, unless it was to be
/// measured and exceeds a limit.
fn write(
    args: &ConvertArgs,
    source: &dyn Source,
    plan: &Plan,
    output: &dyn Output,
    isa: Isa,
) -> Result<(Distortions, Option<Evaluation>)> {
    let gate = Question::new(args, output)?;
    let cancelled = &super::cancel_on_signal();
    let progress = &Bar::new(source.total_bytes(), args.quiet);

    let folder = output.is_folder(&args.out);
    let recipe = Recipe::new(source, plan, if folder { source.companions().paths() } else { &[] });
    let recipe = recipe.with_room(if gate.is_some() { gate::ROOM } else { 0 });
    let temporary = if folder { Temporary::folder(&args.out)? } else { Temporary::file(&args.out)? };
    let conversion = Conversion { source, plan, rounders: &[args.rounding], isa, progress, cancelled };
    let unmade = || format!("no {} was made", quoted(&args.out));
    let distortions = conversion.write(output, temporary.path(), &recipe).with_context(unmade)?;
    progress.finish();
    let ask = |gate: &Question<'_>| gate.ask(&conversion, output, &recipe, temporary.path(), &distortions);
    let evaluation = gate.as_ref().map(ask).transpose()?;
    if evaluation.as_ref().is_none_or(Evaluation::is_within) {
        source.check_unchanged().with_context(unmade)?;
        temporary.commit(&args.out, args.force)?;
    }
    Ok((distortions, evaluation))
}

fn report(
    args: &ConvertArgs,
    source: &dyn Source,
    plan: &Plan,
    distortions: &[Option<Distortion>],
    evaluation: Option<Evaluation>,
) -> Report {
    let mut total = Distortion::default();
    for &distortion in distortions.iter().flatten() {
        total += distortion;
    }
    let tensors = plan.steps.iter().zip(distortions).map(|(step, distortion)| Tensor {
        name: step.name.clone(),
        action: step.becomes(),
        why: step.why.clone(),
        shape: step.shape.clone(),
        bytes: step.layout.bytes,
        relative_rms: distortion.map(Distortion::relative_rms),
    });
    Report {
        out: args.out.display().to_string(),
        dry_run: args.dry_run,
        tensors: tensors.collect(),
        bytes: plan.bytes(),
        source_bytes: source.total_bytes(),
        padding_bytes: plan.padding(),
        bits_per_weight: 8.0 * plan.bytes() as f64 / plan.elements().max(1) as f64,
        warnings: vec![],
        dropped: source.dropped().to_vec(),
        relative_rms: distortions.iter().any(Option::is_some).then(|| total.relative_rms()),
        evaluation,
        seconds: 0.0,
    }
}

fn to_text(report: &Report, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        let mut tensors: Vec<&Tensor> = report.tensors.iter().collect();
        tensors.sort_by(|a, b| b.relative_rms.unwrap_or(-1.0).total_cmp(&a.relative_rms.unwrap_or(-1.0)));
        // The plan is read to its end; of a conversion the worst tensors are what matters.
        let shown = if report.dry_run { tensors.len() } else { WORST.min(tensors.len()) };
        let rows: Vec<Vec<String>> = tensors[..shown]
            .iter()
            .map(|t| {
                let name = t.name.escape_debug().to_string();
                let mut cells = vec![name, shape(&t.shape), t.action.clone(), bytes(t.bytes as u64)];
                if !report.dry_run {
                    cells.push(t.relative_rms.map_or_else(|| "-".into(), percent));
                }
                cells.push(t.why.clone());
                cells
            })
            .collect();
        let mut columns = vec![
            Column::left("tensor").shortened(),
            Column::left("shape").optional(),
            Column::left("becomes"),
            Column::right("size"),
        ];
        // Of a plan nothing is measured.
        columns.extend((!report.dry_run).then(|| Column::right("error")));
        columns.push(Column::left("because").wrapped());
        text = Table::new(columns).with_rows(rows).to_string();
        if shown < tensors.len() {
            text.push_str(&format!("... and {} more (--json or `quantize inspect` for all)\n", tensors.len() - shown));
        }
        text.push('\n');
    }
    if !report.dropped.is_empty() && !quiet {
        text.push_str(&format!("dropped {} activation scales of 8-bit layers\n\n", report.dropped.len()));
    }
    let mut kinds: Vec<&str> = report.tensors.iter().map(|t| t.action.as_str()).collect();
    kinds.sort_unstable();
    let counts: Vec<String> = kinds.chunk_by(|a, b| a == b).map(|kind| format!("{} {}", kind.len(), kind[0])).collect();
    let padding = report.padding_bytes as f64 / report.bytes.max(1) as f64;
    let padding = if padding < NOTABLE_PADDING { String::new() } else { format!(", {} padding", percent(padding)) };
    let size = format!(
        "{} tensors ({}), {} ({:.2} bits/weight, {} of the source{padding})",
        report.tensors.len(),
        counts.join(", "),
        bytes(report.bytes),
        report.bits_per_weight,
        percent(report.bytes as f64 / report.source_bytes.max(1) as f64),
    );
    let line = |text: &str| paragraph("", text, terminal_width());
    let out = quoted(Path::new(&report.out));
    if report.dry_run {
        return text + &line(&format!("would write {out}: {size}"));
    }
    let worst =
        report.tensors.iter().max_by(|a, b| a.relative_rms.unwrap_or(-1.0).total_cmp(&b.relative_rms.unwrap_or(-1.0)));
    let worst = worst.and_then(|t| Some((t.name.escape_debug(), &t.action, percent(t.relative_rms?))));
    let worst = worst.map(|(name, action, error)| format!(", worst {name} {action} at {error} error"));
    let speed = three_digits(report.source_bytes as f64 / 1e9 / report.seconds);
    let time = format!("{} s, {speed} GB/s", three_digits(report.seconds));
    if let Some(evaluation) = &report.evaluation {
        text.push_str(&if quiet { evaluation.complaints() } else { evaluation.to_text() });
        if !evaluation.is_within() {
            return text + &line(&format!("not written: {out}"));
        }
    }
    text + &line(&format!("wrote {out}: {size}{}, {time}", worst.unwrap_or_default()))
}
