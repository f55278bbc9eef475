//! Text to tokens and back, as applications use it.
#![cfg(feature = "text")]
#![allow(clippy::print_stderr, reason = "says what did not run")]

use std::path::Path;

use qruntime::{CausalLm, Encoder, Greedy, Message, Tokenizer};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");

/// Returns a folder of data that is not part of the repository; if it is missing, says so.
fn data(folder: &str) -> Option<std::path::PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(folder);
    if !path.exists() {
        eprintln!("NOT RUN: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// Returns a folder of cases that are not part of the repository; if it is missing, says so.
fn case(folder: &str) -> Option<std::path::PathBuf> {
    data(&format!("../cases/{folder}"))
}

/// Checks that a stream gives the same text as decoding all tokens at once.
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

/// Makes a tokenizer of this `tokenizer.json`.
fn tokenizer(json: &str) -> Result<Tokenizer, qruntime::Error> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tokenizer.json"), json).expect("a file");
    Tokenizer::open(folder.path())
}

/// Returns a `tokenizer.json` of words and single bytes, whose last token is special, followed by
/// `processor`.
fn words(processor: &str) -> String {
    format!(
        r#"{{"version": "1.0", "added_tokens": [{{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}}], "normalizer": null, "pre_tokenizer": {{"type": "Whitespace"}},
        "post_processor": {processor}, "decoder": {{"type": "Sequence", "decoders": [{{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}},
        "model": {{"type": "WordLevel", "vocab": {{"a": 0, "b": 1, "<0xC3>": 2, "<0xA9>": 3, "<s>": 4}}, "unk_token": "a"}}}}"#
    )
}

/// Returns a template with these pieces, which knows `<s>`.
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

/// Special tokens, and numbers that are not tokens, neither end a character nor add work.
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

/// If there is a `tokenizer.json`, transformers 5 takes the tokens around a text only from it: its
/// IDs of "a b" for this model are these, whatever the configuration says.
#[test]
fn the_first_token_is_as_the_tokenizer_says() {
    let Some(model) = data("stories260K/hf-float32") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(model.join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("a copy");
    for config in [
        r#"{"bos_token": "<s>", "eos_token": "</s>"}"#,
        r#"{"add_bos_token": false, "bos_token": "<s>", "eos_token": "</s>"}"#,
        r#"{"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>"}"#,
    ] {
        std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("a file");
        let tokenizer = Tokenizer::open(folder.path()).expect("a tokenizer");
        assert_eq!(tokenizer.encode("a b", true).expect("a text"), [1, 261, 268], "{config}");
        assert_eq!(tokenizer.encode("", true).expect("a text"), [1], "{config}");
    }
}

/// The same text has the same tokens, even if the file asks to skip merges at random.
#[test]
fn dropout_does_not_make_tokens_random() {
    let json = |dropout: &str| {
        format!(
            r#"{{"model": {{"type": "BPE", "dropout": {dropout}, "vocab": {{"a": 0, "b": 1, "ab": 2, "abab": 3}},
            "merges": ["a b", "ab ab"]}}}}"#
        )
    };
    let tokenizer = Tokenizer::from_bytes(json("0.9").as_bytes()).expect("a tokenizer");
    for _ in 0..50 {
        assert_eq!(tokenizer.encode("abab", true).expect("a text"), [3]);
    }
}

#[test]
fn a_tokenizer_comes_from_bytes_and_goes_to_other_threads() {
    let json = std::fs::read(Path::new(MODEL).join("tokenizer.json")).expect("the repository's model");
    let tokenizer = Tokenizer::from_bytes(&json).expect("a tokenizer");
    let tokens = tokenizer.encode(TEXT, false).expect("a text");
    let mut stream = tokenizer.stream(&[]);
    drop(tokenizer);
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        for token in tokens {
            text += &stream.push(token).expect("a token");
        }
        text + &stream.finish().expect("the rest")
    });
    assert_eq!(text.join().expect("no panic").trim_start(), TEXT);
    let error = Tokenizer::from_bytes(b"{}").expect_err("no tokenizer").to_string();
    assert_eq!(error, r#""tokenizer.json": not a tokenizer: missing field `model` at line 1 column 2"#);
    let limited = Tokenizer::from_bytes(&json).expect("a tokenizer");
    let copy = limited.clone().with_limit(2).expect("room");
    let lengths = [&limited, &copy].map(|tokenizer| tokenizer.encode(TEXT, true).expect("a text").len());
    assert!(lengths[0] > 2 && lengths[1] == 2, "a limit is of one copy: {lengths:?}");
}

