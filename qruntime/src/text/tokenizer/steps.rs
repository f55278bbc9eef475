//! Normalizers, pre-tokenizers, decoders and post-processors: the crate's, in the order of the
//! file, with limits that the crate does not have.
//!
//! The crate guesses the types of these parts from their fields. Here the field `type` decides, so
//! that what was checked is what is built.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::decoders::{
    DecoderWrapper, bpe::BPEDecoder, byte_fallback::ByteFallback, ctc::CTC, fuse::Fuse, strip, wordpiece,
};
use tokenizers::normalizers::{
    BertNormalizer, ByteLevel as ByteLevelNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, NormalizerWrapper,
    Precompiled, Prepend, Replace, Strip, StripAccents,
};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper,
    bert::BertPreTokenizer,
    byte_level::ByteLevel,
    delimiter::CharDelimiterSplit,
    digits::Digits,
    fixed_length::FixedLength,
    metaspace::Metaspace,
    punctuation::Punctuation,
    split::Split,
    unicode_scripts::UnicodeScripts,
    whitespace::{Whitespace, WhitespaceSplit},
};
use tokenizers::processors::{
    PostProcessorWrapper, bert::BertProcessing, roberta::RobertaProcessing, sequence::Sequence,
    template::TemplateProcessing,
};
use tokenizers::tokenizer::pattern::Invert;
use tokenizers::{Decoder, NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

use super::call::{STEP_GROWTH, may_make, most, spend, unmask};
use super::pattern;
use super::search::Search;
use crate::base64;

/// Most steps of a normalizer, a pre-tokenizer, a decoder or a post-processor. The longest known
/// has seven.
const MAX_STEPS: usize = 32;
/// Most bytes that all steps of a pre-tokenizer together may make of one byte: intermediate results
/// cannot be checked. Spelling bytes makes at most 3 bytes of one, and spelling spaces at most 8.
const SPLIT_GROWTH: usize = 32;
/// Most tokens that a post-processor may put around a text, and most pieces of its template.
const MAX_ADDED: usize = 256;

/// An error of a field of the file.
pub(super) type Fault = String;

/// A step, and its longest result for a text of `n` bytes: `n * times + plus`.
#[derive(Clone)]
struct Step<T> {
    step: T,
    times: usize,
    plus: usize,
}

impl<T> Step<T> {
    fn most(&self, bytes: usize, texts: usize) -> usize {
        bytes.saturating_mul(self.times).saturating_add(texts.saturating_mul(self.plus))
    }
}

/// Flattens the steps of a part of the file, which may be nested sequences. Returns the place of
/// each in the file, its type and the step.
fn flat<'v>(place: &str, part: &'v Value, list: &str) -> Result<Vec<(String, &'v str, &'v Value)>, Fault> {
    let mut steps = Vec::new();
    let mut rest = vec![(place.to_owned(), part)];
    while let Some((at, part)) = rest.pop() {
        let Some(kind) = part["type"].as_str() else {
            return Err(format!("{at} has no type, expected the name of one"));
        };
        if kind == "Sequence" {
            let parts = part[list].as_array().ok_or_else(|| format!("{at} has no list \"{list}\""))?;
            let within = |(i, part)| (format!("{at}.{list}[{i}]"), part);
            rest.extend(parts.iter().enumerate().map(within).rev());
        } else {
            steps.push((at, kind, part));
        }
        if steps.len() + rest.len() > MAX_STEPS {
            return Err(format!("{place}: more than {MAX_STEPS} steps, expected at most so many"));
        }
    }
    Ok(steps)
}

/// Reads a step of one of the crate's types.
fn read<T: DeserializeOwned, W: From<T>>(place: &str, value: &Value) -> Result<W, Fault> {
    // Parsed from text rather than from the value, because one type borrows from the text.
    serde_json::from_str::<T>(&value.to_string()).map(W::from).map_err(|error| format!("{place}: {error}"))
}

fn unknown(place: &str, kind: &str, what: &str) -> Fault {
    format!("{place} is of type {kind:?}, which is no {what}")
}

