//! What a person at a terminal meets: conversations, Ctrl-C, lines that fit.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::network::{MODEL, piped};
use super::signals::{ENV, env_resets_signals};
use super::{ok, refused, stderr, stdout};

/// A chat model: the story teller with a template of its own.
fn chat_model(folder: &Path) {
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(format!("{MODEL}/{file}"), folder.join(file)).unwrap();
    }
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% else %}\
                    {{ m.content }} said {% endif %}{% endfor %}";
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
}

#[test]
fn a_conversation_outlives_its_context() {
    let folder = tempfile::tempdir().unwrap();
    chat_model(folder.path());
    let args = ["run", folder.path().to_str().unwrap(), "--chat", "--temperature", "0", "-n", "12", "--ctx", "64"];
    let args = [&args[..], &["--system", "Once upon a time"]].concat();
    let long = "word ".repeat(70);
    let lines = ["A cat", "A dog", "A bird", &long, "A fish", "A mouse", "A horse"];
    let output = piped(&args, &lines.join("\n"));
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    // Every line but the one that no context holds has its answer, and a person is told what is
    // forgotten.
    assert!(told.contains("the context of 64 tokens is full: the oldest "), "{told}");
    assert!(told.contains("expected fewer than 64, the context, with room for an answer; say it in fewer"), "{told}");
    assert_eq!(told.matches("say it in fewer words").count(), 1, "{told}");
    let (answers, first) = (stdout(&output), ok(&[&args[..], &["--prompt", "A cat"]].concat()));
    assert!(answers.starts_with(&first) && answers.len() > 4 * first.len(), "{answers}");
    let complaint = refused(&[&args[..], &["--prompt", &long]].concat());
    assert!(complaint.contains("expected fewer than 64"), "{complaint}");
}

/// The program in a terminal of its own, which `script` makes.
struct InTerminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl InTerminal {
    /// Starts the program in 80 columns; says so where there is no `script`, or no `env` that
    /// resets signals.
    fn new(args: &str) -> Option<Self> {
        if !env_resets_signals() {
            return None;
        }
        let program = env!("CARGO_BIN_EXE_quantize");
        let command = format!("stty cols 80 rows 24; exec {} '{program}' {args}", ENV.join(" "));
        let mut script = Command::new("script");
        script.args(["-qefc", &command, "/dev/null"]).env("SHELL", "/bin/sh");
        let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("NOT RUN: there is no script(1) to make a terminal");
            return None;
        };
        let (keyboard, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let (mut bytes, mut piece) = (vec![], [0; 4096]);
            while let Ok(count @ 1..) = output.read(&mut piece) {
                bytes.extend_from_slice(&piece[..count]);
                *shown.lock().unwrap() = String::from_utf8_lossy(&bytes).into_owned();
            }
        });
        Some(Self { child, keyboard, screen })
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn shown(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Waits until the screen has what is awaited; fails after minutes.
    fn wait(&self, awaited: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !awaited(&self.shown()) {
            assert!(start.elapsed() < Duration::from_secs(300), "the screen has {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn ctrl_c_stops_an_answer_and_the_conversation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    chat_model(folder.path());
    // No answer ends before it is stopped.
    for file in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let path = folder.path().join(file);
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.retain(|name, _| !["eos_token_id", "eos_token"].contains(&name.as_str()));
        std::fs::write(path, json.to_string()).unwrap();
    }
    let args = format!("run '{}' --chat --temperature 0 --threads 1", folder.path().display());
    let Some(mut terminal) = InTerminal::new(&args) else { return };
    let prompts = |screen: &str| screen.matches("> ").count();
    for (turn, line) in ["A little cat\n", "A big dog\n"].into_iter().enumerate() {
        terminal.wait(|screen| prompts(screen) == turn + 1);
        let before = terminal.shown().len();
        terminal.type_in(line);
        // The line, and the beginning of an answer.
        terminal.wait(|screen| screen.len() > before + line.len() + 12);
        terminal.type_in("\x03");
    }
    terminal.wait(|screen| prompts(screen) == 3);
    // Between answers it ends the program.
    terminal.type_in("\x03");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(130), "{}", terminal.shown());
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let name = "model.layers.10.block_sparse_moe.experts.127.self_attn.down_proj.weight";
    let other = "model.layers.10.block_sparse_moe.experts.127.some_adapter.input_proj.weight";
    let tensors: [(&str, &[usize]); 2] = [(name, &[48, 64]), (other, &[64, 48])];
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    super::write(&source.join("model.safetensors"), &tensors.iter().collect::<Vec<_>>(), super::unchanged);
    let out = folder.path().join("out");
    for args in [
        format!("convert '{}' '{}' --dry-run", source.display(), out.display()),
        format!("convert '{}' '{}'", source.display(), out.display()),
        format!("inspect '{}' --tensors", out.display()),
        format!("inspect '{}'", out.display()),
        format!("compare '{}' '{}'", source.display(), out.display()),
        format!("eval '{MODEL}' --text '{MODEL}/heldout.txt' --documents --windows 1"),
        format!("eval '{MODEL}' --reference '{MODEL}' --text '{MODEL}/heldout.txt' --documents --windows 1"),
    ] {
        let Some(mut terminal) = InTerminal::new(&args) else { return };
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0), "{}", terminal.shown());
        terminal.wait(|screen| screen.ends_with('\n'));
        let shown = terminal.shown();
        // A bar draws its line anew.
        for line in shown.split(['\n', '\r']).flat_map(|line| line.split("\x1b[2K")) {
            assert!(line.chars().count() <= 80, "{args}\n{line}\n{shown}");
        }
    }
    // A pipe gets whole names.
    let whole = ok(&["inspect", super::text(&out), "--tensors"]);
    assert!(whole.contains(name) && whole.contains(other), "{whole}");
}
