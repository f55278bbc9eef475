//! `q6_k`: 256 columns in 16 sub-blocks of 16 with a signed 8-bit scale each, 6-bit codes around
//! 32. 210 bytes.
//!
//! In each half of 128 columns byte `l` of the 64 bytes of low bits holds columns `l` and `l + 64`,
//! and byte `l` of the 32 bytes of high bits holds columns `l`, `l + 32`, `l + 64` and `l + 96`,
//! two bits each.

use half::f16;

use super::scaled::{Fit, Scaling};
use super::search::{Grid, Integers};
use super::tile::accumulate;
use super::{
    BlockFormat, Importance, Lanes, PANEL_ROWS, Rounding, TwoFactors, f16_at, field_at, prefetch, store_nibbles,
    store_quarters, store_scale,
};
use crate::block::RowBlock;
use crate::isa::Simd;

pub(crate) struct Q6K;

const GRID: Integers = Integers(32.0);

const SCALING: Scaling<Integers> =
    Scaling { grid: GRID, end: -32.0, places: &PLACES, headrooms: &[1.15], lowest: -128.0, highest: 127.0 };

/// Where the search places the weight of largest magnitude.
///
/// Chosen greedily from two grids of step 0.3, -34..-24 and 24..33.5, on normally and t-distributed
/// blocks: these reach their squared error within 0.2 %.
const PLACES: [f32; 20] = [
    -31.9, -31.0, 30.0, 29.1, -28.0, -32.2, 27.0, 26.1, -25.0, -31.3, -30.7, 24.0, 28.8, 30.3, -32.5, 29.7, -28.3,
    -31.6, 27.6, 25.8,
];

impl BlockFormat for Q6K {
    const LEN: usize = 256;
    const FIELDS: &'static [usize] = &{
        let mut fields = [4; 32 + 16 + 4 + 1];
        fields[52] = 2;
        fields
    };
    const HAS_ZERO: bool = true;
    const MAX_ROWS_UNBUFFERED: usize = 3;
    type Fit<S: Simd> = Fit<S, 16>;
    type Header<S: Simd> = ();
    type Tile<S: Simd> = TwoFactors<S, Self>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
        for (i, weight) in weights.iter_mut().enumerate() {
            let (half, l) = (i / 128, i % 128);
            let low = block[64 * half + l % 64] >> (l / 64 * 4) & 15;
            let high = block[128 + 32 * half + l % 32] >> (l / 32 * 2) & 3;
            let scale = d * f32::from(block[192 + i / 16].cast_signed());
            *weight = scale * (f32::from(low | high << 4) - 32.0);
        }
    }

    #[inline(always)]
    fn fit<S: Simd, const GIVEN: bool>(
        simd: S,
        rounding: Rounding,
        importance: Importance<'_, GIVEN>,
        columns: &[Lanes],
    ) -> Fit<S, 16> {
        Fit::new::<16, GIVEN>(simd, SCALING, rounding, importance, columns)
    }

    #[inline(always)]
    fn code<S: Simd>(simd: S, fit: &Fit<S, 16>, column: usize, x: S::F32) -> (S::F32, S::F32) {
        let (inverse, step) = fit.steps(column / 16);
        let value = GRID.nearest(simd, simd.mul(x, inverse));
        (simd.add(value, simd.splat(32.0)), simd.mul(step, value))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Fit<S, 16>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (fields, d) = block.as_chunks_mut::<64>();
        let (low_bits, fields) = fields.split_at_mut(32);
        let (high_bits, scales) = fields.split_at_mut(16);
        for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
            let (mut low, mut high) = ([[0.0; PANEL_ROWS]; 128], [[0.0; PANEL_ROWS]; 128]);
            for ((code, low), high) in codes.iter().zip(&mut low).zip(&mut high) {
                let code = simd.load_f32(code);
                let top = simd.trunc(simd.mul(code, simd.splat(1.0 / 16.0)));
                simd.store(simd.mul_add(top, simd.splat(-16.0), code), low);
                simd.store(top, high);
            }
            store_nibbles(simd, &low[..64], &low[64..], &mut low_bits[16 * half..][..16]);
            store_quarters(simd, &high, &mut high_bits[8 * half..][..8]);
        }
        for (group, out) in fit.scales.as_chunks::<4>().0.iter().zip(scales) {
            let scale = |j: usize| simd.to_i32(group[j]);
            simd.store_bytes(simd.pack([scale(0), scale(1), scale(2), scale(3)]), out);
        }
        store_scale(simd, fit.d, d.as_mut_array().expect("16 scales at the end"))
    }

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], (): &(), tile: usize) -> Self::Tile<S> {
        let (half, quarter) = (tile / 4, tile % 4);
        let mut codes = [field_at(simd, block, 0, 0); 8];
        for (i, code) in codes.iter_mut().enumerate() {
            let low = field_at(simd, block, 0, 16 * half + 8 * (quarter % 2) + i);
            let high = field_at(simd, block, HIGH, 8 * half + i);
            *code = codes_of(simd, low, high, quarter);
        }
        let factors = [factor(simd, block, tile, 0), factor(simd, block, tile, 1)];
        TwoFactors::new(simd, codes, factors, f16_at(simd, block, SCALE))
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, block: &[u8], x: &[RowBlock<1>], acc: &mut [Lanes; 1]) {
        // Four tiles share the bytes of a half. They grow together, 16 columns at a time, so that
        // every byte is loaded once.
        let scale = f16_at(simd, block, SCALE);
        for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
            let mut dots = [simd.to_i32(simd.splat(0.0)); 4];
            for j in 0..2 {
                prefetch(simd, block, 2 * half + j, 4);
                let mut sums = [simd.partial([0; 2]); 4];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.partial(x.offsets_32[j][0]);
                }
                for i in 4 * j..4 * j + 4 {
                    let high = field_at(simd, block, HIGH, 8 * half + i);
                    for first in 0..2 {
                        let low = field_at(simd, block, 0, 16 * half + 8 * first + i);
                        for quarter in [first, first + 2] {
                            let codes = codes_of(simd, low, high, quarter);
                            sums[quarter] = simd.add_to_partial(sums[quarter], codes, x[quarter].codes[i][0]);
                        }
                    }
                }
                for (quarter, dot) in dots.iter_mut().enumerate() {
                    let factor = simd.factor(factor(simd, block, 4 * half + quarter, j));
                    *dot = simd.add_partial(*dot, sums[quarter], factor);
                }
            }
            for (dot, x) in dots.into_iter().zip(x) {
                accumulate(simd, dot, scale, x.scales[0], &mut acc[0]);
            }
        }
    }
}

/// Offsets of the high bits, the factors and the scale in a block of a panel.
const HIGH: usize = 2048;
const FACTORS: usize = 3072;
const SCALE: usize = 3328;

/// Unpacks the codes of four columns of a quarter of 128 columns.
#[inline(always)]
fn codes_of<S: Simd>(simd: S, low: S::Bytes, high: S::Bytes, quarter: usize) -> S::Bytes {
    let quarter = quarter as u32;
    simd.or(simd.bits(low, 4 * (quarter / 2), 15, 0), simd.bits(high, 2 * quarter, 3, 4))
}

/// Unpacks the factor of the first or the last 16 columns of a tile. Factors lie four in a field.
#[inline(always)]
fn factor<S: Simd>(simd: S, block: &[u8], tile: usize, half: usize) -> S::I32 {
    simd.byte(field_at(simd, block, FACTORS, tile / 2), (2 * (tile % 2) + half) as u32)
}
