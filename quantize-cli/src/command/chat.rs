//! `quantize run --chat`: a conversation in the form of the model's chat template.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use qruntime::{ChatTemplate, Date, Message};

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
    let template = template.with_date(today());
    writer.end = template.end().and_then(|token| writer.tokenizer.token(token));
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::new("system", text)).collect();
    if let Some(prompt) = &args.prompt {
        let said = if prompt == "-" { read_stdin()? } else { prompt.clone() };
        let turn = say(writer, &template, &mut messages, said, out)?;
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
            last = Some(say(writer, &template, &mut messages, line, out)?);
        }
    }
    if let Some(turn) = last {
        writer.print_figures(&turn)?;
    }
    Ok(Answer::yes(String::new()))
}

/// Says something and has it answered.
fn say(
    writer: &mut Writer<'_>,
    template: &ChatTemplate,
    messages: &mut Vec<Message>,
    said: String,
    out: &mut (dyn Write + Send),
) -> Result<Turn> {
    messages.push(Message::new("user", said));
    let render = |messages: &[Message]| template.render(messages, true);
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
