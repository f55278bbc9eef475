//! `q4_0`: 32 columns, a half-precision scale and 4-bit codes around 8. 18 bytes.
//!
//! Byte `j` of the 16 code bytes holds column `j` in its low and column `j + 16` in its high four bits.

use half::f16;

use super::{TO_INTEGER, round_scales, BlockFormat, Lanes, PANEL_ROWS, Rounding, Scaled32, each, inverse, scales_and_codes, scales_and_codes_mut, store_scales};
use crate::activations::ActivationBlock;
use crate::isa::Simd;

pub(crate) struct Q4_0;

/// The code that means zero.
const ZERO: i32 = 8;

impl BlockFormat for Q4_0 {
    const LEN: usize = 32;
    const FIELDS: &'static [usize] = &[2, 4, 4, 4, 4];
    type Tile<S: Simd> = Scaled32<S>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = weights.split_at_mut(16);
        for ((&pair, low), high) in block[2..].iter().zip(low).zip(high) {
            *low = scale * (f32::from(pair & 15) - ZERO as f32);
            *high = scale * (f32::from(pair >> 4) - ZERO as f32);
        }
    }

    #[inline(always)]
    fn encode<S: Simd>(simd: S, rounding: Rounding, columns: &[Lanes], block: &mut [u8]) -> u16 {
        let columns: &[Lanes; 32] = columns.as_array().expect("32 columns");
        let (scales_out, codes_out) = scales_and_codes_mut(block);
        let (extreme, mut scales) = nearest(columns);
        let inverse = each(&scales, inverse);
        let mut codes = [[0u32; PANEL_ROWS]; 32];
        for (codes, column) in codes.iter_mut().zip(columns) {
            for ((code, x), inverse) in codes.iter_mut().zip(column).zip(&inverse) {
                // As GGUF's reference does where the compiler fuses multiplication and addition.
                *code = (x.mul_add(*inverse, 8.5).trunc().min(15.0) + TO_INTEGER).to_bits() & 15;
            }
        }
        if rounding == Rounding::Search {
            search(simd, columns, &extreme, &mut scales, &mut codes);
        }
        let (low, high) = codes.split_at(16);
        for ((low, high), out) in low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0).zip(codes_out) {
            let mut packed = [0u32; PANEL_ROWS];
            for (j, (low, high)) in low.iter().zip(high).enumerate() {
                for ((packed, low), high) in packed.iter_mut().zip(low).zip(high) {
                    *packed |= (low | high << 4) << (8 * j);
                }
            }
            *out.as_chunks_mut::<4>().0.as_mut_array().expect("16 rows") = packed.map(u32::to_le_bytes);
        }
        store_scales(simd, &scales, scales_out)
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8]) -> Scaled32<S> {
        let (scales, groups) = scales_and_codes(block);
        let mut codes = [simd.load(&groups[0]); 8];
        for (i, group) in groups.iter().enumerate() {
            [codes[i], codes[i + 4]] = simd.nibbles(simd.load(group));
        }
        Scaled32 { codes, scale: simd.load_f16(scales) }
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, tile: &Scaled32<S>, x: &[ActivationBlock], acc: S::F32) -> S::F32 {
        let x = &x[0];
        tile.accumulate(simd, simd.dot_u4(&tile.codes, &x.codes, -ZERO * x.sum), x, acc)
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, tile: &Scaled32<S>, columns: &mut [Lanes]) {
        tile.weights(simd, -ZERO, columns);
    }
}

/// Per row the first weight of largest magnitude, and the scale that puts it at -8.
#[inline(always)]
fn nearest(columns: &[Lanes; 32]) -> (Lanes, Lanes) {
    let (mut largest, mut extreme) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
    for column in columns {
        for ((largest, extreme), &x) in largest.iter_mut().zip(&mut extreme).zip(column) {
            let larger = x.abs() > *largest;
            *largest = if larger { x.abs() } else { *largest };
            *extreme = if larger { x } else { *extreme };
        }
    }
    (extreme, each(&extreme, |extreme| extreme / -8.0))
}

/// A code of the search, -8..=7, as a float: `x·inverse` rounded to nearest, ties to even.
#[inline(always)]
fn code(x: f32, inverse: f32) -> f32 {
    clamp(x * inverse) + TO_INTEGER - TO_INTEGER
}

