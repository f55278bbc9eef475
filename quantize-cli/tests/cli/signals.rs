//! What a signal does to a program at work: it ends soon, says by its exit status why, and leaves
//! nothing behind.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::network::{MODEL, tiny_encoder};
use super::*;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What starts a program, in the same process, with no signal ignored, whatever the tests were
/// started with.
pub(super) const ENV: [&str; 2] = ["env", "--default-signal=INT,TERM,HUP"];

/// Whether `env` can do that; says so if not.
pub(super) fn env_resets_signals() -> bool {
    let can = Command::new(ENV[0]).args([ENV[1], "true"]).output().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("NOT RUN: env(1) has no --default-signal");
    }
    can
}

/// Starts the program, with its temporary files in `scratch`; says so if it cannot be started as it
/// has to be.
fn start(args: &[&str], scratch: &Path) -> Option<Child> {
    if !env_resets_signals() {
        return None;
    }
    let mut command = Command::new(ENV[0]);
    command.args([ENV[1], env!("CARGO_BIN_EXE_quantize")]).args(args).env("TMPDIR", scratch);
    Some(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until something is so; fails if the program ends before, or takes too long.
fn wait_until(child: &mut Child, what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before {what}");
        assert!(start.elapsed() < LONG, "no {what} after {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the program to end, and returns its exit status.
fn status(mut child: Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > LONG {
            child.kill().unwrap();
            panic!("still there {LONG:?} after the signal");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A checkpoint of large files, though the disk holds none of them.
pub(super) fn endless(folder: &Path, tensor_bytes: u64, tokenizer_bytes: u64) -> PathBuf {
    let source = folder.join("source");
    fs::create_dir(&source).unwrap();
    let header = format!(
        r#"{{"model.layers.0.mlp.up_proj.weight":{{"dtype":"F16","shape":[{},1024],"data_offsets":[0,{tensor_bytes}]}}}}"#,
        tensor_bytes / 2048
    );
    let header = format!("{header:<256}");
    let path = source.join("model.safetensors");
    fs::write(&path, [&256u64.to_le_bytes(), header.as_bytes()].concat()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(8 + 256 + tensor_bytes).unwrap();
    fs::write(source.join("config.json"), "{}").unwrap();
    fs::File::create(source.join("tokenizer.json")).unwrap().set_len(tokenizer_bytes).unwrap();
    source
}

/// Sends every signal, and one twice, to the program while it has a temporary file or folder in
/// either folder.
fn interrupt_each(folder: &Path, scratch: &Path, args: &[&str], mut meanwhile: impl FnMut(&mut Child)) {
    let before = (listing(folder), listing(scratch));
    let signals = [(vec![Signal::INT], 130), (vec![Signal::TERM], 143), (vec![Signal::HUP], 129)];
    for (signals, code) in signals.into_iter().chain([(vec![Signal::INT; 2], 130)]) {
        let Some(mut child) = start(args, scratch) else { return };
        meanwhile(&mut child);
        wait_until(&mut child, "a temporary file", || (listing(folder), listing(scratch)) != before);
        for &signal in &signals {
            send(&child, signal);
        }
        assert_eq!(status(child), Some(code), "{signals:?} to {args:?}");
        assert_eq!((listing(folder), listing(scratch)), before, "{signals:?} to {args:?}");
    }
}

#[test]
fn a_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let source = endless(folder.path(), 4 << 30, 2);
    let out = folder.path().join("out");
    let args = ["convert", text(&source), text(&out), "--to", "q4_0"];
    interrupt_each(folder.path(), scratch.path(), &args, |_| ());
}

#[test]
fn the_copying_of_companions() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    // Should that be copied before the signal comes, the conversion of the one row is what it
    // interrupts.
    let source = endless(folder.path(), 2048, 1 << 30);
    let out = folder.path().join("out");
    let args = ["convert", text(&source), text(&out), "--to", "q4_0"];
    interrupt_each(folder.path(), scratch.path(), &args, |_| ());
}

#[test]
fn what_a_killed_conversion_left_goes_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let large = endless(folder.path(), 4 << 30, 2);
    fs::rename(&large, folder.path().join("large")).unwrap();
    let large = folder.path().join("large");
    let small = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    let left = || listing(folder.path()).into_iter().find(|name| name.ends_with(".partial"));
    let Some(mut child) = start(&["convert", text(&large), text(&out), "--to", "q4_0"], scratch.path()) else { return };
    wait_until(&mut child, "a temporary folder", || left().is_some());

    // One that is at work is left alone.
    let convert = ["convert", text(&small), text(&out), "--to", "q4_0", "--force"];
    let output = quantize(&convert);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let name = left().expect("the folder of the first conversion");

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left().is_some(), "a killed program cleans nothing up");
    let output = quantize(&convert);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("{name}, which an interrupted run had left")), "{}", stderr(&output));
    assert_eq!(listing(folder.path()), ["large", "out", "source"]);
}

#[test]
fn a_source_that_changes_while_it_is_converted() {
    type Change = (&'static str, fn(&Path), &'static str);
    let resize = |path: &Path, len| fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    let changes: [Change; 4] = [
        ("longer", |source| fs::write(source.join("tokenizer.json"), "{  }").unwrap(), "had 2 bytes and now has 4"),
        ("as long", |source| fs::write(source.join("tokenizer.json"), "[]").unwrap(), "was written to while"),
        (
            "another",
            |source| {
                fs::write(source.join("new"), "{}").unwrap();
                fs::rename(source.join("new"), source.join("config.json")).unwrap();
            },
            "was replaced by another file",
        ),
        (
            "written to",
            |source| {
                use std::os::unix::fs::FileExt;
                let file = fs::File::options().write(true).open(source.join("model.safetensors")).unwrap();
                file.write_all_at(&[1], 300).unwrap();
            },
            "model.safetensors\": was written to while",
        ),
    ];
    for (what, change, expected) in changes {
        let folder = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let source = endless(folder.path(), 64 << 20, 2);
        let out = folder.path().join("out");
        let Some(mut child) = start(&["convert", text(&source), text(&out), "--to", "q4_0"], scratch.path()) else {
            return;
        };
        wait_until(&mut child, "the model's file", || weights_begun(folder.path()));
        change(&source);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{what}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{what}: {}", stderr(&output));
        assert_eq!(listing(folder.path()), ["source"], "{what}");
    }

    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let source = endless(folder.path(), 4 << 30, 2);
    let out = folder.path().join("out");
    let Some(mut child) = start(&["convert", text(&source), text(&out), "--to", "q4_0"], scratch.path()) else {
        return;
    };
    wait_until(&mut child, "the model's file", || weights_begun(folder.path()));
    resize(&source.join("model.safetensors"), 4096);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    for part in [
        "source/model.safetensors\": tensor \"model.layers.0.mlp.up_proj.weight\": cut off while it was read: expected ",
        " bytes at offset ",
        " of a file of 4294967560 bytes, which now has 4096",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// Whether a conversion in this folder has come to the weights: the files beside them are copied.
fn weights_begun(folder: &Path) -> bool {
    let partial = listing(folder).into_iter().find(|name| name.ends_with(".partial"));
    partial.is_some_and(|name| folder.join(name).join("model.safetensors").exists())
}

#[test]
fn vectors_from_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let encoder = tiny_encoder(scratch.path());
    let out = folder.path().join("vectors.npy");
    interrupt_each(folder.path(), scratch.path(), &["embed", text(&encoder), "--output", text(&out)], |child| {
        // The pipe stays open: the program waits for more, in a call that only its end interrupts.
        child.stdin.as_mut().unwrap().write_all(b"cat\ndog\n").unwrap();
    });
}

#[test]
fn an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let heldout = format!("{MODEL}/heldout.txt");
    let logits = folder.path().join("logits.npy");
    let args = ["eval", MODEL, "--reference", MODEL, "--text", &heldout, "--save-logits", text(&logits)];
    interrupt_each(folder.path(), scratch.path(), &args, |_| ());
}

#[test]
fn a_report() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let heldout = format!("{MODEL}/heldout.txt");
    let page = folder.path().join("page.html");
    let args = ["report", MODEL, "--text", &heldout, "-o", text(&page)];
    interrupt_each(folder.path(), scratch.path(), &args, |_| ());
}

#[test]
fn a_command_without_a_flag() {
    // It waits for more lines, in a call that only its end interrupts.
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let scratch = tempfile::tempdir().unwrap();
        let encoder = tiny_encoder(scratch.path());
        let Some(mut child) = start(&["embed", text(&encoder)], scratch.path()) else { return };
        child.stdin.as_mut().unwrap().write_all(&b"cat\n".repeat(64)).unwrap();
        // A line of output: from here on signals are handled.
        let mut answer = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        send(&child, signal);
        assert_eq!(status(child), Some(code));
    }
}

#[test]
fn what_is_ignored_stays_ignored() {
    let scratch = tempfile::tempdir().unwrap();
    let encoder = tiny_encoder(scratch.path());
    let mut child = Command::new("nohup")
        .args([env!("CARGO_BIN_EXE_quantize"), "embed", text(&encoder)])
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&b"cat\n".repeat(64)).unwrap();
    let mut answer = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    send(&child, Signal::HUP);
    stdin.write_all(b"dog\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 65);
}
