//! `run` and `embed`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{ok, quantize, refused, stderr, stdout};

pub(super) const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");
/// A tiny random encoder.
pub(super) const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../qruntime/tests/data/families/bert-mean");

/// Runs the program with this on its stdin.
pub(super) fn piped(args: &[&str], input: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quantize"));
    let program = program.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    // Who refuses early does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_story_goes_on_the_same_with_the_same_seed() {
    let run = |more: &[&str]| {
        let output = quantize(&[&["run", MODEL, "--prompt", "Once upon a time", "-n", "30"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let (story, figures) = run(&["--seed", "7"]);
    assert!(story.starts_with("Once upon a time") && story.split_whitespace().count() > 15, "{story}");
    assert!(figures.contains("5 tokens") && figures.contains("30 tokens") && figures.contains("seed 7"), "{figures}");
    assert_eq!(run(&["--seed", "7", "--threads", "1"]).0, story);
    assert_eq!(run(&["--seed", "7", "--huge-pages", "--threads", "3"]).0, story);
    assert_ne!(run(&["--seed", "8"]).0, story);
    let greedy = run(&["--temperature", "0"]);
    assert_eq!(run(&["--top-k", "1", "--seed", "3"]).0, greedy.0);
    assert!(!greedy.1.contains("seed"), "{}", greedy.1);
}

#[test]
fn a_prompt_comes_from_a_pipe_and_json_says_everything() {
    let output = piped(&["run", MODEL, "--temperature", "0", "-n", "12", "--kv", "q8", "--json"], "The little cat\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["prompt"]), (&1.into(), &"The little cat".into()));
    assert_eq!((&report["generated_tokens"], &report["stopped"]), (&12.into(), &"tokens".into()));
    let text = report["text"].as_str().unwrap();
    let written = ok(&["run", MODEL, "--temperature", "0", "-n", "12", "--kv", "q8", "--prompt", "The little cat"]);
    assert_eq!(written, format!("The little cat{text}\n"));
}

#[test]
fn a_text_ends_with_its_context() {
    let output = quantize(&["run", MODEL, "--prompt", "Once", "--ctx", "9", "--temperature", "0"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("the end of the context"), "{}", stderr(&output));
}

#[test]
fn an_empty_prompt_begins_a_text() {
    let output = quantize(&["run", MODEL, "--prompt", "", "-n", "5", "--temperature", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).trim().len() > 5 && stderr(&output).contains("1 tokens"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_run_is_refused_with_a_reason() {
    let long = "word ".repeat(600);
    for (args, expected) in [
        (&["--prompt", &long][..], "512"),
        (&["--prompt", "a", "--ctx", "513"], "at most 512"),
        (&["--prompt", &long, "--ctx", "9"], "--ctx raises that up to 512"),
        (&["--prompt", "a", "--temperature=-1"], "temperature -1"),
        (&["--prompt", "a", "--top-p", "0"], "top_p 0"),
        (&["--chat", "--prompt", "a"], "no chat template"),
        (&["--prompt", "a", "--kv", "f64"], "f16"),
    ] {
        let complaint = refused(&[&["run", MODEL], args].concat());
        assert!(complaint.contains(expected), "{args:?}: {complaint}");
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{MODEL}/{file}"), folder.path().join(file)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    assert!(refused(&["run", path, "--prompt", "a"]).contains("tokenizer.json"));
    assert!(refused(&["embed", MODEL]).contains("see quantize run"));
    assert!(refused(&["run", ENCODER, "--prompt", "a"]).contains("see quantize embed"));
    assert!(refused(&["run", "/nowhere", "--prompt", "a"]).contains("/nowhere"));
}

/// A chat model: the story teller with a template of its own.
#[test]
fn a_conversation_has_the_form_of_its_template() {
    let folder = tempfile::tempdir().unwrap();
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(format!("{MODEL}/{file}"), folder.path().join(file)).unwrap();
    }
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% else %}{{ m.content }} said {% endif %}{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let path = folder.path().to_str().unwrap();
    let args = ["run", path, "--chat", "--system", "Once upon a time", "--temperature", "0", "-n", "8"];
    let output = piped(&args, "A cat\n\nA dog\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answers = stdout(&output);
    // The first answer is the same as when there is no second.
    let once = ok(&[&args[..], &["--prompt", "A cat"]].concat());
    assert!(answers.starts_with(&once) && answers.len() > once.len() + 1, "{once}, then {answers}");
    // A template that has nothing to say.
    std::fs::write(folder.path().join("chat_template.jinja"), "{# #}").unwrap();
    assert!(refused(&[&args[..], &["--prompt", "A cat"]].concat()).contains("empty"));
}

/// A tiny encoder of three words, all of it made up.
pub(super) fn tiny_encoder(folder: &Path) -> PathBuf {
    let model = folder.join("encoder");
    std::fs::create_dir_all(model.join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        std::fs::copy(format!("{ENCODER}/{file}"), model.join(file)).unwrap();
    }
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":1,"cat":2,"dog":3,"mat":4},"unk_token":"[UNK]"}}"#;
    std::fs::write(model.join("tokenizer.json"), tokenizer).unwrap();
    model
}

#[test]
fn lines_become_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_encoder(folder.path());
    let model = model.to_str().unwrap();
    let text = "cat mat\ndog\ncat cat cat dog\n";
    let printed = piped(&["embed", model, "--batch", "2"], text);
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    let vectors: Vec<Vec<f32>> = stdout(&printed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(vectors.len(), 3);
    assert!(vectors.iter().all(|vector| vector.len() == vectors[0].len() && vector != &vec![0.0; vector.len()]));

    let (input, npy) = (folder.path().join("in.txt"), folder.path().join("out.npy"));
    std::fs::write(&input, text).unwrap();
    let args = ["embed", model, "--input", input.to_str().unwrap(), "--output", npy.to_str().unwrap()];
    assert!(ok(&args).contains("3 vectors"));
    let bytes = std::fs::read(&npy).unwrap();
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00\x76\x00") && header.ends_with('\n'), "{header}");
    assert!(header.contains(&format!("'shape': (3, {})", vectors[0].len())), "{header}");
    let numbers: Vec<f32> = bytes[128..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(numbers, vectors.concat());
    assert!(refused(&args).contains("exists already"));
    assert!(refused(&["embed", model, "--output", "vectors.json"]).contains(".npy"));
}
