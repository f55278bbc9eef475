//! What the tests of this crate share: seeded data, the instruction sets to test, and a naive
//! oracle.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(unreachable_pub, reason = "shared between test crates, each of which is its own root")]
#![allow(clippy::print_stdout, reason = "says which instruction sets ran")]

mod random;

use half::f16;
use kernels::{ActivationBlock, Activations, ActivationsRef, Format, Isa, KNOWN_ISAS};
pub use random::Random;

/// Names the instruction sets that every test of an agreement must have run, or the test fails: a
/// comma-separated list.
const EXPECTED: &str = "EXPECT_ISA";

/// Set to make the tests small enough for an emulated processor.
const SMALL: &str = "KERNELS_TEST_SMALL";

/// The instruction sets of this processor without the reference. Says which ones do not run here,
/// and fails if one of them was expected.
pub fn isas_to_test() -> Vec<Isa> {
    let available: Vec<Isa> = Isa::available().collect();
    for (name, needs) in KNOWN_ISAS {
        if !available.iter().any(|isa| isa.name() == *name) {
            println!("NOT RUN on this processor: {name} (needs {needs})");
            let expected = std::env::var(EXPECTED).unwrap_or_default();
            assert!(!expected.split(',').any(|e| e == *name), "{EXPECTED} asks for {name}, which this processor lacks");
        }
    }
    println!("run: {available:?}");
    available.into_iter().filter(|&isa| isa != Isa::SCALAR).collect()
}

/// Whether to test fewer shapes.
pub fn small() -> bool {
    std::env::var_os(SMALL).is_some()
}

/// Rows of activations in one group.
pub fn quantize(isa: Isa, x: &[f32], cols: usize) -> Activations {
    let mut activations = Activations::default();
    activations.quantize(isa, x, cols, &[x.len() / cols]).unwrap();
    activations
}

/// The blocks of a row.
pub fn blocks_of_row(x: ActivationsRef<'_>, row: usize) -> Vec<ActivationBlock> {
    (0..x.cols().div_ceil(32)).map(|block| x.block(row, block)).collect()
}

/// A weight as the oracle reads it: `scale·code - min`, each of them exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    pub scale: f64,
    pub code: i64,
    pub min: f64,
}

impl Weight {
    pub fn value(self) -> f64 {
        self.scale * self.code as f64 - self.min
    }
}

