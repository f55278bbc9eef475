//! Networks compute the same bits on every instruction set and thread count, and however they are
//! fed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};

use kernels::{Format, Isa, KvFormat};
use ndarray::Array2;
use qruntime::{CausalLm, Encoder, Error, Greedy, Sampler, Session, SessionOptions};
use rayon::{ThreadPool, ThreadPoolBuilder};
use support::Random;
use support::models::{families, packed_model, storyteller};
use tempfile::TempDir;

const BLOCKS: [usize; 4] = [1, 7, 64, 512];

const KVS: [KvFormat; 2] = [KvFormat::F16, KvFormat::Q8];

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn text(seed: u64, len: usize, vocabulary: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..len).map(|_| (random.unit().abs() * 1e6) as u32 % vocabulary as u32).collect()
}

/// Returns the bits of the logits after every token.
fn each(session: &mut Session, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new(); tokens.len()];
    session.feed_each(tokens, |i, logits| all[i] = bits(logits)).unwrap();
    all
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn options(block: usize) -> SessionOptions {
    SessionOptions::default().block(block)
}

/// Returns the shipped model, plain and packed: in a format with long blocks and one with short
/// ones.
fn shipped() -> Vec<(&'static str, CausalLm)> {
    let packed = |format| CausalLm::open(packed_model(&storyteller(), format).path()).unwrap();
    vec![("f16", CausalLm::open(storyteller()).unwrap()), ("q4_k", packed(Format::Q4K)), ("q8_0", packed(Format::Q8_0))]
}

