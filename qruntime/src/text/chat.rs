//! Chat templates: conversations as text, in the form that a model was trained on.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::date::Date;
use super::jinja::{MAX_TEMPLATE, Template};
use super::{MAX_TEXT, special};
use crate::error::{Error, FileError, FileErrorKind};
use crate::model_files::ModelFiles;

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The author: `system`, `user`, `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Makes a message by `role`.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The chat template of a model: a Jinja program in the model's `chat_template.jinja`,
/// `additional_chat_templates/`, `tokenizer_config.json` or `chat_template.json`. It runs as in
/// transformers, within limits of time and memory that `docs/security.md` states.
///
/// ```no_run
/// use qruntime::{CausalLm, Message};
///
/// let lm = CausalLm::open("some-chat-model")?;
/// let template = lm.chat_template()?.expect("a model for conversations");
/// let messages = [Message::new("user", "Who are you?")];
/// let tokens = lm.tokenizer()?.encode_chat(&messages, |messages| template.render(messages, true))?;
/// # Ok::<(), qruntime::Error>(())
/// ```
pub struct ChatTemplate {
    default: Option<(PathBuf, Template)>,
    /// The template for conversations with tools, if it is a different one.
    tool_use: Option<(PathBuf, String)>,
    /// The special tokens, by their names in templates.
    tokens: Map<String, Value>,
    date: Option<Date>,
}

const CONFIG: &str = "tokenizer_config.json";

/// The name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// Variables that may accompany messages. Templates test whether they are none, and some whether
/// they are defined.
const ABSENT: [&str; 2] = ["tools", "documents"];

/// The variables that [`ChatTemplate::render_with`] sets itself.
const OWN: [&str; 2] = ["messages", "add_generation_prompt"];

impl ChatTemplate {
    /// Opens the template in a folder, if it has one. Of several named templates, it uses
    /// `default`, and `tool_use` for conversations with tools.
    ///
    /// # Errors
    /// If a file cannot be read, the template is not valid Jinja, or none of several templates has
    /// one of these names.
    pub fn open(folder: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        Self::read(&ModelFiles::at(folder.as_ref())?)
    }

    /// Opens the template of a model like [`open`](Self::open).
    pub(crate) fn read(files: &ModelFiles) -> Result<Option<Self>, Error> {
        let fields: Value = files.read_json_if(CONFIG, MAX_TEXT)?.unwrap_or_default();
        let Some((default, tool_use)) = sources(files, &fields)? else { return Ok(None) };
        let default = match default {
            Some((path, source)) => {
                let template = Template::parse(&source).map_err(|fault| refuse(&path, &fault))?;
                Some((path, template))
            }
            None => None,
        };
        Ok(Some(Self { default, tool_use, tokens: special_tokens(files, &fields)?, date: None }))
    }

    /// Makes a template from its text. It knows no special tokens: pass those that it writes
    /// (`bos_token`, `eos_token`) as variables to [`render_with`](Self::render_with).
    ///
    /// # Errors
    /// If the text is not valid Jinja, or too long.
    pub fn from_source(source: &str) -> Result<Self, Error> {
        let template = Template::parse(source).map_err(|fault| refuse(Path::new(""), &fault))?;
        Ok(Self { default: Some((PathBuf::new(), template)), tool_use: None, tokens: Map::new(), date: None })
    }

