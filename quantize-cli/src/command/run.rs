//! `quantize run`: a language model continues a text, or answers.

use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use qruntime::{CausalLm, Error, Sample, Session, SessionOptions, Tokenizer};
use serde::Serialize;

use super::interrupt::Stop;
use super::{chat, open_lm, pool};
use crate::args::RunArgs;
use crate::command::answer::Answer;
use crate::report::three_digits;

/// The generated text, and how fast it came.
#[derive(Serialize)]
struct Report {
    model: String,
    prompt: String,
    text: String,
    /// Why it ends: `end of text`, `tokens` or `context`.
    stopped: &'static str,
    prompt_tokens: usize,
    prompt_tokens_per_second: f64,
    generated_tokens: usize,
    generated_tokens_per_second: f64,
    cache_bytes: usize,
    seed: u64,
    instruction_set: &'static str,
    threads: usize,
}

pub(super) fn run(args: &RunArgs, out: &mut (dyn Write + Send)) -> Result<Answer> {
    pool(args.machine.threads)?.install(|| {
        let lm = open_lm(&args.model, args.machine.huge_pages)?;
        let mut writer = Writer::new(args, &lm)?;
        match args.chat {
            true => chat::chat(args, &mut writer, out),
            false => go_on(args, &mut writer, out),
        }
    })
}

/// A prompt and its continuation.
fn go_on(args: &RunArgs, writer: &mut Writer<'_>, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let prompt = match args.prompt.as_deref() {
        Some("-") => read_stdin()?,
        Some(prompt) => prompt.to_owned(),
        None if !io::stdin().is_terminal() => read_stdin()?,
        None => bail!("--prompt is missing: the text to go on from"),
    };
    let tokens = writer.tokenizer.encode(&prompt, true)?;
    let read = writer.read(&tokens, None)?;
    if args.json {
        let turn = writer.write(read, None, &mut io::sink())?;
        return Answer::of(&writer.report(args, prompt, turn), true, true, |_| String::new());
    }
    writer.screen.write(&prompt, out)?;
    let turn = writer.write(read, None, out)?;
    out.write_all(b"\n")?;
    writer.print_figures(&turn)?;
    Ok(Answer::yes(String::new()))
}

/// The longest prompt, in bytes.
const MAX_PROMPT: u64 = 64 << 20;

pub(super) fn read_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_PROMPT + 1).read_to_string(&mut text).context("cannot read the prompt from stdin")?;
    ensure!(text.len() as u64 <= MAX_PROMPT, "the prompt is longer than {MAX_PROMPT} bytes");
    // Lines end as models have seen them, also in a file of Windows; and the end of the last one,
    // which `echo` writes, is not part of the prompt.
    let text = text.replace("\r\n", "\n");
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// A session and what it takes to let it write.
pub(super) struct Writer<'a> {
    pub(super) session: Session,
    pub(super) tokenizer: &'a Tokenizer,
    sampler: Sample,
    pub(super) max_tokens: usize,
    /// A token that ends the text beside those that the model knows.
    pub(super) end: Option<u32>,
    /// Whether special tokens that stand in what is said are special tokens.
    pub(super) special_tokens: bool,
    screen: Screen,
}

/// Where the text goes. A terminal gets it with what would steer it escaped: models write what they
/// were made to write.
#[derive(Clone, Copy)]
struct Screen {
    is_terminal: bool,
}

impl Screen {
    fn write(self, text: &str, out: &mut (dyn Write + Send)) -> io::Result<()> {
        if !self.is_terminal {
            return out.write_all(text.as_bytes());
        }
        text.chars().try_for_each(|c| match c {
            '\n' | '\t' => write!(out, "{c}"),
            c if c.is_control() => write!(out, "{}", c.escape_default()),
            c => write!(out, "{c}"),
        })
    }
}

/// The error of a prompt, in words of the command line.
fn too_long(error: Error) -> anyhow::Error {
    match error {
        Error::Context { length, context, longest } if longest > context => {
            anyhow!("{length} tokens, expected at most {context}; --ctx raises that up to {longest}")
        }
        Error::Context { length, context, .. } => {
            anyhow!("{length} tokens, expected at most {context}, which this model is made for")
        }
        error => error.into(),
    }
}

/// Tokens that are read between two looks at whether to stop.
const PIECE: usize = 256;

/// What was written in one go.
pub(super) struct Turn {
    pub(super) text: String,
    stopped: &'static str,
    prompt: Pace,
    generation: Pace,
}

/// Tokens, and the time they took.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    tokens: usize,
    time: Duration,
}

impl Pace {
    fn per_second(self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.tokens as f64 / self.time.as_secs_f64() }
    }
}

