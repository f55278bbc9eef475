//! `quantize bench`: what this machine can do, how near each format comes to it, and at what error.

mod picture;
mod text;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernels::{Format, Isa};
use qruntime::Pages;
use serde::Serialize;

use crate::args::BenchArgs;
use crate::bench::{self, Baseline, Comparison, Limit, Options, Row, Size};
use crate::clock::utc_now;
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::load::{Load, Watch};
use crate::machine::Machine;
use crate::place::{self, Destination};
use crate::progress::Progress;
use crate::report::{bytes, percent, quoted, three_digits};
use crate::source;
use crate::version::COMMIT;

/// Of each race.
const BUDGET: Duration = Duration::from_secs(6);
const QUICK_BUDGET: Duration = Duration::from_millis(800);

/// Bytes that pass through the caches between two turns, at most, where the run is to be quick:
/// those of large servers hold more.
const QUICK_COLD_BYTES: usize = 256 << 20;

/// Spread of half of the figures from which on other processes must be the reason.
const SPREAD: f64 = 0.08;

/// The same for what becomes of the same arithmetic from race to race.
const DRIFT: f64 = 0.15;

const SIZE: usize = 4096;
const QUICK_SIZE: usize = 2048;

/// What JSON says; `docs/benchmarking.md` describes each field.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    commit: Option<&'static str>,
    date: String,
    machine: Machine,
    instruction_set: &'static str,
    threads: Vec<usize>,
    rows: Vec<usize>,
    size: Size,
    pages: &'static str,
    activations: &'static str,
    weights: String,
    race_seconds: f64,
    cold_bytes: usize,
    /// Whether so many bytes leave nothing in the caches of the weights that they held.
    from_memory: bool,
    load: Disturbance,
    limits: Vec<Limit>,
    formats: Vec<Row>,
    comparison: Option<Comparison>,
    seconds: f64,
}

/// Whether other work on the machine disturbed the figures.
#[derive(Serialize)]
struct Disturbance {
    busy: bool,
    /// In words.
    reasons: Vec<String>,
    #[serde(flatten)]
    load: Load,
    /// Half of the figures have a smaller spread.
    spread: f64,
    /// Nine in ten have.
    spread_nine_in_ten: f64,
    /// How far integer arithmetic of one race is above that of another.
    drift: f64,
    /// Figures that are above what is possible.
    disturbed: usize,
}

impl Disturbance {
    fn of(load: Load, limits: &[Limit], products: &bench::Products) -> Self {
        let speeds = || products.rows.iter().flat_map(|row| &row.speeds);
        let mut spreads: Vec<f64> = speeds().map(|speed| speed.spread).collect();
        spreads.sort_by(f64::total_cmp);
        let spread = |part: usize| spreads.get(spreads.len() * part / 100).copied().unwrap_or_default();
        let (spread, spread_nine_in_ten) = (spread(50), spread(90));
        let disturbed = speeds().filter(|speed| speed.disturbed).count();
        let drift = drift(limits, &products.peaks);

        let mut reasons = load.reasons();
        if spread > SPREAD {
            reasons.push(format!("half of the figures have quartiles {} or more from their medians", percent(spread)));
        }
        if drift > DRIFT {
            reasons.push(format!("the same arithmetic was up to {} faster from one race to the next", percent(drift)));
        }
        if disturbed > 0 {
            reasons.push(format!("{disturbed} of {} figures are above what is possible", spreads.len()));
        }
        Self { busy: !reasons.is_empty(), reasons, load, spread, spread_nine_in_ten, drift, disturbed }
    }
}

/// How much faster integer arithmetic was in the fastest race than in the slowest one, with as many
/// threads.
fn drift(limits: &[Limit], peaks: &[(usize, f64)]) -> f64 {
    let Some(limit) = limits.iter().find(|limit| limit.name == bench::INTEGER) else { return 0.0 };
    let drifts = limit.speeds.iter().map(|alone| {
        let races = peaks.iter().filter(|(threads, _)| *threads == alone.threads).map(|(_, speed)| *speed);
        let (least, most) = races.fold((alone.speed, alone.speed), |(a, b), speed| (speed.min(a), speed.max(b)));
        most / least - 1.0
    });
    drifts.fold(0.0, f64::max)
}

