//! What the tests of this crate share: seeded data, the instruction sets to test, and a naive oracle.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(unreachable_pub, reason = "shared between test crates, each of which is its own root")]
#![allow(clippy::print_stdout, reason = "says which instruction sets ran")]

mod random;

use half::f16;
use kernels::{ActivationBlock, Format, Isa, KNOWN_ISAS, quantize_activations};
pub use random::Random;

/// Names the instruction sets that every test of an agreement must have run, or the test fails: a comma-separated list.
const EXPECTED: &str = "EXPECT_ISA";

/// Set to make the tests small enough for an emulated processor.
const SMALL: &str = "KERNELS_TEST_SMALL";

/// The instruction sets of this processor without the reference. Says which ones do not run here, and fails if one of them was expected.
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

/// Rows of activations, quantized one after the other.
pub fn quantize_rows(isa: Isa, x: &[f32], cols: usize) -> Vec<ActivationBlock> {
    let per_row = cols.div_ceil(32);
    let mut blocks = vec![ActivationBlock::default(); x.len() / cols * per_row];
    for (x, blocks) in x.chunks_exact(cols).zip(blocks.chunks_exact_mut(per_row)) {
        quantize_activations(isa, x, blocks).unwrap();
    }
    blocks
}

/// The oracle's own reading of a row of GGUF blocks: scale and signed code of every weight.
pub fn naive_codes(format: Format, row: &[u8]) -> Vec<(f64, i64)> {
    let mut codes = Vec::new();
    let scale = |bytes: &[u8]| f64::from(f16::from_bits(u16::from(bytes[0]) + 256 * u16::from(bytes[1])));
    match format {
        Format::Q8_0 => {
            for block in row.chunks(34) {
                codes.extend((0..32).map(|i| (scale(block), i64::from(block[2 + i] as i8))));
            }
        }
        Format::Q4_0 => {
            for block in row.chunks(18) {
                let nibble = |i: usize| if i < 16 { block[2 + i] % 16 } else { block[2 + i - 16] / 16 };
                codes.extend((0..32).map(|i| (scale(block), i64::from(nibble(i)) - 8)));
            }
        }
        other => panic!("the oracle does not know {other}: teach it"),
    }
    codes
}

/// The bits of floats, so that `==` tells -0 from 0.
pub fn bits(y: &[[f32; 16]]) -> Vec<u32> {
    y.as_flattened().iter().map(|y| y.to_bits()).collect()
}
