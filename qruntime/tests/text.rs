//! Tokens from text and back, as applications use it.
#![cfg(feature = "text")]
#![allow(clippy::print_stderr, reason = "says what did not run")]

use std::path::Path;

use qruntime::{CausalLm, Encoder, Greedy, Tokenizer};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");

/// A folder of the data that is not part of the repository, or a word that it is not there.
fn data(folder: &str) -> Option<std::path::PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(folder);
    if !path.exists() {
        eprintln!("NOT RUN: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// Everything that streams give is what decoding all at once gives.
fn check_stream(tokenizer: &Tokenizer, text: &str) {
    let tokens = tokenizer.encode(text, false).expect("a text");
    let whole = tokenizer.decode(&tokens).expect("tokens");
    for cut in 0..tokens.len() {
        let mut stream = tokenizer.stream(&tokens[..cut]);
        let mut streamed = tokenizer.decode(&tokens[..cut]).expect("tokens");
        let at_character = !streamed.ends_with('\u{fffd}');
        for &token in &tokens[cut..] {
            let piece = stream.push(token).expect("a token");
            assert!(!piece.contains('\u{fffd}') || !at_character, "{piece:?} is cut within a character");
            streamed += &piece;
        }
        streamed += &stream.finish().expect("the rest");
        if at_character {
            assert_eq!(streamed, whole, "from token {cut}");
        }
    }
}

const TEXT: &str =
    "Once upon a time, there was a café: 12 jalapeños \u{1f336}\u{fe0f} and 水.\n\n  \"Two spaces\" she said.";

#[test]
fn text_survives_the_way_through_tokens() {
    let tokenizer = Tokenizer::open(MODEL).expect("the repository's model");
    let tokens = tokenizer.encode(TEXT, true).expect("a text");
    assert_eq!(tokens[0], 0, "the token at the beginning");
    assert_eq!(tokens[1..], tokenizer.encode(TEXT, false).expect("a text"));
    // This tokenizer puts a space before the first word.
    assert_eq!(tokenizer.decode(&tokens).expect("tokens").trim_start(), TEXT);
    assert_eq!((tokenizer.token("<|endoftext|>"), tokenizer.beginning()), (Some(0), Some(0)));
    check_stream(&tokenizer, TEXT);
}

#[test]
fn a_stream_ends_with_what_it_held_back() {
    let tokenizer = Tokenizer::open(MODEL).expect("the repository's model");
    let tokens = tokenizer.encode("\u{1f336}", false).expect("a text");
    let mut stream = tokenizer.stream(&[]);
    for &token in &tokens[..tokens.len() - 1] {
        assert_eq!(stream.push(token).expect("a token").trim(), "");
    }
    assert!(stream.finish().expect("the rest").ends_with('\u{fffd}'));
}

#[test]
fn a_model_opens_its_tokenizer() {
    let lm = CausalLm::open(MODEL).expect("the repository's model");
    let tokenizer = lm.tokenizer().expect("its tokenizer");
    let prompt = tokenizer.encode("Once upon a time", true).expect("a text");
    let mut session = lm.session();
    session.feed(&prompt).expect("a prompt");
    let mut stream = tokenizer.stream(&prompt);
    let mut story = String::new();
    for token in session.generate(&mut Greedy).take(12) {
        story += &stream.push(token.expect("a token")).expect("text");
    }
    assert!(story.starts_with([' ', ',']), "{story:?} goes on from the prompt");
    assert!(story.split_whitespace().count() >= 6, "{story:?} has words");
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Tokenizer::open(folder.path()).expect_err("nothing there").to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("a file");
    let error = Tokenizer::open(folder.path()).expect_err("no tokenizer").to_string();
    assert!(error.contains("tokenizer.json") && error.contains("not a tokenizer"), "{error}");
}

/// A tokenizer of this `tokenizer.json`.
fn tokenizer(json: &str) -> Result<Tokenizer, qruntime::Error> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tokenizer.json"), json).expect("a file");
    Tokenizer::open(folder.path())
}

/// Words and single bytes, the last token special. `processor` is what follows them.
fn words(processor: &str) -> String {
    format!(
        r#"{{"version": "1.0", "added_tokens": [{{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}}], "normalizer": null, "pre_tokenizer": {{"type": "Whitespace"}},
        "post_processor": {processor}, "decoder": {{"type": "Sequence", "decoders": [{{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}},
        "model": {{"type": "WordLevel", "vocab": {{"a": 0, "b": 1, "<0xC3>": 2, "<0xA9>": 3, "<s>": 4}}, "unk_token": "a"}}}}"#
    )
}

/// A template with these pieces, which knows `<s>`.
fn pieces(single: &str) -> String {
    let special = r#"{"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}"#;
    format!(
        r#"{{"type": "TemplateProcessing", "single": [{single}], "pair": [{single}, {{"Sequence": {{"id": "B", "type_id": 0}}}}],
        "special_tokens": {special}}}"#
    )
}

const START: &str = r#"{"SpecialToken": {"id": "<s>", "type_id": 0}}"#;
const TEXT_A: &str = r#"{"Sequence": {"id": "A", "type_id": 0}}"#;

