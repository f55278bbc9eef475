//! A block of quantized activations: what products of every instruction set take.

/// Columns in a block of activations.
pub const ACTIVATION_BLOCK: usize = 32;

/// Rows in a quad.
pub const QUAD: usize = 4;

/// Four consecutive codes: what one lane of a dot product takes at a time.
pub(crate) type Group = [i8; 4];

/// 32 columns of `R` rows of activations as 8-bit codes with a scale for each row.
///
/// Invariant: every code is in `-127..=127`, and sums and offsets are those of the codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowBlock<const R: usize> {
    /// The codes, four columns of each row after the other.
    pub(crate) codes: [[Group; R]; 8],
    /// The step of each row.
    pub(crate) scales: [f32; R],
    /// -8 times the sum of each row's codes.
    pub(crate) offsets_8: [i32; R],
    /// `scale · sum`, rounded: what an offset that all weights share is multiplied with.
    pub(crate) scaled_sums: [f32; R],
    /// For columns 0..16 and 16..32, -32 times the sums of the codes in the first two and in the
    /// last two columns of each group of four.
    pub(crate) offsets_32: [[[i16; 2]; R]; 2],
}

impl<const R: usize> Default for RowBlock<R> {
    fn default() -> Self {
        Self {
            codes: [[[0; 4]; R]; 8],
            scales: [0.0; R],
            offsets_8: [0; R],
            scaled_sums: [0.0; R],
            offsets_32: [[[0; 2]; R]; 2],
        }
    }
}
