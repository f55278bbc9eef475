//! Formats: what the bytes of a block mean.
//!
//! A format is one file that implements [`BlockFormat`] and one line in the [`formats!`] table; names, tags, tests and
//! benches follow from the table.

use core::fmt;
use core::str::FromStr;

use crate::activations::{ACTIVATION_BLOCK, ActivationBlock};
use crate::error::UnknownFormat;
use crate::isa::Simd;

/// Rows interleaved in a panel: the lanes of a vector.
pub const PANEL_ROWS: usize = 16;

/// The same column of 16 rows.
pub(crate) type Lanes = [f32; PANEL_ROWS];

/// What a format is at compile time: the meaning of one block, and the product with it.
pub(crate) trait BlockFormat: 'static {
    /// Columns in a block; a multiple of 32.
    const LEN: usize;
    /// Widths in bytes of the fields of one row's block, in GGUF's order. A panel interleaves 16 rows field by field.
    const FIELDS: &'static [usize];
    /// Bytes of one row's block.
    const BYTES: usize = sum(Self::FIELDS);
    /// Bytes of a block of a panel.
    const PANEL_BYTES: usize = PANEL_ROWS * Self::BYTES;
    /// Blocks of activations that one block of weights meets.
    const ACTIVATION_BLOCKS: usize = Self::LEN / ACTIVATION_BLOCK;

    /// A block of a panel in registers.
    type Tile<S: Simd>: Copy;

    /// The `LEN` weights of one row's block.
    fn decode(block: &[u8], weights: &mut [f32]);

    /// Encodes a block of a panel from its columns. Returns which rows' scales overflowed, one bit each.
    fn encode<S: Simd>(simd: S, rounding: Rounding, columns: &[Lanes], block: &mut [u8]) -> u16;

    /// Takes a block of a panel apart.
    fn unpack<S: Simd>(simd: S, block: &[u8]) -> Self::Tile<S>;

    /// `acc` plus the block's share of the product: the arithmetic contract.
    fn multiply_add<S: Simd>(simd: S, tile: &Self::Tile<S>, x: &[ActivationBlock], acc: S::F32) -> S::F32;

    /// The decoded weights, column by column.
    fn weights<S: Simd>(simd: S, tile: &Self::Tile<S>, columns: &mut [Lanes]);
}

const fn sum(widths: &[usize]) -> usize {
    let (mut total, mut i) = (0, 0);
    while i < widths.len() {
        total += widths[i];
        i += 1;
    }
    total
}

/// The way from a run-time [`Format`] to a compile-time [`BlockFormat`].
pub(crate) trait FormatVisitor {
    type Output;
    fn visit<F: BlockFormat>(self) -> Self::Output;
}

/// The table of formats. From it come [`Format`], its names and tags, and dispatch.
macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident = $name:literal, ggml $ggml:literal, in $module:ident;)+) => {
        $(mod $module;)+

        /// What the bytes of a block of weights mean.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Format {
            $($(#[$doc])* $format,)+
        }

        impl Format {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$format),+];

            /// The name, in files and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$format => $name),+ }
            }

            /// The number by which GGUF knows the format (`ggml_type`).
            #[must_use]
            pub const fn ggml_type(self) -> u32 {
                match self { $(Self::$format => $ggml),+ }
            }

            pub(crate) fn visit<V: FormatVisitor>(self, visitor: V) -> V::Output {
                match self { $(Self::$format => visitor.visit::<$module::$format>()),+ }
            }

            const fn shape(self) -> (usize, &'static [usize]) {
                match self { $(Self::$format => ($module::$format::LEN, $module::$format::FIELDS)),+ }
            }
        }
    };
}

formats! {
    /// 8-bit codes, one half-precision scale per 32 columns; 8.5 bits per weight.
    Q8_0 = "q8_0", ggml 8, in q8_0;
    /// 4-bit codes, one half-precision scale per 32 columns; 4.5 bits per weight.
    Q4_0 = "q4_0", ggml 2, in q4_0;
}

/// Columns and bytes of the longest block of any format: room for any block on the stack.
pub(crate) const LONGEST_BLOCK: usize = longest().0;
pub(crate) const LONGEST_BLOCK_BYTES: usize = longest().1;

const fn longest() -> (usize, usize) {
    let (mut len, mut bytes, mut i) = (0, 0, 0);
    while i < Format::ALL.len() {
        let format = Format::ALL[i];
        if format.block_len() > len {
            len = format.block_len();
        }
        if format.block_bytes() > bytes {
            bytes = format.block_bytes();
        }
        i += 1;
    }
    (len, bytes)
}

