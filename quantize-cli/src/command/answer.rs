//! The answer of a command: one struct, printed as a table or as JSON.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::report::{SCHEMA, printable_lines, steers};

/// The answer of a command.
#[derive(Debug)]
pub(super) struct Answer {
    /// For stdout.
    pub(super) text: String,
    /// The exit status: 0 if the answer is yes, 1 if it is no, 2 if a part of what was asked could
    /// not be answered.
    pub(super) status: u8,
}

impl Answer {
    /// Answers yes.
    #[must_use]
    pub(super) fn yes(text: String) -> Self {
        Self { text: printable_lines(&text), status: 0 }
    }

    /// Answers with a report as JSON with its schema, or the text that `text` makes of it; the
    /// answer is yes or no.
    ///
    /// # Errors
    /// If the report cannot be serialized.
    pub(super) fn of<T: Serialize>(report: &T, json: bool, yes: bool, text: impl FnOnce(&T) -> String) -> Result<Self> {
        let status = u8::from(!yes);
        if !json {
            return Ok(Self { text: printable_lines(&text(report)), status });
        }
        let mut object = serde_json::Map::new();
        object.insert("schema".into(), SCHEMA.into());
        match serde_json::to_value(report)? {
            Value::Object(fields) => object.extend(fields),
            other => drop(object.insert("report".into(), other)),
        }
        let mut text = printable_json(&serde_json::to_string_pretty(&object)?);
        text.push('\n');
        Ok(Self { text, status })
    }
}

/// JSON with those control characters escaped that it may have in texts.
fn printable_json(text: &str) -> String {
    let escaped = |c: char| if c != '\n' && steers(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    text.chars().map(escaped).collect()
}