/// Letters of an added token are not the bytes that these letters spell in other tokens.
#[test]
fn added_tokens_are_decoded_as_they_stand() {
    let Some(folder) = case("added_token_latin") else { return };
    let tokenizer = Tokenizer::open(folder).expect("a tokenizer");
    let decode = |tokens: &[u32]| tokenizer.decode(tokens).expect("tokens");
    assert_eq!(decode(&[258]), "<čéñ>");
    assert_eq!(decode(&[256, 32, 258, 259, 33, 257]), "A<čéñ><x>B");
    let text = "é <čéñ>é<x>";
    let tokens = tokenizer.encode(text, false).expect("a text");
    assert_eq!(decode(&tokens), text);
    check_stream(&tokenizer, text);
}

/// Tokens like those of chat models: a special one, one in brackets that is not special, one of
/// spaces, and one that is searched for in normalized text.
const MARKED: &str = r##"{
    "added_tokens": [
        {"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 257, "content": "<think>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false},
        {"id": 258, "content": "    ", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false},
        {"id": 259, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true}],
    "normalizer": NORMALIZER,
    "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "byte_fallback": true, "vocab": {VOCAB, "<|": 300, "|>": 301, "<|end|>": 256, "<think>": 257, "    ": 258, "<s>": 259}, "merges": ["< |", "| >"]}
}"##;

fn marked(normalizer: &str) -> Tokenizer {
    let letters: Vec<String> = (' '..='~').map(|c| format!("{:?}: {}", c.to_string(), c as u32)).collect();
    let vocab = letters.join(",");
    let json = MARKED.replace("VOCAB", &vocab).replace("NORMALIZER", normalizer);
    Tokenizer::from_bytes(json.as_bytes()).expect("a tokenizer")
}

fn letters(text: &str) -> Vec<u32> {
    text.chars().map(u32::from).collect()
}

#[test]
fn what_users_type_does_not_become_a_special_token() {
    let tokenizer = marked("null");
    let [plain, read] = [Tokenizer::encode_plain, Tokenizer::encode]
        .map(|encode| encode(&tokenizer, "a<|end|><think>    <s>b", false).expect("a text"));
    assert_eq!(read, [97, 256, 257, 258, 259, 98]);
    let mut expected = vec![97, 300];
    expected.extend(letters("end"));
    expected.push(301);
    expected.extend(letters("<think>"));
    expected.push(258);
    expected.extend(letters("<s>b"));
    assert_eq!(plain, expected, "pieces are merged as anywhere, and tokens of spaces stay");
    // Tokens that hide one another.
    for text in ["<s<s>>", "<|end<|end|>|>", "<<think>s>", "\u{fdd0}<s>\u{fdd1}<|end|>"] {
        let tokens = tokenizer.encode_plain(text, false).expect("a text");
        assert!(!tokens.iter().any(|token| [256, 257, 259].contains(token)), "{text}: {tokens:?}");
        if text.is_ascii() {
            assert_eq!(tokenizer.decode(&tokens).expect("tokens"), text);
        }
    }
    // As in Llama 2: the beginning is normalized with the rest.
    let normalizer = r#"{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]}"#;
    let tokens = marked(normalizer).encode_plain("<think> <s>", false).expect("a text");
    assert_eq!(tokens, letters("_<think>_<s>"));
}

