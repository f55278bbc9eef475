//! Conversations as text, in the form that a model was trained on: its chat template.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, context};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::{MAX_TEXT, special};
use crate::checkpoint::{read_json_within, read_text};
use crate::error::{Error, FileError, FileErrorKind};

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who: `system`, `user`, `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// What `role` said.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The chat template of a model, a program in Jinja that comes with it: in `chat_template.jinja`, or in `tokenizer_config.json`. It is run as transformers runs it.
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
    environment: Environment<'static>,
    path: PathBuf,
    end: Option<String>,
}

/// The name of the only template of an environment.
const NAME: &str = "chat";

/// Tokens that templates know by these names, where a tokenizer has them.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What may come with messages, and does not here. Templates ask whether it is none, and some whether it is defined.
const ABSENT: [&str; 2] = ["tools", "documents"];

/// Steps that a template may take: some thousand for each of a thousand messages.
const FUEL: u64 = 2_000_000;

/// Bytes that a step is worth: 128 MB are worth all.
const BYTES: u64 = 64;

impl ChatTemplate {
    /// The template in a folder, if it has one. Of several with names it is the one named `default`.
    ///
    /// # Errors
    /// If a file cannot be read, or the template is no Jinja.
    pub fn open(folder: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let (file, config) =
            (folder.as_ref().join("chat_template.jinja"), folder.as_ref().join("tokenizer_config.json"));
        let fields: Value = if config.exists() { read_json_within(&config, MAX_TEXT)? } else { Value::Null };
        let (path, template) = if file.exists() {
            let bad = |_| FileError::new(FileErrorKind::Network, "not UTF-8").in_file(&file);
            let template = String::from_utf8(read_text(&file, MAX_TEXT)?).map_err(bad)?;
            (file, template)
        } else {
            match named(&fields["chat_template"]) {
                Some(template) => (config, template.to_owned()),
                None => return Ok(None),
            }
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual marks"));
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, template).map_err(|error| refuse(&path, &error))?;
        for name in TOKENS {
            // One that there is not is undefined, and not none, which would be written as a word.
            if let Some(token) = special(&fields, name) {
                environment.add_global(name, token.to_owned());
            }
        }
        for name in ABSENT {
            environment.add_global(name, ());
        }
        Ok(Some(Self { environment, path, end: special(&fields, "eos_token").map(str::to_owned) }))
    }

    /// Tells templates that ask for it what day it is; others do not change. A library has no clock.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        self.environment.add_function("strftime_now", move |format: &str| date.format(format));
        self
    }

    /// The token that ends what the model says, as the tokenizer has it.
    #[must_use]
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// The text of a conversation. With `ask`, it ends where the model's answer begins.
    ///
    /// # Errors
    /// If the template refuses: some know only certain roles, or want them in a certain order.
    pub fn render(&self, messages: &[Message], ask: bool) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).expect("the one that was added");
        template
            .render(context! { messages => Serde(messages), add_generation_prompt => ask })
            .map_err(|error| refuse(&self.path, &error))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatTemplate({:?})", self.path)
    }
}

/// A template, or of several the default one.
fn named(templates: &Value) -> Option<&str> {
    templates.as_str().or_else(|| {
        let default = templates.as_array()?.iter().find(|template| template["name"] == "default")?;
        default["template"].as_str()
    })
}

fn refuse(path: &Path, error: &JinjaError) -> Error {
    FileError::new(FileErrorKind::Network, format!("chat template: {error}")).in_file(path).into()
}

/// What templates say when they cannot go on.
fn raise(message: &str) -> Result<Jinja, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// JSON as Python writes it, which is what models have seen. The interpreter takes steps for it when it is there; it must not become longer than those that are left.
fn to_json(state: &State<'_, '_>, value: &Jinja, options: Kwargs) -> Result<String, JinjaError> {
    let left = state.fuel_levels().map_or(FUEL, |(_, left)| left).saturating_mul(BYTES);
    let mut text = Limited { text: Vec::new(), most: usize::try_from(left).unwrap_or(usize::MAX) };
    let failed = |error: serde_json::Error| match error.is_io() {
        true => JinjaError::from(ErrorKind::OutOfFuel),
        false => JinjaError::new(ErrorKind::BadSerialization, error.to_string()),
    };
    match options.get::<Option<usize>>("indent")? {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)).map_err(failed)?,
    }
    Ok(String::from_utf8(text.text).expect("JSON is text"))
}

/// Text that may have so many bytes.
struct Limited {
    text: Vec<u8>,
    most: usize,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.text.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{"a": 1, "b": [2, 3]}`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The year.
    pub year: i32,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day, 1 to 31.
    pub day: u8,
}

impl Date {
    /// The day that so many days are after 1 January 1970 (Hinnant, "chrono-compatible low-level date algorithms", 2013).
    #[must_use]
    pub fn from_days(days: u32) -> Self {
        let days = i64::from(days) + 719_468;
        let era = days / 146_097;
        let of_era = days % 146_097;
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self { year: (year + 400 * era + i64::from(month <= 2)) as i32, month: month as u8, day: day as u8 }
    }

    /// As `strftime` writes it: `%Y`, `%y`, `%m`, `%B`, `%b`, `%d`, `%%`; others are left as they are.
    fn format(self, format: &str) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let month = MONTHS[usize::from(self.month.clamp(1, 12) - 1)];
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match (c, chars.clone().next()) {
                ('%', Some('Y')) => text += &self.year.to_string(),
                ('%', Some('y')) => text += &format!("{:02}", self.year.rem_euclid(100)),
                ('%', Some('m')) => text += &format!("{:02}", self.month),
                ('%', Some('B')) => text += month,
                ('%', Some('b')) => text += &month[..3],
                ('%', Some('d')) => text += &format!("{:02}", self.day),
                ('%', Some('%')) => text.push('%'),
                _ => {
                    text.push(c);
                    continue;
                }
            }
            chars.next();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a `tokenizer_config.json`.
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
        assert!(template(&endless).render(&[], true).expect_err("too long").to_string().contains("fuel"));
        let large =
            "{% set ns = namespace(x='12345678') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
        let large = serde_json::json!({ "chat_template": large });
        assert!(template(&large).render(&[], true).expect_err("too large").to_string().contains("fuel"));
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
    fn days_have_dates() {
        for (days, year, month, day) in [
            (0, 1970, 1, 1),
            (11_016, 2000, 2, 29),
            (20_782, 2026, 11, 25),
            (47_540, 2100, 2, 28),
            (47_541, 2100, 3, 1),
        ] {
            assert_eq!(Date::from_days(days), Date { year, month, day }, "day {days}");
        }
        let config = serde_json::json!({ "chat_template": "{{ strftime_now('%d %b %Y, %B %y %m 100%% %q') }}" });
        let dated = template(&config).with_date(Date { year: 2026, month: 3, day: 5 });
        assert_eq!(dated.render(&[], true).expect("a text"), "05 Mar 2026, March 26 03 100% %q");
        // Templates ask whether there is a clock.
        let asks = serde_json::json!({ "chat_template": "{{ strftime_now is defined }}" });
        assert_eq!(template(&asks).render(&[], true).expect("a text"), "False");
    }
}
