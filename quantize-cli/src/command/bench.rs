//! `quantize bench`: what this machine can do, how near each format comes to it, and at what error.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernels::{Format, Isa};
use qruntime::Pages;
use serde::Serialize;

use crate::args::BenchArgs;
use crate::bench::{self, Limit, LimitSpeed, Options, Row, Speed};
use crate::machine::Machine;
use crate::place::{self, Destination};
use crate::plot;
use crate::progress::Progress;
use crate::report::{Answer, bytes, percent, quoted, table, three_digits};
use crate::source::Source;

/// Of each race.
const BUDGET: Duration = Duration::from_secs(6);
const QUICK_BUDGET: Duration = Duration::from_millis(800);

/// Spread of the rounds from which on other processes must be the reason.
const BUSY: f64 = 0.08;

const SIZE: usize = 4096;
const QUICK_SIZE: usize = 2048;

#[derive(Serialize)]
struct Report {
    machine: Machine,
    instruction_set: &'static str,
    threads: Vec<usize>,
    rows: Vec<usize>,
    size: usize,
    pages: &'static str,
    /// What is multiplied: "rounded" to 8 bits, or "exact".
    activations: &'static str,
    /// Which weights were packed.
    weights: String,
    limits: Vec<Limit>,
    formats: Vec<Row>,
    seconds: f64,
}

pub(super) fn run(args: &BenchArgs) -> Result<Answer> {
    let start = Instant::now();
    let machine = Machine::this();
    let options = options(args, &machine)?;
    let inputs: Vec<&Path> = args.model.iter().map(PathBuf::as_path).collect();
    let plot = args.plot.as_deref().map(|path| Destination::new(path, &place::PICTURE, &inputs, args.force));
    let plot = plot.transpose()?;
    let source = args.model.as_deref().map(Source::open).transpose()?;
    let progress = Progress::steps(options.steps());
    let pools = bench::pools(&options.threads)?;

    let count = options.size * options.size;
    let millions = three_digits(count as f64 / 1e6);
    let (weights, described) = match &source {
        Some(source) => {
            let from = format!("{millions} million weights of the matrices of {}", source.path().display());
            (bench::weights_of(source, options.size)?, from)
        }
        None => (bench::normal_weights(options.size), format!("{millions} million normally distributed weights")),
    };
    progress.advance(0, "limits: memory and arithmetic");
    let limits = limits(&options, &pools, &machine)?;
    progress.advance(1, "packing weights");
    let formats = bench::products(&options, &pools, &machine, weights, &progress)?;
    progress.finish();

    let report = Report {
        machine,
        instruction_set: options.isa.name(),
        threads: options.threads,
        rows: options.rows,
        size: options.size,
        pages: if args.huge_pages { "huge" } else { "usual" },
        activations: if args.exact_activations { "exact" } else { "rounded" },
        weights: described,
        limits,
        formats,
        seconds: start.elapsed().as_secs_f64(),
    };
    if let Some(plot) = &plot {
        plot.write(draw(&report).as_bytes())?;
    }
    Answer::of(&report, args.json, true, to_text)
}

fn options(args: &BenchArgs, machine: &Machine) -> Result<Options> {
    let all = args.threads.map_or(machine.cores, usize::from);
    let mut options = Options {
        formats: if args.formats.is_empty() { Format::ALL.to_vec() } else { args.formats.clone() },
        rows: args.rows.iter().copied().map(usize::from).collect(),
        threads: if all == 1 { vec![1] } else { vec![1, all] },
        isa: args.isa.map_or_else(Isa::from_env, Ok)?,
        size: args.size.map_or(if args.quick { QUICK_SIZE } else { SIZE }, usize::from),
        exact_activations: args.exact_activations,
        pages: if args.huge_pages { Pages::Huge } else { Pages::Usual },
        budget: if args.quick { QUICK_BUDGET } else { BUDGET },
    };
    options.rows.sort_unstable();
    options.rows.dedup();
    options.formats.sort_unstable();
    options.formats.dedup();
    Ok(options)
}

