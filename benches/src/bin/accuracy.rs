//! Speed and accuracy on the same weights: one row of the table for each format and way of
//! rounding.
//!
//! `cargo run --release -p benches --bin accuracy -- [CHECKPOINT]`, by default the model in this
//! repository. Encodes every matrix of the checkpoint that a conversion would pack; errors are over
//! all of them. With one row of activations, copies of the matrices, larger than any cache, take
//! turns. Uses one thread; contestants take turns, and the table shows medians.

#![allow(clippy::print_stdout, reason = "prints a table")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::COLD_BYTES;
use kernels::{Activations, Format, Isa, Matrix, Rounding};
use ndarray::Array2;
use quantize_cli::measure::{Contestant, read_all, take_turns};
use quantize_cli::output::{Output, Panels};
use quantize_cli::plan::{Action, Plan, Request};
use quantize_cli::report::{percent, table, three_digits};
use quantize_cli::source::{self, Source};

/// Activation rows of the larger product.
const PROMPT: usize = 512;

/// One matrix of the checkpoint.
struct Layer {
    weights: Array2<f32>,
    x: Array2<f32>,
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).map_or_else(|| PathBuf::from("models/storyteller-6m"), PathBuf::from);
    let isa = Isa::from_env()?;
    let layers = layers(&*source::open(&path)?)?;
    let total: usize = layers.iter().map(|layer| layer.weights.len()).sum();
    println!("{}: {} matrices, {total} weights; {isa}, one thread\n", path.display(), layers.len());
    let mut rows = Vec::new();
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            if format == Format::Q8_0 && rounding == Rounding::Search {
                continue; // There is none.
            }
            rows.push(row(&layers, format, rounding, isa)?);
        }
    }
    let heading = [
        "format",
        "rounding",
        ">bits/weight",
        ">weight error",
        ">product error",
        ">1 row GB/s",
        ">of read",
        ">beside f32",
        ">512 rows GOP/s",
        ">beside f32",
    ];
    println!("{}", table(&heading, &rows));
    println!(
        "Errors: relative RMS over all matrices; products with random activations, beside binary64 on the source's weights."
    );
    Ok(())
}

/// Reads the matrices that a conversion would pack.
fn layers(source: &dyn Source) -> Result<Vec<Layer>> {
    let request = Request { to: Format::Q8_0.into(), rules: &[], rounding: Rounding::Nearest.name() };
    let plan = Plan::new(source.tensors(), source.companions().model_type(), request, &|t, a| Panels.stored(t, a))?;
    let packed = plan.steps.iter().filter(|t| matches!(t.action, Action::Pack(_)) && t.shape.len() == 2);
    packed
        .map(|step| {
            let tensor = &source.tensors()[step.tensor];
            let mut weights = Array2::zeros((tensor.rows(), tensor.cols()));
            source.read_f32(step.tensor, 0..tensor.elements(), weights.as_slice_mut().context("contiguous")?)?;
            let x = benches::numbers(PROMPT * tensor.cols());
            Ok(Layer { weights, x: Array2::from_shape_vec((PROMPT, tensor.cols()), x)? })
        })
        .collect()
}

