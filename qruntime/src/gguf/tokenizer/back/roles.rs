//! Tokens with a role, and chat templates.

use serde_json::Value as Json;

use super::super::config::{TEMPLATE, TEMPLATES};
use super::super::vocabulary::ROLES;
use super::around::Around;
use super::bad;
use super::file::File;
use super::tokens::Tokens;
use crate::error::{Error, FileError, FileErrorKind};
use crate::gguf::{Array, ReadFile, Value};
use crate::json;

/// What a folder says beside `tokenizer.json`.
pub(super) struct Folder {
    config: Json,
    generation: Json,
    /// Older folders name their special tokens here.
    special: Json,
    /// Templates in files of their own, by name.
    templates: Vec<(&'static str, String)>,
}

impl Folder {
    pub(super) fn read(read: &ReadFile<'_>) -> Result<Self, Error> {
        let json = |name: &str| -> Result<Json, Error> {
            let refuse = |error| FileError::new(FileErrorKind::Json, format!("{name}: {error}"));
            Ok(read(name)?.map_or(Ok(Json::Null), |text| json::parse(&text).map_err(refuse))?)
        };
        let mut templates = Vec::new();
        for (file, name) in TEMPLATE_FILES {
            if let Some(text) = read(file)? {
                let refuse = |_| FileError::new(FileErrorKind::Network, format!("{file}: not UTF-8"));
                templates.push((name, String::from_utf8(text).map_err(refuse)?));
            }
        }
        Ok(Self {
            config: json("tokenizer_config.json")?,
            generation: json("generation_config.json")?,
            special: json("special_tokens_map.json")?,
            templates,
        })
    }

    /// Returns the keys of the tokens with a role, and their IDs: those that are put around texts,
    /// those that the configuration names, and those that end generation.
    pub(super) fn ids(
        &self,
        file: &File,
        tokens: &Tokens,
        around: &Around,
    ) -> Result<Vec<(&'static str, u32)>, FileError> {
        let generation = &self.generation;
        let words = file.model.kind == "WordPiece";
        // Where generation ends: one token or several.
        let ends: Vec<u32> = match &generation["eos_token_id"] {
            Json::Array(list) => list.iter().filter_map(Json::as_u64).map(|id| id as u32).collect(),
            one => one.as_u64().map(|id| id as u32).into_iter().collect(),
        };
        let named = |role: &str| -> Result<Option<u32>, FileError> {
            let text = |token: &'_ Json| token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned);
            let Some(text) = text(&self.config[role]).or_else(|| text(&self.special[role])) else { return Ok(None) };
            let text = text.as_str();
            let added = file.added_tokens.iter().find(|token| token.content == text).map(|token| token.id);
            let id = added.filter(|id| (*id as usize) < tokens.texts.len()).or_else(|| tokens.find(text));
            id.map(Some).ok_or_else(|| bad(format!("no token {text:?}, expected the {role} of tokenizer_config.json")))
        };
        let mut keys: Vec<(&'static str, u32)> = Vec::new();
        for (role, key) in ROLES {
            let first = |id: &str| generation[id].as_u64().map(|id| id as u32);
            let id = match role {
                "bos_token" if !words => around.before.or(named(role)?).or(first("bos_token_id")),
                "eos_token" if !words => around.after.or(named(role)?).or(ends.first().copied()),
                "cls_token" if words => around.before,
                "sep_token" if words => around.after,
                "pad_token" => named(role)?.or(first("pad_token_id")),
                "unk_token" => match &file.model.unk_token {
                    Some(text) => tokens.find(text),
                    None => file.model.unk_id.map(|id| id as u32).or(named(role)?),
                },
                // Other ends of generation than the main one.
                "eot_token" | "eom_token" => {
                    let more =
                        || ends.iter().filter(|end| !keys.iter().any(|(key, id)| ENDS.contains(key) && id == *end));
                    named(role)?.or_else(|| more().next().copied())
                }
                _ => named(role)?,
            };
            if let Some(id) = id {
                if id as usize >= tokens.texts.len() {
                    return Err(bad(format!("the {role} has the ID {id}, expected one below {}", tokens.texts.len())));
                }
                keys.push((key, id));
            }
        }
        // BERT's first token is the beginning to programs that read GGUF files.
        if let Some(before) = around.before.filter(|_| words && !keys.iter().any(|(key, _)| *key == ROLES[0].1)) {
            keys.insert(0, (ROLES[0].1, before));
        }
        Ok(keys)
    }

    /// Returns the keys of chat templates. Separate files take precedence.
    pub(super) fn templates(&self) -> Result<Vec<(String, Value)>, FileError> {
        let mut named: Vec<(&str, &str)> = self.templates.iter().map(|(name, text)| (*name, text.as_str())).collect();
        if named.is_empty() {
            named = match &self.config["chat_template"] {
                Json::Null => Vec::new(),
                Json::String(text) => vec![(DEFAULT, text)],
                Json::Array(list) => {
                    list.iter().filter_map(|one| Some((one["name"].as_str()?, one["template"].as_str()?))).collect()
                }
                Json::Object(fields) => {
                    fields.iter().filter_map(|(name, text)| Some((name.as_str(), text.as_str()?))).collect()
                }
                _ => return Err(FileError::field("chat_template", "neither a text nor a list", "templates")),
            };
        }
        let mut keys = Vec::new();
        let mut names = Vec::new();
        for (name, text) in named {
            let key = if name == DEFAULT { TEMPLATE.to_owned() } else { format!("{TEMPLATE}.{name}") };
            names.extend((name != DEFAULT).then(|| name.to_owned()));
            keys.push((key, Value::Text(text.to_owned())));
        }
        if !names.is_empty() {
            keys.push((TEMPLATES.to_owned(), Value::Array(Array::Texts(names))));
        }
        Ok(keys)
    }
}

/// The name of the main template.
const DEFAULT: &str = "default";
/// Files of templates, and the names of these.
const TEMPLATE_FILES: [(&str, &str); 2] =
    [("chat_template.jinja", DEFAULT), ("additional_chat_templates/tool_use.jinja", "tool_use")];

/// The keys of tokens that end generation.
const ENDS: [&str; 3] = [ROLES[1].1, ROLES[7].1, ROLES[8].1];