/// Returns the text of a field, which may have at most `most` bytes.
fn text<'v>(place: &str, part: &'v Value, field: &str, most: usize) -> Result<&'v str, Fault> {
    let text = part[field].as_str().ok_or_else(|| format!("{place} has no text \"{field}\""))?;
    match text.len() <= most {
        true => Ok(text),
        false => Err(format!("{place}.{field} of {} bytes, expected at most {most}", text.len())),
    }
}

/// Makes the search of a step, if its pattern is a regular expression.
fn search(place: &str, part: &Value) -> Result<Option<Arc<Search>>, Fault> {
    let regex = part["pattern"]["Regex"].as_str();
    regex.map(|regex| Search::new(place, regex).map(Arc::new)).transpose()
}

/// Checks a replacement's pattern and returns how much longer it can make a text.
fn replacement(place: &str, part: &Value) -> Result<usize, Fault> {
    let content = part["content"].as_str().unwrap_or_default();
    let times = match pattern::check(place, &part["pattern"])? {
        // The replacement is inserted at every character and at the end.
        0 => content.len() + 1,
        length => content.len().div_ceil(length).max(1),
    };
    match times <= STEP_GROWTH {
        true => Ok(times),
        false => Err(format!(
            "{place}.content of {} bytes makes texts up to {times} times longer, expected at most {STEP_GROWTH}",
            content.len()
        )),
    }
}

/// A normalizer of the crate, or our own search.
#[derive(Clone)]
enum Normal {
    Crate(NormalizerWrapper),
    Replace(Arc<Search>, String),
}

impl Normal {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::Crate(step) => step.normalize(text),
            Self::Replace(search, content) => text.replace(&**search, content),
        }
    }
}

/// A normalizer that stops when the text becomes too long.
#[derive(Clone)]
pub(super) struct Normalize(Vec<Step<Normal>>);

impl Normalize {
    pub(super) fn new(part: Option<&Value>) -> Result<Self, Fault> {
        let Some(part) = part else { return Ok(Self(Vec::new())) };
        let steps = flat("normalizer", part, "normalizers")?;
        Ok(Self(steps.into_iter().map(|(place, kind, part)| normalizer(&place, kind, part)).collect::<Result<_, _>>()?))
    }
}

fn normalizer(place: &str, kind: &str, part: &Value) -> Result<Step<Normal>, Fault> {
    let mut plus = 0;
    let mut search = None;
    let (step, times) = match kind {
        // Spaces around a character, its decomposition, lower case.
        "Bert" | "BertNormalizer" => (read::<BertNormalizer, _>(place, part)?, 12),
        "Strip" => (read::<Strip, _>(place, part)?, 1),
        "StripAccents" => (read::<StripAccents, _>(place, part)?, 1),
        "Nmt" => (read::<Nmt, _>(place, part)?, 1),
        "NFC" => (read::<NFC, _>(place, part)?, 3),
        "NFD" => (read::<NFD, _>(place, part)?, 4),
        "NFKC" => (read::<NFKC, _>(place, part)?, 12),
        "NFKD" => (read::<NFKD, _>(place, part)?, 12),
        "Lowercase" => (read::<Lowercase, _>(place, part)?, 3),
        "ByteLevel" => (read::<ByteLevelNormalizer, _>(place, part)?, 2),
        "Precompiled" => {
            let times = longest_entry(place, text(place, part, "precompiled_charsmap", usize::MAX)?)?;
            (read::<Precompiled, _>(place, part)?, times)
        }
        "Replace" => {
            let times = replacement(place, part)?;
            plus = STEP_GROWTH;
            search = self::search(place, part)?;
            (read::<Replace, _>(place, part)?, times)
        }
        "Prepend" => {
            plus = text(place, part, "prepend", STEP_GROWTH)?.len();
            (read::<Prepend, _>(place, part)?, 1)
        }
        kind => return Err(unknown(place, kind, "normalizer")),
    };
    let step = match search {
        Some(search) => Normal::Replace(search, part["content"].as_str().unwrap_or_default().to_owned()),
        None => Normal::Crate(step),
    };
    Ok(Step { step, times, plus })
}

