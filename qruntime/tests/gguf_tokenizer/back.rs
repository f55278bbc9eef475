//! A folder's tokenizer as metadata, and these as a folder again: the same tokens.

use std::path::Path;

use qruntime::gguf::{Array, Gguf, Value as Entry, tokenizer_files, tokenizer_metadata};
use qruntime::{Error, Tokenizer};
use serde_json::{Value, json};

use super::support::expected::shared;
use super::support::gguf::{ARRAY, GgufFile, I32, array};
use super::{TEXTS, open};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");

/// Reads a file of a folder.
fn file_of(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(std::fs::read(folder.join(name)).ok())
}

/// Writes metadata as a file.
fn written(architecture: &str, entries: &[(String, Entry)]) -> GgufFile {
    let mut file = GgufFile::default().text("general.architecture", architecture);
    for (key, value) in entries {
        file = match value {
            Entry::Text(text) => file.text(key, text),
            Entry::Bool(flag) => file.flag(key, *flag),
            Entry::Unsigned(number) => file.number(key, *number as u32),
            Entry::Array(Array::Texts(list)) => file.texts(key, list),
            Entry::Array(Array::Floats(list)) => file.floats(key, list),
            Entry::Array(Array::Integers(list)) => {
                let values: Vec<_> = list.iter().map(|number| (*number as i32).to_le_bytes().to_vec()).collect();
                file.value(key, ARRAY, &array(I32, &values))
            }
            other => panic!("{key}: {other}"),
        };
    }
    file
}

/// Returns the metadata of files in memory.
fn metadata(files: &[(&str, Value)]) -> Result<Vec<(String, Entry)>, Error> {
    let read =
        |name: &str| Ok(files.iter().find(|(file, _)| *file == name).map(|(_, json)| json.to_string().into_bytes()));
    tokenizer_metadata(&read, "llama", 0)
}

fn text<'e>(entries: &'e [(String, Entry)], key: &str) -> Option<&'e str> {
    entries.iter().find_map(|(name, value)| match value {
        Entry::Text(text) if name == key => Some(text.as_str()),
        _ => None,
    })
}

