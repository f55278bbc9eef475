//! Tokenizers that disagree with themselves or exceed a limit: one row each.

use super::support::gguf::{ARRAY, BOOL, GgufFile, array};
use super::{bytes, file, open, refused};

fn llama(scores: &[f32]) -> GgufFile {
    file("llama", &["<unk>", "<s>", "</s>", "a"], &[2, 3, 3, 1]).floats("tokenizer.ggml.scores", scores)
}

#[test]
fn every_fault_is_named() {
    let none = || GgufFile::default().text("general.architecture", "llama");
    let named = |model: &str| none().text("tokenizer.ggml.model", model);
    let tokens = |model: &str, tokens: &[&str]| file(model, tokens, &[]);
    let long = "x".repeat(4097);
    let fine = || llama(&[0.0; 4]);
    let rows: Vec<(GgufFile, &str)> = vec![
        (
            none(),
            r#""tokenizer.ggml.model": missing: the file has no tokenizer, expected llama, gpt2, gemma4, bert or t5"#,
        ),
        (none().number("tokenizer.ggml.model", 1), r#""tokenizer.ggml.model": 1, expected a text"#),
        (named("none"), r#""none": the file has no tokenizer"#),
        (named("rwkv"), r#""rwkv", which is not read, expected llama, gpt2"#),
        (named("plamo2"), r#""plamo2", which is not read"#),
        (named("gpt2"), r#""tokenizer.ggml.tokens": missing, expected the texts of the tokens"#),
        (named("gpt2").text("tokenizer.ggml.tokens", "a"), r#"expected a list of texts"#),
        (tokens("gpt2", &[]), "0 texts, expected 1 to 1048576"),
        (tokens("gpt2", &["a", &long]), "token 1 has 4097 bytes, expected at most 4096"),
        (tokens("gpt2", &["a", "b", "a"]), r#"tokens 0 and 2 are both "a", expected every text once"#),
        (file("gpt2", &["a"], &[1, 1]), r#""tokenizer.ggml.token_type": 2 entries, expected 1, one per token"#),
        (file("gpt2", &["a", "b"], &[1, 7]), "token 1 has type 7, expected types from 0 to 6"),
        (
            tokens("gpt2", &["a"]).floats("tokenizer.ggml.token_type", &[1.0]),
            r#""tokenizer.ggml.token_type": a list of 1 numbers, expected a list of integers"#,
        ),
        // Scores.
        (file("llama", &["a"], &[]), r#""tokenizer.ggml.scores": missing, expected the scores of the tokens"#),
        (llama(&[0.0; 3]), "3 entries, expected 4, one per token"),
        (llama(&[0.0, 0.0, f32::NAN, 0.0]), "token 2 has the score NaN, expected finite scores"),
        (llama(&[f32::INFINITY, 0.0, 0.0, 0.0]), "token 0 has the score inf"),
        (
            file("llama", &["a"], &[]).texts("tokenizer.ggml.scores", &["1"]),
            r#""tokenizer.ggml.scores": a list of 1 texts, expected a list of numbers"#,
        ),
        (
            file("llama", &["a", &"b".repeat(257)], &[]).floats("tokenizer.ggml.scores", &[0.0; 2]),
            r#"token 1 has 257 bytes, expected at most 256 in a model "llama""#,
        ),
        // Merges.
        (tokens("gpt2", &["a"]), r#""tokenizer.ggml.merges": missing, expected pairs of tokens"#),
        (bytes("gpt-2", &["ab"], &["a b", "ab"]), r#"merge 1 is "ab", expected two tokens with a space between them"#),
        (bytes("gpt-2", &[], &["a "]), r#"merge 0 is "a ", expected two tokens"#),
        (bytes("gpt-2", &[], &[" a"]), r#"merge 0 is " a", expected two tokens"#),
        (bytes("gpt-2", &[], &[""]), r#"merge 0 is "", expected two tokens"#),
        (bytes("gpt-2", &["ab"], &["a b c"]), r#"merge 0 has "b c", which is no token"#),
        (bytes("gpt-2", &[], &["a b"]), r#"merge 0 has "ab", which is no token, expected tokens that make up a token"#),
        (bytes("gpt-2", &["éb"], &["é b"]), r#"merge 0 has "é", which is no token"#),
        (bytes("gpt-9", &[], &[]), r#""tokenizer.ggml.pre": "gpt-9", expected the name of a pre-tokenizer"#),
        (bytes("mmbert", &[], &[]), r#""mmbert", expected a pre-tokenizer that tokenizer.json can express"#),
        // Roles.
        (
            fine().number("tokenizer.ggml.eos_token_id", 4),
            r#""tokenizer.ggml.eos_token_id": 4, expected an integer from 0 to 3"#,
        ),
        (fine().text("tokenizer.ggml.bos_token_id", "<s>"), r#"bos_token_id": "<s>", expected an integer"#),
        (
            bytes("gpt-2", &[], &[]).flag("tokenizer.ggml.add_bos_token", true),
            "true, but there is no such token, expected the bos token that it asks for",
        ),
        (fine().number("tokenizer.ggml.add_eos_token", 1), r#"add_eos_token": 1, expected true or false"#),
        (fine().number("tokenizer.ggml.add_space_prefix", 1), r#"add_space_prefix": 1, expected true or false"#),
        (file("bert", &["[CLS]", "[SEP]"], &[]), "no unknown token, expected [UNK]"),
        (
            file("bert", &["[UNK]", "[a]", "\u{2581}[a]"], &[]),
            r#"tokens 1 and 2 are both "[a]", expected every text once"#,
        ),
        // Templates.
        (
            fine().texts("tokenizer.chat_templates", &["rag"]),
            r#""tokenizer.chat_templates": "rag", but "tokenizer.chat_template.rag" is missing"#,
        ),
        (fine().number("tokenizer.chat_template", 1), r#"chat_template": 1, expected a text"#),
        (fine().number("llama.context_length", 0), r#"context_length": 0, expected an integer from 1"#),
        (
            file("t5", &["a"], &[]).floats("tokenizer.ggml.scores", &[0.0]).value(
                "tokenizer.ggml.precompiled_charsmap",
                ARRAY,
                &array(BOOL, &[vec![1]]),
            ),
            r#"precompiled_charsmap": a list of 1 truth values, expected a list of integers"#,
        ),
        (
            file("t5", &["a"], &[])
                .floats("tokenizer.ggml.scores", &[0.0])
                .integers("tokenizer.ggml.precompiled_charsmap", &[256]),
            "integers out of range, expected bytes",
        ),
    ];
    for (file, expected) in rows {
        let error = refused(&file);
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
    open(&fine());
}

/// Tokens that can be written in many ways: all runs of each letter, alone and before another one.
#[test]
fn merges_that_tokens_make_are_limited() {
    let mut tokens = Vec::new();
    for (letter, next) in ('a'..='t').zip('b'..='u') {
        let runs = (1..=255).map(|length| letter.to_string().repeat(length));
        tokens.extend(runs.flat_map(|run| [run.clone() + &next.to_string(), run]));
    }
    tokens.push("u".into());
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let file = file("llama", &tokens, &[]).floats("tokenizer.ggml.scores", &vec![0.0; tokens.len()]);
    let error = refused(&file);
    assert!(error.contains("make more than 1048576 merges, expected at most so many"), "{error}");
}

/// Of two equal merges the first counts.
#[test]
fn repeated_merges_keep_their_first_place() {
    let (tokenizer, ..) = open(&bytes("gpt-2", &["ab", "bc"], &["a b", "b c", "a b"]));
    assert_eq!(tokenizer.encode("abc", false).unwrap(), [96, 66]);
}
