//! `quantize run --chat`: a conversation in the form of the model's chat template.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use qruntime::{ChatTemplate, Date, Message};
use serde_json::{Map, Value};

use super::interrupt::Stop;
use super::run::{Turn, Writer, read_stdin};
use crate::args::RunArgs;
use crate::command::answer::Answer;
use crate::report::quoted;

/// Holds a conversation, or answers once if there is a prompt.
pub(super) fn chat(args: &RunArgs, writer: &mut Writer<'_>, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let model = quoted(&args.model);
    let template = writer.session.lm().chat_template()?;
    let template = template.with_context(|| {
        format!("{model} has no chat template: it goes on from texts, so leave out --chat and give it a --prompt")
    })?;
    let template = Template { template: template.with_date(today()), variables: variables(args)? };
    writer.end = template.template.end().and_then(|token| writer.tokenizer.token(token));
    let system = args.system.iter().map(|text| Message::new("system", text)).collect();
    let mut conversation = Conversation { template, messages: system };
    if let Some(prompt) = &args.prompt {
        let said = if prompt == "-" { read_stdin()? } else { prompt.clone() };
        let turn = conversation.say(writer, said, None, out)?;
        writer.print_figures(&turn)?;
        return Ok(Answer::yes(String::new()));
    }
    converse(&mut conversation, writer, out)
}

/// Answers line after line until stdin ends.
///
/// In a terminal Ctrl-C stops the answer, and the conversation goes on; between answers it ends the
/// program. A line that does not fit into the context is refused and forgotten.
fn converse(conversation: &mut Conversation, writer: &mut Writer<'_>, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let terminal = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().lines();
    let mut last = None;
    loop {
        if terminal {
            let _ = write!(io::stderr(), "> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("cannot read stdin")?;
        if line.trim().is_empty() {
            continue;
        }
        let stop = terminal.then(Stop::on_interrupt);
        match conversation.say(writer, line, stop.as_ref(), out) {
            Ok(turn) => last = Some(turn),
            Err(error) if error.is::<TooLong>() => note(&format!("{error}; say it in fewer words")),
            Err(error) => return Err(error),
        }
    }
    if let Some(turn) = last {
        writer.print_figures(&turn)?;
    }
    Ok(Answer::yes(String::new()))
}

/// Tells a person something that is no part of the conversation.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "quantize: {text}");
}

/// A template with the variables that the command line gives it.
struct Template {
    template: ChatTemplate,
    variables: Map<String, Value>,
}

/// The longest file of tools, in bytes.
const MAX_TOOLS: u64 = 16 << 20;

/// The variables of the template: `--tools` and `--template-arg`.
fn variables(args: &RunArgs) -> Result<Map<String, Value>> {
    let mut variables = Map::new();
    if let Some(path) = &args.tools {
        variables.insert("tools".to_owned(), tools(path)?);
    }
    for argument in &args.template_arg {
        let (name, value) = argument.split_once('=').filter(|(name, _)| !name.is_empty()).with_context(|| {
            format!("--template-arg {argument:?}, expected a name, = and a value: enable_thinking=false")
        })?;
        ensure!(
            !["messages", "add_generation_prompt"].contains(&name),
            "--template-arg {name}: a conversation sets that itself"
        );
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        ensure!(variables.insert(name.to_owned(), value).is_none(), "--template-arg {name}: {name} is given twice");
    }
    Ok(variables)
}

/// A list of tools in a file.
fn tools(path: &Path) -> Result<Value> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("--tools: cannot open {path:?}"))?;
    file.take(MAX_TOOLS + 1).read_to_string(&mut text).with_context(|| format!("--tools: cannot read {path:?}"))?;
    ensure!(text.len() as u64 <= MAX_TOOLS, "--tools: {path:?} is longer than {MAX_TOOLS} bytes");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match serde_json::from_str(text).with_context(|| format!("--tools: {path:?} is not JSON"))? {
        Value::Array(tools) if tools.iter().all(Value::is_object) => Ok(tools.into()),
        _ => bail!("--tools: {path:?} is not a list of objects, each the description of a function"),
    }
}

/// What was said so far, in the form of a template.
struct Conversation {
    template: Template,
    /// Instructions first, if there are any; then what was said and what was answered, in turn.
    messages: Vec<Message>,
}

/// A message that does not fit into the context, even alone.
#[derive(Debug)]
struct TooLong {
    tokens: usize,
    context: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, context } = self;
        write!(f, "{tokens} tokens, expected fewer than {context}, the context, with room for an answer")
    }
}

impl std::error::Error for TooLong {}

impl Conversation {
    /// Says something and writes the answer as it comes, until its end or until `stop` is
    /// requested.
    fn say(
        &mut self,
        writer: &mut Writer<'_>,
        said: String,
        stop: Option<&Stop>,
        out: &mut (dyn Write + Send),
    ) -> Result<Turn> {
        self.messages.push(Message::new("user", said));
        let tokens = match self.fit(writer) {
            Ok(tokens) => tokens,
            Err(error) => {
                // What cannot be said is not part of the conversation.
                self.messages.pop();
                return Err(error);
            }
        };
        let read = writer.read(&tokens, stop)?;
        let turn = writer.write(read, stop, out)?;
        out.write_all(b"\n")?;
        out.flush()?;
        self.messages.push(Message::new("assistant", turn.text.trim()));
        Ok(turn)
    }

    /// The tokens of the conversation. Where they leave too little of the context for an answer,
    /// the oldest turns are forgotten until half of it is free, so that not every further line has
    /// all of the rest read anew.
    fn fit(&mut self, writer: &Writer<'_>) -> Result<Vec<u32>> {
        let context = writer.session.context();
        let mut tokens = self.encode(writer)?;
        if tokens.len() + writer.max_tokens.min(context / 4) > context {
            let mut forgotten = 0;
            while tokens.len() + writer.max_tokens.min(context / 2) > context && self.forget_turn() {
                forgotten += 1;
                tokens = self.encode(writer)?;
            }
            if forgotten > 0 {
                let turns = if forgotten == 1 { "turn is" } else { "turns are" };
                note(&format!("the context of {context} tokens is full: the oldest {forgotten} {turns} forgotten"));
            }
        }
        match tokens.len() {
            length if length < context => Ok(tokens),
            length => Err(TooLong { tokens: length, context }.into()),
        }
    }

    fn encode(&self, writer: &Writer<'_>) -> Result<Vec<u32>> {
        let Template { template, variables } = &self.template;
        let render = |messages: &[Message]| template.render_with(messages, variables, true);
        Ok(match writer.special_tokens {
            true => writer.tokenizer.encode(&render(&self.messages)?, false)?,
            false => writer.tokenizer.encode_chat(&self.messages, render)?,
        })
    }

    /// Removes the oldest line and its answer; instructions and the newest line stay. Whether there
    /// was one.
    fn forget_turn(&mut self) -> bool {
        let mut said = self.messages.iter().enumerate().filter(|(_, message)| message.role == "user");
        let (Some((oldest, _)), Some((next, _))) = (said.next(), said.next()) else { return false };
        self.messages.drain(oldest..next);
        true
    }
}

fn today() -> Date {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Date::from_days((seconds / 86_400) as u32)
}
