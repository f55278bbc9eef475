//! Every family of networks agrees with `transformers` on tiny random models
//! (`tests/data/families`, made by `ci/families.sh`).
//!
//! The reference is `transformers` in float32 with keys and values rounded to half precision before
//! attention, as our cache keeps them: `logits_f16_cache`. Both then do the same operations on
//! numbers of the same precision in a different order, and [`RMS`] and [`WORST`] bound the effect.
//! The table also has how far the cache alone moves `transformers`' own logits:
//!
//! ```sh
//! cargo test -p qruntime --test families -- --nocapture
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kernels::{Format, Isa};
use ndarray::Array2;
use qruntime::{CausalLm, Encoder, SessionOptions};
use support::expected::Expected;
use support::models::packed_model;
use xxhash_rust::xxh3::Xxh3;

/// Bound on the largest difference, relative to the largest logit, in the row where it is
/// smallest.
///
/// Adding up to 100 terms in a different order, and other implementations of `exp`, `tanh` and so
/// on, cause some 2^-21 in two to four layers. Every family has rows without other differences, so
/// an error in the arithmetic of all rows shows here.
const NEAREST: f64 = 1.0 / (1 << 19) as f64;

/// Bound on the relative RMS difference.
///
/// A key or value that lies that near to the middle between two half-precision numbers rounds to
/// the other one, 2^-10 of it away, and there are 5,000 to 12,000 numbers in these caches. It is
/// one dimension out of 10 to 24, weighted by its position, and later rows see it. Errors of
/// positions are far above the bound, such as one more position in a window, or 1 % of a rotation's
/// base.
const RMS: f64 = 1.0 / (1 << 13) as f64;

/// Bound on the largest difference relative to the largest logit: one such number at full weight.
const WORST: f64 = 1.0 / (1 << 10) as f64;

/// Returns the folders of models whose outputs have this name.
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

/// The distance between two sets of numbers: relative RMS, the largest difference, and that
/// relative to the largest number.
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

/// The table, and the models that exceed the bounds.
#[derive(Default)]
struct Table {
    lines: String,
    wrong: Vec<String>,
}

impl Table {
    /// Adds a family's outputs, rows of `width` numbers, and both expected ones.
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

