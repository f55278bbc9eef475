//! A `tokenizer.json` that would take memory, time or stack out of proportion is refused: the error
//! names the field, what was found and what was expected. Files at a bound must cost no more than
//! the bound promises.

use qruntime::Tokenizer;
use serde_json::{Value, json};

use crate::support::allocations::measure;

/// Makes a tokenizer with these parts.
fn with(changes: &Value) -> Result<Tokenizer, qruntime::Error> {
    let mut file = json!({
        "version": "1.0",
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
    });
    for (field, value) in changes.as_object().unwrap() {
        file[field] = value.clone();
    }
    Tokenizer::from_bytes(file.to_string().as_bytes())
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn added(content: &str, lstrip: bool) -> Value {
    json!({"id": 3, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false,
        "normalized": false, "special": true})
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false})
}

/// Makes a table of SentencePiece that claims a tree of this many bytes but has none, and an
/// entry.
fn table(tree: u32, entry: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = tree.to_le_bytes().to_vec();
    bytes.extend(entry.bytes());
    bytes.resize(bytes.len().next_multiple_of(3), 0);
    let digits = |triple: &[u8]| {
        let bits = u32::from_be_bytes([0, triple[0], triple[1], triple[2]]);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize] as char)
    };
    bytes.chunks(3).flat_map(digits).collect()
}