impl<'a> Writer<'a> {
    fn new(args: &RunArgs, lm: &'a CausalLm) -> Result<Self> {
        let mut options = SessionOptions::default().kv(args.kv());
        if let Some(ctx) = args.ctx {
            let longest = lm.config().context;
            ensure!(ctx as usize <= longest, "--ctx {ctx}, expected at most {longest}, which this model is made for");
            options = options.context(ctx as usize);
        }
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
        Ok(Self {
            session: lm.session_with(options),
            tokenizer: lm.tokenizer()?,
            sampler: Sample::new(args.sampling.options(seed))?,
            max_tokens: args.max_tokens.unwrap_or(usize::MAX),
            end: None,
            special_tokens: args.special_tokens,
            screen: Screen { is_terminal: io::stdout().is_terminal() },
        })
    }

    /// Has the session hold these tokens, or the first of them if `stop` is requested meanwhile.
    /// What it has of them already is kept.
    pub(super) fn read(&mut self, tokens: &[u32], stop: Option<&Stop>) -> Result<Pace> {
        ensure!(!tokens.is_empty(), "the prompt is empty, and this model's texts have no token to begin with");
        let start = Instant::now();
        let known = self.session.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.session.rewind(known.min(tokens.len() - 1));
        let new = &tokens[self.session.len()..];
        // In one go where nobody can stop it, so that what is too long is refused before the work.
        let piece = if stop.is_some() { PIECE } else { new.len() };
        let mut read = 0;
        for piece in new.chunks(piece).take_while(|_| !stop.is_some_and(Stop::requested)) {
            self.session.feed(piece).map_err(too_long)?;
            read += piece.len();
        }
        Ok(Pace { tokens: read, time: start.elapsed() })
    }

    /// Goes on after what was read, and writes the text as it comes, until its end or until `stop`
    /// is requested.
    pub(super) fn write(&mut self, prompt: Pace, stop: Option<&Stop>, out: &mut (dyn Write + Send)) -> Result<Turn> {
        let start = Instant::now();
        let (tokenizer, end) = (self.tokenizer, self.end);
        let mut stream = tokenizer.stream(self.session.tokens());
        let (mut text, mut count, mut ended) = (String::new(), 0, false);
        let going_on = |_: &Result<u32, Error>| !stop.is_some_and(Stop::requested);
        // Of a prompt that was not read to its end nothing goes on.
        let most = if stop.is_some_and(Stop::requested) { 0 } else { self.max_tokens };
        for token in self.session.generate(&mut self.sampler).take(most).take_while(going_on) {
            let token = token?;
            count += 1;
            if Some(token) == end {
                ended = true;
                break;
            }
            let piece = stream.push(token)?;
            self.screen.write(&piece, out)?;
            out.flush()?;
            text += &piece;
        }
        let rest = stream.finish()?;
        self.screen.write(&rest, out)?;
        let stopped = match count {
            _ if stop.is_some_and(Stop::requested) => "interrupt",
            _ if ended => "end of text",
            count if count == self.max_tokens => "tokens",
            _ if self.session.len() == self.session.context() => "context",
            _ => "end of text",
        };
        Ok(Turn { text: text + &rest, stopped, prompt, generation: Pace { tokens: count, time: start.elapsed() } })
    }

    fn report(&self, args: &RunArgs, prompt: String, turn: Turn) -> Report {
        Report {
            model: args.model.display().to_string(),
            prompt,
            text: turn.text,
            stopped: turn.stopped,
            prompt_tokens: turn.prompt.tokens,
            prompt_tokens_per_second: turn.prompt.per_second(),
            generated_tokens: turn.generation.tokens,
            generated_tokens_per_second: turn.generation.per_second(),
            cache_bytes: self.session.cache_bytes(),
            seed: self.sampler.options().seed,
            instruction_set: self.session.lm().model().isa().name(),
            threads: rayon::current_num_threads(),
        }
    }

    /// Tells a person how fast it was. The text alone goes to stdout.
    pub(super) fn print_figures(&self, turn: &Turn) -> Result<()> {
        let line = |pace: Pace| format!("{:>6} tokens  {:>7} tokens/s", pace.tokens, three_digits(pace.per_second()));
        let greedy = self.sampler.options().temperature == 0.0;
        let seed = if greedy { String::new() } else { format!(", seed {}", self.sampler.options().seed) };
        let threads = rayon::current_num_threads();
        writeln!(
            io::stderr(),
            "\nprompt     {}\ngenerated  {}\nstopped at {}; {}, {threads} thread{}{seed}",
            line(turn.prompt),
            line(turn.generation),
            match turn.stopped {
                "tokens" => "--max-tokens",
                "context" => "the end of the context",
                "interrupt" => "Ctrl-C",
                _ => "the end of the text",
            },
            self.session.lm().model().isa().name(),
            if threads == 1 { "" } else { "s" },
        )
        .or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        .context("cannot write to stderr")
    }
}
