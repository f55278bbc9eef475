//! Text in which nothing becomes a special token: what users type.
//!
//! What looks like an added token in such a text is masked: a character that occurs nowhere stands
//! in its place while the pipeline looks for added tokens, and is taken away again before the text
//! is split. That way the tokens on both sides are as if it were any other text.

use std::collections::BTreeSet;

use tokenizers::{AddedToken, OffsetReferential, OffsetType};

use super::call::Mask;
use super::{Tokenizer, guarded, refuse};
use crate::error::Error;
use crate::text::Message;

/// The first character to mask with.
const FIRST: char = '\u{fdd0}';

/// Characters to mask with: the first are none of Unicode's, and never will be; the others are for
/// private use.
fn candidates() -> impl Iterator<Item = char> {
    (FIRST..='\u{fdef}').chain('\u{100000}'..='\u{10fffd}')
}

/// How many times a text is looked through. Another look finds tokens that overlap with those of
/// the one before.
const LOOKS: usize = 8;

impl Tokenizer {
    /// The tokens of a text that may come from anybody: what looks like a special token in it is
    /// ordinary text. `special` is as in [`encode`](Self::encode).
    ///
    /// Special are the tokens that the file calls so, and other added ones that are in brackets,
    /// such as `<think>` or `[TOOL]`: some models have tokens of that kind that are not called
    /// special.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let mut masks = Masks::beside([text]);
        let text = self.mask(text, &mut masks, is_mark)?;
        self.encode_masked(&text, masks.masks, special)
    }

    /// The tokens of a conversation that `render` writes down, with the special tokens of its
    /// template, while what looks like one in a message is ordinary text. In messages of the
    /// assistant, tokens stay that it can have written: those that the file does not call special.
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
    /// `render` gets the messages with a character that occurs in none of them for each such text;
    /// a template that looks into messages sees that character.
    ///
    /// # Errors
    /// Those of `render`, and as [`encode`](Self::encode).
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

    /// A text with a mask for everything that would become one of the tokens `wanted`.
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
                    // Spaces beside it may have been taken along.
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
                // What overlaps with the one before is for the next look.
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

/// Whether an added token is one that nobody writes as text.
fn is_mark(token: &AddedToken) -> bool {
    let text = token.content.trim();
    let in_brackets = text.starts_with('<') && text.ends_with('>') || text.starts_with('[') && text.ends_with(']');
    token.special || in_brackets
}

/// Masks for texts, each with a character that is in none of them.
struct Masks {
    masks: Vec<Mask>,
    taken: BTreeSet<char>,
}

impl Masks {
    fn beside<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let taken = texts.into_iter().flat_map(str::chars).filter(|character| *character >= FIRST).collect();
        Self { masks: Vec::new(), taken }
    }

    /// The character that stands for a text, if one is left.
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