pub(super) fn run(args: &BenchArgs) -> Result<Answer> {
    let start = Instant::now();
    let machine = Machine::this();
    let options = options(args, &machine)?;
    let inputs: Vec<&Path> = args.model.iter().chain(&args.compare).map(PathBuf::as_path).collect();
    let plot = args.plot.as_deref().map(|path| Destination::new(path, &place::PICTURE, &inputs, args.force));
    let plot = plot.transpose()?;
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    let source = args.model.as_deref().map(source::open).transpose()?;
    let progress = Bar::steps(options.steps());
    let pools = bench::pools(&options.threads)?;

    let millions = three_digits(options.size.elements() as f64 / 1e6);
    let (weights, described) = match source.as_deref() {
        Some(source) => {
            let from = format!("{millions} million weights of the matrices of {}", quoted(source.path()));
            (bench::weights_of(source, options.size)?, from)
        }
        None => (bench::normal_weights(options.size), format!("{millions} million normally distributed weights")),
    };
    progress.advance(0, "limits: memory and arithmetic");
    let watch = Watch::start();
    let limits = limits(&options, &pools)?;
    progress.advance(1, "packing weights");
    let products = bench::products(&options, &pools, &machine, weights, &progress)?;
    let load = Disturbance::of(watch.stop(), &limits, &products);
    progress.finish();

    let from_memory = options.cold_bytes as u64 >= bench::clearing_bytes(&machine);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        date: utc_now(),
        machine,
        instruction_set: options.isa.name(),
        threads: options.threads,
        rows: options.rows,
        size: options.size,
        pages: if args.huge_pages { "huge" } else { "usual" },
        activations: if args.exact_activations { "exact" } else { "rounded" },
        weights: described,
        race_seconds: options.budget.as_secs_f64(),
        cold_bytes: options.cold_bytes,
        from_memory,
        load,
        limits,
        formats: products.rows,
        comparison: None,
        seconds: start.elapsed().as_secs_f64(),
    };
    if let Some(baseline) = &baseline {
        report.comparison = Some(baseline.beside(&Baseline::new(serde_json::to_value(&report)?)?));
    }
    if let Some(plot) = &plot {
        plot.write(picture::draw(&report).as_bytes())?;
    }
    Answer::of(&report, args.json, true, text::to_text)
}

fn options(args: &BenchArgs, machine: &Machine) -> Result<Options> {
    let usual = if args.quick { QUICK_SIZE } else { SIZE };
    let cold_bytes = bench::cold_bytes(machine);
    let mut options = Options {
        formats: if args.formats.is_empty() { Format::ALL.to_vec() } else { args.formats.clone() },
        rows: args.rows.iter().copied().map(usize::from).collect(),
        threads: args.threads.iter().copied().map(usize::from).chain([1]).collect(),
        isa: args.isa.map_or_else(Isa::from_env, Ok)?,
        size: args.size.unwrap_or(Size::square(usual)),
        exact_activations: args.exact_activations,
        pages: if args.huge_pages { Pages::Huge } else { Pages::Usual },
        budget: if args.quick { QUICK_BUDGET } else { BUDGET },
        cold_bytes: if args.quick { cold_bytes.min(QUICK_COLD_BYTES) } else { cold_bytes },
    };
    if args.threads.is_empty() {
        options.threads.push(machine.cores);
    }
    for numbers in [&mut options.rows, &mut options.threads] {
        numbers.sort_unstable();
        numbers.dedup();
    }
    options.formats.sort_unstable();
    options.formats.dedup();
    Ok(options)
}

/// Measures the limits, with a mapped file of zeros. It has no name, so that nothing is left
/// however the program ends.
fn limits(options: &Options, pools: &bench::Pools) -> Result<Vec<Limit>> {
    let len = options.cold_bytes;
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&vec![0; len])?;
        super::map_unnamed(&file)
    };
    let mapped = write().with_context(|| {
        let (folder, size) = (std::env::temp_dir(), bytes(len as u64));
        format!("cannot write {size} into {}; TMPDIR in the environment names another folder", quoted(&folder))
    })?;
    Ok(bench::limits(options, pools, &mapped)?)
}

