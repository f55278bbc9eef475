//! Products of plain matrices: one row has the same bits alone and among any others, on every
//! instruction set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use half::{bf16, f16};
use kernels::{Isa, PlainRef, PlainType, multiply_plain};
use support::{Random, bits_of_numbers, gamma, isas_to_test, roundings_in_lanes, small, sum_in_lanes};

const TYPES: [PlainType; 3] = [PlainType::F32, PlainType::F16, PlainType::Bf16];

/// Numbers of activation rows: on both sides of what is multiplied together.
const X_ROWS: [usize; 7] = [1, 2, 3, 4, 5, 33, 65];

fn columns() -> &'static [usize] {
    if small() { &[1, 17, 256] } else { &[1, 15, 16, 17, 256, 257, 300] }
}

fn x_rows() -> &'static [usize] {
    if small() { &X_ROWS[..5] } else { &X_ROWS }
}

/// A plain matrix at an odd address, and what its numbers are after rounding.
struct Plain {
    ty: PlainType,
    rows: usize,
    cols: usize,
    /// Behind a byte that is not theirs: memory is allocated at even addresses.
    bytes: Vec<u8>,
    weights: Vec<f32>,
}

impl Plain {
    fn new(ty: PlainType, cols: usize, weights: &[f32]) -> Self {
        let mut bytes = vec![0xff];
        let mut rounded = Vec::new();
        for &weight in weights {
            match ty {
                PlainType::F32 => {
                    bytes.extend(weight.to_le_bytes());
                    rounded.push(weight);
                }
                PlainType::F16 => {
                    bytes.extend(f16::from_f32(weight).to_le_bytes());
                    rounded.push(f16::from_f32(weight).to_f32());
                }
                PlainType::Bf16 => {
                    bytes.extend(bf16::from_f32(weight).to_le_bytes());
                    rounded.push(bf16::from_f32(weight).to_f32());
                }
            }
        }
        Self { ty, rows: weights.len() / cols, cols, bytes, weights: rounded }
    }

    fn view(&self) -> PlainRef<'_> {
        let len = self.weights.len() * self.ty.bytes();
        PlainRef::new(self.ty, self.rows, self.cols, &self.bytes[self.bytes.len() - len..]).unwrap()
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.cols..][..self.cols]
    }
}

/// The outputs of each row of activations, without those that mean nothing.
fn product(isa: Isa, weights: PlainRef<'_>, x: &[f32], x_rows: usize) -> Vec<Vec<f32>> {
    let mut y = vec![[f32::NAN; 16]; x_rows * weights.panel_count()];
    multiply_plain(isa, weights, x, x_rows, &mut y).unwrap();
    let output = |row: usize, i: usize| y[i / 16 * x_rows + row][i % 16];
    (0..x_rows).map(|row| (0..weights.rows()).map(|i| output(row, i)).collect()).collect()
}

fn with_scalar(isas: &[Isa]) -> impl Iterator<Item = Isa> {
    isas.iter().copied().chain([Isa::SCALAR])
}

