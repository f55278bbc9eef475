//! Checks `tokenizer.json` before anything is built from it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, Model, ModelWrapper, TokenizerBuilder, TokenizerImpl};

use super::steps::{Decode, Fault, Normalize, PreTokenize, post_processor};

/// Most bytes of `tokenizer.json`. The longest known has 35 MB.
pub(super) const MAX_FILE: usize = 64 << 20;
/// Most bytes of each part except the vocabulary: a table of SentencePiece has 320 kB.
const MAX_PART: usize = 2 << 20;
/// Most pieces of a vocabulary, and most merges. The largest known have 901,629 and 580,604.
const MAX_PIECES: usize = 1 << 20;
/// Most bytes of a piece. The longest known, 128 spaces spelled as bytes, has 256.
const MAX_PIECE: usize = 4096;
/// Most bytes of a piece of a Unigram model. The model's tree is as deep as this and is dropped
/// recursively, and at every byte of a text, all pieces that begin there are copied. SentencePiece
/// makes pieces of at most 16 characters.
const MAX_UNIGRAM_PIECE: usize = 256;
/// Most nodes of the tree of a Unigram model, some 340 bytes each. The 250,002 pieces of XLM-R have
/// 782,760, and 901,629 pieces made of them (as many as XLM-V has) 3.4 million.
const MAX_UNIGRAM_NODES: usize = 4 << 20;
/// Most characters of a word of a WordPiece model. The cost of a word grows with their cube; 100
/// are usual.
const MAX_WORD: usize = 256;
/// Most bytes of a mark for the beginning or the end of a word: `##`, `</w>`.
const MAX_MARK: usize = 64;
/// Most added tokens, most bytes of one, and most bytes of all. Speech models have 65,536.
const MAX_ADDED: usize = 1 << 18;
const MAX_ADDED_TOKEN: usize = 1024;
const MAX_ADDED_BYTES: usize = 4 << 20;

/// The crate's tokenizer, with our own parts where the crate has no limits.
pub(super) type Pipeline = TokenizerImpl<SharedModel, Normalize, PreTokenize, tokenizers::PostProcessorWrapper, Decode>;

#[derive(Deserialize)]
struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    truncation: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    model: ModelFields,
}

#[derive(Deserialize)]
struct ModelFields {
    r#type: Option<String>,
    vocab: Option<Vocabulary>,
    merges: Option<Merges>,
    unk_token: Option<String>,
    unk_id: Option<usize>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// Makes a tokenizer from the text of a `tokenizer.json`, after `change` has seen and may have
/// changed its normalizer, its pre-tokenizer, its truncation and the type of its model.
pub(super) fn pipeline(json: &[u8], change: impl FnOnce(&mut Value)) -> tokenizers::Result<Pipeline> {
    if json.len() > MAX_FILE {
        return Err(format!("{} bytes, expected at most {MAX_FILE}", json.len()).into());
    }
    let file: File<'_> = serde_json::from_slice(json)?;
    if let Some(version) = file.version.filter(|version| version != "1.0") {
        return Err(format!("version {version:?}, expected \"1.0\"").into());
    }
    let part = |name: &str, part: Option<&RawValue>| match part {
        Some(part) if part.get().len() > MAX_PART => {
            Err(format!("{name} of {} bytes, expected at most {MAX_PART}", part.get().len()))
        }
        part => part.map(|part| serde_json::from_str::<Value>(part.get())).transpose().map_err(|e| e.to_string()),
    };
    let mut changed = json!({
        "normalizer": part("normalizer", file.normalizer)?,
        "pre_tokenizer": part("pre_tokenizer", file.pre_tokenizer)?,
        "truncation": part("truncation", file.truncation)?,
        "model": {"type": file.model.kind()},
    });
    change(&mut changed);
    let changed = |name: &str| Some(&changed[name]).filter(|part| !part.is_null());
    let post = part("post_processor", file.post_processor)?;
    let decoder = part("decoder", file.decoder)?;
    check_added(&file.added_tokens)?;
    let mut pipeline = TokenizerBuilder::new()
        .with_normalizer(Some(Normalize::new(changed("normalizer"))?))
        .with_pre_tokenizer(Some(PreTokenize::new(changed("pre_tokenizer"))?))
        .with_post_processor(post.as_ref().map(post_processor).transpose()?)
        .with_decoder(decoder.as_ref().map(Decode::new).transpose()?)
        .with_model(SharedModel(Arc::new(file.model.build()?)))
        .build()?;
    pipeline.add_tokens(&file.added_tokens);
    Ok(pipeline)
}

fn check_added(tokens: &[AddedToken]) -> Result<(), Fault> {
    if tokens.len() > MAX_ADDED {
        return Err(format!("{} added_tokens, expected at most {MAX_ADDED}", tokens.len()));
    }
    let mut bytes = 0;
    for token in tokens {
        let length = token.content.len();
        bytes += length;
        if length > MAX_ADDED_TOKEN {
            return Err(format!("added_tokens: a token of {length} bytes, expected at most {MAX_ADDED_TOKEN}"));
        }
        // The crate would scan the same spaces again and again.
        let stripped = token.lstrip && token.content.ends_with(char::is_whitespace)
            || token.rstrip && token.content.starts_with(char::is_whitespace);
        if stripped {
            return Err(format!(
                "added_tokens: {:?} takes away spaces, expected a token without spaces at its ends",
                token.content
            ));
        }
    }
    match bytes <= MAX_ADDED_BYTES {
        true => Ok(()),
        false => Err(format!("added_tokens of {bytes} bytes, expected at most {MAX_ADDED_BYTES}")),
    }
}

impl ModelFields {
    /// Returns the type of the model.
    fn kind(&self) -> &str {
        match (&self.r#type, &self.vocab) {
            (Some(kind), _) => kind,
            // Files of 2020 do not name it.
            (None, Some(Vocabulary::List(_))) => "Unigram",
            (None, _) if self.merges.is_some() => "BPE",
            (None, _) if self.max_input_chars_per_word.is_some() => "WordPiece",
            (None, _) => "WordLevel",
        }
    }

