//! Each kind of model makes the tokens that it should.

use serde_json::json;

use super::support::gguf::{ARRAY, U8, array};
use super::{bytes, file, open, pieces};

/// All pre-tokenizers that stock files name, each with the pieces of two texts. Digits merge from
/// the left as far as they are together.
#[test]
fn pre_tokenizers_split_as_their_names_say() {
    let merges = ["1 2", "12 3", "123 4", "1234 5", "3 4", "34 5", "4 5"];
    let more: Vec<String> = merges.iter().map(|merge| merge.replace(' ', "")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let whole = ["12345", "x|12345|y"];
    let each = ["1|2|3|4|5", "x|1|2|3|4|5|y"];
    let left = ["123|45", "x|123|45|y"];
    let right = ["12|345", "x|12|345|y"];
    let rows: &[(&[&str], [&str; 2])] = &[
        (
            &[
                "gpt-2",
                "phi-2",
                "jina-es",
                "jina-de",
                "jina-v2-es",
                "jina-v2-de",
                "gigachat",
                "a.x-4.0",
                "mellum",
                "modern-bert",
                "jais",
                "exaone4",
                "jina-v1-en",
                "jina-v2-code",
                "roberta-bpe",
                "trillion",
                "granite-docling",
                "mpt",
                "olmo",
                "bloom",
                "gpt3-finnish",
                "poro-chat",
                "deepseek-llm",
            ],
            whole,
        ),
        (
            &[
                "refact",
                "starcoder",
                "codeshell",
                "exaone",
                "minerva-7b",
                "mellum2",
                "smollm",
                "command-r",
                "qwen2",
                "kormo",
                "f2llmv2",
                "megrez",
                "hunyuan",
                "deepseek-r1-qwen",
                "grok-2",
                "solar-open",
                "stablelm2",
                "qwen35",
                "laguna",
                "tekken",
                "deepseek-coder",
                "youtu",
                "bailingmoe",
                "bailingmoe2",
                "llada-moe",
                "seed-coder",
                "exaone-moe",
                "ufakzeka",
                "viking",
                "chameleon",
                "spark2_5",
            ],
            each,
        ),
        (
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
                "smaug-bpe",
                "dbrx",
                "chatglm-bpe",
                "glm4",
                "glm5",
                "gpt-4o",
                "llama4",
                "kanana2",
                "talkie",
                "minimax-m2",
                "granite-embed-multi-97m",
                "deepseek-v3",
                "hunyuan-dense",
                "joyai-llm",
                "hy_v4",
                "kimi-k2",
                "minicpm5",
                "jais-2",
                "falcon",
                "default",
                "",
            ],
            left,
        ),
        (&["afmoe", "superbpe"], right),
        // Only digits between words are counted from their end.
        (&["tiny_aya", "cohere2moe"], [right[0], left[1]]),
    ];
    let mut names = 0;
    for (row, expected) in rows {
        for name in *row {
            let (tokenizer, ..) = open(&bytes(name, &more, &merges));
            let found = ["12345", "x12345y"].map(|text| pieces(&tokenizer, text).join("|"));
            assert_eq!(found, *expected, "{name}");
            names += 1;
        }
    }
    // 87 names of llama.cpp, and none.
    assert_eq!(names, 88);
}

