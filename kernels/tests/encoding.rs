//! Encoding: what the formats promise, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kernels::{Distortion, EncodeError, Encoding, Format, Isa, Matrix, MatrixRef, Rounding, panel};
use proptest::prelude::*;
use support::{Random, Weight, isas_to_test, naive_weights, small};

fn encode_panel(
    isa: Isa,
    format: Format,
    rounding: Rounding,
    weights: &[f32],
    cols: usize,
    panel: &mut [u8],
) -> Result<Distortion, EncodeError> {
    Encoding { isa, format, rounding, importance: None }.encode(weights, cols, panel)
}

/// Encodes with the importance of each column.
fn encode_by(isa: Isa, format: Format, rounding: Rounding, importance: &[f32], weights: &[f32]) -> Vec<u8> {
    let cols = importance.len();
    let mut bytes = vec![0xaa; format.matrix_bytes(weights.len() / cols, cols).unwrap()];
    let encoding = Encoding { isa, format, rounding, importance: Some(importance) };
    encoding.encode(weights, cols, &mut bytes).unwrap();
    bytes
}

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
            for (rows, cols) in [(16, 32), (1, 172), (15, 320), (16, if small() { 256 } else { 4096 })] {
                let weights = random.weights(rows * cols);
                let expected = encode(Isa::SCALAR, format, rounding, &weights, cols);
                for &isa in &isas {
                    assert_eq!(encode(isa, format, rounding, &weights, cols), expected, "{format} {rounding} {isa}");
                }
            }
            // Of two zeros the smaller one is not the same everywhere.
            for weights in signed_zeros(&mut random) {
                let expected = encode(Isa::SCALAR, format, rounding, &weights, 256);
                for &isa in &isas {
                    let found = encode(isa, format, rounding, &weights, 256);
                    assert_eq!(found, expected, "{format} {rounding} {isa}, zeros");
                }
            }
        }
    }
}

/// Rows of 256 columns with zeros of both signs: nothing else, and among positive, negative and any
/// numbers.
fn signed_zeros(random: &mut Random) -> [Vec<f32>; 6] {
    let mut rows = |weight: fn(&mut Random, usize) -> f32| (0..16 * 256).map(|i| weight(random, i % 256)).collect();
    fn zero(random: &mut Random) -> f32 {
        if random.bits() & 1 == 0 { 0.0 } else { -0.0 }
    }
    [
        rows(|_, col| if col % 32 == 7 { -0.0 } else { 0.0 }),
        rows(|_, col| if col % 32 == 0 { -0.0 } else { 0.0 }),
        rows(|random, _| zero(random)),
        rows(|random, _| if random.bits() & 1 == 0 { zero(random) } else { random.normal().abs() }),
        rows(|random, _| if random.bits() & 1 == 0 { zero(random) } else { -random.normal().abs() }),
        rows(|random, _| if random.bits() & 1 == 0 { zero(random) } else { random.normal() }),
    ]
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
            let expected = naive_weights(format, &blocks[row % 16 * row_bytes..][..row_bytes]);
            for (&found, expected) in decoded.iter().zip(&expected) {
                assert_eq!(found, expected.value() as f32, "{format} row {row}");
            }
            if !has_offset(format) {
                assert!(expected[cols..].iter().all(|w| w.value() == 0.0), "{format}: padding is zero");
            }
        }
    }
}

/// Whether a zero among other weights need not become zero.
fn has_offset(format: Format) -> bool {
    matches!(
        format,
        Format::Q4_1 | Format::Q5_1 | Format::Q2K | Format::Q4K | Format::Q5K | Format::Iq4Nl | Format::Iq4Xs
    )
}

/// Blocks with every bit set or not by chance decode to what the formats' description says, one
/// rounding included.
#[test]
fn any_bytes_decode_to_what_the_format_says() {
    let mut random = Random(16);
    for &format in Format::ALL {
        let cols = 64 * format.block_len();
        let rows = random.bytes(16 * format.row_bytes(cols).unwrap());
        let mut bytes = vec![0; format.panel_bytes(cols).unwrap()];
        panel::pack(format, cols, &rows, &mut bytes).unwrap();
        let matrix = MatrixRef::new(format, 16, cols, &bytes).unwrap();
        for (row, blocks) in rows.chunks_exact(format.row_bytes(cols).unwrap()).enumerate() {
            let mut decoded = vec![0.0; cols];
            matrix.decode_row(row, &mut decoded).unwrap();
            for (found, expected) in decoded.iter().zip(naive_weights(format, blocks)) {
                let Weight { scale, min, .. } = expected;
                if scale.is_finite() && min.is_finite() {
                    assert_eq!(*found, expected.value() as f32, "{format} {expected:?}");
                } else {
                    assert!(!found.is_finite(), "{format} {expected:?}");
                }
            }
        }
    }
}

