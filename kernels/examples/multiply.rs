//! A matrix in every format times a few rows of activations: what a linear layer of an application
//! does.
//!
//! `cargo run --release -p kernels --example multiply` prints how far the products are from those
//! of the unquantized matrix.

#![allow(clippy::print_stdout, reason = "an example shows its results")]

use kernels::{Activations, Format, Isa, Matrix, Rounding, multiply, multiply_exact};

/// Outputs and inputs of the layer, and rows of activations.
const ROWS: usize = 256;
const COLS: usize = 512;
const X_ROWS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The best instruction set here, or the one that QRUNTIME_ISA names.
    let isa = Isa::from_env()?;
    let weights: Vec<f32> = (0..ROWS * COLS).map(noise).collect();
    let x: Vec<f32> = (ROWS * COLS..(ROWS + X_ROWS) * COLS).map(noise).collect();

    // Activations are quantized once for all matrices that meet them.
    let mut activations = Activations::default();
    activations.quantize(isa, &x, COLS, &[X_ROWS])?;

    println!("on {isa}: root mean square error, relative to the outputs");
    for &format in Format::ALL {
        let matrix = Matrix::encode(isa, format, Rounding::Search, &weights, ROWS, COLS)?;
        let matrix = matrix.view();
        let mut y = vec![[0.0; 16]; X_ROWS * matrix.panel_count()];
        multiply(isa, matrix, activations.group(0), &mut y)?;
        let quantized = error(&weights, &x, &y);
        multiply_exact(isa, matrix, &x, X_ROWS, &mut y)?;
        println!("{format}: {quantized:.5}, with unquantized activations {:.5}", error(&weights, &x, &y));
    }
    Ok(())
}

/// A number in -1..1 that looks random.
fn noise(i: usize) -> f32 {
    let bits = (i as u32).wrapping_mul(0x9e37_79b9);
    let bits = (bits ^ (bits >> 15)).wrapping_mul(0x85eb_ca6b);
    (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Compares outputs, in panels of 16, with the product of the original weights.
fn error(weights: &[f32], x: &[f32], y: &[[f32; 16]]) -> f32 {
    let (mut error, mut total) = (0.0, 0.0);
    for (panel, y) in y.chunks_exact(X_ROWS).enumerate() {
        for (x, y) in x.chunks_exact(COLS).zip(y) {
            for (weights, y) in weights.chunks_exact(COLS).skip(16 * panel).zip(y) {
                let exact: f32 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
                error += (y - exact).powi(2);
                total += exact.powi(2);
            }
        }
    }
    (error / total).sqrt()
}
