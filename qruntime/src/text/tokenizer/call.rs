//! What one call of the pipeline may use, and what it is told beside its text.

use std::cell::RefCell;

use tokenizers::NormalizedString;

/// Bytes that a normalizer may make of a byte.
const GROWTH: usize = 8;
/// Bytes that any one step of a normalizer or decoder may make of a byte, before what it made is
/// looked at. The longest that Unicode's compatibility decompositions make of a character is
/// 11 times as long, and of a byte of one in SentencePiece's tables, 33 times.
pub(super) const STEP_GROWTH: usize = 64;
/// Bytes that are free in every call: short texts may grow as they like.
const FREE: usize = 64 << 10;

/// Text of a user that looks like an added token. The pipeline sees one character in its place
/// until added tokens have been looked for.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) character: char,
    pub(super) text: String,
    /// Whether the added token is looked for in the normalized text, so that the mask has to stay
    /// until the text is split.
    pub(super) normalized: bool,
}

thread_local! {
    /// The call that this thread is in. The crate's traits have no place for it.
    static CALL: RefCell<Call> = RefCell::new(Call::default());
}

#[derive(Default)]
struct Call {
    /// Bytes of the text, and those that its normalized parts may still have.
    bytes: usize,
    left: usize,
    exceeded: bool,
    masks: Vec<Mask>,
}

/// Runs `call` on `bytes` of text. Returns what it gives, and whether it asked for more than it may
/// have.
pub(super) fn run<T>(bytes: usize, masks: Vec<Mask>, call: impl FnOnce() -> T) -> (T, bool) {
    let left = bytes.saturating_mul(GROWTH).saturating_add(FREE);
    CALL.set(Call { bytes, left, exceeded: false, masks });
    let result = call();
    (result, CALL.take().exceeded)
}

/// The most bytes that something may have while it is made of `bytes`.
pub(super) fn most(bytes: usize) -> usize {
    bytes.saturating_mul(STEP_GROWTH).saturating_add(FREE)
}

/// Whether a step may make so many bytes. If not, the call has failed.
pub(super) fn may_make(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| {
        call.exceeded |= bytes > most(call.bytes);
        !call.exceeded
    })
}

/// Takes the bytes of a normalized part from those that are left.
pub(super) fn spend(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| {
        call.exceeded |= bytes > call.left;
        call.left = call.left.saturating_sub(bytes);
        !call.exceeded
    })
}

/// Puts the text in the place of its masks.
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
