//! The limits of one call of the pipeline, and what the call gets besides its text.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regex_automata::hybrid::dfa::Cache;
use tokenizers::NormalizedString;

/// Most bytes that a normalizer may make of one byte.
const GROWTH: usize = 8;
/// Most bytes that a single step of a normalizer or decoder may make of one byte, before its result
/// is checked. Unicode's compatibility decompositions make a character at most 11 times as long,
/// and SentencePiece's tables at most 33 times.
pub(super) const STEP_GROWTH: usize = 64;
/// Bytes that every call may use in any case: short texts may grow without limit.
const FREE: usize = 64 << 10;

/// Bytes that the searches of a call may read for each byte of its text, and those that they may
/// read in any case.
const READ: usize = 64;
const FREE_READ: usize = 1 << 24;
/// The length up to which a text may be searched in any case: a search reads at most half the
/// square of its length.
const SHORT: usize = 256;

/// Text of a user that looks like an added token. The pipeline sees one character in its place
/// until it has searched for added tokens.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) character: char,
    pub(super) text: String,
    /// Whether the pipeline searches for the added token in the normalized text, so that the mask
    /// has to stay until the text is split.
    pub(super) normalized: bool,
}

thread_local! {
    /// The current call of this thread, for which the crate's traits have no parameter.
    static CALL: RefCell<Call> = RefCell::new(Call::default());
}

#[derive(Default)]
struct Call {
    /// The bytes of the text, and those that its normalized parts may still have.
    bytes: usize,
    left: usize,
    /// Why the call is refused. The crate continues after an error of a normalizer.
    refusal: Option<String>,
    /// Bytes that searches have read where reads are counted, and that they may have read
    /// elsewhere.
    read: usize,
    unread: usize,
    masks: Vec<Mask>,
    /// The states of automata that searches have met, by the id of the search.
    caches: BTreeMap<u64, Cache>,
}

impl Call {
    /// Refuses the call unless a normalizer may continue.
    fn allow(&mut self, goes_on: bool) -> bool {
        if !goes_on {
            let message = "the normalizer makes too much of a text, expected at most 8 times as much";
            self.refusal.get_or_insert_with(|| message.to_owned());
        }
        self.refusal.is_none()
    }
}

/// Refuses the call.
pub(super) fn refuse(reason: &str) {
    CALL.with_borrow_mut(|call| call.refusal.get_or_insert_with(|| reason.to_owned()).len());
}

/// Runs `call` on `bytes` of text. Returns its result, and the reason if it is refused for
/// exceeding a limit.
pub(super) fn run<T>(bytes: usize, masks: Vec<Mask>, call: impl FnOnce() -> T) -> (T, Option<String>) {
    let left = bytes.saturating_mul(GROWTH).saturating_add(FREE);
    CALL.set(Call { bytes, left, masks, ..Call::default() });
    let result = call();
    (result, CALL.take().refusal)
}

/// Returns the most bytes that an intermediate result for `bytes` may have.
pub(super) fn most(bytes: usize) -> usize {
    bytes.saturating_mul(STEP_GROWTH).saturating_add(FREE)
}

/// Returns whether a step may make this many bytes. If not, the call is refused.
pub(super) fn may_make(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| call.allow(bytes <= most(call.bytes)))
}

/// Subtracts the bytes of a normalized part from those that are left. If there are too few, the
/// call is refused.
pub(super) fn spend(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| {
        let left = call.left;
        call.left = left.saturating_sub(bytes);
        call.allow(bytes <= left)
    })
}

/// Returns whether a text may be searched without counting reads.
pub(super) fn may_search(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| {
        let most = call.unread.saturating_add(bytes.saturating_mul(bytes) / 2);
        let free = bytes <= SHORT || most <= FREE_READ;
        if free && bytes > SHORT {
            call.unread = most;
        }
        free
    })
}

/// Subtracts bytes that a search reads from those that are left.
pub(super) fn may_read(bytes: usize) -> Result<(), String> {
    CALL.with_borrow_mut(|call| {
        let most = call.bytes.saturating_mul(READ).saturating_add(FREE_READ);
        call.read = call.read.saturating_add(bytes);
        match call.read <= most {
            true => Ok(()),
            false => {
                Err(format!("reads a text of {} bytes too often, expected at most {most} bytes in all", call.bytes))
            }
        }
    })
}

/// Lends the cache that the call keeps for a search, or a new one at first.
pub(super) fn with_cache<T>(search: u64, new: impl FnOnce() -> Cache, lend: impl FnOnce(&mut Cache) -> T) -> T {
    let kept = CALL.with_borrow_mut(|call| call.caches.remove(&search));
    let mut cache = kept.unwrap_or_else(new);
    let result = lend(&mut cache);
    CALL.with_borrow_mut(|call| call.caches.insert(search, cache));
    result
}

/// Replaces masks by their text.
pub(super) fn unmask(text: &mut NormalizedString, normalized: bool) -> tokenizers::Result<()> {
    CALL.with_borrow(|call| {
        for mask in call.masks.iter().filter(|mask| mask.normalized == normalized) {
            if text.get().contains(mask.character) {
                text.replace(mask.character, &mask.text)?;
            }
        }
        Ok(())
    })
}
