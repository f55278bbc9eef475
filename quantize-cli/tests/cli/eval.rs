//! Answers beside the original's: `eval`, the gates of `convert`, `report`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::network::{ENCODER, piped};
use super::{json, listing, ok, quantize, refused, stderr, stdout, text};

pub(super) const STORYTELLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");
pub(super) const HELDOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m/heldout.txt");
const LLAMA_CPP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/llama_cpp.logits");

/// Real models and texts that are not part of the repository; says so where they are missing.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if !path.exists() {
        eprintln!("NOT RUN: {} is not here", path.display());
        return None;
    }
    Some(path)
}

/// The shipped model in a format.
fn converted(folder: &Path, format: &str) -> PathBuf {
    let out = folder.join(format);
    ok(&["convert", STORYTELLER, text(&out), "--to", format, "-q"]);
    out
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

/// A tokenizer that has more tokens than the network.
#[test]
fn a_token_that_the_network_does_not_know_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(format!("{STORYTELLER}/{file}"), folder.path().join(file)).unwrap();
    }
    let tokenizer = fs::read_to_string(format!("{STORYTELLER}/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (4096.into(), "zzz".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let story = folder.path().join("story.txt");
    fs::write(&story, "Once upon a time zzz<|endoftext|>").unwrap();
    let model = text(folder.path());
    // The last token of a document is predicted, and never fed.
    let message = refused(&["eval", model, "--reference", model, "--text", text(&story), "--documents"]);
    assert!(message.contains("the token 4096"), "{message}");
}

/// Half of what is there: the fields that do not depend on time.
fn figures(value: &Value) -> Vec<Value> {
    ["kld", "ratio", "model", "same_top", "rms_change", "predictions"].map(|name| value[name].clone()).into()
}

#[test]
fn a_model_is_measured_beside_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let model = converted(folder.path(), "q8_0");
    let eval = ["eval", text(&model), "--reference", STORYTELLER, "--text", HELDOUT, "--documents", "--windows", "3"];
    let found = json(&[&eval[..], &["--json"]].concat());
    assert_eq!(found["kind"], "language_model");
    assert_eq!((&found["model_path"], &found["reference_path"]), (&text(&model).into(), &STORYTELLER.into()));
    assert_eq!((&found["windows"], &found["within"]), (&3.into(), &true.into()));
    let (kld, floor) = (number(&found, "/kld/mean"), number(&found, "/noise_floor/kld/mean"));
    // Of the whole text 5.0e-4 and 3.7e-5.
    assert!((3e-4..8e-4).contains(&kld) && (2e-5..8e-5).contains(&floor), "{kld} {floor}");
    assert!((number(&found, "/ratio") - 1.0).abs() < 0.01);
    assert!((8.5..8.6).contains(&number(&found, "/layer_bits_per_weight")));
    assert!(number(&found, "/tokens_per_second") > 0.0 && number(&found, "/reference_tokens_per_second") > 0.0);

    // Threads change no bit.
    let again = json(&[&eval[..], &["--json", "--threads", "1", "--no-noise-floor"]].concat());
    assert_eq!(figures(&found), figures(&again));
    assert_eq!(again["noise_floor"], Value::Null);

    // A reference that was given as a file is no folder whose weights could be rounded.
    let file = format!("{STORYTELLER}/model.safetensors");
    let args =
        ["eval", text(&model), "--reference", &file, "--text", HELDOUT, "--documents", "--windows", "3", "--json"];
    let from_file = json(&args);
    assert_eq!(figures(&found), figures(&from_file));
    assert!(from_file["no_noise_floor"].as_str().unwrap().contains("given as a file"));

    // Limits.
    let answer = quantize(&[&eval[..], &["--no-noise-floor", "--max-kld", "1e-6", "--max-ppl-ratio", "0.5"]].concat());
    assert_eq!(answer.status.code(), Some(1));
    let printed = stdout(&answer);
    assert!(printed.contains("over the limit: mean KL divergence 0.000"), "{printed}");
    assert!(
        printed.contains("over the limit: perplexity ratio") && printed.contains("KL divergence, mean"),
        "{printed}"
    );
    ok(&[&eval[..], &["--no-noise-floor", "--max-kld", "0.01", "--max-ppl-ratio", "1.1"]].concat());
}

