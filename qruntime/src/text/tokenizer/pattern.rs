//! Restricts the regular expressions of a tokenizer.
//!
//! The crate `regex` runs most of them, in time linear in the text for every match. Expressions
//! with look-around (nearly every tokenizer has `\s+(?!\S)`) need the backtracking of
//! `fancy-regex`. Of these, only expressions with a single way to backtrack are accepted: the cost
//! of a match is then at most the length of the text. [`super::search`] counts the cost of all
//! matches.

use fancy_regex::{Assertion, Expr};
use serde_json::Value;

use super::steps::Fault;

/// Most bytes of a regular expression. The longest known has 600.
const MAX_REGEX: usize = 4096;
/// Most bytes of a literal pattern.
const MAX_TEXT: usize = 256;
/// Most counted repetitions, nested ones multiplied. Jais 2 counts 512 spaces.
const MAX_COUNT: usize = 512;

/// Checks the pattern of a step. Returns the minimum length of a match in bytes.
pub(super) fn check(place: &str, pattern: &Value) -> Result<usize, Fault> {
    let limited = |text: &str, most: usize| match text.len() <= most {
        true => Ok(text.len()),
        false => Err(format!("{place}.pattern of {} bytes, expected at most {most}", text.len())),
    };
    if let Some(text) = pattern["String"].as_str() {
        return limited(text, MAX_TEXT);
    }
    let Some(regex) = pattern["Regex"].as_str() else {
        return Err(format!("{place}.pattern is neither a \"String\" nor a \"Regex\""));
    };
    limited(regex, MAX_REGEX)?;
    let refuse = |what: &str| format!("{place}.pattern {regex:?} {what}");
    let tree = Expr::parse_tree(regex).map_err(|error| refuse(&format!("cannot be read: {error}")))?;
    if counted(&tree.expr) > MAX_COUNT {
        return Err(refuse(&format!("counts more than {MAX_COUNT} repetitions, expected at most so many")));
    }
    if refers_back(&tree.expr) {
        return Err(refuse("looks back at what it has found, which may take forever"));
    }
    backtracking(&tree.expr).map_err(|what| refuse(&format!("{what}, which may take forever")))?;
    Ok(0)
}

/// Returns the parts of an expression.
fn parts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().collect(),
        Expr::Group(part) | Expr::LookAround(part, _) | Expr::AtomicGroup(part) => vec![part],
        Expr::Repeat { child, .. } => vec![child],
        Expr::Conditional { condition, true_branch, false_branch } => vec![condition, true_branch, false_branch],
        _ => Vec::new(),
    }
}

/// Returns the most copies of a part that counted repetitions ask for.
fn counted(expr: &Expr) -> usize {
    let within = parts(expr).into_iter().map(counted).max().unwrap_or(1);
    match expr {
        Expr::Repeat { lo, hi, .. } => {
            let count = if *hi == usize::MAX { *lo } else { *hi };
            within.saturating_mul(count.max(1))
        }
        _ => within,
    }
}

/// Returns whether an expression refers back to its groups.
fn refers_back(expr: &Expr) -> bool {
    matches!(expr, Expr::Backref(_) | Expr::BackrefExistsCondition(_) | Expr::Conditional { .. })
        || parts(expr).into_iter().any(refers_back)
}

/// Returns whether the crate `regex` can run an expression, that is, whether it has no look-around
/// and no back reference.
pub(super) fn is_regular(expr: &Expr) -> bool {
    let regular = !matches!(
        expr,
        Expr::LookAround(..)
            | Expr::AtomicGroup(_)
            | Expr::KeepOut
            | Expr::ContinueFromPreviousMatchEnd
            | Expr::Assertion(
                Assertion::LeftWordBoundary
                    | Assertion::RightWordBoundary
                    | Assertion::WordBoundary
                    | Assertion::NotWordBoundary
            )
    );
    regular && parts(expr).into_iter().all(is_regular)
}

/// Returns whether an expression can match at a position in at most one way, of bounded length.
fn is_fixed(expr: &Expr) -> bool {
    match expr {
        Expr::Alt(_) => false,
        Expr::Repeat { lo, hi, .. } if lo != hi => false,
        expr => parts(expr).into_iter().all(is_fixed),
    }
}

/// The cost of an open repetition: as much as eight choices between two.
const REPETITION: usize = 8;
/// The most that one branch of a backtracking expression may cost.
const MAX_COST: usize = 2 * REPETITION - 1;

/// Checks an expression branch by branch; regular branches do not backtrack.
fn backtracking(expr: &Expr) -> Result<(), &'static str> {
    match expr {
        expr if is_regular(expr) => Ok(()),
        Expr::Alt(branches) => branches.iter().try_for_each(backtracking),
        expr if cost(expr)? > MAX_COST => Err("looks around and has too many ways to match"),
        _ => Ok(()),
    }
}

/// Returns the cost of backtracking in an expression, including its regular parts.
fn cost(expr: &Expr) -> Result<usize, &'static str> {
    if is_fixed(expr) {
        return Ok(0);
    }
    let within = |parts: &[&Expr]| parts.iter().try_fold(0, |sum, part| Ok(sum + cost(part)?));
    match expr {
        // There is no backtracking into an atomic group that has matched.
        Expr::AtomicGroup(part) => backtracking(part).map(|()| 0),
        Expr::Alt(branches) => {
            branches.iter().try_fold(0, |most: usize, branch| Ok(most.max(cost(branch)?))).map(|most| most + 1)
        }
        Expr::Repeat { child, lo: 0, hi: 1, .. } => Ok(cost(child)? + 1),
        // Few repetitions are as many choices: Aya takes one to three digits.
        Expr::Repeat { child, lo, hi, .. } if is_fixed(child) => Ok((hi - lo).min(REPETITION)),
        Expr::Repeat { .. } => Err("looks around and repeats what varies"),
        expr => within(&parts(expr)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn patterns_of_known_tokenizers_are_let_through() {
        for regex in [
            // GPT-2, cl100k, Llama 3, Qwen 2, o200k, DeepSeek, SuperBPE, Gemma, CLIP, BLOOM, Aya,
            // Jais 2.
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r"(?=(\d{3})+(?!\d))",
            r" {2,}",
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"\s{512}(?!\S)|\s{256}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ] {
            assert_eq!(check("p", &json!({ "Regex": regex })), Ok(0), "{regex}");
        }
        assert_eq!(check("p", &json!({ "String": "\u{2581}" })), Ok(3));
    }

    #[test]
    fn patterns_that_go_back_without_end_are_refused() {
        for (regex, what) in [
            (r"(a*)*(?!b)", "repeats what varies"),
            (r"(a|a)+(?=c)", "repeats what varies"),
            (r"a*a*b(?!c)", "too many ways"),
            (r"(?=.*x)a*(?!b)", "too many ways"),
            (r"a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?aaaa(?!b)", "too many ways"),
            (r"(\w+)\s\1", "looks back"),
            (r"(a*)*\b", "repeats what varies"),
            (r"(\p{L}{100}){100}", "counts more than 512"),
            (r"\d{1,9}(?=(?:\d{3})*\b)", "too many ways"),
            (r"(?<x>", "cannot be read"),
        ] {
            let error = check("pre_tokenizer", &json!({ "Regex": regex })).expect_err(regex);
            assert!(error.starts_with("pre_tokenizer.pattern ") && error.contains(what), "{error}");
        }
        let error = check("p", &json!({ "Regex": "a".repeat(5000) })).expect_err("long");
        assert_eq!(error, "p.pattern of 5000 bytes, expected at most 4096");
    }
}
