//! `quantize inspect`: what a model is, and what can be done with it.

mod folder;
mod gguf;

use anyhow::Result;
use qruntime::gguf::Gguf;
use qruntime::{Network, NetworkKind};
use serde::Serialize;
use serde_json::Value;

use crate::args::InspectArgs;
use crate::command::answer::Answer;
use crate::report::{bytes, digits, percent, printable, shape, three_digits};
use crate::source;
use crate::table::{Column, Table, paragraph, terminal_width};

#[derive(Serialize)]
struct Report {
    /// In words: container, version, number of files.
    format: String,
    /// What the file or `config.json` calls the kind of network.
    architecture: Option<String>,
    /// The model's own name.
    name: Option<String>,
    /// Most tokens of a context.
    context: Option<u64>,
    tokenizer: Option<Tokenizer>,
    /// How tensors are stored, the type of the most bytes first.
    scheme: Vec<Kind>,
    /// Commands that take it.
    can: Vec<Can>,
    tensors: Vec<Tensor>,
    /// Bytes of all files.
    file_bytes: u64,
    elements: u64,
    bits_per_weight: f64,
    /// How the model was made, as it says itself.
    recipe: Value,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    storage: String,
    packed: bool,
    shape: Vec<usize>,
    bytes: usize,
    bits_per_weight: f64,
}

#[derive(Serialize)]
struct Kind {
    storage: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tokenizer {
    /// In words.
    kind: String,
    tokens: Option<usize>,
    chat_template: bool,
}

/// Something that this program can do with a model or cannot.
#[derive(Serialize)]
struct Can {
    /// The commands.
    commands: Vec<&'static str>,
    works: bool,
    /// What kind of network it is, or why it does not work.
    because: String,
}

/// What a file or folder says of itself.
struct Described {
    format: String,
    architecture: Option<String>,
    name: Option<String>,
    context: Option<u64>,
    tokenizer: Option<Tokenizer>,
    tensors: Vec<Tensor>,
    file_bytes: u64,
    recipe: Value,
    /// Whether it is a model that this program wrote.
    is_ours: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<Answer> {
    let path = &args.model;
    let Described { format, architecture, name, context, tokenizer, tensors, file_bytes, recipe, is_ours } =
        if path.is_file() && Gguf::is_gguf(path) { gguf::describe(path)? } else { folder::describe(path)? };
    let elements = tensors.iter().map(|tensor| elements(&tensor.shape)).sum::<u64>();
    let stored = tensors.iter().map(|t| t.bytes as u64).sum::<u64>();
    let report = Report {
        format,
        architecture,
        name,
        context,
        tokenizer,
        scheme: scheme(&tensors),
        can: can(path, is_ours),
        tensors,
        file_bytes,
        elements,
        bits_per_weight: 8.0 * stored as f64 / elements.max(1) as f64,
        recipe,
    };
    Answer::of(&report, args.json, true, |report| to_text(report, args.tensors))
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}

impl Tensor {
    fn new(name: &str, storage: String, packed: bool, shape: &[usize], bytes: usize) -> Self {
        let bits_per_weight = 8.0 * bytes as f64 / elements(shape).max(1) as f64;
        Self { name: name.into(), storage, packed, shape: shape.into(), bytes, bits_per_weight }
    }
}

/// Counts the tensors that are stored alike.
fn scheme(tensors: &[Tensor]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = vec![];
    for tensor in tensors {
        let (elements, bytes) = (elements(&tensor.shape), tensor.bytes as u64);
        match kinds.iter_mut().find(|kind| kind.storage == tensor.storage) {
            Some(kind) => {
                kind.tensors += 1;
                kind.elements += elements;
                kind.bytes += bytes;
            }
            None => kinds.push(Kind { storage: tensor.storage.clone(), tensors: 1, elements, bytes }),
        }
    }
    kinds.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.storage.cmp(&b.storage)));
    kinds
}

