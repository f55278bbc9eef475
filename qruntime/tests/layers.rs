//! Networks that run one layer at a time compute the same bits as whole runs, and a tap sees the
//! input of every matrix.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use kernels::{Activation, Format, Isa, KvFormat, activate_gated, rms_norm};
use ndarray::{Array2, ArrayView2, concatenate, s};
use qruntime::names::Part;
use qruntime::{CausalLm, Encoder, Error, Model, Network, SessionOptions, Tap, WeightName, names_of};
use support::models::{families, packed_model};

/// The inputs of each matrix.
#[derive(Default)]
struct Seen {
    rows: BTreeMap<(String, usize), Vec<Array2<f32>>>,
    calls: Vec<Vec<String>>,
}

impl Tap for Seen {
    fn input(&mut self, weights: &[WeightName<'_>], x: ArrayView2<'_, f32>) -> ControlFlow<()> {
        for name in weights {
            self.rows.entry((name.tensor.into(), name.matrix)).or_default().push(x.to_owned());
        }
        self.calls.push(weights.iter().map(|name| name.tensor.to_owned()).collect());
        ControlFlow::Continue(())
    }
}

impl Seen {
    fn of(&self, name: &str) -> Array2<f32> {
        let pieces: Vec<_> = self.rows[&(format!("{name}.weight"), 0)].iter().map(|rows| rows.view()).collect();
        concatenate(ndarray::Axis(0), &pieces).unwrap()
    }
}

fn bits<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    x.into_iter().map(|x| x.to_bits()).collect()
}

/// Returns enough tokens for every expert to get some.
fn sequences(vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |seed: usize, i: usize| ((i * 37 + i * i * seed + seed) % vocabulary) as u32;
    [31, 1, 12, 40, 39, 38, 37, 36].iter().map(|&len| (0..len).map(|i| token(len, i)).collect()).collect()
}

/// Returns the names of all matrices that multiply rows.
fn multiplied(model: &Model, family: &str) -> BTreeSet<String> {
    let names = names_of(family).unwrap();
    let is_multiplied = |part| match part {
        Part::PositionEmbedding | Part::TokenTypes | Part::Pooler => false,
        // The embedding is also the output head if there is no other.
        Part::TokenEmbedding => family != "bert" && model.tensor("lm_head.weight").is_none(),
        _ => true,
    };
    let matrices = model.tensors().filter(|entry| entry.shape().len() > 1);
    let matrices = matrices.filter(|entry| is_multiplied(names.parse(entry.name()).unwrap().part));
    matrices.map(|entry| entry.name().to_owned()).collect()
}

fn language_model(name: &str, lm: &CausalLm, options: &SessionOptions) {
    let sequences = sequences(lm.config().vocab_size);
    let mut seen = Seen::default();
    let mut states: Vec<_> = sequences.iter().map(|tokens| lm.embed_tokens(tokens).unwrap()).collect();
    for layer in 0..lm.config().layers {
        lm.forward_layer(layer, &mut states, options, Some(&mut seen)).unwrap();
    }
    for (tokens, states) in sequences.iter().zip(&states) {
        let logits = lm.forward_head(states.view(), Some(&mut seen)).unwrap();
        let mut whole = Vec::new();
        lm.session_with(options.clone()).feed_each(tokens, |_, logits| whole.extend(bits(logits))).unwrap();
        assert_eq!(bits(&logits), whole, "{name}, {options:?}");
    }
    let tensors: BTreeSet<String> = seen.rows.keys().map(|(tensor, _)| tensor.clone()).collect();
    let expected = multiplied(lm.model(), &lm.config().family);
    let missing: Vec<_> = expected.symmetric_difference(&tensors).collect();
    assert!(missing.is_empty(), "{name}: {missing:?}");
}

