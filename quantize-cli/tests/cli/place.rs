//! Pages, pictures, vectors and logits never cost another file.

use std::fs;
use std::path::Path;

use super::eval::{HELDOUT, STORYTELLER};
use super::{listing, ok, refused, text};

const BENCH: &[&str] = &["bench", "--quick", "--size", "64", "--threads", "1", "--formats", "q4_0", "--rows", "1"];
const REPORT: &[&str] = &["report", STORYTELLER, "--text", HELDOUT, "--windows", "1", "--formats", "q4_0"];
const EVAL: &[&str] = &["eval", STORYTELLER, "--reference", STORYTELLER, "--text", HELDOUT, "--windows", "1"];

#[test]
fn other_files_are_replaced_with_force_only() {
    let folder = tempfile::tempdir().unwrap();
    for (args, option, name, other_kind) in [
        (BENCH, "--plot", "speed.svg", "speed.png"),
        (REPORT, "--out", "page.html", "page.pdf"),
        (EVAL, "--save-logits", "logits.kld", ""),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, "somebody's notes").unwrap();
        let message = refused(&[args, &[option, text(&path)]].concat());
        assert!(message.contains("it exists already") && message.contains("--force"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"somebody's notes");
        if !other_kind.is_empty() {
            let message = refused(&[args, &[option, text(&folder.path().join(other_kind))]].concat());
            assert!(message.contains("expected a name that ends in"), "{message}");
        }
    }
    // With force, as its name says; from then on it is an earlier output, which the tests of
    // `place` replace.
    let picture = folder.path().join("speed.svg");
    ok(&[BENCH, &["--plot", text(&picture), "--force"]].concat());
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg "));
    assert_eq!(listing(folder.path()), ["logits.kld", "page.html", "speed.svg"]);
}

#[test]
fn inputs_are_not_replaced_even_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A checkpoint as a cache of downloads has it, links to files elsewhere, and a text.
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    let source = Path::new(STORYTELLER);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(name), model.join(name)).unwrap();
    }
    let blob = folder.join("blob");
    fs::copy(source.join("model.safetensors"), &blob).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&blob, model.join("model.safetensors")).unwrap();
    #[cfg(not(unix))]
    fs::copy(&blob, model.join("model.safetensors")).unwrap();
    let prompts = folder.join("prompts");
    fs::copy(HELDOUT, &prompts).unwrap();
    let outputs = [model.join("config.json"), model.join("model.safetensors"), blob, prompts.clone()];
    let before: Vec<Vec<u8>> = outputs.iter().map(|path| fs::read(path).unwrap()).collect();

    let (model, prompts) = (text(&model), text(&prompts));
    let report = ["report", model, "--text", prompts, "--documents", "--windows", "1", "--force", "--out"];
    let eval = [
        &["eval", STORYTELLER, "--reference", model, "--text", prompts, "--windows", "1", "--ctx", "16"][..],
        &["--force", "--save-logits"],
    ]
    .concat();
    for (args, outputs) in [(&report[..], &outputs[..]), (&eval[..], &outputs[..])] {
        for output in outputs {
            let message = refused(&[args, &[text(output)]].concat());
            // A page is refused by its name before that.
            let by_name = args[0] == "report" && output.extension().is_some();
            assert!(message.contains(if by_name { "ends in .html" } else { "is an input" }), "{message}");
        }
    }
    let pictured = folder.join("model/weights.svg");
    fs::copy(folder.join("blob"), &pictured).unwrap();
    let message = refused(&[BENCH, &["--model", text(&pictured), "--force", "--plot", text(&pictured)]].concat());
    assert!(message.contains("is an input"), "{message}");
    let after: Vec<Vec<u8>> = outputs.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after);
}