/// GGUF's numbers (`enum ggml_type`) with the columns and bytes of a block, and the names of
/// llama.cpp.
const GGML_TYPES: [(u32, &str, usize, usize); 13] = [
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (20, "iq4_nl", 32, 18),
    (23, "iq4_xs", 256, 136),
    (39, "mxfp4", 32, 17),
];

#[test]
fn a_format_with_a_number_is_the_one_that_gguf_has_under_it() {
    for &format in Format::ALL {
        if let Some(number) = format.ggml_type() {
            let expected = GGML_TYPES.iter().find(|known| known.0 == number).unwrap();
            assert_eq!((format.name(), format.block_len(), format.block_bytes()), (expected.1, expected.2, expected.3));
        }
    }
    let numbers = Format::ALL.iter().filter(|format| format.ggml_type().is_some()).count();
    assert_eq!(numbers, GGML_TYPES.len(), "two formats with one number, or a number that no format has");
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

/// Relative squared errors on normally and t-distributed weights that the searches must not exceed.
///
/// For `q8_0` and `mxfp4`, which have next to no search, what they reach; for the others those of a
/// good search.
const SEARCHED: &[(Format, f64, f64)] = &[
    (Format::Q8_0, 0.000_030, 0.000_043),
    (Format::Q4_0, 0.006_60, 0.009_65),
    (Format::Q4_1, 0.004_76, 0.006_02),
    (Format::Q5_0, 0.001_60, 0.002_41),
    (Format::Q5_1, 0.001_10, 0.001_41),
    (Format::Q2K, 0.068, 0.079),
    (Format::Q3K, 0.020_8, 0.027_2),
    (Format::Q4K, 0.004_86, 0.006_18),
    (Format::Q5K, 0.001_185, 0.001_51),
    (Format::Q6K, 0.000_275, 0.000_376),
    (Format::Iq4Nl, 0.005_42, 0.006_87),
    (Format::Iq4Xs, 0.005_52, 0.007_03),
    (Format::Mxfp4, 0.012_55, 0.014_5),
];

#[test]
fn search_is_never_worse_than_nearest_and_reaches_what_a_good_search_does() {
    let mut random = Random(14);
    let cols = 8192;
    let normal: Vec<f32> = (0..16 * cols).map(|_| random.normal()).collect();
    let heavy: Vec<f32> = (0..16 * cols).map(|_| random.t6()).collect();
    for &format in Format::ALL {
        let &(_, on_normal, on_heavy) = SEARCHED.iter().find(|limits| limits.0 == format).unwrap();
        for (weights, limit) in [(&normal, on_normal), (&heavy, on_heavy)] {
            let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
                squared_errors(format, &encode(Isa::best(), format, rounding, weights, cols), weights, cols)
            });
            for (block, (nearest, search)) in nearest.iter().zip(&search).enumerate() {
                // The encoder compares errors in single precision, up to 256 terms.
                assert!(*search <= nearest * (1.0 + 1e-5), "{format} block {block}: {search} > {nearest}");
            }
            let signal = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
            let [nearest, search] = [nearest, search].map(|errors| errors.iter().sum::<f64>() / signal);
            println!("{format}: squared error {search:.6}, of nearest {:.3}", search / nearest);
            assert!(search < limit, "{format}: {search}");
        }
    }
}

/// The relative squared error that a block may have: `of_four` in formats of four bits and more, a
/// multiple of it in those of three and two.
fn worst(format: Format, of_four: f64) -> f64 {
    match format {
        Format::Q2K => 5.0 * of_four,
        Format::Q3K => 2.0 * of_four,
        _ => of_four,
    }
}

