//! The exponential function and what is made of it, on 16 lanes.
//!
//! Each is one sequence of correctly rounded operations, defined in `docs/quantization.md`, and
//! so gives the same bits everywhere. No library's `exp`, `tanh` or `erf` is called.

use crate::isa::Simd;

/// `ln 2` in two parts: rounded, and the remainder.
const LN_2: [f32; 2] = [core::f32::consts::LN_2, -1.904_654_2e-9];

/// 1.5·2²³. Adding and subtracting it rounds values of magnitude up to 2²² to whole ones, ties to
/// even; after the addition alone, the low bits hold the whole value.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `(eʳ - 1 - r) / r²` as a polynomial, lowest power first: minimax for the relative error of `eʳ`,
/// 3.1·10⁻⁹ on `|r| ≤ ln 2 / 2`.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_717, 0.001_381_459_1];

/// Below it [`exp`] gives zero: `-125.5·ln 2`.
const EXP_MIN: f32 = -86.989_97;

/// Above it [`exp`] gives infinity; it does from `128·ln 2` = 88.72284 on.
const EXP_MAX: f32 = 89.0;

/// Returns a whole `n` and `eʳ - 1` with `x = n·ln 2 + r`, `|r| ≤ ln 2 / 2`.
#[inline(always)]
fn reduce<S: Simd>(simd: S, x: S::F32) -> (S::F32, S::F32) {
    let rounder = simd.splat(ROUND);
    let n = simd.sub(simd.mul_add(x, simd.splat(core::f32::consts::LOG2_E), rounder), rounder);
    let r = simd.mul_add(n, simd.splat(-LN_2[0]), x);
    let r = simd.mul_add(n, simd.splat(-LN_2[1]), r);
    let series = polynomial(simd, r, &EXP);
    (n, simd.mul_add(simd.mul(r, r), series, r))
}

/// Evaluates a polynomial by Horner's rule, the lowest power's coefficient first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F32, coefficients: &[f32; N]) -> S::F32 {
    let mut sum = simd.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = simd.mul_add(sum, x, simd.splat(coefficient));
    }
    sum
}

/// Computes `eˣ`: 0 below -86.98997, so never subnormal, and infinite from 88.72284 on. NaN gives
/// NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let (n, less_one) = reduce(simd, x);
    // 2ⁿ⁻¹ and twice the rest: 2¹²⁸ is not finite.
    let power = simd.power_of_two(simd.add_i32(simd.to_i32(n), -1));
    let one_more = simd.add(less_one, simd.splat(1.0));
    let exp = simd.mul(simd.mul(one_more, simd.splat(2.0)), power);
    let exp = simd.where_greater(x, simd.splat(EXP_MAX), simd.splat(f32::INFINITY), exp);
    simd.where_greater(simd.splat(EXP_MIN), x, simd.splat(0.0), exp)
}

/// Computes `tanh x`, odd but for `tanh(-0) = 0`. NaN gives NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let magnitude = simd.abs(x);
    // With u = e²ˣ - 1 it is u / (u + 2), without cancellation.
    let (n, less_one) = reduce(simd, simd.add(magnitude, magnitude));
    let power = simd.power_of_two(simd.to_i32(n));
    let u = simd.mul_add(power, less_one, simd.sub(power, simd.splat(1.0)));
    let tanh = simd.div(u, simd.add(u, simd.splat(2.0)));
    let tanh = simd.where_greater(magnitude, simd.splat(10.0), simd.splat(1.0), tanh);
    simd.where_greater(simd.splat(0.0), x, simd.sub(simd.splat(0.0), tanh), tanh)
}

/// Computes `x / (1 + e⁻ᵛ)`.
#[inline(always)]
pub(crate) fn times_sigmoid<S: Simd>(simd: S, x: S::F32, v: S::F32) -> S::F32 {
    simd.div(x, simd.add(simd.splat(1.0), exp(simd, simd.sub(simd.splat(0.0), v))))
}

/// `(Φ(x) - ½) / x` as a polynomial in `x²`, lowest power first: minimax for the error of `Φ`,
/// 6.6·10⁻¹⁰ on `|x| ≤ 1.5`.
const NORMAL: [f32; 7] =
    [0.398_942_26, -0.066_490_27, 0.009_973_01, -0.001_186_142_8, 0.000_114_104_36, -8.629_838e-6, 3.995_859e-7];

/// `Φ(-x)·e^(x²/2) / t` as a polynomial in `t = 1 / (1 + kx)`, lowest power first: minimax for the
/// relative error, 1.6·10⁻⁸ on `1.5 ≤ x ≤ 7`. The form is that of Abramowitz and Stegun, 7.1.26.
const NORMAL_TAIL: [f32; 7] =
    [0.141_214_18, 0.138_316_26, 0.142_190_89, 0.018_523_987, 0.189_197_7, -0.168_924_39, 0.039_307_9];

/// `k`: `1 / (2·√2)`.
const NORMAL_SCALE: f32 = 0.353_553_38;