/// Checks that a folder's tokenizer comes back the same, as model and pre-tokenizer of these names.
fn comes_back(folder: &Path, model: &str, pre: &str) {
    let original = Tokenizer::open(folder).unwrap();
    let entries = tokenizer_metadata(&|name| file_of(folder, name), "llama", 0).unwrap();
    let found = ["tokenizer.ggml.model", "tokenizer.ggml.pre"].map(|key| text(&entries, key).unwrap());
    assert_eq!(found, [model, pre]);
    let (tokenizer, ..) = open(&written("llama", &entries));
    let long = TEXTS.concat();
    for text in TEXTS.into_iter().chain([long.as_str()]) {
        for special in [false, true] {
            let tokens = tokenizer.encode(text, special).unwrap();
            assert_eq!(tokens, original.encode(text, special).unwrap(), "{text:?}");
            assert_eq!(tokenizer.decode(&tokens).unwrap(), original.decode(&tokens).unwrap(), "{text:?}");
        }
    }
    // Once more: nothing is lost.
    let folder: Vec<(&str, Value)> = {
        let (_, tokenizer, config) = open(&written("llama", &entries));
        vec![("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]
    };
    let again = metadata(&folder).unwrap();
    assert_eq!(again.len(), entries.len());
    for (again, entry) in again.iter().zip(&entries) {
        assert!(again == entry, "{} is {}, was {} {}", again.0, again.1, entry.0, entry.1);
    }
}

#[test]
fn the_shipped_model_comes_back() {
    comes_back(Path::new(MODEL), "gpt2", "gpt-2");
}

#[test]
fn real_tokenizers_come_back() {
    for (name, model, pre) in [
        ("tokenizers/gpt2", "gpt2", "gpt-2"),
        ("tokenizers/granite-3.1-1b-a400m", "gpt2", "gpt-2"),
        ("stories260K/hf-float32", "llama", "default"),
        ("all-MiniLM-L6-v2", "bert", "default"),
    ] {
        if let Some(folder) = shared(name) {
            comes_back(&folder, model, pre);
        }
    }
}

/// The vocabularies of llama.cpp, by way of a folder.
#[test]
fn vocabularies_of_llama_cpp_come_back() {
    let Some(folder) = shared("tokenizers/ggml-vocab") else { return };
    for name in ["llama-spm", "gpt-2", "bert-bge"] {
        let gguf = Gguf::open(&folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
        let files = tokenizer_files(gguf.metadata()).unwrap();
        let read = |name: &str| Ok(files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.clone()));
        let entries = tokenizer_metadata(&read, "llama", 0).unwrap();
        for key in ["tokens", "token_type", "merges"].map(|key| format!("tokenizer.ggml.{key}")) {
            let written = entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
            // The converter of this file left pieces in brackets unmarked; later ones mark them.
            let same = written == gguf.metadata().get(&key);
            assert!(same || name == "bert-bge" && key.ends_with("tokens"), "{name}: {key}");
        }
        let original = Tokenizer::from_bytes(&files[0].1).unwrap();
        let (tokenizer, ..) = open(&written("llama", &entries));
        for text in TEXTS {
            assert_eq!(tokenizer.encode(text, true).unwrap(), original.encode(text, true).unwrap(), "{text:?}");
        }
    }
}

/// Returns a folder's files: the characters of some words, merges, and other parts.
fn folder(more: Value) -> Vec<(&'static str, Value)> {
    let vocab = json!({"<s>": 0, "a": 1, "b": 2, "ab": 3, "\u{120}": 4, "\u{120}ab": 6});
    let mut file = json!({
        "added_tokens": [
            {"id": 0, "content": "<s>", "special": true},
            {"id": 7, "content": "<end>", "special": true},
            {"id": 8, "content": "<think>", "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", ["\u{120}", "ab"]]},
    });
    for (name, part) in more.as_object().unwrap() {
        file[name] = part.clone();
    }
    vec![("tokenizer.json", file)]
}

#[test]
fn roles_holes_and_templates_are_written() {
    let around = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {"<s>": {"ids": [0]}}});
    let mut files = folder(json!({"post_processor": around}));
    files.push((
        "tokenizer_config.json",
        json!({
            "eos_token": {"content": "<end>"}, "pad_token": "b",
            "chat_template": [{"name": "default", "template": "main"}, {"name": "rag", "template": "documents"}],
        }),
    ));
    files.push(("generation_config.json", json!({"eos_token_id": [7, 8], "pad_token_id": 1})));
    let entries = metadata(&files).unwrap();
    let find = |key: &str| entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let texts = |list: &[&str]| Some(Entry::Array(Array::Texts(list.iter().map(|text| (*text).to_owned()).collect())));
    let expected = ["<s>", "a", "b", "ab", "\u{120}", "[PAD5]", "\u{120}ab", "<end>", "<think>"];
    assert_eq!(find("tokenizer.ggml.tokens"), texts(&expected));
    assert_eq!(find("tokenizer.ggml.merges"), texts(&["a b", "\u{120} ab"]));
    let kinds = Array::Integers(vec![3, 1, 1, 1, 1, 5, 1, 3, 4]);
    assert_eq!(find("tokenizer.ggml.token_type"), Some(Entry::Array(kinds)));
    for (key, id) in [("bos", 0), ("eos", 7), ("padding", 2), ("eot", 8)] {
        assert_eq!(find(&format!("tokenizer.ggml.{key}_token_id")), Some(Entry::Unsigned(id)), "{key}");
    }
    assert_eq!(find("tokenizer.ggml.add_bos_token"), Some(Entry::Bool(true)));
    assert_eq!(find("tokenizer.ggml.add_eos_token"), Some(Entry::Bool(false)));
    assert_eq!(text(&entries, "tokenizer.chat_template"), Some("main"));
    assert_eq!(text(&entries, "tokenizer.chat_template.rag"), Some("documents"));
    assert_eq!(find("tokenizer.chat_templates"), texts(&["rag"]));
    // A file of its own takes precedence.
    let read = |name: &str| match name {
        "chat_template.jinja" => Ok(Some(b"own".to_vec())),
        _ => Ok(files.iter().find(|(file, _)| *file == name).map(|(_, json)| json.to_string().into_bytes())),
    };
    assert_eq!(text(&tokenizer_metadata(&read, "llama", 0).unwrap(), "tokenizer.chat_template"), Some("own"));
}

