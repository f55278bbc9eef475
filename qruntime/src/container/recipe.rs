//! Replaces the recipe of a finished file, to add what was measured with it.

use std::io::{self, Read, Seek, SeekFrom, Write};

use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use super::{Description, KEY, MAX_HEADER, MAX_RECIPE, METADATA};

/// Replaces the recipe of a file that [`Writer`](super::Writer) wrote, in place. The header keeps
/// its length and is padded with spaces, so the new recipe may not be longer than the old one: a
/// writer that will replace it must leave room.
///
/// # Errors
/// If the file cannot be read or written, has no description, or the recipe does not fit. The file
/// is unchanged unless writing it failed.
pub fn replace_recipe(file: &mut (impl Read + Write + Seek), recipe: &Value) -> io::Result<()> {
    let bad = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut len = [0; size_of::<u64>()];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut len)?;
    let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > MAX_HEADER {
        return Err(bad(format!("header of {len} bytes, expected at most {MAX_HEADER}")));
    }
    let mut text = vec![0; len];
    file.read_exact(&mut text)?;
    let mut header: Map<String, Value> = serde_json::from_slice(&text)?;
    let place = header.get_mut(METADATA).and_then(|metadata| metadata.get_mut(KEY));
    let place = place.ok_or_else(|| bad(format!("no \"{KEY}\" in the file's metadata")))?;
    let mut description: Description = serde_json::from_str(place.as_str().unwrap_or_default())?;
    let recipe = to_raw_value(recipe)?;
    if recipe.get().len() > MAX_RECIPE {
        return Err(bad(format!("recipe of {} bytes, expected at most {MAX_RECIPE}", recipe.get().len())));
    }
    description.recipe = Some(recipe);
    *place = serde_json::to_string(&description)?.into();
    let mut text = serde_json::to_vec(&header)?;
    if text.len() > len {
        return Err(bad(format!("header of {} bytes with the new recipe, expected at most {len}", text.len())));
    }
    text.resize(len, b' ');
    file.seek(SeekFrom::Start(size_of::<u64>() as u64))?;
    file.write_all(&text)?;
    file.flush()
}