/// A number of threads, in words.
fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{LimitSpeed, Speed};

    fn limit(speed: f64) -> Vec<Limit> {
        let speeds = vec![LimitSpeed { threads: 2, speed, spread: 0.01, rounds: 3 }];
        vec![Limit { name: bench::INTEGER, unit: "GOP/s", speeds }]
    }

    /// One product of one format.
    fn products(spread: f64, of_limit: f64, peak: f64) -> bench::Products {
        let speed = Speed {
            rows: 8,
            threads: 2,
            seconds: 1.0,
            rounds: 3,
            spread,
            gigabytes_per_second: 1.0,
            gigaops_per_second: 1.0,
            of_limit,
            disturbed: of_limit > 2.0,
        };
        let row = Row { format: "q4_0", bits_per_weight: 4.5, relative_rms: 0.1, speeds: vec![speed], models: vec![] };
        bench::Products { rows: vec![row], peaks: vec![(1, 1.0), (2, peak)] }
    }

    #[test]
    fn a_busy_machine_is_called_busy() {
        let quiet = Load { others: Some(0.01), waiting: None, load_average: None };
        let found =
            |load, spread, of_limit, peak| Disturbance::of(load, &limit(100.0), &products(spread, of_limit, peak));
        let calm = found(quiet, 0.02, 0.9, 95.0);
        assert!(!calm.busy && calm.reasons.is_empty());
        assert!((calm.drift - 100.0 / 95.0 + 1.0).abs() < 1e-9);
        for (disturbance, reason) in [
            (found(Load { others: Some(0.5), ..quiet }, 0.02, 0.9, 95.0), "other processes took 50.0 %"),
            (found(quiet, 0.2, 0.9, 95.0), "quartiles 20.0 % or more"),
            (found(quiet, 0.02, 6.63, 95.0), "1 of 1 figures are above what is possible"),
            (found(quiet, 0.02, 0.9, 50.0), "up to 100 % faster"),
        ] {
            assert!(disturbance.busy);
            assert_eq!(disturbance.reasons.len(), 1);
            assert!(disturbance.reasons[0].contains(reason), "{:?}", disturbance.reasons);
        }
    }

    /// Made-up figures, as large as they come.
    fn report() -> Report {
        let threads = vec![1, 16];
        let rows = vec![1, 2, 8, 64, 512, 4096];
        let cells = || rows.iter().flat_map(|&rows| threads.iter().map(move |&threads| (rows, threads)));
        let speed = |(rows, threads)| Speed {
            rows,
            threads,
            gigabytes_per_second: 388.8,
            gigaops_per_second: 12345.6,
            of_limit: if rows == 8 { 6.63 } else { 1.08 },
            disturbed: rows == 8,
            ..products(0.3, 1.0, 1.0).rows[0].speeds[0]
        };
        let model = |parameters| bench::Prediction {
            parameters,
            bytes: parameters * 0.7,
            fits: Some(false),
            tokens_per_second: 123.4,
            prompt_tokens_per_second: Some(1234.5),
        };
        let row = |format: &Format| Row {
            format: format.name(),
            bits_per_weight: format.bits_per_weight(),
            relative_rms: 0.112,
            speeds: cells().map(speed).collect(),
            models: [1e9, 7e9, 70e9].map(model).to_vec(),
        };
        let formats: Vec<Row> = Format::ALL.iter().map(row).collect();
        let cell = |(rows, threads)| bench::Cell {
            name: "q4_k".into(),
            rows: Some(rows),
            threads,
            ratio: 1.23,
            within_spread: true,
        };
        Report {
            version: "0.1.0",
            commit: Some("0123456789ab"),
            date: utc_now(),
            machine: Machine::this(),
            instruction_set: "avx512-vnni",
            threads: threads.clone(),
            rows: rows.clone(),
            size: Size { rows: 14336, cols: 4096 },
            pages: "huge",
            activations: "rounded",
            weights: "58.7 million weights of the matrices of a/folder/with/a/long/name/that/somebody/made".into(),
            race_seconds: 6.0,
            cold_bytes: QUICK_COLD_BYTES,
            from_memory: false,
            load: Disturbance::of(
                Load::default(),
                &limit(1.0),
                &bench::Products { rows: formats.clone(), peaks: vec![] },
            ),
            limits: vec![Limit { name: "read, mapped file", ..limit(9999.0).remove(0) }, limit(9999.0).remove(0)],
            formats,
            comparison: Some(Comparison {
                version: Some("0.1.0".into()),
                commit: Some("0123456789ab".into()),
                date: Some(utc_now()),
                warnings: vec!["processor: another one with quite a long name @ 2.60 GHz then, this one now".into()],
                limits: vec![],
                formats: cells().map(cell).collect(),
            }),
            seconds: 60.0,
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let report = report();
        let text = text::fit(&report, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for fragment in ["4096 rows", "GOP/s", "busy", "BUSY ", "1.23~", "  but processor: another one"] {
            assert!(text.contains(fragment), "{fragment} in {text}");
        }
        assert!(!text.contains("663 %"), "{text}");
        let caches = |from_memory| text::fit(&Report { from_memory, ..self::report() }, None).contains("\nCACHES ");
        assert!(caches(false) && !caches(true));
        // A pipe gets whole lines.
        let text = text::fit(&report, None);
        for fragment in
            ["bits/weight   error  1 row GB/s  of read  2 rows GOP/s  of peak", "70B size  token/s  prompt\n"]
        {
            assert!(text.contains(fragment), "{fragment} in {text}");
        }
    }

    #[test]
    fn the_picture_says_that_the_machine_was_busy() {
        let svg = picture::draw(&report());
        assert!(svg.contains("Weights may have come from caches"), "{svg}");
        assert!(svg.contains("Measured while this machine did other work"), "{svg}");
        assert!(svg.contains("as 14336 x 4096.") && svg.contains("quantize 0.1.0 (0123456789ab)"), "{svg}");
    }
}
