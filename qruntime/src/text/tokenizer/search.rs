//! Searches texts with a regular expression, and counts the bytes that it reads.
//!
//! A match of one byte may need to read everything that follows: `.*[^A-Z]|[A-Z]` reads capitals
//! to the end of the text for each of them. In short texts, this is accepted. In longer ones, the
//! search proceeds position by position; at each, an automaton that follows all ways to match at
//! once determines how far any of them can read:
//!
//! ```text
//! at = 0
//! until the end:  far = bytes until no way to match is left; refuse if all `far` together are too many
//!                 search for PATTERN|(any character) at `at`, where one of them matches
//!                 at = the end of the match of PATTERN, or the next character
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fancy_regex::{Assertion, Expr, LookAround, Regex};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, MatchKind};
use tokenizers::Offsets;
use tokenizers::tokenizer::pattern::Pattern;

use super::call::{may_read, may_search, refuse, with_cache};
use super::pattern::is_regular;
use super::steps::Fault;

/// Most bytes of an automaton before it runs.
const MAX_AUTOMATON: usize = 32 << 20;
/// Most bytes of cached states of an automaton.
const STATES: usize = 4 << 20;

/// A regular expression of a tokenizer.
#[derive(Debug)]
pub(super) struct Search {
    place: String,
    pattern: String,
    regex: Regex,
    /// Whether the crate `regex` runs the expression.
    regular: bool,
    /// Distinguishes searches in the caches of a call.
    id: u64,
    counter: OnceLock<Result<Counter, Fault>>,
}

/// The expressions that count, compiled when a text first needs them.
#[derive(Debug)]
struct Counter {
    automaton: DFA,
    /// Matches the pattern, or else any character; `None` for a regular pattern, whose own search
    /// finds the next match without backtracking.
    or_any: Option<Regex>,
}

/// The next [`Search::id`].
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Search {
    pub(super) fn new(place: &str, pattern: &str) -> Result<Self, Fault> {
        let place = format!("{place}.pattern {pattern:?}");
        let regex = Regex::new(pattern).map_err(|error| format!("{place}: {error}"))?;
        let tree = Expr::parse_tree(pattern).map_err(|error| format!("{place}: {error}"))?;
        let (regular, id) = (is_regular(&tree.expr), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { place, pattern: pattern.to_owned(), regex, regular, id, counter: OnceLock::new() })
    }

    /// Returns all matches without counting, for short texts.
    fn all(&self, text: &str) -> Vec<(usize, usize)> {
        // An error ends the search, as in the crate: the expression backtracked too often.
        self.regex.find_iter(text).map_while(Result::ok).map(|found| (found.start(), found.end())).collect()
    }

    /// Returns all matches, and counts what is read to find them.
    fn counted(&self, text: &str) -> Result<Vec<(usize, usize)>, Fault> {
        let counter = self.counter.get_or_init(|| self.counter()).as_ref().map_err(Clone::clone)?;
        let new = || counter.automaton.create_cache();
        with_cache(self.id, new, |cache| self.counted_with(counter, cache, text))
    }

    fn counted_with(&self, counter: &Counter, cache: &mut Cache, text: &str) -> Result<Vec<(usize, usize)>, Fault> {
        let Counter { automaton, or_any } = counter;
        let mut found = Vec::new();
        let (mut at, mut last) = (0, None);
        while at <= text.len() {
            self.read(automaton, cache, text, at)?;
            let (start, end) = match or_any {
                None => match self.regex.find_from_pos(text, at) {
                    Ok(Some(whole)) => (whole.start(), whole.end()),
                    _ => break,
                },
                Some(regex) => {
                    let Ok(Some(captures)) = regex.captures_from_pos(text, at) else { break };
                    let Some(whole) = captures.get(0) else { break };
                    if captures.get(captures.len() - 1).is_some() {
                        at = whole.end();
                        continue;
                    }
                    (whole.start(), whole.end())
                }
            };
            let empty = start == end;
            at = if empty { end + text[end..].chars().next().map_or(1, char::len_utf8) } else { end };
            // An empty match directly behind another one does not count.
            if !(empty && last == Some(end)) {
                found.push((start, end));
                last = Some(end);
            }
        }
        Ok(found)
    }

    /// Counts the bytes that a match at this position may read.
    fn read(&self, automaton: &DFA, cache: &mut Cache, text: &str, at: usize) -> Result<(), Fault> {
        let anchored = if self.regular { Anchored::No } else { Anchored::Yes };
        let input = Input::new(text).range(at..).anchored(anchored);
        let mut state = automaton.start_state_forward(cache, &input).map_err(|error| self.fault(error))?;
        let (mut count, mut states) = (1, cache.memory_usage());
        for &byte in &text.as_bytes()[at..] {
            state = automaton.next_state(cache, state, byte).map_err(|error| self.fault(error))?;
            count += 1;
            // Building a new state costs as much work as it has bytes.
            let now = cache.memory_usage();
            count += now.saturating_sub(states);
            states = now;
            if state.is_dead() || state.is_quit() {
                break;
            }
            if count > 1 << 16 {
                may_read(std::mem::take(&mut count)).map_err(|what| self.fault(what))?;
            }
        }
        may_read(count).map_err(|what| self.fault(what))
    }

    /// Compiles the expressions that count.
    fn counter(&self) -> Result<Counter, Fault> {
        #[cfg(test)]
        tests::COMPILED.with_borrow_mut(|compiled| compiled.push(self.id));
        let or_any = || Regex::new(&format!("(?:{})|((?s:.))", self.pattern)).map_err(|error| self.fault(error));
        let automaton = self.automaton()?;
        Ok(Counter { automaton, or_any: (!self.regular).then(or_any).transpose()? })
    }

    /// Builds an automaton that continues as long as there is a way to match. Look-around never
    /// stops it.
    fn automaton(&self) -> Result<DFA, Fault> {
        let tree = Expr::parse_tree(&self.pattern).map_err(|error| self.fault(error))?;
        let mut loose = String::new();
        loosened(&tree.expr, &mut loose);
        let kind = if self.regular { MatchKind::LeftmostFirst } else { MatchKind::All };
        DFA::builder()
            .configure(DFA::config().match_kind(kind).cache_capacity(STATES).skip_cache_capacity_check(true))
            .thompson(thompson::Config::new().nfa_size_limit(Some(MAX_AUTOMATON)))
            .build(&loose)
            .map_err(|error| self.fault(error))
    }

    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        format!("{}: {what}", self.place)
    }
}