/// Padding is no weight: what search finds is better by the columns that there are.
#[test]
fn search_is_never_worse_than_nearest_where_the_last_block_is_padded() {
    let mut random = Random(18);
    for &format in Format::ALL {
        for cols in [1, 8, 24, 31, 40, 300] {
            for offset in [0.0, 3.0] {
                let mut sums = [0.0; 3];
                for _ in 0..if small() { 1 } else { 10 } {
                    let weights: Vec<f32> = (0..16 * cols).map(|_| offset + random.normal()).collect();
                    let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
                        squared_errors(format, &encode(Isa::best(), format, rounding, &weights, cols), &weights, cols)
                    });
                    let isas = isas_to_test();
                    for &rounding in Rounding::ALL {
                        let expected = encode(Isa::SCALAR, format, rounding, &weights, cols);
                        let same = |&isa: &Isa| encode(isa, format, rounding, &weights, cols) == expected;
                        assert!(isas.iter().all(same), "{format} {rounding} {cols}");
                    }
                    for (nearest, search) in nearest.iter().zip(&search) {
                        assert!(*search <= nearest * (1.0 + 1e-5), "{format} {cols}: {search} > {nearest}");
                        sums = [sums[0] + nearest, sums[1] + search, sums[2]];
                    }
                    sums[2] += weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
                }
                let [nearest, search] = [sums[0] / sums[2], sums[1] / sums[2]];
                println!("{format}, {cols} columns around {offset}: nearest {nearest:.6}, search {search:.6}");
                assert!(nearest < worst(format, 0.025), "{format} {cols}: {nearest}");
            }
        }
    }
}

/// Importance as inputs of a layer have it: a few columns count for much, many for little, some for
/// nothing at all.
fn importance(random: &mut Random, cols: usize) -> Vec<f32> {
    let mut factor = || match random.below(16) {
        0 => 0.0,
        1 => 1e-30,
        2 => 100.0 * random.normal().powi(2),
        _ => random.normal().powi(4),
    };
    (0..cols).map(|_| factor()).collect()
}

/// [`squared_errors`] with each column's importance, of which a block has at least a millionth of
/// its largest everywhere.
fn weighted_errors(format: Format, bytes: &[u8], importance: &[f32], weights: &[f32]) -> Vec<f64> {
    let cols = importance.len();
    let matrix = MatrixRef::new(format, 16, cols, bytes).unwrap();
    let mut errors = Vec::new();
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        let mut decoded = vec![f32::NAN; cols];
        matrix.decode_row(row, &mut decoded).unwrap();
        for ((i, w), d) in importance
            .chunks(format.block_len())
            .zip(weights.chunks(format.block_len()))
            .zip(decoded.chunks(format.block_len()))
        {
            let largest = i.iter().fold(0.0f32, |largest, &factor| largest.max(factor));
            let factor = |i: f32| f64::from(if largest > 0.0 { (i / largest).max(1e-6) } else { 1.0 });
            let terms = i.iter().zip(w).zip(d).map(|((&i, &w), &d)| factor(i) * (f64::from(w) - f64::from(d)).powi(2));
            errors.push(terms.sum());
        }
    }
    errors
}

#[test]
fn importance_that_is_equal_changes_no_byte() {
    let mut random = Random(21);
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            let cols: &[usize] = if small() { &[24, 320] } else { &[1, 24, 172, 320, 512] };
            for &cols in cols {
                let weights = random.weights(16 * cols);
                let expected = encode(Isa::best(), format, rounding, &weights, cols);
                let factors: &[f32] = if small() { &[0.3, 0.0] } else { &[1.0, 0.3, 7e-39, 3e38, 0.0] };
                for &factor in factors {
                    let found = encode_by(Isa::best(), format, rounding, &vec![factor; cols], &weights);
                    assert!(found == expected, "{format} {rounding} {cols} {factor}");
                }
            }
        }
    }
}