#[test]
fn files_on_which_the_crate_panics_are_refused() {
    let merges = r###"{"version": "1.0", "model": {"type": "BPE", "continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"###;
    for json in [r#"{"decoder":["#, merges] {
        let error = tokenizer(json).expect_err("no tokenizer").to_string();
        assert!(error.contains(r#"tokenizer.json": not a tokenizer: "#), "{error}");
    }
    let other = r#"{"Sequence": {"id": "B", "type_id": 0}}"#;
    let tokenizer = tokenizer(&words(&pieces(&format!("{TEXT_A}, {other}")))).expect("a tokenizer");
    let error = tokenizer.encode("a b", true).expect_err("a second text").to_string();
    assert!(error.contains(r#"tokenizer.json": cannot encode a text: "#), "{error}");
    assert_eq!(tokenizer.decode(&[0, 1]).expect("it goes on"), "ab");
}

#[test]
fn a_limit_has_room_for_what_is_added() {
    let open = || tokenizer(&words(&pieces(&format!("{START}, {TEXT_A}, {START}")))).expect("a tokenizer");
    let error = open().with_limit(1).expect_err("two are added").to_string();
    assert!(error.ends_with("texts of 1 tokens: 2 are added to each"), "{error}");
    let limited = open().with_limit(3).expect("room for one");
    assert_eq!(limited.encode("a b a", true).expect("a text"), [4, 0, 4]);
}

/// Special tokens, and numbers that are no tokens, neither end a character nor add up to work.
#[test]
fn tokens_without_text_do_not_count_in_a_stream() {
    let tokenizer = tokenizer(&words("null")).expect("a tokenizer");
    let mut stream = tokenizer.stream(&[]);
    for token in [4, 4, 4, 99, 4, 4, 4, 4, 2] {
        assert_eq!(stream.push(token).expect("a token"), "");
    }
    for token in [4; 20] {
        assert_eq!(stream.push(token).expect("a token"), "");
    }
    assert_eq!(stream.push(3).expect("a token"), "\u{e9}");
}

/// `tokenizer_config.json` has the last word on the first token.
#[test]
fn the_first_token_is_as_the_configuration_says() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(Path::new(MODEL).join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("a copy");
    let encode = |config: &str, text: &str| {
        std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("a file");
        Tokenizer::open(folder.path()).expect("a tokenizer").encode(text, true).expect("a text")
    };
    let with = encode(r#"{"add_bos_token": true, "bos_token": {"content": "<|endoftext|>"}}"#, "A cat");
    let without = encode(r#"{"add_bos_token": false, "bos_token": "<|endoftext|>"}"#, "A cat");
    assert_eq!((with[0], &with[1..]), (0, &without[..]));
    let written = encode(r#"{"add_bos_token": false, "bos_token": "<|endoftext|>"}"#, "<|endoftext|>A cat");
    assert_eq!(written[0], 0, "one that stands in the text stays");
}

#[test]
fn sentences_that_mean_the_same_are_alike() {
    let Some(folder) = data("all-MiniLM-L6-v2") else { return };
    let encoder = Encoder::open(folder).expect("an encoder");
    let long = "word ".repeat(1000);
    let texts = ["A cat sits on the mat.", "A kitten is lying on a rug.", "The central bank raised rates.", &long];
    let vectors = encoder.embed(&texts).expect("vectors");
    let likeness = vectors.dot(&vectors.t());
    assert!(likeness[[0, 1]] > 0.5 && likeness[[0, 2]] < 0.2, "{likeness}");
    // Tokens as BERT's own tokenizer has them, cut to 256.
    let tokenizer = encoder.tokenizer().expect("its tokenizer");
    assert_eq!(tokenizer.encode("A cat sits.", true).expect("a text"), [101, 1037, 4937, 7719, 1012, 102]);
    assert_eq!(tokenizer.encode(&long, true).expect("a text").len(), 256);
}

#[test]
fn leading_spaces_of_sentencepiece_are_kept_in_a_stream() {
    let Some(folder) = data("stories260K/hf-float32") else { return };
    let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
    assert_eq!(tokenizer.encode("Once", true).expect("a text")[0], 1);
    check_stream(&tokenizer, TEXT);
}

/// Texts that are hard to cut, and what GPT-2's and BERT's own tokenizers make of them (llama.cpp's test vocabularies).
#[test]
fn tokens_are_those_of_the_original_tokenizers() {
    for (folder, vocabulary) in [("tokenizers/gpt2", "gpt-2"), ("all-MiniLM-L6-v2", "bert-bge")] {
        let (Some(folder), Some(expected)) = (data(folder), data("tokenizers/ggml-vocab")) else { return };
        let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
        let read = |end: &str| {
            std::fs::read_to_string(expected.join(format!("ggml-vocab-{vocabulary}.gguf.{end}"))).expect("a text")
        };
        let (texts, lines) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let mut count = 0;
        for (text, line) in texts.iter().zip(lines.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|token| token.parse().expect("a number")).collect();
            assert_eq!(tokenizer.encode(text, false).expect("a text"), expected, "{text:?}");
            count += 1;
        }
        assert!(count > 40, "{count} texts");
    }
}