/// As many tokens as there are embeddings: filled up, or without added tokens beyond them.
#[test]
fn there_are_as_many_tokens_as_embeddings() {
    let count = |embeddings: usize| {
        let files = folder(json!({}));
        let entries = tokenizer_metadata(
            &|name| Ok((name == "tokenizer.json").then(|| files[0].1.to_string().into())),
            "llama",
            embeddings,
        );
        entries.map(|entries| match &entries[2].1 {
            Entry::Array(list) => list.len(),
            other => panic!("{other}"),
        })
    };
    assert_eq!([0, 8, 9, 12].map(|embeddings| count(embeddings).unwrap()), [9, 8, 9, 12]);
    let error = count(6).unwrap_err().to_string();
    assert!(error.contains("expected tokens below 6, as there are embeddings"), "{error}");
}

#[test]
fn likeliest_tokens_come_back() {
    let table = "BAAAAAABAAB4AA==";
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let spaces = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
    let characters = json!({"type": "Precompiled", "precompiled_charsmap": table});
    let unigram = |normalizers: &[&Value]| {
        let files = folder(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": metaspace,
            "decoder": metaspace,
            "added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["\u{2581}a", -1.5], ["b", -2.0]]},
        }));
        let entries = metadata(&files).unwrap();
        assert_eq!(text(&entries, "tokenizer.ggml.model"), Some("t5"));
        open(&written("t5", &entries))
    };
    let (tokenizer, ..) = unigram(&[&spaces]);
    assert_eq!(tokenizer.encode("ab   a", false).unwrap(), [1, 2, 1]);
    let (_, json, _) = unigram(&[&characters, &spaces]);
    assert_eq!(json["normalizer"]["normalizers"][0], characters);
}

/// What a GGUF file cannot say.
#[test]
fn what_cannot_be_said_is_an_error() {
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let spm = |vocab: Value, merges: Value| {
        json!({"normalizer": spaces, "pre_tokenizer": null, "decoder": null, "added_tokens": [],
            "model": {"type": "BPE", "vocab": vocab, "merges": merges}})
    };
    let words = json!({"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"});
    let bert = json!({"type": "BertNormalizer", "lowercase": true});
    let added = |flag: &str| json!({"added_tokens": [{"id": 7, "content": "<end>", "special": true, flag: true}]});
    let rows = [
        (
            json!({"normalizer": {"type": "NFKC"}}),
            "expected NFC or none with byte-level BPE: a GGUF file cannot say it",
        ),
        (
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("x+"), {"type": "ByteLevel", "use_regex": false}]}}),
            r#"splits texts by ["x+"] with no normalizer, ignore_merges false, expected what a GGUF file has a name for"#,
        ),
        (
            json!({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true}}),
            "expected expressions that isolate",
        ),
        (added("rstrip"), r#"added token "<end>" has lstrip false, rstrip true and single_word false"#),
        (added("single_word"), "single_word true, expected false"),
        (
            json!({"post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>"}}, {"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<s>": {"ids": [0]}}}}),
            "expected at most a token before a text and one after it",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0, " ": 1, " a": 2}, "merges": [[" ", "a"]]}, "added_tokens": []}),
            r#"merge of " " and "a", expected no spaces"#,
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}, "added_tokens": []}),
            "have the ID 0",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 2_000_000}, "merges": []}}),
            "2000001 tokens, expected 1 to 1048576",
        ),
        (json!({"model": {"type": "WordLevel", "vocab": {"a": 0}}}), r#"model.type "WordLevel", expected BPE"#),
        (json!({"pre_tokenizer": null, "decoder": null}), "BPE without bytes, expected spaces that become"),
        // Neighbours that make a token are always joined by programs that read GGUF files.
        (spm(json!({"a": 0, "b": 1, "ab": 2, "abb": 3}), json!(["a b"])), r#""ab" and "b" are not merged into "abb""#),
        (
            spm(json!({"a": 0, "aa": 1, "aaa": 2, "b": 3, "ab": 4}), json!(["a a", "a aa", "a b", "aa a"])),
            r#"merges into "aaa" and other tokens take turns"#,
        ),
        (
            json!({"model": words, "normalizer": bert, "pre_tokenizer": {"type": "BertPreTokenizer"}, "added_tokens": []}),
            "no token before or after a text, expected both with WordPiece",
        ),
        (json!({"model": words, "normalizer": {"type": "Lowercase"}}), "expected BertNormalizer that cleans texts"),
    ];
    for (more, expected) in rows {
        let error = metadata(&folder(more)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
    let error = metadata(&[]).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: missing"), "{error}");
    assert!(metadata(&folder(json!({}))).is_ok());
}