fn row(layers: &[Layer], format: Format, rounding: Rounding, isa: Isa) -> Result<Vec<String>> {
    let mut matrices = Vec::new();
    let (mut weight_error, mut weight_signal, mut product_error, mut product_signal) = (0.0, 0.0, 0.0, 0.0);
    for layer in layers {
        let (rows, cols) = layer.weights.dim();
        let weights = layer.weights.as_slice().context("contiguous")?;
        let matrix = Matrix::encode(isa, format, rounding, weights, rows, cols)?;
        let mut decoded = vec![0.0; cols];
        let some = 8;
        let x = quantized(isa, &layer.x, some)?;
        let mut y = vec![[0.0; 16]; some * matrix.view().panel_count()];
        kernels::multiply(isa, matrix.view(), x.group(0), &mut y)?;
        for (r, weights) in weights.chunks_exact(cols).enumerate() {
            matrix.view().decode_row(r, &mut decoded)?;
            for (&w, &q) in weights.iter().zip(&decoded) {
                weight_error += f64::from(w - q).powi(2);
                weight_signal += f64::from(w).powi(2);
            }
            for (i, x) in layer.x.outer_iter().take(some).enumerate() {
                let exact: f64 = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                product_error += (f64::from(y[r / 16 * some + i][r % 16]) - exact).powi(2);
                product_signal += exact.powi(2);
            }
        }
        matrices.push(matrix);
    }
    let bytes: usize = matrices.iter().map(|m| m.view().as_bytes().len()).sum();
    let weights: usize = layers.iter().map(|layer| layer.weights.len()).sum();
    let [read, one, one_f32] = times(layers, &matrices, isa, 1)?;
    let [_, prompt, prompt_f32] = times(layers, &matrices, isa, PROMPT)?;
    let operations = 2.0 * (weights * PROMPT) as f64;
    Ok(vec![
        format.to_string(),
        rounding.to_string(),
        format!("{:.2}", 8.0 * bytes as f64 / weights as f64),
        percent((weight_error / weight_signal).sqrt()),
        percent((product_error / product_signal).sqrt()),
        three_digits(bytes as f64 / one / 1e9),
        percent(read / one),
        format!("{} x", three_digits(one_f32 / one)),
        format!("{:.0}", operations / prompt / 1e9),
        format!("{} x", three_digits(prompt_f32 / prompt)),
    ])
}

fn quantized(isa: Isa, x: &Array2<f32>, rows: usize) -> Result<Activations> {
    let cols = x.ncols();
    let mut activations = Activations::default();
    activations.quantize(isa, &x.as_slice().context("contiguous")?[..rows * cols], cols, &[rows])?;
    Ok(activations)
}

/// Measures the seconds to read all matrices, to multiply by them (including quantization of the
/// activations), and to do the same in `f32`.
fn times(layers: &[Layer], matrices: &[Matrix], isa: Isa, rows: usize) -> Result<[f64; 3]> {
    let bytes: usize = matrices.iter().map(|m| m.view().as_bytes().len()).sum();
    // One row touches every weight once, so memory decides; with many rows it does not.
    let copies = |bytes: usize| if rows == 1 { COLD_BYTES.div_ceil(bytes) } else { 1 };
    let originals: Vec<Array2<f32>> = layers.iter().map(|layer| layer.weights.clone()).collect();
    let plain_bytes = size_of::<f32>() * originals.iter().map(Array2::len).sum::<usize>();
    let cold = vec![matrices.to_vec(); copies(bytes)];
    let plain = vec![originals; copies(plain_bytes)];
    let (mut turn_read, mut turn_packed, mut turn_plain) = (0, cold.len() / 2, 0);
    let mut y = vec![[0.0; 16]; rows * matrices.iter().map(|m| m.view().panel_count()).max().unwrap_or(0)];
    let mut failed = None;
    let read = Contestant::new(|| {
        turn_read = (turn_read + 1) % cold.len();
        cold[turn_read].iter().for_each(|matrix| read_all(matrix.view().as_bytes()));
    });
    let packed = Contestant::new(|| {
        turn_packed = (turn_packed + 1) % cold.len();
        for (matrix, layer) in cold[turn_packed].iter().zip(layers) {
            let product = quantized(isa, &layer.x, rows).and_then(|x| {
                let y = &mut y[..rows * matrix.view().panel_count()];
                Ok(kernels::multiply(isa, matrix.view(), x.group(0), y)?)
            });
            failed = product.err().or(failed.take());
        }
    });
    let single = Contestant::new(|| {
        turn_plain = (turn_plain + 1) % plain.len();
        for (weights, layer) in plain[turn_plain].iter().zip(layers) {
            let x = layer.x.slice(ndarray::s![..rows, ..]);
            black_box(x.dot(&weights.t()));
        }
    });
    let mut contestants = [read, packed, single];
    let seconds = take_turns(&mut contestants, Duration::from_secs(3));
    drop(contestants);
    failed.map_or(Ok([seconds[0], seconds[1], seconds[2]]), Err)
}
