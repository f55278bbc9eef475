//! The state of a session after a call that failed, was cancelled or finished, and the result of
//! such a call.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a test says that it did not run")]

mod support;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use qruntime::container::Storage;
use qruntime::{
    CausalLm, Dtype, Encoder, Error, FinishReason, Greedy, KvFormat, Model, NetworkPart, Pooling, Sampler, Session,
    SessionOptions,
};
use serde_json::Value;
use support::models::{families, storyteller};
use support::written;
use tempfile::TempDir;

const TOKENS: [u32; 5] = [3, 1, 4, 1, 5];

fn storyteller_lm() -> CausalLm {
    CausalLm::open(storyteller()).unwrap()
}

/// Copies a tiny model of a family, with a change to the elements of one tensor.
fn changed(family: &str, tensor: &str, change: impl Fn(&mut f32)) -> TempDir {
    let (_, source) = families().find(|(name, _)| name == family).unwrap();
    let model = Model::read(&source).unwrap();
    assert!(model.tensor(tensor).is_some(), "{tensor} is none of {:?}", model.tensors().collect::<Vec<_>>());
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let name = entry.name().to_owned();
            let mut numbers = model.plain(&name).unwrap().to_f32().unwrap();
            if name == tensor {
                numbers.iter_mut().for_each(&change);
            }
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, Storage::Plain(Dtype::F32), entry.shape().to_vec(), bytes)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Asserts that a session has these tokens, and continues with the bits of an undisturbed one.
fn is_as_before(session: &mut Session, tokens: &[u32]) {
    assert_eq!(session.tokens(), tokens);
    let mut other = session.lm().session_with(SessionOptions::default().block(2));
    if tokens.is_empty() {
        assert!(session.logits().is_empty());
    } else {
        assert_eq!(bits(session.logits()), bits(other.feed(tokens).unwrap()));
    }
    assert_eq!(bits(session.feed(&TOKENS).unwrap()), bits(other.feed(&TOKENS).unwrap()));
    session.rewind(tokens.len());
}

#[test]
fn a_result_that_is_not_finite_is_an_error_that_names_where_it_began() {
    for (tensor, part) in [
        ("model.embed_tokens.weight", NetworkPart::Embedding),
        ("model.layers.0.input_layernorm.weight", NetworkPart::Layer(0)),
        ("model.layers.0.mlp.down_proj.weight", NetworkPart::Layer(0)),
        ("model.layers.1.self_attn.k_proj.weight", NetworkPart::Layer(1)),
        ("model.layers.1.self_attn.o_proj.weight", NetworkPart::Layer(1)),
        ("model.layers.1.mlp.up_proj.weight", NetworkPart::Layer(1)),
        ("model.norm.weight", NetworkPart::Head),
    ] {
        for bad in [f32::NAN, f32::INFINITY] {
            let folder = changed("llama", tensor, |x| *x = bad);
            let lm = CausalLm::open(folder.path()).unwrap();
            assert_eq!(lm.config().layers, 2);
            for kv in [KvFormat::F16, KvFormat::Q8] {
                let new = || lm.session_with(SessionOptions::default().kv(kv).block(2));
                let refused = |result: Result<(), Error>| match result {
                    Err(Error::NotFinite { part: found }) => assert_eq!(found, part, "{tensor} is {bad}, {kv:?}"),
                    other => panic!("{tensor} is {bad}, {kv:?}: {other:?}"),
                };
                let mut session = new();
                refused(session.feed(&TOKENS).map(drop));
                refused(session.feed_each(&TOKENS, |_, _| {}));
                assert!(session.is_empty() && session.logits().is_empty());
                let mut other = new();
                refused(lm.feed_batch(&mut [(&mut session, &TOKENS), (&mut other, &TOKENS[..1])]).map(drop));
                assert!(session.is_empty() && other.is_empty());
            }
        }
    }
    let message = Error::NotFinite { part: NetworkPart::Layer(7) }.to_string();
    assert_eq!(
        message,
        "a result is NaN or infinite, which began in layer 7: its weights are damaged, or values overflow"
    );
}