#[test]
fn without_a_reference_there_is_perplexity() {
    let protocol = ["--text", HELDOUT, "--documents", "--windows", "5", "--json"];
    let alone = json(&[&["eval", STORYTELLER], &protocol[..]].concat());
    assert_eq!((&alone["kind"], &alone["reference_path"]), (&"perplexity".into(), &"".into()));
    let args = ["eval", STORYTELLER, "--reference", STORYTELLER, "--no-noise-floor"];
    let beside = json(&[&args[..], &protocol].concat());
    assert_eq!(alone["model"], beside["model"]);
    for count in ["windows", "predictions", "context", "score", "documents", "text_tokens", "text_tokens_used"] {
        assert!(!alone[count].is_null() && alone[count] == beside[count], "{count}: {alone}");
    }
    assert_eq!((&alone["documents"], &alone["not_a_number"]), (&"<|endoftext|>".into(), &0.into()));
    let perplexity = number(&alone, "/model/perplexity");
    assert!((5.0..30.0).contains(&perplexity) && (number(&alone, "/model/nll").exp() - perplexity).abs() < 1e-9);

    // A text that is one run: what does not fill a window is told.
    let printed = ok(&["eval", STORYTELLER, "--text", HELDOUT, "--ctx", "256", "--windows", "4"]);
    assert!(printed.contains("windows of 256 tokens that do not overlap, the second half scored\n"), "{printed}");
    let used = printed.lines().find(|line| line.contains("4 windows, 508 predictions; 1020 of ")).unwrap();
    assert!(used.ends_with(" tokens of the text used") && printed.contains("\nperplexity  "), "{printed}");
    assert!(printed.contains("warning: the figures rest on 508 predictions"), "{printed}");
    let documents = ok(&["eval", STORYTELLER, "--text", HELDOUT, "--documents", "--ctx", "64", "--windows", "5"]);
    assert!(documents.contains("; 5 documents cut to 64 tokens\n"), "{documents}");

    let limit = |limit: &str| quantize(&[&["eval", STORYTELLER, "--max-ppl", limit], &protocol[..5]].concat());
    assert_eq!(limit("1000").status.code(), Some(0));
    let over = limit("2");
    assert_eq!(over.status.code(), Some(1));
    assert!(stdout(&over).contains("over the limit: perplexity "), "{}", stdout(&over));
}

#[test]
fn a_text_comes_from_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let heldout = fs::read_to_string(HELDOUT).unwrap();
    let protocol = ["--documents", "--windows", "2", "--json"];
    let from_file = json(&[&["eval", STORYTELLER, "--text", HELDOUT], &protocol[..]].concat());
    for name in ["-", "/dev/stdin"] {
        let output = piped(&[&["eval", STORYTELLER, "--text", name], &protocol[..]].concat(), &heldout);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(found["model"], from_file["model"]);
    }
    let out = folder.path().join("out");
    let output = piped(&[&["convert", STORYTELLER, text(&out), "--eval-text", "-"], &protocol[..]].concat(), &heldout);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(ok(&["inspect", text(&out)]).contains("on stdin: documents"));
}

