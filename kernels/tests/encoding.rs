//! Encoding: what the formats promise, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kernels::{EncodeError, Format, Isa, Matrix, MatrixRef, Rounding, encode_panel, panel};
use proptest::prelude::*;
use support::{Random, isas_to_test, naive_codes, small};

fn encode(isa: Isa, format: Format, rounding: Rounding, weights: &[f32], cols: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; format.panel_bytes(cols).unwrap()];
    encode_panel(isa, format, rounding, weights, cols, &mut bytes).unwrap();
    bytes
}

#[test]
fn the_bytes_do_not_depend_on_the_instruction_set() {
    let isas = isas_to_test();
    let mut random = Random(11);
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            for (rows, cols) in [(16, 32), (1, 172), (15, 64), (16, if small() { 96 } else { 4096 })] {
                let weights = random.weights(rows * cols);
                let expected = encode(Isa::SCALAR, format, rounding, &weights, cols);
                for &isa in &isas {
                    assert_eq!(encode(isa, format, rounding, &weights, cols), expected, "{format} {rounding} {isa}");
                }
            }
        }
    }
}

#[test]
fn a_panel_is_a_permutation_of_its_rows() {
    let mut random = Random(12);
    for &format in Format::ALL {
        for (rows, cols) in [(1, 32), (15, 172), (16, 4096)] {
            let row_bytes = format.row_bytes(cols).unwrap();
            let before: Vec<u8> = (0..rows * row_bytes).map(|_| random.bits() as u8).collect();
            let mut bytes = vec![0xaa; format.panel_bytes(cols).unwrap()];
            panel::pack(format, cols, &before, &mut bytes).unwrap();
            let mut after = vec![0; before.len()];
            panel::unpack(format, cols, &bytes, &mut after).unwrap();
            assert_eq!(after, before);
            let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
            assert_eq!(sum(&bytes), sum(&before), "what is not a row is zero");
        }
    }
}

#[test]
fn rows_decode_to_what_the_format_says() {
    let mut random = Random(13);
    let (rows, cols) = (35, 172);
    for &format in Format::ALL {
        let weights = random.weights(rows * cols);
        let matrix = Matrix::encode(Isa::best(), format, Rounding::Search, &weights, rows, cols).unwrap();
        let row_bytes = format.row_bytes(cols).unwrap();
        for row in 0..rows {
            let mut decoded = vec![f32::NAN; cols];
            matrix.view().decode_row(row, &mut decoded).unwrap();
            let mut blocks = vec![0; 16 * row_bytes];
            let first = row / 16;
            panel::unpack(format, cols, matrix.view().panels(first..first + 1).as_bytes(), &mut blocks).unwrap();
            let codes = naive_codes(format, &blocks[row % 16 * row_bytes..][..row_bytes]);
            for (&found, (d, q)) in decoded.iter().zip(&codes) {
                assert_eq!(f64::from(found), d * *q as f64, "{format} row {row}");
            }
            assert!(codes[cols..].iter().all(|(_, q)| *q == 0), "{format}: padding is zero");
        }
    }
}

fn squared_errors(format: Format, bytes: &[u8], weights: &[f32], cols: usize) -> Vec<f64> {
    let matrix = MatrixRef::new(format, 16, cols, bytes).unwrap();
    let mut errors = Vec::new();
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        let mut decoded = vec![f32::NAN; cols];
        matrix.decode_row(row, &mut decoded).unwrap();
        let blocks = weights.chunks(format.block_len()).zip(decoded.chunks(format.block_len()));
        errors.extend(blocks.map(|(w, d)| w.iter().zip(d).map(|(w, d)| f64::from(w - d).powi(2)).sum::<f64>()));
    }
    errors
}

#[test]
fn search_is_never_worse_than_nearest_and_clearly_better_for_four_bits() {
    let mut random = Random(14);
    let cols = 4096;
    let weights: Vec<f32> = (0..16 * cols).map(|_| random.normal()).collect();
    for &format in Format::ALL {
        let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
            squared_errors(format, &encode(Isa::best(), format, rounding, &weights, cols), &weights, cols)
        });
        for (block, (nearest, search)) in nearest.iter().zip(&search).enumerate() {
            // The encoder compares errors in single precision, 32 terms.
            assert!(*search <= nearest * (1.0 + 1e-5), "{format} block {block}: {search} > {nearest}");
        }
        let [nearest, search] = [nearest, search].map(|errors| errors.iter().sum::<f64>());
        println!("{format}: squared error of search / nearest = {:.3}", search / nearest);
        if format == Format::Q4_0 {
            // An exhaustive search leaves 0.886 on normally distributed weights.
            assert!(search < 0.89 * nearest, "{search} against {nearest}");
        }
    }
}

#[test]
fn weights_that_cannot_be_encoded_are_named() {
    let cols = 64;
    for &format in Format::ALL {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = vec![0.5; 20 * cols];
            weights[17 * cols + 33] = value;
            match Matrix::encode(Isa::best(), format, Rounding::Search, &weights, 20, cols) {
                Err(EncodeError::NotFinite { row: 17, col: 33, value: found }) => {
                    assert_eq!(found.to_bits(), value.to_bits());
                }
                other => panic!("{other:?}"),
            }
        }
        let mut weights = vec![0.5; 20 * cols];
        weights[18 * cols + 40] = 1e9;
        let found = Matrix::encode(Isa::best(), format, Rounding::Search, &weights, 20, cols).unwrap_err();
        assert_eq!(found, EncodeError::ScaleOverflow { row: 18, col: 32, magnitude: 1e9 }, "{format}");
    }
}

