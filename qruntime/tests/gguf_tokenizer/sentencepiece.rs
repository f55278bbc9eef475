//! Merges that are derived from scores join what the scores join.

use super::support::Random;
use super::support::gguf::GgufFile;
use super::{file, open};

/// Joins neighbours as SentencePiece does: those with the highest score, from the left.
fn greedy(tokens: &[String], scores: &[f32], text: &str) -> Vec<u32> {
    let id = |piece: &str| tokens.iter().position(|token| token == piece);
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..parts.len() {
            let joined = [parts[i - 1].as_str(), &parts[i]].concat();
            if let Some(id) = id(&joined)
                && best.is_none_or(|(score, _)| scores[id] > score)
            {
                best = Some((scores[id], i));
            }
        }
        let Some((_, i)) = best else { break };
        let right = parts.remove(i);
        parts[i - 1] += &right;
    }
    parts.iter().map(|part| id(part).unwrap() as u32).collect()
}

fn spm(tokens: &[String], scores: &[f32]) -> GgufFile {
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut types = vec![1; tokens.len()];
    types[0] = 2;
    file("llama", &tokens, &types)
        .floats("tokenizer.ggml.scores", scores)
        .flag("tokenizer.ggml.add_space_prefix", false)
        .flag("tokenizer.ggml.add_bos_token", false)
}

/// Vocabularies as training makes them, of two and three letters: each new token joins two earlier
/// ones, and its score is lower.
#[test]
fn merges_join_what_scores_join() {
    let mut random = Random(11);
    let mut longest = 0;
    for round in 0..200 {
        let letters = if round % 2 == 0 { "ab" } else { "abc" };
        let mut tokens: Vec<String> = vec!["<unk>".into()];
        tokens.extend(letters.chars().map(String::from));
        while tokens.len() < 30 {
            let mut part = || tokens[1 + random.below(tokens.len() - 1)].clone();
            let joined = part() + &part();
            if joined.len() <= 9 && !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
        let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
        // IDs say nothing about scores.
        let mut order: Vec<usize> = (1..tokens.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        order.insert(0, 0);
        let tokens: Vec<String> = order.iter().map(|&i| tokens[i].clone()).collect();
        let scores: Vec<f32> = order.iter().map(|&i| scores[i]).collect();
        let (tokenizer, ..) = open(&spm(&tokens, &scores));
        for _ in 0..50 {
            let text: String =
                (0..random.below(60)).map(|_| letters.as_bytes()[random.below(letters.len())] as char).collect();
            let expected = greedy(&tokens, &scores, &text);
            longest = longest.max(expected.len());
            assert_eq!(tokenizer.encode(&text, false).unwrap(), expected, "{text} with {tokens:?}");
        }
    }
    assert!(longest > 10);
}

/// Two ways to write a token meet in the middle: the left one wins, whichever is longer.
#[test]
fn of_two_ways_that_meet_the_left_one_wins() {
    for (parts, text) in [
        (&["a", "b", "ab", "ba", "aba"][..], "ababa"),
        (&["a", "b", "ab", "aba", "ababa"], "ababababa"),
        (&["a", "aa", "aaa"], "aaaaaaa"),
        (&["a", "b", "aa", "aab", "aabaa"], "aabaabaabaa"),
    ] {
        let mut tokens = vec!["<unk>".to_owned()];
        tokens.extend(parts.iter().map(|part| (*part).to_owned()));
        let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
        let (tokenizer, ..) = open(&spm(&tokens, &scores));
        for length in 0..=text.len() {
            let text = &text[..length];
            assert_eq!(tokenizer.encode(text, false).unwrap(), greedy(&tokens, &scores, text), "{text} with {parts:?}");
        }
    }
}

/// Files whose converter knew no scores have the same one everywhere; their IDs are in order.
#[test]
fn equal_scores_are_joined_in_the_order_of_ids() {
    let tokens = ["<unk>", "a", "b", "c", "bc", "ab", "abc"].map(str::to_owned);
    let (equal, ..) = open(&spm(&tokens, &[-1000.0; 7]));
    let (known, ..) = open(&spm(&tokens, &[0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]));
    for text in ["abc", "ab", "abcbcab", "cabb"] {
        assert_eq!(equal.encode(text, false).unwrap(), known.encode(text, false).unwrap(), "{text}");
    }
    assert_eq!(equal.encode("ab", false).unwrap(), [5]);
    assert_eq!(equal.encode("abb", false).unwrap(), [5, 2]);
    assert_eq!(equal.encode("abc", false).unwrap(), [6]);
}

/// The space that texts begin with, after every token that is added, too; bytes; what is trimmed.
#[test]
fn spaces_are_marked() {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u{2581}", "a", "\u{2581}a", "<0x0A>"];
    let types = [2, 3, 3, 6, 6, 1, 1, 1, 6];
    let llama = || {
        let scores = [0.0, 0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0, 0.0];
        file("llama", &tokens, &types).floats("tokenizer.ggml.scores", &scores)
    };
    let (tokenizer, ..) = open(&llama());
    assert_eq!(tokenizer.encode("a a</s>aé", true).unwrap(), [1, 7, 7, 2, 7, 3, 4]);
    assert_eq!(tokenizer.encode_plain("\n", false).unwrap(), [5, 8]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
    assert_eq!(tokenizer.decode(&[1, 7, 7, 3, 4]).unwrap(), "a aé");
    let (tokenizer, ..) = open(&llama().flag("tokenizer.ggml.add_space_prefix", false));
    assert_eq!(tokenizer.encode("a a", true).unwrap(), [1, 6, 7]);
    assert_eq!(tokenizer.decode(&[7, 7]).unwrap(), " a a");
    let (tokenizer, ..) = open(&llama().flag("tokenizer.ggml.remove_extra_whitespaces", true));
    assert_eq!(tokenizer.encode("   a   a ", false).unwrap(), [7, 7]);
}
