//! Tokenizers of folders without `tokenizer.json`: older files, converted as transformers does.
//!
//! `vocab.json` and `merges.txt` are byte-level BPE, `vocab.txt` is BERT's WordPiece. The other
//! steps are code in a transformers class, which the folder names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{FILE, refuse};
use crate::error::Error;
use crate::model_files::ModelFiles;
use crate::text::MAX_TEXT;

const MERGES: &str = "merges.txt";

/// The pattern by which Qwen 2 and its successors split texts.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Named special tokens, in the order in which they get their IDs.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Converts the older files of a folder without `tokenizer.json` to such a file, and returns it
/// with the path of its source; `None` if the folder has no tokenizer files at all.
pub(super) fn json(files: &ModelFiles) -> Result<Option<(Vec<u8>, PathBuf)>, Error> {
    const SENTENCEPIECE: &str = "tokenizer.model";
    let (name, known) = if files.exists("vocab.json") && files.exists(MERGES) {
        ("vocab.json", &["GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer"][..])
    } else if files.exists("vocab.txt") {
        ("vocab.txt", &["BertTokenizer", "DistilBertTokenizer"][..])
    } else if files.exists(SENTENCEPIECE) {
        return Err(unread(&files.path(SENTENCEPIECE), "SentencePiece's own format"));
    } else {
        return Ok(None);
    };
    let config = json_of(files, "tokenizer_config.json")?;
    let class = class(files, &config)?;
    let Some(class) = known.iter().find(|name| **name == class) else {
        return Err(unread(&files.path(name), &format!("of class {class:?}, expected {}", known.join(" or "))));
    };
    let special = special_tokens(files, &config, class)?;
    let (vocab, model) = if *class == "GPT2Tokenizer" || *class == "Qwen2Tokenizer" || *class == "RobertaTokenizer" {
        let vocab: Map<String, Value> = files.read_json(name, MAX_TEXT)?;
        let merges = text_of(files, MERGES)?;
        let merges: Vec<&str> =
            merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
        let model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
        (vocab, model)
    } else {
        let text = text_of(files, name)?;
        let vocab: Map<String, Value> =
            text.lines().enumerate().map(|(token, piece)| (piece.to_owned(), token.into())).collect();
        let unknown = special.named("unk_token");
        let model = json!({"type": "WordPiece", "vocab": vocab, "unk_token": unknown,
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
        (vocab, model)
    };
    let added = special.added(files, &config)?;
    let ids = Ids { vocab: &vocab, added: &added };
    let space = config["add_prefix_space"].as_bool().unwrap_or(false);
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": use_regex});
    let around = |before: Option<&str>, after: Option<&str>| {
        let mark = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let mut single: Vec<Value> = before.map(mark).into_iter().collect();
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        single.extend(after.map(mark));
        let tokens: Map<String, Value> = before.into_iter().chain(after).map(|token| ids.entry(token)).collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens})
    };
    let asked = |option: &str, name: &str| match config[option] == true {
        true => special.named(name),
        false => None,
    };
    let bos_and_eos = || around(asked("add_bos_token", "bos_token"), asked("add_eos_token", "eos_token"));
    let (normalizer, pre_tokenizer, post_processor, decoder) = match *class {
        "GPT2Tokenizer" => (Value::Null, byte_level(true), bos_and_eos(), byte_level(true)),
        "Qwen2Tokenizer" => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            let steps = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
            (json!({"type": "NFC"}), steps, bos_and_eos(), byte_level(true))
        }
        "RobertaTokenizer" => {
            let around = around(special.named("cls_token"), special.named("sep_token"));
            (Value::Null, byte_level(true), around, byte_level(true))
        }
        _ => {
            let option = |name: &str| config[name].as_bool().unwrap_or(true);
            let normalizer = json!({"type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": option("tokenize_chinese_chars"), "strip_accents": config["strip_accents"],
                "lowercase": option("do_lower_case")});
            let around = around(special.named("cls_token"), special.named("sep_token"));
            let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            (normalizer, json!({"type": "BertPreTokenizer"}), around, decoder)
        }
    };
    let file = json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor, "decoder": decoder, "model": model});
    Ok(Some((file.to_string().into_bytes(), files.path(name))))
}

fn unread(path: &Path, what: &str) -> Error {
    let way = "transformers makes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";
    refuse(path, &format!("there is no {FILE}, and this is {what}"), way)
}

/// Reads a file that may be missing.
fn json_of(files: &ModelFiles, name: &str) -> Result<Value, Error> {
    Ok(files.read_json_if(name, MAX_TEXT)?.unwrap_or_default())
}

fn text_of(files: &ModelFiles, name: &str) -> Result<String, Error> {
    String::from_utf8(files.read(name, MAX_TEXT)?).map_err(|error| refuse(&files.path(name), "not UTF-8", error))
}

/// Returns the name of the transformers class that reads these files.
fn class(files: &ModelFiles, config: &Value) -> Result<String, Error> {
    if let Some(class) = config["tokenizer_class"].as_str() {
        return Ok(class.trim_end_matches("Fast").to_owned());
    }
    let model = json_of(files, "config.json")?;
    let class = match model["model_type"].as_str().unwrap_or_default() {
        "gpt2" => "GPT2Tokenizer",
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" => "Qwen2Tokenizer",
        "roberta" => "RobertaTokenizer",
        "bert" => "BertTokenizer",
        "distilbert" => "DistilBertTokenizer",
        kind => kind,
    };
    Ok(class.to_owned())
}