/// Copies the model `from`, with `old` in its `config.json` replaced by `new`.
fn with_config(from: &Path, old: &str, new: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    assert!(config.contains(old), "{config}");
    std::fs::write(folder.path().join("config.json"), config.replace(old, new)).unwrap();
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Files to which YaRN was added later still have the original context; results do not depend on
/// it.
#[test]
fn yarn_reaches_as_far_as_its_factor() {
    let (_, source) = families().find(|(name, _)| name == "qwen2-yarn").unwrap();
    let short = with_config(&source, "\"max_position_embeddings\": 64", "\"max_position_embeddings\": 16");
    let [long, short] = [source.as_path(), short.path()].map(|folder| CausalLm::open(folder).unwrap());
    assert_eq!((long.config().context, short.config().context), (64, 64));
    let tokens: Vec<u32> = (0..60).collect();
    assert_eq!(long.session().feed(&tokens).unwrap(), short.session().feed(&tokens).unwrap());
}

/// The first files of Phi-3 use this name for LongRoPE.
#[test]
fn yarn_of_phi_is_longrope() {
    let (_, source) = families().find(|(name, _)| name == "phi3-longrope").unwrap();
    let renamed = with_config(&source, "\"longrope\"", "\"yarn\"");
    let [one, other] = [source.as_path(), renamed.path()].map(|folder| CausalLm::open(folder).unwrap());
    assert_eq!(one.config(), other.config());
    let tokens: Vec<u32> = (0..10).collect();
    assert_eq!(one.session().feed(&tokens).unwrap(), other.session().feed(&tokens).unwrap());
}

#[test]
fn the_shipped_model_has_the_bits_of_the_scalar_path_on_one_thread_token_by_token() {
    let isas: Vec<Isa> = Isa::available().collect();
    println!("run: {isas:?}");
    let pools = [1, 2, 3].map(pool);
    for (name, lm) in shipped().into_iter().take(2) {
        let tokens = text(1, 70, lm.config().vocab_size);
        let scalar = lm.clone().with_isa(Isa::SCALAR);
        for kv in KVS {
            let expected = pools[0].install(|| each(&mut scalar.session_with(options(1).kv(kv)), &tokens));
            for &isa in &isas {
                let lm = lm.clone().with_isa(isa);
                for (threads, pool) in [1, 2, 3].into_iter().zip(&pools) {
                    // The scalar path is slow.
                    let blocks: &[usize] = match threads {
                        _ if isa != Isa::SCALAR => &BLOCKS,
                        1 => &[],
                        _ => &BLOCKS[threads..=threads],
                    };
                    for &block in blocks {
                        let found = pool.install(|| each(&mut lm.session_with(options(block).kv(kv)), &tokens));
                        assert!(found == expected, "{name}, {kv:?}, {isa}, {threads} threads, blocks of {block}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_among_others() {
    for ((name, lm), kv) in shipped().iter().flat_map(|model| KVS.map(|kv| (model, kv))) {
        let texts: Vec<Vec<u32>> =
            [1, 9, 33, 70].iter().map(|&len| text(len as u64, len, lm.config().vocab_size)).collect();
        let alone = |text: &Vec<u32>| bits(lm.session_with(SessionOptions::default().kv(kv)).feed(text).unwrap());
        let expected: Vec<Vec<u32>> = texts.iter().map(alone).collect();
        for block in BLOCKS {
            let mut sessions: Vec<Session> = texts.iter().map(|_| lm.session_with(options(block).kv(kv))).collect();
            // Some of them already have tokens.
            sessions[1].feed(&texts[1][..4]).unwrap();
            sessions[3].feed(&texts[3][..50]).unwrap();
            let mut batch: Vec<(&mut Session, &[u32])> = sessions
                .iter_mut()
                .zip(&texts)
                .map(|(session, text)| (session.len(), session, text))
                .map(|(len, session, text)| (session, &text[len..]))
                .collect();
            let logits = lm.feed_batch(&mut batch).unwrap();
            for (i, (session, row)) in sessions.iter().zip(logits.outer_iter()).enumerate() {
                assert!(bits(row.to_slice().unwrap()) == expected[i], "{name}, {kv:?}, text {i}, blocks of {block}");
                assert!(bits(session.logits()) == expected[i], "{name}, {kv:?}, session {i}, blocks of {block}");
                assert_eq!(session.tokens(), texts[i]);
            }
        }
    }
}

#[test]
fn a_cache_of_8_bits_changes_logits_little() {
    let lm = CausalLm::open(storyteller()).unwrap();
    for seed in 0..3 {
        let tokens = text(seed, 200, lm.config().vocab_size);
        let [exact, found] = KVS.map(|kv| {
            let mut all = Vec::new();
            let mut session = lm.session_with(SessionOptions::default().kv(kv));
            session.feed_each(&tokens, |_, logits| all.push(logits.to_vec())).unwrap();
            all.concat()
        });
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = exact.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
        let size: f64 = exact.iter().map(|&a| square(a)).sum();
        let ratio = (error / size).sqrt();
        // The only bound in these tests that is not derived: the step of a code relative to its
        // largest value. Measured: up to 0.0033.
        assert!(0.0 < ratio && ratio < 1.0 / 127.0, "seed {seed}: {ratio}");
    }
}

#[test]
fn forks_and_rewound_sessions_go_on_as_if_nothing_had_been() {
    let lm = CausalLm::open(packed_model(&storyteller(), Format::Q4K).path()).unwrap();
    for kv in KVS {
        let session = || lm.session_with(SessionOptions::default().kv(kv));
        let (one, other) = (text(1, 60, 4096), text(2, 60, 4096));
        let alone = |tokens: &[u32]| bits(session().feed(tokens).unwrap());
        let forked: Vec<u32> = [&one[..25], &other[25..]].concat();

        let mut first = session();
        first.feed(&one[..25]).unwrap();
        let mut second = first.fork();
        assert!(bits(second.feed(&other[25..]).unwrap()) == alone(&forked), "{kv:?}: a fork");
        assert!(bits(first.feed(&one[25..]).unwrap()) == alone(&one), "{kv:?}: what was forked");

        first.rewind(25);
        assert_eq!((first.len(), first.logits()), (25, &[][..]));
        assert!(bits(first.feed(&[]).unwrap()) == alone(&one[..25]), "{kv:?}: rewound, and asked again");
        first.rewind(17);
        assert!(bits(first.feed(&forked[17..]).unwrap()) == alone(&forked), "{kv:?}: rewound, and gone on");
        assert_eq!(first.tokens(), forked);
        first.rewind(0);
        assert!(first.is_empty() && matches!(first.feed(&[]), Err(Error::NoTokens)));
        assert!(bits(first.feed(&one).unwrap()) == alone(&one), "{kv:?}: rewound to the beginning");
    }
}

#[test]
fn generating_is_feeding_what_was_chosen() {
    let lm = CausalLm::open(packed_model(&storyteller(), Format::Q8_0).path()).unwrap();
    let mut session = lm.session();
    session.feed(&[0, 634, 537]).unwrap();
    let tokens: Vec<u32> = session.generate(&mut Greedy).take(40).collect::<Result<_, _>>().unwrap();
    assert_eq!((tokens.len(), session.len()), (40, 43));
    assert_eq!(session.tokens()[3..], tokens);

    let mut fed = lm.session();
    for (i, &token) in [0, 634, 537].iter().chain(&tokens).enumerate() {
        let next = Greedy.sample(fed.feed(&[token]).unwrap(), &[]);
        assert!(i < 2 || i == 42 || next == tokens[i - 2]);
    }
    // Generation continues where it stopped.
    let more: Vec<u32> = session.generate(&mut Greedy).take(1).collect::<Result<_, _>>().unwrap();
    assert_eq!(more, [Greedy.sample(fed.logits(), &[])]);
}

/// Chooses the same token again and again.
struct Always(u32);

impl Sampler for Always {
    fn sample(&mut self, _: &[f32], _: &[u32]) -> u32 {
        self.0
    }
}

#[test]
fn a_token_that_ends_the_text_ends_the_iterator_and_is_not_appended() {
    let lm = CausalLm::open(storyteller()).unwrap();
    assert_eq!(lm.config().eos, [0]);
    let mut session = lm.session();
    session.feed(&[5, 6]).unwrap();
    assert_eq!(session.generate(&mut Always(0)).count(), 0);
    assert_eq!(session.tokens(), [5, 6]);
    // A sampler may return a wrong token.
    let chosen: Vec<_> = session.generate(&mut Always(4096)).collect();
    assert!(matches!(chosen.as_slice(), [Err(Error::Token { token: 4096, vocabulary: 4096 })]));
}

#[test]
fn a_sequence_ends_with_its_context() {
    let lm = CausalLm::open(packed_model(&storyteller(), Format::Q8_0).path()).unwrap();
    let mut session = lm.session_with(SessionOptions::default().context(20));
    let error = session.feed(&[5; 21]).unwrap_err().to_string();
    assert_eq!(
        error,
        "sequence of 21 tokens, expected at most 20, its context (SessionOptions::context may be up to 512)"
    );
    assert!(session.is_empty());
    session.feed(&[5; 15]).unwrap();
    assert_eq!(session.generate(&mut Always(7)).count(), 5);
    assert_eq!(session.generate(&mut Always(7)).count(), 0);
    assert_eq!(session.feed(&[4096]).unwrap_err().to_string(), "token 4096, expected one below 4096");
    let error = lm.session().feed(&[5; 513]).unwrap_err().to_string();
    assert_eq!(error, "sequence of 513 tokens, expected at most 512, its context");
}

#[test]
fn a_batch_that_is_refused_changes_nothing() {
    let (lm, other) = (CausalLm::open(storyteller()).unwrap(), CausalLm::open(storyteller()).unwrap());
    let (mut one, mut two) = (lm.session(), lm.session());
    assert!(matches!(lm.feed_batch(&mut [(&mut one, &[1]), (&mut two, &[9999])]), Err(Error::Token { .. })));
    assert!(matches!(lm.feed_batch(&mut [(&mut one, &[1]), (&mut two, &[])]), Err(Error::NoTokens)));
    assert!(matches!(other.feed_batch(&mut [(&mut one, &[1])]), Err(Error::OtherModel)));
    assert!(one.is_empty() && two.is_empty());
    assert_eq!(lm.feed_batch(&mut []).unwrap().dim(), (0, 4096));
}

#[test]
fn threads_share_a_model() {
    let lm = CausalLm::open(packed_model(&storyteller(), Format::Q8_0).path()).unwrap();
    let alone: Vec<Vec<u32>> = (0..4).map(|seed| bits(lm.session().feed(&text(seed, 20, 4096)).unwrap())).collect();
    std::thread::scope(|scope| {
        let run = |seed| {
            let lm = &lm;
            scope.spawn(move || bits(lm.session().feed(&text(seed, 20, 4096)).unwrap()))
        };
        let threads: Vec<_> = (0..4).map(run).collect();
        for (thread, expected) in threads.into_iter().zip(&alone) {
            assert!(thread.join().unwrap() == *expected);
        }
    });
}

/// Tests the tiny models, which cover every kind of layer.
#[test]
fn every_family_has_the_bits_of_the_scalar_path_token_by_token() {
    let pools = [1, 2, 3].map(pool);
    for (name, folder) in families().filter(|(name, _)| !name.starts_with("bert")) {
        let lm = CausalLm::open(&folder).unwrap();
        let tokens = text(3, 40, lm.config().vocab_size);
        let context = lm.config().context;
        let scalar = lm.clone().with_isa(Isa::SCALAR);
        let expected = each(&mut scalar.session_with(options(1).context(context)), &tokens);
        for isa in Isa::available() {
            let lm = lm.clone().with_isa(isa);
            for (pool, block) in pools.iter().zip([5, 16, 64]) {
                let mut session = lm.session_with(options(block).context(context));
                let found = pool.install(|| each(&mut session, &tokens));
                assert!(found == expected, "{name}, {isa}, blocks of {block}");
            }
        }
    }
}

#[test]
fn encoders_have_the_bits_of_the_scalar_path_and_of_texts_alone() {
    let pools = [1, 2, 3].map(pool);
    let mut folders: Vec<PathBuf> =
        families().filter(|(name, _)| name.starts_with("bert")).map(|(_, folder)| folder).collect();
    match support::models::shared("all-MiniLM-L6-v2") {
        Some(folder) => folders.push(folder),
        None => eprintln!("skipped: MiniLM is not here"),
    }
    for folder in folders {
        let encoder = Encoder::open(&folder).unwrap();
        let texts: Vec<Vec<u32>> = [1, 7, 40, 12, 2]
            .iter()
            .map(|&len| text(len as u64, len.min(encoder.config().context), encoder.config().vocab_size))
            .collect();
        let scalar = encoder.clone().with_isa(Isa::SCALAR);
        let rows: Vec<Vec<u32>> =
            texts.iter().map(|text| bits(scalar.embed_ids(&[text]).unwrap().as_slice().unwrap())).collect();
        for isa in Isa::available() {
            let encoder = encoder.clone().with_isa(isa);
            // The scalar path is slow.
            for pool in if isa == Isa::SCALAR { &pools[2..] } else { &pools } {
                let all: Array2<f32> = pool.install(|| encoder.embed_ids(&texts)).unwrap();
                for (i, row) in all.outer_iter().enumerate() {
                    assert!(bits(row.to_slice().unwrap()) == rows[i], "{folder:?}, {isa}, text {i}");
                }
            }
        }
        assert!(matches!(encoder.embed_ids(&[[0u32; 0]]), Err(Error::NoTokens)));
        assert!(matches!(encoder.embed_ids(&[vec![0; 10_000]]), Err(Error::Context { .. })));
        assert!(matches!(encoder.embed_ids(&[[1 << 30]]), Err(Error::Token { .. })));
    }
}