/// Returns the longest text by which a table of SentencePiece replaces a character. The table is a
/// number, a tree of that many bytes, and texts that end with a zero byte.
fn longest_entry(place: &str, base64: &str) -> Result<usize, Fault> {
    let place = format!("{place}.precompiled_charsmap");
    let table = base64::decode(base64).ok_or_else(|| format!("{place} is no base64"))?;
    let (head, rest) = table.split_first_chunk().ok_or_else(|| format!("{place} is empty"))?;
    let tree = u32::from_le_bytes(*head) as usize;
    let texts = rest.get(tree..).ok_or_else(|| {
        format!("{place} has a tree of {tree} bytes, expected at most {}, those that follow", rest.len())
    })?;
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    match longest <= STEP_GROWTH {
        true => Ok(longest.max(1)),
        false => Err(format!("{place} has an entry of {longest} bytes, expected at most {STEP_GROWTH}")),
    }
}

impl Normalizer for Normalize {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        unmask(text, false)?;
        for step in &self.0 {
            // The crate ignores the error; the caller checks the recorded refusal.
            if !may_make(step.most(text.len(), 1)) {
                return Err("the text becomes too long".into());
            }
            step.step.normalize(text)?;
        }
        match spend(text.len()) {
            true => Ok(()),
            false => Err("the text becomes too long".into()),
        }
    }
}

/// A pre-tokenizer of the crate, or our own search.
#[derive(Clone)]
enum Pre {
    Crate(PreTokenizerWrapper),
    Split { search: Arc<Search>, behavior: SplitDelimiterBehavior, invert: bool },
}

impl Pre {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::Crate(step) => step.pre_tokenize(text),
            Self::Split { search, behavior, invert: false } => text.split(|_, part| part.split(&**search, *behavior)),
            Self::Split { search, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(&**search), *behavior))
            }
        }
    }
}

/// A pre-tokenizer that first restores the masked text of users.
#[derive(Clone)]
pub(super) struct PreTokenize(Vec<Pre>);

impl PreTokenize {
    pub(super) fn new(part: Option<&Value>) -> Result<Self, Fault> {
        let Some(part) = part else { return Ok(Self(Vec::new())) };
        let mut growth = 1_usize;
        let mut steps = Vec::new();
        for (place, kind, part) in flat("pre_tokenizer", part, "pretokenizers")? {
            let (step, times) = pre_tokenizer(&place, kind, part)?;
            growth = growth.saturating_mul(times);
            if growth > SPLIT_GROWTH {
                return Err(format!(
                    "{place}: with the steps before it, texts become up to {growth} times longer, expected at most {SPLIT_GROWTH}"
                ));
            }
            steps.push(step);
        }
        Ok(Self(steps))
    }
}

fn pre_tokenizer(place: &str, kind: &str, part: &Value) -> Result<(Pre, usize), Fault> {
    let (step, times) = match kind {
        "BertPreTokenizer" => (read::<BertPreTokenizer, _>(place, part)?, 1),
        // Two bytes for each byte, and a space before every piece.
        "ByteLevel" => (read::<ByteLevel, _>(place, part)?, 3),
        "CharDelimiterSplit" => (read::<CharDelimiterSplit, _>(place, part)?, 1),
        // A character for each space, and one before every piece.
        "Metaspace" => (read::<Metaspace, _>(place, part)?, 8),
        "Whitespace" => (read::<Whitespace, _>(place, part)?, 1),
        "WhitespaceSplit" => (read::<WhitespaceSplit, _>(place, part)?, 1),
        "Punctuation" => (read::<Punctuation, _>(place, part)?, 1),
        "Digits" => (read::<Digits, _>(place, part)?, 1),
        "UnicodeScripts" => (read::<UnicodeScripts, _>(place, part)?, 1),
        "FixedLength" if part["length"] == 0 => {
            return Err(format!("{place}.length is 0, expected at least 1"));
        }
        "FixedLength" => (read::<FixedLength, _>(place, part)?, 1),
        "Split" => {
            pattern::check(place, &part["pattern"])?;
            let step = read::<Split, Split>(place, part)?;
            if let Some(search) = search(place, part)? {
                return Ok((Pre::Split { search, behavior: step.behavior, invert: step.invert }, 1));
            }
            (step.into(), 1)
        }
        kind => return Err(unknown(place, kind, "pre-tokenizer")),
    };
    Ok((Pre::Crate(step), times))
}

impl PreTokenizer for PreTokenize {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        text.normalize(|part| unmask(part, true))?;
        self.0.iter().try_for_each(|step| step.pre_tokenize(text))
    }
}

