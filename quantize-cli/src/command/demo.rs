//! `quantize demo`: the whole way on a real model, from its checkpoint to sentences, with what it
//! costs and what it gains.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kernels::{Format, Isa};
use qruntime::{CausalLm, Greedy};
use serde::Serialize;

use super::trial::{Trial, language_model, speeds};
use super::{cancel_on_signal, open_network};
use crate::args::DemoArgs;
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::eval::causal::{Reference, evaluate};
use crate::eval::size::Size;
use crate::eval::statistics::Summary;
use crate::eval::text::{self, Described, Protocol};
use crate::eval::windows::Score;
use crate::report::{bytes, digits, percent, printable, quoted, table, three_digits};
use crate::source;

/// From 8.5 to 4.25 bits, and last the oldest one of 4 bits, for comparison.
const FORMATS: [Format; 6] = [Format::Q8_0, Format::Q6K, Format::Q5K, Format::Q4K, Format::Iq4Xs, Format::Q4_0];

/// The prompt that every model continues, and for how many tokens.
const PROMPT: &str = "One day, a little girl named Lily";
const TOKENS: usize = 48;

/// How long each of two speeds is measured, in turns.
const BUDGET: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Report {
    model: String,
    text: String,
    #[serde(flatten)]
    protocol: Described,
    instruction_set: &'static str,
    threads: usize,
    prompt: &'static str,
    /// The original first.
    models: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    format: String,
    #[serde(flatten)]
    size: Size,
    seconds_to_convert: Option<f64>,
    generation_tokens_per_second: f64,
    prompt_tokens_per_second: f64,
    /// Beside the original; the original beside itself has no differences.
    answers: Summary,
    /// The model's continuation of the prompt.
    continuation: String,
}

pub(super) fn run(args: &DemoArgs) -> Result<Answer> {
    let isa = Isa::from_env()?;
    let cancelled = cancel_on_signal();
    let unopened = || format!("cannot open {}: run this in the repository, or name a checkpoint", quoted(&args.model));
    let source = &*source::open(&args.model).with_context(unopened)?;
    let original = language_model(open_network(&args.model)?).with_context(|| quoted(&args.model).to_string())?;
    let text = args.text.clone().unwrap_or_else(|| args.model.join("heldout.txt"));
    let protocol = Protocol {
        ctx: original.config().default_context.min(512),
        score: Score::All,
        documents: Some("<|endoftext|>".into()),
        limit: None,
    };
    let windows = protocol.windows(&original, &text::read(&text)?)?;

    let trials: Vec<Trial> =
        FORMATS.iter().map(|&format| Trial::new(source, format, isa, &cancelled)).collect::<Result<_>>()?;
    let models: Vec<&CausalLm> = std::iter::once(&original).chain(trials.iter().map(|trial| &trial.lm)).collect();
    let progress = Bar::items(windows.fed() * (1 + models.len()), args.json);
    let outcome = evaluate(Reference::Model(&original), &models, &windows, None, &progress, &cancelled)?;
    progress.finish();
    let tokens: Vec<u32> = windows.iter().flat_map(|window| window.tokens).copied().collect();
    let speeds = speeds(&models, &tokens[..tokens.len().min(protocol.ctx)], BUDGET, &cancelled)?;

    let mut rows = vec![];
    for (i, lm) in models.iter().enumerate() {
        let trial = i.checked_sub(1).map(|i| &trials[i]);
        rows.push(Row {
            format: trial.map_or_else(|| "original".into(), |trial| trial.name.clone()),
            size: Size::of(lm.model()),
            seconds_to_convert: trial.map(|trial| trial.seconds),
            generation_tokens_per_second: speeds[i].generation,
            prompt_tokens_per_second: speeds[i].prompt,
            answers: outcome.models[i].statistics.summary(),
            continuation: go_on(lm)?,
        });
    }
    let report = Report {
        model: args.model.display().to_string(),
        text: text.display().to_string(),
        protocol: protocol.describe(&windows),
        instruction_set: isa.name(),
        threads: rayon::current_num_threads(),
        prompt: PROMPT,
        models: rows,
    };
    Answer::of(&report, args.json, true, to_text)
}

/// Continues the prompt with the most likely token each time.
fn go_on(lm: &CausalLm) -> Result<String> {
    let tokenizer = lm.tokenizer()?;
    let mut session = lm.session();
    session.feed(&tokenizer.encode(PROMPT, true)?)?;
    let tokens = session.generate(&mut Greedy).take(TOKENS).collect::<Result<Vec<u32>, _>>()?;
    Ok(tokenizer.decode(&tokens)?)
}

fn to_text(report: &Report) -> String {
    let row = |row: &Row| {
        let mut cells = vec![
            row.format.clone(),
            bytes(row.size.file_bytes),
            format!("{:.2}", row.size.layer_bits_per_weight),
            three_digits(row.generation_tokens_per_second),
            three_digits(row.prompt_tokens_per_second),
            digits(row.answers.model.value, 5),
        ];
        cells.extend(match row.seconds_to_convert {
            Some(_) => {
                [digits(row.answers.kld.mean, 3), digits(row.answers.kld.p999, 3), percent(row.answers.same_top)]
            }
            None => ["-", "-", "-"].map(ToOwned::to_owned),
        });
        cells
    };
    let heading = [
        "format",
        ">size",
        ">bits/weight",
        ">tokens/s",
        ">prompt",
        ">perplexity",
        ">KL divergence",
        ">99.9 %",
        ">same token",
    ];
    let rows: Vec<Vec<String>> = report.models.iter().map(row).collect();
    let sentences = report
        .models
        .iter()
        .map(|row| format!("  {:8}  … {}\n", row.format, printable(&row.continuation.trim().replace("\n", " "))));
    format!(
        "{}, converted, and asked to predict {} tokens of {} ({} on {} threads):\n\n{}\n\
         bits/weight     of the layers\n\
         tokens/s        one by one; prompt: many at a time. A small model in the processor's cache: docs/benchmarking.md has large ones\n\
         KL divergence   from the original's predictions: mean, and what 99.9 % have less than\n\
         same token      how often its most likely token is the original's\n\n\
         {} …\n{}",
        quoted(Path::new(&report.model)),
        report.protocol.predictions,
        quoted(Path::new(&report.text)),
        report.instruction_set,
        report.threads,
        table(&heading, &rows),
        report.prompt,
        sentences.collect::<String>(),
    )
}
