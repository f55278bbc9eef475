//! The vector functions: the same bits on every instruction set, and those that an oracle or
//! binary64 expects.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kernels::{
    Activation, Isa, activate, activate_gated, layer_norm, normalize_l2, rms_norm, rotate, softcap, softmax,
};
use support::{Random, U, bits_of_numbers, gamma, isas_to_test, roundings_in_lanes, small, sum_in_lanes};

const ACTIVATIONS: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

/// Half the distance of numbers near zero.
const TINY: f64 = f32::MIN_POSITIVE as f64 * U;

fn lengths() -> &'static [usize] {
    if small() { &[0, 1, 17, 33] } else { &[0, 1, 15, 16, 17, 33, 300] }
}

/// Numbers of all magnitudes, then with those that are none among them.
fn all_sorts(random: &mut Random, len: usize) -> Vec<Vec<f32>> {
    let mut sorts: Vec<Vec<f32>> = [1.0, 20.0, 1e4, 1e18, 1e30, f32::MAX, 1e-13, 1e-30, 1e-42, 0.0, -0.0]
        .iter()
        .map(|magnitude| (0..len).map(|_| random.unit() * magnitude).collect())
        .collect();
    sorts.push((0..len).map(|_| f32::from_bits(random.bits() as u32)).collect());
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x: Vec<f32> = (0..len).map(|_| random.unit()).collect();
        if len > 0 {
            x[random.below(len)] = special;
        }
        sorts.push(x);
        sorts.push(vec![special; len]);
    }
    sorts
}

/// The result of the reference, which is that of every instruction set.
fn agreed(isas: &[Isa], what: &str, f: impl Fn(Isa) -> Vec<f32>) -> Vec<f32> {
    let expected = f(Isa::SCALAR);
    for &isa in isas {
        let y = f(isa);
        assert!(bits_of_numbers(&y) == bits_of_numbers(&expected), "{what} {isa}: {y:?}, not {expected:?}");
    }
    expected
}

fn changed(x: &[f32], f: impl Fn(&mut [f32])) -> Vec<f32> {
    let mut x = x.to_vec();
    f(&mut x);
    x
}

/// All numbers, or those whose bounds are derived without underflow and overflow.
fn assert_near(what: &str, y: &[f32], expected: impl IntoIterator<Item = (f64, f64)>) {
    for (i, (&y, (exact, bound))) in y.iter().zip(expected).enumerate() {
        let error = (f64::from(y) - exact).abs();
        assert!(error <= bound, "{what}, number {i}: {y:e}, not {exact:e}: {error:e} > {bound:e}");
    }
}

#[test]
fn rms_norm_is_that_of_the_lanes_and_near() {
    let isas = isas_to_test();
    let mut random = Random(1);
    for &len in lengths() {
        let weight: Vec<f32> = (0..len).map(|_| random.normal()).collect();
        for (sort, x) in all_sorts(&mut random, len).into_iter().enumerate() {
            for eps in [1e-5, 0.0] {
                let what = format!("rms_norm of {len}, sort {sort}, {eps}");
                let y = agreed(&isas, &what, |isa| {
                    let mut out = vec![f32::NAN; len];
                    rms_norm(isa, &x, &weight, eps, &mut out);
                    out
                });
                let inverse = 1.0 / (sum_in_lanes(&x, &x) / len as f32 + eps).sqrt();
                let expected: Vec<f32> = x.iter().zip(&weight).map(|(x, w)| x * inverse * w).collect();
                assert_eq!(bits_of_numbers(&y), bits_of_numbers(&expected), "{what}");
                // Squares that underflow count for nothing beside eps.
                let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                if x.iter().any(|x| x.is_nan()) || largest > 1e18 || largest < 1e-15 && eps == 0.0 {
                    continue;
                }
                let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                let root = (squares / len as f64 + f64::from(eps)).sqrt();
                // The root halves the error of the sum, the quotient and the addition; root,
                // inverse and two products.
                let relative = gamma(roundings_in_lanes(len) / 2 + 2 + 4);
                let near = |(&x, &w): (&f32, &f32)| {
                    let exact = f64::from(x) / root * f64::from(w);
                    (exact, relative * exact.abs() + 2.0 * TINY * (1.0 + f64::from(w).abs()))
                };
                assert_near(&what, &y, x.iter().zip(&weight).map(near));
            }
        }
    }
}

