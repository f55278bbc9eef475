//! What applications do with a tokenizer. Shared with `qruntime/tests/fuzz_corpus.rs`.

use qruntime::Tokenizer;

/// Opens the tokenizer that the bytes begin with and encodes the text after the first zero byte in
/// every way; what it gives is decoded at once and token by token. Returns whether it was opened.
pub(crate) fn tokenize(bytes: &[u8]) -> bool {
    let (json, text) = match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b"Two caf\xc3\xa9s,  <s> 12\n\n"[..]),
    };
    let Ok(tokenizer) = Tokenizer::from_bytes(json) else { return false };
    let text = String::from_utf8_lossy(text);
    let read = tokenizer.encode(&text, true);
    let again = tokenizer.clone().encode(&text, true);
    assert_eq!(read.as_ref().ok(), again.as_ref().ok(), "the same text has the same tokens");
    for tokens in [read, tokenizer.encode_plain(&text, false), tokenizer.encode(&text, false)].into_iter().flatten() {
        let mut stream = tokenizer.stream(&[]);
        for &token in tokens.iter().take(100) {
            let _ = stream.push(token);
        }
        let _ = (stream.finish(), tokenizer.decode(&tokens));
    }
    let _ = (tokenizer.beginning(), tokenizer.decode(&[0, 1, 2, 3, u32::MAX]));
    if let Ok(limited) = tokenizer.with_limit(4)
        && let Ok(tokens) = limited.encode(&text, true)
    {
        assert!(tokens.len() <= 4, "{} tokens", tokens.len());
    }
    true
}
