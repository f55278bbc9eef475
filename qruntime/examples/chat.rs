//! `cargo run --release -p qruntime --example chat MODEL`: a conversation with a language model. A
//! model without a chat template continues the typed text instead.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example that a person talks to")]

use std::error::Error;
use std::io::{self, BufRead, Write};

use qruntime::{CausalLm, Message, Sample, SampleOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: chat MODEL")?;
    let lm = CausalLm::open(folder)?;
    let (tokenizer, template) = (lm.tokenizer()?, lm.chat_template()?);
    let mut sampler = Sample::new(SampleOptions::default())?;
    let mut session = lm.session();
    let mut messages = Vec::new();

    eprint!("> ");
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            eprint!("> ");
            continue;
        }
        let tokens = match &template {
            Some(template) => {
                messages.push(Message::new("user", line));
                tokenizer.encode_chat(&messages, |messages| template.render(messages, true))?
            }
            None => tokenizer.encode_plain(&line, true)?,
        };
        // The common beginning with the session's tokens is not recomputed.
        let common = session.tokens().iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        session.rewind(common);
        match session.feed(&tokens[common..]) {
            Err(error @ qruntime::Error::Context { .. }) => {
                messages.pop();
                eprint!("{error}\n> ");
                continue;
            }
            fed => drop(fed?),
        }

        let mut answer = String::new();
        let mut stream = tokenizer.stream(&tokens);
        let mut say = |text: String| {
            print!("{text}");
            answer += &text;
            io::stdout().flush()
        };
        for token in session.generate(&mut sampler) {
            say(stream.push(token?)?)?;
        }
        say(stream.finish()?)?;
        messages.push(Message::new("assistant", answer));
        eprint!("\n> ");
    }
    Ok(())
}