/// A decoder that stops when the text becomes too long.
#[derive(Clone)]
pub(super) struct Decode {
    steps: Vec<Step<DecoderWrapper>>,
    /// Whether tokens spell bytes as characters.
    pub(super) bytes: bool,
}

impl Decode {
    pub(super) fn new(part: &Value) -> Result<Self, Fault> {
        let steps = flat("decoder", part, "decoders")?;
        let steps: Vec<_> =
            steps.into_iter().map(|(place, kind, part)| decoder(&place, kind, part)).collect::<Result<_, _>>()?;
        let bytes = steps.iter().any(|step| matches!(step.step, DecoderWrapper::ByteLevel(_)));
        Ok(Self { steps, bytes })
    }
}

fn decoder(place: &str, kind: &str, part: &Value) -> Result<Step<DecoderWrapper>, Fault> {
    let (step, times) = match kind {
        // A space between all characters, if the suffix is empty.
        "BPEDecoder" => (read::<BPEDecoder, _>(place, part)?, 2),
        // Two bytes become one, or the three bytes of a replacement character.
        "ByteLevel" => (read::<ByteLevel, _>(place, part)?, 3),
        "WordPiece" => (read::<wordpiece::WordPiece, _>(place, part)?, 1),
        "Metaspace" => (read::<Metaspace, _>(place, part)?, 1),
        "CTC" => (read::<CTC, _>(place, part)?, 2),
        "Fuse" => (read::<Fuse, _>(place, part)?, 1),
        "Strip" => (read::<strip::Strip, _>(place, part)?, 1),
        "ByteFallback" => (read::<ByteFallback, _>(place, part)?, 1),
        "Replace" => {
            let times = replacement(place, part)?;
            (read::<Replace, _>(place, part)?, times)
        }
        kind => return Err(unknown(place, kind, "decoder")),
    };
    Ok(Step { step, times, plus: STEP_GROWTH })
}

impl Decoder for Decode {
    fn decode_chain(&self, mut tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        let bytes = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
        let limit = most(bytes(&tokens) + tokens.len());
        for step in &self.steps {
            if step.most(bytes(&tokens), tokens.len()) > limit {
                return Err(format!("the decoder makes more than {limit} bytes of the tokens").into());
            }
            tokens = step.step.decode_chain(tokens)?;
        }
        Ok(tokens)
    }
}

/// A post-processor, which puts a few tokens around a text that it repeats at most once.
pub(super) fn post_processor(part: &Value) -> Result<PostProcessorWrapper, Fault> {
    let steps = flat("post_processor", part, "processors")?;
    let mut steps: Vec<_> =
        steps.into_iter().map(|(place, kind, part)| processor(&place, kind, part)).collect::<Result<_, _>>()?;
    match (steps.len(), steps.pop()) {
        (1, Some(only)) => Ok(only),
        (_, last) => {
            steps.extend(last);
            Ok(Sequence::new(steps).into())
        }
    }
}

fn processor(place: &str, kind: &str, part: &Value) -> Result<PostProcessorWrapper, Fault> {
    match kind {
        "BertProcessing" => read::<BertProcessing, _>(place, part),
        "RobertaProcessing" => read::<RobertaProcessing, _>(place, part),
        "ByteLevel" => read::<ByteLevel, _>(place, part),
        "TemplateProcessing" => {
            let pieces = part["single"].as_array().map_or(&[][..], Vec::as_slice);
            let texts = pieces.iter().filter(|piece| piece["Sequence"]["id"] == "A").count();
            let ids = |piece: &Value| {
                let name = piece["SpecialToken"]["id"].as_str()?;
                Some(part["special_tokens"][name]["ids"].as_array()?.len())
            };
            let added: usize = pieces.iter().filter_map(ids).sum();
            if texts > 1 {
                return Err(format!("{place}.single has the text {texts} times, expected once"));
            }
            if added.max(pieces.len()) > MAX_ADDED {
                return Err(format!("{place}.single adds {added} tokens, expected at most {MAX_ADDED}"));
            }
            read::<TemplateProcessing, _>(place, part)
        }
        kind => Err(unknown(place, kind, "post-processor")),
    }
}
