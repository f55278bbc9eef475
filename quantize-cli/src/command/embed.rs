//! `quantize embed`: a vector for every line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use ndarray::{Array2, ArrayView1};
use qruntime::Encoder;

use super::{cancel_on_signal, open_encoder, pool};
use crate::args::EmbedArgs;
use crate::place::{self, Destination};
use crate::report::{Answer, quoted};

pub(super) fn run(args: &EmbedArgs, out: &mut (dyn Write + Send)) -> Result<Answer> {
    pool(args.machine.threads)?.install(|| embed(args, out))
}

fn embed(args: &EmbedArgs, out: &mut (dyn Write + Send)) -> Result<Answer> {
    let destination = args.output.as_deref().map(|path| destination(args, path)).transpose()?;
    let encoder = open_encoder(&args.model, args.machine.huge_pages)?;
    let lines: Box<dyn BufRead> = match &args.input {
        Some(path) => {
            Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?))
        }
        None => Box::new(io::stdin().lock()),
    };
    let batch = usize::from(args.batch);
    match &destination {
        None => {
            each_batch(&encoder, lines, batch, &AtomicBool::new(false), |vectors| {
                for vector in vectors.outer_iter() {
                    write_json(out, vector)?;
                }
                Ok(out.flush()?)
            })?;
            Ok(Answer::yes(String::new()))
        }
        Some(destination) => {
            let cancelled = cancel_on_signal();
            let embed = |write: &mut dyn FnMut(&Array2<f32>) -> Result<()>| {
                each_batch(&encoder, lines, batch, &cancelled, write)
            };
            let columns = encoder.config().dimensions;
            let rows = write_npy(destination, columns, embed)?;
            Ok(Answer::yes(format!("wrote {}: {rows} vectors of {columns}\n", quoted(destination.path()))))
        }
    }
}

/// Checks where the vectors go.
fn destination(args: &EmbedArgs, path: &Path) -> Result<Destination> {
    let npy = path.extension().is_some_and(|extension| extension == "npy");
    ensure!(npy, "--output {}, expected a name that ends in .npy", quoted(path));
    let inputs: Vec<&Path> = [&args.model].into_iter().chain(&args.input).map(PathBuf::as_path).collect();
    Destination::new(path, &place::VECTORS, &inputs, args.force)
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

/// Embeds lines, some at a time, until `cancelled` becomes true.
fn each_batch(
    encoder: &Encoder,
    mut lines: impl BufRead,
    batch: usize,
    cancelled: &AtomicBool,
    mut each: impl FnMut(&Array2<f32>) -> Result<()>,
) -> Result<()> {
    let mut texts = Vec::with_capacity(batch);
    let mut number = 0;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        texts.clear();
        while texts.len() < batch {
            number += 1;
            let Some(line) = next_line(&mut lines).with_context(|| format!("cannot read line {number}"))? else {
                break;
            };
            texts.push(line);
        }
        if texts.is_empty() {
            return Ok(());
        }
        each(&encoder.embed(&texts)?)?;
    }
}

/// A vector as a line of JSON.
fn write_json(out: &mut (dyn Write + Send), vector: ArrayView1<'_, f32>) -> Result<()> {
    let mut line = serde_json::to_vec(vector.as_slice().context("a row")?)?;
    line.push(b'\n');
    Ok(out.write_all(&line)?)
}

/// Writes rows of numbers as NumPy keeps them (format version 1.0), whole or not at all. Returns how many they were.
fn write_npy(
    destination: &Destination,
    columns: usize,
    rows: impl FnOnce(&mut dyn FnMut(&Array2<f32>) -> Result<()>) -> Result<()>,
) -> Result<usize> {
    /// The header's length, which is a multiple of 64: with the largest number of rows it takes 92 bytes.
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