#[test]
fn messages_of_a_conversation_stay_text() {
    let tokenizer = marked("null");
    let messages = [
        Message::new("user", " say <|end|> "),
        Message::new("assistant", "<think>x<|end|>"),
        Message::new("user", "<think>"),
    ];
    let tokens = tokenizer.encode_chat(&messages, |messages| {
        Ok(messages.iter().map(|message| message.content.trim().to_owned() + "<|end|>").collect())
    });
    let mut expected = letters("say ");
    let mark = [&[300][..], &letters("end"), &[301]].concat();
    expected.extend(&mark);
    expected.extend([256, 257, 120]);
    expected.extend(&mark);
    expected.push(256);
    expected.extend(letters("<think>"));
    expected.push(256);
    assert_eq!(tokens.expect("a conversation"), expected);
    // If no message contains such text, the template gets the messages unchanged.
    let plain = [Message::new("user", "hi")];
    let tokens = tokenizer.encode_chat(&plain, |messages| {
        assert_eq!(messages, plain);
        Ok("<s>hi<|end|>".to_owned())
    });
    assert_eq!(tokens.expect("a conversation"), [259, 104, 105, 256]);
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
    // The tokens of BERT's own tokenizer, cut to 256.
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

/// Texts that are hard to split, and the tokens of GPT-2's and BERT's own tokenizers (llama.cpp's
/// test vocabularies).
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

/// Makes a folder with these files of another folder and a `tokenizer_config.json`.
fn legacy(files: &[std::path::PathBuf], config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in files {
        std::fs::copy(file, folder.path().join(file.file_name().expect("a file"))).expect("a copy");
    }
    std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("a file");
    folder
}

const LANGUAGES: [&str; 4] = [
    "Hello, world!  It's 2026: 12345.67",
    "Grüße aus Köln, naïve café — 日本語のテキスト 😀",
    "  def f(x):\n\t\treturn x**2  \r\n\r\n  # fin",
    "<|endoftext|>А что, если İstanbul? [MASK] e\u{301}",
];

/// Folders older than `tokenizer.json`, with the tokens of transformers 5.24.
#[test]
fn folders_without_a_tokenizer_file_are_read_as_transformers_reads_them() {
    let (Some(gpt2), Some(bert)) = (data("tokenizers/gpt2"), data("all-MiniLM-L6-v2")) else { return };
    let pieces = [gpt2.join("vocab.json"), gpt2.join("merges.txt")];
    let words = [bert.join("vocab.txt")];
    let check = |files: &[std::path::PathBuf], config: &str, expected: [&[u32]; 4]| {
        let folder = legacy(files, config);
        let tokenizer = Tokenizer::open(folder.path()).expect(config);
        for (text, expected) in LANGUAGES.iter().zip(expected) {
            assert_eq!(tokenizer.encode(text, true).expect("a text"), expected, "{config}: {text:?}");
        }
        tokenizer
    };
    let numbers: &[u32] = &[15496, 11, 995, 0, 220, 632, 338, 1160, 2075, 25, 17031, 2231, 13, 3134];
    let greeting: &[u32] = &[
        8642, 9116, 39683, 68, 257, 385, 509, 9101, 18755, 11, 41492, 40304, 851, 10545, 245, 98, 17312, 105, 45739,
        252, 5641, 24336, 25084, 43302, 30325, 222,
    ];
    let code: &[u32] = &[
        220, 825, 277, 7, 87, 2599, 198, 197, 197, 7783, 2124, 1174, 17, 220, 220, 201, 198, 201, 198, 220, 1303, 957,
    ];
    let question: &[u32] = &[
        50256, 140, 238, 220, 141, 229, 20375, 15166, 11, 12466, 113, 21727, 30143, 18849, 34754, 108, 24179, 30, 685,
        31180, 42, 60, 304, 136, 223,
    ];
    let tokenizer = check(&pieces, r#"{"tokenizer_class": "GPT2Tokenizer"}"#, [numbers, greeting, code, question]);
    assert_eq!(tokenizer.decode(greeting).expect("tokens"), LANGUAGES[1]);
    let bos = |tokens: &[u32]| [&[50256], tokens].concat();
    check(
        &pieces,
        r#"{"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": true}"#,
        [&bos(numbers), &bos(greeting), &bos(code), &bos(question)],
    );
    let digits: &[u32] =
        &[15496, 11, 995, 0, 220, 632, 338, 220, 17, 15, 17, 21, 25, 220, 16, 17, 18, 19, 20, 13, 21, 22];
    let composed = [&question[..22], &[38251]].concat();
    check(&pieces, r#"{"tokenizer_class": "Qwen2Tokenizer", "bos_token": null}"#, [digits, greeting, code, &composed]);
    let around = |tokens: &[u32]| [&[50257], tokens, &[50258]].concat();
    let mut spelled = vec![27, 91, 437, 1659, 5239, 91, 29];
    spelled.extend(&question[1..]);
    check(
        &pieces,
        r#"{"tokenizer_class": "RobertaTokenizer"}"#,
        [&around(numbers), &around(greeting), &around(code), &around(&spelled)],
    );
    let spaced: [&[u32]; 4] = [
        &[&[18435], &numbers[1..]].concat(),
        &[&[1902], &greeting[1..]].concat(),
        code,
        &[&[50256, 12466], &question[2..]].concat(),
    ];
    let tokenizer = check(
        &pieces,
        r#"{"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true, "bos_token": "<s>", "additional_special_tokens": ["<x>", "<y>"]}"#,
        spaced,
    );
    let ids = ["<s>", "<x>", "<y>"].map(|token| tokenizer.token(token));
    assert_eq!(ids, [Some(50257), Some(50258), Some(50259)]);
    check(
        &words,
        r#"{"tokenizer_class": "BertTokenizer"}"#,
        [
            &[101, 7592, 1010, 2088, 999, 2009, 1005, 1055, 16798, 2575, 1024, 13138, 19961, 1012, 6163, 102],
            &[
                101, 24665, 2226, 17499, 17151, 28306, 1010, 15743, 7668, 1517, 1864, 1876, 1950, 1671, 30239, 30227,
                30233, 30240, 100, 102,
            ],
            &[101, 13366, 1042, 1006, 1060, 1007, 1024, 2709, 1060, 1008, 1008, 1016, 1001, 10346, 102],
            &[
                101, 1026, 1064, 2203, 15794, 10288, 2102, 1064, 1028, 1180, 1202, 22919, 14150, 1010, 1185, 29747,
                29436, 10325, 9960, 1029, 103, 1041, 102,
            ],
        ],
    );
    check(
        &words,
        r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "tokenize_chinese_chars": false}"#,
        [
            &[101, 100, 1010, 2088, 999, 100, 1005, 1055, 16798, 2575, 1024, 13138, 19961, 1012, 6163, 102],
            &[
                101, 100, 17151, 100, 1010, 100, 100, 1517, 1864, 30402, 30476, 30197, 30239, 30227, 30233, 30240, 100,
                102,
            ],
            &[101, 13366, 1042, 1006, 1060, 1007, 1024, 2709, 1060, 1008, 1008, 1016, 1001, 10346, 102],
            &[
                101, 1026, 1064, 2203, 15794, 10288, 2102, 1064, 1028, 100, 1202, 22919, 14150, 1010, 1185, 29747,
                29436, 10325, 100, 1029, 103, 100, 102,
            ],
        ],
    );
}

#[test]
fn what_folders_of_before_must_have_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).expect("a file");
    let error = || Tokenizer::open(folder.path()).expect_err("no tokenizer").to_string();
    write("tokenizer.model", "");
    assert!(error().contains("tokenizer.model\": there is no tokenizer.json, and this is SentencePiece's own format"));
    write("vocab.json", r#"{"a": 0}"#);
    write("merges.txt", "#version: 0.2\r\n");
    write("config.json", r#"{"model_type": "llama"}"#);
    let expected = "this is of class \"llama\", expected GPT2Tokenizer or Qwen2Tokenizer or RobertaTokenizer: transformers makes one";
    assert!(error().contains(expected), "{}", error());
    write("tokenizer_config.json", r#"{"tokenizer_class": "GPT2Tokenizer"}"#);
    let tokenizer = Tokenizer::open(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.encode("aa<|endoftext|>", true).expect("a text"), [0, 0, 1]);
    // The configuration's tokens keep their IDs; others come after them.
    write("added_tokens.json", r#"{"<z>": 2, "<s>": 1}"#);
    write("special_tokens_map.json", r#"{"bos_token": "<s>"}"#);
    let tokenizer = Tokenizer::open(folder.path()).expect("a tokenizer");
    let ids = ["<s>", "<z>", "<|endoftext|>"].map(|token| tokenizer.token(token));
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
    write("merges.txt", "a");
    assert!(error().contains("vocab.json\": not a tokenizer: merge \"a\", expected two pieces"), "{}", error());
}
