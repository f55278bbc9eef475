//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` may stand for numbers.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Parses JSON. A bare `NaN`, `Infinity` or `-Infinity` becomes a string of that name: code that
/// ignores the field is not affected, and code that expects a number refuses it.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    if text.starts_with(b"\xEF\xBB\xBF") {
        return Err("begins with a UTF-8 byte order mark: save the file without it".into());
    }
    serde_json::from_slice(&quoted(text)).map_err(|error| error.to_string())
}

/// Returns the JSON with quotes around values that JSON does not have.
fn quoted(text: &[u8]) -> Cow<'_, [u8]> {
    const VALUES: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => in_string = !in_string,
            // The byte after it is part of the string, even if it is a quote.
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                let start = at - 1;
                if let Some(value) = VALUES.iter().find(|value| text[start..].starts_with(value)) {
                    quoted.extend_from_slice(&text[copied..start]);
                    quoted.extend([b"\"", *value, b"\""].concat());
                    at = start + value.len();
                    copied = at;
                }
            }
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    quoted.extend_from_slice(&text[copied..]);
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::parse;

    #[test]
    fn values_that_python_writes_become_texts() {
        let parsed: Value = parse(br#"{"a": [0.0, Infinity, -Infinity,NaN], "b\"NaN": "NaN, \\\"Infinity"}"#).unwrap();
        let expected = json!({"a": [0.0, "Infinity", "-Infinity", "NaN"], "b\"NaN": "NaN, \\\"Infinity"});
        assert_eq!(parsed, expected);
        for wrong in ["Nan", "-inf", "NaNN", "--Infinity", "\"\\", "\"a\\\"", "[Infinity Infinity]", "NaN\""] {
            assert!(parse::<Value>(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let error = parse::<Value>("\u{feff}{}".as_bytes()).unwrap_err();
        assert!(error.contains("byte order mark"), "{error}");
    }
}
