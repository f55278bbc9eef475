//! A reference's logits for a text, in a file: so that it need not be computed again, and figures
//! can be compared with llama.cpp's.
//!
//! Two forms, `docs/evaluation.md` has both: llama.cpp's own
//! (`llama-perplexity --kl-divergence-base`), and safetensors with logits in 16 bits that keep
//! more. Rows pass through one at a time; what a file says of its own size is checked against its
//! size before it is believed.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use qruntime::Dtype;
use qruntime::container::{Header, Storage, Writer};
use serde_json::json;

use super::statistics::{Answer, log_sum_exp};
use super::windows::{Score, Windows};
use crate::error::{Context, Error, ErrorKind, Result, Within, bail, ensure};
use crate::report::quoted;

/// The first bytes of a file that llama.cpp wrote.
const MAGIC: &[u8; 8] = b"_logits_";

/// Names of the tensors of our own form.
const TOKENS: &str = "tokens";
const WINDOWS: &str = "windows";
const ROWS: &str = "rows";

/// More tokens than any vocabulary has.
const MAX_VOCABULARY: usize = 1 << 24;

/// How rows are stored. Both forms have two `f32` and then a 16-bit code for each token: the
/// log-probability is the second number plus the first times the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As llama.cpp stores them: codes reach down to e^-16 of the most likely token's probability.
    LlamaCpp,
    /// Safetensors; codes reach down to e^-32, and log-probabilities are those of a sum that is 1
    /// again.
    Safetensors,
}

impl Form {
    /// The form that the name of a file asks for: safetensors for one that ends so, or else
    /// llama.cpp's.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            Self::Safetensors
        } else {
            Self::LlamaCpp
        }
    }

    /// Returns how far below the highest logit codes reach.
    fn range(self) -> f32 {
        match self {
            Self::LlamaCpp => 16.0,
            Self::Safetensors => 32.0,
        }
    }

    /// Numbers of 16 bits in a row; llama.cpp has an even number of codes.
    fn row_len(self, vocabulary: usize) -> usize {
        4 + match self {
            Self::LlamaCpp => vocabulary.next_multiple_of(2),
            Self::Safetensors => vocabulary,
        }
    }

    fn encode(self, logits: &[f32], row: &mut [u8]) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = logits.iter().copied().fold(f32::INFINITY, f32::min).max(highest - self.range());
        let scale = (highest - lowest) / 65535.0;
        let least = (f64::from(lowest) - log_sum_exp(logits)) as f32;
        row[..4].copy_from_slice(&scale.to_le_bytes());
        row[4..8].copy_from_slice(&least.to_le_bytes());
        row[8..].fill(0);
        if scale > 0.0 {
            for (code, &x) in row[8..].as_chunks_mut::<2>().0.iter_mut().zip(logits) {
                *code = (((x - lowest) / scale).round_ties_even() as u16).to_le_bytes();
            }
        }
    }

    fn decode(row: &[u8], to: &mut [f32]) -> Result<()> {
        let numbers = row.as_chunks::<4>().0;
        let (scale, least) = (f32::from_le_bytes(numbers[0]), f32::from_le_bytes(numbers[1]));
        ensure!(
            ErrorKind::Text,
            scale >= 0.0 && scale.is_finite() && least.is_finite(),
            "a row with the scale {scale} and the least log-probability {least}"
        );
        for (x, code) in to.iter_mut().zip(row[8..].as_chunks::<2>().0) {
            *x = scale * f32::from(u16::from_le_bytes(*code)) + least;
        }
        Ok(())
    }
}

/// Writes a file of logits, row by row.
#[derive(Debug)]
pub struct LogitsWriter {
    form: Form,
    path: PathBuf,
    out: Out,
    vocabulary: usize,
    rows_left: usize,
    row: Vec<u8>,
}

#[derive(Debug)]
enum Out {
    LlamaCpp(BufWriter<File>),
    Safetensors(Box<Writer<BufWriter<File>>>),
}