    /// Sets the current date, since a library has no clock. It affects only templates that ask for
    /// the date. A date has no time: templates that write a time write midnight.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        self.date = Some(date);
        self
    }

    /// Returns the text of the token that ends the model's messages, according to the tokenizer.
    #[must_use]
    pub fn end(&self) -> Option<&str> {
        self.tokens.get("eos_token")?.as_str()
    }

    /// Renders a conversation as text. With `ask`, the text ends where the model's answer begins.
    ///
    /// # Errors
    /// If the template refuses: some accept only certain roles, or certain orders of them.
    pub fn render(&self, messages: &[Message], ask: bool) -> Result<String, Error> {
        self.render_with(messages, &Map::new(), ask)
    }

    /// Renders a conversation with named variables: `tools` and `documents`, which any template may
    /// ask for, and others that this one knows, such as `enable_thinking`. A message is anything
    /// that serializes to a JSON object, for example with a list of parts as content, with tool
    /// calls, or with results of tools.
    ///
    /// As in transformers, null fields of messages are left out, and reasoning
    /// (`reasoning_content`, `thinking` or `reasoning`) is available under the first two names.
    ///
    /// ```no_run
    /// use qruntime::CausalLm;
    /// use serde_json::json;
    ///
    /// let template = CausalLm::open("some-chat-model")?.chat_template()?.expect("a model for conversations");
    /// let messages = [
    ///     json!({"role": "user", "content": [{"type": "text", "text": "How warm is it in Oslo?"}]}),
    ///     json!({"role": "assistant", "tool_calls": [
    ///         {"type": "function", "function": {"name": "warmth", "arguments": {"city": "Oslo"}}},
    ///     ]}),
    ///     json!({"role": "tool", "name": "warmth", "content": "12"}),
    /// ];
    /// let tools = json!([{"type": "function", "function": {
    ///     "name": "warmth",
    ///     "description": "The temperature in a city, in degrees.",
    ///     "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    /// }}]);
    /// let text = template.render_with(&messages, &[("tools".to_owned(), tools)].into_iter().collect(), true)?;
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`render`](Self::render). Also if a message is not an object, or a variable is named
    /// `messages` or `add_generation_prompt`, which are arguments here.
    pub fn render_with<M: Serialize>(
        &self,
        messages: &[M],
        variables: &Map<String, Value>,
        ask: bool,
    ) -> Result<String, Error> {
        if let Some(name) = OWN.iter().find(|name| variables.contains_key(**name)) {
            let expected = "names other than messages and add_generation_prompt";
            return Err(Error::Option { name: "variables", found: format!("with {name:?}"), expected });
        }
        let mut all = self.tokens.clone();
        all.extend(ABSENT.map(|name| (name.to_owned(), Value::Null)));
        all.extend(variables.clone());
        let messages = messages.iter().enumerate().map(|(i, message)| as_transformers_has_it(i, message));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        all.insert(OWN[0].to_owned(), messages.into());
        all.insert(OWN[1].to_owned(), ask.into());
        let render =
            |path: &Path, template: &Template| template.render(&all, self.date).map_err(|fault| refuse(path, &fault));
        match (&self.default, &self.tool_use) {
            (_, Some((path, source))) if !all["tools"].is_null() => {
                render(path, &Template::parse(source).map_err(|fault| refuse(path, &fault))?)
            }
            (Some((path, template)), _) => render(path, template),
            (None, tool_use) => {
                let path = tool_use.as_ref().map(|(path, _)| path.as_path()).unwrap_or(Path::new(""));
                Err(refuse(path, &"the only template is the one for conversations with tools"))
            }
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.default.as_ref().map(|(path, _)| path).or(self.tool_use.as_ref().map(|(path, _)| path));
        write!(f, "ChatTemplate({path:?})")
    }
}

/// The text of a template, with its file.
type Source = (PathBuf, String);

/// The templates `default` and `tool_use`.
type Sources = (Option<Source>, Option<Source>);

/// Reads the templates `default` and `tool_use` of a folder. Separate files take precedence over
/// the tokenizer's configuration.
fn sources(files: &ModelFiles, fields: &Value) -> Result<Option<Sources>, Error> {
    let first = |names: &[&str]| {
        let name = names.iter().find(|name| files.exists(name));
        name.map(|name| read_source(files, name)).transpose()
    };
    let main = first(&["chat_template.jinja", "additional_chat_templates/default.jinja"])?;
    let tool_use = first(&["additional_chat_templates/tool_use.jinja"])?;
    if main.is_some() || tool_use.is_some() {
        return Ok(Some((main, tool_use)));
    }
    if let Some(sources) = named(&files.path(CONFIG), &fields["chat_template"])? {
        return Ok(Some(sources));
    }
    // Processors of images and sound had their template here.
    const OLD: &str = "chat_template.json";
    match files.read_json_if::<Value>(OLD, MAX_TEXT)? {
        Some(old) => named(&files.path(OLD), &old["chat_template"]),
        None => Ok(None),
    }
}

fn read_source(files: &ModelFiles, name: &str) -> Result<Source, Error> {
    let path = files.path(name);
    let bad = |_| FileError::new(FileErrorKind::Network, "not UTF-8").in_file(&path);
    let source = String::from_utf8(files.read(name, MAX_TEMPLATE)?).map_err(bad)?;
    Ok((path, source))
}