/// Into -8..=7. (`f32::clamp` takes care of NaN, at a price; there is none here.)
#[inline(always)]
fn clamp(x: f32) -> f32 {
    let x = if x < -8.0 { -8.0 } else { x };
    if x > 7.0 { 7.0 } else { x }
}

/// Replaces scales and codes by better ones where the search finds them; see `docs/quantization.md`.
#[inline(always)]
fn search<S: Simd>(simd: S, columns: &[Lanes; 32], extreme: &Lanes, scales: &mut Lanes, codes: &mut [[u32; PANEL_ROWS]; 32]) {
    // Where 1/extreme overflows, the scale underflows half precision anyway.
    let unit = each(extreme, inverse);
    let mut best = ([0.0; PANEL_ROWS], [1.0; PANEL_ROWS]);
    let mut best_inverse = [0.0; PANEL_ROWS];
    for anchor in ANCHORS {
        let inverse = each(&unit, |unit| anchor * unit);
        let (xq, qq) = sums(columns, &inverse);
        for row in 0..PANEL_ROWS {
            let better = xq[row] * xq[row] * best.1[row] > best.0[row] * qq[row];
            best.0[row] = if better { xq[row] * xq[row] } else { best.0[row] };
            best.1[row] = if better { qq[row] } else { best.1[row] };
            best_inverse[row] = if better { inverse[row] } else { best_inverse[row] };
        }
    }

    let mut least = [0.0; PANEL_ROWS];
    let (_, stored) = round_scales(simd, scales);
    for (column, codes) in columns.iter().zip(codes.iter()) {
        for row in 0..PANEL_ROWS {
            let error = column[row] - stored[row] * (codes[row].cast_signed() - ZERO) as f32;
            least[row] += error * error;
        }
    }
    let mut inverse_scale = best_inverse;
    for _ in 0..REFITS {
        // The scale that fits the codes best, as it will be stored, and the codes that fit that scale best.
        let (xq, qq) = sums(columns, &inverse_scale);
        let mut scale = [0.0; PANEL_ROWS];
        for row in 0..PANEL_ROWS {
            scale[row] = if qq[row] > 0.0 { xq[row] / qq[row] } else { 0.0 };
        }
        let (_, scale) = round_scales(simd, &scale);
        inverse_scale = each(&scale, inverse);
        let mut errors = [0.0; PANEL_ROWS];
        for column in columns {
            for row in 0..PANEL_ROWS {
                let error = column[row] - scale[row] * code(column[row], inverse_scale[row]);
                errors[row] += error * error;
            }
        }
        let mut better = [false; PANEL_ROWS];
        for row in 0..PANEL_ROWS {
            better[row] = errors[row] < least[row];
            least[row] = if better[row] { errors[row] } else { least[row] };
            scales[row] = if better[row] { scale[row] } else { scales[row] };
        }
        for (column, codes) in columns.iter().zip(codes.iter_mut()) {
            for row in 0..PANEL_ROWS {
                let found = (clamp(column[row] * inverse_scale[row]) + (TO_INTEGER + 8.0)).to_bits() & 15;
                codes[row] = if better[row] { found } else { codes[row] };
            }
        }
    }
}

/// Codes at which the largest weight is tried: around -8 and around +7, in steps of a tenth.
const ANCHORS: [f32; 38] = {
    let mut anchors = [0.0; 38];
    let mut i = 0;
    while i < 19 {
        let step = (i as f32 - 9.0) / 10.0;
        anchors[i] = -8.0 + step;
        anchors[19 + i] = 7.0 + step;
        i += 1;
    }
    anchors
};

/// How often scale and codes are fitted to each other.
const REFITS: usize = 2;

/// Per row `Σ x·q` and `Σ q²` for the codes that `inverse` gives.
#[inline(always)]
fn sums(columns: &[Lanes; 32], inverse: &Lanes) -> (Lanes, Lanes) {
    let (mut xq, mut qq) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
    for column in columns {
        for row in 0..PANEL_ROWS {
            let q = code(column[row], inverse[row]);
            xq[row] += column[row] * q;
            qq[row] += q * q;
        }
    }
    (xq, qq)
}