#[test]
fn every_row_is_summed_in_lanes_whatever_others_there_are() {
    let isas = isas_to_test();
    let mut random = Random(1);
    for ty in TYPES {
        for &cols in columns() {
            for rows in [1, 37] {
                let matrix = Plain::new(ty, cols, &random.weights(rows * cols));
                let most = x_rows().iter().max().unwrap();
                let x: Vec<f32> = (0..most * cols).map(|_| random.unit() * 3.0).collect();
                let one = |x: &[f32]| (0..rows).map(|row| sum_in_lanes(matrix.row(row), x)).collect();
                let expected: Vec<Vec<f32>> = x.chunks(cols).map(one).collect();
                for isa in with_scalar(&isas) {
                    for &x_rows in x_rows() {
                        let y = product(isa, matrix.view(), &x[..x_rows * cols], x_rows);
                        for (row, (y, expected)) in y.iter().zip(&expected).enumerate() {
                            let same = bits_of_numbers(y) == bits_of_numbers(expected);
                            assert!(same, "{ty:?} {isa} {rows}x{cols}, row {row} of {x_rows}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn products_are_beside_those_in_f64() {
    let mut random = Random(2);
    for ty in TYPES {
        for &cols in columns() {
            let matrix = Plain::new(ty, cols, &random.weights(19 * cols));
            let x: Vec<f32> = (0..2 * cols).map(|_| random.unit() * 3.0).collect();
            for x_rows in [1, 2] {
                let y = product(Isa::best(), matrix.view(), &x[..x_rows * cols], x_rows);
                for (row, (y, x)) in y.iter().zip(x.chunks(cols)).enumerate() {
                    for (i, &y) in y.iter().enumerate() {
                        let terms = matrix.row(i).iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                        let (exact, magnitude) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
                        let error = (f64::from(y) - exact).abs();
                        let bound = gamma(roundings_in_lanes(cols)) * magnitude;
                        assert!(error <= bound, "{ty:?} {cols}, row {row}, output {i}: {error:e} > {bound:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_have_the_same_sign_alone_and_among_others() {
    let isas = isas_to_test();
    // Products of the smallest weights underflow, to -0: no addition of +0 may come behind in one
    // way and not in the other.
    for (ty, weight, x) in [
        (PlainType::F32, 1e-30, -1e-30),
        (PlainType::Bf16, 1e-30, -1e-30),
        (PlainType::F16, 2f32.powi(-24), -1e-41),
        (PlainType::F32, -0.0, 1.0),
    ] {
        for cols in [1, 16, 17, 32, 256, 272] {
            let matrix = Plain::new(ty, cols, &vec![weight; 17 * cols]);
            assert_eq!((matrix.weights[0] * x).to_bits(), (-0.0f32).to_bits());
            let x = vec![x; 5 * cols];
            let expected = product(Isa::SCALAR, matrix.view(), &x[..cols], 1);
            for isa in with_scalar(&isas) {
                for x_rows in 1..=5 {
                    for (row, y) in product(isa, matrix.view(), &x[..x_rows * cols], x_rows).iter().enumerate() {
                        assert!(y.iter().all(|&y| y == 0.0));
                        let same = bits_of_numbers(y) == bits_of_numbers(&expected[0]);
                        assert!(same, "{ty:?} {isa} {cols} columns, row {row} of {x_rows}: {y:?}, not {expected:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_are_where_they_belong() {
    let isas = isas_to_test();
    let mut random = Random(3);
    let kinds = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    for ty in TYPES {
        for &cols in columns() {
            let (rows, x_rows) = (35, 7);
            let mut weights = random.weights(rows * cols);
            let mut x = random.weights(x_rows * cols);
            // Every other row has one or two.
            for numbers in [&mut weights, &mut x] {
                for row in numbers.chunks_mut(cols).step_by(2) {
                    for _ in 0..2 {
                        row[random.below(cols)] = kinds[random.below(4)];
                    }
                }
            }
            let matrix = Plain::new(ty, cols, &weights);
            for isa in with_scalar(&isas) {
                let y = product(isa, matrix.view(), &x, x_rows);
                for (row, (y, x)) in y.iter().zip(x.chunks(cols)).enumerate() {
                    let alone = product(isa, matrix.view(), x, 1).concat();
                    assert_eq!(bits_of_numbers(y), bits_of_numbers(&alone), "{ty:?} {isa} {cols}, row {row}");
                    for (i, y) in y.iter().enumerate() {
                        // Nothing overflows, so that any order of the sum is as good.
                        let exact: f32 = matrix.row(i).iter().zip(x).map(|(w, x)| w * x).sum();
                        let same =
                            exact.is_finite() && y.is_finite() || bits_of_numbers(&[*y]) == bits_of_numbers(&[exact]);
                        assert!(same, "{ty:?} {isa} {cols}, row {row}, output {i}: {y}, not {exact}");
                    }
                }
            }
        }
    }
}

/// What 16 bits mean, of which so many are the fraction.
fn meaning(bits: u16, fraction: u32) -> f64 {
    let exponent_bits = 15 - fraction;
    let (exponent, bias) = (i32::from(bits >> fraction) % (1 << exponent_bits), (1 << (exponent_bits - 1)) - 1);
    let fractional = f64::from(bits % (1 << fraction)) / f64::from(1 << fraction);
    let magnitude = match exponent {
        0 => fractional * 2f64.powi(1 - bias),
        e if e == 2 * bias + 1 && fractional == 0.0 => f64::INFINITY,
        e if e == 2 * bias + 1 => f64::NAN,
        e => (1.0 + fractional) * 2f64.powi(e - bias),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[test]
fn all_16_bit_numbers_are_widened_exactly() {
    let isas = isas_to_test();
    for (ty, fraction) in [(PlainType::F16, 10), (PlainType::Bf16, 7)] {
        let numbers: Vec<u16> = (0..=u16::MAX).step_by(if small() { 29 } else { 1 }).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let expected: Vec<f32> = numbers.iter().map(|&bits| meaning(bits, fraction) as f32).collect();
        let column = PlainRef::new(ty, numbers.len(), 1, &bytes).unwrap();
        // +0 plus -0 is +0.
        let sums: Vec<f32> = expected.iter().map(|x| x + 0.0).collect();
        for isa in with_scalar(&isas) {
            for y in [product(isa, column, &[1.0], 1), product(isa, column, &[1.0; 2], 2)].concat() {
                assert!(bits_of_numbers(&y) == bits_of_numbers(&sums), "{ty:?} {isa}");
            }
        }
        let row = PlainRef::new(ty, 1, numbers.len(), &bytes).unwrap();
        let mut decoded = vec![1.0; numbers.len()];
        row.decode_row(0, &mut decoded).unwrap();
        assert!(bits_of_numbers(&decoded) == bits_of_numbers(&expected), "{ty:?}");
    }
}

#[test]
fn rows_are_decoded_and_ranges_of_panels_give_their_part() {
    let mut random = Random(4);
    for ty in TYPES {
        let (rows, cols, x_rows) = (39, 33, 3);
        let matrix = Plain::new(ty, cols, &random.weights(rows * cols));
        for row in 0..rows {
            let mut decoded = vec![f32::NAN; cols];
            matrix.view().decode_row(row, &mut decoded).unwrap();
            assert_eq!(decoded, matrix.row(row), "{ty:?} row {row}");
        }
        let x = random.weights(x_rows * cols);
        let whole = product(Isa::best(), matrix.view(), &x, x_rows);
        for first in 0..=3 {
            for end in first..=3 {
                let part = product(Isa::best(), matrix.view().panels(first..end), &x, x_rows);
                for (part, whole) in part.iter().zip(&whole) {
                    assert_eq!(part, &whole[(first * 16).min(rows)..(end * 16).min(rows)], "{ty:?} {first}..{end}");
                }
            }
        }
    }
}

#[test]
fn empty_operands_give_empty_or_zero_products() {
    for isa in Isa::available() {
        for ty in TYPES {
            let none = PlainRef::new(ty, 17, 0, &[]).unwrap();
            assert_eq!(product(isa, none, &[], 2), [[0.0; 17]; 2]);
            let rowless = PlainRef::new(ty, 0, 5, &[]).unwrap();
            assert_eq!(product(isa, rowless, &[1.0; 10], 2), [[0.0; 0]; 2]);
            let matrix = Plain::new(ty, 5, &[1.0; 15]);
            assert!(product(isa, matrix.view(), &[], 0).is_empty());
        }
    }
}

#[test]
fn lengths_that_disagree_are_refused() {
    for ty in TYPES {
        let bytes = vec![0; 17 * 5 * ty.bytes()];
        for (rows, cols) in [(17, 4), (16, 5), (18, 5), (17, 6), (0, 0), (usize::MAX, 1), (usize::MAX, usize::MAX)] {
            assert!(PlainRef::new(ty, rows, cols, &bytes).is_err(), "{ty:?} {rows}x{cols}");
        }
        assert!(PlainRef::new(ty, 17, 5, &bytes[1..]).is_err());
        assert!(PlainRef::new(ty, 1 << 63, 2, &[]).is_err());
        let matrix = PlainRef::new(ty, 17, 5, &bytes).unwrap();
        let mut y = [[f32::NAN; 16]; 4];
        assert!(multiply_plain(Isa::best(), matrix, &[0.0; 10], 2, &mut y).is_ok());
        assert!(multiply_plain(Isa::best(), matrix, &[0.0; 9], 2, &mut y).is_err());
        assert!(multiply_plain(Isa::best(), matrix, &[0.0; 10], 1, &mut y).is_err());
        assert!(multiply_plain(Isa::best(), matrix, &[0.0; 10], 2, &mut y[..3]).is_err());
        assert!(multiply_plain(Isa::best(), matrix, &[0.0; 10], usize::MAX, &mut y).is_err());
        assert!(matrix.decode_row(17, &mut [0.0; 5]).is_err());
        assert!(matrix.decode_row(0, &mut [0.0; 4]).is_err());
    }
}
