//! Every family of networks agrees with `transformers` on tiny random models
//! (`tests/data/families`, made by `ci/families.sh`).
//!
//! The reference is `transformers` in float32 with keys and values rounded to half precision before
//! attention, as our cache keeps them: `logits_f16_cache`. Both then do the same operations on
//! numbers of the same precision in another order, and [`RMS`] and [`WORST`] bound what that may
//! do. How far the cache alone moves `transformers`' own logits stands beside it in the table:
//!
//! ```sh
//! cargo test -p qruntime --test families -- --nocapture
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use qruntime::{CausalLm, Encoder, SessionOptions};
use support::expected::Expected;

/// Bound on the largest difference in the row where that is least, beside the largest logit.
///
/// Adding up to 100 terms in another order, and `exp`, `tanh` and the like computed in another way,
/// do some 2^-21 in two to four layers. Every family has rows to which nothing else happens. So
/// whatever is wrong with the arithmetic of all rows shows here.
const NEAREST: f64 = 1.0 / (1 << 19) as f64;

/// Bound on the relative RMS difference.
///
/// A key or value that lies as near to the middle between two half-precision numbers rounds to the
/// other one, 2^-10 of it away, and there are 5,000 to 12,000 numbers in these caches. It is one
/// dimension out of 10 to 24, at the weight that its position has, and rows after it see it. What
/// is wrong with positions is far above: one more in a window, 1 % of a rotation's base.
const RMS: f64 = 1.0 / (1 << 13) as f64;

/// Bound on the largest difference beside the largest logit: one such number at full weight.
const WORST: f64 = 1.0 / (1 << 10) as f64;

/// The folders of models with so and so named outputs.
fn folders(output: &str) -> Vec<(String, PathBuf, Expected)> {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    let mut folders = Vec::new();
    for entry in families.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let expected = Expected::read(path.join("expected.safetensors"));
        if expected.has(&format!("{output}.0")) {
            folders.push((path.file_name().unwrap().to_str().unwrap().to_owned(), path, expected));
        }
    }
    assert!(!folders.is_empty(), "no folder with {output} in {families:?}");
    folders.sort_by(|a, b| a.0.cmp(&b.0));
    folders
}

/// How far numbers are from others: relative RMS, the largest difference, and that beside the
/// largest number.
struct Distance {
    rms: f64,
    worst: f64,
    relative: f64,
}

fn distance(ours: &[f32], theirs: &[f32]) -> Distance {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().chain(theirs).all(|x| x.is_finite()));
    let (mut error, mut signal, mut worst, mut largest) = (0.0, 0.0, 0.0f64, 0.0f64);
    for (&a, &b) in ours.iter().zip(theirs) {
        let (difference, b) = ((f64::from(a) - f64::from(b)).abs(), f64::from(b).abs());
        error += difference * difference;
        signal += b * b;
        worst = worst.max(difference);
        largest = largest.max(b);
    }
    Distance { rms: (error / signal).sqrt(), worst, relative: worst / largest }
}

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

/// The table, and who is beyond the bounds.
#[derive(Default)]
struct Table {
    lines: String,
    wrong: Vec<String>,
}

impl Table {
    /// Adds a family's outputs, rows of `width` numbers, and the two that are expected.
    fn add(&mut self, name: String, width: usize, ours: &[f32], f16_cache: &[f32], f32_cache: &[f32]) {
        let (distance, cache) = (distance(ours, f16_cache), distance(f16_cache, f32_cache));
        let rows = || ours.chunks(width).zip(f16_cache.chunks(width));
        let nearest = rows().map(|(a, b)| self::distance(a, b).relative).min_by(f64::total_cmp).unwrap();
        let same = ours.chunks(width).zip(f32_cache.chunks(width)).filter(|(a, b)| argmax(a) == argmax(b)).count();
        let Distance { worst, relative, rms } = distance;
        writeln!(
            self.lines,
            "| {:19} | {worst:7.1e} | {relative:8.1e} | {nearest:11.1e} | {rms:7.1e} | {:9.1e} | {same:2} of {:2}     |",
            format!("`{name}`"),
            cache.worst,
            rows().count()
        )
        .unwrap();
        // No comparison with NaN is true.
        let near = nearest <= NEAREST && rms <= RMS && relative <= WORST;
        if !near {
            self.wrong.push(name);
        }
    }