/// Measures the limits, with a mapped file of zeros. It has no name, so that nothing is left however the program
/// ends.
fn limits(options: &Options, pools: &bench::Pools, machine: &Machine) -> Result<Vec<Limit>> {
    let len = bench::cold_bytes(machine);
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&vec![0; len])?;
        super::map_unnamed(&file)
    };
    let mapped = write().with_context(|| {
        let (folder, size) = (std::env::temp_dir(), bytes(len as u64));
        format!("cannot write {size} into {}; TMPDIR in the environment names another folder", quoted(&folder))
    })?;
    bench::limits(options, pools, &mapped)
}

/// Column headings for numbers of threads.
fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

fn to_text(report: &Report) -> String {
    let mut text = header(report);
    text.push_str(&limits_table(report));
    for &n in &report.threads {
        text.push_str(&format!("\n{} x {}, {}\n", report.size, report.size, threads(n)));
        text.push_str(&products_table(report, n));
    }
    text.push_str(
        "\nerror    relative RMS error of the weights\n\
         of read  beside reading as many bytes, in the same rounds\n\
         of peak  beside arithmetic without memory, in the same rounds: with integers, for f32 (ndarray) and activations as they are with f32\n",
    );
    text.push_str(&models_table(report));
    text
}

fn header(report: &Report) -> String {
    let machine = &report.machine;
    let memory = machine.memory_bytes.map(|size| format!(", {} of memory", bytes(size))).unwrap_or_default();
    let pages = match (report.pages, &machine.huge_pages) {
        ("huge", _) => "huge, where the system has them".into(),
        (_, Some(mode)) => format!("as the system gives them (transparent huge pages: {mode})"),
        _ => "as the system gives them".into(),
    };
    let speeds = || report.formats.iter().flat_map(|row| &row.speeds);
    let (least, most) = speeds().fold((usize::MAX, 0), |(a, b), s| (a.min(s.rounds), b.max(s.rounds)));
    let mut spreads: Vec<f64> = speeds().map(|speed| speed.spread).collect();
    spreads.sort_by(f64::total_cmp);
    let spread = |part: usize| spreads.get(spreads.len() * part / 100).copied().unwrap_or_default();
    let busy = if spread(50) > BUSY {
        "this machine does other work meanwhile: figures are too low, ratios uncertain\n"
    } else {
        ""
    };
    format!(
        "processor        {}, {} threads, {} of last-level cache{memory}\n\
         instruction set  {}\n\
         pages            {pages}\n\
         weights          {}\n\
         activations      {}\n\
         rounds           {least} to {most}, contestants in turns. Figures are medians; the quartiles lie within {} of them\n\
        \x20                for half of the figures, within {} for nine in ten\n{busy}\n",
        machine.processor,
        machine.cores,
        bytes(machine.cache_bytes),
        report.instruction_set,
        report.weights,
        if report.activations == "exact" { "as they are, f32" } else { "rounded to 8 bits" },
        percent(spread(50)),
        percent(spread(90)),
    )
}

fn limits_table(report: &Report) -> String {
    let columns: Vec<String> = report.threads.iter().map(|&n| format!(">{}", threads(n))).collect();
    let mut heading = vec!["limit", ""];
    heading.extend(columns.iter().map(String::as_str));
    let cells = |limit: &Limit| {
        let speeds = limit.speeds.iter().map(|LimitSpeed { speed, .. }| three_digits(*speed));
        [limit.name.to_owned(), limit.unit.to_owned()].into_iter().chain(speeds).collect()
    };
    table(&heading, &report.limits.iter().map(cells).collect::<Vec<_>>())
}