#[test]
fn importance_lessens_the_weighted_error_of_every_block_and_gives_the_same_bytes_everywhere() {
    let isas = isas_to_test();
    let mut random = Random(22);
    for &format in Format::ALL {
        for (offset, heavy) in [(0.0, false), (0.0, true), (3.0, false)] {
            let mut sums = [0.0; 2];
            let cols: &[usize] = if small() { &[24, 300] } else { &[1, 24, 172, 300, 4096] };
            for &cols in cols {
                let weight = |random: &mut Random| offset + if heavy { random.t6() } else { random.normal() };
                let weights: Vec<f32> = (0..16 * cols).map(|_| weight(&mut random)).collect();
                let importance = importance(&mut random, cols);
                let plain = encode(Isa::best(), format, Rounding::Search, &weights, cols);
                let found = encode_by(Isa::SCALAR, format, Rounding::Search, &importance, &weights);
                for &isa in &isas {
                    let same = encode_by(isa, format, Rounding::Search, &importance, &weights) == found;
                    assert!(same, "{format} {isa} {cols}");
                }
                let plain = weighted_errors(format, &plain, &importance, &weights);
                let found = weighted_errors(format, &found, &importance, &weights);
                for (block, (found, plain)) in found.iter().zip(&plain).enumerate() {
                    // Two sums of the same terms.
                    assert!(*found <= plain * (1.0 + 1e-12), "{format} {cols} block {block}: {found} > {plain}");
                    sums = [sums[0] + found, sums[1] + plain];
                }
                let nearest = encode(Isa::best(), format, Rounding::Nearest, &weights, cols);
                let by = encode_by(Isa::best(), format, Rounding::Nearest, &importance, &weights);
                assert!(by == nearest, "{format}: nearest rounding does not use importance");
            }
            println!("{format} around {offset}: weighted error {:.3} of that without importance", sums[0] / sums[1]);
            match format {
                Format::Q8_0 => assert!(sums[0] == sums[1], "there is no search"),
                // Its scales are powers of two, three of which are tried: away from zero one is
                // best.
                Format::Mxfp4 if offset == 0.0 => assert!(sums[0] < sums[1], "{format}"),
                Format::Mxfp4 => assert!(sums[0] <= sums[1], "{format}"),
                _ => assert!(sums[0] < 0.9 * sums[1], "{format}: {sums:?}"),
            }
        }
    }
}

#[test]
fn columns_of_no_importance_are_not_erased() {
    let cols = 512;
    let weights = Random(23).weights(16 * cols);
    for nothing in [0..32, 64..256, 100..101] {
        let mut importance = vec![1.0; cols];
        importance[nothing.clone()].fill(0.0);
        for &format in Format::ALL {
            let bytes = encode_by(Isa::best(), format, Rounding::Search, &importance, &weights);
            let matrix = MatrixRef::new(format, 16, cols, &bytes).unwrap();
            let (mut error, mut signal) = (0.0, 0.0);
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                let mut decoded = vec![f32::NAN; cols];
                matrix.decode_row(row, &mut decoded).unwrap();
                for i in nothing.clone() {
                    error += (weights[i] - decoded[i]).powi(2);
                    signal += weights[i].powi(2);
                }
            }
            // Any format keeps more than half of a weight's magnitude.
            assert!(error < 0.25 * signal, "{format} {nothing:?}: {error} of {signal}");
        }
    }
}

#[test]
fn importance_that_is_none_is_refused() {
    let mut panel = vec![0; Format::Q4_0.panel_bytes(64).unwrap()];
    let mut encode = |importance: &[f32]| {
        let encoding = Encoding {
            isa: Isa::best(),
            format: Format::Q4_0,
            rounding: Rounding::Search,
            importance: Some(importance),
        };
        encoding.encode(&[0.5; 64], 64, &mut panel)
    };
    assert!(encode(&[1.0; 64]).is_ok());
    let error = encode(&[1.0; 63]).unwrap_err();
    assert_eq!(error.to_string(), "factors of importance: found 63, expected 64");
    for value in [-1.0, -1e-45, f32::NAN, f32::INFINITY] {
        let mut importance = [1.0; 64];
        importance[40] = value;
        match encode(&importance) {
            Err(error @ EncodeError::Importance { col: 40, .. }) => {
                let expected = format!("the importance of column 40 is {value}, expected a finite number, 0 or more");
                assert_eq!(error.to_string(), expected);
            }
            other => panic!("{value}: {other:?}"),
        }
    }
}

