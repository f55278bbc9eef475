//! `q4_1`: 32 columns, a scale and an offset in half precision and 4-bit codes from 0. 20 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four
//! bits.

use half::f16;

use super::line::{Line, Lines, PLACES_4};
use super::search::finite_or_zero;
use super::{
    Affine, BlockFormat, Lanes, PANEL_ROWS, Rounding, halves_at, inverse, split_nibbles, store_nibbles, store_scale,
    stored_scale,
};
use crate::isa::Simd;

pub(crate) struct Q4_1;

const LINES: Lines = Lines { largest: 15.0, top: f32::INFINITY, places: &PLACES_4 };

impl BlockFormat for Q4_1 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 2, 4, 4, 4, 4];
    const HAS_ZERO: bool = false;
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
    fn encode<S: Simd>(simd: S, rounding: Rounding, columns: &[Lanes], block: &mut [u8]) -> u16 {
        let columns: &[Lanes; 32] = columns.as_array().expect("32 columns");
        let mut codes = [[0.0; PANEL_ROWS]; 32];
        let mut line = nearest(simd, columns, &mut codes);
        if rounding == Rounding::Search {
            line = search(simd, columns, line, &mut codes);
        }
        let (scales, rest) = block.split_first_chunk_mut::<32>().expect("a block of a panel begins with 16 scales");
        let (offsets, codes_out) = rest.split_first_chunk_mut::<32>().expect("16 offsets follow");
        store_nibbles(simd, &codes[..16], &codes[16..], codes_out.as_chunks_mut::<64>().0);
        store_scale(simd, line.scale, scales) | store_scale(simd, line.offset, offsets)
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), _: usize) -> Self::Tile<S> {
        Affine::new(split_nibbles(simd, block, 64), halves_at(simd, block, 0), halves_at(simd, block, 32))
    }
}

/// The line from the least to the largest weight, before it is rounded to half precision.
#[inline(always)]
fn nearest<S: Simd>(simd: S, columns: &[Lanes; 32], codes: &mut [Lanes; 32]) -> Line<S> {
    let (low, high) = LINES.ends(simd, columns);
    let scale = simd.div(simd.sub(high, low), simd.splat(LINES.largest));
    let inverse = inverse(simd, scale);
    for (code, column) in codes.iter_mut().zip(columns) {
        let above = simd.mul(simd.sub(simd.load_f32(column), low), inverse);
        simd.store(simd.min(simd.trunc(simd.add(above, simd.splat(0.5))), simd.splat(LINES.largest)), code);
    }
    Line { scale, offset: low }
}

/// How often line and codes are fitted to each other.
const REFITS: usize = 2;

/// Replaces line and codes by better ones where it finds them; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd>(simd: S, columns: &[Lanes; 32], nearest: Line<S>, codes: &mut [Lanes; 32]) -> Line<S> {
    let stored = |line: Line<S>| Line {
        scale: finite_or_zero(simd, stored_scale(simd, line.scale)),
        offset: finite_or_zero(simd, stored_scale(simd, line.offset)),
    };
    let mut trial = LINES.fit(simd, columns);
    let mut found = nearest;
    let kept: Line<S> = Line { scale: stored_scale(simd, nearest.scale), offset: stored_scale(simd, nearest.offset) };
    let mut least = simd.splat(0.0);
    for (code, column) in codes.iter().zip(columns) {
        let y = simd.sub(simd.load_f32(column), kept.offset);
        let difference = simd.sub(y, simd.mul(kept.scale, simd.load_f32(code)));
        least = simd.mul_add(difference, difference, least);
    }
    // Where nearest rounding overflows nothing is less than this, and the overflow stays for the
    // caller to see.
    let larger = simd.max(simd.abs(kept.scale), simd.abs(kept.offset));
    least = simd.where_greater(simd.splat(f32::INFINITY), larger, least, simd.splat(0.0));
    let mut x = simd.splat(0.0);
    for column in columns {
        x = simd.add(x, simd.load_f32(column));
    }
    for round in 0..REFITS {
        if round > 0 {
            let sums = LINES.sums(simd, columns, inverse(simd, trial.scale), trial.offset);
            trial = LINES.regression(simd, &sums, x).0;
        }
        trial = stored(trial);
        let error = LINES.error(simd, columns, trial);
        let inverse = inverse(simd, trial.scale);
        for (code, column) in codes.iter_mut().zip(columns) {
            let better = LINES.code(simd, simd.sub(simd.load_f32(column), trial.offset), inverse);
            simd.store(simd.where_greater(least, error, better, simd.load_f32(code)), code);
        }
        found.scale = simd.where_greater(least, error, trial.scale, found.scale);
        found.offset = simd.where_greater(least, error, trial.offset, found.offset);
        least = simd.where_greater(least, error, error, least);
    }
    found
}
