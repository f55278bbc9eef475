//! Every instruction set gives the bits of the scalar reference, and the scalar reference is right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kernels::{Activations, ActivationsRef, Format, Isa, Matrix, MatrixRef, Rounding, multiply, multiply_exact, panel};
use support::{Random, bits, bits_of_numbers, blocks_of_row, gamma, isas_to_test, naive_weights, quantize, small};

const NAN_ROW: [f32; 16] = [f32::NAN; 16];

/// Awkward shapes: (rows, columns).
fn shapes() -> Vec<(usize, usize)> {
    let (rows, cols): (&[usize], &[usize]) =
        if small() { (&[1, 17], &[32, 172]) } else { (&[1, 15, 16, 17, 172], &[32, 64, 172, 4096]) };
    rows.iter().flat_map(|&rows| cols.iter().map(move |&cols| (rows, cols))).collect()
}

/// Numbers of activation rows.
fn batches() -> Vec<usize> {
    if small() { vec![1, 2, 3, 4, 5, 7, 13] } else { (1..=33).chain([512]).collect() }
}

fn product(isa: Isa, weights: MatrixRef<'_>, x: ActivationsRef<'_>) -> Vec<[f32; 16]> {
    let mut y = vec![NAN_ROW; x.rows() * weights.panel_count()];
    multiply(isa, weights, x, &mut y).unwrap();
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
            // One row at a time on the reference: what every batch of every instruction set must
            // repeat.
            let single: Vec<Vec<[f32; 16]>> = x
                .chunks_exact(cols)
                .map(|x| product(Isa::SCALAR, matrix.view(), quantize(Isa::SCALAR, x, cols).group(0)))
                .collect();
            for &isa in isas.iter().chain([&Isa::SCALAR]) {
                for batch in batches() {
                    let x = quantize(isa, &x[..batch * cols], cols);
                    let y = product(isa, matrix.view(), x.group(0));
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
        let x = quantize(isa, &random.weights(3 * cols), cols);
        let whole = product(isa, matrix.view(), x.group(0));
        let panels = matrix.view().panel_count();
        for first in 0..panels {
            for end in first..=panels {
                let part = product(isa, matrix.view().panels(first..end), x.group(0));
                assert_eq!(bits(&part), bits(&whole[3 * first..3 * end]), "{format} {first}..{end}");
            }
        }
    }
}

/// Where in a row's block the half-precision numbers are, or the bytes that are exponents.
fn scales(format: Format) -> &'static [usize] {
    match format {
        Format::Q6K => &[208],
        Format::Q4_1 | Format::Q4K | Format::Q5K => &[0, 2],
        _ => &[0],
    }
}

/// A matrix of bytes of any kind with scales that no product overflows: codes that no encoder
/// writes.
fn hostile_panels(format: Format, rows: usize, cols: usize, mut byte: impl FnMut() -> u8) -> Vec<u8> {
    let row_bytes = format.row_bytes(cols).unwrap();
    let mut panels = Vec::new();
    for _ in 0..rows.div_ceil(16) {
        let mut bytes: Vec<u8> = (0..16 * row_bytes).map(|_| byte()).collect();
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for &at in scales(format) {
                match format {
                    // From 2^-96 to 2^31.
                    Format::Mxfp4 => block[at] = 32 + block[at] / 2,
                    // The exponent's highest bit is none.
                    _ => block[at + 1] &= 0xbf,
                }
            }
        }
        let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
        panel::pack(format, cols, &bytes, &mut panel).unwrap();
        panels.extend(panel);
    }
    panels
}

