//! Calls every entry point on every instruction set at hand, with shapes that are small enough for
//! an interpreter: `ci/miri.sh` runs these tests under Miri, which finds undefined behaviour.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::ops::Range;

use kernels::{
    Activation, Activations, AttentionOptions, AttentionScratch, Format, Isa, KvFormat, KvHead, Matrix, PlainRef,
    PlainType, Rounding, activate, activate_gated, attend, layer_norm, multiply, multiply_exact, multiply_plain,
    rms_norm, rotate, softmax,
};
use support::Random;

/// A panel and a row of a second one; a block and a part of another.
const ROWS: usize = 17;
const COLS: usize = 40;
/// A quad of rows of activations, and one alone.
const X_ROWS: usize = 5;

/// Calls `compute` on every instruction set and compares the bits with those of the reference.
fn compare(what: &str, compute: impl Fn(Isa) -> Vec<f32>) {
    let bits = |isa| compute(isa).into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let expected = bits(Isa::SCALAR);
    assert!(!expected.is_empty());
    for isa in Isa::available() {
        assert_eq!(bits(isa), expected, "{what} on {isa}");
    }
}

/// Returns the outputs that exist, of panels of `x_rows` rows of 16.
fn outputs(panels: &[[f32; 16]], rows: usize, x_rows: usize) -> Vec<f32> {
    let panels = panels.chunks_exact(x_rows).enumerate();
    panels.flat_map(|(p, rows_of_x)| rows_of_x.iter().flat_map(move |y| &y[..16.min(rows - 16 * p)])).copied().collect()
}

#[test]
fn packed_matrices() {
    let mut random = Random(1);
    let weights = random.weights(ROWS * COLS);
    let x = random.weights(X_ROWS * COLS);
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            let encode = |isa| Matrix::encode(isa, format, rounding, &weights, ROWS, COLS).unwrap();
            let expected = encode(Isa::SCALAR);
            compare(&format!("{format} {rounding}"), |isa| {
                let matrix = encode(isa);
                assert_eq!(matrix.view().as_bytes(), expected.view().as_bytes());
                let mut activations = Activations::default();
                activations.quantize(isa, &x, COLS, &[X_ROWS]).unwrap();
                let mut y = vec![[0.0; 16]; X_ROWS * matrix.view().panel_count()];
                multiply(isa, matrix.view(), activations.group(0), &mut y).unwrap();
                let mut all = outputs(&y, ROWS, X_ROWS);
                multiply_exact(isa, matrix.view(), &x, X_ROWS, &mut y).unwrap();
                all.extend(outputs(&y, ROWS, X_ROWS));
                let mut row = vec![0.0; COLS];
                matrix.view().decode_row(ROWS - 1, &mut row).unwrap();
                all.extend(row);
                all
            });
        }
    }
}

#[test]
fn plain_matrices() {
    let mut random = Random(2);
    let x = random.weights(X_ROWS * COLS);
    for ty in [PlainType::F32, PlainType::F16, PlainType::Bf16] {
        // Small exponents: no element is NaN or infinite in any of the types.
        let bytes: Vec<u8> = (0..ROWS * COLS * ty.bytes()).map(|i| (i * 37 % 0x3b) as u8).collect();
        let matrix = PlainRef::new(ty, ROWS, COLS, &bytes).unwrap();
        compare(&format!("{ty:?}"), |isa| {
            let mut y = vec![[0.0; 16]; X_ROWS * matrix.panel_count()];
            multiply_plain(isa, matrix, &x, X_ROWS, &mut y).unwrap();
            outputs(&y, ROWS, X_ROWS)
        });
    }
}

#[test]
fn attention() {
    let mut random = Random(3);
    let (dim, len) = (24, 19);
    let (keys, values) = (random.weights(dim * len), random.weights(dim * len));
    let queries = random.weights(dim * X_ROWS);
    let visible: Vec<Range<usize>> = (0..X_ROWS).map(|row| row..len - X_ROWS + row + 1).collect();
    for format in [KvFormat::F16, KvFormat::Q8] {
        for softcap in [None, Some(3.0)] {
            compare(&format!("{format:?} {softcap:?}"), |isa| {
                let mut head = KvHead::new(format, dim);
                head.push(isa, &keys, &values);
                let options = AttentionOptions { scale: 0.2, softcap };
                let mut out = vec![0.0; queries.len()];
                attend(isa, &head, &queries, &visible, options, &mut AttentionScratch::default(), &mut out);
                out
            });
        }
    }
}

#[test]
fn vectors() {
    let mut random = Random(4);
    let [x, weight, bias] = [(); 3].map(|()| random.weights(COLS));
    compare("norms", |isa| {
        let mut out = vec![0.0; 2 * COLS];
        let (rms, layer) = out.split_at_mut(COLS);
        rms_norm(isa, &x, &weight, 1e-5, rms);
        layer_norm(isa, &x, &weight, &bias, 1e-5, layer);
        out
    });
    compare("activations", |isa| {
        let [mut silu, mut gelu, mut probabilities, mut rotated] = [(); 4].map(|()| x.clone());
        activate(isa, Activation::Silu, &mut silu);
        activate_gated(isa, Activation::Gelu, &mut gelu, &bias);
        softmax(isa, &mut probabilities);
        rotate(isa, &mut rotated, &weight[..COLS / 2], &bias[..COLS / 2]);
        [silu, gelu, probabilities, rotated].concat()
    });
}
