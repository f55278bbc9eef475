//! `quantize inspect`: what is in a model.

use anyhow::Result;
use qruntime::container::Storage;
use serde::Serialize;
use serde_json::Value;

use crate::args::InspectArgs;
use crate::command::answer::Answer;
use crate::report::{bytes, digits, percent, printable, shape, three_digits};
use crate::table::{Column, Table, paragraph, terminal_width};

#[derive(Serialize)]
struct Report {
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

pub(super) fn run(args: &InspectArgs) -> Result<Answer> {
    let model = super::open(&args.model)?;
    let tensors: Vec<Tensor> = model
        .tensors()
        .map(|entry| {
            let (storage, packed) = match entry.storage() {
                Storage::Packed(format) => (format.name().to_owned(), true),
                Storage::Plain(dtype) => (format!("{dtype:?}").to_lowercase(), false),
            };
            Tensor {
                name: entry.name().into(),
                storage,
                packed,
                shape: entry.shape().into(),
                bytes: entry.bytes(),
                bits_per_weight: 8.0 * entry.bytes() as f64 / entry.elements().max(1) as f64,
            }
        })
        .collect();
    let elements = model.tensors().map(|entry| entry.elements() as u64).sum::<u64>();
    let stored = tensors.iter().map(|t| t.bytes as u64).sum::<u64>();
    let report = Report {
        tensors,
        file_bytes: model.file_bytes(),
        elements,
        bits_per_weight: 8.0 * stored as f64 / elements.max(1) as f64,
        recipe: model.recipe().clone(),
    };
    Answer::of(&report, args.json, true, to_text)
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

fn to_text(report: &Report) -> String {
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
    let mut text = Table::new(columns).with_rows(rows).to_string();
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
    text + &format!("\n{count} tensors, {elements} M weights, {size}, {:.2} bits/weight\n", report.bits_per_weight)
}