#[test]
fn every_byte_of_codes_and_extreme_activations_agree() {
    let isas = isas_to_test();
    let mut random = Random(3);
    let (rows, cols) = (32, if small() { 256 } else { 2048 });
    for &format in Format::ALL {
        for fill in [None, Some(0x00), Some(0x80), Some(0x7f), Some(0xff), Some(0x88)] {
            let panels = hostile_panels(format, rows, cols, || fill.unwrap_or(random.bits() as u8));
            let weights = MatrixRef::new(format, rows, cols, &panels).unwrap();
            for sign in [|_: u64| 1.0, |_: u64| -1.0, |bits: u64| if bits & 1 == 0 { 1.0 } else { -1.0 }] {
                // All of one magnitude: codes of ±127 throughout.
                let x: Vec<f32> = (0..5 * cols).map(|_| 0.37 * sign(random.bits())).collect();
                let x = quantize(Isa::SCALAR, &x, cols);
                let row = blocks_of_row(x.group(0), 2);
                assert!(row.iter().flat_map(|block| block.codes()).all(|code| code.abs() == 127));
                let expected = product(Isa::SCALAR, weights, x.group(0));
                for &isa in &isas {
                    assert_eq!(bits(&product(isa, weights, x.group(0))), bits(&expected), "{format} {isa} {fill:?}");
                }
            }
        }
    }
}