#[test]
fn layer_by_layer_is_the_whole_run_and_a_tap_sees_every_matrix() {
    for (name, path) in families() {
        let packed = packed_model(&path, Format::Q8_0);
        for path in [path.as_path(), packed.path()] {
            match Network::open(path).unwrap() {
                Network::CausalLm(lm) => {
                    let options = SessionOptions::default().context(40);
                    for options in [options.clone(), options.block(7).kv(KvFormat::Q8)] {
                        language_model(&name, &lm, &options);
                    }
                }
                Network::Encoder(encoder) => text_encoder(&name, &encoder),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

fn text_encoder(name: &str, encoder: &Encoder) {
    let sequences = sequences(encoder.config().vocab_size);
    let mut seen = Seen::default();
    let mut states: Vec<_> = sequences.iter().map(|tokens| encoder.embed_tokens(tokens).unwrap()).collect();
    for layer in 0..encoder.config().layers {
        encoder.forward_layer(layer, &mut states, Some(&mut seen)).unwrap();
    }
    let whole = encoder.embed_ids(&sequences).unwrap();
    for (states, whole) in states.iter().zip(whole.outer_iter()) {
        assert_eq!(bits(&encoder.pool(states.view()).unwrap()), bits(whole), "{name}");
    }
    let tensors: BTreeSet<String> = seen.rows.keys().map(|(tensor, _)| tensor.clone()).collect();
    assert_eq!(tensors, multiplied(encoder.model(), "bert"), "{name}");
}

/// A layer of Llama, recomputed from what a tap has seen of it.
#[test]
fn a_tap_sees_exactly_what_is_multiplied() {
    let path = families().find(|(name, _)| name == "llama").unwrap().1;
    let packed = packed_model(&path, Format::Q8_0);
    for path in [path.as_path(), packed.path()] {
        let lm = CausalLm::open(path).unwrap();
        let isa = Isa::best();
        let linear = |name: &str| lm.model().linear(name).unwrap();
        let before = lm.embed_tokens(&sequences(lm.config().vocab_size)[0]).unwrap();
        for block in [512, 7] {
            let mut seen = Seen::default();
            let mut states = [before.clone()];
            let options = SessionOptions::default().block(block);
            lm.forward_layer(0, &mut states, &options, Some(&mut seen)).unwrap();
            let name = |part: &str| format!("model.layers.0.{part}");

            let weight = lm.model().plain(&name("input_layernorm.weight")).unwrap().to_f32().unwrap();
            let eps = config(path)["rms_norm_eps"].as_f64().unwrap() as f32;
            let mut normed = Array2::zeros(before.dim());
            for (x, mut y) in before.outer_iter().zip(normed.outer_iter_mut()) {
                rms_norm(isa, x.as_slice().unwrap(), &weight, eps, y.as_slice_mut().unwrap());
            }
            for part in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] {
                assert_eq!(bits(&seen.of(&name(part))), bits(&normed), "{part}");
            }

            let gates = seen.of(&name("mlp.gate_proj"));
            assert_eq!(bits(&gates), bits(&seen.of(&name("mlp.up_proj"))));
            let mut inner = linear(&name("mlp.gate_proj")).forward(gates.view()).unwrap();
            let up = linear(&name("mlp.up_proj")).forward(gates.view()).unwrap();
            for (mut gate, up) in inner.outer_iter_mut().zip(up.outer_iter()) {
                activate_gated(isa, Activation::Silu, gate.as_slice_mut().unwrap(), up.as_slice().unwrap());
            }
            let down = seen.of(&name("mlp.down_proj"));
            assert_eq!(bits(&inner), bits(&down));

            let attended =
                linear(&name("self_attn.o_proj")).forward(seen.of(&name("self_attn.o_proj")).view()).unwrap();
            let after = &before + &attended + linear(&name("mlp.down_proj")).forward(down.view()).unwrap();
            assert_eq!(bits(&after), bits(&states[0]));
            // Four products for each piece: queries with keys and values, output, gate with up,
            // down.
            assert_eq!(seen.calls.len(), 4 * before.nrows().div_ceil(block));
            assert_eq!(seen.calls[0].len(), 3);
        }
    }
}

/// Every row that a router sees goes to exactly as many experts as the model says.
#[test]
fn experts_see_the_rows_that_are_routed_to_them() {
    for name in ["mixtral", "mixtral-fused", "qwen2-moe", "granitemoe"] {
        let path = families().find(|(family, _)| family == name).unwrap().1;
        let lm = CausalLm::open(&path).unwrap();
        let config = config(&path);
        let chosen = config["num_experts_per_tok"].as_u64().unwrap() as usize;
        let mut seen = Seen::default();
        let mut states = [lm.embed_tokens(&sequences(lm.config().vocab_size)[0]).unwrap()];
        for layer in 0..lm.config().layers {
            lm.forward_layer(layer, &mut states, &SessionOptions::default(), Some(&mut seen)).unwrap();
        }
        let names = names_of(&lm.config().family).unwrap();
        let part = |tensor: &str| names.parse(tensor).unwrap();
        for ((tensor, _), router) in seen.rows.iter().filter(|((tensor, _), _)| part(tensor).part == Part::Router) {
            let layer = part(tensor).layer;
            let mut routed: Vec<Vec<u32>> = vec![];
            for ((tensor, _), rows) in &seen.rows {
                let other = part(tensor);
                if other.layer == layer && matches!(other.part, Part::ExpertGate | Part::ExpertGateUp) {
                    routed.extend(rows.iter().flat_map(|rows| rows.outer_iter().map(bits).collect::<Vec<_>>()));
                }
            }
            let rows = router.iter().flat_map(|rows| rows.outer_iter().map(bits).collect::<Vec<_>>());
            let mut expected: Vec<Vec<u32>> = rows.flat_map(|row| vec![row; chosen]).collect();
            expected.sort();
            routed.sort();
            assert!(routed == expected, "{name}, layer {layer:?}: {} rows of {}", routed.len(), expected.len());
        }
    }
}

/// Sequences share passes through a layer, up to the tokens of a block.
#[test]
fn short_sequences_go_through_a_layer_together() {
    let path = families().find(|(name, _)| name == "llama").unwrap().1;
    let lm = CausalLm::open(path).unwrap();
    let sequences = sequences(lm.config().vocab_size);
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    assert_eq!(lengths, [31, 1, 12, 40, 39, 38, 37, 36]);
    // With blocks of 50: 31 + 1 + 12, then each alone. With blocks of 30: 1 + 12, and the others in
    // two pieces each.
    for (block, passes) in [(512, 1), (50, 1 + 5), (30, 2 + 1 + 5 * 2)] {
        let mut states: Vec<_> = sequences.iter().map(|tokens| lm.embed_tokens(tokens).unwrap()).collect();
        let mut seen = Seen::default();
        lm.forward_layer(0, &mut states, &SessionOptions::default().block(block), Some(&mut seen)).unwrap();
        assert_eq!(seen.calls.len(), 4 * passes, "{block}");
    }
}

/// A tap that counts the calls it lets pass.
struct Stop(usize);

impl Tap for Stop {
    fn input(&mut self, _: &[WeightName<'_>], _: ArrayView2<'_, f32>) -> ControlFlow<()> {
        match self.0.checked_sub(1) {
            Some(left) => self.0 = left,
            None => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn a_tap_stops_a_computation() {
    for (name, path) in families().filter(|(name, _)| ["llama", "mixtral"].contains(&name.as_str())) {
        let lm = CausalLm::open(path).unwrap();
        let mut states = [lm.embed_tokens(&[1, 2, 3]).unwrap()];
        for calls in 0..4 {
            let result = lm.forward_layer(0, &mut states, &SessionOptions::default(), Some(&mut Stop(calls)));
            assert!(matches!(result, Err(Error::Cancelled)), "{name}, {calls}: {result:?}");
        }
        assert!(matches!(lm.forward_head(states[0].view(), Some(&mut Stop(0))), Err(Error::Cancelled)));
    }
    let path = families().find(|(name, _)| name == "bert-mean").unwrap().1;
    let encoder = Encoder::open(path).unwrap();
    let mut states = [encoder.embed_tokens(&[1, 2, 3]).unwrap()];
    assert!(matches!(encoder.forward_layer(0, &mut states, Some(&mut Stop(1))), Err(Error::Cancelled)));
    let layers = encoder.config().layers;
    let error = encoder.forward_layer(layers, &mut states, None).unwrap_err();
    assert!(matches!(error, Error::NoSuchLayer { layer, layers: found } if (layer, found) == (layers, layers)));
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let path = families().find(|(name, _)| name == "llama").unwrap().1;
    let lm = CausalLm::open(path).unwrap();
    let options = SessionOptions::default();
    let hidden = lm.config().hidden;
    let mut narrow = [Array2::zeros((3, hidden - 1))];
    assert!(matches!(lm.forward_layer(0, &mut narrow, &options, None), Err(Error::Shape(_))));
    assert!(matches!(lm.forward_head(narrow[0].view(), None), Err(Error::Shape(_))));
    let mut long = [Array2::zeros((lm.config().context + 1, hidden))];
    assert!(matches!(lm.forward_layer(0, &mut long, &options, None), Err(Error::Context { .. })));
    let layers = lm.config().layers;
    let error = lm.forward_layer(layers, &mut [], &options, None).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string()),
        ("no_such_layer", format!("layer {layers}, expected one below {layers}"))
    );
    let vocabulary = lm.config().vocab_size as u32;
    assert!(matches!(lm.embed_tokens(&[0, vocabulary]), Err(Error::Token { token, .. }) if token == vocabulary));
    // Rows in another memory order, and no rows.
    let mut states = [lm.embed_tokens(&[1, 2, 3]).unwrap(), Array2::zeros((0, hidden))];
    let mut turned = [states[0].t().as_standard_layout().into_owned().reversed_axes()];
    lm.forward_layer(0, &mut states, &options, None).unwrap();
    lm.forward_layer(0, &mut turned, &options, None).unwrap();
    assert_eq!(bits(states[0].slice(s![.., ..])), bits(&turned[0]));
    assert_eq!(lm.forward_head(states[1].view(), None).unwrap().dim(), (0, vocabulary as usize));
}

fn config(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap()
}
