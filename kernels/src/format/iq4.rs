//! The table of the formats `iq4_nl` and `iq4_xs`: 16 values, denser around zero.

use super::search::{Grid, clamp};
use super::tile::Codes;
use crate::isa::Simd;
use crate::math::ROUND;

/// The value of each code, before it is scaled.
pub(super) const VALUES: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// The value after each one; after the last, the last itself.
const ABOVE: [f32; 16] = {
    let mut above = VALUES;
    let mut i = 0;
    while i < 15 {
        above[i] = VALUES[i + 1];
        i += 1;
    }
    above
};

/// Where the search places the weight of largest magnitude.
///
/// Chosen greedily from two grids of step 3, -160..-84 and 84..146, on normally and t-distributed
/// blocks: these reach its squared error within 0.2 %.
pub(super) const PLACES: [f32; 14] =
    [-130.0, 114.0, -124.0, -136.0, -109.0, 120.0, 108.0, -121.0, -142.0, -103.0, -127.0, 126.0, -133.0, 90.0];

/// The table as a grid.
#[derive(Clone, Copy)]
pub(super) struct Iq4;

impl Iq4 {
    /// Estimates the code of `y`, less `by`, as a whole number. Returns it and `y` clamped to the
    /// range of the table.
    ///
    /// The code is nearly `C + (B - A·|y|)·y`, by least squares within 0.12 of it at the values. So
    /// with `by` of a half the result is the code of the nearest value or one less; with 0 it is
    /// that code except for values within an eighth of a step of where it changes.
    #[inline(always)]
    fn about<S: Simd>(simd: S, y: S::F32, by: f32) -> (S::F32, S::F32) {
        const A: f32 = 2.259_273e-4;
        const B: f32 = 0.089_661_42;
        const C: f32 = 7.860_563;
        let y = clamp(simd, y, VALUES[0], VALUES[15]);
        let slope = simd.mul_add(simd.abs(y), simd.splat(-A), simd.splat(B));
        let code = simd.add(simd.mul_add(y, slope, simd.splat(C - by)), simd.splat(ROUND));
        (simd.sub(code, simd.splat(ROUND)), y)
    }

    /// Finds the code of the value nearest to `y`, the lower one of two, and that value.
    #[inline(always)]
    pub(super) fn code<S: Simd>(simd: S, y: S::F32) -> (S::F32, S::F32) {
        let (code, y) = Self::about(simd, y, 0.5);
        let index = simd.to_i32(code);
        let (value, above) = (simd.lookup(&VALUES, index), simd.lookup(&ABOVE, index));
        let (twice, twice_middle) = (simd.add(y, y), simd.add(value, above));
        (
            simd.where_greater(twice, twice_middle, simd.add(code, simd.splat(1.0)), code),
            simd.where_greater(twice, twice_middle, above, value),
        )
    }
}

impl Grid for Iq4 {
    #[inline(always)]
    fn nearest<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        Self::code(simd, y).1
    }

    #[inline(always)]
    fn nearly<S: Simd>(self, simd: S, y: S::F32) -> S::F32 {
        simd.lookup(&VALUES, simd.to_i32(Self::about(simd, y, 0.0).0))
    }
}

/// Decodes 16 bytes of two codes each: low four bits first, then high ones.
pub(super) fn decode(scale: f32, codes: &[u8], weights: &mut [f32]) {
    let (low, high) = weights.split_at_mut(16);
    for ((&pair, low), high) in codes.iter().zip(low).zip(high) {
        *low = scale * VALUES[usize::from(pair & 15)];
        *high = scale * VALUES[usize::from(pair >> 4)];
    }
}

/// Looks up the values of codes.
#[inline(always)]
pub(super) fn values<S: Simd>(simd: S, mut codes: Codes<S>) -> Codes<S> {
    const BYTES: [i8; 16] = {
        let (mut bytes, mut i) = ([0; 16], 0);
        while i < 16 {
            bytes[i] = VALUES[i] as i8;
            i += 1;
        }
        bytes
    };
    for codes in &mut codes {
        *codes = simd.lookup_bytes(&BYTES, *codes);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel};

    struct Code(f32);

    impl Kernel for Code {
        type Output = (f32, f32);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> (f32, f32) {
            let (mut code, mut value) = ([0.0; 16], [0.0; 16]);
            let found = Iq4::code(simd, simd.splat(self.0));
            simd.store(found.0, &mut code);
            simd.store(found.1, &mut value);
            (code[5], value[5])
        }
    }

    #[test]
    fn codes_are_those_of_the_nearest_values() {
        // Every boundary is a multiple of a half.
        for y in (-1200..1200).map(|y| y as f32 / 8.0).chain([-1e9, 1e9]) {
            let distance = |code: &usize| (f64::from(VALUES[*code]) - f64::from(y)).abs();
            let expected = (0..16).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            for isa in Isa::available() {
                assert_eq!(isa.run(Code(y)), (expected as f32, VALUES[expected]), "{y}");
            }
        }
    }
}
