//! Foreign formats: GGUF's other block types, which are decoded exactly and not multiplied.
//!
//! A foreign format is one function that decodes a block, and one line in the [`foreign!`] table.
//! `docs/quantization.md` defines them.

use core::fmt;

use half::f16;

use crate::error::ShapeError;

mod books;
mod iq1;
mod iq2;
mod iq3;
mod plain;

/// Defines [`Foreign`] from the table of formats. `decode` takes a block and room for its weights,
/// as arrays.
macro_rules! foreign {
    ($($(#[$doc:meta])* $format:ident = $name:literal, ggml $ggml:literal, $len:literal columns in $bytes:literal bytes, $decode:path;)+) => {
        /// A format of weights that is only read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Foreign {
            $($(#[$doc])* $format,)+
        }

        impl Foreign {
            /// Every foreign format.
            pub const ALL: &[Self] = &[$(Self::$format),+];

            /// Returns the name: GGUF's, in lower case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$format => $name),+ }
            }

            /// Returns GGUF's number of the format (`ggml_type`).
            #[must_use]
            pub const fn ggml(self) -> u32 {
                match self { $(Self::$format => $ggml),+ }
            }

            /// Returns the number of columns in a block.
            #[must_use]
            pub const fn block_len(self) -> usize {
                match self { $(Self::$format => $len),+ }
            }

            /// Returns the bytes of a block.
            #[must_use]
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$format => $bytes),+ }
            }

            /// Decodes blocks. Every weight is exact: the binary32 value that the format defines
            /// is computed without rounding.
            ///
            /// # Errors
            /// If `blocks` are not whole blocks, or `weights` not as long as they are.
            pub fn decode(self, blocks: &[u8], weights: &mut [f32]) -> Result<(), ShapeError> {
                let count = blocks.len() / self.block_bytes();
                ShapeError::check("bytes of whole blocks", blocks.len(), count * self.block_bytes())?;
                ShapeError::check("weights of blocks", weights.len(), count * self.block_len())?;
                match self {
                    $(Self::$format => {
                        let (weights, _) = weights.as_chunks_mut::<$len>();
                        for (block, weights) in blocks.as_chunks::<$bytes>().0.iter().zip(weights) {
                            $decode(block, weights);
                        }
                    })+
                }
                Ok(())
            }
        }
    };
}

foreign! {
    /// Code book of 11 bits for 8 columns, 3-bit scale and a shift per 32 columns; 1.5625 bits per
    /// weight.
    Iq1S = "iq1_s", ggml 19, 256 columns in 50 bytes, iq1::s;
    /// Code book of 11 bits and a shift for 8 columns, 3-bit scale per 16 columns; 1.75 bits per
    /// weight.
    Iq1M = "iq1_m", ggml 29, 256 columns in 56 bytes, iq1::m;
    /// Code book of 8 bits and 7 signs for 8 columns, 4-bit scale per 32 columns; 2.0625 bits per
    /// weight.
    Iq2Xxs = "iq2_xxs", ggml 16, 256 columns in 66 bytes, iq2::xxs;
    /// Code book of 9 bits and 7 signs for 8 columns, 4-bit scale per 16 columns; 2.3125 bits per
    /// weight.
    Iq2Xs = "iq2_xs", ggml 17, 256 columns in 74 bytes, iq2::xs;
    /// Code book of 10 bits and 8 signs for 8 columns, 4-bit scale per 16 columns; 2.5625 bits per
    /// weight.
    Iq2S = "iq2_s", ggml 22, 256 columns in 82 bytes, iq2::s;
    /// Code book of 8 bits for 4 columns, 7 signs for 8 columns, 4-bit scale per 32 columns; 3.0625
    /// bits per weight.
    Iq3Xxs = "iq3_xxs", ggml 18, 256 columns in 98 bytes, iq3::xxs;
    /// Code book of 9 bits for 4 columns, a sign for each, 4-bit scale per 32 columns; 3.4375 bits
    /// per weight.
    Iq3S = "iq3_s", ggml 21, 256 columns in 110 bytes, iq3::s;
    /// Values -1, 0 and 1, five to a byte, one half-precision scale per 256 columns; 1.6875 bits
    /// per weight.
    Tq1_0 = "tq1_0", ggml 34, 256 columns in 54 bytes, plain::tq1_0;
    /// 2-bit codes for -1, 0, 1 and 2, one half-precision scale per 256 columns; 2.0625 bits per
    /// weight.
    Tq2_0 = "tq2_0", ggml 35, 256 columns in 66 bytes, plain::tq2_0;
    /// 4-bit floats, an 8-bit float as scale per 16 columns; 4.5 bits per weight.
    Nvfp4 = "nvfp4", ggml 40, 64 columns in 36 bytes, plain::nvfp4;
    /// Signs, one half-precision scale per 128 columns; 1.125 bits per weight.
    Q1_0 = "q1_0", ggml 41, 128 columns in 18 bytes, plain::q1_0;
    /// 2-bit codes for -1, 0, 1 and 2, one half-precision scale per 64 columns; 2.25 bits per
    /// weight.
    Q2_0 = "q2_0", ggml 42, 64 columns in 18 bytes, plain::q2_0;
}

impl Foreign {
    /// Returns the format that has a number in GGUF (`ggml_type`), if it is a foreign one.
    #[must_use]
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.ggml() == number)
    }

    /// Returns the bits per weight, including scales.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    /// Returns the bytes of a row of `cols` columns, in whole blocks, or `None` if they overflow.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.div_ceil(self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads a binary16 number.
fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Returns the four bits of a byte that the `i`-th of two has, the low ones first.
fn nibble(byte: u8, i: usize) -> u8 {
    byte >> (4 * i) & 15
}

/// Writes magnitudes times a scale, negative where a bit of `signs` is set.
fn write_signed<const N: usize>(scale: f32, magnitudes: &[i8; N], signs: u8, weights: &mut [f32; N]) {
    for (i, (weight, &magnitude)) in weights.iter_mut().zip(magnitudes).enumerate() {
        let value = scale * f32::from(magnitude);
        *weight = if signs >> i & 1 == 1 { -value } else { value };
    }
}

/// Returns eight signs of which seven are stored: an even number is negative.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}
