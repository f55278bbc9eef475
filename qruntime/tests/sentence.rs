//! A sentence encoder does what the files of its folder say, as sentence-transformers does
//! (`tests/data/sentence`, made by `ci/sentences.sh`), or refuses it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![cfg(feature = "text")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use qruntime::{Encoder, Error, Prompt};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::models::copy;
use tempfile::TempDir;

/// Bound on the relative RMS difference to vectors in float32 whose keys and values were not
/// rounded to half precision, as ours are. Any two cases whose answers should differ are farther
/// apart by a factor of 20 and more.
const RMS: f64 = 1.0 / (1 << 10) as f64;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentence")
}

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: Map<String, Value>,
    asked: Asked,
    vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Asked {
    prompt_name: Option<String>,
    prompt: Option<String>,
}

impl Asked {
    fn prompt(&self) -> Prompt<'_> {
        match (&self.prompt, &self.prompt_name) {
            (Some(text), _) => Prompt::Text(text),
            (None, Some(name)) => Prompt::Named(name),
            (None, None) => Prompt::Default,
        }
    }
}

/// Copies the folder with other files: null removes one.
fn changed(files: &Map<String, Value>) -> TempDir {
    let changed = tempfile::tempdir().unwrap();
    copy(&folder(), changed.path());
    for (name, value) in files {
        let path = changed.path().join(name);
        match value {
            Value::Null => fs::remove_file(path).unwrap(),
            value => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, value.to_string()).unwrap();
            }
        }
    }
    changed
}

fn open(files: &Value) -> Result<Encoder, Error> {
    let folder = changed(files.as_object().unwrap());
    let encoder = Encoder::open(folder.path())?;
    // Opened now, because it is read on first use and the folder will be gone then.
    encoder.tokenizer()?;
    Ok(encoder)
}

fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f64| x * x;
    let error: f64 = ours.iter().zip(theirs).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    (error / theirs.iter().map(|&b| square(b.into())).sum::<f64>()).sqrt()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let Cases { texts, cases } = serde_json::from_slice(&fs::read(folder().join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() > 30);
    for Case { name, files, asked, vectors } in &cases {
        let folder = changed(files);
        let encoder = Encoder::open(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let ours = encoder.embed_with(&texts, asked.prompt()).unwrap_or_else(|error| panic!("{name}: {error}")).vectors;
        assert_eq!(ours.dim(), (texts.len(), vectors[0].len()), "{name}");
        let worst = ours.outer_iter().zip(vectors).map(|(ours, theirs)| distance(ours.as_slice().unwrap(), theirs));
        let worst = worst.fold(0.0, f64::max);
        println!("{name}: {worst:.1e}");
        assert!(worst < RMS, "{name}: {worst}");
        // Texts of a batch do not affect each other.
        let alone = encoder.embed_with(&texts[1..2], asked.prompt()).unwrap().vectors;
        assert_eq!(alone.row(0), ours.row(1), "{name}");
    }
}

/// Tokenizer classes that build the normalizer from their own fields, and classes that use the one
/// in `tokenizer.json` (`tests/data/tokenizer_classes.json`, made by `ci/sentences.sh`).
#[test]
fn classes_of_tokenizers_are_those_of_transformers() {
    let file = fs::read(folder().with_file_name("tokenizer_classes.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let texts: Vec<&str> = file["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let mut files = case["changes"].as_object().unwrap().clone();
        for (name, fields) in &mut files {
            let mut whole: Value = serde_json::from_slice(&fs::read(folder().join(name)).unwrap()).unwrap();
            whole.as_object_mut().unwrap().append(fields.as_object_mut().unwrap());
            *fields = whole;
        }
        let encoder = open(&files.into()).unwrap_or_else(|error| panic!("{}: {error}", case["changes"]));
        let tokenizer = encoder.tokenizer().unwrap();
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, true).unwrap()).collect();
        assert_eq!(json!(tokens), case["tokens"], "{}", case["changes"]);
    }
}

#[test]
fn texts_that_do_not_fit_are_counted() {
    let encoder = open(&json!({"sentence_bert_config.json": {"max_seq_length": 5}})).unwrap();
    assert_eq!(encoder.config().max_tokens, 5);
    let cut = |prompt| encoder.embed_with(&["a cat", "a cat sat", "a cat sat on"], prompt).unwrap().cut;
    assert_eq!(cut(Prompt::Default), [false, false, true]);
    assert_eq!(cut(Prompt::Text("the ")), [false, true, true]);
}

