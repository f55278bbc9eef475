//! Formats: the meaning of the bytes of a block.
//!
//! A format is one file that implements [`BlockFormat`] and one line in the [`formats!`] table;
//! names, tags, tests and benches follow from the table.

use core::fmt;
use core::str::FromStr;

use crate::block::{ACTIVATION_BLOCK, RowBlock};
use crate::error::ShapeError;
use crate::isa::Simd;
pub(crate) use importance::Importance;
pub(crate) use tile::Tile;
use tile::{Affine, Centred, Codes, Signed, TwoFactors, TwoLines};

/// Rows interleaved in a panel: the lanes of a vector.
pub const PANEL_ROWS: usize = 16;

/// The same column of 16 rows.
pub(crate) type Lanes = [f32; PANEL_ROWS];

mod centred;
mod fifth;
mod importance;
mod iq4;
mod k;
mod line;
mod offset;
mod scaled;
mod search;
mod tile;

/// A format at compile time: the meaning of a block, and the product with it.
pub(crate) trait BlockFormat: 'static {
    /// Columns in a block; a multiple of 32.
    const LEN: usize;
    /// Widths in bytes of the fields of one row's block, in GGUF's order. A panel interleaves 16
    /// rows field by field.
    const FIELDS: &'static [usize];
    /// Bytes of one row's block.
    const BYTES: usize = sum(Self::FIELDS);
    /// Bytes of a block of a panel.
    const PANEL_BYTES: usize = PANEL_ROWS * Self::BYTES;
    /// Tiles in a block of a panel.
    const TILES: usize = Self::LEN / ACTIVATION_BLOCK;

    /// Whether a weight of zero becomes zero whatever else its block holds.
    const HAS_ZERO: bool;

    /// Up to this many activation rows, the panel is unpacked once per row rather than into a
    /// buffer. `docs/kernels.md` has the measurements.
    const MAX_ROWS_UNBUFFERED: usize = 1;

    /// The kind of tile to which a block of a panel unpacks, 32 columns at a time.
    type Tile<S: Simd>: Tile<S>;

    /// Decodes the `LEN` weights of one row's block.
    fn decode(block: &[u8], weights: &mut [f32]);

    /// The scales and offsets of a block of a panel, in the form that [`code`](Self::code) needs.
    type Fit<S: Simd>: Copy;

    /// Fits scales and offsets to the `LEN` columns of a block of a panel.
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S>;

    /// Rounds the weights `x` of a column to their codes. Returns the codes, which are whole,
    /// and the weights that they decode to.
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, column: usize, x: S::F32) -> (S::F32, S::F32);

    /// Writes scales, offsets and the codes of `LEN` columns as a block of a panel. Returns which
    /// rows' scales overflowed, one bit each.
    fn store<S: Simd>(simd: S, fit: &Self::Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16;

    /// The unpacked fields that all tiles of a block share, such as scales.
    type Header<S: Simd>: Copy;

    /// Unpacks the header of a block of a panel.
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S>;

    /// Unpacks columns `32·tile..32·tile + 32` of a block of a panel.
    fn unpack<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, tile: usize) -> Self::Tile<S>;

    /// Adds the products of a block of a panel and one row of activations, with the same bits as
    /// tile by tile.
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, block: &[u8], x: &[RowBlock<1>], acc: &mut [Lanes; 1]) {
        let header = Self::header(simd, block);
        // In pairs, as tiles share bytes, their low four bits and their high ones. Not all at once:
        // `prefetch` says why.
        let (pairs, single) = x.as_chunks::<2>();
        for (pair, x) in pairs.iter().enumerate() {
            prefetch(simd, block, pair, Self::TILES / 2);
            Self::unpack(simd, block, &header, 2 * pair).multiply_add(simd, &x[0], acc);
            Self::unpack(simd, block, &header, 2 * pair + 1).multiply_add(simd, &x[1], acc);
        }
        if let [x] = single {
            prefetch(simd, block, 0, 1);
            Self::unpack(simd, block, &header, 0).multiply_add(simd, x, acc);
        }
    }
}