#[test]
fn bytes_of_any_kind_mean_the_same_everywhere() {
    let isas = isas_to_test();
    let mut random = Random(10);
    for &format in Format::ALL {
        for (cols, magnitude) in [(32, 1.0), (172, 1e-30), (700, 1e30)] {
            // Scales too: subnormal, infinite and NaN, and exponents at both ends.
            let (rows, x_rows) = (16, 9);
            let mut panels: Vec<u8> =
                (0..format.matrix_bytes(rows, cols).unwrap()).map(|_| random.bits() as u8).collect();
            if format == Format::Mxfp4 {
                for block in panels.chunks_exact_mut(16 * format.block_bytes()) {
                    block[..6].copy_from_slice(&[0, 1, 2, 253, 254, 255]);
                }
            }
            let weights = MatrixRef::new(format, rows, cols, &panels).unwrap();
            let x: Vec<f32> = (0..x_rows * cols).map(|_| random.unit() * magnitude).collect();
            let quantized = quantize(Isa::SCALAR, &x, cols);
            let expected = product(Isa::SCALAR, weights, quantized.group(0));
            let mut exact = vec![NAN_ROW; x_rows];
            multiply_exact(Isa::SCALAR, weights, &x, x_rows, &mut exact).unwrap();
            for &isa in &isas {
                let y = product(isa, weights, quantized.group(0));
                assert_eq!(
                    bits_of_numbers(y.as_flattened()),
                    bits_of_numbers(expected.as_flattened()),
                    "{format} {isa} {cols}"
                );
                let mut y = vec![NAN_ROW; x_rows];
                multiply_exact(isa, weights, &x, x_rows, &mut y).unwrap();
                assert_eq!(
                    bits_of_numbers(y.as_flattened()),
                    bits_of_numbers(exact.as_flattened()),
                    "{format} {isa} {cols}, exact"
                );
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
                let expected = format!("{:?}", quantize(Isa::SCALAR, &x, len));
                for &isa in &isas {
                    // As text, because NaN is not equal to itself.
                    assert_eq!(format!("{:?}", quantize(isa, &x, len)), expected, "{isa} {len} {magnitude} {poison:?}");
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
        for (x, block) in x.chunks(32).zip(blocks_of_row(quantize(Isa::best(), &x, 320).group(0), 0)) {
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
    let only_block = |x: &[f32; 32]| quantize(Isa::best(), x, 32).group(0).block(0, 0);
    assert_eq!(only_block(&x).codes()[..6], [127, 0, 2, 2, 0, -2]);
    // Too small to have an inverse: nothing. Not finite: NaN, so that nobody takes the result for
    // one.
    let nothing = only_block(&[1e-38; 32]);
    assert_eq!((nothing.codes(), nothing.scale()), (&[0; 32], 0.0));
    assert!(only_block(&[f32::INFINITY; 32]).scale().is_nan());
}

#[test]
fn a_row_with_nan_or_infinity_gives_nan_and_leaves_its_neighbours_alone() {
    let cols = 96;
    let mut random = Random(6);
    for &format in Format::ALL {
        let matrix =
            Matrix::encode(Isa::best(), format, Rounding::Nearest, &random.weights(16 * cols), 16, cols).unwrap();
        // One in a quad, one behind it.
        let mut x = random.weights(6 * cols);
        (x[cols + 40], x[5 * cols + 70]) = (f32::INFINITY, f32::NAN);
        for isa in Isa::available() {
            let y = product(isa, matrix.view(), quantize(isa, &x, cols).group(0));
            for (row, y) in y.iter().enumerate() {
                let poisoned = row == 1 || row == 5;
                assert!(
                    y.iter().all(|y| y.is_nan() == poisoned && y.is_finite() != poisoned),
                    "{format} {isa} row {row}"
                );
            }
        }
    }
}

#[test]
fn the_scalar_product_is_the_naive_product_within_its_bound() {
    let mut random = Random(7);
    for &format in Format::ALL {
        for (rows, cols) in shapes() {
            let weights = random.weights(rows * cols);
            let matrix = Matrix::encode(Isa::SCALAR, format, Rounding::Nearest, &weights, rows, cols).unwrap();
            let x: Vec<f32> = (0..cols).map(|_| random.unit()).collect();
            let x = quantize(Isa::SCALAR, &x, cols);
            let blocks = blocks_of_row(x.group(0), 0);
            let y = product(Isa::SCALAR, matrix.view(), x.group(0));
            for row in 0..rows {
                let weights = naive_weights(format, &gguf_row(matrix.view(), row));
                let (mut exact, mut magnitude) = (0.0, 0.0);
                for (block, weights) in blocks.iter().zip(weights.chunks(32)) {
                    let scale = f64::from(block.scale());
                    // What is rounded: the sum of a block's terms with a scale, and that of its
                    // offsets.
                    let codes = weights.iter().zip(block.codes());
                    let (dot, sum) = codes.fold((0.0, 0.0), |(dot, sum), (w, &x)| {
                        (dot + w.scale * w.code as f64 * f64::from(x), sum - w.min * f64::from(x))
                    });
                    exact += (dot + sum) * scale;
                    magnitude += (dot.abs() + sum.abs()) * scale;
                }
                let error = (f64::from(y[row / 16][row % 16]) - exact).abs();
                // A rounding for either term of each block, and two more for scale and sum.
                let bound = gamma(2 * blocks.len() + 2) * magnitude;
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
            // More than a panel's decoded columns meet at a time, once.
            let x_rows = if cols == 172 && !small() { 75 } else { 6 };
            let x: Vec<f32> = (0..x_rows * cols).map(|_| random.unit()).collect();
            let mut expected = vec![NAN_ROW; x_rows * matrix.view().panel_count()];
            multiply_exact(Isa::SCALAR, matrix.view(), &x, x_rows, &mut expected).unwrap();
            for &isa in &isas {
                let mut y = vec![NAN_ROW; expected.len()];
                multiply_exact(isa, matrix.view(), &x, x_rows, &mut y).unwrap();
                assert_eq!(bits(&y), bits(&expected), "{format} {isa} {rows}x{cols}");
            }
            for row in 0..rows {
                let weights = naive_weights(format, &gguf_row(matrix.view(), row));
                for (i, x) in x.chunks_exact(cols).enumerate() {
                    let terms = weights.iter().zip(x).map(|(w, &x)| f64::from(w.value() as f32) * f64::from(x));
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
    let isa = Isa::best();
    for &format in Format::ALL {
        let none = MatrixRef::new(format, 3, 0, &[]).unwrap();
        let mut x = Activations::default();
        x.quantize(isa, &[], 0, &[2]).unwrap();
        assert_eq!(product(isa, none, x.group(0)), [[0.0; 16]; 2]);
        let rowless = MatrixRef::new(format, 0, 32, &[]).unwrap();
        assert!(product(isa, rowless, quantize(isa, &[1.0; 4 * 32], 32).group(0)).is_empty());
        let bytes = vec![0; format.matrix_bytes(16, 32).unwrap()];
        let matrix = MatrixRef::new(format, 16, 32, &bytes).unwrap();
        assert!(product(isa, matrix, quantize(isa, &[], 32).group(0)).is_empty());
    }
}

#[test]
fn groups_and_ranges_of_rows_give_their_part_of_the_product() {
    let isa = Isa::best();
    let (cols, groups) = (172, [3, 0, 4, 1, 6, 9]);
    let mut random = Random(9);
    let matrix = Matrix::encode(isa, Format::Q4K, Rounding::Nearest, &random.weights(20 * cols), 20, cols).unwrap();
    let mut whole = Activations::default();
    // Parts of any size, and memory that was used before, for more rows.
    whole.quantize(isa, &random.weights(50 * 300), 300, &[50]).unwrap();
    for rows in [1, 4, 7, usize::MAX] {
        let x = random.weights(groups.iter().sum::<usize>() * cols);
        whole.parts(&x, cols, &groups, rows).unwrap().for_each(|part| part.quantize(isa));
        let mut first = 0;
        for (group, rows) in groups.into_iter().enumerate() {
            let view = whole.group(group);
            assert_eq!((view.rows(), view.cols()), (rows, cols));
            let y = product(isa, matrix.view(), view);
            for row in 0..rows {
                let single = quantize(isa, &x[(first + row) * cols..][..cols], cols);
                let single = product(isa, matrix.view(), single.group(0));
                for panel in 0..2 {
                    assert_eq!(bits(&[y[panel * rows + row]]), bits(&[single[panel]]));
                }
            }
            let at_edge = |row: usize| row.is_multiple_of(4) || row > rows / 4 * 4;
            for start in 0..=rows {
                for end in start..=rows {
                    if !(at_edge(start) && at_edge(end)) {
                        assert!(
                            std::panic::catch_unwind(|| view.range(start..end)).is_err(),
                            "{start}..{end} of {rows}"
                        );
                        continue;
                    }
                    let part = product(isa, matrix.view(), view.range(start..end));
                    for panel in 0..2 {
                        let expected = &y[panel * rows + start..panel * rows + end];
                        assert_eq!(bits(&part[panel * (end - start)..][..end - start]), bits(expected));
                    }
                }
            }
            first += rows;
        }
    }
}

#[test]
fn lengths_that_disagree_are_refused() {
    let isa = Isa::best();
    let bytes = vec![0; Format::Q8_0.matrix_bytes(17, 64).unwrap()];
    assert!(MatrixRef::new(Format::Q8_0, 33, 64, &bytes).is_err());
    assert!(MatrixRef::new(Format::Q8_0, 17, 65, &bytes).is_err());
    assert!(MatrixRef::new(Format::Q8_0, usize::MAX, usize::MAX, &bytes).is_err());
    let matrix = MatrixRef::new(Format::Q8_0, 17, 64, &bytes).unwrap();
    let mut y = [NAN_ROW; 2];
    assert!(multiply(isa, matrix, quantize(isa, &[0.0; 64], 64).group(0), &mut y).is_ok());
    assert!(multiply(isa, matrix, quantize(isa, &[0.0; 63], 63).group(0), &mut y).is_err());
    assert!(multiply(isa, matrix, quantize(isa, &[0.0; 128], 64).group(0), &mut y).is_err());
    assert!(multiply(isa, matrix, quantize(isa, &[0.0; 64], 64).group(0), &mut y[..1]).is_err());
    assert!(Activations::default().quantize(isa, &[0.0; 65], 64, &[1]).is_err());
    assert!(Activations::default().quantize(isa, &[0.0; 64], 64, &[usize::MAX, 2]).is_err());
    assert!(Activations::default().quantize(isa, &[], 0, &[usize::MAX; 6]).is_err());
    assert!(Activations::default().parts(&[], 0, &[1 << 40], 4).unwrap().next().is_none());
    assert!(multiply_exact(isa, matrix, &[0.0; 63], 1, &mut y).is_err());
    assert!(matrix.decode_row(17, &mut [0.0; 64]).is_err());
    assert!(matrix.decode_row(0, &mut [0.0; 63]).is_err());
}