/// All numbers are finite until a token whose embedding is not.
#[test]
fn a_generation_ends_with_the_error_and_keeps_what_came_before() {
    struct Bad(u32);
    impl Sampler for Bad {
        fn sample(&mut self, _: &[f32], tokens: &[u32]) -> u32 {
            if tokens.len() < TOKENS.len() + 2 { 6 } else { self.0 }
        }
    }
    // In this family, the output head is a separate matrix.
    let (_, source) = families().find(|(name, _)| name == "mistral").unwrap();
    let hidden = CausalLm::open(source).unwrap().config().hidden;
    let place = std::cell::Cell::new(0);
    // One element of the row of token 9.
    let folder = changed("mistral", "model.embed_tokens.weight", |x| {
        if place.replace(place.get() + 1) == 9 * hidden {
            *x = f32::NAN;
        }
    });
    let lm = CausalLm::open(folder.path()).unwrap();
    let mut session = lm.session();
    session.feed(&TOKENS).unwrap();
    let mut sampler = Bad(9);
    let mut generate = session.generate(&mut sampler);
    let found: Vec<Result<u32, Error>> = generate.by_ref().collect();
    assert_eq!(generate.finish_reason(), Some(FinishReason::Failed));
    let [Ok(6), Ok(6), Ok(9), Err(Error::NotFinite { part: NetworkPart::Embedding })] = found[..] else {
        panic!("{found:?}");
    };
    // The last token was yielded before it was computed.
    assert_eq!(session.tokens(), [3, 1, 4, 1, 5, 6, 6, 9]);
    session.rewind(7);
    session.feed(&[]).unwrap();
    is_as_before(&mut session, &[3, 1, 4, 1, 5, 6, 6]);
}

