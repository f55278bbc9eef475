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

/// Bytes of a text that the searches of a call may read for each of its own, and those that are
/// free.
const READ: usize = 64;
const FREE_READ: usize = 1 << 24;
/// A text so short may be searched in any case: a search reads at most half the square of its
/// length.
const SHORT: usize = 256;

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
    /// What the call is refused for. The crate goes on where a normalizer gives an error.
    refusal: Option<String>,
    /// Bytes that searches have read, where they were counted, and that they can have read
    /// elsewhere.
    read: usize,
    unread: usize,
    masks: Vec<Mask>,
}

impl Call {
    /// Refuses the call unless a normalizer may go on.
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

/// Runs `call` on `bytes` of text. Returns what it gives, and why it is refused if it asked for
/// more than it may have.
pub(super) fn run<T>(bytes: usize, masks: Vec<Mask>, call: impl FnOnce() -> T) -> (T, Option<String>) {
    let left = bytes.saturating_mul(GROWTH).saturating_add(FREE);
    CALL.set(Call { bytes, left, masks, ..Call::default() });
    let result = call();
    (result, CALL.take().refusal)
}

/// The most bytes that something may have while it is made of `bytes`.
pub(super) fn most(bytes: usize) -> usize {
    bytes.saturating_mul(STEP_GROWTH).saturating_add(FREE)
}

/// Whether a step may make so many bytes. If not, the call has failed.
pub(super) fn may_make(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| call.allow(bytes <= most(call.bytes)))
}

/// Takes the bytes of a normalized part from those that are left.
pub(super) fn spend(bytes: usize) -> bool {
    CALL.with_borrow_mut(|call| {
        let left = call.left;
        call.left = left.saturating_sub(bytes);
        call.allow(bytes <= left)
    })
}

/// Whether a text may be searched without counting what is read.
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

/// Takes bytes that a search reads from those that it may read.
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
