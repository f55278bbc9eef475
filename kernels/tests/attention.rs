//! Attention: a row has the bits of that row alone over keys pushed one by one, on every
//! instruction set, and is near what binary64 gives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ops::Range;

use half::f16;
use kernels::{AttentionOptions, AttentionScratch, Isa, KvFormat, KvHead, attend};
use support::{Random, U, bits_of_numbers, gamma, isas_to_test, roundings_in_lanes, small};

const FORMATS: [KvFormat; 2] = [KvFormat::F16, KvFormat::Q8];

/// What rows of queries see of the positions of a head.
fn visible(pattern: usize, rows: usize, len: usize, random: &mut Random) -> Vec<Range<usize>> {
    // The last rows of a text, or of one with as many positions as rows.
    let end = |row: usize| (len + row + 1).saturating_sub(rows).clamp(1, len);
    let window = |row: usize, width: usize| end(row).saturating_sub(width)..end(row);
    let reversed = |start, end| Range { start, end };
    let row = |row: usize| match pattern {
        0 => 0..end(row),
        1 => window(row, 70),
        // Astride the first two panels, where there are two, and slowly.
        2 => ((row + 60) / 2 % len)..((row + 130) / 2).min(len).max((row + 60) / 2 % len),
        // All there are, a single position, none.
        3 => [0..len, row % len..row % len + 1, reversed(len + 800, 0), 0..0, reversed(len, len), reversed(len, 0)]
            [random.below(6)]
        .clone(),
        _ => {
            let start = random.below(len);
            start..start + random.below(len - start + 1)
        }
    };
    (0..rows).map(row).collect()
}

/// Numbers around 0, those of each position of a magnitude of its own.
fn numbers(random: &mut Random, len: usize, dim: usize) -> Vec<f32> {
    (0..len)
        .flat_map(|_| {
            let magnitude = 0.1 + random.unit().abs();
            (0..dim).map(|_| random.unit() * magnitude).collect::<Vec<_>>()
        })
        .collect()
}

/// A head with all positions pushed at once.
fn pushed(isa: Isa, format: KvFormat, dim: usize, keys: &[f32], values: &[f32]) -> KvHead {
    let mut kv = KvHead::new(format, dim);
    kv.push(isa, keys, values);
    kv
}

struct Attention<'a> {
    queries: &'a [f32],
    visible: &'a [Range<usize>],
    options: AttentionOptions,
}

impl Attention<'_> {
    fn of(&self, isa: Isa, kv: &KvHead, scratch: &mut AttentionScratch) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.queries.len()];
        attend(isa, kv, self.queries, self.visible, self.options, scratch, &mut out);
        out
    }

    /// One row after the other, with memory of its own.
    fn rows_alone(&self, isa: Isa, kv: &KvHead) -> Vec<Vec<f32>> {
        let row = |(queries, visible)| {
            let visible = std::slice::from_ref(visible);
            Attention { queries, visible, ..*self }.of(isa, kv, &mut AttentionScratch::default())
        };
        self.queries.chunks(kv.dim()).zip(self.visible).map(row).collect()
    }
}

fn options(dim: usize, softcap: Option<f32>) -> AttentionOptions {
    AttentionOptions { scale: 1.0 / (dim as f32).sqrt(), softcap }
}

/// Memory that a call with NaN everywhere has left behind.
fn used_scratch(isa: Isa) -> AttentionScratch {
    let mut scratch = AttentionScratch::default();
    let nans = vec![f32::NAN; 130 * 192];
    let kv = pushed(isa, KvFormat::F16, 192, &nans, &nans);
    let visible = vec![0..130; 66];
    let queries = &nans[..66 * 192];
    let y = Attention { queries, visible: &visible, options: options(192, None) }.of(isa, &kv, &mut scratch);
    assert!(y.iter().all(|y| y.is_nan()));
    scratch
}

fn with_scalar(isas: &[Isa]) -> impl Iterator<Item = Isa> {
    isas.iter().copied().chain([Isa::SCALAR])
}

