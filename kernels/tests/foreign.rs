//! Foreign formats: what other readers of GGUF decode them to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use half::f16;
use kernels::{Foreign, Format, Matrix, Rounding};
use support::{Random, bits_of_numbers};

/// Blocks of each format that are decoded.
const BLOCKS: usize = 128;

/// The hashes that `ci/interop.py` computes from the same bytes with PyPI's `gguf`, and compares
/// with this file: a line for each format.
const HASHES: &str = include_str!("foreign.txt");

/// The bytes of a number of blocks, and what they decode to.
fn decoded(format: Foreign, blocks: usize) -> (Vec<u8>, Vec<f32>) {
    let bytes = Random(u64::from(format.ggml())).bytes(blocks * format.block_bytes());
    let mut weights = vec![f32::INFINITY; blocks * format.block_len()];
    format.decode(&bytes, &mut weights).unwrap();
    (bytes, weights)
}

/// FNV-1a over the bits of numbers, 32 at a time, all NaN alike.
fn hash(weights: &[f32]) -> u64 {
    let step = |hash: u64, bits: u32| (hash ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3);
    bits_of_numbers(weights).into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn random_blocks_decode_to_what_gguf_decodes_them_to() {
    let mut known = 0;
    for line in HASHES.lines().filter(|line| !line.starts_with('#')) {
        let (name, expected) = line.split_once(' ').unwrap();
        let format = *Foreign::ALL.iter().find(|format| format.name() == name).unwrap();
        let (_, weights) = decoded(format, BLOCKS);
        // Every format but `nvfp4` has a half-precision scale, which any bytes are.
        assert_eq!(weights.iter().any(|x| x.is_nan()), format != Foreign::Nvfp4, "{format}");
        assert_eq!(format!("{:016x}", hash(&weights)), expected, "{format}");
        known += 1;
    }
    assert_eq!(known, Foreign::ALL.len() - 2, "all but q1_0 and q2_0, which gguf does not decode");
}

#[test]
fn q1_0_and_q2_0_are_bits_and_pairs_of_bits_times_a_scale() {
    for (format, bits) in [(Foreign::Q1_0, 1), (Foreign::Q2_0, 2)] {
        let (bytes, weights) = decoded(format, BLOCKS);
        let mut expected = Vec::new();
        for block in bytes.chunks(18) {
            let scale = f64::from(f16::from_bits(u16::from(block[0]) + 256 * u16::from(block[1])));
            let codes: u128 = (0..16).map(|i| u128::from(block[2 + i]) << (8 * i)).sum();
            for column in 0..128 / bits {
                let code = (codes >> (bits * column)) % (1 << bits);
                let value = if bits == 1 { 2.0 * code as f64 - 1.0 } else { code as f64 - 1.0 };
                expected.push((scale * value) as f32);
            }
        }
        assert_eq!(bits_of_numbers(&weights), bits_of_numbers(&expected), "{format}");
    }
}

#[test]
fn scales_reach_as_far_as_half_precision() {
    for &format in Foreign::ALL {
        let (_, weights) = decoded(format, 4096);
        let finite = |x: &&f32| x.is_finite();
        assert!(weights.iter().any(|x| *x < 0.0) && weights.iter().any(|x| *x > 0.0), "{format}");
        let largest = weights.iter().filter(finite).fold(0.0f32, |m, x| m.max(x.abs()));
        let expected = if format == Foreign::Nvfp4 { 240.0 * 12.0 } else { 60000.0 };
        assert!(largest >= expected, "{format}: {largest}");
    }
}

#[test]
fn numbers_of_gguf_name_one_format_each() {
    for number in 0..64 {
        let native = Format::ALL.iter().filter(|format| format.ggml_type() == Some(number)).count();
        let foreign = Foreign::from_ggml(number);
        assert!(native + usize::from(foreign.is_some()) <= 1, "{number}");
        assert!(foreign.is_none_or(|format| format.ggml() == number));
    }
    assert!(Foreign::ALL.iter().all(|&format| Foreign::from_ggml(format.ggml()) == Some(format)));
}

#[test]
fn lengths_that_do_not_fit_are_errors() {
    for &format in Foreign::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        for (found, room, what) in [
            (bytes + 1, len, "bytes of whole blocks: found"),
            (bytes - 1, 0, "bytes of whole blocks: found"),
            (2 * bytes, 2 * len - 1, "weights of blocks: found"),
            (2 * bytes, 3 * len, "weights of blocks: found"),
        ] {
            let error = format.decode(&vec![0; found], &mut vec![0.0; room]).unwrap_err();
            assert!(error.to_string().starts_with(what), "{format}: {error}");
        }
        format.decode(&[], &mut []).unwrap();
        assert_eq!(format.row_bytes(len + 1), Some(2 * bytes));
    }
}

#[test]
fn rows_of_blocks_decode_as_a_matrix_does() {
    for &format in Format::ALL {
        let (rows, cols) = (3, 2 * format.block_len());
        let weights = Random(31).weights(rows * cols);
        let matrix = Matrix::encode(kernels::Isa::best(), format, Rounding::Nearest, &weights, rows, cols).unwrap();
        let (mut expected, mut found) = (vec![0.0; cols], vec![0.0; rows * cols]);
        let mut blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
        kernels::panel::unpack(format, cols, matrix.view().as_bytes(), &mut blocks).unwrap();
        format.decode(&blocks, &mut found).unwrap();
        for (row, found) in found.chunks(cols).enumerate() {
            matrix.view().decode_row(row, &mut expected).unwrap();
            assert_eq!(bits_of_numbers(found), bits_of_numbers(&expected), "{format}");
        }
        assert!(format.decode(&blocks[1..], &mut found).is_err());
        assert!(format.decode(&blocks, &mut found[1..]).is_err());
    }
}
