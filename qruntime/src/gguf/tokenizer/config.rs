//! `tokenizer_config.json`: roles of tokens, chat templates.

use serde_json::{Map, Value, json};

use super::vocabulary::{Roles, Vocabulary};
use crate::error::FileError;
use crate::gguf::Metadata;

pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
/// The names of templates, each under the key `tokenizer.chat_template.NAME`.
pub(super) const TEMPLATES: &str = "tokenizer.chat_templates";

/// Returns the file. `before` and `after` tell whether tokens are put around texts.
pub(super) fn file(
    vocabulary: &Vocabulary<'_>,
    roles: &Roles,
    before: bool,
    after: bool,
    tidy: bool,
) -> Result<Value, FileError> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("tokenizer_class", "PreTrainedTokenizerFast".into());
    set("add_bos_token", before.into());
    set("add_eos_token", after.into());
    set("clean_up_tokenization_spaces", tidy.into());
    for (role, id) in roles.all() {
        set(role, vocabulary.text(id).into());
    }
    let metadata = vocabulary.metadata;
    if let Ok(key) = metadata.key("context_length")
        && let Some(length) = metadata.size(&key, 1..=usize::MAX)?
    {
        set("model_max_length", length.into());
    }
    if let Some(templates) = templates(metadata)? {
        set("chat_template", templates);
    }
    Ok(fields.into())
}

/// Returns the only template, or a list of named ones.
fn templates(metadata: &Metadata) -> Result<Option<Value>, FileError> {
    let default = metadata.text(TEMPLATE)?;
    let mut names: Vec<&str> = metadata.texts(TEMPLATES)?.unwrap_or_default().iter().map(String::as_str).collect();
    let known = metadata.iter().filter_map(|(key, _)| key.strip_prefix(TEMPLATE)?.strip_prefix('.'));
    names.extend(known);
    names.sort_unstable();
    names.dedup();
    let mut named = Vec::new();
    for name in names {
        let key = format!("{TEMPLATE}.{name}");
        let text = metadata.text(&key)?.or(default.filter(|_| name == "default"));
        let Some(text) = text else {
            return Err(metadata.refuse(
                TEMPLATES,
                format_args!("{name:?}, but {key:?} is missing"),
                "names of templates",
            ));
        };
        named.push((name, text));
    }
    if named.is_empty() {
        return Ok(default.map(Value::from));
    }
    if let Some(text) = default
        && !named.iter().any(|(name, _)| *name == "default")
    {
        named.insert(0, ("default", text));
    }
    Ok(Some(named.into_iter().map(|(name, text)| json!({"name": name, "template": text})).collect()))
}
