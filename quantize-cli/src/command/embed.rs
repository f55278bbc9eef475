//! `quantize embed`: a vector for every line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ndarray::{Array2, ArrayView1};
use qruntime::{Encoder, Prompt};

use super::{cancel_on_signal, open_encoder, pool, warn};
use crate::args::EmbedArgs;
use crate::command::answer::Answer;
use crate::place::{self, Destination};
use crate::report::quoted;

pub(super) fn run(args: &EmbedArgs, out: &mut (dyn Write + Send)) -> Result<Answer> {
    pool(args.machine.threads)?.install(|| embed(args, out))
}

fn embed(args: &EmbedArgs, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let destination = args.output.as_deref().map(|path| destination(args, path)).transpose()?;
    let encoder = open_encoder(&args.model, args.machine.huge_pages)?;
    let prompt = match (&args.prompt, &args.prompt_name) {
        (Some(text), _) => Prompt::Text(text),
        (None, Some(name)) => Prompt::Named(name),
        (None, None) => Prompt::Default,
    };
    // A prompt that is not there is reported before anything is read.
    encoder.embed_with(&[""; 0], prompt)?;
    let input: Box<dyn Read + Send> = match &args.input {
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", quoted(path)))?),
        None => Box::new(io::stdin()),
    };
    let cancelled = match args.output {
        Some(_) => cancel_on_signal(),
        // There is nothing to be removed.
        None => Arc::default(),
    };
    let lines = Lines { waiting: read_lines(input, args.batch), batch: args.batch.into(), cancelled };
    match &destination {
        None => {
            embed_lines(&encoder, prompt, lines, &mut |vectors| {
                for vector in vectors.outer_iter() {
                    write_json(out, vector)?;
                }
                Ok(out.flush()?)
            })?;
            Ok(Answer::yes(String::new()))
        }
        Some(destination) => {
            let columns = encoder.config().dimensions;
            let rows = write_npy(destination, columns, |write| embed_lines(&encoder, prompt, lines, write))?;
            Ok(Answer::yes(format!("wrote {}: {rows} vectors of {columns}\n", quoted(destination.path()))))
        }
    }
}

/// Checks where the vectors go.
fn destination(args: &EmbedArgs, path: &Path) -> Result<Destination> {
    let npy = path.extension().is_some_and(|extension| extension == "npy");
    ensure!(npy, "--output {}, expected a name that ends in .npy", quoted(path));
    let inputs: Vec<&Path> = [&args.model].into_iter().chain(&args.input).map(PathBuf::as_path).collect();
    Ok(Destination::new(path, &place::VECTORS, &inputs, args.force)?)
}

/// The longest line, in bytes.
const MAX_LINE: u64 = 16 << 20;

/// The next line, without what ends it.
fn next_line(lines: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    if lines.by_ref().take(MAX_LINE + 1).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    ensure!(line.len() as u64 <= MAX_LINE, "more than {MAX_LINE} bytes");
    let end = line.trim_end_matches('\n').trim_end_matches('\r').len();
    line.truncate(end);
    Ok(Some(line))
}

/// Reads lines in a thread of its own: whoever asks for them learns whether more are waiting, and
/// is not held up by a pipe. About as many are kept as are asked for together.
fn read_lines(input: Box<dyn Read + Send>, batch: u16) -> Receiver<Result<String>> {
    let (sender, receiver) = sync_channel(batch.into());
    thread::spawn(move || {
        let mut input = BufReader::new(input);
        for number in 1u64.. {
            let line = next_line(&mut input).with_context(|| format!("cannot read line {number}")).transpose();
            let Some(line) = line else { return };
            let is_last = line.is_err();
            // Nobody listens any more if something else has failed.
            if sender.send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Lines as they come.
struct Lines {
    waiting: Receiver<Result<String>>,
    /// How many are taken together, at most.
    batch: usize,
    /// Whether to stop.
    cancelled: Arc<AtomicBool>,
}

impl Lines {
    /// Waits for a line, and takes those that are waiting behind it. None are left if it is empty.
    fn next_batch(&self) -> Result<Vec<String>> {
        const PATIENCE: Duration = Duration::from_millis(50);
        let mut lines = Vec::new();
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            match self.waiting.recv_timeout(PATIENCE) {
                Ok(line) => break lines.push(line?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(lines),
            }
        }
        while lines.len() < self.batch
            && let Ok(line) = self.waiting.try_recv()
        {
            lines.push(line?);
        }
        Ok(lines)
    }
}

/// Embeds lines, as many at a time as are there, and says at the end how many did not fit the
/// model.
fn embed_lines(
    encoder: &Encoder,
    prompt: Prompt<'_>,
    lines: Lines,
    each: &mut dyn FnMut(&Array2<f32>) -> Result<()>,
) -> Result<()> {
    let (mut count, mut cut) = (0u64, 0u64);
    loop {
        let texts = lines.next_batch()?;
        if texts.is_empty() {
            break;
        }
        let embeddings = encoder.embed_with(&texts, prompt)?;
        each(&embeddings.vectors)?;
        count += texts.len() as u64;
        cut += embeddings.cut.iter().filter(|cut| **cut).count() as u64;
    }
    if cut > 0 {
        warn(&format!("{cut} of {count} lines were cut to {} tokens, the model's length", encoder.config().max_tokens));
    }
    Ok(())
}

/// A vector as a line of JSON.
fn write_json(out: &mut (dyn Write + Send), vector: ArrayView1<'_, f32>) -> Result<()> {
    let mut line = serde_json::to_vec(vector.as_slice().context("a row")?)?;
    line.push(b'\n');
    Ok(out.write_all(&line)?)
}

/// Writes rows of numbers as NumPy keeps them (format version 1.0), whole or not at all. Returns
/// how many they were.
fn write_npy(
    destination: &Destination,
    columns: usize,
    rows: impl FnOnce(&mut dyn FnMut(&Array2<f32>) -> Result<()>) -> Result<()>,
) -> Result<usize> {
    /// The header's length, which is a multiple of 64: with the largest number of rows it takes 92
    /// bytes.
    const HEADER: usize = 128;
    let header = |rows: usize| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend(((HEADER - 10) as u16).to_le_bytes());
        header.extend(text.as_bytes());
        header.resize(HEADER - 1, b' ');
        header.push(b'\n');
        header
    };
    let failed = || format!("cannot write {}", quoted(destination.path()));
    let temporary = destination.temporary()?;
    let mut file = BufWriter::new(File::create(temporary.path()).with_context(failed)?);
    file.write_all(&header(0)).with_context(failed)?;
    let mut count = 0;
    rows(&mut |vectors| {
        count += vectors.nrows();
        for x in vectors {
            file.write_all(&x.to_le_bytes()).with_context(failed)?;
        }
        Ok(())
    })?;
    file.rewind().with_context(failed)?;
    file.write_all(&header(count)).with_context(failed)?;
    file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).with_context(failed)?;
    destination.commit(temporary)?;
    Ok(count)
}