#[test]
fn layer_norm_is_that_of_the_lanes_and_near() {
    let isas = isas_to_test();
    let mut random = Random(2);
    for &len in lengths() {
        let weight: Vec<f32> = (0..len).map(|_| random.normal()).collect();
        let bias: Vec<f32> = (0..len).map(|_| random.normal()).collect();
        // A mean far from zero, which cancels.
        let far: Vec<f32> = (0..len).map(|_| 100.0 + random.unit()).collect();
        let sorts = all_sorts(&mut random, len);
        for (sort, x) in sorts.into_iter().chain([far]).enumerate() {
            let (what, eps) = (format!("layer_norm of {len}, sort {sort}"), 1e-5f32);
            let y = agreed(&isas, &what, |isa| {
                let mut out = vec![f32::NAN; len];
                layer_norm(isa, &x, &weight, &bias, eps, &mut out);
                out
            });
            let mean = sum_in_lanes(&x, &vec![1.0; len]) / len as f32;
            let centred: Vec<f32> = x.iter().map(|x| x - mean).collect();
            let inverse = 1.0 / (sum_in_lanes(&centred, &centred) / len as f32 + eps).sqrt();
            let affine = weight.iter().zip(&bias);
            let expected: Vec<f32> =
                centred.iter().zip(affine.clone()).map(|(c, (w, b))| (c * inverse).mul_add(*w, *b)).collect();
            assert_eq!(bits_of_numbers(&y), bits_of_numbers(&expected), "{what}");
            if len == 0 || !x.iter().all(|x| x.abs() <= 1e15) {
                continue;
            }
            let n = len as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let root = (variance + f64::from(eps)).sqrt();
            // What the mean is off by, and what any number less the mean is; the root moves by no
            // more than the largest of them.
            let magnitude = x.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / n;
            let of_mean = gamma(roundings_in_lanes(len) + 1) * magnitude + TINY;
            let off = |x: f32| of_mean + U * ((f64::from(x) - mean).abs() + of_mean);
            let most = x.iter().fold(0.0f64, |most, &x| most.max(off(x)));
            let least_root = root - most;
            assert!(least_root > 0.0, "{what}: a bound that says nothing");
            // Half of the sum's, the quotient's and the addition's roundings; root, inverse,
            // product and the last.
            let relative = gamma(roundings_in_lanes(len) / 2 + 2 + 4);
            let near = |(&x, (&w, &b)): (&f32, (&f32, &f32))| {
                let (c, w, b) = (f64::from(x) - mean, f64::from(w), f64::from(b));
                let moved = w.abs() * (off(x) + c.abs() * most / root) / least_root;
                let rounded = relative * (w.abs() * (c.abs() + off(x)) / least_root + b.abs());
                (c / root * w + b, moved + rounded + TINY)
            };
            assert_near(&what, &y, x.iter().zip(affine).map(near));
        }
    }
}

#[test]
fn normalize_l2_is_that_of_the_lanes_and_near() {
    let isas = isas_to_test();
    let mut random = Random(3);
    for &len in lengths() {
        for (sort, x) in all_sorts(&mut random, len).into_iter().enumerate() {
            let what = format!("normalize_l2 of {len}, sort {sort}");
            let y = agreed(&isas, &what, |isa| changed(&x, |x| normalize_l2(isa, x)));
            let norm = sum_in_lanes(&x, &x).sqrt();
            let inverse = 1.0 / if norm < 1e-12 { 1e-12 } else { norm };
            let expected: Vec<f32> = x.iter().map(|x| x * inverse).collect();
            assert_eq!(bits_of_numbers(&y), bits_of_numbers(&expected), "{what}");
            if x.iter().all(|x| x.abs() <= 1e18) {
                // Squares that underflow are those of norms below 10⁻¹².
                let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(f64::from(1e-12f32));
                let relative = gamma(roundings_in_lanes(len) / 2 + 1 + 3);
                let near = |&x: &f32| (f64::from(x) / norm, relative * f64::from(x).abs() / norm + TINY);
                assert_near(&what, &y, x.iter().map(near));
            }
        }
    }
}

