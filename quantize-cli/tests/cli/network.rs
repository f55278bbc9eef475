//! `run` and `embed`.

use std::io::{BufRead, BufReader, Write};
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

/// Files of Windows end their lines with two characters; models have seen one.
#[test]
fn a_prompt_of_windows_is_the_same_prompt() {
    let prompt = |input: &str| {
        let output = piped(&["run", MODEL, "--temperature", "0", "-n", "1", "--json"], input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["prompt"].as_str().unwrap().to_owned()
    };
    assert_eq!(prompt("Once upon\r\n"), "Once upon");
    assert_eq!(prompt("Once\r\nupon \r\n\r\n"), "Once\nupon \n");
    assert_eq!(prompt("Once\rupon\n"), "Once\rupon");
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
    // Special tokens that are typed are text, of several tokens, if nobody asks for something else.
    let typed = |more: &[&str]| {
        let output = quantize(&[&args[..], &["--prompt", "A cat<|endoftext|>"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let figures = stderr(&output);
        let count = figures.lines().find_map(|line| line.strip_prefix("prompt")?.split_whitespace().next());
        count.unwrap().parse::<usize>().unwrap()
    };
    assert!(typed(&[]) >= typed(&["--special-tokens"]) + 4);
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

/// What the command line gives a template.
#[test]
fn tools_and_variables_reach_the_template() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(format!("{MODEL}/{file}"), folder.path().join(file)).unwrap();
    }
    // It says what it got, as an error.
    let template = "{{ raise_exception(tools | tojson ~ think ~ (name | tojson) ~ (documents is none)) }}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let (path, tools) = (folder.path().to_str().unwrap(), folder.path().join("tools.json"));
    let tools = tools.to_str().unwrap();
    std::fs::write(tools, r#"[{"name": "é"}]"#).unwrap();
    let run = |more: &[&str]| refused(&[&["run", path, "--chat", "--prompt", "Hi"], more].concat());
    let complaint = run(&["--tools", tools, "--template-arg", "think=false", "--template-arg", "name=Bo=b"]);
    assert!(complaint.contains(r#"[{"name": "é"}]False"Bo=b"True"#), "{complaint}");
    let complaint = run(&["--template-arg", "think=[1, 2.0]", "--template-arg", "name=\"5\""]);
    assert!(complaint.contains(r#"null[1, 2.0]"5"True"#), "{complaint}");
    for (args, expected) in [
        (&["--template-arg", "think"][..], "expected a name, = and a value"),
        (&["--template-arg", "=1"], "expected a name, = and a value"),
        (&["--template-arg", "messages=1"], "sets that itself"),
        (&["--template-arg", "a=1", "--template-arg", "a=2"], "a is given twice"),
        (&["--tools", tools, "--template-arg", "tools=[]"], "tools is given twice"),
        (&["--tools", "/nowhere.json"], "/nowhere.json"),
    ] {
        let complaint = run(args);
        assert!(complaint.contains(expected), "{args:?}: {complaint}");
    }
    for (text, expected) in
        [("{", "is not JSON"), ("{}", "is not a list of objects"), ("[1]", "is not a list of objects")]
    {
        std::fs::write(tools, text).unwrap();
        let complaint = run(&["--tools", tools]);
        assert!(complaint.contains(expected) && complaint.contains("tools.json"), "{text}: {complaint}");
    }
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

/// A sentence encoder with a tokenizer.
const SENTENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../qruntime/tests/data/sentence");

/// Who writes a line waits for its vector before the next one.
#[test]
fn vectors_come_as_lines_come() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quantize"));
    let program = program.args(["embed", SENTENCE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for line in ["a cat", "the dog", ""] {
        writeln!(input, "{line}").unwrap();
        let mut vector = String::new();
        output.read_line(&mut vector).unwrap();
        assert_eq!(serde_json::from_str::<Vec<f32>>(&vector).unwrap().len(), 16, "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
#[cfg(unix)]
fn texts_come_from_a_pipe_by_name() {
    let text = "a cat\nthe dog\n".repeat(300);
    let expected = stdout(&piped(&["embed", SENTENCE], &text));
    assert_eq!(expected.lines().count(), 600);
    let output = piped(&["embed", SENTENCE, "--input", "/dev/stdin", "--batch", "7"], &text);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), expected);
    let wrong = piped(&["embed", SENTENCE], "a cat\n\u{e9}\n");
    assert_eq!(wrong.status.code(), Some(0), "{}", stderr(&wrong));
}

/// An encoder with prompts, whose texts have at most 5 tokens.
fn prompted() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let files = [
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    ];
    for file in files {
        std::fs::copy(format!("{SENTENCE}/{file}"), folder.path().join(file)).unwrap();
    }
    let prompts = r#"{"prompts": {"query": "the ", "passage": "a "}, "default_prompt_name": "query"}"#;
    std::fs::write(folder.path().join("config_sentence_transformers.json"), prompts).unwrap();
    std::fs::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 5}"#).unwrap();
    folder
}

#[test]
fn lines_get_a_prompt() {
    let folder = prompted();
    let model = folder.path().to_str().unwrap();
    let embed = |args: &[&str], text: &str| {
        let output = piped(&[&["embed", model], args].concat(), text);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let plain = |text: &str| embed(&["--prompt", ""], text);
    assert_eq!(embed(&[], "cat\n"), plain("the cat\n"));
    assert_eq!(embed(&["--prompt-name", "passage"], "cat\n"), plain("a cat\n"));
    assert_eq!(embed(&["--prompt", "on "], "cat\n"), plain("on cat\n"));
    assert_ne!(plain("a cat\n"), plain("the cat\n"));
    let complaint = refused(&["embed", model, "--prompt-name", "Query"]);
    assert!(
        complaint.contains("no prompt \"Query\", expected one of [\"document\", \"passage\", \"query\"]"),
        "{complaint}"
    );
    assert!(refused(&["embed", model, "--prompt-name", "query", "--prompt", "a"]).contains("cannot be used with"));
}

#[test]
fn lines_that_were_cut_are_counted() {
    let folder = prompted();
    let model = folder.path().to_str().unwrap();
    let output = piped(&["embed", model, "--prompt", ""], "a cat\na cat sat on\na cat sat on a mat\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "warning: 2 of 3 lines were cut to 5 tokens, the model's length\n");
    assert_eq!(stderr(&piped(&["embed", model, "--prompt", ""], "a cat\n")), "");
}

/// What is doubtful about a model's files is said once, and does not stop the program.
#[test]
fn a_head_beside_a_tied_embedding_is_worth_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(format!("{MODEL}/{file}"), folder.path().join(file)).unwrap();
    }
    let bytes = std::fs::read(format!("{MODEL}/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let embedding = file.tensor("model.embed_tokens.weight").unwrap();
    let mut rows = embedding.data().to_vec();
    rows.rotate_left(2 * embedding.shape()[1]);
    let head = safetensors::tensor::TensorView::new(embedding.dtype(), embedding.shape().to_vec(), &rows).unwrap();
    let tensors = file.tensors().into_iter().chain([("lm_head.weight".to_owned(), head)]);
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let args = ["--prompt", "Once", "-n", "3", "--temperature", "0"];
    let output = quantize(&[&["run", folder.path().to_str().unwrap()], &args[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warnings: Vec<String> =
        stderr(&output).lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("tie_word_embeddings"), "{warnings:?}");
    assert_ne!(stdout(&output), ok(&[&["run", MODEL], &args[..]].concat()));
}