/// Computes the normal distribution `Φ(x) = (1 + erf(x / √2)) / 2`. NaN gives NaN.
#[inline(always)]
pub(crate) fn normal<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let (one, magnitude) = (simd.splat(1.0), simd.abs(x));
    let middle = simd.mul_add(polynomial(simd, simd.mul(x, x), &NORMAL), x, simd.splat(0.5));
    let t = simd.div(one, simd.mul_add(magnitude, simd.splat(NORMAL_SCALE), one));
    let bell = exp(simd, simd.mul(simd.mul(x, simd.splat(-0.5)), x));
    let tail = simd.mul(simd.mul(polynomial(simd, t, &NORMAL_TAIL), t), bell);
    let tail = simd.where_greater(x, simd.splat(0.0), simd.sub(one, tail), tail);
    simd.where_greater(simd.splat(1.5), magnitude, middle, tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel};

    /// Applies a function of 16 lanes to a slice.
    struct Apply<'a, F>(F, &'a mut [f32]);

    trait Function: Copy {
        fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32;
    }

    macro_rules! function {
        ($name:ident, $function:ident) => {
            #[derive(Clone, Copy)]
            struct $name;

            impl Function for $name {
                #[inline(always)]
                fn apply<S: Simd>(simd: S, x: S::F32) -> S::F32 {
                    $function(simd, x)
                }
            }
        };
    }
    function!(Exp, exp);
    function!(Tanh, tanh);
    function!(Normal, normal);

    impl<F: Function> Kernel for Apply<'_, F> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for x in self.1.as_chunks_mut().0 {
                simd.store(F::apply(simd, simd.load_f32(x)), x);
            }
        }
    }

    /// Returns floats of all kinds, and more of them between -100 and 100; fewer on an emulated
    /// processor.
    fn floats() -> Vec<f32> {
        let count = if std::env::var_os("KERNELS_TEST_SMALL").is_some() { 1 << 12 } else { 1 << 19 };
        let bits = (0..count).map(|i| f32::from_bits(i * (u32::MAX / count)));
        let line = (0..count).map(|i| (i as f32 / count as f32 - 0.5) * 200.0);
        let limits =
            [EXP_MIN, EXP_MAX, 88.722_84, 88.722_83, 1.5, 10.0, f32::INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE];
        let limits = limits.into_iter().flat_map(|x| [x, x.next_down(), x.next_up(), -x]);
        let mut all: Vec<f32> = bits.chain(line).chain(limits).collect();
        all.resize(all.len().next_multiple_of(16), 0.0);
        all
    }

    /// Returns pairs of `x` and `f(x)`, which must have the same bits on every instruction set.
    fn pairs<F: Function>(f: F) -> Vec<(f32, f32)> {
        let x = floats();
        let mut expected = x.clone();
        Isa::SCALAR.run_without_dots(Apply(f, &mut expected));
        for isa in Isa::available() {
            let mut y = x.clone();
            isa.run_without_dots(Apply(f, &mut y));
            for ((x, y), e) in x.iter().zip(y).zip(&expected) {
                assert!(y.to_bits() == e.to_bits() || y.is_nan() && e.is_nan(), "{isa} {x:e}: {y:e}, not {e:e}");
            }
        }
        let (nans, numbers): (Vec<_>, Vec<_>) = x.into_iter().zip(expected).partition(|(x, _)| x.is_nan());
        assert!(nans.iter().all(|(_, y)| y.is_nan()));
        numbers
    }

    #[test]
    fn exp_is_right_to_a_bit_and_a_quarter() {
        // In units of the last place: ½ for the last addition, ¼ each for r and eʳ - 1, less than ¼
        // for the polynomial and its terms.
        for (x, y) in pairs(Exp) {
            if x < EXP_MIN {
                assert_eq!(y.to_bits(), 0, "{x:e}");
            } else if x >= 88.722_84 {
                assert_eq!(y, f32::INFINITY, "{x:e}");
            } else {
                let exact = f64::from(x).exp();
                let unit = f64::from(f32::from_bits((exact as f32).to_bits() & 0x7f80_0000)) * f64::from(f32::EPSILON);
                assert!((f64::from(y) - exact).abs() <= 1.25 * unit, "{x:e}: {y:e}, not {exact:e}");
            }
        }
    }

    /// The unit roundoff.
    const U: f64 = f32::EPSILON as f64 / 2.0;

    #[test]
    fn tanh_is_right_to_7_digits_and_small_numbers_relatively() {
        // Quotient and denominator are rounded once each; e²ˣ - 1, which is right to 4 roundings,
        // counts for as much as tanh is away from 1.
        for (x, y) in pairs(Tanh) {
            let exact = f64::from(x).tanh();
            let bound = exact.abs() * U * (2.0 + 4.0 * (1.0 - exact.abs())) + f64::from(f32::from_bits(1));
            assert!((f64::from(y) - exact).abs() <= bound, "{x:e}: {y:e}, not {exact:e}");
        }
    }

    #[test]
    fn the_normal_distribution_is_right_to_7_digits() {
        // The sum with ½ is rounded to a half U; x·polynomial is at most 0.44, and right to 3
        // roundings.
        for (x, y) in pairs(Normal) {
            let exact = phi(f64::from(x));
            assert!((f64::from(y) - exact).abs() <= 2.0 * U, "{x:e}: {y:e}, not {exact:e}");
            assert!((0.0..=1.0).contains(&y));
        }
    }

    /// Computes `Φ` by its series or, far out, its continued fraction.
    fn phi(x: f64) -> f64 {
        let bell = (-x * x / 2.0).exp() / core::f64::consts::TAU.sqrt();
        if x.abs() < 4.0 {
            let (mut sum, mut term, mut k) = (0.0, x, 1.0);
            while sum + term != sum {
                sum += term;
                k += 2.0;
                term *= x * x / k;
            }
            return 0.5 + bell * sum;
        }
        let tail = bell / (1..60).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
        if x > 0.0 { 1.0 - tail } else { tail }
    }
}