    /// Makes the model. `dropout`, which makes a BPE model skip merges at random, is ignored: it is
    /// for training, and here the same text always has the same tokens.
    fn build(self) -> tokenizers::Result<ModelWrapper> {
        let kind = self.kind().to_owned();
        for (name, mark) in [
            ("unk_token", &self.unk_token),
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(mark) = mark.as_ref().filter(|mark| mark.len() > MAX_MARK) {
                return Err(format!("model.{name} of {} bytes, expected at most {MAX_MARK}", mark.len()).into());
            }
        }
        match (kind.as_str(), self.vocab) {
            ("BPE", Some(Vocabulary::Map(vocab))) => {
                let merges = self.merges.ok_or("model.merges is missing")?.0;
                let mut model = BPE::builder()
                    .vocab_and_merges(vocab, merges)
                    .fuse_unk(self.fuse_unk.unwrap_or(false))
                    .byte_fallback(self.byte_fallback.unwrap_or(false))
                    .ignore_merges(self.ignore_merges.unwrap_or(false));
                if let Some(token) = self.unk_token {
                    model = model.unk_token(token);
                }
                if let Some(prefix) = self.continuing_subword_prefix {
                    model = model.continuing_subword_prefix(prefix);
                }
                if let Some(suffix) = self.end_of_word_suffix {
                    model = model.end_of_word_suffix(suffix);
                }
                Ok(model.build()?.into())
            }
            ("WordPiece", Some(Vocabulary::Map(vocab))) => {
                let mut model = WordPiece::builder().vocab(vocab);
                if let Some(longest) = self.max_input_chars_per_word {
                    if longest > MAX_WORD {
                        let message =
                            format!("model.max_input_chars_per_word is {longest}, expected at most {MAX_WORD}");
                        return Err(message.into());
                    }
                    model = model.max_input_chars_per_word(longest);
                }
                if let Some(token) = self.unk_token {
                    model = model.unk_token(token);
                }
                if let Some(prefix) = self.continuing_subword_prefix {
                    model = model.continuing_subword_prefix(prefix);
                }
                Ok(model.build()?.into())
            }
            ("WordLevel", Some(Vocabulary::Map(vocab))) => {
                let token = self.unk_token.ok_or("model.unk_token is missing")?;
                Ok(WordLevel::builder().vocab(vocab).unk_token(token).build()?.into())
            }
            ("Unigram", Some(Vocabulary::List(pieces))) => {
                check_unigram(&pieces)?;
                Ok(Unigram::from(pieces, self.unk_id, self.byte_fallback.unwrap_or(false))?.into())
            }
            ("BPE" | "WordPiece" | "WordLevel" | "Unigram", None) => Err("model.vocab is missing".into()),
            ("Unigram", _) => Err("model.vocab is a map, expected a list of pieces and scores".into()),
            ("BPE" | "WordPiece" | "WordLevel", _) => Err("model.vocab is a list, expected a map of pieces".into()),
            (kind, _) => Err(format!("model.type {kind:?}, expected BPE, Unigram, WordLevel or WordPiece").into()),
        }
    }
}

/// Checks the pieces of a Unigram model. The crate builds a tree from them, with a node for every
/// byte that a piece does not share with the others.
fn check_unigram(pieces: &[(String, f64)]) -> Result<(), Fault> {
    let mut sorted: Vec<&[u8]> = pieces.iter().map(|(piece, _)| piece.as_bytes()).collect();
    if let Some(longest) = sorted.iter().map(|piece| piece.len()).max().filter(|&longest| longest > MAX_UNIGRAM_PIECE) {
        return Err(format!(
            "model.vocab has a piece of {longest} bytes, expected at most {MAX_UNIGRAM_PIECE} in a Unigram model"
        ));
    }
    sorted.sort_unstable();
    let mut nodes = 0;
    let mut last: &[u8] = &[];
    for piece in sorted {
        nodes += piece.len() - piece.iter().zip(last).take_while(|(a, b)| a == b).count();
        last = piece;
    }
    match nodes <= MAX_UNIGRAM_NODES {
        true => Ok(()),
        false => Err(format!(
            "model.vocab has pieces with {nodes} beginnings, expected at most {MAX_UNIGRAM_NODES} in a Unigram model"
        )),
    }
}

/// A vocabulary: pieces with their tokens, or for a Unigram model, pieces with scores, in the order
/// of tokens.
pub(super) enum Vocabulary {
    Map(Vocab),
    List(Vec<(String, f64)>),
}

/// Refuses a piece that is too long or exceeds the maximum count.
fn check_piece<E: serde::de::Error>(piece: &str, count: usize) -> Result<(), E> {
    if piece.len() > MAX_PIECE {
        return Err(E::custom(format!("a piece of {} bytes, expected at most {MAX_PIECE}", piece.len())));
    }
    match count < MAX_PIECES {
        true => Ok(()),
        false => Err(E::custom(format!("more than {MAX_PIECES} pieces, expected at most so many"))),
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: a map of pieces to tokens, or a list of pieces with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocab = Vocab::new();
                while let Some((piece, token)) = map.next_entry::<String, u32>()? {
                    check_piece(&piece, vocab.len())?;
                    vocab.insert(piece, token);
                }
                Ok(Vocabulary::Map(vocab))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut pieces: Vec<(String, f64)> = Vec::new();
                while let Some((piece, score)) = list.next_element::<(String, f64)>()? {
                    check_piece(&piece, pieces.len())?;
                    pieces.push((piece, score));
                }
                Ok(Vocabulary::List(pieces))
            }
        }

