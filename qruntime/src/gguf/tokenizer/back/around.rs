//! The tokens around a text.

use serde_json::Value;

use super::file::steps;
use super::unsaid;
use crate::error::FileError;

/// The IDs of the tokens before and after a text.
pub(super) struct Around {
    pub(super) before: Option<u32>,
    pub(super) after: Option<u32>,
}

impl Around {
    /// Reads a post-processor.
    pub(super) fn of(post_processor: &Value) -> Result<Self, FileError> {
        let mut around = Self { before: None, after: None };
        for step in steps(post_processor, "processors") {
            let refuse = || unsaid("post_processor", step, "at most a token before a text and one after it");
            let ids = match step["type"].as_str() {
                Some("ByteLevel") => continue,
                Some("BertProcessing" | "RobertaProcessing") => {
                    let id = |name: &str| Some(step[name][1].as_u64()? as u32);
                    [id("cls"), id("sep")]
                }
                Some("TemplateProcessing") => template(step).ok_or_else(refuse)?,
                _ => return Err(refuse()),
            };
            for (id, place) in ids.into_iter().zip([&mut around.before, &mut around.after]) {
                if id.is_some() && place.is_some() {
                    return Err(refuse());
                }
                *place = id.or(*place);
            }
        }
        Ok(around)
    }

    /// Returns an error unless there is a token on both sides, as BERT always has.
    pub(super) fn both(&self) -> Result<(), FileError> {
        match (self.before, self.after) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(super::bad(
                "no token before or after a text, expected both with WordPiece: programs that read GGUF files add them",
            )),
        }
    }
}

/// Returns the tokens of a template before and after its text.
fn template(step: &Value) -> Option<[Option<u32>; 2]> {
    let mut ids = [None, None];
    let mut side = 0;
    for piece in step["single"].as_array()? {
        if !piece["Sequence"].is_null() {
            side += 1;
            continue;
        }
        let name = piece["SpecialToken"]["id"].as_str()?;
        let [id] = &step["special_tokens"][name]["ids"].as_array()?[..] else { return None };
        let place = ids.get_mut(side).filter(|place| place.is_none())?;
        *place = Some(u32::try_from(id.as_u64()?).ok()?);
    }
    (side == 1).then_some(ids)
}
