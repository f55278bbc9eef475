//! `quantize report`: a model in several formats, in one page.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernels::Isa;
use qruntime::CausalLm;

use super::eval::protocol;
use super::trial::{GENERATED, PROMPT, Trial, language_model, load_seconds, speeds};
use super::{cancel_on_signal, open_network, pool};
use crate::args::ReportArgs;
use crate::eval::causal::{Reference, evaluate};
use crate::eval::network::Size;
use crate::eval::text;
use crate::machine::Machine;
use crate::page::{Entry, Page, html};
use crate::place::{self, Destination};
use crate::progress::Progress;
use crate::report::{Answer, bytes, digits, percent, quoted, table, three_digits};
use crate::source::Source;

/// How long each of two speeds is measured, in turns, at least.
const BUDGET: Duration = Duration::from_secs(4);

pub(super) fn run(args: &ReportArgs) -> Result<Answer> {
    let destination = Destination::new(&args.out, &place::PAGE, &[&args.source, &args.text], args.force)?;
    ensure!(args.source.is_dir(), "{}: expected a folder with config.json and a tokenizer", quoted(&args.source));
    let page = pool(args.threads)?.install(|| measure(args))?;
    destination.write(html(&page).as_bytes())?;
    Answer::of(&page, args.json, true, |page| to_text(page, &args.out))
}

fn measure(args: &ReportArgs) -> Result<Page> {
    let isa = Isa::from_env()?;
    let cancelled = cancel_on_signal();
    let source = Source::open(&args.source)?;
    let original = language_model(open_network(&args.source)?).with_context(|| args.source.display().to_string())?;
    let protocol = protocol(&args.protocol, &original);
    let windows = protocol.windows(&original, &text::read(&args.text)?)?;

    let mut trials = vec![];
    let progress = Progress::steps(args.formats.len());
    for &format in &args.formats {
        progress.advance(0, &format!("converting to {format}"));
        if trials.iter().any(|trial: &Trial| trial.name == format.name()) {
            bail!("{format} is there twice");
        }
        trials.push(Trial::new(&source, format, isa, &cancelled)?);
        progress.advance(1, "");
    }
    progress.finish();
    let rounded = Trial::rounded(&source, &cancelled)?;

    let models: Vec<&CausalLm> = trials.iter().chain(&rounded).map(|trial| &trial.lm).collect();
    let progress = Progress::items(windows.fed() * (1 + models.len()), args.json);
    let outcome = evaluate(Reference::Model(&original), &models, &windows, None, &progress, &cancelled)?;
    progress.finish();

    let contestants: Vec<&CausalLm> = std::iter::once(&original).chain(trials.iter().map(|trial| &trial.lm)).collect();
    let tokens: Vec<u32> = windows.iter().flat_map(|window| window.tokens).copied().collect();
    let context = original.config().default_context;
    let speeds = speeds(&contestants, &tokens[..tokens.len().min(context)], BUDGET, &cancelled)?;

    let mut formats = vec![];
    for ((trial, measured), speed) in trials.iter().zip(&outcome.models).zip(&speeds[1..]) {
        formats.push(Entry {
            name: trial.name.clone(),
            size: Size::of(trial.lm.model()),
            load_seconds: trial.load_seconds()?,
            generation: speed.generation,
            prompt: speed.prompt,
            summary: Some(measured.statistics.summary()),
            divergences: measured.statistics.divergences().to_vec(),
            worst: trial.worst.clone(),
        });
    }
    let described = protocol.describe(&windows);
    let machine = Machine::this();
    let memory = machine.memory_bytes.map(|size| format!(", {} of memory", bytes(size))).unwrap_or_default();
    let threads = rayon::current_num_threads();
    let text_name = text::name(&args.text);
    let config = original.config();
    let facts = [
        (
            "Model",
            format!(
                "{} ({}, {} layers, hidden size {}, vocabulary {})",
                args.source.display(),
                config.family,
                config.layers,
                config.hidden,
                config.vocab_size
            ),
        ),
        ("Text", format!("{text_name}: {}", described.counts())),
        ("Protocol", described.protocol),
        (
            "Noise floor",
            match rounded {
                Some(_) => "the original with its weights rounded to bfloat16".into(),
                None => "none: the original's weights are bfloat16".into(),
            },
        ),
        (
            "Speed",
            format!(
                "prompts of up to {PROMPT} tokens, then up to {GENERATED} tokens one by one; models in turns, medians"
            ),
        ),
        (
            "Opened in",
            "mapping the file and building the network, the file in the system's cache; median of five".into(),
        ),
        ("Processor", format!("{}{memory}", machine.processor)),
        ("Threads", threads.to_string()),
        ("Instruction set", isa.name().to_owned()),
        ("Version", concat!("quantize ", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    let kinds = source.tensors().iter().max_by_key(|tensor| tensor.elements()).map(|tensor| tensor.dtype());
    Ok(Page {
        model: args.source.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        original: Entry {
            name: kinds.map_or_else(|| "original".into(), |dtype| format!("original ({dtype})")),
            size: Size::of(original.model()),
            load_seconds: load_seconds(&args.source)?,
            generation: speeds[0].generation,
            prompt: speeds[0].prompt,
            summary: None,
            divergences: vec![],
            worst: vec![],
        },
        noise_floor: outcome.models.get(trials.len()).map(|measured| measured.statistics.summary()),
        formats,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
        command: command(args),
    })
}

/// The command that makes this page again, but for what has its usual value.
fn command(args: &ReportArgs) -> String {
    let quoted = |text: &str| match text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=,".contains(c)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    };
    let path = |path: &Path| quoted(&path.display().to_string());
    let formats: Vec<&str> = args.formats.iter().map(|format| format.name()).collect();
    let mut command =
        format!("quantize report {} --formats {} --text {}", path(&args.source), formats.join(","), path(&args.text));
    let protocol = &args.protocol;
    let options = [
        protocol.ctx.map(|n| format!("--ctx {n}")),
        protocol.score.as_ref().map(|score| format!("--score {score}")),
        protocol.documents.as_ref().map(|mark| quoted(&format!("--documents={mark}"))),
        protocol.windows.map(|n| format!("--windows {n}")),
        args.threads.map(|n| format!("--threads {n}")),
        Some(format!("-o {}", path(&args.out))),
    ];
    for option in options.into_iter().flatten() {
        command.push(' ');
        command.push_str(&option);
    }
    command
}

fn to_text(page: &Page, out: &Path) -> String {
    let heading = [
        "format",
        ">size",
        ">bits/weight",
        ">opened",
        ">token/s",
        ">prompt",
        ">perplexity",
        ">KL divergence",
        ">99.9 %",
        ">same token",
    ];
    let row = |entry: &Entry| {
        let mut cells = vec![
            entry.name.clone(),
            bytes(entry.size.file_bytes),
            format!("{:.2}", entry.size.layer_bits_per_weight),
            format!("{} ms", three_digits(1000.0 * entry.load_seconds)),
            three_digits(entry.generation),
            three_digits(entry.prompt),
        ];
        cells.extend(match &entry.summary {
            Some(s) => [digits(s.model.value, 5), digits(s.kld.mean, 3), digits(s.kld.p999, 3), percent(s.same_top)],
            None => ["-", "-", "-", "-"].map(ToOwned::to_owned),
        });
        cells
    };
    let rows: Vec<Vec<String>> = std::iter::once(&page.original).chain(&page.formats).map(row).collect();
    format!("{}\nwrote {}\n", table(&heading, &rows), quoted(out))
}