        deserializer.deserialize_any(Visit)
    }
}

/// Pairs of pieces that a BPE model merges, in order of priority.
pub(super) struct Merges(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A merge: `["a", "b"]`, or `"a b"` in older files.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge<'a> {
            Pair(String, String),
            Line(#[serde(borrow)] Cow<'a, str>),
        }

        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("merges: a list of pairs of pieces")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(merge) = list.next_element()? {
                    let (left, right) = match merge {
                        Merge::Pair(left, right) => (left, right),
                        Merge::Line(line) if line.starts_with("#version") => continue,
                        Merge::Line(line) => split_merge(&line).map_err(A::Error::custom)?,
                    };
                    check_piece(&left, merges.len())?;
                    check_piece(&right, merges.len())?;
                    merges.push((left, right));
                }
                Ok(Merges(merges))
            }
        }

        deserializer.deserialize_seq(Visit)
    }
}

/// Splits a line of merges into its two pieces.
pub(super) fn split_merge(line: &str) -> Result<(String, String), Fault> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(format!("merge {line:?}, expected two pieces with a space between them")),
    }
}

/// The crate's model, shared by copies of a tokenizer.
#[derive(Clone)]
pub(super) struct SharedModel(Arc<ModelWrapper>);

impl Model for SharedModel {
    type Trainer = <ModelWrapper as Model>::Trainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<tokenizers::Token>> {
        self.0.tokenize(text)
    }

    fn token_to_id(&self, piece: &str) -> Option<u32> {
        self.0.token_to_id(piece)
    }

    fn id_to_token(&self, token: u32) -> Option<String> {
        self.0.id_to_token(token)
    }

    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.0.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }

    fn save(&self, folder: &std::path::Path, prefix: Option<&str>) -> tokenizers::Result<Vec<std::path::PathBuf>> {
        self.0.save(folder, prefix)
    }

    fn get_trainer(&self) -> Self::Trainer {
        self.0.get_trainer()
    }
}
