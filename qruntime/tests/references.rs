//! Real models give the results of other implementations. The models and texts are in
//! `../shared/data`; if that is absent, these tests say so and pass. The expected results are in
//! `tests/data`, made by `ci/references.sh`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::path::Path;

use qruntime::{CausalLm, Encoder};
use support::expected::{Expected, shared};

fn expected(name: &str) -> Expected {
    Expected::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name))
}

/// Returns -ln of the probability of a token, from `f64` sums of `f64` exponentials, without the
/// code under test.
fn nll(logits: &[f32], token: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    sum.ln() + largest - f64::from(logits[token as usize])
}

/// 4.0862, according to four implementations in `f32`; ours rounds keys and values to half
/// precision.
#[test]
fn perplexity_of_stories() {
    let Some(folder) = shared("stories260K/hf-float32") else { return };
    let model = CausalLm::open(folder).unwrap();
    let expected = expected("stories260K.safetensors");
    let (mut sum, mut targets) = (0.0, 0);
    for story in expected.sequences() {
        let mut session = model.session();
        session.feed_each(&story, |i, logits| sum += story.get(i + 1).map_or(0.0, |&next| nll(logits, next))).unwrap();
        targets += story.len() - 1;
    }
    assert_eq!(targets, 37_072);
    let (ours, theirs) = (sum / f64::from(targets as u32), expected.number("nll") / f64::from(targets as u32));
    println!("nll {ours:.6}, transformers {theirs:.6}; perplexity {:.5}, transformers {:.5}", ours.exp(), theirs.exp());
    // A key or value moves by at most 2^-11 of itself, up or down with equal chance, so a token's
    // logits by some 2^-11 and the mean of 37,072 tokens by far less.
    assert!((ours - theirs).abs() < 2e-5, "{ours}, transformers {theirs}");
    assert_eq!(format!("{:.4}", ours.exp()), "4.0862");
}

/// Returns 1 minus the cosine of the angle between two vectors.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn embeddings_of_sentences() {
    let Some(folder) = shared("all-MiniLM-L6-v2") else { return };
    let encoder = Encoder::open(folder).unwrap();
    let expected = expected("minilm.safetensors");
    let ours = encoder.embed_ids(&expected.sequences()).unwrap();
    let theirs = expected.numbers("embeddings");
    assert_eq!((100, 384), ours.dim());
    assert_eq!(theirs.len(), ours.len());
    let pairs = ours.outer_iter().zip(theirs.chunks(384));
    let worst = pairs.map(|(a, b)| distance(a.as_slice().unwrap(), b)).fold(0.0, f64::max);
    println!("largest cosine distance to sentence-transformers, 100 sentences: {worst:.1e}");
    assert!(worst < 1e-5, "{worst}");
}

/// Returns ranks from 1; equal numbers share the mean of their ranks.
#[cfg(feature = "text")]
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| numbers[a] == numbers[b]) {
        for &i in equal {
            ranks[i] = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        }
        before += equal.len();
    }
    ranks
}

/// Returns Spearman's correlation of ranks.
#[cfg(feature = "text")]
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let covariance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    covariance(&a, &b) / (covariance(&a, &a) * covariance(&b, &b)).sqrt()
}

/// Compares the rank correlation of cosines and scores, over every `every`th pair.
#[cfg(feature = "text")]
fn check_rank_correlation(every: usize) {
    let Some(folder) = shared("all-MiniLM-L6-v2") else { return };
    let Some(pairs) = shared("text/stsbenchmark/sts-dev.csv") else { return };
    let pairs = std::fs::read_to_string(pairs).unwrap();
    let rows: Vec<Vec<&str>> = pairs.lines().step_by(every).map(|line| line.split('\t').collect()).collect();
    let mut tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    tokenizer.with_padding(None);
    let encoder = Encoder::open(folder).unwrap();
    let embed = |column: usize| {
        let ids = |row: &Vec<&str>| tokenizer.encode(row[column], true).unwrap().get_ids().to_vec();
        encoder.embed_ids(&rows.iter().map(ids).collect::<Vec<_>>()).unwrap()
    };
    let (first, second) = (embed(5), embed(6));
    let pairs = first.outer_iter().zip(second.outer_iter());
    let similarities: Vec<f64> = pairs.map(|(a, b)| -distance(a.as_slice().unwrap(), b.as_slice().unwrap())).collect();
    let scores: Vec<f64> = rows.iter().map(|row| row[4].parse().unwrap()).collect();
    let ours = rank_correlation(&similarities, &scores);
    let theirs = expected("minilm.safetensors").number(&format!("rank_correlation.{every}"));
    println!("rank correlation on {} pairs: {ours:.6}, sentence-transformers {theirs:.6}", rows.len());
    // Half-precision keys and values move a cosine by some 1e-4, so neighbours swap ranks.
    assert!((ours - theirs).abs() < 2e-4, "{ours}, sentence-transformers {theirs}");
}

#[cfg(feature = "text")]
#[test]
fn rank_correlation_of_sentence_pairs() {
    check_rank_correlation(5);
}

#[cfg(feature = "text")]
#[test]
#[ignore = "takes a minute"]
fn rank_correlation_of_all_sentence_pairs() {
    check_rank_correlation(1);
}