/// Returns the text of a token: the string itself, or a field of an object.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The special tokens of a folder, named and unnamed.
struct Special {
    named: Vec<(&'static str, Value)>,
    more: Vec<Value>,
}

fn special_tokens(files: &ModelFiles, config: &Value, class: &str) -> Result<Special, Error> {
    let map = match config["added_tokens_decoder"].is_null() {
        true => json_of(files, "special_tokens_map.json")?,
        false => Value::Null,
    };
    let usual = |name: &str| match (class, name) {
        ("GPT2Tokenizer", "bos_token" | "eos_token" | "unk_token") => Some("<|endoftext|>"),
        ("Qwen2Tokenizer", "eos_token" | "unk_token" | "pad_token") => Some("<|endoftext|>"),
        ("RobertaTokenizer", "bos_token" | "cls_token") => Some("<s>"),
        ("RobertaTokenizer", "eos_token" | "sep_token") => Some("</s>"),
        ("RobertaTokenizer", "unk_token") => Some("<unk>"),
        ("RobertaTokenizer", "pad_token") => Some("<pad>"),
        ("RobertaTokenizer", "mask_token") => Some("<mask>"),
        ("BertTokenizer" | "DistilBertTokenizer", "unk_token") => Some("[UNK]"),
        ("BertTokenizer" | "DistilBertTokenizer", "sep_token") => Some("[SEP]"),
        ("BertTokenizer" | "DistilBertTokenizer", "pad_token") => Some("[PAD]"),
        ("BertTokenizer" | "DistilBertTokenizer", "cls_token") => Some("[CLS]"),
        ("BertTokenizer" | "DistilBertTokenizer", "mask_token") => Some("[MASK]"),
        _ => None,
    };
    let named = |name: &'static str| {
        let token = map.get(name).or_else(|| config.get(name)).cloned();
        let token = token.or_else(|| usual(name).map(Value::from))?;
        content(&token).is_some().then_some((name, token))
    };
    let list = |name: &str| map.get(name).or_else(|| config.get(name))?.as_array().cloned();
    let more = ["additional_special_tokens", "extra_special_tokens"].into_iter().filter_map(list).flatten();
    Ok(Special { named: NAMED.into_iter().filter_map(named).collect(), more: more.collect() })
}

impl Special {
    fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| *known == name).and_then(|(_, token)| content(token))
    }

    /// Returns all added tokens, those with IDs first.
    fn added(&self, files: &ModelFiles, config: &Value) -> Result<Vec<Value>, Error> {
        let mut added: Vec<Value> = Vec::new();
        let mut known = BTreeSet::new();
        let special = || self.named.iter().map(|(_, token)| token).chain(&self.more);
        let names: BTreeSet<&str> = special().filter_map(content).collect();
        let mut add = |token: &Value, is_special: bool| {
            let Some(text) = content(token) else { return };
            if !text.is_empty() && known.insert(text.to_owned()) {
                let flag = |name: &str, usual: bool| token[name].as_bool().unwrap_or(usual);
                added.push(json!({"content": text, "special": is_special, "single_word": flag("single_word", false),
                    "lstrip": flag("lstrip", false), "rstrip": flag("rstrip", false),
                    "normalized": flag("normalized", !is_special)}));
            }
        };
        if let Some(decoder) = config["added_tokens_decoder"].as_object() {
            let mut tokens: Vec<_> =
                decoder.iter().map(|(id, token)| (id.parse::<u32>().unwrap_or(0), token)).collect();
            tokens.sort_by_key(|(id, _)| *id);
            for (_, token) in tokens {
                add(token, token["special"] == true || content(token).is_some_and(|text| names.contains(text)));
            }
        } else if let Some(tokens) = json_of(files, "added_tokens.json")?.as_object() {
            let mut tokens: Vec<_> = tokens.iter().collect();
            tokens.sort_by_key(|(_, id)| id.as_u64());
            for (text, _) in tokens {
                add(&text.as_str().into(), names.contains(text.as_str()));
            }
        }
        for token in special() {
            add(token, true);
        }
        Ok(added)
    }
}

/// The IDs of tokens: the one in the vocabulary, or the next one after all of them.
struct Ids<'a> {
    vocab: &'a Map<String, Value>,
    added: &'a [Value],
}

impl Ids<'_> {
    fn of(&self, text: &str) -> u64 {
        let known = |text: &str| self.vocab.get(text).and_then(Value::as_u64);
        known(text).unwrap_or_else(|| {
            let before = self.added.iter().filter_map(|token| token["content"].as_str());
            let new = before.take_while(|other| *other != text).filter(|other| known(other).is_none());
            (self.vocab.len() + new.count()) as u64
        })
    }

    /// Makes the entry of a special token in a template.
    fn entry(&self, text: &str) -> (String, Value) {
        (text.to_owned(), json!({"id": text, "ids": [self.of(text)], "tokens": [text]}))
    }
}