const fn sum(widths: &[usize]) -> usize {
    let (mut total, mut i) = (0, 0);
    while i < widths.len() {
        total += widths[i];
        i += 1;
    }
    total
}

/// An operation that is generic over formats: leads from a run-time [`Format`] to a compile-time
/// [`BlockFormat`].
pub(crate) trait FormatVisitor {
    type Output;
    fn visit<F: BlockFormat>(self) -> Self::Output;
}

/// Defines [`Format`], its names and its dispatch from the table of formats.
macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident = $name:literal, ggml $ggml:expr, in $module:ident;)+) => {
        $(mod $module;)+

        /// A format of weights: the meaning of the bytes of a block.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Format {
            $($(#[$doc])* $format,)+
        }

        impl Format {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$format),+];

            /// Returns the name, as files and the command line spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$format => $name),+ }
            }

            /// Returns GGUF's number of the format (`ggml_type`), if GGUF has the format.
            #[must_use]
            pub const fn ggml_type(self) -> Option<u32> {
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
    Q8_0 = "q8_0", ggml Some(8), in q8_0;
    /// 4-bit codes, one half-precision scale per 32 columns; 4.5 bits per weight.
    Q4_0 = "q4_0", ggml Some(2), in q4_0;
    /// 4-bit codes, scale and offset in half precision per 32 columns; 5 bits per weight.
    Q4_1 = "q4_1", ggml Some(3), in q4_1;
    /// 5-bit codes, one half-precision scale per 32 columns; 5.5 bits per weight.
    Q5_0 = "q5_0", ggml Some(6), in q5_0;
    /// 5-bit codes, scale and offset in half precision per 32 columns; 6 bits per weight.
    Q5_1 = "q5_1", ggml Some(7), in q5_1;
    /// 4-bit codes, 6-bit scale and offset per 32 columns in super-blocks of 256; 4.5 bits per
    /// weight.
    Q4K = "q4_k", ggml Some(12), in q4_k;
    /// 5-bit codes, 6-bit scale and offset per 32 columns in super-blocks of 256; 5.5 bits per
    /// weight.
    Q5K = "q5_k", ggml Some(13), in q5_k;
    /// 2-bit codes, 4-bit scale and offset per 16 columns in super-blocks of 256; 2.625 bits per
    /// weight.
    Q2K = "q2_k", ggml Some(10), in q2_k;
    /// 3-bit codes, 6-bit scale per 16 columns in super-blocks of 256; 3.4375 bits per weight.
    Q3K = "q3_k", ggml Some(11), in q3_k;
    /// 6-bit codes, 8-bit scale per 16 columns in super-blocks of 256; 6.5625 bits per weight.
    Q6K = "q6_k", ggml Some(14), in q6_k;
    /// 16 values denser around zero, one half-precision scale per 32 columns; 4.5 bits per weight.
    Iq4Nl = "iq4_nl", ggml Some(20), in iq4_nl;
    /// 16 values denser around zero, 6-bit scale per 32 columns in super-blocks of 256; 4.25 bits
    /// per weight.
    Iq4Xs = "iq4_xs", ggml Some(23), in iq4_xs;
    /// 4-bit floats, a power of two as scale per 32 columns; 4.25 bits per weight.
    Mxfp4 = "mxfp4", ggml Some(39), in mxfp4;
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
    /// Returns the number of columns in a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.shape().0
    }

    /// Returns the bytes of one row's block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        sum(self.shape().1)
    }

    /// Returns the widths in bytes of the fields of one row's block, in order.
    #[must_use]
    pub const fn fields(self) -> &'static [usize] {
        self.shape().1
    }

    /// Returns the bits per weight, including scales, without padding.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    /// Returns the bytes of a row of `cols` columns, in whole blocks, or `None` if they overflow.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.div_ceil(self.block_len()).checked_mul(self.block_bytes())
    }

    /// Returns the bytes of a panel of 16 rows of `cols` columns, or `None` if they overflow.
    #[must_use]
    pub const fn panel_bytes(self, cols: usize) -> Option<usize> {
        match self.row_bytes(cols) {
            Some(row) => row.checked_mul(PANEL_ROWS),
            None => None,
        }
    }

    /// Returns the bytes of a matrix, in whole panels, or `None` if they overflow.
    #[must_use]
    pub const fn matrix_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self.panel_bytes(cols) {
            Some(panel) => panel.checked_mul(rows.div_ceil(PANEL_ROWS)),
            None => None,
        }
    }

    /// Decodes blocks, as they lie in a row.
    ///
    /// # Errors
    /// If `blocks` are not whole blocks, or `weights` not as long as they are.
    pub fn decode(self, blocks: &[u8], weights: &mut [f32]) -> Result<(), ShapeError> {
        let count = blocks.len() / self.block_bytes();
        ShapeError::check("bytes of whole blocks", blocks.len(), count * self.block_bytes())?;
        ShapeError::check("weights of blocks", weights.len(), count * self.block_len())?;
        self.visit(Decode { blocks, weights });
        Ok(())
    }
}

