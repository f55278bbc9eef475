use super::*;

fn close(a: f64, b: f64, bound: f64) {
    assert!((a - b).abs() <= bound, "{a} {b}");
}

/// Numbers that look random and are always the same.
fn row(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| scale * (next() + next() + next() - 1.5)).collect()
}

#[test]
fn the_exponential_is_that_of_libm() {
    for i in 0..200_000 {
        let x = -f64::from(i) * 0.003_499;
        let (found, expected) = (exp(x), libm::exp(x));
        assert!((found - expected).abs() <= expected * 2f64.powi(-51), "{x}: {found:e} {expected:e}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-1e9), exp(-700.0));
    assert_eq!(exp(f64::NEG_INFINITY), exp(-700.0));
    assert!(exp(-700.0) < 1e-300 && exp(f64::NAN).is_nan() && exp(f64::from(f32::NAN)).is_nan());
}

#[test]
fn a_case_computed_by_hand() {
    // Reference 1/2, 1/4, 1/4; model 1/4, 1/2, 1/4.
    let ln_2 = std::f32::consts::LN_2;
    let (reference, model) = ([ln_2, 0.0, 0.0], [5.0, 5.0 + ln_2, 5.0]);
    let found = Prediction::compare(Answer::Logits(&reference), &model, 1);
    // The logarithm of 2 as f32 is off by 2e-9.
    close(found.kld, 0.25 * std::f64::consts::LN_2, 1e-7);
    close(found.nll, std::f64::consts::LN_2, 1e-7);
    close(found.reference_nll, 2.0 * std::f64::consts::LN_2, 1e-7);
    close(found.change, 0.25, 1e-7);
    assert!(!found.same_top);
    let same = Prediction::compare(Answer::Logits(&model), &model, 2);
    assert_eq!((same.kld, same.change, same.same_top), (0.0, 0.0, true));
}

#[test]
fn predictions_equal_a_computation_step_by_step() {
    for (seed, len) in [(1, 1), (2, 7), (3, 8), (4, 100), (5, 4096), (6, 50_001)] {
        let (reference, mut model) = (row(seed, len, 9.0), row(seed + 100, len, 1.0));
        model.iter_mut().zip(&reference).for_each(|(m, r)| *m = 0.3 * *m + r - 40.0);
        let token = len / 2;
        let logs = |row: &[f32]| -> Vec<f64> {
            let sum: f64 = row.iter().map(|&x| libm::exp(x.into())).sum();
            row.iter().map(|&x| f64::from(x) - libm::log(sum)).collect()
        };
        let (p, q) = (logs(&reference), logs(&model));
        let kld: f64 = p.iter().zip(&q).map(|(p, q)| libm::exp(*p) * (p - q)).sum();
        let found = Prediction::compare(Answer::Logits(&reference), &model, token as u32);
        close(found.kld, kld, 1e-12);
        close(found.nll, -q[token], 1e-12);
        assert_eq!(found.nll, nll(&model, token as u32));
        close(found.reference_nll, -p[token], 1e-12);
        close(found.change, libm::exp(q[token]) - libm::exp(p[token]), 1e-13);
        let top = |row: &[f64]| (0..len).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        assert_eq!(found.same_top, top(&p) == top(&q));

        // Log-probabilities as they are, rounded to f32 alone: the same, less what is at -16 or
        // below.
        let rounded: Vec<f32> = p.iter().map(|&p| p as f32).collect();
        let kept = rounded.iter().zip(&q).filter(|(p, _)| **p > -16.0);
        let kld: f64 = kept.map(|(&p, q)| libm::exp(p.into()) * (f64::from(p) - q)).sum();
        let again = Prediction::compare(Answer::Rounded(&rounded), &model, token as u32);
        close(again.kld, kld, 1e-12);
        close(again.reference_nll, found.reference_nll, 1e-6);
        assert_eq!((again.nll, again.same_top), (found.nll, found.same_top));
    }
}

#[test]
fn what_is_not_finite_shows() {
    for bad in [f32::NAN, f32::INFINITY] {
        let found = Prediction::compare(Answer::Logits(&[1.0, 2.0]), &[bad, 1.0], 1);
        assert!(found.kld.is_nan() && found.nll.is_nan(), "{found:?}");
        // Neither knows anything, so that they agree on nothing.
        let both = Prediction::compare(Answer::Logits(&[bad, 1.0]), &[bad, 1.0], 1);
        assert!(!both.is_number() && !both.same_top);
        let rounded = Prediction::compare(Answer::Rounded(&[f32::NAN, 1.0]), &[1.0, 2.0], 0);
        assert!(!rounded.is_number() && !rounded.same_top);
        let mut statistics = Statistics::default();
        statistics.add(&found);
        (0..3).for_each(|_| statistics.add(&Prediction::compare(Answer::Logits(&[1.0, 2.0]), &[1.0, 2.0], 1)));
        let summary = statistics.summary();
        assert!(summary.kld.mean.is_nan() && summary.kld.median.is_nan() && summary.kld.max.is_nan());
        assert_eq!((summary.not_a_number, summary.same_top), (1, 0.75));
    }
}

#[test]
fn figures_equal_those_of_sums() {
    let (vocabulary, count) = (64, 500);
    let mut statistics = Statistics::default();
    let mut predictions = vec![];
    for i in 0..count {
        let reference = row(i, vocabulary, 6.0);
        let model: Vec<f32> = reference.iter().zip(row(i + 9999, vocabulary, 0.5)).map(|(a, b)| a + b).collect();
        let prediction = Prediction::compare(Answer::Logits(&reference), &model, (i % 64) as u32);
        statistics.add(&prediction);
        predictions.push(prediction);
    }
    let found = statistics.summary();
    let n = count as f64;
    let mean = |f: &dyn Fn(&Prediction) -> f64| predictions.iter().map(f).sum::<f64>() / n;
    // As llama.cpp has it: variance of the one, of the other, less twice the covariance.
    let (a, b) = (mean(&|p| p.nll), mean(&|p| p.reference_nll));
    let variance = |f: &dyn Fn(&Prediction) -> f64| (mean(&|p| f(p) * f(p)) - mean(f).powi(2)) / (n - 1.0);
    let covariance = (mean(&|p| p.nll * p.reference_nll) - a * b) / (n - 1.0);
    let error = (variance(&|p| p.nll) + variance(&|p| p.reference_nll) - 2.0 * covariance).sqrt();
    close(found.ln_ratio, a - b, 1e-12);
    close(found.ln_ratio_error, error, 1e-9);
    close(found.ratio, libm::exp(a) / libm::exp(b), 1e-10);
    close(found.model.value, libm::exp(a), 1e-9);
    close(found.model.error, libm::exp(a) * variance(&|p| p.nll).sqrt(), 1e-9);
    close(found.reference.nll, b, 1e-12);
    close(found.kld.mean, mean(&|p| p.kld), 1e-12);
    close(found.kld.error, variance(&|p| p.kld).sqrt(), 1e-12);
    close(found.rms_change, mean(&|p| p.change * p.change).sqrt(), 1e-12);
    close(found.mean_change, mean(&|p| p.change), 1e-12);
    close(found.same_top, mean(&|p| f64::from(u8::from(p.same_top))), 1e-12);
    let mut klds: Vec<f64> = predictions.iter().map(|p| p.kld).collect();
    klds.sort_by(f64::total_cmp);
    // 0.9 of 499 is 449.1, and so on; numbers are kept as f32.
    close(found.kld.p90, klds[449] + 0.1 * (klds[450] - klds[449]), 1e-7);
    close(found.kld.p999, klds[498] + 0.501 * (klds[499] - klds[498]), 1e-7);
    close(found.kld.median, 0.5 * (klds[249] + klds[250]), 1e-7);
    close(found.kld.max, klds[499], 1e-7);
    assert_eq!(found.predictions, 500);
    assert_eq!(statistics.divergences().len(), statistics.count());
}

#[test]
fn percentiles_lie_between_numbers() {
    assert!(percentile(&[], 0.5).is_nan());
    assert_eq!(percentile(&[3.0], 0.999), 3.0);
    assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.5), 2.0);
    assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    assert_eq!(percentile(&[1.0, 2.0, 4.0], 1.0), 4.0);
    assert_eq!(percentile(&[1.0, f32::INFINITY, f32::INFINITY], 0.75), f64::INFINITY);
}

#[test]
fn no_prediction_is_no_figure() {
    let empty = Statistics::default().summary();
    assert!(empty.kld.mean.is_nan() && empty.same_top.is_nan() && empty.predictions == 0);
}