/// Reads the templates in a field: a single one, or several named ones in a list or an object.
fn named(path: &Path, field: &Value) -> Result<Option<Sources>, Error> {
    let source = |text: &str| (path.to_owned(), text.to_owned());
    let named: Vec<(&str, &str)> = match field {
        Value::String(text) => return Ok(Some((Some(source(text)), None))),
        Value::Array(list) => {
            list.iter().filter_map(|one| Some((one["name"].as_str()?, one["template"].as_str()?))).collect()
        }
        Value::Object(fields) => {
            fields.iter().filter_map(|(name, template)| Some((name.as_str(), template.as_str()?))).collect()
        }
        _ => return Ok(None),
    };
    let find = |wanted: &str| named.iter().rev().find(|(name, _)| *name == wanted).map(|(_, text)| source(text));
    match (find("default"), find(TOOL_USE)) {
        (None, None) => {
            let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
            Err(refuse(path, &format!("named {names:?}, expected one that is named \"default\"")))
        }
        found => Ok(Some(found)),
    }
}

/// Reads the special tokens that templates know by name, as transformers does: fields of
/// `tokenizer_config.json` whose names end with `_token`, and named ones of `extra_special_tokens`.
/// In old folders without `added_tokens_decoder`, `special_tokens_map.json` takes precedence.
fn special_tokens(files: &ModelFiles, config: &Value) -> Result<Map<String, Value>, Error> {
    let mut tokens = Map::new();
    let mut add = |fields: &Value| {
        let names = fields.as_object().into_iter().flatten().map(|(name, _)| name);
        for name in names.filter(|name| name.ends_with("_token")) {
            if let Some(token) = special(fields, name) {
                tokens.insert(name.clone(), token.into());
            }
        }
    };
    add(config);
    add(&config["extra_special_tokens"]);
    add(&config["model_specific_special_tokens"]);
    if config.get("added_tokens_decoder").is_none()
        && let Some(map) = files.read_json_if::<Value>("special_tokens_map.json", MAX_TEXT)?
    {
        add(&map);
        add(&map["extra_special_tokens"]);
    }
    Ok(tokens)
}