struct Decode<'a> {
    blocks: &'a [u8],
    weights: &'a mut [f32],
}

impl FormatVisitor for Decode<'_> {
    type Output = ();

    fn visit<F: BlockFormat>(self) {
        for (block, weights) in self.blocks.chunks_exact(F::BYTES).zip(self.weights.chunks_exact_mut(F::LEN)) {
            F::decode(block, weights);
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

/// A name that is not the name of a [`Format`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown format {:?}, expected one of ", self.name)?;
        for (i, format) in Format::ALL.iter().enumerate() {
            write!(f, "{}{format}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownFormat {}

/// How codes and scales are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rounding {
    /// The scale from the largest weight, codes to nearest: what GGUF's reference quantizer does
    /// where it does not search itself.
    Nearest,
    /// The scale with the least squared error among many; never worse than
    /// [`Nearest`](Self::Nearest).
    #[default]
    Search,
}

impl Rounding {
    /// Every way of rounding.
    pub const ALL: &[Self] = &[Self::Nearest, Self::Search];

    /// Returns the name, as files and the command line spell it.
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

/// Distance in bytes at which a product prefetches: more than the memory requests that a core has
/// in flight.
const AHEAD: usize = 8192;

/// Prefetches one of `parts` equal parts of the bytes that lie [`AHEAD`] bytes after `block`, as
/// many as it has.
///
/// A processor's own prefetching takes a load that goes on by the same small step for the beginning
/// of a stream. Where a loop over blocks has a hundred loads with a step of a block each, it
/// fetches the wrong lines and has them in each other's way.
#[inline(always)]
pub(crate) fn prefetch<S: Simd>(simd: S, block: &[u8], part: usize, parts: usize) {
    let lines = block.len().div_ceil(64 * parts);
    for line in lines * part..lines * (part + 1) {
        simd.prefetch(block.as_ptr().wrapping_add(AHEAD + 64 * line));
    }
}

/// Returns the `N` bytes of a block of a panel from `at` on.
#[inline(always)]
fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block of a panel is as long as its fields")
}

/// Widens the 16 half-precision values from `at` on.
#[inline(always)]
fn f16_at<S: Simd>(simd: S, block: &[u8], at: usize) -> S::F32 {
    simd.load_f16(bytes_at(block, at))
}

/// Loads four bytes of each row: field `index` of those from `at` on.
#[inline(always)]
fn field_at<S: Simd>(simd: S, block: &[u8], at: usize, index: usize) -> S::Bytes {
    simd.load(bytes_at(block, at + 64 * index))
}

/// Unpacks the codes of 32 columns from 16 bytes per row, from `at` on: the low four bits are the
/// first 16 columns, the high four bits the last 16.
#[inline(always)]
fn split_nibbles<S: Simd>(simd: S, block: &[u8], at: usize) -> Codes<S> {
    let mut codes = [field_at(simd, block, at, 0); 8];
    for i in 0..4 {
        let pair = field_at(simd, block, at, i);
        codes[i] = simd.bits(pair, 0, 15, 0);
        codes[i + 4] = simd.bits(pair, 4, 15, 0);
    }
    codes
}

/// Splits a block of a panel into its 16 half-precision scales and its codes, 64 bytes at a time,
/// to be written.
#[inline(always)]
fn scales_and_codes_mut(block: &mut [u8]) -> (&mut [u8; 32], &mut [[u8; 64]]) {
    let (scales, codes) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
    (scales, codes.as_chunks_mut::<64>().0)
}

/// Writes whole values in `0..=255` as bytes.
#[inline(always)]
fn store_bytes<S: Simd>(simd: S, bytes: &[Lanes], out: &mut [[u8; 64]]) {
    for (group, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
        let byte = |j: usize| simd.to_i32(simd.load_f32(&group[j]));
        simd.store_bytes(simd.pack([byte(0), byte(1), byte(2), byte(3)]), out);
    }
}

/// Writes pairs of codes in `0..=15`, the second in the high four bits of a byte.
#[inline(always)]
fn store_nibbles<S: Simd>(simd: S, low: &[Lanes], high: &[Lanes], out: &mut [[u8; 64]]) {
    for ((low, high), out) in low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0).zip(out) {
        let pair = |j: usize| {
            let (low, high) = (simd.load_f32(&low[j]), simd.load_f32(&high[j]));
            simd.to_i32(simd.mul_add(high, simd.splat(16.0), low))
        };
        simd.store_bytes(simd.pack([pair(0), pair(1), pair(2), pair(3)]), out);
    }
}

/// Writes 128 codes in `0..=3`: byte `l` of 32 holds columns `l`, `l + 32`, `l + 64` and `l + 96`,
/// two bits each.
#[inline(always)]
fn store_quarters<S: Simd>(simd: S, codes: &[Lanes; 128], out: &mut [[u8; 64]]) {
    let mut bytes = [[0.0; PANEL_ROWS]; 32];
    for (quarter, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let place = simd.splat((1 << (2 * quarter)) as f32);
        for (byte, code) in bytes.iter_mut().zip(codes) {
            simd.store(simd.mul_add(simd.load_f32(code), place, simd.load_f32(byte)), byte);
        }
    }
    store_bytes(simd, &bytes, out);
}

/// Unpacks one of the four quarters that [`store_quarters`] wrote, from `at` on: two bits of each
/// of the 32 bytes per row, moved to bits `to..`.
#[inline(always)]
fn quarter<S: Simd>(simd: S, block: &[u8], at: usize, quarter: usize, to: u32) -> Codes<S> {
    let mut codes = [field_at(simd, block, at, 0); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = simd.bits(field_at(simd, block, at, i), 2 * quarter as u32, 3, to);
    }
    codes
}

/// Rounds a scale to half precision, as it is stored, and widens it again.
#[inline(always)]
fn stored_scale<S: Simd>(simd: S, scale: S::F32) -> S::F32 {
    let mut bytes = [0; 32];
    simd.store_f16(scale, &mut bytes);
    simd.load_f16(&bytes)
}

/// Rounds scales to half precision and writes them. Returns the rows that overflowed, one bit each.
#[inline(always)]
fn store_scale<S: Simd>(simd: S, scale: S::F32, out: &mut [u8; 32]) -> u16 {
    simd.store_f16(scale, out);
    let mut overflow = 0;
    for (row, &scale) in out.as_chunks::<2>().0.iter().enumerate() {
        overflow |= u16::from(u16::from_le_bytes(scale) & 0x7fff == 0x7c00) << row;
    }
    overflow
}

/// Returns `1 / d`, or 0 if that is not finite.
#[inline(always)]
fn inverse<S: Simd>(simd: S, d: S::F32) -> S::F32 {
    let inverse = simd.div(simd.splat(1.0), d);
    simd.where_greater(simd.splat(f32::INFINITY), simd.abs(inverse), inverse, simd.splat(0.0))
}