/// Writes an expression without look-around: text to look for ahead may be there or not.
fn loosened(expr: &Expr, out: &mut String) {
    use Assertion::{LeftWordBoundary, NotWordBoundary, RightWordBoundary, WordBoundary};
    let empty = |expr: &Expr| {
        matches!(
            expr,
            Expr::LookAround(_, LookAround::LookBehind | LookAround::LookBehindNeg)
                | Expr::Assertion(LeftWordBoundary | NotWordBoundary | RightWordBoundary | WordBoundary)
                | Expr::KeepOut
                | Expr::ContinueFromPreviousMatchEnd
        )
    };
    *out += "(?:";
    match expr {
        expr if empty(expr) => {}
        Expr::Concat(parts) => parts.iter().for_each(|part| loosened(part, out)),
        Expr::Alt(parts) => {
            for (i, part) in parts.iter().enumerate() {
                *out += if i > 0 { "|" } else { "" };
                loosened(part, out);
            }
        }
        Expr::Group(part) | Expr::AtomicGroup(part) => loosened(part, out),
        Expr::LookAround(part, _) => {
            loosened(part, out);
            *out += "|";
        }
        Expr::Repeat { child, lo, hi, greedy } => {
            loosened(child, out);
            *out += &match *hi {
                usize::MAX => format!("{{{lo},}}"),
                hi => format!("{{{lo},{hi}}}"),
            };
            *out += if *greedy { "" } else { "?" };
        }
        expr => expr.to_str(out, 3),
    }
    *out += ")";
}

impl Pattern for &Search {
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let found = if may_search(text.len()) {
            self.all(text)
        } else {
            self.counted(text).inspect_err(|fault| refuse(fault))?
        };
        let mut parts = Vec::with_capacity(2 * found.len() + 1);
        let mut before = 0;
        for (start, end) in found {
            if before != start {
                parts.push(((before, start), false));
            }
            parts.push(((start, end), true));
            before = end;
        }
        if before != text.len() {
            parts.push(((before, text.len()), false));
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokenizers::tokenizer::pattern::Pattern;

    use super::Search;
    use crate::text::tokenizer::call::run;

    thread_local! {
        /// The searches of this thread that have compiled what counts, by their ids.
        pub(super) static COMPILED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    /// A text of many pieces, each too long to be searched uncounted once the call has searched
    /// some.
    #[test]
    fn what_counts_is_compiled_once() {
        let searches =
            [r"\p{L}+|\s+(?!\S)|\s+", r"[^\s\p{L}]+|\d{1,3}"].map(|pattern| Search::new("p", pattern).unwrap());
        assert_eq!(searches.each_ref().map(|search| search.regular), [false, true]);
        let piece = "abc 12 ".repeat(43);
        let (pieces, expected) = ((1 << 20) / piece.len(), searches.each_ref().map(|search| search.all(&piece).len()));
        for _ in 0..2 {
            let (matches, refusal) = run(1 << 20, Vec::new(), || {
                let found =
                    |search: &Search| search.find_matches(&piece).unwrap().into_iter().filter(|part| part.1).count();
                searches.each_ref().map(|search| (0..pieces).map(|_| found(search)).sum::<usize>())
            });
            assert_eq!((matches, refusal), (expected.map(|found| found * pieces), None));
        }
        let compiled = COMPILED.with_borrow(Clone::clone);
        assert_eq!(compiled, searches.map(|search| search.id));
    }

    /// Counting does not change matches, with patterns of known tokenizers and others, in texts
    /// that contain everything that these mention.
    #[test]
    fn counting_changes_no_match() {
        let text = "Hello  wörld, it's 12345678 o'clock!\r\n\n  \t x<|y|>  HTTPServer don'T 漢字かな 😀😀\u{2028}\u{1}e\u{301} ";
        let long = format!("{text}{}{}{}{text}", " ".repeat(300), "A".repeat(300), "7".repeat(300));
        for pattern in [
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(?=(\d{3})+(?!\d))",
            r" {2,}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r"\b",
            r"a*",
            r"(?<=o)c|^H|\s$",
            r"(l)(o)?",
            r"\w+(?=\W)\K,?",
            r"(?i)h.*?l|o{2,3}?|\d+?",
            r".*[^A-Z]|[A-Z]",
        ] {
            let search = Search::new("p", pattern).unwrap();
            for text in [text, &long, "x", " "] {
                let (counted, _) = run(1 << 20, Vec::new(), || search.counted(text));
                assert_eq!(counted, Ok(search.all(text)), "{pattern} in {text:.40}");
            }
        }
    }
}