/// Several panels at a time are the panels one by one, and so is what they cost.
#[test]
fn panels_are_encoded_alike_together_and_alone() {
    let mut random = Random(23);
    let (rows, cols) = (35, 172);
    let weights = random.weights(rows * cols);
    for &format in Format::ALL {
        let encoding = Encoding { isa: Isa::best(), format, rounding: Rounding::Search, importance: None };
        let mut together = vec![0xaa; format.matrix_bytes(rows, cols).unwrap()];
        let all = encoding.encode(&weights, cols, &mut together).unwrap();
        let mut sum = Distortion::default();
        let panel_bytes = format.panel_bytes(cols).unwrap();
        for (weights, expected) in weights.chunks(16 * cols).zip(together.chunks(panel_bytes)) {
            let mut panel = vec![0x55; panel_bytes];
            sum += encoding.encode(weights, cols, &mut panel).unwrap();
            assert!(panel == expected, "{format}");
        }
        assert_eq!(sum, all, "{format}");
        assert!(encoding.encode(&weights, cols, &mut together[1..]).is_err());
        assert!(encoding.encode(&weights[1..], cols, &mut together).is_err());
        assert_eq!(encoding.encode(&[], cols, &mut []), Ok(Distortion::default()));
        assert!(encoding.encode(&[], usize::MAX, &mut []).is_err(), "the bytes of a panel overflow");
    }
}

/// Every scale that `mxfp4` has, with weights that it expresses exactly.
#[test]
fn mxfp4_is_exact_over_its_whole_range() {
    let format = Format::Mxfp4;
    for &isa in &isas_to_test() {
        for &rounding in Rounding::ALL {
            // 2^-128 times the doubled values; beyond 252 the largest would be infinite.
            for e in 0..=252 {
                let scale = if e < 2 { f32::from_bits(1 << 21 << e) } else { f32::from_bits((e - 1) << 23) };
                let values = [12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0];
                let value = |i: usize| values[i % 8] * if (i / 8).is_multiple_of(2) { 1.0 } else { -1.0 };
                let weights: Vec<f32> = (0..32).map(|i| value(i) * scale).collect();
                let mut bytes = vec![0xaa; format.panel_bytes(32).unwrap()];
                let distortion = encode_panel(isa, format, rounding, &weights, 32, &mut bytes).unwrap();
                assert_eq!(u32::from(bytes[0]), e, "{isa} {rounding}");
                let mut decoded = [f32::NAN; 32];
                MatrixRef::new(format, 1, 32, &bytes).unwrap().decode_row(0, &mut decoded).unwrap();
                assert_eq!(decoded, *weights, "{isa} {rounding} {e}");
                assert_eq!(distortion.error, 0.0);
                assert!(distortion.signal > 0.0 && distortion.signal.is_finite(), "{e}: {}", distortion.signal);
            }
        }
    }
}

/// The largest and the smallest weights: `mxfp4` decodes to finite numbers, and search is no worse
/// there either.
#[test]
fn mxfp4_searches_over_its_whole_range() {
    let mut random = Random(19);
    let format = Format::Mxfp4;
    for magnitude in [f32::MAX, 2f32.powi(70), 2f32.powi(-70), 2f32.powi(-124)] {
        let weights: Vec<f32> = (0..16 * 256).map(|_| (random.normal() / 4.0).clamp(-1.0, 1.0) * magnitude).collect();
        let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
            squared_errors(format, &encode(Isa::best(), format, rounding, &weights, 256), &weights, 256)
        });
        let signal: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        for (nearest, search) in nearest.iter().zip(&search) {
            assert!(*search <= nearest * (1.0 + 1e-5), "{magnitude}: {search} > {nearest}");
        }
        let error = search.iter().sum::<f64>() / signal;
        assert!(error < 0.02, "{magnitude}: {error}");
    }
    // Just above where the largest value of the next scale would be infinite.
    let weights = [f32::MAX; 32];
    for &rounding in Rounding::ALL {
        let bytes = encode(Isa::best(), format, rounding, &weights, 32);
        let mut decoded = [f32::NAN; 32];
        MatrixRef::new(format, 1, 32, &bytes).unwrap().decode_row(0, &mut decoded).unwrap();
        assert_eq!(decoded, [1.5 * 2f32.powi(127); 32], "{rounding}");
    }
}

/// A format, the scale of a sub-block and the value that each column multiplies it with.
type Scaled = (Format, f32, fn(usize) -> f32);

