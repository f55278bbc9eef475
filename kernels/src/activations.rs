//! Rows of activations, quantized to 8 bits in blocks of 32 columns.

use crate::error::ShapeError;
use crate::isa::{Isa, Kernel, Simd};

/// Columns in a block of activations.
pub const ACTIVATION_BLOCK: usize = 32;

/// Four consecutive codes: what one lane of a dot product takes at a time.
pub(crate) type Group = [i8; 4];

/// 32 consecutive activations of a row as 8-bit codes with a scale.
///
/// Invariant: every code is in `-127..=127`, and `sum` is the sum of the codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationBlock {
    pub(crate) codes: [Group; 8],
    pub(crate) scale: f32,
    pub(crate) sum: i32,
}

impl ActivationBlock {
    /// The codes, in column order; each in `-127..=127`.
    #[must_use]
    pub fn codes(&self) -> &[i8; ACTIVATION_BLOCK] {
        self.codes.as_flattened().as_array().expect("8 groups of 4 codes")
    }

    /// The step: an activation is about `scale · code`.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Quantizes 32 numbers as `docs/quantization.md` lays down.
    #[inline(always)]
    fn quantize(x: &[f32; ACTIVATION_BLOCK]) -> Self {
        // Without their sign bits floats order as integers do, with infinity and then NaN on top: one maximum finds all three.
        let magnitude = x.iter().fold(0, |max: u32, x| max.max(x.to_bits() & 0x7fff_ffff));
        let magnitude = f32::from_bits(magnitude);
        if !magnitude.is_finite() {
            return Self { scale: f32::NAN, ..Self::default() };
        }
        if magnitude < SMALLEST_MAGNITUDE {
            return Self::default();
        }
        let inverse = 127.0 / magnitude;
        let mut block = Self { scale: magnitude / 127.0, ..Self::default() };
        let codes = block.codes.as_flattened_mut();
        for (code, x) in codes.iter_mut().zip(x) {
            // Adding 1.5·2²³ leaves the integer nearest to |x·inverse| ≤ 2²², ties to even, in the low bits.
            *code = (x * inverse + 12_582_912.0).to_bits() as i8;
        }
        block.sum = codes.iter().map(|&code| i32::from(code)).sum();
        block
    }
}

/// 2⁻¹²⁰: below it, `127 / magnitude` would overflow.
const SMALLEST_MAGNITUDE: f32 = f32::from_bits((127 - 120) << 23);

/// Quantizes one row of activations; the last block is padded with zeros.
///
/// # Errors
/// If `blocks` is not `x.len().div_ceil(32)` long.
pub fn quantize_activations(isa: Isa, x: &[f32], blocks: &mut [ActivationBlock]) -> Result<(), ShapeError> {
    ShapeError::check("activation blocks", blocks.len(), x.len().div_ceil(ACTIVATION_BLOCK))?;
    isa.run(Quantize { x, blocks });
    Ok(())
}

struct Quantize<'a> {
    x: &'a [f32],
    blocks: &'a mut [ActivationBlock],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (whole, rest) = self.x.as_chunks::<ACTIVATION_BLOCK>();
        for (x, block) in whole.iter().zip(self.blocks.iter_mut()) {
            *block = ActivationBlock::quantize(x);
        }
        if !rest.is_empty() {
            let mut x = [0.0; ACTIVATION_BLOCK];
            x[..rest.len()].copy_from_slice(rest);
            self.blocks[whole.len()] = ActivationBlock::quantize(&x);
        }
    }
}
