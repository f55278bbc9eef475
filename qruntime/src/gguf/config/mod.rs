//! The small files of a Hugging Face folder, from a GGUF file's metadata and back: `config.json`,
//! `generation_config.json`, and what sentence-transformers adds.
//!
//! Fields and keys that say the same are in one table ([`rows`](super::rows)). The other files of
//! this module read what is said in another way: rotations, windows, and what the names of tensors
//! tell.

mod card;
mod generation;
mod read;
mod rope;
mod sentence;
mod windows;
mod write;

use serde_json::Value;

pub use write::{About, Description, ReadFile, metadata_of};

use super::Gguf;
use crate::error::Error;
use read::Source;

/// Returns the files of a folder that describe the network, by name. `read` returns the bytes of a
/// tensor, by its index: the factors of rotations are tensors.
///
/// # Errors
/// If the architecture is not known; if a key or a tensor is missing, or says what networks of
/// this family cannot do.
pub fn config_files(
    gguf: &Gguf,
    read: &dyn Fn(usize) -> Result<Vec<u8>, Error>,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let source = Source::new(gguf, read)?;
    let config = read::config(&source)?;
    let vocabulary = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0) as usize;
    let mut files = vec![("config.json", text(&config.into()))];
    if let Some(generation) = generation::read(source.metadata, vocabulary)? {
        files.push(("generation_config.json", text(&generation.into())));
    }
    files.extend(sentence::read(&source)?.into_iter().map(|(name, value)| (name, text(&value))));
    Ok(files)
}

fn text(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}

/// Returns Gemma's `query_pre_attn_scalar`, which programs know: the length of a head, except in
/// the largest models.
fn scalar_of_scores(layers: usize, hidden: usize, heads: usize, head_dim: usize) -> usize {
    match layers {
        46 | 62 => hidden / heads.max(1),
        _ => head_dim,
    }
}