/// The oracle's own reading of a row of GGUF blocks, written from the description of the formats.
pub fn naive_weights(format: Format, row: &[u8]) -> Vec<Weight> {
    let mut weights = Vec::new();
    for block in row.chunks(format.block_bytes()) {
        let half = |at: usize| f64::from(f16::from_bits(u16::from(block[at]) + 256 * u16::from(block[at + 1])));
        // Bits `from..from + count` of the byte at `at`.
        let bits = |at: usize, from: usize, count: usize| i64::from(block[at]) / (1 << from) % (1 << count);
        // 32 nibbles from `at` on, the low ones first.
        let nibble = |at: usize, i: usize| bits(at + i % 16, i / 16 * 4, 4);
        for i in 0..format.block_len() {
            let (scale, code, min) = match format {
                Format::Q8_0 => (half(0), i64::from(block[2 + i].cast_signed()), 0.0),
                Format::Q4_0 => (half(0), nibble(2, i) - 8, 0.0),
                Format::Q4_1 => (half(0), nibble(4, i), -half(2)),
                Format::Q5_0 => (half(0), nibble(6, i) + 16 * bits(2 + i / 8, i % 8, 1) - 16, 0.0),
                Format::Q5_1 => (half(0), nibble(8, i) + 16 * bits(4 + i / 8, i % 8, 1), -half(2)),
                Format::Q4K | Format::Q5K => {
                    let (group, in_group, l) = (i / 64, i / 32 % 2, i % 32);
                    let j = i / 32;
                    let (scale, min) = match j {
                        0..4 => (bits(4 + j, 0, 6), bits(8 + j, 0, 6)),
                        _ => {
                            let shared = 12 + j - 4;
                            (bits(shared, 0, 4) + 16 * bits(j, 6, 2), bits(shared, 4, 4) + 16 * bits(4 + j, 6, 2))
                        }
                    };
                    let code = match format {
                        Format::Q4K => bits(16 + 32 * group + l, 4 * in_group, 4),
                        _ => bits(48 + 32 * group + l, 4 * in_group, 4) + 16 * bits(16 + l, j, 1),
                    };
                    (half(0) * scale as f64, code, half(2) * min as f64)
                }
                Format::Q2K | Format::Q3K => {
                    let (side, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                    if format == Format::Q2K {
                        let code = bits(16 + 32 * side + l, 2 * quarter, 2);
                        (half(80) * bits(i / 16, 0, 4) as f64, code, half(82) * bits(i / 16, 4, 4) as f64)
                    } else {
                        let j = i / 16;
                        let scale = bits(96 + j % 8, j / 8 * 4, 4) + 16 * bits(104 + j % 4, 2 * (j / 4), 2) - 32;
                        let code = bits(32 + 32 * side + l, 2 * quarter, 2) + 4 * bits(l, i / 32, 1) - 4;
                        (half(108) * scale as f64, code, 0.0)
                    }
                }
                Format::Q6K => {
                    let (side, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                    let low = match quarter {
                        0 => bits(64 * side + l, 0, 4),
                        1 => bits(64 * side + 32 + l, 0, 4),
                        2 => bits(64 * side + l, 4, 4),
                        _ => bits(64 * side + 32 + l, 4, 4),
                    };
                    let high = bits(128 + 32 * side + l, 2 * quarter, 2);
                    (half(208) * f64::from(block[192 + i / 16].cast_signed()), low + 16 * high - 32, 0.0)
                }
                Format::Iq4Nl => (half(0), IQ4[nibble(2, i) as usize], 0.0),
                Format::Iq4Xs => {
                    let j = i / 32;
                    let high = match j {
                        0..4 => bits(2, 2 * j, 2),
                        _ => bits(3, 2 * (j - 4), 2),
                    };
                    let scale = bits(4 + j / 2, j % 2 * 4, 4) + 16 * high - 32;
                    (half(0) * scale as f64, IQ4[nibble(8 + 16 * j, i % 32) as usize], 0.0)
                }
                Format::Mxfp4 => {
                    let code = nibble(1, i);
                    let magnitude = [0, 1, 2, 3, 4, 6, 8, 12][code as usize % 8];
                    let scale = 2f64.powi(i32::from(block[0]) - 128);
                    (scale, if code < 8 { magnitude } else { -magnitude }, 0.0)
                }
                other => panic!("the oracle does not know {other}: teach it"),
            };
            weights.push(Weight { scale, code, min });
        }
    }
    weights
}

/// The table of `iq4_nl` and `iq4_xs`.
const IQ4: [i64; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The bits of floats, so that `==` tells -0 from 0.
pub fn bits(y: &[[f32; 16]]) -> Vec<u32> {
    y.as_flattened().iter().map(|y| y.to_bits()).collect()
}

/// The bits of floats, all NaN alike: which one it is is left open.
pub fn bits_of_numbers(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() }).collect()
}

/// The relative error of a rounding.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// `k·u / (1 - k·u)`: the relative error of `k` roundings.
pub fn gamma(k: usize) -> f64 {
    k as f64 * U / (1.0 - k as f64 * U)
}

/// `Σ a·b` as vectors are summed: lane `l` of 16 takes the columns `l`, `l + 16`, ... by fused
/// multiply-adds, then halves are added.
pub fn sum_in_lanes(a: &[f32], b: &[f32]) -> f32 {
    let lane = |l: usize| (l..a.len()).step_by(16).fold(0.0f32, |sum, k| a[k].mul_add(b[k], sum));
    let mut lanes: Vec<f32> = (0..16).map(lane).collect();
    while lanes.len() > 1 {
        let (low, high) = lanes.split_at(lanes.len() / 2);
        lanes = low.iter().zip(high).map(|(low, high)| low + high).collect();
    }
    lanes[0]
}

/// Roundings that a term of [`sum_in_lanes`] goes through, at most: those of its lane and four of
/// the halves.
pub fn roundings_in_lanes(len: usize) -> usize {
    len.div_ceil(16) + 4
}