#[test]
fn what_cannot_be_bounded_is_refused() {
    let unigram = |piece: &str| json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [piece, -1.0]]});
    let template = |single: Value, ids: usize| {
        json!({"type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": vec![0; ids], "tokens": vec!["a"; ids]}}})
    };
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let mark = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let tree: Vec<_> = (0..40_000_u32).map(|i| json!([format!("{i:0>8}").repeat(16), 0.0])).collect();
    let table_of = |base64: String| json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64}});
    for (changes, expected) in [
        // The model.
        (json!({"model": unigram(&"x".repeat(40_000))}), "a piece of 40000 bytes, expected at most 4096 at line 1"),
        (
            json!({"model": unigram(&"x".repeat(257))}),
            "model.vocab has a piece of 257 bytes, expected at most 256 in a Unigram model",
        ),
        (
            json!({"model": {"type": "Unigram", "vocab": tree}}),
            "beginnings, expected at most 4194304 in a Unigram model",
        ),
        (
            json!({"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 1_000_000_000}}),
            "model.max_input_chars_per_word is 1000000000, expected at most 256",
        ),
        (
            json!({"model": {"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": "#".repeat(65)}}),
            "model.continuing_subword_prefix of 65 bytes, expected at most 64",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "x".repeat(65)}}),
            "model.end_of_word_suffix of 65 bytes, expected at most 64",
        ),
        (json!({"model": {"type": "BPE", "vocab": [["a", 0.0]], "merges": []}}), "expected a map of pieces"),
        (json!({"model": {"type": "BPE", "vocab": {"a": 0}}}), "model.merges is missing"),
        (json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}), "with a space between them"),
        (json!({"model": {"type": "Unigram", "vocab": {"a": 0}}}), "expected a list of pieces and scores"),
        (json!({"model": {"type": "Markov", "vocab": {"a": 0}}}), "expected BPE, Unigram, WordLevel or WordPiece"),
        (json!({"model": {"type": "BPE", "merges": []}}), "model.vocab is missing"),
        // Added tokens.
        (
            json!({"added_tokens": [added(&"x".repeat(1025), false)]}),
            "added_tokens: a token of 1025 bytes, expected at most 1024",
        ),
        (
            json!({"added_tokens": [added(" ", true)]}),
            "added_tokens: \" \" takes away spaces, expected a token without spaces at its ends",
        ),
        (
            json!({"added_tokens": (0..4200).map(|i| added(&format!("{i:0>1000}"), false)).collect::<Vec<_>>()}),
            "added_tokens of 4200000 bytes, expected at most 4194304",
        ),
        // The normalizer.
        (
            json!({"normalizer": {"type": "Prepend", "prepend": "x".repeat(65)}}),
            "normalizer.prepend of 65 bytes, expected at most 64",
        ),
        (
            json!({"normalizer": {"type": "Sequence", "normalizers": [replace("a", &"x".repeat(65))]}}),
            "normalizer.normalizers[0].content of 65 bytes makes texts up to 65 times longer, expected at most 64",
        ),
        (json!({"normalizer": replace("", &"x".repeat(64))}), "makes texts up to 65 times longer, expected at most 64"),
        (
            json!({"normalizer": {"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 33]}}),
            "normalizer: more than 32 steps, expected at most so many",
        ),
        (json!({"normalizer": {"normalizers": []}}), "normalizer has no type, expected the name of one"),
        (json!({"normalizer": {"type": "Upper"}}), "normalizer is of type \"Upper\", which is no normalizer"),
        (json!({"normalizer": {"type": "NFC", "x": "y".repeat(3 << 20)}}), "bytes, expected at most 2097152"),
        (
            table_of(table(0xffff_ffff, "")),
            "normalizer.precompiled_charsmap has a tree of 4294967295 bytes, expected at most 2, those that follow",
        ),
        (
            table_of(table(0, &"x".repeat(65))),
            "normalizer.precompiled_charsmap has an entry of 65 bytes, expected at most 64",
        ),
        (table_of("?".to_owned()), "normalizer.precompiled_charsmap is no base64"),
        // The pre-tokenizer.
        (json!({"pre_tokenizer": split("(x+x+)+(?!y)")}), "repeats what varies, which may take forever"),
        (json!({"pre_tokenizer": split(r"(\w)\1")}), "looks back at what it has found, which may take forever"),
        (
            json!({"pre_tokenizer": split("(x{100}){100}")}),
            "counts more than 512 repetitions, expected at most so many",
        ),
        (json!({"pre_tokenizer": split(&"x".repeat(4097))}), "pattern of 4097 bytes, expected at most 4096"),
        (
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![byte_level(); 4]}}),
            "pre_tokenizer.pretokenizers[3]: with the steps before it, texts become up to 81 times longer, expected at most 32",
        ),
        (json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), "length is 0, expected at least 1"),
        // The post-processor.
        (
            json!({"post_processor": template(json!([text, text]), 1)}),
            "post_processor.single has the text 2 times, expected once",
        ),
        (json!({"post_processor": template(json!([mark, text]), 257)}), "adds 257 tokens, expected at most 256"),
        (
            json!({"post_processor": {"type": "ByteLevel", "sep": ["a", 0], "cls": ["a", 0]}}),
            "post_processor: missing field",
        ),
        // The decoder.
        (json!({"decoder": replace("a", &"x".repeat(65))}), "makes texts up to 65 times longer, expected at most 64"),
        (json!({"decoder": {"type": "Sequence"}}), "decoder has no list \"decoders\""),
    ] {
        let error = with(&changes).map(drop).expect_err(expected).to_string();
        assert!(error.starts_with(r#""tokenizer.json": not a tokenizer: "#), "{error}");
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
}

/// Chains whose every step is harmless.
#[test]
fn texts_and_tokens_do_not_multiply() {
    let chain = |list: &str| {
        let mut steps = vec![replace("a", "aa"); 31];
        steps.push(replace("aa", "a"));
        json!({"type": "Sequence", list: steps})
    };
    let tokenizer = with(&json!({"normalizer": chain("normalizers")})).unwrap();
    let (error, asked) = measure(|| tokenizer.encode(&"a".repeat(1000), true).unwrap_err().to_string());
    assert!(error.ends_with("the normalizer makes too much of a text, expected at most 8 times as much"), "{error}");
    assert!(asked.peak < 16 << 20, "{} bytes", asked.peak);
    assert_eq!(tokenizer.encode("bcb", true).unwrap(), [1, 2, 1], "the next text is another one");
    let tokenizer = with(&json!({"decoder": chain("decoders")})).unwrap();
    let (error, asked) = measure(|| tokenizer.decode(&[0; 100]).unwrap_err().to_string());
    assert!(error.contains("the decoder makes more than"), "{error}");
    assert!(asked.peak < 1 << 20, "{} bytes", asked.peak);
    // An added token is normalized when the file is read.
    let mut token = added(&"a".repeat(1000), false);
    token["normalized"] = json!(true);
    let error = with(&json!({"normalizer": chain("normalizers"), "added_tokens": [token]})).unwrap_err().to_string();
    assert!(error.contains("the normalizer makes too much of a text"), "{error}");
}

/// Regular expressions that read a text to its end for each of its bytes, and others that do not.
#[test]
fn texts_are_not_read_too_often() {
    let text = "a".repeat(1 << 16);
    for regex in [
        ".*[^a-z]|[a-z]",
        r"[a-z]+(?!\w)(?=\d)|[a-z]",
        // All reads are in vain: there is no match.
        "a*b|a(?=c)",
    ] {
        let tokenizer = with(&json!({"pre_tokenizer": split(regex)})).unwrap();
        let error = tokenizer.encode(&text, true).unwrap_err().to_string();
        assert!(error.contains("cannot encode a text"), "{regex}: {error}");
        assert!(error.contains("reads a text of 65536 bytes too often"), "{regex}: {error}");
        // Short texts are accepted.
        assert_eq!(tokenizer.encode(&text[..4096], true).unwrap(), [0; 4096], "{regex}");
    }
    let replace = json!({"type": "Replace", "pattern": {"Regex": ".*[^a-z]|[a-z]"}, "content": "a"});
    let error = with(&json!({"normalizer": replace})).unwrap().encode(&text, true).unwrap_err().to_string();
    assert!(error.contains("normalizer.pattern") && error.contains("too often"), "{error}");
    for regex in [
        "a*b",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ] {
        let tokenizer = with(&json!({"pre_tokenizer": split(regex)})).unwrap();
        for part in ["a", "A", " ", "1", "!", "a b", "\n", " \n", "a\u{301}", "Aa", "\r", "漢"] {
            let text = part.repeat((1 << 15) / part.len());
            let error = tokenizer.encode(&text, true).err().map(|error| error.to_string());
            assert_eq!(error, None, "{part:?} with {regex}");
        }
    }
}

/// The deepest permitted tree is dropped on a small stack, and the largest takes what
/// `docs/security.md` says.
#[test]
fn unigram_models_at_the_bounds_are_in_proportion() {
    let deep: Vec<_> = (1..=256).map(|length| json!(["x".repeat(length), 0.0])).collect();
    let encode = move || {
        let tokenizer = with(&json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": deep}})).unwrap();
        tokenizer.encode(&"x".repeat(10_000), true).unwrap().len()
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(encode);
    assert!(thread.unwrap().join().unwrap() >= 40);
    let broad: Vec<_> = (0..1600_u32).map(|i| json!([format!("{i:0>4}").repeat(32), 0.0])).collect();
    let (tokenizer, asked) = measure(|| with(&json!({"model": {"type": "Unigram", "vocab": broad}})));
    drop(tokenizer.unwrap());
    assert!(asked.peak < 200_000 * 400, "{} bytes for 200,000 nodes", asked.peak);
}

/// Measures the cost of the worst files within the bounds, for `docs/security.md`.
#[test]
#[ignore = "prints figures; run it alone, with --nocapture"]
fn what_the_bounds_cost() {
    let words = |longest: usize| json!({"type": "WordPiece", "vocab": {"x": 0, "##x": 1, "u": 2}, "unk_token": "u", "max_input_chars_per_word": longest});
    let chain: Vec<_> = (1..=256).map(|length| json!(["x".repeat(length), -0.1])).collect();
    let merges: Vec<_> = (0..12).map(|i| json!(["x".repeat(1 << i), "x".repeat(1 << i)])).collect();
    let doubles: serde_json::Map<_, _> = (0..13).map(|i| ("x".repeat(1 << i), json!(i))).collect();
    let mut mask = added("<mask>", true);
    mask["id"] = json!(0);
    let whitespace = json!({"type": "WhitespaceSplit"});
    for (name, file, text) in [
        (
            "WordPiece, words of 256",
            json!({"model": words(256), "pre_tokenizer": whitespace}),
            format!("{} ", "x".repeat(256)).repeat(256),
        ),
        (
            "WordPiece, words of 100",
            json!({"model": words(100), "pre_tokenizer": whitespace}),
            format!("{} ", "x".repeat(100)).repeat(650),
        ),
        ("WordPiece, one word", json!({"model": words(256)}), "x".repeat(1 << 20)),
        ("Unigram, one word", json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": chain}}), "x".repeat(1 << 16)),
        ("BPE, one word", json!({"model": {"type": "BPE", "vocab": doubles, "merges": merges}}), "x".repeat(1 << 20)),
        ("added tokens", json!({"added_tokens": [mask]}), "<mask>".repeat(1 << 17)),
        ("pattern, regular", json!({"pre_tokenizer": split(".*[^A-Z]|[A-Z]")}), "A".repeat(1 << 16)),
        ("pattern, looks around", json!({"pre_tokenizer": split(r"[A-Z]+(?!\w)(?=\d)|[A-Z]")}), "A".repeat(1 << 16)),
        ("pattern, usual", json!({"pre_tokenizer": split(r"\s+(?!\S)|\s+|\S+")}), " a".repeat(1 << 19)),
    ] {
        let (tokenizer, asked) = measure(|| with(&file).unwrap());
        let start = std::time::Instant::now();
        let (_, encoding) = measure(|| tokenizer.encode(&text, true).map(|tokens| tokens.len()));
        println!(
            "{name:24} opened {:>8.1} MB, {:>7} bytes of text {:>7.2} s {:>8.1} MB, {} allocations",
            asked.peak as f64 / 1e6,
            text.len(),
            start.elapsed().as_secs_f64(),
            encoding.peak as f64 / 1e6,
            encoding.allocations
        );
    }
    for nodes in [1 << 20, 3 << 20] {
        let pieces: Vec<_> = (0..nodes / 8_u32).map(|i| json!([format!("{i:0>8}{i:0>8}"), 0.0])).collect();
        let file = json!({"type": "Unigram", "vocab": pieces});
        let (tokenizer, asked) = measure(|| with(&json!({"model": file})).map(drop));
        println!("Unigram of {} pieces: {:.0} MB, {:?}", pieces.len(), asked.peak as f64 / 1e6, tokenizer.err());
    }
}