#[test]
fn a_row_is_that_row_alone_over_positions_pushed_one_by_one_and_near() {
    let isas = isas_to_test();
    let mut random = Random(1);
    let (dims, rows, lens): (&[usize], &[usize], &[usize]) = match small() {
        true => (&[17, 80], &[1, 5, 9], &[70]),
        false => (&[1, 16, 17, 64, 65, 80, 128, 192], &[1, 3, 4, 7, 8, 9, 65], &[1, 64, 200]),
    };
    let mut scratches: Vec<(Isa, AttentionScratch)> = with_scalar(&isas).map(|isa| (isa, used_scratch(isa))).collect();
    for &dim in dims {
        for &len in lens {
            let (keys, values) = (numbers(&mut random, len, dim), numbers(&mut random, len, dim));
            for format in FORMATS {
                let mut one_by_one = KvHead::new(format, dim);
                for (key, value) in keys.chunks(dim).zip(values.chunks(dim)) {
                    one_by_one.push(Isa::SCALAR, key, value);
                }
                assert_eq!((one_by_one.len(), one_by_one.dim(), one_by_one.format()), (len, dim, format));
                let rounded = [&keys, &values].map(|numbers| rounded(format, dim, numbers));
                for &rows in rows {
                    for pattern in 0..5 {
                        let softcap = [None, Some(2.0)][random.below(2)];
                        let queries: Vec<f32> = (0..rows * dim).map(|_| random.unit() * 8.0).collect();
                        let visible = visible(pattern, rows, len, &mut random);
                        let (queries, visible) = (&queries[..], &visible[..]);
                        let attention = Attention { queries, visible, options: options(dim, softcap) };
                        let expected = attention.rows_alone(Isa::SCALAR, &one_by_one);
                        for (isa, scratch) in &mut scratches {
                            let kv = pushed(*isa, format, dim, &keys, &values);
                            let found = attention.of(*isa, &kv, scratch);
                            for (row, (y, expected)) in found.chunks(dim).zip(&expected).enumerate() {
                                let same = bits_of_numbers(y) == bits_of_numbers(expected);
                                let seen = &visible[row];
                                assert!(same, "{format:?} {isa} {dim}, row {row} of {rows}, {seen:?} of {len}");
                            }
                        }
                        for (row, y) in expected.iter().enumerate() {
                            let query = &queries[row * dim..][..dim];
                            let near = naive(format, query, &rounded, visible[row].clone(), attention.options);
                            for (&y, (exact, bound)) in y.iter().zip(near) {
                                let error = (f64::from(y) - exact).abs();
                                let seen = &visible[row];
                                assert!(error <= bound, "{format:?} {dim} {seen:?}: {error:e} > {bound:e}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What keys or values become in a cache.
fn rounded(format: KvFormat, dim: usize, numbers: &[f32]) -> Vec<Vec<f64>> {
    let row = |numbers: &[f32]| match format {
        KvFormat::F16 => numbers.iter().map(|&x| f64::from(f16::from_f32(x))).collect(),
        KvFormat::Q8 => {
            let largest = numbers.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let code = |x: &f32| (x * (127.0 / largest)).round_ties_even();
            numbers.iter().map(|x| f64::from(code(x)) * f64::from(largest / 127.0)).collect()
        }
    };
    numbers.chunks(dim).map(row).collect()
}

/// Softmax attention in binary64 of rounded keys and values, and how far from it a row may be.
///
/// A score is rounded for each dimension, and for the scales of key and score; then by the cap
/// (quotient, 6 of the tangent, product), which does not enlarge what was before. An exponential is
/// off by the errors of its score and of the largest, by the rounding of their difference, and by
/// 2.5 of its own; below -86.98997 it is 0. They are summed in lanes. The values' sum rounds once
/// for each position, and once more each for the scale of the value, the inverse and the product
/// with it.
fn naive(
    format: KvFormat,
    query: &[f32],
    [keys, values]: &[Vec<Vec<f64>>; 2],
    seen: Range<usize>,
    options: AttentionOptions,
) -> Vec<(f64, f64)> {
    if seen.is_empty() {
        return vec![(0.0, 0.0); query.len()];
    }
    let scaled = usize::from(format == KvFormat::Q8);
    let scale = f64::from(options.scale);
    let score = |key: &Vec<f64>| {
        let terms = query.iter().zip(key).map(|(&q, k)| f64::from(q) * k * scale);
        let (score, magnitude) = terms.fold((0.0, 0.0), |(sum, m), term| (sum + term, m + term.abs()));
        let error = gamma(query.len() + 1 + scaled) * magnitude;
        match options.softcap.map(f64::from) {
            None => (score, error),
            Some(cap) => (cap * (score / cap).tanh(), error + gamma(8) * score.abs().min(cap)),
        }
    };
    let scores: Vec<(f64, f64)> = keys[seen.clone()].iter().map(score).collect();
    let (most, _) = scores.iter().fold((f64::MIN, 0.0), |most, s| if s.0 > most.0 { *s } else { most });
    let worst = scores.iter().fold(0.0f64, |worst, s| worst.max(s.1));
    let sum: f64 = scores.iter().map(|s| (s.0 - most).exp()).sum();
    let weights: Vec<(f64, f64)> = scores
        .iter()
        .map(|&(score, error)| {
            // The largest one found is the exact one, or nearer to it than two errors.
            let off = error + worst + U * (most - score + error + worst) + 2.5 * U;
            ((score - most).exp() / sum, off)
        })
        .collect();
    let of_sum = weights.iter().map(|(p, off)| p * off).sum::<f64>() + gamma(roundings_in_lanes(seen.len() + 15));
    let mut out = vec![(0.0, 0.0); query.len()];
    for (value, (p, off)) in values[seen.clone()].iter().zip(weights) {
        for ((sum, bound), v) in out.iter_mut().zip(value) {
            *sum += p * v;
            // Products of errors are less than a hundredth of them.
            *bound += v.abs() * (1.01 * p * (off + of_sum + gamma(seen.len() + 2 + scaled)) + 2f64.powi(-125));
        }
    }
    out
}

#[test]
fn long_contexts_are_cut_into_smaller_blocks_of_rows() {
    let isas = isas_to_test();
    let mut random = Random(2);
    // 40 rows in blocks of 16, because their scores would not stay in the cache; few, if they are
    // emulated.
    let (rows, len) = if small() { (18, 4100) } else { (40, 5000) };
    let (keys, values) = (numbers(&mut random, len, 1), numbers(&mut random, len, 1));
    let queries = random.weights(rows);
    let visible = visible(0, rows, len, &mut random);
    let attention = Attention { queries: &queries, visible: &visible, options: options(1, None) };
    for format in FORMATS {
        let kv = pushed(Isa::SCALAR, format, 1, &keys, &values);
        let expected = attention.rows_alone(Isa::SCALAR, &kv).concat();
        for isa in with_scalar(&isas) {
            let found = attention.of(isa, &kv, &mut AttentionScratch::default());
            assert!(bits_of_numbers(&found) == bits_of_numbers(&expected), "{format:?} {isa}");
        }
    }
}

/// What a row gives that sees a single position: its value as it is kept.
fn kept(isa: Isa, format: KvFormat, value: &[f32]) -> Vec<f32> {
    let kv = pushed(isa, format, value.len(), &vec![0.5; value.len()], value);
    let queries = &vec![0.25; value.len()];
    let visible = std::slice::from_ref(&(0..1));
    let attention = Attention { queries, visible, options: options(value.len(), None) };
    attention.of(isa, &kv, &mut AttentionScratch::default())
}

#[test]
fn a_single_position_gives_its_value_as_it_is_kept() {
    let isas = isas_to_test();
    let mut random = Random(3);
    let dim = 80;
    let mut rows: Vec<Vec<f32>> =
        [1.0, 1e-3, 1e-7, 6e4, 1e30].map(|m| (0..dim).map(|_| random.unit() * m).collect()).into();
    // Ties of binary16, and of codes with scale 1; numbers of any kind.
    let half = |_| f16::from_bits(random.bits() as u16 & 0x7bff).to_f32();
    rows.push((0..dim).map(half).map(|x| f32::from_bits(x.to_bits() | 0x1000)).collect());
    rows.push([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5].into_iter().cycle().take(dim).collect());
    rows.push([65519.9, 65520.0, -65520.0, 5.97e-8, 2.98e-8, 2.99e-8].into_iter().cycle().take(dim).collect());
    rows.push((0..dim).map(|_| f32::from_bits(random.bits() as u32)).collect());
    for row in &rows {
        for isa in with_scalar(&isas) {
            // +0 plus -0 is +0.
            let halves: Vec<f32> = row.iter().map(|&x| f16::from_f32(x).to_f32() + 0.0).collect();
            let found = kept(isa, KvFormat::F16, row);
            assert_eq!(bits_of_numbers(&found), bits_of_numbers(&halves), "{isa}");

            let found = kept(isa, KvFormat::Q8, row);
            if row.iter().any(|x| !x.is_finite()) {
                assert!(found.iter().all(|x| x.is_nan()), "{isa}");
                continue;
            }
            let exact = &rounded(KvFormat::Q8, dim, row)[0];
            let step = f64::from(row.iter().fold(0.0f32, |a, x| a.max(x.abs()))) / 127.0;
            for ((&found, &exact), &x) in found.iter().zip(exact).zip(row) {
                assert_eq!(found, exact as f32, "{isa}");
                // Half a step, and what the roundings of scale, inverse, and both products shift.
                let (found, x) = (f64::from(found), f64::from(x));
                assert!((found - x).abs() <= 0.5 * step + gamma(4) * x.abs().max(step), "{isa}: {found}, not {x}");
            }
        }
    }
    // Too small to have an inverse: nothing.
    for isa in with_scalar(&isas) {
        assert_eq!(kept(isa, KvFormat::Q8, &[7e-37; 17]), [0.0; 17]);
        assert_eq!(kept(isa, KvFormat::Q8, &[0.0; 17]), [0.0; 17]);
    }
}

#[test]
fn what_a_row_does_not_see_does_not_reach_it() {
    let isas = isas_to_test();
    let mut random = Random(4);
    let (len, rows) = (150, if small() { 9 } else { 65 });
    for dim in [17, 80] {
        for (pattern, poison) in (1..5).flat_map(|p| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|x| (p, x))) {
            let (mut keys, mut values) = (numbers(&mut random, len, dim), numbers(&mut random, len, dim));
            let queries = random.weights(rows * dim);
            let visible = visible(pattern, rows, len, &mut random);
            let attention = Attention { queries: &queries, visible: &visible, options: options(dim, None) };
            for format in FORMATS {
                let clean = pushed(Isa::SCALAR, format, dim, &keys, &values);
                let clean = attention.of(Isa::SCALAR, &clean, &mut AttentionScratch::default());
                let poisoned = [0, 63, 64, 65, 100, 149];
                for at in poisoned {
                    keys[at * dim + random.below(dim)] = poison;
                    values[at * dim + random.below(dim)] = poison;
                }
                let kv = pushed(Isa::SCALAR, format, dim, &keys, &values);
                let expected = attention.rows_alone(Isa::SCALAR, &kv).concat();
                for isa in with_scalar(&isas) {
                    let kv = pushed(isa, format, dim, &keys, &values);
                    let found = attention.of(isa, &kv, &mut AttentionScratch::default());
                    let what = format!("{format:?} {isa} {dim}, pattern {pattern}, {poison}");
                    assert!(bits_of_numbers(&found) == bits_of_numbers(&expected), "{what}");
                    for (row, (y, clean)) in found.chunks(dim).zip(clean.chunks(dim)).enumerate() {
                        if !poisoned.iter().any(|at| visible[row].contains(at)) {
                            assert!(bits_of_numbers(y) == bits_of_numbers(clean), "{what}, row {row}");
                        } else if poison.is_nan() {
                            assert!(y.iter().all(|y| y.is_nan()), "{what}, row {row}");
                        }
                    }
                }
                for at in poisoned {
                    keys[at * dim..][..dim].fill(0.5);
                    values[at * dim..][..dim].fill(-0.5);
                }
            }
        }
    }
}

#[test]
fn a_truncated_head_is_as_if_never_longer() {
    let isas = isas_to_test();
    let mut random = Random(5);
    let (dim, len) = (33, 130);
    let (keys, values) = (numbers(&mut random, len, dim), numbers(&mut random, len, dim));
    let nans = vec![f32::NAN; 100 * dim];
    for format in FORMATS {
        for isa in with_scalar(&isas) {
            for cut in [0, 1, 63, 64, 65, 100, 128] {
                let mut kv = pushed(isa, format, dim, &keys[..cut * dim], &values[..cut * dim]);
                kv.push(isa, &nans, &nans);
                kv.truncate(cut + 200);
                assert_eq!(kv.len(), cut + 100);
                kv.truncate(cut);
                assert_eq!((kv.len(), kv.is_empty()), (cut, cut == 0));
                kv.push(isa, &keys[cut * dim..], &values[cut * dim..]);
                kv.push(isa, &[], &[]);
                let direct = pushed(isa, format, dim, &keys, &values);
                assert_eq!((kv.len(), kv.bytes()), (direct.len(), direct.bytes()));
                for rows in [1, 4, 9] {
                    let queries = random.weights(rows * dim);
                    let visible = visible(0, rows, len, &mut random);
                    let attention = Attention { queries: &queries, visible: &visible, options: options(dim, None) };
                    let [found, expected] =
                        [&kv, &direct].map(|kv| attention.of(isa, kv, &mut AttentionScratch::default()));
                    assert!(found.iter().all(|y| y.is_finite()));
                    assert_eq!(bits_of_numbers(&found), bits_of_numbers(&expected), "{format:?} {isa} {cut}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_disagree_panic() {
    let isa = Isa::best();
    let panics = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    let attends = |queries: &[f32], visible: &[Range<usize>], len: usize| {
        let kv = pushed(isa, KvFormat::Q8, 4, &[1.0; 8], &[1.0; 8]);
        let mut out = vec![f32::NAN; len];
        attend(isa, &kv, queries, visible, options(4, None), &mut AttentionScratch::default(), &mut out);
    };
    attends(&[1.0; 8], &[0..2, 2..2], 8);
    attends(&[], &[], 0);
    assert!(panics(&|| attends(&[1.0; 8], &[0..2, 1..3], 8)));
    assert!(panics(&|| attends(&[1.0; 8], &[0..2, 3..3], 8)));
    assert!(panics(&|| attends(&[1.0; 7], &[0..2, 0..2], 7)));
    assert!(panics(&|| attends(&[1.0; 8], &[0..2, 0..2], 7)));
    for format in FORMATS {
        assert!(panics(&|| drop(KvHead::new(format, 0))));
        assert!(panics(&|| drop(pushed(isa, format, 4, &[1.0; 8], &[1.0; 4]))));
        assert!(panics(&|| drop(pushed(isa, format, 4, &[1.0; 7], &[1.0; 7]))));
    }
}
