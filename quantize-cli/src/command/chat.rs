//! `quantize run --chat`: a conversation in the form of the model's chat template.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use qruntime::{ChatTemplate, Date, Message};
use serde_json::{Map, Value};

use super::run::{Turn, Writer, read_stdin};
use crate::args::RunArgs;
use crate::report::Answer;

/// Holds a conversation, or answers once if there is a prompt.
pub(super) fn chat(args: &RunArgs, writer: &mut Writer<'_>, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let model = args.model.display();
    let template = writer.session.lm().chat_template()?;
    let template = template.with_context(|| {
        format!("{model} has no chat template: it goes on from texts, so leave out --chat and give it a --prompt")
    })?;
    let template = &Template { template: template.with_date(today()), variables: variables(args)? };
    writer.end = template.template.end().and_then(|token| writer.tokenizer.token(token));
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::new("system", text)).collect();
    if let Some(prompt) = &args.prompt {
        let said = if prompt == "-" { read_stdin()? } else { prompt.clone() };
        let turn = say(writer, template, &mut messages, said, out)?;
        writer.print_figures(&turn)?;
        return Ok(Answer::yes(String::new()));
    }
    let terminal = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().lines();
    let mut last = None;
    loop {
        if terminal {
            let _ = write!(io::stderr(), "> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("cannot read stdin")?;
        if !line.trim().is_empty() {
            last = Some(say(writer, template, &mut messages, line, out)?);
        }
    }
    if let Some(turn) = last {
        writer.print_figures(&turn)?;
    }
    Ok(Answer::yes(String::new()))
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

/// Says something and has it answered.
fn say(
    writer: &mut Writer<'_>,
    template: &Template,
    messages: &mut Vec<Message>,
    said: String,
    out: &mut (dyn Write + Send),
) -> Result<Turn> {
    messages.push(Message::new("user", said));
    let render = |messages: &[Message]| template.template.render_with(messages, &template.variables, true);
    let tokens = match writer.special_tokens {
        true => writer.tokenizer.encode(&render(messages)?, false)?,
        false => writer.tokenizer.encode_chat(messages, render)?,
    };
    let read = writer.read(&tokens)?;
    let turn = writer.write(read, out)?;
    out.write_all(b"\n")?;
    out.flush()?;
    messages.push(Message::new("assistant", turn.text.trim()));
    Ok(turn)
}

fn today() -> Date {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Date::from_days((seconds / 86_400) as u32)
}