impl LogitsWriter {
    /// Begins a file for predictions of these windows.
    ///
    /// # Errors
    /// If the file cannot be written, or cannot hold the windows: llama.cpp's are all of one
    /// length, and scored in their second half.
    pub fn create(path: &Path, form: Form, vocabulary: usize, windows: &Windows) -> Result<Self> {
        let context = || format!("cannot write {}", quoted(path));
        let rows = windows.predictions();
        let file = || Ok::<_, Error>(BufWriter::new(File::create(path).with_context(ErrorKind::Output, context)?));
        let out = match form {
            Form::LlamaCpp => {
                let len = windows.iter().next().map_or(0, |window| window.tokens.len());
                let fits =
                    windows.iter().all(|window| window.tokens.len() == len && window.first == Score::Half.first(len));
                ensure!(
                    ErrorKind::Text,
                    fits && len > 2,
                    "cannot write {}: llama.cpp's files hold windows of one length, of which the second half is scored; a name that ends in \
                     .safetensors means a file that holds others",
                    quoted(path)
                );
                let mut out = file()?;
                let numbers = [len, vocabulary, windows.iter().count()];
                let numbers = numbers.iter().map(|&n| u32::try_from(n)).collect::<Result<Vec<u32>, _>>();
                let numbers = numbers.with_context(ErrorKind::Text, context)?;
                let tokens = windows.iter().flat_map(|window| window.tokens).copied();
                let bytes = numbers.into_iter().chain(tokens).flat_map(u32::to_le_bytes);
                let bytes: Vec<u8> = MAGIC.iter().copied().chain(bytes).collect();
                out.write_all(&bytes).with_context(ErrorKind::Output, context)?;
                Out::LlamaCpp(out)
            }
            Form::Safetensors => {
                let tokens: Vec<u32> = windows.iter().flat_map(|window| window.tokens).copied().collect();
                let places = windows.iter().flat_map(|window| [window.tokens.len() as u32, window.first as u32]);
                let places: Vec<u32> = places.collect();
                let tensors = vec![
                    (TOKENS.to_owned(), Storage::Plain(Dtype::U32), vec![tokens.len()]),
                    (WINDOWS.to_owned(), Storage::Plain(Dtype::U32), vec![places.len() / 2, 2]),
                    (ROWS.to_owned(), Storage::Plain(Dtype::U16), vec![rows, form.row_len(vocabulary)]),
                ];
                let recipe = json!({"created_by": concat!("quantize ", env!("CARGO_PKG_VERSION")), "logits": 1});
                let mut out = Writer::new(file()?, tensors, recipe).with_context(ErrorKind::Output, context)?;
                // The widest numbers come first, otherwise the order is kept.
                for numbers in [tokens, places] {
                    let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
                    out.write(&bytes).with_context(ErrorKind::Output, context)?;
                }
                Out::Safetensors(Box::new(out))
            }
        };
        let row = vec![0; 2 * form.row_len(vocabulary)];
        Ok(Self { form, path: path.into(), out, vocabulary, rows_left: rows, row })
    }

