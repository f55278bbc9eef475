//! What applications do with a chat template. Shared with `qruntime/tests/fuzz_corpus.rs`.

use qruntime::{ChatTemplate, Date, Message};
use serde_json::{Map, Value, json};

/// Reads the template that the bytes begin with and renders it twice, with and without an answer
/// asked for. After the first zero byte may come its variables as JSON, `messages` among them.
/// Returns whether it was rendered.
pub(crate) fn converse(bytes: &[u8]) -> bool {
    let (source, variables) = match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], serde_json::from_slice(&bytes[end + 1..]).ok()),
        None => (bytes, None),
    };
    let Ok(template) = ChatTemplate::from_source(&String::from_utf8_lossy(source)) else { return false };
    let template = template.with_date(Date { year: 2026, month: 3, day: 5 });
    let mut variables: Map<String, Value> = variables.unwrap_or_else(usual);
    let messages = match variables.remove("messages") {
        Some(Value::Array(messages)) => messages,
        _ => Vec::new(),
    };
    let text = template.render_with(&messages, &variables, true);
    let again = template.render_with(&messages, &variables, true);
    assert_eq!(text.as_ref().ok(), again.as_ref().ok(), "the same conversation has the same text");
    let few = [Message::new("system", " Be brief. "), Message::new("user", "Hi\n")];
    let plain = template.render(&few, false);
    text.is_ok() || plain.is_ok()
}

/// A conversation with tools.
fn usual() -> Map<String, Value> {
    let tool = json!({"type": "function", "function": {
        "name": "warmth",
        "description": "How warm it is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }});
    let call = json!({"type": "function", "function": {"name": "warmth", "arguments": {"city": "Åre", "at": 7.5}}});
    let messages = json!([
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "How warm is it <there>?"}, {"type": "image"}]},
        {"role": "assistant", "content": null, "reasoning_content": "Ask.", "tool_calls": [call]},
        {"role": "tool", "name": "warmth", "content": "-12"},
        {"role": "assistant", "content": "Cold.\n\nVery."},
        {"role": "user", "content": "Why?"},
    ]);
    let variables = [("bos_token", json!("<s>")), ("eos_token", json!("</s>")), ("enable_thinking", json!(false))];
    let more = [("tools", json!([tool])), ("messages", messages)];
    variables.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
}