#[test]
fn keys_and_values_beyond_half_precision_are_an_error_unless_they_are_kept_in_8_bits() {
    for tensor in ["model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.k_proj.weight"] {
        let folder = changed("llama", tensor, |x| *x *= 1e6);
        let lm = CausalLm::open(folder.path()).unwrap();
        let mut session = lm.session();
        let error = session.feed(&TOKENS).unwrap_err();
        let Error::CacheRange { layer: 1, found, alternative: Some(KvFormat::Q8) } = error else { panic!("{error:?}") };
        assert!((65520.0..1e7).contains(&found), "{found}");
        assert!(error.to_string().contains("layer 1") && error.to_string().contains("--kv q8"), "{error}");
        assert!(session.is_empty());
        let logits = lm.session_with(SessionOptions::default().kv(KvFormat::Q8)).feed(&TOKENS).unwrap().to_vec();
        assert!(logits.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn vectors_that_are_not_finite_are_an_error_that_names_where_it_began() {
    for (tensor, factor, expected) in [
        ("embeddings.LayerNorm.weight", f32::NAN, "in the embedding:"),
        ("encoder.layer.1.output.dense.weight", f32::NAN, "in layer 1:"),
        ("encoder.layer.0.attention.self.query.weight", f32::NAN, "in layer 0:"),
        ("encoder.layer.1.attention.self.value.weight", 1e6, "a key or value of layer 1 is "),
    ] {
        let folder = changed("bert-mean", tensor, |x| *x *= factor);
        let error = Encoder::open(folder.path()).unwrap().embed_ids(&[TOKENS]).unwrap_err();
        assert!(error.to_string().contains(expected), "{tensor}: {error}");
        assert!(!error.to_string().contains("--kv"), "{error}");
    }
}

#[test]
fn a_feed_that_is_cancelled_leaves_the_session_as_it_was() {
    let lm = storyteller_lm();
    let layers = lm.config().layers;
    let prompt: Vec<u32> = (0..50).collect();
    for before in [&[][..], &[7, 8, 9]] {
        let mut session = lm.session_with(SessionOptions::default().block(16));
        if !before.is_empty() {
            session.feed(before).unwrap();
        }
        // Before the first layer, within a block, at the beginning of the last one, and before the
        // last layer of all.
        for calls in [0, 1, layers + 1, 3 * layers, 4 * layers - 1] {
            let mut told = Vec::new();
            let fed = session.feed_with(&prompt, |computed| {
                told.push(computed);
                if told.len() > calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(fed, Err(Error::Cancelled)));
            let expected: Vec<usize> = (0..=calls).map(|call| call / layers * 16).collect();
            assert_eq!(told, expected);
            is_as_before(&mut session, before);
            if !before.is_empty() {
                session.feed(&[]).unwrap();
            }
        }
        let logits = bits(session.feed_with(&prompt, |_| ControlFlow::Continue(())).unwrap());
        assert_eq!(logits, bits(lm.session().feed(&[before, &prompt[..]].concat()).unwrap()));
    }
}

#[test]
fn a_batch_that_is_cancelled_leaves_all_sessions_as_they_were() {
    let lm = storyteller_lm();
    let new = || lm.session_with(SessionOptions::default().block(16));
    let (mut short, mut long) = (new(), new());
    long.feed(&[7, 8, 9]).unwrap();
    let prompt: Vec<u32> = (0..50).collect();
    let mut most = 0;
    let fed = lm.feed_batch_with(&mut [(&mut short, &TOKENS), (&mut long, &prompt)], |computed| {
        most = computed;
        // The short sequence is finished by then.
        if computed > 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(fed, Err(Error::Cancelled)));
    assert_eq!(most, 32);
    is_as_before(&mut short, &[]);
    is_as_before(&mut long, &[7, 8, 9]);
}

#[test]
fn a_call_that_panics_leaves_the_session_as_it_was() {
    let lm = storyteller_lm();
    let mut session = lm.session();
    session.feed(&[7, 8, 9]).unwrap();
    let fed =
        catch_unwind(AssertUnwindSafe(|| session.feed_each(&TOKENS, |i, _| assert!(i < 2, "told of the third token"))));
    assert!(fed.is_err());
    is_as_before(&mut session, &[7, 8, 9]);
}

/// Chooses one token after the other.
struct Fixed(Vec<u32>);

impl Sampler for Fixed {
    fn sample(&mut self, _: &[f32], _: &[u32]) -> u32 {
        self.0.remove(0)
    }
}

#[test]
fn a_generation_says_why_it_ended() {
    let lm = storyteller_lm();
    let end = lm.config().eos[0];
    let mut session = lm.session_with(SessionOptions::default().context(8));
    session.feed(&TOKENS).unwrap();

    let mut sampler = Fixed(vec![10, end, 11]);
    let mut generate = session.generate(&mut sampler);
    assert_eq!(generate.finish_reason(), None);
    assert_eq!(generate.by_ref().collect::<Result<Vec<_>, _>>().unwrap(), [10]);
    assert_eq!(generate.finish_reason(), Some(FinishReason::EndOfText(end)));
    assert!(generate.next().is_none());

    let mut greedy = Greedy;
    let mut generate = session.generate(&mut greedy);
    assert_eq!(generate.by_ref().take(1).count(), 1);
    assert_eq!(generate.finish_reason(), None);
    assert_eq!(generate.by_ref().count(), 1);
    assert_eq!(generate.finish_reason(), Some(FinishReason::ContextFull));
    assert_eq!(session.len(), 8);

    let mut empty = lm.session();
    let mut generate = empty.generate(&mut greedy);
    assert!(matches!(generate.next(), Some(Err(Error::NoTokens))));
    assert!(generate.next().is_none());
    assert_eq!(generate.finish_reason(), Some(FinishReason::Failed));
}

/// Opens a folder of `../shared/cases`. If it is absent, says so and returns `None`.
fn case(name: &str) -> Option<CausalLm> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases").join(name);
    if !folder.exists() {
        println!("skipped: no {}", folder.display());
        return None;
    }
    Some(CausalLm::open(folder).unwrap())
}

#[test]
fn models_that_people_met_say_what_is_wrong() {
    if let Some(lm) = case("nan_in_norm") {
        let fed = lm.session().feed(&TOKENS).map(drop);
        assert!(matches!(fed, Err(Error::NotFinite { part: NetworkPart::Head })), "{fed:?}");
    }
    if let (Some(beyond), Some(plain)) = (case("values_beyond_f16"), case("plain")) {
        let fed = beyond.session().feed(&TOKENS).map(drop);
        assert!(matches!(fed, Err(Error::CacheRange { layer: 0, .. })), "{fed:?}");
        // The same network, except for factors that are powers of two.
        let q8 =
            |lm: CausalLm| lm.session_with(SessionOptions::default().kv(KvFormat::Q8)).feed(&TOKENS).unwrap().to_vec();
        assert_eq!(q8(beyond), q8(plain));
    }
}

#[test]
fn models_made_from_bytes_are_those_of_their_files() {
    let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    let family = |family: &str| families().find(|(name, _)| name == family).unwrap().1;

    let folder = family("llama");
    let (config, weights) = (read(&folder, "config.json"), read(&folder, "model.safetensors"));
    let (opened, made) = (CausalLm::open(&folder).unwrap(), CausalLm::from_bytes(&config, &weights).unwrap());
    assert_eq!(made.folder(), None);
    assert_eq!(made.config(), opened.config());
    let logits = |lm: CausalLm| bits(lm.session().feed(&TOKENS).unwrap());
    assert_eq!(logits(made.clone()), logits(opened));
    #[cfg(feature = "text")]
    assert_eq!(
        made.tokenizer().unwrap_err().to_string(),
        "no folder to read tokenizer.json from: the model was made from bytes, make that from bytes, too"
    );
    let refused = |config: &[u8], weights: &[u8]| CausalLm::from_bytes(config, weights).unwrap_err().to_string();
    assert!(refused(b"{", &weights).starts_with("\"config.json\": not the JSON that is expected here"));
    assert!(matches!(CausalLm::from_bytes(&config, &weights[..100]), Err(Error::File(_))));

    let folder = family("bert-cls");
    let (config, weights) = (read(&folder, "config.json"), read(&folder, "model.safetensors"));
    let opened = Encoder::open(&folder).unwrap();
    let made = Encoder::from_bytes(&config, &weights, Pooling::Cls, opened.config().normalize).unwrap();
    assert_eq!(made.embed_ids(&[TOKENS]).unwrap(), opened.embed_ids(&[TOKENS]).unwrap());
}