/// Converts a message to the form that templates get.
fn as_transformers_has_it(index: usize, message: &impl Serialize) -> Result<Value, Error> {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let expected = "messages that are objects in JSON";
    let wrong = |found: String| Error::Option { name: "messages", found: format!("[{index}]: {found}"), expected };
    let message = match serde_json::to_value(message) {
        Ok(Value::Object(message)) => message,
        Ok(other) => return Err(wrong(other.to_string().chars().take(40).collect())),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let message: Map<String, Value> = message.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let reasoning = REASONING.iter().find_map(|name| message.get(*name)).cloned();
    let Some(reasoning) = reasoning else { return Ok(message.into()) };
    let mut with = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
    with.extend(message);
    with.insert("reasoning_content".to_owned(), reasoning);
    Ok(with.into())
}

/// Makes the error of a template in a file, or without a file if the path is empty.
fn refuse(path: &Path, why: &dyn fmt::Display) -> Error {
    let error = FileError::new(FileErrorKind::Network, format!("chat template: {why}"));
    if path.as_os_str().is_empty() { error } else { error.in_file(path) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens the template of a folder with a `tokenizer_config.json`.
    fn template(config: &Value) -> ChatTemplate {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).expect("a file");
        ChatTemplate::open(folder.path()).expect("a template").expect("there is one")
    }

    fn conversation() -> Vec<Message> {
        vec![Message::new("system", " Be brief. "), Message::new("user", "Hi"), Message::new("assistant", "Ho")]
    }

    #[test]
    fn conversations_have_the_form_of_the_template() {
        let chatml = "{% for m in messages %}\n    {{- '<|im_start|>' + m.role + '\\n' + m['content'].strip() + '<|im_end|>\\n' -}}\n{% endfor %}\n\
                      {% if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' -}}\n{% endif %}";
        let text = template(&serde_json::json!({ "chat_template": chatml })).render(&conversation(), true);
        assert_eq!(
            text.expect("a text"),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>assistant\n"
        );
        // Named templates, tokens as objects, namespaces, loop controls, no request for an answer.
        let named = "{% set ns = namespace(n=0) %}{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\
                     {% set ns.n = ns.n + 1 %}[{{ ns.n }}]{{ m.content | trim | upper }}{% endfor %}{{ eos_token }}";
        let config = serde_json::json!({
            "bos_token": { "content": "<s>" }, "eos_token": "</s>",
            "chat_template": [{ "name": "tool", "template": "no" }, { "name": "default", "template": named }],
        });
        let template = template(&config);
        assert_eq!(template.render(&conversation(), false).expect("a text"), "<s>[1]HI[2]HO</s>");
        assert_eq!(template.end(), Some("</s>"));
    }

    #[test]
    fn messages_go_between_headers_as_for_llama_3() {
        let text = "{% for m in messages %}{% set turn = '<|header|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' %}\
                    {% if loop.first %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}{% endfor %}\
                    {% if tools is not none %}tools{% endif %}{{ pad_token }}\
                    {% if add_generation_prompt %}{{ '<|header|>assistant<|end|>\n\n' }}{% endif %}\n";
        let template =
            template(&serde_json::json!({ "chat_template": text, "bos_token": "<|begin|>", "pad_token": null }));
        assert_eq!(
            template.render(&conversation()[..2], true).expect("a text"),
            "<|begin|><|header|>system<|end|>\n\nBe brief.<|eot|><|header|>user<|end|>\n\nHi<|eot|><|header|>assistant<|end|>\n\n"
        );
    }

    #[test]
    fn roles_alternate_as_for_mistral() {
        let text = "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'].strip() + '\\n\\n' %}\n    \
                    {%- set rest = messages[1:] %}\n{%- else %}\n    {%- set rest = messages %}\n{%- endif %}\n{{- bos_token }}\n\
                    {%- for m in rest %}\n    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\n        \
                    {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n    {%- if m['role'] == 'user' %}\n        \
                    {{- '[INST] ' + (system if loop.last and system is defined else '') + m['content'] + ' [/INST]' }}\n    \
                    {%- else %}\n        {{- ' ' + m['content'] + eos_token }}\n    {%- endif %}\n{%- endfor %}\n";
        let template = template(&serde_json::json!({ "chat_template": text, "bos_token": "<s>", "eos_token": "</s>" }));
        let mut messages = conversation();
        messages.push(Message::new("user", "Why?"));
        let text = template.render(&messages, true).expect("a text");
        assert_eq!(text, "<s>[INST] Hi [/INST] Ho</s>[INST] Be brief.\n\nWhy? [/INST]");
        messages.push(Message::new("user", "Why?"));
        assert!(template.render(&messages, true).expect_err("twice").to_string().contains("roles must alternate"));
    }

    #[test]
    fn templates_say_why_they_refuse() {
        let config = serde_json::json!({ "chat_template": "{{ raise_exception('roles must alternate') }}" });
        let error = template(&config).render(&[], true).expect_err("refused").to_string();
        assert!(error.contains("roles must alternate") && error.contains("tokenizer_config.json"), "{error}");
        let endless = serde_json::json!({ "chat_template": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}" });
        assert!(template(&endless).render(&[], true).expect_err("too long").to_string().contains("more than"));
        let large =
            "{% set ns = namespace(x='12345678') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
        let large = serde_json::json!({ "chat_template": large });
        assert!(template(&large).render(&[], true).expect_err("too large").to_string().contains("more than"));
    }

    #[test]
    fn a_file_of_its_own_comes_first_and_nothing_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(ChatTemplate::open(folder.path()).expect("nothing wrong").is_none());
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"chat_template": "a"}"#).expect("a file");
        std::fs::write(folder.path().join("chat_template.jinja"), "b{{ messages | tojson }}").expect("a file");
        let open = || ChatTemplate::open(folder.path());
        let text = open().expect("a template").expect("one").render(&conversation()[1..2], true);
        assert_eq!(text.expect("a text"), r#"b[{"role": "user", "content": "Hi"}]"#);
        std::fs::write(folder.path().join("chat_template.jinja"), "{% if %}").expect("a file");
        let error = open().expect_err("no Jinja").to_string();
        assert!(error.contains("chat_template.jinja"), "{error}");
    }

    #[test]
    fn a_text_is_a_template_without_tokens_of_its_own() {
        let template = ChatTemplate::from_source("{{ bos_token }}{{ messages[0].content }}").expect("a template");
        assert_eq!(template.end(), None);
        assert_eq!(template.render(&conversation()[1..], true).expect("a text"), "Hi");
        let tokens = Map::from_iter([("bos_token".to_owned(), Value::from("<s>"))]);
        assert_eq!(template.render_with(&conversation()[1..], &tokens, true).expect("a text"), "<s>Hi");
        let error = ChatTemplate::from_source("\n{% if %}").expect_err("no Jinja").to_string();
        assert!(error.starts_with("chat template: ") && error.ends_with("(line 2)"), "{error}");
    }

    #[test]
    fn only_templates_with_a_date_have_a_clock() {
        let config = serde_json::json!({ "chat_template": "{{ strftime_now('%-d %B') if strftime_now is defined }}" });
        assert_eq!(template(&config).render(&[], true).expect("a text"), "");
        let dated = template(&config).with_date(Date { year: 2026, month: 3, day: 5 });
        assert_eq!(dated.render(&[], true).expect("a text"), "5 March");
    }
}