/// A scale of a super-block that half precision has stays as it is, however few bits it has there.
#[test]
fn super_blocks_with_small_scales_are_exact() {
    let formats: [Scaled; 6] = [
        (Format::Q2K, 15.0, |i| (i % 4) as f32),
        (Format::Q3K, -32.0, |i| (i % 8) as f32 - 4.0),
        (Format::Q4K, 63.0, |i| (i % 16) as f32),
        (Format::Q5K, 63.0, |i| (i % 32) as f32),
        (Format::Q6K, -128.0, |i| (i % 16) as f32 - 32.0),
        (Format::Iq4Xs, -32.0, |i| [-127.0, -104.0, -10.0, 1.0, 113.0, 53.0, 25.0, -65.0][i % 8]),
    ];
    for (format, scale, value) in formats {
        for steps in 1..200 {
            let d = steps as f32 * 2f32.powi(-24);
            let weights: Vec<f32> = (0..256).map(|i| d * scale * value(i)).collect();
            for &rounding in Rounding::ALL {
                let mut panel = vec![0; format.panel_bytes(256).unwrap()];
                let found = encode_panel(Isa::best(), format, rounding, &weights, 256, &mut panel).unwrap();
                assert_eq!(found.error, 0.0, "{format} {rounding}: {steps} steps");
            }
        }
    }
}

/// A name and a weight for every column.
type NamedBlock = (&'static str, fn(usize) -> f32);

/// Blocks in which a search could go astray: whatever they hold, search is not worse than nearest,
/// and nearest is sane.
#[test]
fn unusual_blocks_are_encoded_well() {
    let mut random = Random(17);
    let cols = 256;
    let blocks: [NamedBlock; 10] = [
        ("constant", |_| 0.7),
        ("negative constant", |_| -0.7),
        ("ramp", |i| i as f32 / 100.0),
        ("falling ramp", |i| -1.0 - i as f32 / 100.0),
        ("one outlier", |i| if i == 77 { 100.0 } else { (i as f32).sin() * 0.01 }),
        ("one negative outlier", |i| if i == 200 { -100.0 } else { (i as f32).sin() * 0.01 }),
        ("only one weight", |i| if i == 31 { -3.0 } else { 0.0 }),
        ("two values", |i| if i.is_multiple_of(3) { 1.0 } else { -1.0 }),
        ("far from zero", |i| 50.0 + (i as f32).sin()),
        ("many magnitudes", |i| (i as f32).sin() * 2f32.powi(i as i32 / 32 * 3 - 12)),
    ];
    for &format in Format::ALL {
        for (name, block) in &blocks {
            for magnitude in [1.0, 1e-2, 30.0] {
                let weights: Vec<f32> = (0..16 * cols).map(|i| block(i % cols) * magnitude).collect();
                let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
                    squared_errors(format, &encode(Isa::best(), format, rounding, &weights, cols), &weights, cols)
                });
                let signal: f64 = weights[..cols].iter().map(|&w| f64::from(w).powi(2)).sum();
                for (nearest, search) in nearest.iter().zip(&search) {
                    assert!(*search <= nearest * (1.0 + 1e-5) + 1e-9 * signal, "{format} {name}: {search} > {nearest}");
                }
                let search = search.iter().take(cols / format.block_len()).sum::<f64>() / signal;
                assert!(search < worst(format, 0.03), "{format} {name} {magnitude}: {search}");
            }
        }
    }
    // Blocks of different kinds beside each other in one panel: a lane does not see its neighbours.
    for &format in Format::ALL {
        let weights: Vec<f32> = (0..16 * cols).map(|i| (blocks[i / cols % blocks.len()].1)(i % cols)).collect();
        let together = encode(Isa::best(), format, Rounding::Search, &weights, cols);
        let mut rows = vec![0; 16 * format.row_bytes(cols).unwrap()];
        panel::unpack(format, cols, &together, &mut rows).unwrap();
        for (row, bytes) in rows.chunks_exact(format.row_bytes(cols).unwrap()).enumerate() {
            let alone = encode(Isa::best(), format, Rounding::Search, &weights[row * cols..][..cols], cols);
            let mut expected = vec![0; bytes.len()];
            panel::unpack(format, cols, &alone, &mut expected).unwrap();
            assert!(bytes == expected, "{format} row {row}");
        }
    }
    // Zeros beside numbers.
    for &format in Format::ALL {
        let weights: Vec<f32> =
            (0..16 * cols).map(|i| if i % cols < 128 { 0.0 } else { random.normal() * 0.05 }).collect();
        let bytes = encode(Isa::best(), format, Rounding::Search, &weights, cols);
        let mut decoded = vec![f32::NAN; cols];
        MatrixRef::new(format, 16, cols, &bytes).unwrap().decode_row(5, &mut decoded).unwrap();
        assert!(decoded[..128].iter().all(|&w| w == 0.0), "{format}: sub-blocks of zeros stay zero");
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
        if format == Format::Mxfp4 {
            continue; // Its scales reach as far as binary32.
        }
        let mut weights = vec![0.5; 20 * cols];
        weights[18 * cols + 40] = 1e9;
        let found = Matrix::encode(Isa::best(), format, Rounding::Search, &weights, 20, cols).unwrap_err();
        assert_eq!(
            found,
            EncodeError::ScaleOverflow { row: 18, col: 40 / format.block_len() * format.block_len(), magnitude: 1e9 },
            "{format}"
        );
    }
}

