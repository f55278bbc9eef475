//! Layers that see a window: `sliding_window`, `layer_types`, and the keys that say the same.

use serde_json::{Map, Value};

use super::read::Source;
use crate::config::{LAYERS, SIZES};
use crate::error::FileError;
use crate::gguf::architecture::{self, Windows};

const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";

/// Returns the window, if there is one; files say 0 for none.
pub(super) fn size(source: &Source<'_>) -> Result<Option<usize>, FileError> {
    Ok(source.size(WINDOW, 0..=*SIZES.end())?.filter(|window| *window > 0))
}

/// Returns for every layer whether it sees the window, where the file says so or the family has a
/// usual pattern.
fn pattern(source: &Source<'_>, usual: Option<usize>) -> Result<Option<Vec<bool>>, FileError> {
    let layers = architecture::needed(source.metadata, "block_count", 1..=LAYERS)?;
    let key = source.key(PATTERN);
    let period = match source.metadata.get(&key) {
        Some(crate::gguf::Value::Unsigned(_) | crate::gguf::Value::Signed(_)) => {
            source.metadata.size(&key, 0..=*SIZES.end())?
        }
        Some(_) => {
            let flags = source.metadata.flags(&key)?.unwrap_or_default();
            return match flags.len() == layers {
                true => Ok(Some(flags)),
                false => Err(source.refuse(
                    PATTERN,
                    format!("{} values", flags.len()),
                    format!("one for each of {layers} layers"),
                )),
            };
        }
        None => usual,
    };
    // The last of each period sees all positions; no period at all means no such layer.
    Ok(period.map(|period| (0..layers).map(|i| period == 0 || !(i + 1).is_multiple_of(period)).collect()))
}

/// Returns every how manieth layer sees all positions, unless a file says otherwise.
pub(super) fn usual_period(windows: Windows) -> Option<usize> {
    match windows {
        Windows::Period { period, .. } => Some(period),
        _ => None,
    }
}

/// Reads the windows of a family's layers.
pub(super) fn read(source: &Source<'_>, windows: Windows, fields: &mut Map<String, Value>) -> Result<(), FileError> {
    let window = size(source)?;
    let types = |pattern: Vec<bool>| -> Value {
        let name = |windowed: bool| if windowed { "sliding_attention" } else { "full_attention" };
        pattern.into_iter().map(name).collect()
    };
    let all = |pattern: &[bool]| match pattern.contains(&false) {
        true => Err(source.refuse(PATTERN, "a layer without a window", "all layers with it")),
        false => Ok(()),
    };
    match windows {
        Windows::None => {}
        Windows::All => {
            if let (Some(pattern), Some(_)) = (pattern(source, None)?, window) {
                all(&pattern)?;
            }
            fields.insert("sliding_window".into(), window.map_or(Value::Null, Value::from));
        }
        Windows::Switched | Windows::AllSwitched => {
            // Other programs do not read the window, and write no pattern.
            let pattern = pattern(source, None)?.filter(|_| window.is_some());
            fields.insert("use_sliding_window".into(), pattern.is_some().into());
            if let (Some(window), Some(pattern)) = (window, pattern) {
                if windows == Windows::AllSwitched {
                    all(&pattern)?;
                }
                fields.insert("sliding_window".into(), window.into());
                fields.insert("layer_types".into(), types(pattern));
            }
        }
        Windows::Period { period, default } => {
            let window = window.or(default);
            // Without a window, all layers see all positions, and the number has no meaning.
            let pattern = pattern(source, Some(if window.is_some() { period } else { 1 }))?;
            fields.insert("sliding_window".into(), window.unwrap_or(4096).into());
            fields.insert("layer_types".into(), pattern.map_or(Value::Null, types));
        }
    }
    Ok(())
}
