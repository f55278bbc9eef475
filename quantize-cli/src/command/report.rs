//! `quantize report`: a model in several formats, in one page.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernels::Isa;
use qruntime::CausalLm;
use qruntime::gguf::Gguf;

use super::eval::protocol;
use super::trial::{GENERATED, PROMPT, Trial, language_model, load_seconds, speeds};
use super::{cancel_on_signal, open_network, pool};
use crate::args::ReportArgs;
use crate::clock::utc_now;
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::eval::causal::{Reference, evaluate};
use crate::eval::size::Size;
use crate::eval::text::{self, Described};
use crate::load::Watch;
use crate::machine::Machine;
use crate::page::{Costs, Entry, Floor, Page, html};
use crate::place::{self, Destination};
use crate::progress::Progress;
use crate::report::{bytes, digits, percent, quoted, three_digits};
use crate::source;
use crate::table::{Column, Table, paragraph, terminal_width};
use crate::version::VERSION;

/// How long each of two speeds is measured, in turns, at least.
const BUDGET: Duration = Duration::from_secs(4);

pub(super) fn run(args: &ReportArgs) -> Result<Answer> {
    let destination = Destination::new(&args.out, &place::PAGE, &[&args.source, &args.text], args.force)?;
    for (i, format) in args.formats.iter().enumerate() {
        ensure!(!args.formats[..i].contains(format), "{format} is there twice");
    }
    let is_whole = args.source.is_dir() || Gguf::is_gguf(&args.source);
    ensure!(is_whole, "{}: expected a folder with config.json and a tokenizer", quoted(&args.source));
    let page = pool(args.threads)?.install(|| measure(args))?;
    destination.write(html(&page).as_bytes())?;
    Answer::of(&page, args.json, true, |page| to_text(page, &args.out))
}

fn measure(args: &ReportArgs) -> Result<Page> {
    let isa = Isa::from_env()?;
    let cancelled = cancel_on_signal();
    let source = &*source::open(&args.source)?;
    let original = language_model(open_network(&args.source)?).with_context(|| quoted(&args.source).to_string())?;
    let protocol = protocol(&args.protocol, &original);
    let windows = protocol.windows(&original, &text::read(&args.text)?)?;

    let mut trials = vec![];
    let progress = Bar::steps(args.formats.len());
    for &format in &args.formats {
        progress.advance(0, &format!("converting to {format}"));
        trials.push(Trial::new(source, format, isa, &cancelled)?);
        progress.advance(1, "");
    }
    progress.finish();
    let rounded = Trial::rounded(source, &cancelled)?;

    let models: Vec<&CausalLm> = trials.iter().chain(&rounded).map(|trial| &trial.lm).collect();
    let progress = Bar::items(windows.fed() * (1 + models.len()), args.json);
    let outcome = evaluate(Reference::Model(&original), &models, &windows, None, &progress, &cancelled)?;
    progress.finish();

    let contestants: Vec<&CausalLm> = std::iter::once(&original).chain(models).collect();
    let tokens: Vec<u32> = windows.iter().flat_map(|window| window.tokens).copied().collect();
    let context = original.config().default_context;
    let watch = Watch::start();
    let speeds = speeds(&contestants, &tokens[..tokens.len().min(context)], BUDGET, &cancelled)?;
    let busy = watch.stop().reasons();
    let costs = |i: usize| Costs {
        size: Size::of(contestants[i].model()),
        generation: speeds[i].generation,
        generation_spread: speeds[i].generation_spread,
        prompt: speeds[i].prompt,
        prompt_spread: speeds[i].prompt_spread,
    };

    let mut formats = vec![];
    for (i, (trial, measured)) in trials.iter().zip(&outcome.models).enumerate() {
        formats.push(Entry {
            name: trial.name.clone(),
            costs: costs(1 + i),
            load_seconds: trial.load_seconds()?,
            summary: Some(measured.statistics.summary()),
            divergences: measured.statistics.divergences().to_vec(),
            worst: trial.worst.clone(),
        });
    }
    let machine = Machine::this();
    let date = utc_now();
    let measured = format!(
        "Measured {} on {}, {} threads, {}, with quantize {VERSION}",
        date.split('T').next().unwrap_or_default(),
        machine.processor,
        rayon::current_num_threads(),
        isa.name()
    );
    let described = protocol.describe(&windows);
    let facts = facts(args, &original, described, rounded.is_some(), machine, isa, date);
    let kinds = source.tensors().iter().max_by_key(|tensor| tensor.elements()).map(|tensor| tensor.stored());
    Ok(Page {
        model: args.source.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        original: Entry {
            name: kinds.map_or_else(|| "original".into(), |stored| format!("original ({stored})")),
            costs: costs(0),
            load_seconds: load_seconds(&args.source)?,
            summary: None,
            divergences: vec![],
            worst: vec![],
        },
        noise_floor: outcome
            .models
            .get(trials.len())
            .map(|measured| Floor { summary: measured.statistics.summary(), costs: costs(1 + trials.len()) }),
        formats,
        facts,
        command: command(args),
        measured,
        busy,
    })
}

