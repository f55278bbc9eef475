//! Every instruction set gives the bits of the scalar reference, and the scalar reference is right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kernels::{ActivationBlock, Format, Isa, Matrix, MatrixRef, Rounding, multiply, multiply_exact, panel};
use support::{Random, bits, isas_to_test, naive_codes, quantize_rows, small};

const NAN_ROW: [f32; 16] = [f32::NAN; 16];

/// Awkward shapes: (rows, columns).
fn shapes() -> Vec<(usize, usize)> {
    let (rows, cols): (&[usize], &[usize]) =
        if small() { (&[1, 17], &[32, 172]) } else { (&[1, 15, 16, 17, 172], &[32, 64, 172, 4096]) };
    rows.iter().flat_map(|&rows| cols.iter().map(move |&cols| (rows, cols))).collect()
}

/// Numbers of activation rows.
fn batches() -> Vec<usize> {
    if small() { vec![1, 2, 3, 7, 13] } else { (1..=33).chain([512]).collect() }
}

fn product(isa: Isa, weights: MatrixRef<'_>, x: &[ActivationBlock], x_rows: usize) -> Vec<[f32; 16]> {
    let mut y = vec![NAN_ROW; x_rows * weights.panel_count()];
    multiply(isa, weights, x, x_rows, &mut y).unwrap();
    y
}