#[test]
fn pre_tokenizers_tell_words_apart() {
    let merges = ["a b", "A b", "ab Ab", "\u{120} ab", "' s", "ab 's", "\u{10a} \u{120}"];
    let more: Vec<String> = merges.iter().map(|merge| merge.replace(' ', "")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    for (name, text, expected) in [
        ("gpt-2", "abAb ab's", "abAb| ab|'s"),
        // Capitals begin words, and contractions belong to them or not.
        ("gpt-4o", "abAb ab", "ab|Ab| ab"),
        ("gpt-4o", "ab's", "ab's"),
        ("kimi-k2", "abAb", "ab|Ab"),
        ("tekken", "abAb", "ab|Ab"),
        ("tekken", "ab's", "ab|'s"),
        ("qwen2", "ab's", "ab|'s"),
        // Line ends take spaces between them along, or every line is split from the others.
        ("qwen2", "\n \nab", "\n |\n|ab"),
        ("laguna", "\n \nab", "\n| |\n|ab"),
    ] {
        let (tokenizer, ..) = open(&bytes(name, &more, &merges));
        assert_eq!(pieces(&tokenizer, text).join("|"), expected, "{name}: {text:?}");
    }
}

/// A piece that is a token, but which no merges make.
#[test]
fn some_pre_tokenizers_take_whole_tokens_without_merges() {
    for (name, expected) in [("llama-bpe", "xyz"), ("tekken", "xyz"), ("glm4", "xyz"), ("qwen2", "x|y|z")] {
        let (tokenizer, ..) = open(&bytes(name, &["xyz"], &[]));
        assert_eq!(pieces(&tokenizer, "xyz").join("|"), expected, "{name}");
    }
}

#[test]
fn texts_are_normalized_where_the_original_does_it() {
    let composed = "\u{c3}\u{a9}"; // The bytes of é.
    for (name, composes) in [("qwen2", true), ("qwen35", true), ("command-r", true), ("llama-bpe", false)] {
        let (tokenizer, json, _) = open(&bytes(name, &["\u{c3}", "\u{a9}", composed], &["\u{c3} \u{a9}"]));
        assert_eq!(json["normalizer"], if composes { json!({"type": "NFC"}) } else { json!(null) }, "{name}");
        let found = tokenizer.encode("e\u{301}", false).unwrap();
        assert_eq!(found == [tokenizer.token(composed).unwrap()], composes, "{name}");
    }
}

/// Gemma 4: merges on characters, spaces marked, the rest bytes, line ends a token if there is one.
#[test]
fn merges_of_characters() {
    let tokens = ["<unk>", "<bos>", "a", "b", "\u{2581}", "\n", "\n\n", "ab", "\u{2581}ab", "<0xC3>", "<0xA9>"];
    let types = [2, 3, 1, 1, 1, 1, 1, 1, 1, 6, 6];
    let merges = ["a b", "\u{2581} ab"];
    let gemma = |model: &str| {
        file(model, &tokens, &types)
            .texts("tokenizer.ggml.merges", &merges)
            .number("tokenizer.ggml.bos_token_id", 1)
            .number("tokenizer.ggml.unknown_token_id", 0)
    };
    let (tokenizer, ..) = open(&gemma("gemma4"));
    assert_eq!(tokenizer.encode("ab ab\n\né", true).unwrap(), [1, 7, 8, 6, 9, 10]);
    assert_eq!(tokenizer.decode(&[1, 7, 8, 6, 9, 10]).unwrap(), "ab ab\n\né");
    let (tokenizer, ..) = open(&gemma("gpt2").text("tokenizer.ggml.pre", "granite-embed-multi-311m"));
    assert_eq!(tokenizer.encode("ab ab\nab", false).unwrap(), [7, 8, 5, 7]);
}

#[test]
fn words_are_pieced_together() {
    let tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "\u{2581}un", "able", "\u{2581},", "\u{2581}e", "s"];
    let types = [3, 1, 3, 3, 3, 1, 1, 1, 1, 1];
    let (tokenizer, json, config) = open(&file("bert", &tokens, &types));
    assert_eq!(json["model"]["vocab"]["##able"], 6);
    assert_eq!(json["model"]["vocab"]["[unused0]"], 1);
    assert_eq!(tokenizer.encode("UNable, és? [SEP]", true).unwrap(), [3, 5, 6, 7, 8, 9, 2, 4, 4]);
    assert_eq!(tokenizer.decode(&[3, 5, 6, 7, 8, 9, 4]).unwrap(), "unable, es");
    assert_eq!(config["cls_token"], "[CLS]");
    assert_eq!(config["sep_token"], "[SEP]");
}

/// The case of texts is kept if the file says so, or if pieces of words have capitals.
#[test]
fn words_keep_their_case_where_pieces_have_one() {
    let tokens = |word| ["[UNK]", "[CLS]", "[SEP]", "\u{2581}the", word];
    let types = [3, 3, 3, 1, 1];
    let lowercase = |file| open(&file).1["normalizer"]["lowercase"] == true;
    assert!(lowercase(file("bert", &tokens("\u{2581}a"), &types)));
    assert!(!lowercase(file("bert", &tokens("\u{2581}The"), &types)));
    assert!(lowercase(file("bert", &tokens("\u{2581}[A]"), &types)));
    let stated = file("bert", &tokens("\u{2581}The"), &types)
        .flag("tokenizer.ggml.normalizer.lowercase", true)
        .flag("tokenizer.ggml.normalizer.strip_accents", false);
    let (_, json, _) = open(&stated);
    assert_eq!(json["normalizer"]["lowercase"], true);
    assert_eq!(json["normalizer"]["strip_accents"], false);
}

/// The likeliest tokens, after a table has replaced characters and spaces are removed.
#[test]
fn the_likeliest_tokens() {
    let tokens = ["<pad>", "</s>", "<unk>", "\u{2581}", "\u{2581}a", "b", "\u{2581}ab", "c", "bc"];
    let t5 = file("t5", &tokens, &[3, 3, 2, 1, 1, 1, 1, 1, 1])
        .floats("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -5.0, -2.0, -3.0, -4.0, -3.0, -1.0])
        .flag("tokenizer.ggml.remove_extra_whitespaces", true)
        .flag("tokenizer.ggml.add_space_prefix", true);
    let (tokenizer, ..) = open(&t5);
    // ▁a bc is likelier than ▁ab c.
    assert_eq!(tokenizer.encode("  abc   ab ", true).unwrap(), [4, 8, 6, 1]);
    assert_eq!(tokenizer.encode("xyz", false).unwrap(), [3, 2]);
    assert_eq!(tokenizer.decode(&[4, 8, 6]).unwrap(), "abc ab");
    // A table without entries, as signed and as unsigned bytes.
    let table = [4_u8, 0, 0, 0, 0, 1, 0, 0, b'x', 0];
    let signed = array(1, &table.map(|byte| vec![byte]));
    for list in [signed, array(U8, &table.map(|byte| vec![byte]))] {
        let (_, json, _) = open(&t5.clone().value("tokenizer.ggml.precompiled_charsmap", ARRAY, &list));
        assert_eq!(json["normalizer"]["normalizers"][0]["precompiled_charsmap"], "BAAAAAABAAB4AA==");
    }
}