impl Format {
    /// Columns in a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.shape().0
    }

    /// Bytes of one row's block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        sum(self.shape().1)
    }

    /// Widths in bytes of the fields of one row's block, in order.
    #[must_use]
    pub const fn fields(self) -> &'static [usize] {
        self.shape().1
    }

    /// Bits per weight, scales included, padding not.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    /// Bytes of a row of `cols` columns: whole blocks.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.div_ceil(self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a panel of 16 rows of `cols` columns, or `None` if they overflow.
    #[must_use]
    pub const fn panel_bytes(self, cols: usize) -> Option<usize> {
        match self.row_bytes(cols) {
            Some(row) => row.checked_mul(PANEL_ROWS),
            None => None,
        }
    }

    /// Bytes of a matrix: whole panels. `None` if they overflow.
    #[must_use]
    pub const fn matrix_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self.panel_bytes(cols) {
            Some(panel) => panel.checked_mul(rows.div_ceil(PANEL_ROWS)),
            None => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .iter()
            .copied()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat { name: name.into() })
    }
}

/// How codes and scales are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rounding {
    /// The scale from the largest weight, codes to nearest: GGUF's reference quantizer.
    Nearest,
    /// The scale with the least squared error among many; never worse than [`Nearest`](Self::Nearest).
    #[default]
    Search,
}

impl Rounding {
    /// Every way of rounding.
    pub const ALL: &[Self] = &[Self::Nearest, Self::Search];

    /// The name, in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Search => "search",
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// 32 columns of 16 rows in registers with a scale per row: the tile of the formats with one scale per 32 columns.
#[derive(Clone, Copy)]
pub(crate) struct Scaled32<S: Simd> {
    /// Codes in column order, four columns each.
    codes: [S::Bytes; 8],
    scale: S::F32,
}

impl<S: Simd> Scaled32<S> {
    /// `acc + dots · (scale · x.scale)`, the product of the scales rounded, then one fused multiply-add.
    #[inline(always)]
    fn accumulate(&self, simd: S, dots: S::I32, x: &ActivationBlock, acc: S::F32) -> S::F32 {
        simd.mul_add(simd.to_f32(dots), simd.mul(self.scale, simd.splat(x.scale)), acc)
    }

    /// The weights `scale · (code + offset)`, column by column.
    #[inline(always)]
    fn weights(&self, simd: S, offset: i32, columns: &mut [Lanes]) {
        for (&codes, columns) in self.codes.iter().zip(columns.as_chunks_mut::<4>().0) {
            let codes = [simd.byte::<0>(codes), simd.byte::<1>(codes), simd.byte::<2>(codes), simd.byte::<3>(codes)];
            for (code, column) in codes.into_iter().zip(columns) {
                simd.store(simd.mul(self.scale, simd.to_f32(simd.add_i32(code, offset))), column);
            }
        }
    }
}

/// Splits a block of a panel into its 16 half-precision scales and its codes, 64 bytes at a time.
#[inline(always)]
fn scales_and_codes(block: &[u8]) -> (&[u8; 32], &[[u8; 64]]) {
    let (scales, codes) = block.split_first_chunk::<32>().expect("a block of a panel begins with 16 scales");
    (scales, codes.as_chunks::<64>().0)
}

/// The same, to be written.
#[inline(always)]
fn scales_and_codes_mut(block: &mut [u8]) -> (&mut [u8; 32], &mut [[u8; 64]]) {
    let (scales, codes) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
    (scales, codes.as_chunks_mut::<64>().0)
}

/// What the scale becomes by being stored in half precision.
#[inline(always)]
fn stored_scale<S: Simd>(simd: S, scale: S::F32) -> S::F32 {
    let mut bytes = [0; 32];
    simd.store_f16(scale, &mut bytes);
    simd.load_f16(&bytes)
}

/// Rounds scales to half precision and writes them. Returns which of them overflowed, one bit each.
#[inline(always)]
fn store_scale<S: Simd>(simd: S, scale: S::F32, out: &mut [u8; 32]) -> u16 {
    simd.store_f16(scale, out);
    let mut overflow = 0;
    for (row, &scale) in out.as_chunks::<2>().0.iter().enumerate() {
        overflow |= u16::from(u16::from_le_bytes(scale) & 0x7fff == 0x7c00) << row;
    }
    overflow
}

/// `1 / d`, or 0 where that is not finite.
#[inline(always)]
fn inverse<S: Simd>(simd: S, d: S::F32) -> S::F32 {
    let inverse = simd.div(simd.splat(1.0), d);
    simd.where_greater(simd.splat(f32::INFINITY), simd.abs(inverse), inverse, simd.splat(0.0))
}
