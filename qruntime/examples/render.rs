//! `cargo run -p qruntime --example render`: renders chat templates as a check against other
//! interpreters. Every line of stdin is a JSON object: `template` (its text) or `folder`,
//! `messages`, `variables`, `ask`. Every line of stdout is a JSON object: `text`, or `error`. The
//! date is always 5 March 2026.

use std::error::Error;
use std::io::{self, BufRead, Write};

use qruntime::{ChatTemplate, Date};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = match render(&serde_json::from_str(&line?)?) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn render(request: &Value) -> Result<String, Box<dyn Error>> {
    let nothing = Map::new();
    let messages = request["messages"].as_array().ok_or("messages is no list")?;
    let variables = request["variables"].as_object().unwrap_or(&nothing);
    let folder = tempfile::tempdir()?;
    let path = match (request["folder"].as_str(), request["template"].as_str()) {
        (Some(folder), _) => folder.as_ref(),
        (None, Some(template)) => {
            std::fs::write(folder.path().join("chat_template.jinja"), template)?;
            folder.path()
        }
        _ => return Err("neither folder nor template".into()),
    };
    let template = ChatTemplate::open(path)?.ok_or("no template")?;
    let template = template.with_date(Date { year: 2026, month: 3, day: 5 });
    Ok(template.render_with(messages, variables, request["ask"] == true)?)
}