/// The shipped model with a number that is none in a tensor.
fn with_nan(folder: &Path, tensor: &str) -> PathBuf {
    let model = folder.join("nan");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(format!("{STORYTELLER}/{file}"), model.join(file)).unwrap();
    }
    let mut bytes = fs::read(format!("{STORYTELLER}/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(tensors[tensor]["dtype"], "F16");
    let start = 8 + header + tensors[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    fs::write(model.join("model.safetensors"), bytes).unwrap();
    model
}

#[test]
fn what_is_not_a_number_agrees_with_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nan = with_nan(folder.path(), "model.norm.weight");
    let args = ["--text", HELDOUT, "--documents", "--windows", "2", "--no-noise-floor"];
    let beside = |model: &str, reference: &str| {
        quantize(&[&["eval", model, "--reference", reference], &args[..], &["--json"]].concat())
    };
    for (model, reference) in [(text(&nan), text(&nan)), (text(&nan), STORYTELLER), (STORYTELLER, text(&nan))] {
        let output = beside(model, reference);
        if output.status.code() == Some(2) {
            // The runtime refuses to go on.
            assert!(stderr(&output).contains("finite"), "{}", stderr(&output));
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!((number(&found, "/same_top"), found["within"].as_bool()), (0.0, Some(false)));
        assert_eq!(found["not_a_number"], found["predictions"]);
        assert!(found["kld"]["mean"].is_null() && found["kld"]["max"].is_null() && found["ratio"].is_null());
        assert!(found["exceeded"][0].as_str().unwrap().contains("predictions are not numbers"), "{found}");
    }
    let printed = quantize(&[&["eval", text(&nan), "--reference", STORYTELLER], &args[..]].concat());
    let alone = quantize(&[&["eval", text(&nan)], &args[..5]].concat());
    assert!(!printed.status.success() && !alone.status.success());
    let printed = stdout(&printed);
    assert!(!printed.contains("NaN ±") && !printed.contains("100.000 ±"), "{printed}");
    // No gate lets it through, with a limit or without.
    let out = folder.path().join("out");
    let gate = ["convert", text(&nan), text(&out), "--eval-text", HELDOUT, "--documents", "--windows", "2"];
    assert!(!quantize(&gate).status.success() && !out.exists());
}

#[test]
fn logits_are_saved_and_stand_for_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let model = converted(folder.path(), "q4_k");
    let protocol = ["--text", HELDOUT, "--ctx", "128", "--windows", "4", "--no-noise-floor", "--json"];
    for (name, floor) in [("logits", 1e-5), ("logits.safetensors", 1e-8)] {
        let saved = folder.path().join(name);
        let save = ["--reference", STORYTELLER, "--save-logits", text(&saved)];
        let live = json(&[&["eval", text(&model)], &save[..], &protocol].concat());
        assert_eq!((&live["windows"], &live["predictions"]), (&4.into(), &(4 * 63).into()));
        let from_file = json(&["eval", text(&model), "--reference-logits", text(&saved), "--json"]);
        let (a, b) = (number(&live, "/kld/mean"), number(&from_file, "/kld/mean"));
        assert!((a - b).abs() < 1e-4 * a + floor, "{name}: {a} {b}");
        assert_eq!(live["model"], from_file["model"]);
        // The original beside what it said itself: what storing it costs.
        let same = json(&["eval", STORYTELLER, "--reference-logits", text(&saved), "--json"]);
        assert!(number(&same, "/kld/mean").abs() < floor, "{name}: {same}");

        let message = refused(&[&["eval", text(&model)], &save[..], &protocol].concat());
        assert!(message.contains("exists already"), "{message}");
    }
    assert_eq!(listing(folder.path()), ["logits", "logits.safetensors", "q4_k"]);
    // Rows of documents do not fit into llama.cpp's file.
    let save = folder.path().join("other");
    let args = ["eval", STORYTELLER, "--reference", STORYTELLER, "--save-logits", text(&save)];
    let message = refused(&[&args[..], &["--text", HELDOUT, "--documents", "--windows", "2"]].concat());
    assert!(message.contains("llama.cpp's files hold windows of one length"), "{message}");
    assert_eq!(listing(folder.path()), ["logits", "logits.safetensors", "q4_k"]);
    // Another vocabulary.
    let message = refused(&["eval", text(&model), "--reference-logits", LLAMA_CPP]);
    assert!(message.contains("a vocabulary of 4096 tokens, but the reference has one of 512"), "{message}");
}

#[test]
fn a_file_that_llama_cpp_wrote_is_read() {
    let Some(model) = shared("stories260K/hf-float16") else { return };
    let found = json(&["eval", text(&model), "--reference-logits", LLAMA_CPP, "--json"]);
    assert_eq!((&found["windows"], &found["predictions"]), (&3.into(), &21.into()));
    // llama-perplexity said 5.4173 of these windows; it computes with activations and a cache in
    // half precision.
    for pointer in ["/model/perplexity", "/reference/perplexity"] {
        assert!((number(&found, pointer) - 5.4173).abs() < 0.005, "{pointer} {found}");
    }
    assert!(number(&found, "/kld/max") < 1e-4 && number(&found, "/same_top") == 1.0, "{found}");
}

#[test]
fn a_conversion_that_is_good_enough_carries_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let gate = ["--eval-text", HELDOUT, "--documents", "--windows", "2"];
    let args = [&["convert", STORYTELLER, text(&out), "--to", "q6_k"], &gate[..]].concat();
    let done = json(&[&args[..], &["--max-kld", "0.05", "--max-ppl-ratio", "1.5", "--json"]].concat());
    assert_eq!(done["evaluation"]["exceeded"], serde_json::json!([]));
    ok(&["verify", text(&out)]);
    let inspected = json(&["inspect", text(&out), "--json"]);
    let recorded = &inspected["recipe"]["evaluation"];
    assert_eq!(recorded["kld"], done["evaluation"]["kld"]);
    assert_eq!((&recorded["text"], &recorded["windows"]), (&"heldout.txt".into(), &2.into()));
    let printed = ok(&["inspect", text(&out)]);
    assert!(printed.contains("evaluation: KL divergence 0.00"), "{printed}");
    // On what, and how much: whoever meets the model later sees what the figures rest on.
    let tokens = number(recorded, "/text_tokens_used");
    let counts = format!("2 windows, {} predictions, {tokens} of {tokens} tokens", number(recorded, "/predictions"));
    assert!(printed.contains("on heldout.txt: documents separated by \"<|endoftext|>\""), "{printed}");
    assert!(printed.contains("cut to 512 tokens, every token after the first scored; ") && printed.contains(&counts));
    assert_eq!((&recorded["context"], &recorded["score"]), (&512.into(), &"all".into()));
    // Two stories are few.
    assert!(done["evaluation"]["warning"].as_str().unwrap().contains("predictions; 1000 or more"), "{done}");

    // The same again gives the same bytes.
    let other = folder.path().join("other");
    ok(&[&["convert", STORYTELLER, text(&other), "--to", "q6_k", "--threads", "1", "-q"], &gate[..]].concat());
    let bytes = |out: &Path| fs::read(out.join("model.safetensors")).unwrap();
    assert!(bytes(&out) == bytes(&other));

    // Too bad: the old model stays, nothing else does.
    let args = [&["convert", STORYTELLER, text(&out), "--to", "q4_0", "--force"], &gate[..]].concat();
    let answer = quantize(&[&args[..], &["--max-kld", "0.001"]].concat());
    assert_eq!(answer.status.code(), Some(1), "{}", stderr(&answer));
    let printed = stdout(&answer);
    assert!(printed.contains("over the limit: mean KL divergence") && printed.contains("times as much"), "{printed}");
    assert!(
        printed.contains("divergence recovered by") && printed.matches("down_proj.weight").count() > 3,
        "{printed}"
    );
    assert!(printed.ends_with(&format!("not written: {}\n", out.display())), "{printed}");
    assert!(bytes(&out) == bytes(&other));
    let brief = stdout(&quantize(&[&args[..], &["--max-kld", "0.001", "-q"]].concat()));
    assert!(brief.starts_with("over the limit: ") && brief.lines().count() == 3, "{brief}");
    assert_eq!(listing(folder.path()), ["other", "out"]);
}