    /// Prints it and fails if anybody is.
    fn finish(self) {
        println!("\n| family              | largest | relative | nearest row | rms     | f16 cache | same argmax |");
        println!("|---------------------|---------|----------|-------------|---------|-----------|-------------|");
        println!("{}", self.lines);
        assert!(self.wrong.is_empty(), "too far from transformers: {:?}", self.wrong);
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let mut table = Table::default();
    for (name, path, expected) in folders("logits") {
        let model = CausalLm::open(&path).unwrap();
        let vocab = model.config().vocab_size;
        let [mut ours, mut f16_cache, mut f32_cache] = [const { Vec::new() }; 3];
        for (i, ids) in expected.sequences().iter().enumerate() {
            // As `transformers` chooses LongRoPE's frequencies: by the length of the input.
            let mut session = model.session_with(SessionOptions::default().context(ids.len()));
            let before = ours.len();
            session.feed_each(ids, |_, logits| ours.extend_from_slice(logits)).unwrap();
            assert_eq!(ours.len() - before, ids.len() * vocab, "{name}");
            f16_cache.extend(expected.numbers(&format!("logits_f16_cache.{i}")));
            f32_cache.extend(expected.numbers(&format!("logits.{i}")));
        }
        table.add(name, vocab, &ours, &f16_cache, &f32_cache);
    }
    table.finish();
}

#[test]
fn a_distance_that_is_no_number_is_too_far() {
    let mut table = Table::default();
    table.add("near".into(), 2, &[1.0, 2.0], &[1.0, 2.0], &[1.0, 2.0]);
    table.add("nothing to compare with".into(), 2, &[0.0, 0.0], &[0.0, 0.0], &[0.0, 0.0]);
    assert_eq!(table.wrong, ["nothing to compare with"]);
}

#[test]
fn embeddings_are_those_of_transformers() {
    let mut table = Table::default();
    for (name, path, expected) in folders("embedding") {
        let encoder = Encoder::open(&path).unwrap();
        let sequences: Vec<Vec<u32>> = expected.sequences();
        let ours: Array2<f32> = encoder.embed_ids(&sequences).unwrap();
        let theirs = |what: &str| -> Vec<f32> {
            (0..sequences.len()).flat_map(|i| expected.numbers(&format!("{what}.{i}"))).collect()
        };
        let (f16_cache, f32_cache) = (theirs("embedding_f16_cache"), theirs("embedding"));
        table.add(name, ours.ncols(), ours.as_slice().unwrap(), &f16_cache, &f32_cache);
    }
    table.finish();
}

/// Tokens one by one, in blocks, and beside sequences of other lengths: the same bits, in every
/// family.
#[test]
fn logits_do_not_depend_on_blocks_and_batches() {
    for (name, path, expected) in folders("logits") {
        let model = CausalLm::open(&path).unwrap();
        let ids = expected.sequences().swap_remove(0);
        let new = || model.session_with(SessionOptions::default().context(ids.len()));
        let mut whole = Vec::new();
        new().feed_each(&ids, |_, logits| whole.push(bits(logits))).unwrap();

        let mut session = new();
        for (i, token) in ids.iter().enumerate() {
            assert_eq!(bits(session.feed(&[*token]).unwrap()), whole[i], "{name}, token {i} alone");
        }
        session.rewind(7);
        for block in ids[7..].chunks(5) {
            let logits = bits(session.feed(block).unwrap());
            assert_eq!(logits, whole[session.len() - 1], "{name}, a block up to {}", session.len());
        }

        let lengths = [ids.len(), 1, 13];
        let mut sessions = lengths.map(|_| new());
        let mut batch: Vec<_> = sessions.iter_mut().zip(lengths).map(|(s, length)| (s, &ids[..length])).collect();
        let logits = model.feed_batch(&mut batch).unwrap();
        for (logits, length) in logits.outer_iter().zip(lengths) {
            assert_eq!(bits(logits.as_slice().unwrap()), whole[length - 1], "{name}, {length} tokens in a batch");
        }
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}
