//! The way back: the files of a folder, as the tokenizer of a GGUF file.
//!
//! What GGUF has no key for is an error, unless every program that reads GGUF files has its own
//! fixed answer, which is then what the folder has to say.

mod around;
mod file;
mod merges;
mod roles;
mod splits;
mod tokens;

use serde_json::Value as Json;

use super::byte_level::MERGES;
use super::sentencepiece::{PREFIX, TRIM};
use super::vocabulary::{KINDS, SCORES, TOKENS};
use super::wordpiece::{ACCENTS, LOWERCASE};
use super::{BEGIN, END, MODEL, PRE, unigram};
use crate::error::{Error, FileError, FileErrorKind};
use crate::gguf::{Array, ReadFile, Value};
use around::Around;
use file::{File, Pieces};
use roles::Folder;
use tokens::Tokens;

const TOKENIZER: &str = "tokenizer.json";

/// Returns the metadata of the tokenizer in a folder, of which `read` reads the files, in the usual
/// order. `tokenizer.json` must exist. `architecture` is GGUF's name of the network's architecture,
/// and `embeddings` the number of tokens that it has embeddings for.
///
/// Lists of integers are written as 32 bits, but for `tokenizer.ggml.precompiled_charsmap`, whose
/// are bytes.
///
/// # Errors
/// If a file cannot be read, or says what a GGUF file cannot say.
pub fn tokenizer_metadata(
    read: &ReadFile<'_>,
    architecture: &str,
    embeddings: usize,
) -> Result<Vec<(String, Value)>, Error> {
    let Some(tokenizer) = read(TOKENIZER)? else {
        return Err(bad("missing, expected the file: a GGUF file is made of no other tokenizer").into());
    };
    let file = File::parse(&tokenizer)?;
    let config = Folder::read(read)?;
    let around = Around::of(&file.post_processor)?;
    let mut tokens = Tokens::of(&file, embeddings)?;
    let mut keys = Keys(Vec::new());
    let mut flags = Vec::new();
    match file.model.kind.as_str() {
        "BPE" if splits::spells_bytes(&file) => {
            let row = splits::row(&file)?;
            keys.text(MODEL, "gpt2");
            keys.text(PRE, row.names[0]);
            keys.tokens(&tokens);
            keys.push(MERGES, Value::Array(Array::Texts(merges::lines(&file)?)));
        }
        "BPE" => {
            let prefix = splits::prefix(&file)?;
            let scores = merges::scores(&file, &tokens)?;
            if !prefix {
                tokens.unmark_added();
            }
            keys.text(MODEL, "llama");
            keys.text(PRE, super::pre::DEFAULT);
            keys.tokens(&tokens);
            keys.push(SCORES, Value::Array(Array::Floats(scores)));
            flags.push((PREFIX, prefix));
        }
        "WordPiece" => {
            let (lowercase, accents) = splits::words(&file)?;
            around.both()?;
            tokens.mark_beginnings();
            keys.text(MODEL, "bert");
            keys.text(PRE, super::pre::DEFAULT);
            keys.tokens(&tokens);
            flags.push((LOWERCASE, lowercase));
            flags.extend(accents.map(|accents| (ACCENTS, accents)));
        }
        "Unigram" => {
            let (table, trimmed, prefix) = splits::likeliest(&file)?;
            let Pieces::Scored(pieces) = &file.model.vocab else {
                return Err(bad("model.vocab is a map, expected a list").into());
            };
            let mut scores: Vec<f32> = pieces.iter().map(|(_, score)| *score as f32).collect();
            scores.resize(tokens.texts.len(), 0.0);
            keys.text(MODEL, "t5");
            keys.text(PRE, super::pre::DEFAULT);
            keys.tokens(&tokens);
            keys.push(SCORES, Value::Array(Array::Floats(scores)));
            if let Some(table) = table {
                keys.push(unigram::TABLE, Value::Array(Array::Integers(table.into_iter().map(i64::from).collect())));
            }
            flags.extend([(TRIM, trimmed), (PREFIX, prefix)]);
        }
        kind => return Err(bad(format!("model.type {kind:?}, expected BPE, WordPiece or Unigram")).into()),
    }
    tokens.check_spaces(&file, architecture, &keys.0)?;
    for (key, id) in config.ids(&file, &tokens, &around)? {
        keys.push(key, Value::Unsigned(id.into()));
    }
    if file.model.kind != "WordPiece" {
        flags.extend([(BEGIN, around.before.is_some()), (END, around.after.is_some())]);
    }
    for (key, flag) in flags {
        keys.push(key, Value::Bool(flag));
    }
    keys.0.extend(config.templates()?);
    Ok(keys.0)
}

/// The keys and their values.
struct Keys(Vec<(String, Value)>);

impl Keys {
    fn push(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.push(key, Value::Text(text.to_owned()));
    }

    fn tokens(&mut self, tokens: &Tokens) {
        self.push(TOKENS, Value::Array(Array::Texts(tokens.texts.clone())));
        let kinds = tokens.kinds.iter().map(|kind| *kind as i64).collect();
        self.push(KINDS, Value::Array(Array::Integers(kinds)));
    }
}

/// Makes the error of a `tokenizer.json` that a GGUF file cannot express.
fn bad(message: impl Into<String>) -> FileError {
    FileError::new(FileErrorKind::Network, format!("{TOKENIZER}: {}", message.into()))
}

/// Makes the error of a step that a GGUF file cannot express.
fn unsaid(part: &str, step: &Json, expected: &str) -> FileError {
    let mut shown = step.to_string();
    if let Some((end, _)) = shown.char_indices().nth(200) {
        shown.truncate(end);
        shown.push('…');
    }
    bad(format!("{part} {shown}, expected {expected}: a GGUF file cannot say it"))
}