#[test]
fn encoders_are_measured_by_cosines_and_ranks() {
    let (Some(model), Some(sts)) = (shared("all-MiniLM-L6-v2"), shared("text/stsbenchmark/sts-dev.csv")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pairs: String = fs::read_to_string(sts).unwrap().lines().take(12).map(|line| format!("{line}\n")).collect();
    let sentences: String = pairs.lines().map(|line| format!("{}\n", line.split('\t').nth(5).unwrap())).collect();
    let (pairs_path, sentences_path) = (folder.path().join("pairs"), folder.path().join("sentences"));
    fs::write(&pairs_path, pairs).unwrap();
    fs::write(&sentences_path, sentences).unwrap();
    let out = folder.path().join("out");
    let gate = ["--eval-text", text(&sentences_path), "--windows", "4"];
    let convert = ["convert", text(&model), text(&out), "--to", "q8_0"];
    let answer = quantize(&[&convert[..], &gate, &["--min-cosine", "0.99999"]].concat());
    assert_eq!(answer.status.code(), Some(1), "{}", stderr(&answer));
    assert!(stdout(&answer).contains("over the limit: mean cosine 0.999") && !out.exists(), "{}", stdout(&answer));
    ok(&[&convert[..], &gate, &["--min-cosine", "0.999", "-q"]].concat());
    assert!(ok(&["inspect", text(&out)]).contains("evaluation: cosine 0.999"));

    let args = ["eval", text(&out), "--reference", text(&model), "--text", text(&sentences_path)];
    let found = json(&[&args[..], &["--sts", text(&pairs_path), "--min-cosine", "0.999", "--json"]].concat());
    let (mean, floor) = (number(&found, "/cosine/mean"), number(&found, "/noise_floor/mean"));
    assert!((0.999..1.0).contains(&mean) && floor > mean, "{mean} {floor}");
    assert_eq!((&found["cosine"]["texts"], &found["sts"]["pairs"]), (&12.into(), &12.into()));
    let ranks = number(&found, "/sts/correlation") - number(&found, "/sts/reference_correlation");
    assert!(ranks.abs() < 0.1, "{found}");
    let message = refused(&[&args[..], &["--max-kld", "0.1"]].concat());
    assert!(message.contains("a sentence encoder has --min-cosine"), "{message}");
}

#[test]
fn a_report_is_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let args = ["report", STORYTELLER, "--text", HELDOUT, "--documents", "--windows", "2"];
    let found = json(&[&args[..], &["--formats", "q8_0,q4_0", "-o", text(&page), "--json"]].concat());
    assert_eq!(found["formats"][1]["name"], "q4_0");
    assert!(number(&found, "/formats/0/generation") > 0.0 && number(&found, "/original/prompt") > 0.0);
    assert!(number(&found, "/formats/1/summary/kld/mean") > number(&found, "/noise_floor/kld/mean"));
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    for part in ["storyteller-6m in 2 formats", ">q8_0<", "model.layers.", "Processor", "quantize report"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(listing(folder.path()), ["report.html"]);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = super::checkpoint(folder.path(), super::unchanged);
    let short = folder.path().join("short.txt");
    fs::write(&short, "Once upon a time").unwrap();
    let damaged = folder.path().join("damaged");
    fs::write(&damaged, b"_logits_ and nothing else").unwrap();
    let (source, short, damaged) = (text(&source), text(&short), text(&damaged));
    let out = folder.path().join("out");
    let out = text(&out);
    for (args, fragment) in [
        (&["eval", STORYTELLER][..], "--text"),
        (&["eval", STORYTELLER, "--text", HELDOUT, "--max-kld", "0.1"], "--reference"),
        (&["eval", STORYTELLER, "--text", folder.path().to_str().unwrap()], "cannot read"),
        (&["eval", STORYTELLER, "--text", "/dev/zero"], "more than 67108864 bytes"),
        // Without the mark all of the text would be one document, of which the beginning is scored.
        (&["eval", STORYTELLER, "--text", short, "--documents"], "\"<|endoftext|>\" never occurs in the text"),
        (&["eval", STORYTELLER, "--text", HELDOUT, "--documents=%%%"], "\"%%%\" never occurs"),
        (&["eval", STORYTELLER, "--text", HELDOUT, "--documents="], "empty mark"),
        (&["convert", STORYTELLER, out, "--eval-text", short, "--documents", "--max-kld", "9"], "never occurs"),
        (&["report", STORYTELLER, "--text", short, "--documents", "-o", out], "never occurs"),
        // Without a text there is nothing that could be cut.
        (&["convert", STORYTELLER, out, "--documents"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--ctx", "64"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--score", "all"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--windows", "3"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--max-ppl-ratio", "2"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--min-cosine", "0.9"], "--eval-text"),
        (&["eval", ENCODER, "--reference", ENCODER, "--text", short, "--documents"], "are for language models"),
        (&["eval", STORYTELLER, "--reference", STORYTELLER], "--text"),
        (&["eval", STORYTELLER, "--reference", STORYTELLER, "--text", "no-such-file"], "no-such-file"),
        (&["eval", STORYTELLER, "--reference", STORYTELLER, "--text", short], "too short"),
        (&["eval", STORYTELLER, "--reference", STORYTELLER, "--text", HELDOUT, "--ctx", "1024"], "context is 512"),
        (
            &["eval", STORYTELLER, "--reference", STORYTELLER, "--text", HELDOUT, "--min-cosine", "1"],
            "--min-cosine is for",
        ),
        (&["eval", STORYTELLER, "--reference", STORYTELLER, "--text", HELDOUT, "--max-kld", "NaN"], "not a number"),
        (&["eval", STORYTELLER, "--reference-logits", damaged], "cannot read"),
        (&["eval", STORYTELLER, "--reference-logits", HELDOUT], "cannot read"),
        (&["eval", source, "--reference", source, "--text", HELDOUT], "cannot run"),
        (&["convert", STORYTELLER, out, "--max-kld", "0.1"], "--eval-text"),
        (&["convert", STORYTELLER, out, "--eval-text", short], "too short"),
        (&["convert", STORYTELLER, "out.safetensors", "--eval-text", HELDOUT], "needs folders"),
        (&["convert", source, out, "--eval-text", HELDOUT], "cannot run"),
        (&["report", STORYTELLER, "--text", HELDOUT, "-o", "no/such/folder/x.html"], "is no folder"),
        (&["report", STORYTELLER, "--text", HELDOUT, "-o", "/tmp"], "no ordinary file"),
        (&["report", STORYTELLER, "--text", HELDOUT, "--formats", "q8_0,q8_0", "-o", out], "there twice"),
    ] {
        let message = refused(args);
        assert!(message.contains(fragment), "{args:?}: {message}");
    }
    assert_eq!(listing(folder.path()), ["damaged", "short.txt", "source"]);
}