    /// Prints the table and fails if a model exceeds the bounds.
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

/// Tokens one by one, in blocks, and in batches with sequences of other lengths give the same bits
/// in every family.
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

/// Hashes of all results of every tiny model, with plain weights and then packed. They change only
/// with the definitions in `docs/quantization.md`.
const HASHES: &[(&str, u64, u64)] = &[
    ("gemma2", 0x34b4_2e56_5f56_0bb5, 0x87f7_2bb4_461a_f36a),
    ("gemma3", 0xc0f0_51c6_67fc_6675, 0xd9ce_3bdc_6401_9d46),
    ("gemma3-capped", 0xccd9_269f_ffc6_5676, 0xe960_f9de_aa47_1a8e),
    ("gemma3-new-config", 0x7e53_2fcd_af2b_165b, 0x1843_8e42_bb04_7993),
    ("granite", 0x1f26_22f3_556a_d41d, 0x0113_0ba0_f4f2_4998),
    ("granitemoe", 0x182a_3d9d_fdd9_58cb, 0x8d42_ba16_a7e3_8ffe),
    ("granitemoe-fused", 0xc1cc_1f8e_c87a_b782, 0x41bb_e89f_161b_781e),
    ("llama", 0xaaf7_b82e_4726_edff, 0x53d3_2644_ddcc_2b11),
    ("llama-bias", 0xac03_c52d_bcd2_bac0, 0xd158_6838_cee2_0a1a),
    ("llama-own-head", 0xc127_de7d_8927_8d62, 0x0557_0b4e_f94d_cb72),
    ("llama-rope-both", 0xd4ba_684c_3a2e_fb4c, 0x807b_5e4b_15a8_88d3),
    ("llama-rope-linear", 0x9635_3730_0fb0_edec, 0xc21f_3c71_4a51_ec1d),
    ("llama-rope-llama3", 0x1be6_ea91_c7f8_bccc, 0x7f3e_de71_8b54_1938),
    ("mistral", 0xe8f0_4a33_dfec_82c0, 0xf09d_da38_78a1_ee09),
    ("mixtral", 0x41b3_1e36_ea97_9ac7, 0x7f55_c75d_f64b_cd6d),
    ("mixtral-fused", 0x801d_4078_116d_0f94, 0xda9e_16e0_bcf2_4828),
    ("phi3", 0x85d1_1ede_23ad_d7b3, 0xe153_867c_08bc_4dd4),
    ("phi3-longrope", 0x8585_d87e_4476_6ff3, 0xa138_aa5e_52f9_40ea),
    ("qwen2", 0x91de_1376_d91f_347f, 0x492a_402b_ab6f_0f9e),
    ("qwen2-moe", 0xd8ed_42cd_d485_489c, 0x38dc_7987_12f7_c07c),
    ("qwen2-moe-fused", 0xe710_68fa_0453_b580, 0x381d_0c49_7f0d_8ba5),
    ("qwen2-moe-window", 0x3fe9_f77f_5355_68ab, 0x59a4_ac6c_5414_be76),
    ("qwen2-window", 0xe864_2972_a5b0_4688, 0x0ca1_8986_5cf3_f2b6),
    ("qwen2-yarn", 0x2e0d_3a3c_24ea_53b8, 0xefdd_a155_ee7a_7a77),
    ("qwen3", 0x06ed_a62e_942c_4e2b, 0x27ad_f9d7_933e_02f7),
    ("qwen3-moe", 0x7621_7c5a_a70d_e771, 0x76e9_71eb_a8a8_689c),
    ("qwen3-moe-default-heads", 0x0b53_45e9_8492_35b9, 0x689f_d1ad_2c72_e49f),
    ("qwen3-moe-fused", 0xcabb_2cc9_fc59_ec2a, 0xf6be_a124_4c90_953b),
    ("bert-causal", 0xb069_a651_35aa_f1cd, 0x6d06_ec56_4202_f354),
    ("bert-cls", 0x69b1_f60c_a855_3702, 0x4888_48dd_b5ba_d585),
    ("bert-mean", 0x19dd_381b_e839_7898, 0xd95a_5651_a7e6_a548),
];

#[test]
fn every_instruction_set_computes_the_same_bits_of_every_family() {
    let isas: Vec<Isa> = Isa::available().collect();
    println!("run: {isas:?}");
    let mut found = String::new();
    let mut wrong = Vec::new();
    let mut names = Vec::new();
    for (output, run) in [("logits", logits as fn(&Path, Isa, &[Vec<u32>]) -> u64), ("embedding", embeddings)] {
        for (name, path, expected) in folders(output) {
            let packed = packed_model(&path, Format::Q8_0);
            let sequences = expected.sequences();
            for &isa in &isas {
                let hashes = [path.as_path(), packed.path()].map(|path| run(path, isa, &sequences));
                if isa == isas[0] {
                    writeln!(found, "    (\"{name}\", {:#018x}, {:#018x}),", hashes[0], hashes[1]).unwrap();
                }
                if !HASHES.contains(&(name.as_str(), hashes[0], hashes[1])) {
                    wrong.push((name.clone(), isa));
                }
            }
            names.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}; found with {}:\n{found}", isas[0]);
    assert!(HASHES.iter().all(|(name, ..)| names.iter().any(|found| found == name)), "a hash without a model");
}

fn logits(path: &Path, isa: Isa, sequences: &[Vec<u32>]) -> u64 {
    let lm = CausalLm::open(path).unwrap().with_isa(isa);
    let mut hash = Xxh3::new();
    for ids in sequences {
        let mut session = lm.session_with(SessionOptions::default().block(9).context(ids.len()));
        session.feed_each(ids, |_, logits| update(&mut hash, logits)).unwrap();
    }
    hash.digest()
}

fn embeddings(path: &Path, isa: Isa, sequences: &[Vec<u32>]) -> u64 {
    let mut hash = Xxh3::new();
    let vectors = Encoder::open(path).unwrap().with_isa(isa).embed_ids(sequences).unwrap();
    update(&mut hash, vectors.as_slice().unwrap());
    hash.digest()
}

fn update(hash: &mut Xxh3, numbers: &[f32]) {
    numbers.iter().for_each(|x| hash.update(&x.to_bits().to_le_bytes()));
}