/// Finds out what can be done with a model, without opening its weights.
fn can(path: &std::path::Path, is_ours: bool) -> Vec<Can> {
    let yes = |commands: &[&'static str], because: String| Can { commands: commands.into(), works: true, because };
    let no = |commands: &[&'static str], because: String| Can { commands: commands.into(), works: false, because };
    let runs = match Network::kind(path) {
        Ok(kind @ NetworkKind::CausalLm { .. }) => yes(&["run", "eval"], kind.to_string()),
        Ok(kind @ NetworkKind::Encoder { .. }) => yes(&["embed", "eval"], kind.to_string()),
        Ok(kind) => no(&["run", "embed", "eval"], kind.to_string()),
        Err(error) => no(&["run", "embed", "eval"], error.to_string()),
    };
    if is_ours {
        return vec![runs, yes(&["verify", "compare"], "a model that quantize wrote".into())];
    }
    let converts = match source::open(path) {
        Ok(source) if source.tensors().iter().any(|tensor| tensor.stored().is_blocks()) => {
            yes(&["convert", "compare"], "its blocks stay as they are without --to".into())
        }
        Ok(_) => yes(&["convert", "compare"], "a checkpoint".into()),
        Err(error) => no(&["convert", "compare"], error.to_string()),
    };
    vec![runs, converts]
}

/// Describes the measurement in the recipe; each part only if it is there.
fn evaluation(evaluation: &Value) -> String {
    let number = |pointer: &str| evaluation.pointer(pointer).and_then(Value::as_f64);
    let figure = |name: &str, pointer: &str| Some(format!("{name} {}", digits(number(pointer)?, 4)));
    let figures = [
        figure("KL divergence", "/kld/mean"),
        figure("99.9 %", "/kld/p999"),
        number("/ratio").map(|ratio| format!("perplexity ratio {ratio:.4}")),
        number("/same_top").map(|share| format!("same top-1 token {}", percent(share))),
        figure("cosine", "/cosine/mean"),
        figure("worst 1 %", "/cosine/worst_percent"),
    ];
    let figures: Vec<String> = figures.into_iter().flatten().collect();
    if figures.is_empty() {
        return evaluation.to_string();
    }
    let words = |name: &str| evaluation.get(name).and_then(Value::as_str);
    let count = |pointer: &str| evaluation.pointer(pointer).and_then(Value::as_u64);
    let on = words("text").unwrap_or("a text");
    let protocol = words("protocol").map(|protocol| format!(": {protocol}"));
    let used = count("/text_tokens_used").zip(count("/text_tokens"));
    let counts = [
        count("/windows").map(|n| format!("{n} windows")),
        count("/predictions").map(|n| format!("{n} predictions")),
        used.map(|(used, all)| format!("{used} of {all} tokens of the text used")),
        count("/documents_cut").filter(|&n| n > 0).map(|n| format!("{n} documents cut")),
        count("/cosine/texts").map(|n| format!("{n} texts")),
        count("/texts_cut").filter(|&n| n > 0).map(|n| format!("{n} texts cut")),
    ];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    format!("{}; on {on}{}; {}", figures.join(", "), protocol.unwrap_or_default(), counts.join(", "))
}

/// The tensors as a table.
fn table(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .tensors
        .iter()
        .map(|t| {
            let bits = format!("{:.2}", t.bits_per_weight);
            vec![t.name.escape_debug().to_string(), t.storage.clone(), shape(&t.shape), bytes(t.bytes as u64), bits]
        })
        .collect();
    let columns = [
        Column::left("tensor").shortened(),
        Column::left("format"),
        Column::left("shape"),
        Column::right("size"),
        Column::right("bits/weight"),
    ];
    Table::new(columns).with_rows(rows).to_string() + "\n"
}

fn to_text(report: &Report, tensors: bool) -> String {
    let mut text = if tensors { table(report) } else { String::new() };
    let mut say = |label: &str, value: &str| {
        text.push_str(&paragraph(&format!("{label}: "), &printable(value), terminal_width()));
    };
    say("format", &report.format);
    if let Some(architecture) = &report.architecture {
        say("architecture", architecture);
    }
    if let Some(name) = &report.name {
        say("name", name);
    }
    let kind = |kind: &Kind| {
        format!("{} in {} {}, {}", kind.storage, kind.tensors, plural("tensor", kind.tensors), bytes(kind.bytes))
    };
    say("scheme", &report.scheme.iter().map(kind).collect::<Vec<_>>().join("; "));
    if let Some(tokenizer) = &report.tokenizer {
        let tokens = tokenizer.tokens.map_or_else(String::new, |tokens| format!(", {tokens} tokens"));
        let template = if tokenizer.chat_template { ", chat template" } else { "" };
        say("tokenizer", &format!("{}{tokens}{template}", tokenizer.kind));
    }
    if let Some(context) = report.context {
        say("context", &format!("{context} tokens"));
    }
    for Can { commands, works, because } in &report.can {
        say(if *works { "can" } else { "cannot" }, &format!("{} ({because})", commands.join(", ")));
    }
    if let Value::Object(recipe) = &report.recipe {
        text.push('\n');
        for (key, value) in recipe {
            // What was measured is a long list: the figures that people look at.
            let value = match (key.as_str(), value.as_str()) {
                (_, Some(text)) => text.to_owned(),
                ("evaluation", None) => evaluation(value),
                (_, None) => value.to_string(),
            };
            let label = format!("{}: ", key.escape_debug());
            text.push_str(&paragraph(&label, &printable(&value), terminal_width()));
        }
    }
    let (count, size) = (report.tensors.len(), bytes(report.file_bytes));
    let elements = three_digits(report.elements as f64 / 1e6);
    let more = if tensors { "" } else { " (--tensors lists them)" };
    let last =
        format!("{count} tensors, {elements} M weights, {size}, {:.2} bits/weight{more}", report.bits_per_weight);
    text + "\n" + &paragraph("", &last, terminal_width())
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}
