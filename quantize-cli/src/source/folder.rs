//! What belongs to a model besides its tensors, in the folder of a checkpoint as Hugging Face lays
//! it out.

use std::fs;
use std::path::Path;

use qruntime::checkpoint::read_config;
use serde_json::Value;

use super::SourceError;
use crate::companions::CONFIG;

/// `config.json`, if the folder has one.
pub(super) fn config(folder: &Path) -> Result<Option<Value>, SourceError> {
    let path = folder.join(CONFIG);
    // A link to nowhere is no missing file: reading it says so.
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    Ok(read_config(&path).map(Some)?)
}
