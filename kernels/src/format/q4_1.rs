//! `q4_1`: 32 columns, a scale and an offset in half precision and 4-bit codes from 0. 20 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use half::f16;

use super::line::{ColumnSums, Line, Lines, PLACES_4};
use super::search::{clamp, finite_or_zero};
use super::{
    Affine, BlockFormat, Importance, Lanes, Rounding, f16_at, inverse, split_nibbles, store_nibbles, store_scale,
    stored_scale,
};
use crate::isa::Simd;

pub(crate) struct Q4_1;

const LINES: Lines = Lines { largest: 15.0, top: f32::INFINITY, places: &PLACES_4 };

impl BlockFormat for Q4_1 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 2, 4, 4, 4, 4];
    const HAS_ZERO: bool = false;
    type Fit<S: Simd> = Fit<S>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = Affine<S, Self, 4>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let offset = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let (low, high) = weights.split_at_mut(16);
        for ((&pair, low), high) in block[4..].iter().zip(low).zip(high) {
            *low = scale * f32::from(pair & 15) + offset;
            *high = scale * f32::from(pair >> 4) + offset;
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Self::Fit<S> {
        let columns: &[Lanes; 32] = columns.as_array().expect("32 columns");
        let nearest = nearest(simd, columns);
        match rounding {
            Rounding::Nearest => nearest,
            Rounding::Search => search(simd, importance, columns, nearest),
        }
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Self::Fit<S>, _: usize, x: S::F32) -> (S::F32, S::F32) {
        let code = LINES.code(simd, simd.sub(x, fit.from), fit.inverse);
        let code = simd.where_greater(fit.reference, simd.splat(0.0), reference_code(simd, x, fit), code);
        (code, simd.mul_add(fit.line.scale, code, fit.line.offset))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Self::Fit<S>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (scales, rest) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
        let (offsets, codes_out) = rest.split_first_chunk_mut::<32>().expect("16 offsets follow");
        store_nibbles(simd, &codes[..16], &codes[16..], codes_out.as_chunks_mut::<64>().0);
        store_scale(simd, fit.line.scale, scales) | store_scale(simd, fit.line.offset, offsets)
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        Affine::new(split_nibbles(simd, block, 64), f16_at(simd, block, 0), f16_at(simd, block, 32))
    }
}

/// The line of a block, and how its codes are rounded.
#[derive(Clone, Copy)]
pub(crate) struct Fit<S: Simd> {
    /// As stored.
    line: Line<S>,
    /// What is taken off a weight, and what the rest is multiplied with, to find its code.
    from: S::F32,
    inverse: S::F32,
    /// 1 in rows whose codes are [`reference_code`]s, 0 in rows whose codes are those of [`Lines`].
    reference: S::F32,
}

/// Fits the line from the least to the largest weight.
#[inline(always)]
fn nearest<S: Simd>(simd: S, columns: &[Lanes; 32]) -> Fit<S> {
    let (low, high) = LINES.ends(simd, columns);
    let scale = simd.div(simd.sub(high, low), simd.splat(LINES.largest));
    let line = Line { scale: stored_scale(simd, scale), offset: stored_scale(simd, low) };
    Fit { line, from: low, inverse: inverse(simd, scale), reference: simd.splat(1.0) }
}

/// Rounds a weight to its code, 0..=15, as GGUF's reference does.
#[inline(always)]
fn reference_code<S: Simd>(simd: S, x: S::F32, fit: &Fit<S>) -> S::F32 {
    let above = simd.mul(simd.sub(x, fit.from), fit.inverse);
    clamp(simd, simd.trunc(simd.add(above, simd.splat(0.5))), 0.0, LINES.largest)
}

/// Number of times that line and codes are fitted to each other.
const REFITS: usize = 2;

/// Searches for lines of less error than `nearest`; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd, const GIVEN: bool>(
    simd: S,
    importance: Importance<'_, GIVEN>,
    columns: &[Lanes; 32],
    nearest: Fit<S>,
) -> Fit<S> {
    let mut least = simd.splat(0.0);
    for (i, column) in columns.iter().enumerate() {
        let x = simd.load_f32(column);
        let y = simd.sub(x, nearest.line.offset);
        let difference = simd.sub(y, simd.mul(nearest.line.scale, reference_code(simd, x, &nearest)));
        least = simd.mul_add(difference, importance.times(simd, i, difference), least);
    }
    // Where nearest rounding overflows nothing is less than this, and the overflow stays for the
    // caller to see.
    let larger = simd.max(simd.abs(nearest.line.scale), simd.abs(nearest.line.offset));
    least = simd.where_greater(simd.splat(f32::INFINITY), larger, least, simd.splat(0.0));
    let column_sums = ColumnSums::new(simd, importance, columns);
    let mut found = nearest;
    let mut line = LINES.best(simd, importance, columns);
    for round in 0..REFITS {
        if round > 0 {
            let inverse = inverse(simd, line.scale);
            let sums = LINES.code_sums(simd, importance, columns, inverse, line.offset);
            line = LINES.regression(simd, &sums, column_sums).0;
        }
        line.scale = finite_or_zero(simd, stored_scale(simd, line.scale));
        line.offset = finite_or_zero(simd, stored_scale(simd, line.offset));
        let error = LINES.error(simd, importance, columns, line);
        found.line.scale = simd.where_greater(least, error, line.scale, found.line.scale);
        found.line.offset = simd.where_greater(least, error, line.offset, found.line.offset);
        found.from = simd.where_greater(least, error, line.offset, found.from);
        found.inverse = simd.where_greater(least, error, inverse(simd, line.scale), found.inverse);
        found.reference = simd.where_greater(least, error, simd.splat(0.0), found.reference);
        least = simd.where_greater(least, error, error, least);
    }
    found
}