fn products_table(report: &Report, threads: usize) -> String {
    let columns: Vec<String> = report
        .rows
        .iter()
        .flat_map(|&n| match n {
            1 => [">1 row GB/s".to_owned(), ">of read".to_owned()],
            n => [format!(">{n} rows GOP/s"), ">of peak".to_owned()],
        })
        .collect();
    let mut heading = vec!["format", ">bits/weight", ">error"];
    heading.extend(columns.iter().map(String::as_str));
    let cells = |row: &Row| {
        let error = if row.relative_rms == 0.0 { "-".into() } else { percent(row.relative_rms) };
        let mut cells = vec![row.format.to_owned(), format!("{:.2}", row.bits_per_weight), error];
        for speed in report.rows.iter().filter_map(|&n| row.speed(n, threads)) {
            let Speed { gigabytes_per_second, gigaops_per_second, of_limit, .. } = *speed;
            cells.push(three_digits(if speed.rows == 1 { gigabytes_per_second } else { gigaops_per_second }));
            cells.push(format!("{:.0} %", 100.0 * of_limit));
        }
        cells
    };
    table(&heading, &report.formats.iter().map(cells).collect::<Vec<_>>())
}

fn models_table(report: &Report) -> String {
    let Some(first) = report.formats.first().filter(|row| !row.models.is_empty()) else { return String::new() };
    let columns: Vec<[String; 3]> = first
        .models
        .iter()
        .map(|model| [format!(">{:.0}B size", model.parameters / 1e9), ">token/s".into(), ">prompt".into()])
        .collect();
    let mut heading = vec!["format"];
    heading.extend(columns.iter().flatten().map(String::as_str));
    let mut missing = false;
    let mut rows = vec![];
    for row in &report.formats {
        let mut cells = vec![row.format.to_owned()];
        for model in &row.models {
            let mark = if model.fits == Some(false) { "*" } else { "" };
            missing |= !mark.is_empty();
            cells.push(format!("{}{mark}", bytes(model.bytes as u64)));
            cells.push(three_digits(model.tokens_per_second));
            cells.push(model.prompt_tokens_per_second.map_or_else(|| "-".into(), three_digits));
        }
        rows.push(cells);
    }
    let n = report.threads.iter().copied().max().unwrap_or(1);
    let note = if missing { "* larger than this machine's memory: it would not run at that speed here\n" } else { "" };
    format!(
        "\nModels of 1, 7 and 70 billion parameters, {}: upper bounds in tokens per second, from the speeds above\n\
         (a token reads all weights once; the rest of the work, and attention, come on top)\n{}{note}",
        threads(n),
        table(&heading, &rows),
    )
}

/// The two pictures: generation and prompt against error.
fn draw(report: &Report) -> String {
    let threads = report.threads.iter().copied().max().unwrap_or(1);
    let points = |speed: &dyn Fn(&Row, usize) -> Option<f64>| {
        let point = |row: &Row| {
            Some(plot::Point {
                label: row.format.into(),
                error: row.relative_rms,
                speed: speed(row, threads)?,
                single: speed(row, 1).filter(|_| threads > 1),
            })
        };
        report.formats.iter().filter_map(point).collect::<Vec<_>>()
    };
    let mut panels = vec![];
    if report.rows.contains(&1) {
        panels.push(plot::Panel {
            title: "Generating: one row".into(),
            axis: "tokens per second of a model of 7 billion parameters, at most".into(),
            points: points(&|row, threads| {
                let speed = row.speed(1, threads)?;
                Some(1e9 * speed.gigabytes_per_second / (7e9 * row.bits_per_weight / 8.0))
            }),
        });
    }
    if let Some(&rows) = report.rows.iter().rev().find(|&&n| n > 1) {
        panels.push(plot::Panel {
            title: format!("Reading a prompt: {rows} rows"),
            axis: "billion operations per second".into(),
            points: points(&|row, threads| row.speed(rows, threads).map(|speed| speed.gigaops_per_second)),
        });
    }
    let plot = plot::Plot {
        title: "Speed against error".into(),
        subtitle: format!("{}, {}", report.machine.processor, report.instruction_set),
        legend: [self::threads(threads), self::threads(1)],
        note: report.weights.clone(),
        panels,
    };
    plot::draw(&plot)
}