    /// Appends the logits of the next prediction.
    ///
    /// # Errors
    /// If they are not as many as the vocabulary has tokens, are not finite, are too many rows, or
    /// cannot be written.
    pub fn write(&mut self, logits: &[f32]) -> Result<()> {
        ensure!(
            ErrorKind::Text,
            logits.len() == self.vocabulary && self.rows_left > 0,
            "a row that does not belong into the file"
        );
        ensure!(
            ErrorKind::Text,
            logits.iter().all(|x| x.is_finite()),
            "cannot write {}: a logit is not finite",
            quoted(&self.path)
        );
        self.form.encode(logits, &mut self.row);
        self.rows_left -= 1;
        match &mut self.out {
            Out::LlamaCpp(out) => out.write_all(&self.row),
            Out::Safetensors(out) => out.write(&self.row),
        }
        .with_context(ErrorKind::Output, || format!("cannot write {}", quoted(&self.path)))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If rows are missing, or the rest cannot be written.
    pub fn finish(self) -> Result<()> {
        ensure!(ErrorKind::Text, self.rows_left == 0, "{} rows are missing in {}", self.rows_left, quoted(&self.path));
        let out = match self.out {
            Out::LlamaCpp(out) => Ok(out),
            Out::Safetensors(out) => out.finish(),
        };
        let flushed = out.and_then(|mut out| out.flush());
        flushed.with_context(ErrorKind::Output, || format!("cannot write {}", quoted(&self.path)))
    }
}

/// Reads a file of logits, row by row.
#[derive(Debug)]
pub struct LogitsReader {
    form: Form,
    path: PathBuf,
    file: BufReader<File>,
    vocabulary: usize,
    windows: Windows,
    rows_left: usize,
    row: Vec<u8>,
    log_probabilities: Vec<f32>,
}

impl LogitsReader {
    /// Opens a file of either form.
    ///
    /// # Errors
    /// If it cannot be read or is not one, whole.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot read {}", quoted(path));
        let metadata = fs::metadata(path).with_context(ErrorKind::Io, context)?;
        ensure!(ErrorKind::Text, metadata.is_file(), "{}: not an ordinary file", quoted(path));
        let mut file = File::open(path).with_context(ErrorKind::Io, context)?;
        let mut magic = vec![];
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).with_context(ErrorKind::Io, context)?;
        let opened = if magic == MAGIC {
            Self::open_llama_cpp(path, BufReader::new(file), metadata.len())
        } else {
            Self::open_safetensors(path)
        };
        opened.within(context)
    }

    fn new(form: Form, path: &Path, file: BufReader<File>, vocabulary: usize, windows: Windows) -> Self {
        let rows_left = windows.predictions();
        let row = vec![0; 2 * form.row_len(vocabulary)];
        let log_probabilities = vec![0.0; vocabulary];
        Self { form, path: path.into(), file, vocabulary, windows, rows_left, row, log_probabilities }
    }

    /// `file` is behind the magic bytes.
    fn open_llama_cpp(path: &Path, mut file: BufReader<File>, file_bytes: u64) -> Result<Self> {
        let mut numbers = [0; 12];
        file.read_exact(&mut numbers).context(ErrorKind::Text, "too short for a file of llama.cpp's logits")?;
        let number = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| numbers[4 * i + j])) as usize;
        let (len, vocabulary, count) = (number(0), number(1), number(2));
        ensure!(
            ErrorKind::Text,
            (3..1 << 24).contains(&len),
            "windows of {len} tokens, expected 3 to {}",
            (1 << 24) - 1
        );
        check_vocabulary(vocabulary)?;
        let rows = (len - 1 - len / 2) as u128 * count as u128;
        let tokens = len as u128 * count as u128;
        let expected =
            (MAGIC.len() + numbers.len()) as u128 + 4 * tokens + rows * 2 * Form::LlamaCpp.row_len(vocabulary) as u128;
        ensure!(
            ErrorKind::Text,
            u128::from(file_bytes) == expected,
            "{file_bytes} bytes, expected {expected} for {count} windows of {len} tokens and a vocabulary of {vocabulary}"
        );
        // From here on it is known that the tokens are there.
        let mut windows = Windows::default();
        for _ in 0..count {
            windows.push(&read_numbers(&mut file, len)?, Score::Half.first(len));
        }
        check_tokens(&windows, vocabulary)?;
        Ok(Self::new(Form::LlamaCpp, path, file, vocabulary, windows))
    }

    fn open_safetensors(path: &Path) -> Result<Self> {
        let (header, file) = Header::read(path).map_err(|error| match error {
            qruntime::Error::Io { .. } => Error::from(error),
            _ => Error::from_cause(ErrorKind::Text, error),
        })?;
        let mut file = BufReader::new(file);
        let entry = |name: &str, dtype: Dtype| {
            let entry = header.entries.iter().find(|entry| entry.name() == name && entry.storage().dtype() == dtype);
            entry.with_context(ErrorKind::Text, || format!("not a file of logits: no tensor {name:?} of {dtype}"))
        };
        let mut numbers = |name: &str| {
            let entry = entry(name, Dtype::U32)?;
            file.seek(SeekFrom::Start(entry.range().start as u64))?;
            Ok::<_, Error>((entry.shape().to_vec(), read_numbers(&mut file, entry.elements())?))
        };
        let (_, tokens) = numbers(TOKENS)?;
        let (shape, places) = numbers(WINDOWS)?;
        ensure!(
            ErrorKind::Text,
            shape.len() == 2 && shape[1] == 2,
            "{WINDOWS} of the shape {shape:?}, expected [n, 2]"
        );
        let mut windows = Windows::default();
        let mut rest = tokens.as_slice();
        for (i, &[len, first]) in places.as_chunks::<2>().0.iter().enumerate() {
            let (len, first) = (len as usize, first as usize);
            ensure!(
                ErrorKind::Text,
                len > 1 && len <= rest.len(),
                "window {i} has {len} tokens, of which {} are there",
                rest.len()
            );
            ensure!(ErrorKind::Text, first < len - 1, "window {i} of {len} tokens predicts from token {first} on");
            let (window, others) = rest.split_at(len);
            windows.push(window, first);
            rest = others;
        }
        ensure!(ErrorKind::Text, rest.is_empty(), "{} tokens are in no window", rest.len());
        let rows = entry(ROWS, Dtype::U16)?;
        let &[count, row_len] = rows.shape() else {
            bail!(ErrorKind::Text, "{ROWS} of the shape {:?}, expected [predictions, 4 + vocabulary]", rows.shape());
        };
        let vocabulary = row_len.saturating_sub(Form::Safetensors.row_len(0));
        check_vocabulary(vocabulary)?;
        ensure!(ErrorKind::Text, count == windows.predictions(), "{count} rows, expected {}", windows.predictions());
        check_tokens(&windows, vocabulary)?;
        file.seek(SeekFrom::Start(rows.range().start as u64))?;
        Ok(Self::new(Form::Safetensors, path, file, vocabulary, windows))
    }

    /// Returns the size of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The windows whose predictions the file holds, one row after the other.
    #[must_use]
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Returns how the rows are stored.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Returns the reference's answer for the next prediction.
    ///
    /// # Errors
    /// If there is no further one, it cannot be read, or is no row of log-probabilities.
    pub fn next_row(&mut self) -> Result<Answer<'_>> {
        let context = || format!("cannot read {}", quoted(&self.path));
        ensure!(ErrorKind::Text, self.rows_left > 0, "{}: no further rows", quoted(&self.path));
        self.rows_left -= 1;
        self.file.read_exact(&mut self.row).with_context(ErrorKind::Text, context)?;
        Form::decode(&self.row, &mut self.log_probabilities).with_context(ErrorKind::Text, context)?;
        Ok(match self.form {
            Form::LlamaCpp => Answer::Rounded(&self.log_probabilities),
            Form::Safetensors => Answer::Logits(&self.log_probabilities),
        })
    }
}

fn check_vocabulary(vocabulary: usize) -> Result<()> {
    ensure!(
        ErrorKind::Text,
        (1..=MAX_VOCABULARY).contains(&vocabulary),
        "a vocabulary of {vocabulary}, expected 1 to {MAX_VOCABULARY}"
    );
    Ok(())
}

fn check_tokens(windows: &Windows, vocabulary: usize) -> Result<()> {
    match windows.highest() {
        Some(token) if token as usize >= vocabulary => {
            bail!(ErrorKind::Text, "token {token} in a vocabulary of {vocabulary}")
        }
        Some(_) => Ok(()),
        None => bail!(ErrorKind::Text, "no windows"),
    }
}

/// Reads `count` integers, which the file is known to have.
fn read_numbers(file: &mut BufReader<File>, count: usize) -> Result<Vec<u32>> {
    let mut bytes = vec![0; 4 * count];
    file.read_exact(&mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().copied().map(u32::from_le_bytes).collect())
}

#[cfg(test)]
mod tests;