/// The magnitude from which on a weight's scale rounds to infinity in half precision, if the
/// block's weights are of both signs and about as large.
fn overflow(format: Format) -> Option<f32> {
    Some(65520.0 * steps(format)?)
}

/// The largest weight in steps of the half-precision scale.
fn steps(format: Format) -> Option<f32> {
    Some(match format {
        Format::Q8_0 => 127.0,
        Format::Q4_0 => 8.0,
        Format::Q5_0 => 16.0,
        Format::Q3K => 4.0 * 32.0,
        Format::Q6K => 32.0 * 128.0,
        Format::Iq4Nl => 127.0,
        Format::Iq4Xs => 127.0 * 32.0,
        _ => return None,
    })
}

/// Formats with an offset overflow where the range of a block or its least weight does.
#[test]
fn a_range_or_an_offset_that_overflows_is_an_error() {
    for (format, range, offset) in [
        (Format::Q4_1, 65520.0 * 15.0, 65520.0),
        (Format::Q5_1, 65520.0 * 31.0, 65520.0),
        (Format::Q2K, 65520.0 * 3.0 * 15.0, 65520.0 * 15.0),
        (Format::Q4K, 65520.0 * 15.0 * 63.0, 65520.0 * 63.0),
        (Format::Q5K, 65520.0 * 31.0 * 63.0, 65520.0 * 63.0),
    ] {
        for &rounding in Rounding::ALL {
            for (factor, fits) in [(1.001, false), (0.999, true)] {
                for (low, high) in [(0.0, range), (-offset, -offset), (-offset, 0.0)] {
                    let mut weights = vec![low * factor; 32];
                    weights[9] = high * factor;
                    let mut panel = vec![0; format.panel_bytes(32).unwrap()];
                    let encoded = encode_panel(Isa::best(), format, rounding, &weights, 32, &mut panel);
                    assert_eq!(encoded.is_ok(), fits, "{format} {rounding} {low} {high} {factor}: {encoded:?}");
                }
            }
        }
    }
}

