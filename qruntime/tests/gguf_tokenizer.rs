//! The tokenizer of a GGUF file becomes the files of a folder, and these make the same tokens.
#![cfg(feature = "text")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[path = "gguf_tokenizer/added.rs"]
mod added;
#[path = "gguf_tokenizer/back.rs"]
mod back;
#[path = "gguf_tokenizer/hostile.rs"]
mod hostile;
#[path = "gguf_tokenizer/models.rs"]
mod models;
#[path = "gguf_tokenizer/sentencepiece.rs"]
mod sentencepiece;
mod support;

use std::fs;

use qruntime::Tokenizer;
use qruntime::gguf::{Gguf, tokenizer_files};
use serde_json::Value;
use support::expected::shared;
use support::gguf::GgufFile;

/// Returns a file's tokenizer, and the two files that describe it.
fn open(file: &GgufFile) -> (Tokenizer, Value, Value) {
    let files = tokenizer_files(Gguf::parse(&file.bytes()).unwrap().metadata()).unwrap();
    let [(first, tokenizer), (second, config)] = &files[..] else { panic!("two files") };
    assert_eq!((*first, *second), ("tokenizer.json", "tokenizer_config.json"));
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    (Tokenizer::from_bytes(tokenizer).unwrap(), json(tokenizer), json(config))
}

/// Returns the error of a file's tokenizer.
fn refused(file: &GgufFile) -> String {
    tokenizer_files(Gguf::parse(&file.bytes()).unwrap().metadata()).unwrap_err().to_string()
}

/// Returns a file with a tokenizer of a model: tokens with their types, the last ones scores.
fn file(model: &str, tokens: &[&str], types: &[i32]) -> GgufFile {
    let file = GgufFile::default().text("general.architecture", "llama").text("tokenizer.ggml.model", model);
    let file = file.texts("tokenizer.ggml.tokens", tokens);
    if types.is_empty() { file } else { file.integers("tokenizer.ggml.token_type", types) }
}

/// Returns a file of byte-level BPE: the ASCII characters that spell themselves, a space, more
/// tokens, and merges.
fn bytes(pre: &str, more: &[&str], merges: &[&str]) -> GgufFile {
    let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
    tokens.extend(["\u{120}", "\u{10a}"].map(String::from));
    tokens.extend(more.iter().map(|token| (*token).to_owned()));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    file("gpt2", &tokens, &[]).text("tokenizer.ggml.pre", pre).texts("tokenizer.ggml.merges", merges)
}

/// Returns the texts of a text's tokens.
fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, false).unwrap().iter().map(|&token| tokenizer.decode(&[token]).unwrap()).collect()
}

/// Vocabularies of llama.cpp with texts and the tokens that the original tokenizers make of them.
#[test]
fn vocabularies_of_llama_cpp_give_the_expected_tokens() {
    let Some(folder) = shared("tokenizers/ggml-vocab") else { return };
    for name in ["llama-spm", "gpt-2", "bert-bge"] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let gguf = Gguf::open(&path).unwrap();
        let files = tokenizer_files(gguf.metadata()).unwrap();
        let tokenizer = Tokenizer::from_bytes(&files[0].1).unwrap();
        let read = |ending: &str| fs::read_to_string(path.with_extension(format!("gguf.{ending}"))).unwrap();
        let (texts, expected) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let expected: Vec<&str> = expected.split('\n').collect();
        assert_eq!((texts.len(), expected.len()), (47, 47));
        for (text, expected) in texts.into_iter().zip(expected) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

/// The same model as a folder and as a GGUF file.
#[test]
fn a_model_has_the_same_tokens_in_both_forms() {
    let Some(folder) = shared("stories260K") else { return };
    let original = Tokenizer::open(folder.join("hf-float32")).unwrap();
    let gguf = Gguf::open(&folder.join("stories260K-f16.gguf")).unwrap();
    let files = tokenizer_files(gguf.metadata()).unwrap();
    let tokenizer = Tokenizer::from_bytes(&files[0].1).unwrap();
    for text in TEXTS {
        let tokens = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokens, original.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), original.decode(&tokens).unwrap(), "{text:?}");
    }
}

/// Texts in several scripts, with spaces and line ends in many places.
const TEXTS: [&str; 12] = [
    "",
    " ",
    "Hello, world! It's 12345 o'clock; we'LL see.",
    "  two spaces\n\n  and\tlines \r\n end  ",
    "naïve café e\u{301} Ünïcödé ŞĞİı",
    "漢字かな交じり 한국어 ไทย ខ្មែរ नमस्ते",
    "Привет, мир! Ελληνικά עברית العربية ١٢٣",
    "😀👩\u{200d}👩\u{200d}👧 \u{1f1e8}\u{1f1ed}",
    "fn main() {\n    println!(\"{}\", x[0]);\n}\n",
    "====----____....!!!!????````",
    "a\u{a0}b\u{2028}c\u{3000}d\u{200b}e\u{1}f",
    "\u{2581}marked\u{2581}\u{2581} text <s> [INST] <0x0A>",
];
