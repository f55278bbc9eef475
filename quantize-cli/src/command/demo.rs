//! `quantize demo`: the whole way on a real model, from its checkpoint to products, with what it costs and what it gains.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kernels::{Format, Isa, Rounding};
use ndarray::Array2;
use qruntime::container::Storage;
use qruntime::{Linear, Model, Workspace};
use serde::Serialize;

use crate::args::DemoArgs;
use crate::compare::compare;
use crate::convert::convert;
use crate::measure::{Contestant, take_turns};
use crate::output::Temporary;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Answer, bytes, percent, table, three_digits};
use crate::source::Source;

/// Rows of activations of the larger product: a prompt.
const PROMPT: usize = 512;

/// How long each speed is measured.
const BUDGET: Duration = Duration::from_millis(1500);

#[derive(Serialize)]
struct Report {
    model: String,
    source_bytes: u64,
    instruction_set: &'static str,
    threads: usize,
    formats: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    format: &'static str,
    /// Bytes of the file.
    bytes: u64,
    bits_per_weight: f64,
    seconds_to_convert: f64,
    /// Relative RMS errors over all packed tensors: median of the tensors, and the worst one.
    weight_error: f64,
    worst_error: f64,
    /// Median over the tensors of the error of a product with realistic activations.
    product_error: f64,
    /// How many times as fast as `f32` all matrices are multiplied, with one row of activations and with many.
    speed_up_one_row: f64,
    speed_up_prompt: f64,
    gigabytes_per_second_one_row: f64,
    gigaops_per_second_prompt: f64,
}

pub(super) fn run(args: &DemoArgs) -> Result<Answer> {
    let isa = Isa::from_env()?;
    let source = Source::open(&args.model).with_context(|| {
        format!("cannot open {}: run this in the repository, or name a checkpoint", args.model.display())
    })?;
    let formats = Format::ALL.iter().map(|&format| row(&source, format, isa)).collect::<Result<_>>()?;
    let report = Report {
        model: args.model.display().to_string(),
        source_bytes: source.total_bytes(),
        instruction_set: isa.name(),
        threads: rayon::current_num_threads(),
        formats,
    };
    Answer::of(&report, args.json, true, to_text)
}

/// Converts to one format, into a file that does not outlive the measurement.
fn row(source: &Source, format: Format, isa: Isa) -> Result<Row> {
    let plan = Plan::new(source, format, &[], Rounding::default())?;
    let temporary = Temporary::file(&std::env::temp_dir().join("quantize-demo.safetensors"))?;
    let start = Instant::now();
    let file = std::fs::File::create(temporary.path()).context("cannot create a temporary file")?;
    convert(source, &plan, isa, file, &Progress::silent(), &false.into())?;
    let seconds_to_convert = start.elapsed().as_secs_f64();

    let model = super::open(temporary.path())?;
    let comparison = compare(source, &model, &Progress::silent())?;
    let mut weights: Vec<f64> = comparison.packed.iter().map(|t| t.relative_rms).collect();
    let mut products: Vec<f64> = comparison.packed.iter().map(|t| t.product_realistic).collect();
    let layers = layers(&model)?;
    if layers.is_empty() {
        bail!("no matrices to multiply");
    }
    let packed: usize = layers.iter().map(|layer| layer.weight().as_bytes().len()).sum();
    let operations: f64 = layers.iter().map(|l| 2.0 * l.in_features() as f64 * l.out_features() as f64).sum();
    let one = times(&layers, 1)?;
    let prompt = times(&layers, PROMPT)?;
    Ok(Row {
        format: format.name(),
        bytes: model.file_bytes(),
        bits_per_weight: 8.0 * plan.bytes() as f64 / plan.elements().max(1) as f64,
        seconds_to_convert,
        worst_error: weights.iter().copied().fold(0.0, f64::max),
        weight_error: median(&mut weights),
        product_error: median(&mut products),
        speed_up_one_row: one.plain / one.packed,
        speed_up_prompt: prompt.plain / prompt.packed,
        gigabytes_per_second_one_row: packed as f64 / one.packed / 1e9,
        gigaops_per_second_prompt: operations * PROMPT as f64 / prompt.packed / 1e9,
    })
}

/// Every single matrix of a model.
fn layers(model: &Model) -> Result<Vec<Linear<'_>>> {
    let packed = model.tensors().filter(|entry| matches!(entry.storage(), Storage::Packed(_)));
    let matrices = packed.map(|entry| model.packed(entry.name()));
    matrices.map(|tensor| Ok(tensor.map(|tensor| Linear::new(tensor.matrix(0), model.isa()))?)).collect()
}

/// Seconds for the products of all layers.
struct Times {
    packed: f64,
    plain: f64,
}

/// Times all layers' products with `rows` rows of activations: packed, and in `f32` with the decoded weights.
fn times(layers: &[Linear<'_>], rows: usize) -> Result<Times> {
    let mut operands = Vec::new();
    for layer in layers {
        let mut weights = Array2::zeros((layer.out_features(), layer.in_features()));
        for (row, mut weights) in weights.outer_iter_mut().enumerate() {
            layer.weight().decode_row(row, weights.as_slice_mut().context("contiguous")?)?;
        }
        let x =
            Array2::from_shape_fn((rows, layer.in_features()), |(i, j)| ((i * 31 + j * 17) % 63) as f32 / 31.0 - 1.0);
        let y = Array2::<f32>::zeros((rows, layer.out_features()));
        operands.push((layer, weights, x, y));
    }
    let mut outputs: Vec<Array2<f32>> = operands.iter().map(|(.., y)| y.clone()).collect();
    let mut workspace = Workspace::default();
    let mut failed = None;
    let packed = Contestant::new(|| {
        for ((layer, _, x, _), y) in operands.iter().zip(&mut outputs) {
            failed = layer.forward_into(x.view(), &mut workspace, y.view_mut()).err().or(failed.take());
        }
        black_box(&outputs);
    });
    let plain = Contestant::new(|| {
        for (_, weights, x, _) in &operands {
            black_box(x.dot(&weights.t()));
        }
    });
    let mut contestants = [packed, plain];
    let seconds = take_turns(&mut contestants, BUDGET);
    drop(contestants);
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Times { packed: seconds[0], plain: seconds[1] }),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn to_text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .formats
        .iter()
        .map(|row| {
            vec![
                row.format.into(),
                bytes(row.bytes),
                format!("{:.2}", row.bits_per_weight),
                percent(row.bytes as f64 / report.source_bytes as f64),
                percent(row.weight_error),
                percent(row.worst_error),
                percent(row.product_error),
                format!("{} x", three_digits(row.speed_up_one_row)),
                format!("{} x", three_digits(row.speed_up_prompt)),
                format!("{} GB/s", three_digits(row.gigabytes_per_second_one_row)),
                format!("{:.0} GOP/s", row.gigaops_per_second_prompt),
            ]
        })
        .collect();
    let heading = [
        "format",
        ">size",
        ">bits/weight",
        ">of source",
        ">weight error",
        ">worst",
        ">product error",
        ">1 row",
        ">512 rows",
        ">1 row",
        ">512 rows",
    ];
    format!(
        "{}, {} as it came. Converted, opened and multiplied with {} on {} threads:\n\n{}\n\
         Errors are relative RMS, medians over the matrices; speeds are all matrices' products beside the same in f32\n\
         (ndarray), in turns. The model is small and stays in the processor's cache: for speeds that memory limits, see\n\
         docs/benchmarking.md.\n",
        report.model,
        bytes(report.source_bytes),
        report.instruction_set,
        report.threads,
        table(&heading, &rows),
    )
}
