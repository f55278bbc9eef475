//! Tokens with a role, and tokens that are found before anything else.

use serde_json::{Value, json};

use super::support::gguf::GgufFile;
use super::{bytes, file, open};

/// Returns an added token of `tokenizer.json`.
fn added<'j>(json: &'j Value, text: &str) -> Option<&'j Value> {
    json["added_tokens"].as_array().unwrap().iter().find(|token| token["content"] == text)
}

#[test]
fn marked_tokens_are_found_in_texts() {
    let types: Vec<i32> = [vec![1; 96], vec![3, 4, 5, 1]].concat();
    let file = bytes("gpt-2", &["<|end|>", "  x", "[PAD98]", "<s>"], &[]).integers("tokenizer.ggml.token_type", &types);
    let (tokenizer, json, _) = open(&file.number("tokenizer.ggml.bos_token_id", 99));
    assert_eq!(tokenizer.encode("<|end|>a  x", false).unwrap(), [96, 64, 97]);
    assert_eq!(added(&json, "<|end|>").unwrap()["special"], true);
    assert_eq!(added(&json, "  x").unwrap()["special"], false);
    // Only special tokens are kept from users' texts and left out of decoded ones.
    assert!(!tokenizer.encode_plain("<|end|>", false).unwrap().contains(&96));
    assert_eq!(tokenizer.encode_plain("  x", false).unwrap(), [97]);
    assert_eq!(tokenizer.decode(&[96, 64, 97]).unwrap(), "a  x");
    // A token with a role is special whatever its type is.
    assert_eq!(added(&json, "<s>").unwrap()["special"], true);
    assert!(added(&json, "[PAD98]").is_none());
}

/// A role does not make an ordinary token special: converters name any token for padding.
#[test]
fn a_token_that_looks_like_text_stays_text() {
    let (tokenizer, json, config) = open(&bytes("gpt-2", &[], &[]).number("tokenizer.ggml.padding_token_id", 0));
    assert_eq!(config["pad_token"], "!");
    assert!(added(&json, "!").is_none());
    assert_eq!(tokenizer.decode(&tokenizer.encode("a!", false).unwrap()).unwrap(), "a!");
}

/// GGUF does not say which tokens take spaces along; architecture and pre-tokenizer do.
#[test]
fn spaces_beside_tokens() {
    let tokens = ["<unk>", "<s>", "<|user|>", "\u{2581}", "a"];
    let llama = file("llama", &tokens, &[2, 3, 3, 1, 1]).floats("tokenizer.ggml.scores", &[0.0; 5]);
    let (tokenizer, json, _) = open(&llama);
    assert_eq!(added(&json, "<|user|>").unwrap()["rstrip"], false);
    assert_eq!(tokenizer.encode("<|user|> a", false).unwrap(), [2, 3, 3, 4]);
    let phi3 = GgufFile::default()
        .text("general.architecture", "phi3")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1])
        .floats("tokenizer.ggml.scores", &[0.0; 5]);
    let (tokenizer, json, _) = open(&phi3);
    assert_eq!(tokenizer.encode("<|user|> \n a", false).unwrap(), [2, 3, 4]);
    assert_eq!(added(&json, "<s>").unwrap()["rstrip"], false);
    let (tokenizer, ..) = open(
        &bytes("roberta-bpe", &["<mask>"], &[]).integers("tokenizer.ggml.token_type", &[vec![1; 96], vec![3]].concat()),
    );
    assert_eq!(tokenizer.encode("a <mask> a", false).unwrap(), [64, 96, 94, 64]);
}

/// Where there is no space before a text, spaces of added tokens are marks in the original.
#[test]
fn added_spaces_are_marks() {
    let tokens = ["<unk>", "<s>", "</s>", "  ", "\u{2581}", "a"];
    let gemma = file("llama", &tokens, &[2, 3, 3, 4, 1, 1])
        .floats("tokenizer.ggml.scores", &[0.0; 6])
        .flag("tokenizer.ggml.add_bos_token", false);
    for prefix in [false, true] {
        let (tokenizer, json, _) = open(&gemma.clone().flag("tokenizer.ggml.add_space_prefix", prefix));
        let text = if prefix { "  " } else { "\u{2581}\u{2581}" };
        assert!(added(&json, text).is_some(), "{json}");
        let expected: &[u32] = if prefix { &[4, 5, 3, 4, 5] } else { &[5, 3, 5] };
        assert_eq!(tokenizer.encode("a  a", false).unwrap(), expected);
        assert_eq!(tokenizer.decode(&[5, 3, 5]).unwrap(), "a  a");
    }
}

/// Each kind of model has its own tokens around texts, unless the file says otherwise.
#[test]
fn tokens_around_texts() {
    let ids = |file: GgufFile| file.number("tokenizer.ggml.bos_token_id", 96).number("tokenizer.ggml.eos_token_id", 96);
    let around = |file: &GgufFile| {
        let (tokenizer, _, config) = open(file);
        let flags = [&config["add_bos_token"], &config["add_eos_token"]].map(|flag| flag.as_bool().unwrap());
        (tokenizer.encode("a", true).unwrap(), flags)
    };
    let plain = || ids(bytes("gpt-2", &["<|end|>"], &[]));
    assert_eq!(around(&plain()), (vec![64], [false, false]));
    assert_eq!(around(&ids(bytes("llama-bpe", &["<|end|>"], &[]))), (vec![96, 64], [true, false]));
    let flags = |before, after| {
        plain().flag("tokenizer.ggml.add_bos_token", before).flag("tokenizer.ggml.add_eos_token", after)
    };
    assert_eq!(around(&flags(true, true)), (vec![96, 64, 96], [true, true]));
    assert_eq!(around(&flags(false, true)), (vec![64, 96], [false, true]));
    // -1 says that there is none.
    let none = bytes("llama-bpe", &[], &[]).number("tokenizer.ggml.bos_token_id", u32::MAX);
    assert_eq!(around(&none), (vec![64], [false, false]));
}

#[test]
fn roles_and_templates_are_in_the_configuration() {
    let file = bytes("gpt-2", &["<s>", "</s>", "<pad>"], &[])
        .number("tokenizer.ggml.bos_token_id", 96)
        .number("tokenizer.ggml.eos_token_id", 97)
        .number("tokenizer.ggml.padding_token_id", 98)
        .number("llama.context_length", 2048);
    let (.., config) = open(&file);
    assert_eq!(config["chat_template"], json!(null));
    let found = ["bos_token", "eos_token", "pad_token"].map(|role| config[role].as_str().unwrap());
    assert_eq!(found, ["<s>", "</s>", "<pad>"]);
    assert_eq!(config["model_max_length"], 2048);
    let file = file.text("tokenizer.chat_template", "{{ main }}");
    assert_eq!(open(&file).2["chat_template"], "{{ main }}");
    let file = file
        .texts("tokenizer.chat_templates", &["tool_use"])
        .text("tokenizer.chat_template.tool_use", "{{ tools }}")
        .text("tokenizer.chat_template.rag", "{{ documents }}");
    let expected = json!([
        {"name": "default", "template": "{{ main }}"},
        {"name": "rag", "template": "{{ documents }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]);
    assert_eq!(open(&file).2["chat_template"], expected);
}

/// A token without a text gets one, as in llama.cpp.
#[test]
fn tokens_without_a_text_have_a_name() {
    let (tokenizer, ..) = open(&bytes("gpt-2", &["", "ab"], &["a b"]));
    assert_eq!(tokenizer.token("[EMPTY_96]"), Some(96));
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [97]);
}
