//! `q3_k`: 256 columns in 16 sub-blocks of 16 with a 6-bit scale around 32 each, 3-bit codes around
//! 4. 110 bytes.
//!
//! Bit `j` of byte `l` of the first 32 is the third bit of column `32·j + l`. The low two bits lie
//! in 64 bytes as [`store_quarters`] writes them, 32 bytes for each half of 128 columns. The
//! scales' low four bits lie in 8 bytes, those of sub-blocks 8 and up in the high halves; then
//! come, in each of 4 bytes, the high two bits of sub-blocks `k`, `k + 4`, `k + 8` and `k + 12`.

use half::f16;

use super::scaled::{Fit, Scaling};
use super::search::{Grid, Integers};
use super::{
    BlockFormat, Importance, Lanes, PANEL_ROWS, Rounding, TwoFactors, f16_at, field_at, quarter, store_bytes,
    store_quarters, store_scale,
};
use crate::isa::Simd;

pub(crate) struct Q3K;

const GRID: Integers = Integers(4.0);

const SCALING: Scaling<Integers> =
    Scaling { grid: GRID, end: -4.0, places: &PLACES, headrooms: &[1.0, 1.1, 1.2], lowest: -32.0, highest: 31.0 };

/// Where the search places the weight of largest magnitude.
///
/// Chosen greedily from a grid of tenths, -5.2..=-2.4 and 2.4..=5, on normally and t-distributed
/// sub-blocks: these reach the squared error of all points of the grid within 0.03 %.
const PLACES: [f32; 9] = [-4.2, -3.2, -4.6, -3.8, -4.9, -2.9, -4.0, -4.4, -3.6];

impl BlockFormat for Q3K {
    const LEN: usize = 256;
    const FIELDS: &'static [usize] = &{
        let mut fields = [4; 8 + 16 + 3 + 1];
        fields[27] = 2;
        fields
    };
    const HAS_ZERO: bool = true;
    const MAX_ROWS_UNBUFFERED: usize = 2;
    type Fit<S: Simd> = Fit<S, 16>;
    /// The scales plus 32, four sub-blocks in each.
    type Header<S: Simd> = [S::Bytes; 4];
    type Tile<S: Simd> = TwoFactors<S, Self>;

    fn decode(block: &[u8], weights: &mut [f32]) {
        let d = f16::from_le_bytes([block[108], block[109]]).to_f32();
        for (i, weight) in weights.iter_mut().enumerate() {
            let j = i / 16;
            let low = block[96 + j % 8] >> (j / 8 * 4) & 15;
            let high = block[104 + j % 4] >> (j / 4 * 2) & 3;
            let scale = d * (f32::from(low | high << 4) - 32.0);
            let low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            let high = block[i % 32] >> (i / 32) & 1;
            *weight = scale * (f32::from(low | high << 2) - 4.0);
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
        (simd.add(value, simd.splat(4.0)), simd.mul(step, value))
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, fit: &Fit<S, 16>, codes: &[Lanes], block: &mut [u8]) -> u16 {
        let (fields, d) = block.as_chunks_mut::<64>();
        let (high_bits, fields) = fields.split_at_mut(8);
        let (low_bits, scales) = fields.split_at_mut(16);
        let mut high = [[0.0; PANEL_ROWS]; 32];
        for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
            let mut low = [[0.0; PANEL_ROWS]; 128];
            for (i, (code, low)) in codes.iter().zip(&mut low).enumerate() {
                let (code, high) = (simd.load_f32(code), &mut high[i % 32]);
                let top = simd.trunc(simd.mul(code, simd.splat(0.25)));
                let place = simd.splat((1 << (4 * half + i / 32)) as f32);
                simd.store(simd.mul_add(top, simd.splat(-4.0), code), low);
                simd.store(simd.mul_add(top, place, simd.load_f32(high)), high);
            }
            store_quarters(simd, &low, &mut low_bits[8 * half..][..8]);
        }
        store_bytes(simd, &high, high_bits);

        let zero = simd.splat(0.0);
        let (mut low, mut high) = ([zero; 8], [zero; 4]);
        for (j, &scale) in fit.scales.iter().enumerate() {
            let scale = simd.add(scale, simd.splat(32.0));
            let top = simd.trunc(simd.mul(scale, simd.splat(1.0 / 16.0)));
            let bottom = simd.mul_add(top, simd.splat(-16.0), scale);
            low[j % 8] = simd.mul_add(bottom, simd.splat((1 << (j / 8 * 4)) as f32), low[j % 8]);
            high[j % 4] = simd.mul_add(top, simd.splat((1 << (j / 4 * 2)) as f32), high[j % 4]);
        }
        for (bytes, out) in
            [[low[0], low[1], low[2], low[3]], [low[4], low[5], low[6], low[7]], high].iter().zip(scales)
        {
            let byte = |j: usize| simd.to_i32(bytes[j]);
            simd.store_bytes(simd.pack([byte(0), byte(1), byte(2), byte(3)]), out);
        }
        store_scale(simd, fit.d, d.as_mut_array().expect("16 scales at the end"))
    }

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let [first, second, high] =
            [field_at(simd, block, SCALES, 0), field_at(simd, block, SCALES, 1), field_at(simd, block, SCALES, 2)];
        [
            simd.or(simd.bits(first, 0, 15, 0), simd.bits(high, 0, 3, 4)),
            simd.or(simd.bits(second, 0, 15, 0), simd.bits(high, 2, 3, 4)),
            simd.or(simd.bits(first, 4, 15, 0), simd.bits(high, 4, 3, 4)),
            simd.or(simd.bits(second, 4, 15, 0), simd.bits(high, 6, 3, 4)),
        ]
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, tile: usize) -> Self::Tile<S> {
        // Eight times the code, around 32, with an eighth of the scale.
        let mut codes = quarter(simd, block, LOW + 512 * (tile / 4), tile % 4, 3);
        for (i, codes) in codes.iter_mut().enumerate() {
            *codes = simd.or(*codes, simd.bits(field_at(simd, block, 0, i), tile as u32, 1, 5));
        }
        let factor = |half: usize| simd.add_i32(simd.byte(header[tile / 2], (2 * (tile % 2) + half) as u32), -32);
        let scale = simd.mul(f16_at(simd, block, SCALE), simd.splat(0.125));
        TwoFactors::new(simd, codes, [factor(0), factor(1)], scale)
    }
}

/// Offsets of the low bits, the scales' bits and the scale in a block of a panel.
const LOW: usize = 512;
const SCALES: usize = 1536;
const SCALE: usize = 1728;