#[test]
fn products_have_the_bits_of_the_scalar_reference_for_every_shape_and_batch() {
    let isas = isas_to_test();
    let mut random = Random(1);
    for &format in Format::ALL {
        for (rows, cols) in shapes() {
            let weights = random.weights(rows * cols);
            let matrix = Matrix::encode(Isa::SCALAR, format, Rounding::Nearest, &weights, rows, cols).unwrap();
            let most = batches().into_iter().max().unwrap();
            let x: Vec<f32> = (0..most * cols).map(|_| random.unit() * 3.0).collect();
            let x = quantize_rows(Isa::SCALAR, &x, cols);
            let per_row = cols.div_ceil(32);
            // One row at a time on the reference: what every batch of every instruction set must repeat.
            let single: Vec<Vec<[f32; 16]>> =
                x.chunks_exact(per_row).map(|x| product(Isa::SCALAR, matrix.view(), x, 1)).collect();
            for &isa in isas.iter().chain([&Isa::SCALAR]) {
                for batch in batches() {
                    let y = product(isa, matrix.view(), &x[..batch * per_row], batch);
                    for (panel, y) in y.chunks_exact(batch).enumerate() {
                        for (row, y) in y.iter().enumerate() {
                            let same = bits(&[*y]) == bits(&[single[row][panel]]);
                            assert!(same, "{format} {isa} {rows}x{cols}, panel {panel}, row {row} of {batch}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn any_range_of_panels_gives_its_part_of_the_product() {
    let (rows, cols) = (172, 172);
    let mut random = Random(2);
    let isa = Isa::best();
    for &format in Format::ALL {
        let matrix = Matrix::encode(isa, format, Rounding::Nearest, &random.weights(rows * cols), rows, cols).unwrap();
        let x = quantize_rows(isa, &random.weights(3 * cols), cols);
        let whole = product(isa, matrix.view(), &x, 3);
        let panels = matrix.view().panel_count();
        for first in 0..panels {
            for end in first..=panels {
                let part = product(isa, matrix.view().panels(first..end), &x, 3);
                assert_eq!(bits(&part), bits(&whole[3 * first..3 * end]), "{format} {first}..{end}");
            }
        }
    }
}

/// A matrix of random bytes with finite scales: codes that no encoder writes.
fn hostile_panels(random: &mut Random, format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let mut panels = Vec::new();
    while panels.len() < format.matrix_bytes(rows, cols).unwrap() {
        let scales = 32;
        for i in 0..16 * format.block_bytes() {
            let byte = random.bits() as u8;
            // The high byte of a scale with its exponent kept off all ones.
            panels.push(if i < scales && i % 2 == 1 { byte & 0xbf } else { byte });
        }
    }
    panels
}

#[test]
fn every_byte_of_codes_and_extreme_activations_agree() {
    let isas = isas_to_test();
    let mut random = Random(3);
    let (rows, cols) = (32, 32 * if small() { 4 } else { 64 });
    for &format in Format::ALL {
        for fill in [None, Some(0x00), Some(0x80), Some(0x7f), Some(0xff), Some(0x88)] {
            let mut panels = hostile_panels(&mut random, format, rows, cols);
            if let Some(fill) = fill {
                for block in panels.chunks_exact_mut(16 * format.block_bytes()) {
                    block[32..].fill(fill);
                }
            }
            let weights = MatrixRef::new(format, rows, cols, &panels).unwrap();
            for sign in [|_: u64| 1.0, |_: u64| -1.0, |bits: u64| if bits & 1 == 0 { 1.0 } else { -1.0 }] {
                // All of one magnitude: codes of ±127 throughout.
                let x: Vec<f32> = (0..5 * cols).map(|_| 0.37 * sign(random.bits())).collect();
                let x = quantize_rows(Isa::SCALAR, &x, cols);
                assert!(x.iter().flat_map(ActivationBlock::codes).all(|code| code.abs() == 127));
                let expected = product(Isa::SCALAR, weights, &x, 5);
                for &isa in &isas {
                    assert_eq!(bits(&product(isa, weights, &x, 5)), bits(&expected), "{format} {isa} {fill:?}");
                }
            }
        }
    }
}

#[test]
fn activations_have_the_bits_of_the_scalar_reference() {
    let isas = isas_to_test();
    let mut random = Random(4);
    for len in [1, 31, 32, 33, 172, 4096] {
        for magnitude in [1.0, 1e-30, 1e-37, 1e-40, 1e30, f32::MAX] {
            let mut x: Vec<f32> = (0..len).map(|_| random.unit() * magnitude).collect();
            for poison in [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
                if let Some(poison) = poison {
                    let at = random.below(len);
                    x[at] = poison;
                }
                let expected = format!("{:?}", quantize_rows(Isa::SCALAR, &x, len));
                for &isa in &isas {
                    // As text, because NaN is not equal to itself.
                    assert_eq!(
                        format!("{:?}", quantize_rows(isa, &x, len)),
                        expected,
                        "{isa} {len} {magnitude} {poison:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn activations_are_what_the_definition_says() {
    let mut random = Random(5);
    for magnitude in [1.0f32, 3e-36, 1e30] {
        let x: Vec<f32> = (0..320).map(|_| random.unit() * magnitude).collect();
        for (x, block) in x.chunks(32).zip(quantize_rows(Isa::best(), &x, 320)) {
            let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            assert_eq!(block.scale(), largest / 127.0);
            for (&x, &code) in x.iter().zip(block.codes()) {
                assert_eq!(f32::from(code), (x * (127.0 / largest)).round_ties_even());
            }
        }
    }
    // Ties go to even: 0.5 and 1.5, 2.5 steps of a block whose scale is 1.
    let mut x = [0.0; 32];
    x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    assert_eq!(quantize_rows(Isa::best(), &x, 32)[0].codes()[..6], [127, 0, 2, 2, 0, -2]);
    // Too small to have an inverse: nothing. Not finite: NaN, so that nobody takes the result for one.
    assert_eq!(quantize_rows(Isa::best(), &[1e-38; 32], 32)[0], ActivationBlock::default());
    assert!(quantize_rows(Isa::best(), &[f32::INFINITY; 32], 32)[0].scale().is_nan());
}

#[test]
fn a_row_with_nan_or_infinity_gives_nan_and_leaves_its_neighbours_alone() {
    let cols = 96;
    let mut random = Random(6);
    for &format in Format::ALL {
        let matrix =
            Matrix::encode(Isa::best(), format, Rounding::Nearest, &random.weights(16 * cols), 16, cols).unwrap();
        let mut x = random.weights(3 * cols);
        x[cols + 40] = f32::INFINITY;
        for isa in Isa::available() {
            let y = product(isa, matrix.view(), &quantize_rows(isa, &x, cols), 3);
            assert!(y[1].iter().all(|y| y.is_nan()), "{format} {isa}");
            assert!(y[0].iter().chain(&y[2]).all(|y| y.is_finite()), "{format} {isa}");
        }
    }
}

/// `k·u / (1 - k·u)`: the relative error of `k` roundings.
fn gamma(k: usize) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    k as f64 * u / (1.0 - k as f64 * u)
}

#[test]
fn the_scalar_product_is_the_naive_product_within_its_bound() {
    let mut random = Random(7);
    for &format in Format::ALL {
        for (rows, cols) in shapes() {
            let weights = random.weights(rows * cols);
            let matrix = Matrix::encode(Isa::SCALAR, format, Rounding::Nearest, &weights, rows, cols).unwrap();
            let x: Vec<f32> = (0..cols).map(|_| random.unit()).collect();
            let blocks = quantize_rows(Isa::SCALAR, &x, cols);
            let y = product(Isa::SCALAR, matrix.view(), &blocks, 1);
            for row in 0..rows {
                let codes = naive_codes(format, &gguf_row(matrix.view(), row));
                let (mut exact, mut magnitude) = (0.0, 0.0);
                for (block, codes) in blocks.iter().zip(codes.chunks(32)) {
                    let dot: i64 = codes.iter().zip(block.codes()).map(|((_, w), &x)| w * i64::from(x)).sum();
                    let term = dot as f64 * codes[0].0 * f64::from(block.scale());
                    exact += term;
                    magnitude += term.abs();
                }
                let error = (f64::from(y[row / 16][row % 16]) - exact).abs();
                let bound = gamma(blocks.len() + 1) * magnitude;
                assert!(error <= bound, "{format} {rows}x{cols} row {row}: {error:e} > {bound:e}");
            }
        }
    }
}

#[test]
fn the_exact_product_agrees_everywhere_and_with_the_naive_product() {
    let isas = isas_to_test();
    let mut random = Random(8);
    for &format in Format::ALL {
        for (rows, cols) in shapes() {
            let weights = random.weights(rows * cols);
            let matrix = Matrix::encode(Isa::SCALAR, format, Rounding::Nearest, &weights, rows, cols).unwrap();
            let x_rows = 3;
            let x: Vec<f32> = (0..x_rows * cols).map(|_| random.unit()).collect();
            let mut expected = vec![NAN_ROW; x_rows * matrix.view().panel_count()];
            multiply_exact(Isa::SCALAR, matrix.view(), &x, x_rows, &mut expected).unwrap();
            for &isa in &isas {
                let mut y = vec![NAN_ROW; expected.len()];
                multiply_exact(isa, matrix.view(), &x, x_rows, &mut y).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{format} {isa} {rows}x{cols}");
            }
            for row in 0..rows {
                let codes = naive_codes(format, &gguf_row(matrix.view(), row));
                for (i, x) in x.chunks_exact(cols).enumerate() {
                    let terms = codes.iter().zip(x).map(|((d, q), &x)| d * *q as f64 * f64::from(x));
                    let (exact, magnitude) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
                    let y = expected[row / 16 * x_rows + i][row % 16];
                    // One rounding for every fourth column, and two to add up.
                    let bound = gamma(cols.div_ceil(4) + 2) * magnitude;
                    assert!((f64::from(y) - exact).abs() <= bound, "{format} {rows}x{cols} row {row}");
                }
            }
        }
    }
}

/// One row as GGUF has it.
fn gguf_row(matrix: MatrixRef<'_>, row: usize) -> Vec<u8> {
    let (format, cols) = (matrix.format(), matrix.cols());
    let row_bytes = format.row_bytes(cols).unwrap();
    let panel = matrix.panels(row / 16..row / 16 + 1);
    let mut rows = vec![0; 16 * row_bytes];
    panel::unpack(format, cols, panel.as_bytes(), &mut rows).unwrap();
    rows[row % 16 * row_bytes..][..row_bytes].to_vec()
}

#[test]
fn empty_operands_give_empty_or_zero_products() {
    for &format in Format::ALL {
        let none = MatrixRef::new(format, 3, 0, &[]).unwrap();
        let mut y = [NAN_ROW; 2];
        multiply(Isa::best(), none, &[], 2, &mut y).unwrap();
        assert_eq!(y, [[0.0; 16]; 2]);
        multiply(
            Isa::best(),
            MatrixRef::new(format, 0, 32, &[]).unwrap(),
            &[ActivationBlock::default(); 4],
            4,
            &mut [],
        )
        .unwrap();
        let bytes = vec![0; format.matrix_bytes(16, 32).unwrap()];
        multiply(Isa::best(), MatrixRef::new(format, 16, 32, &bytes).unwrap(), &[], 0, &mut []).unwrap();
    }
}

#[test]
fn lengths_that_disagree_are_refused() {
    let bytes = vec![0; Format::Q8_0.matrix_bytes(17, 64).unwrap()];
    assert!(MatrixRef::new(Format::Q8_0, 33, 64, &bytes).is_err());
    assert!(MatrixRef::new(Format::Q8_0, 17, 65, &bytes).is_err());
    assert!(MatrixRef::new(Format::Q8_0, usize::MAX, usize::MAX, &bytes).is_err());
    let matrix = MatrixRef::new(Format::Q8_0, 17, 64, &bytes).unwrap();
    let x = [ActivationBlock::default(); 2];
    let mut y = [NAN_ROW; 2];
    assert!(multiply(Isa::best(), matrix, &x, 1, &mut y).is_ok());
    assert!(multiply(Isa::best(), matrix, &x[..1], 1, &mut y).is_err());
    assert!(multiply(Isa::best(), matrix, &x, 2, &mut y).is_err());
    assert!(multiply(Isa::best(), matrix, &x, 1, &mut y[..1]).is_err());
    assert!(multiply_exact(Isa::best(), matrix, &[0.0; 63], 1, &mut y).is_err());
    assert!(matrix.decode_row(17, &mut [0.0; 64]).is_err());
    assert!(matrix.decode_row(0, &mut [0.0; 63]).is_err());
}