/// `Φ` by its series or, far out, its continued fraction.
fn normal(x: f64) -> f64 {
    let bell = (-x * x / 2.0).exp() / core::f64::consts::TAU.sqrt();
    if x.abs() < 4.0 {
        let mut terms = vec![x];
        while terms[terms.len() - 1].abs() > 1e-18 * x.abs() {
            terms.push(terms[terms.len() - 1] * x * x / (2 * terms.len() + 1) as f64);
        }
        return 0.5 + bell * terms.iter().rev().sum::<f64>();
    }
    let tail = bell / (1..80).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// An activation of a finite number and the bound of its error.
fn activation(f: Activation, x: f64) -> (f64, f64) {
    // x·σ(v): the exponential is right to 2.5 roundings, which count for no more than 1 - σ; a sum
    // and a quotient. An exponential is infinite from 2¹²⁸ on, where what it divides is |v| of at
    // most 89 or, of the gelus, less.
    let with_sigmoid = |v: f64, of_v: usize| {
        let (exact, rest) = (x / (1.0 + (-v).exp()), 1.0 / (1.0 + v.exp()));
        let relative = gamma(2) + rest * 1.01 * (gamma(of_v) * v.abs().min(100.0) + 2.5 * U);
        (exact, relative * exact.abs() + 89.0 * 2f64.powi(-127))
    };
    match f {
        Activation::Relu => (x.max(0.0), 0.0),
        Activation::Silu => with_sigmoid(x, 0),
        // v: two constants, the square, the sum and the product.
        Activation::GeluTanh => {
            let v = 2.0 * (2.0 / core::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            with_sigmoid(v, 5)
        }
        // Φ is right to two roundings of 1, and nothing where the bell is; a product.
        Activation::Gelu => {
            let exact = if x < -13.2 { 0.0 } else { x * normal(x) };
            (exact, if x < -13.2 { 0.0 } else { 2.0 * U * x.abs() + U * exact.abs() + TINY })
        }
    }
}

#[test]
fn activations_are_near_and_gates_are_products_of_them() {
    let isas = isas_to_test();
    let mut random = Random(4);
    let limits = [-86.98, -86.99, -88.72, -88.73, -89.1, -13.18, -13.21, -1.5, 1.5, 10.0, 88.73];
    for f in ACTIVATIONS {
        for &len in lengths() {
            let sorts = all_sorts(&mut random, len).into_iter().chain([limits.to_vec()]);
            for (sort, x) in sorts.enumerate() {
                let what = format!("{f:?} of {len}, sort {sort}");
                let y = agreed(&isas, &what, |isa| changed(&x, |x| activate(isa, f, x)));
                for (x, y) in x.iter().zip(&y) {
                    match *x {
                        x if x.is_nan() => assert!(y.is_nan(), "{what}"),
                        f32::INFINITY => assert_eq!(*y, f32::INFINITY, "{what}"),
                        // -∞·0, but for the function that compares.
                        f32::NEG_INFINITY => assert!(y.is_nan() || f == Activation::Relu && *y == 0.0, "{what}"),
                        x => assert_near(&format!("{what}: {x:e}"), &[*y], [activation(f, x.into())]),
                    }
                }
                let up: Vec<f32> = (0..x.len()).map(|_| random.normal()).collect();
                let gated = agreed(&isas, &what, |isa| changed(&x, |x| activate_gated(isa, f, x, &up)));
                let expected: Vec<f32> = y.iter().zip(&up).map(|(y, up)| y * up).collect();
                assert_eq!(bits_of_numbers(&gated), bits_of_numbers(&expected), "{what}, gated");
            }
        }
    }
}

#[test]
fn softcap_is_near_and_within_the_cap() {
    let isas = isas_to_test();
    let mut random = Random(5);
    for &len in lengths() {
        for (sort, x) in all_sorts(&mut random, len).into_iter().enumerate() {
            for cap in [1.0f32, 30.0, 50.0] {
                let what = format!("softcap {cap} of {len}, sort {sort}");
                let y = agreed(&isas, &what, |isa| changed(&x, |x| softcap(isa, x, cap)));
                for (x, &y) in x.iter().zip(&y) {
                    if x.is_nan() {
                        assert!(y.is_nan(), "{what}");
                        continue;
                    }
                    assert!(y.abs() <= cap, "{what}: {y}");
                    let cap = f64::from(cap);
                    let exact = cap * (f64::from(*x) / cap).tanh();
                    // The quotient, 6 of the tangent and the product; they may be subnormal.
                    let bound = gamma(8) * exact.abs() + 2.0 * (2.0 * cap + 1.0) * TINY;
                    assert_near(&what, &[y], [(exact, bound)]);
                }
            }
        }
    }
}

#[test]
fn softmax_is_near_and_nan_where_it_is_not_defined() {
    let isas = isas_to_test();
    let mut random = Random(6);
    for &len in lengths() {
        for (sort, x) in all_sorts(&mut random, len).into_iter().enumerate() {
            let what = format!("softmax of {len}, sort {sort}");
            let y = agreed(&isas, &what, |isa| changed(&x, |x| softmax(isa, x)));
            let most = x.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
            if x.iter().any(|x| x.is_nan()) || most.is_infinite() {
                assert!(y.iter().all(|y| y.is_nan()), "{what}: {y:?}");
                continue;
            }
            let below: Vec<f64> = x.iter().map(|&x| f64::from(x) - f64::from(most)).collect();
            let sum: f64 = below.iter().map(|d| d.exp()).sum();
            // An exponential is right to 2.5 roundings and that of the difference; below -86.98997
            // it is 0. Of far differences nothing is left.
            let of_exp = |d: f64| 2.5 * U + U * d.abs().min(200.0);
            let of_sum: f64 = below.iter().map(|d| d.exp() / sum * of_exp(*d)).sum();
            let relative = |d: f64| 1.01 * (of_exp(d) + of_sum + gamma(roundings_in_lanes(len) + 2));
            let near = |&d: &f64| {
                let exact = d.exp() / sum;
                (exact, exact * relative(d) + (len + 1) as f64 * 2f64.powi(-125))
            };
            assert_near(&what, &y, below.iter().map(near));
            assert!(x.iter().zip(&y).all(|(x, y)| x.is_finite() || *y == 0.0), "{what}");
        }
    }
}

#[test]
fn rotations_are_those_of_single_pairs() {
    let isas = isas_to_test();
    let mut random = Random(7);
    for &pairs in lengths() {
        for (sort, a) in all_sorts(&mut random, pairs).into_iter().enumerate() {
            for behind in [0, 1, 5] {
                let what = format!("rotation of {pairs} pairs, sort {sort}");
                let x = [a.clone(), random.weights(pairs + behind)].concat();
                let (sin, cos): (Vec<f32>, Vec<f32>) = (0..pairs).map(|_| (random.unit() * 4.0).sin_cos()).unzip();
                let y = agreed(&isas, &what, |isa| changed(&x, |x| rotate(isa, x, &cos, &sin)));
                assert_eq!(y[2 * pairs..], x[2 * pairs..], "{what}: behind");
                for i in 0..pairs {
                    let (a, b, cos, sin) = (x[i], x[pairs + i], cos[i], sin[i]);
                    let found = bits_of_numbers(&[y[i], y[pairs + i]]);
                    assert_eq!(found, bits_of_numbers(&[a * cos - b * sin, b * cos + a * sin]), "{what}: pair {i}");
                    let [a, b, cos, sin] = [a, b, cos, sin].map(f64::from);
                    if a.is_finite() {
                        // A product and a sum.
                        let bound = |p: f64, q: f64| gamma(2) * (p.abs() + q.abs()) + 2.0 * TINY;
                        let first = (a * cos - b * sin, bound(a * cos, b * sin));
                        assert_near(
                            &what,
                            &[y[i], y[pairs + i]],
                            [first, (b * cos + a * sin, bound(b * cos, a * sin))],
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn lengths_that_disagree_panic() {
    let isa = Isa::best();
    let panics = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    assert!(panics(&|| rms_norm(isa, &[0.0; 3], &[0.0; 4], 0.0, &mut [0.0; 3])));
    assert!(panics(&|| rms_norm(isa, &[0.0; 3], &[0.0; 3], 0.0, &mut [0.0; 4])));
    assert!(panics(&|| layer_norm(isa, &[0.0; 3], &[0.0; 3], &[0.0; 2], 0.0, &mut [0.0; 3])));
    assert!(panics(&|| activate_gated(isa, Activation::Relu, &mut [0.0; 3], &[0.0; 2])));
    assert!(panics(&|| rotate(isa, &mut [0.0; 3], &[0.0; 2], &[0.0; 2])));
    assert!(panics(&|| rotate(isa, &mut [0.0; 4], &[0.0; 2], &[0.0; 1])));
}
