//! Untrusted text, in which nothing becomes a special token.
//!
//! Anything in such a text that looks like an added token is masked: a character that occurs
//! nowhere else replaces it while the pipeline searches for added tokens, and the original returns
//! before the text is split. So the tokens on both sides are the same as with any other text.

use std::collections::BTreeSet;

use tokenizers::{AddedToken, OffsetReferential, OffsetType};

use super::call::Mask;
use super::{Tokenizer, guarded, refuse};
use crate::error::Error;
use crate::text::Message;

/// The first masking character.
const FIRST: char = '\u{fdd0}';

/// Returns the masking characters: first Unicode's noncharacters, then those for private use.
fn candidates() -> impl Iterator<Item = char> {
    (FIRST..='\u{fdef}').chain('\u{100000}'..='\u{10fffd}')
}

/// Most passes over a text. Another pass finds tokens that overlap with those of the previous one.
const LOOKS: usize = 8;

impl Tokenizer {
    /// Converts an untrusted text to tokens: anything that looks like a special token is ordinary
    /// text. `special` has the same meaning as in [`encode`](Self::encode).
    ///
    /// Special tokens are those that the file marks as special, and other added ones in brackets,
    /// such as `<think>` or `[TOOL]`: some models have such tokens but do not mark them.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let mut masks = Masks::beside([text]);
        let text = self.mask(text, &mut masks, is_mark)?;
        self.encode_masked(&text, masks.masks, special)
    }

    /// Converts a conversation that `render` writes to tokens. The special tokens of its template
    /// are kept, but anything in a message that looks like one is ordinary text. In messages of the
    /// assistant, tokens that it can have written are kept: those that the file does not mark as
    /// special.
    ///
    /// ```no_run
    /// use qruntime::{CausalLm, Message};
    ///
    /// let lm = CausalLm::open("some-chat-model")?;
    /// let template = lm.chat_template()?.expect("a model for conversations");
    /// let messages = [Message::new("user", "What does <|im_end|> mean?")];
    /// let tokens = lm.tokenizer()?.encode_chat(&messages, |messages| template.render(messages, true))?;
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// `render` gets the messages with each such text replaced by a character that occurs in none
    /// of them; a template that inspects messages sees that character.
    ///
    /// # Errors
    /// Those of `render` and of [`encode`](Self::encode).
    pub fn encode_chat(
        &self,
        messages: &[Message],
        render: impl FnOnce(&[Message]) -> Result<String, Error>,
    ) -> Result<Vec<u32>, Error> {
        let mut masks = Masks::beside(messages.iter().map(|message| message.content.as_str()));
        let mut masked = messages.to_vec();
        for message in &mut masked {
            let marks = if message.role == "assistant" { |token: &AddedToken| token.special } else { is_mark };
            message.content = self.mask(&message.content, &mut masks, marks)?;
        }
        self.encode_masked(&render(&masked)?, masks.masks, false)
    }

    /// Returns a text with a mask for everything that would become one of the tokens `wanted`.
    fn mask(&self, text: &str, masks: &mut Masks, wanted: fn(&AddedToken) -> bool) -> Result<String, Error> {
        let pipeline = &self.0.pipeline;
        let added = pipeline.get_added_vocabulary();
        let mut text = text.to_owned();
        for _ in 0..LOOKS {
            let find = || {
                let split = added.extract_and_normalize(pipeline.get_normalizer(), &text);
                let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let token = |(_, (start, end), tokens): (&str, _, &Option<Vec<tokenizers::Token>>)| {
                    let token = added.get_added_tokens_decoder().get(&tokens.as_ref()?.first()?.id)?;
                    // The match may include spaces beside the token.
                    let within = text.get(start..end)?.find(&token.content);
                    let range = within.map_or(start..end, |at| start + at..start + at + token.content.len());
                    wanted(token).then_some((range, token.normalized))
                };
                Ok(splits.into_iter().filter_map(token).collect::<Vec<_>>())
            };
            let found = guarded(&self.0.path, "cannot encode a text", text.len(), Vec::new(), find)?;
            if found.is_empty() {
                return Ok(text);
            }
            let mut rest = 0;
            let mut masked = String::with_capacity(text.len());
            for (range, normalized) in found {
                // A match that overlaps the previous one is left to the next pass.
                let (Some(before), Some(mark)) = (text.get(rest..range.start), text.get(range.clone())) else {
                    continue;
                };
                let Some(mask) = masks.of(mark, normalized) else {
                    return Err(refuse(&self.0.path, "cannot encode a text", "too many kinds of special tokens in it"));
                };
                masked.push_str(before);
                masked.push(mask);
                rest = range.end;
            }
            masked.push_str(&text[rest..]);
            text = masked;
        }
        Err(refuse(&self.0.path, "cannot encode a text", "special tokens in it hide one another"))
    }
}

/// Returns whether an added token is one that nobody writes as text.
fn is_mark(token: &AddedToken) -> bool {
    let text = token.content.trim();
    let in_brackets = text.starts_with('<') && text.ends_with('>') || text.starts_with('[') && text.ends_with(']');
    token.special || in_brackets
}

/// A set of masks for texts, each with a character that occurs in none of them.
struct Masks {
    masks: Vec<Mask>,
    taken: BTreeSet<char>,
}

impl Masks {
    fn beside<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let taken = texts.into_iter().flat_map(str::chars).filter(|character| *character >= FIRST).collect();
        Self { masks: Vec::new(), taken }
    }

    /// Returns the character that masks a text, if one is left.
    fn of(&mut self, text: &str, normalized: bool) -> Option<char> {
        let same = |mask: &&Mask| mask.text == text && mask.normalized == normalized;
        if let Some(mask) = self.masks.iter().find(same) {
            return Some(mask.character);
        }
        let mut free = candidates().filter(|candidate| !self.taken.contains(candidate));
        let character = free.nth(self.masks.len())?;
        self.masks.push(Mask { character, text: text.to_owned(), normalized });
        Some(character)
    }
}