#[test]
fn a_scale_that_overflows_is_an_error_however_the_block_looks() {
    for &format in Format::ALL {
        let Some(largest) = overflow(format) else { continue };
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

/// A search that tries larger scales than half precision has does not lose itself in what is no
/// number.
#[test]
fn search_is_never_worse_than_nearest_next_to_overflow() {
    let mut random = Random(20);
    let isas = isas_to_test();
    for (format, range, offset) in [
        (Format::Q4_1, 65504.0 * 15.0, 65504.0),
        (Format::Q5_1, 65504.0 * 31.0, 65504.0),
        (Format::Q2K, 65504.0 * 3.0 * 15.0, 65504.0 * 15.0),
        (Format::Q3K, 65504.0 * 4.0 * 32.0, 65504.0 * 4.0 * 32.0),
        (Format::Q4K, 65504.0 * 15.0 * 63.0, 65504.0 * 63.0),
        (Format::Q5K, 65504.0 * 31.0 * 63.0, 65504.0 * 63.0),
        (Format::Q4_0, 65504.0 * 8.0, 65504.0 * 8.0),
        (Format::Q5_0, 65504.0 * 16.0, 65504.0 * 16.0),
        (Format::Q6K, 65504.0 * 32.0 * 128.0, 65504.0 * 32.0 * 128.0),
        (Format::Iq4Nl, 65504.0 * 127.0, 65504.0 * 127.0),
        (Format::Iq4Xs, 65504.0 * 127.0 * 32.0, 65504.0 * 127.0 * 32.0),
    ] {
        for (low, high) in [(0.0, range), (-offset, 0.0), (-offset, range - offset), (-offset, 0.9 * -offset)] {
            let weights: Vec<f32> = (0..16 * 256)
                .map(|i| match i % 32 {
                    3 => low,
                    9 => high,
                    _ => (low + (high - low) * (0.5 + random.normal() / 6.0)).clamp(low, high),
                })
                .collect();
            let [nearest, search] = [Rounding::Nearest, Rounding::Search].map(|rounding| {
                let expected = encode(Isa::SCALAR, format, rounding, &weights, 256);
                for &isa in &isas {
                    assert_eq!(encode(isa, format, rounding, &weights, 256), expected, "{format} {rounding} {isa}");
                }
                squared_errors(format, &expected, &weights, 256)
            });
            for (nearest, search) in nearest.iter().zip(&search) {
                assert!(*search <= nearest * (1.0 + 1e-5), "{format} {low} {high}: {search} > {nearest}");
            }
        }
    }
}

#[test]
fn the_distortion_is_that_of_the_decoded_weights() {
    let mut random = Random(15);
    let cols = 172;
    for &format in Format::ALL {
        for magnitude in [1.0, 1e4, 1e-24, 1e-30, 1e30] {
            if magnitude > 1e4 && format != Format::Mxfp4 {
                continue; // Scales overflow.
            }
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
            assert!((found.error / error - 1.0).abs() < 1e-12, "{format} {magnitude}: {} {error}", found.error);
            assert!((found.signal / signal - 1.0).abs() < 1e-12, "{format} {magnitude}: {} {signal}", found.signal);
        }
    }
}

#[test]
fn zeros_and_tiny_weights_become_zero() {
    for &format in Format::ALL {
        for &rounding in Rounding::ALL {
            // `mxfp4` reaches down to 2⁻¹²⁸.
            let tiny = if format == Format::Mxfp4 { 1e-40 } else { 1e-30 };
            for weight in [0.0, -0.0, 1e-45, -1e-40, tiny] {
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
    #![proptest_config(ProptestConfig::with_cases(if small() { 16 } else { 256 }))]

    /// Whatever the weights: the same bytes on every instruction set, and errors only where the
    /// definition has them.
    #[test]
    fn any_block_of_floats(bits in prop::collection::vec(any::<u32>(), 256), scale in -60i32..60) {
        let weights: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b >> 9 | 0x3f80_0000).mul_add(2.0, -3.0) * 2f32.powi(scale)).collect();
        for &format in Format::ALL {
            for &rounding in Rounding::ALL {
                let results: Vec<_> = Isa::available().map(|isa| {
                    let mut panel = vec![0; format.panel_bytes(256).unwrap()];
                    encode_panel(isa, format, rounding, &weights, 256, &mut panel).map(|distortion| (panel, distortion))
                }).collect();
                prop_assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
                let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
                if let Some(overflow) = overflow(format) {
                    prop_assert_eq!(results[0].is_err(), largest >= overflow, "{} {} {}", format, rounding, largest);
                }
                if let Ok((panel, distortion)) = &results[0] {
                    // Nothing is said of scales and offsets about as small as the smallest in half
                    // precision.
                    let tiny = format != Format::Mxfp4 && scale < -15;
                    prop_assert!(tiny || distortion.error <= distortion.signal * 1.0001);
                    let mut decoded = [f32::NAN; 256];
                    MatrixRef::new(format, 1, 256, panel).unwrap().decode_row(0, &mut decoded).unwrap();
                    let worst = weights.iter().zip(&decoded).fold(0.0f32, |a, (w, d)| a.max((w - d).abs()));
                    if let (Format::Q8_0 | Format::Q4_0 | Format::Q5_0, Some(steps), Rounding::Nearest) = (format, steps(format), rounding) {
                        // Half a step, the rounding of the scale to half precision (or its
                        // subnormal step), and the weight cut off beyond +7.
                        let step = largest / steps;
                        let of_scale = (step * 2f32.powi(-11)).max(2f32.powi(-25));
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
