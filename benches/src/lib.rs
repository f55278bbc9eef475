//! Operands from a fixed seed, sizes, and sets of weights larger than the last-level cache, for all
//! benchmarks.

use kernels::{Activations, Format, Isa, Matrix, MatrixRef, Rounding};

/// Rows and columns of the matrices that are multiplied.
pub const SIDE: usize = 4096;

/// Weights that take turns have at least this many bytes together: several times the last-level
/// cache of a large server core complex.
pub const COLD_BYTES: usize = 256 << 20;

/// Activation rows: token generation, small batches, prompt processing.
pub const ROWS: [usize; 4] = [1, 8, 64, 512];

/// Returns whether this is a test of the benchmarks (`cargo bench -- --test`) rather than a
/// measurement: everything is small then.
#[must_use]
pub fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Returns the rows and columns for a measurement or for its test.
#[must_use]
pub fn side() -> usize {
    if is_test() { 256 } else { SIDE }
}

/// Returns pseudorandom elements from a fixed seed, nearly normally distributed.
#[must_use]
pub fn numbers(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        // Xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| unit() + unit() + unit()).collect()
}

/// Copies of one matrix, each in its own memory, that take turns so that none is found in a cache.
#[derive(Debug)]
pub struct ColdMatrices {
    copies: Vec<Matrix>,
    next: usize,
}

impl ColdMatrices {
    /// Makes enough copies of a square matrix.
    ///
    /// # Panics
    /// Never: the weights can be encoded.
    #[must_use]
    pub fn new(format: Format, side: usize) -> Self {
        let matrix = Matrix::encode(Isa::best(), format, Rounding::Nearest, &numbers(side * side), side, side)
            .expect("finite numbers");
        let bytes = matrix.view().as_bytes().len();
        let copies = if is_test() { 1 } else { COLD_BYTES.div_ceil(bytes) };
        Self { copies: vec![matrix; copies], next: 0 }
    }

    /// Returns the copy that was used longest ago.
    pub fn turn(&mut self) -> MatrixRef<'_> {
        self.next = (self.next + 1) % self.copies.len();
        self.copies[self.next].view()
    }
}

/// Returns quantized activations: `rows` of `cols`.
///
/// # Panics
/// Never: the lengths agree.
#[must_use]
pub fn activations(rows: usize, cols: usize) -> Activations {
    let mut activations = Activations::default();
    activations.quantize(Isa::best(), &numbers(rows * cols), cols, &[rows]).expect("as many numbers");
    activations
}