#[test]
fn prompts_that_are_not_there_are_refused() {
    let prompts = json!({"prompts": {"passage": "search "}});
    let encoder = open(&json!({"config_sentence_transformers.json": prompts})).unwrap();
    let error = encoder.embed_with(&["a"], Prompt::Named("Query")).unwrap_err();
    let known = r#"the encoder has no prompt "Query", expected one of ["document", "passage", "query"]"#;
    assert_eq!(error.to_string(), known);
    // A prompt that is not pooled, without any text.
    let pooling = json!({"pooling_mode": "mean", "include_prompt": false});
    let template = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(folder().join("tokenizer.json")).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    let plain = open(&json!({"1_Pooling/config.json": pooling, "tokenizer.json": tokenizer})).unwrap();
    assert!(plain.embed_with(&["cat"], Prompt::Text("a ")).is_ok());
    let error = plain.embed_with(&["cat", ""], Prompt::Text("a ")).unwrap_err().to_string();
    assert_eq!(error, "prompt of 1 tokens, expected one that leaves room for a text");
    tokenizer["post_processor"] = template;
    let framed = open(&json!({"1_Pooling/config.json": pooling, "tokenizer.json": tokenizer})).unwrap();
    assert!(framed.embed_with(&["cat", ""], Prompt::Text("a ")).is_ok());
}

/// Features of sentence-transformers that are not supported are refused.
#[test]
fn what_is_not_known_is_refused() {
    let module = |i: usize, kind: &str| json!({"idx": i, "name": "", "path": if i == 0 { "" } else { "1_Pooling" }, "type": kind});
    let modules = |kinds: &[&str]| json!({"modules.json": kinds.iter().enumerate().map(|(i, kind)| module(i, kind)).collect::<Value>()});
    let sentence = |fields: Value| json!({"sentence_bert_config.json": fields});
    let pooling = |fields: Value| json!({"1_Pooling/config.json": fields});
    let (transformer, mean) = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling");
    for (files, expected) in [
        (modules(&[transformer, mean, "sentence_transformers.models.Dense"]), "sentence_transformers.models.Dense"),
        (modules(&[transformer, mean, "sentence_transformers.models.LayerNorm"]), "LayerNorm"),
        (modules(&[transformer, "sentence_transformers.models.WordWeights", mean]), "module 1"),
        (modules(&["custom_st.Transformer", mean]), "custom_st.Transformer"),
        (modules(&[transformer]), "one module"),
        (modules(&[]), "no modules"),
        (
            json!({"modules.json": [
                {"path": "0_Transformer", "type": transformer}, {"path": "1_Pooling", "type": mean}
            ]}),
            "\"path\": \"0_Transformer\"",
        ),
        (json!({"modules.json": [{"path": "", "type": transformer}, {"path": "7", "type": mean}]}), "no config.json"),
        (pooling(json!({"pooling_mode": "attention"})), "\"pooling_mode\": \"attention\""),
        (pooling(json!({"pooling_mode": []})), "\"pooling_mode\""),
        (pooling(json!({"pooling_mode_latent_tokens": true})), "pooling_mode_latent_tokens"),
        (sentence(json!({"transformer_task": "fill-mask"})), "transformer_task"),
        (sentence(json!({"module_output_name": "sentence_embedding"})), "module_output_name"),
        (sentence(json!({"modality_config": {"message": {}}, "module_output_name": "token_embeddings"})), "message"),
        (sentence(json!({"modality_config": {"text": {"method": "encode"}}})), "modality_config.text.method"),
        (sentence(json!({"processing_kwargs": {"text": {"max_length": 5}}})), "processing_kwargs.text"),
        (sentence(json!({"config_args": {"is_decoder": true}})), "config_args.is_decoder"),
        (sentence(json!({"tokenizer_args": {"do_lower_case": true}})), "tokenizer_args.do_lower_case"),
        (sentence(json!({"tokenizer_name_or_path": "bert-base-uncased"})), "tokenizer_name_or_path"),
        (json!({"config_sentence_transformers.json": {"default_prompt_name": "passage"}}), "default_prompt_name"),
        (json!({"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}), "SparseEncoder"),
        (json!({"config_sentence_transformers.json": {"prompts": {"query": 5}}}), "prompts.query"),
    ] {
        let error = open(&files).unwrap_err().to_string();
        assert!(error.contains(expected), "{files}: {error}");
    }
}
