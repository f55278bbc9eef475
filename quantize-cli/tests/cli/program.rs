//! What belongs to no command: version, completions, manual pages, how errors look.

use std::fs;
use std::process::Command;

use super::{listing, ok, quantize, refused, stderr, text};

#[test]
fn the_version_names_the_commit() {
    let version = ok(&["--version"]);
    let expected = format!("quantize {}", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected), "{version}");
    let git = Command::new("git").args(["ls-files", "--error-unmatch", "Cargo.toml"]).output();
    if !git.is_ok_and(|output| output.status.success()) {
        assert_eq!(version.trim(), expected);
        return;
    }
    let commit = version.trim()[expected.len()..].trim();
    let commit = commit.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap();
    assert!(commit.len() >= 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{version}");
}

#[test]
fn shells_complete_every_command() {
    let commands = ["convert", "inspect", "verify", "compare", "eval", "run", "embed", "report", "isa", "bench", "man"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&["completions", shell]);
        for part in commands.iter().chain(&["save-logits"]) {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    assert!(refused(&["completions", "teletype"]).contains("possible values"));
}

#[test]
fn every_command_has_a_manual_page() {
    let page = ok(&["man"]);
    assert!(page.contains(".TH quantize 1") && page.contains("quantize\\-convert(1)"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    let printed = ok(&["man", text(&pages)]);
    let names = listing(&pages);
    assert!(printed.starts_with(&format!("wrote {} pages", names.len())), "{printed}");
    for name in ["quantize.1", "quantize-convert.1", "quantize-eval.1", "quantize-man.1"] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.contains(&format!(".TH {} 1", name.trim_end_matches(".1"))), "{page}");
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    // Again, over what it wrote, but not over anything else.
    ok(&["man", text(&pages)]);
    fs::write(pages.join("quantize-run.1"), "notes").unwrap();
    assert!(refused(&["man", text(&pages)]).contains("quantize-run.1"));
    assert_eq!(fs::read(pages.join("quantize-run.1")).unwrap(), b"notes");
}

/// The cache as `hf download` fills it: a folder for each commit, whose files are links.
#[cfg(unix)]
#[test]
fn models_are_found_in_the_cache_of_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("hub/models--someone--tiny");
    let snapshot = folder.join("snapshots/abc123");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), "abc123").unwrap();
    let model = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m")).unwrap();
    for file in fs::read_dir(model).unwrap().map(Result::unwrap) {
        std::os::unix::fs::symlink(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
        command.args(args);
        command.env_remove("HF_HUB_CACHE").env_remove("HUGGINGFACE_HUB_CACHE").env("HF_HOME", cache.path());
        command.output().unwrap()
    };
    let found = run(&["run", "someone/tiny@abc123", "--prompt", "Once", "--max-tokens", "3", "--json"]);
    assert!(found.status.success(), "{}", stderr(&found));
    let inspected = run(&["inspect", "someone/tiny/model.safetensors"]);
    assert!(inspected.status.success(), "{}", stderr(&inspected));
    let missing = run(&["inspect", "someone/other"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("`hf download someone/other` fetches it"), "{}", stderr(&missing));
}

#[test]
fn errors_look_alike() {
    // clap's own, and ours.
    for args in [&["bench", "--size", "7"][..], &["verify", "no such\u{1b}[31m model"]] {
        let message = refused(args);
        assert!(message.starts_with("error: "), "{message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
        // Stderr is a file here, where nobody reads colours unless they are asked for.
        let output = Command::new(env!("CARGO_BIN_EXE_quantize")).args(args).env("CLICOLOR_FORCE", "1").output();
        let message = stderr(&output.unwrap());
        assert!(message.starts_with("\u{1b}["), "{message:?}");
        assert!(!message.contains("\u{1b}[31m model"), "{message:?}");
    }
    let output = quantize(&["verify", "no-such-model"]);
    assert_eq!(output.status.code(), Some(2));
}