/// Returns what was measured on what, as names and values.
fn facts(
    args: &ReportArgs,
    original: &CausalLm,
    described: Described,
    has_floor: bool,
    machine: Machine,
    isa: Isa,
    date: String,
) -> Vec<(String, String)> {
    let memory = machine.memory_bytes.map(|size| format!(", {} of memory", bytes(size))).unwrap_or_default();
    let text_name = text::name(&args.text);
    let config = original.config();
    let facts = [
        (
            "Model",
            format!(
                "{} ({}, {} layers, hidden size {}, vocabulary {})",
                quoted(&args.source),
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
            match has_floor {
                true => "the original with its weights rounded to bfloat16".into(),
                false => "none: the original's weights are bfloat16".into(),
            },
        ),
        (
            "Speed",
            format!(
                "prompts of up to {PROMPT} tokens, then up to {GENERATED} tokens one by one; models in turns, medians; \
                 ± is within what half of the rounds lie"
            ),
        ),
        (
            "Opened in",
            "mapping the file and building the network, the file in the system's cache; median of five".into(),
        ),
        ("Date", date),
        ("System", [Some(machine.system), machine.kernel].into_iter().flatten().collect::<Vec<_>>().join(", ")),
        ("Processor", format!("{}{memory}", machine.processor)),
        ("Threads", rayon::current_num_threads().to_string()),
        ("Instruction set", isa.name().to_owned()),
        ("Version", format!("quantize {VERSION}")),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
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
    let columns = [
        Column::left("format"),
        Column::right("size"),
        Column::right("bits/\nweight").optional(),
        Column::right("opened").optional(),
        Column::right("token/s"),
        Column::right("prompt"),
        Column::right("perplexity"),
        Column::right("KL\ndivergence"),
        Column::right("99.9 %").optional(),
        Column::right("same\ntoken"),
    ];
    let row = |entry: &Entry| {
        let costs = &entry.costs;
        let mut cells = vec![
            entry.name.clone(),
            bytes(costs.size.file_bytes),
            format!("{:.2}", costs.size.layer_bits_per_weight),
            format!("{} ms", three_digits(1000.0 * entry.load_seconds)),
            three_digits(costs.generation),
            three_digits(costs.prompt),
        ];
        cells.extend(match &entry.summary {
            Some(s) => [digits(s.model.value, 5), digits(s.kld.mean, 3), digits(s.kld.p999, 3), percent(s.same_top)],
            None => ["-", "-", "-", "-"].map(ToOwned::to_owned),
        });
        cells
    };
    let table = Table::new(columns).with_rows(std::iter::once(&page.original).chain(&page.formats).map(row));
    let busy = match page.busy.is_empty() {
        true => String::new(),
        false => paragraph("busy: ", &format!("speeds are too low; {}", page.busy.join("; ")), terminal_width()),
    };
    format!("{table}\n{busy}wrote {}\n", quoted(out))
}