#[test]
fn a_scale_that_overflows_is_an_error_however_the_block_looks() {
    for (format, largest) in [(Format::Q8_0, 65520.0 * 127.0), (Format::Q4_0, 65520.0 * 8.0)] {
        for &rounding in Rounding::ALL {
            // All alike, one large among small ones, one small among large ones.
            for (most, one) in [(1.0, 1.0), (1e-3, 1.0), (1.0, 1e-3), (0.95, 1.0), (0.0, 1.0)] {
                for (factor, fits) in [(1.001, false), (0.999, true)] {
                    let mut weights = vec![most * largest * factor; 32];
                    weights[9] = -one * largest * factor;
                    let mut panel = vec![0; format.panel_bytes(32).unwrap()];
                    let encoded = encode_panel(Isa::best(), format, rounding, &weights, 32, &mut panel);
                    assert_eq!(encoded.is_ok(), fits, "{format} {rounding} {most} {one} {factor}: {encoded:?}");
                }
            }
        }
    }
}

#[test]
fn the_distortion_is_that_of_the_decoded_weights() {
    let mut random = Random(15);
    let cols = 172;
    for &format in Format::ALL {
        for magnitude in [1.0, 1e5, 1e-24] {
            let weights: Vec<f32> = random.weights(5 * cols).iter().map(|w| w * magnitude).collect();
            let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
            let found = encode_panel(Isa::best(), format, Rounding::Search, &weights, cols, &mut panel).unwrap();
            let matrix = MatrixRef::new(format, 5, cols, &panel).unwrap();
            let (mut error, mut signal) = (0.0, 0.0);
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                let mut decoded = vec![f32::NAN; cols];
                matrix.decode_row(row, &mut decoded).unwrap();
                for (&w, &d) in weights.iter().zip(&decoded) {
                    error += (f64::from(w) - f64::from(d)).powi(2);
                    signal += f64::from(w).powi(2);
                }
            }
            // Sums of 32 squares in single precision.
            assert!((found.error / error - 1.0).abs() < 1e-5, "{format} {magnitude}: {} {error}", found.error);
            assert!((found.signal / signal - 1.0).abs() < 1e-5, "{format} {magnitude}: {} {signal}", found.signal);
        }
    }
}

#[test]
fn zeros_and_tiny_weights_become_zero() {
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            for weight in [0.0, -0.0, 1e-45, -1e-40, 1e-30] {
                let weights = vec![weight; 16 * 32];
                let bytes = encode(Isa::best(), format, rounding, &weights, 32);
                let mut decoded = [f32::NAN; 32];
                MatrixRef::new(format, 16, 32, &bytes).unwrap().decode_row(3, &mut decoded).unwrap();
                assert_eq!(decoded, [0.0; 32], "{format} {rounding} {weight}");
            }
        }
    }
}

proptest! {
    /// Whatever the weights: the same bytes on every instruction set, and errors only where the definition has them.
    #[test]
    fn any_block_of_floats(bits in prop::collection::vec(any::<u32>(), 32), scale in -60i32..60) {
        let weights: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b >> 9 | 0x3f80_0000).mul_add(2.0, -3.0) * 2f32.powi(scale)).collect();
        for &format in Format::ALL {
            for &rounding in Rounding::ALL {
                let results: Vec<_> = Isa::available().map(|isa| {
                    let mut panel = vec![0; format.panel_bytes(32).unwrap()];
                    encode_panel(isa, format, rounding, &weights, 32, &mut panel).map(|distortion| (panel, distortion))
                }).collect();
                prop_assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
                let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
                let steps = match format { Format::Q8_0 => 127.0, _ => 8.0 };
                // From here on a number rounds to infinity in half precision.
                prop_assert_eq!(results[0].is_err(), largest / steps >= 65520.0, "{} {} {}", format, rounding, largest);
                if let Ok((panel, _)) = &results[0] {
                    let mut decoded = [f32::NAN; 32];
                    MatrixRef::new(format, 1, 32, panel).unwrap().decode_row(0, &mut decoded).unwrap();
                    // Half a step, the rounding of the scale to half precision (or its subnormal step), and the weight cut off beyond +7.
                    let step = largest / steps;
                    let of_scale = (step * 2f32.powi(-11)).max(2f32.powi(-25));
                    let worst = weights.iter().zip(&decoded).fold(0.0f32, |a, (w, d)| a.max((w - d).abs()));
                    if rounding == Rounding::Nearest {
                        prop_assert!(worst <= (step + steps * of_scale) * 1.0001, "{format}: {worst} against {step}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_a_panel_lacks_are_zero_bytes_whether_encoded_or_packed() {
    let mut random = Random(9);
    for &format in Format::ALL {
        for rows in [1, 15, 16] {
            let cols = format.block_len() + 1;
            let mut encoded = vec![0xff; format.panel_bytes(cols).unwrap()];
            encode_panel(Isa::best(), format, Rounding::Search, &random.weights(rows * cols), cols, &mut encoded)
                .unwrap();
            let mut blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
            panel::unpack(format, cols, &encoded, &mut blocks).unwrap();
            let mut packed = vec![0xff; encoded.len()];
            panel::pack(format, cols, &blocks, &mut packed).unwrap();
            assert!(packed == encoded, "{format}, {rows} rows");
        }
    }
}
