//! The small files of a model: those in its folder, or files that were made in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error::{Error, FileError, FileErrorKind};
use crate::files::{check_length, folder, parse_json, read_text};

/// The small files of a model (`config.json`, `tokenizer.json`, ...): all but its weights.
///
/// Cloning is cheap: clones share files that were made in memory.
#[derive(Clone, Debug)]
pub(crate) struct ModelFiles(Place);

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Made(Arc<Made>),
}

#[derive(Debug)]
struct Made {
    /// What they were made of, for messages.
    of: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl ModelFiles {
    /// Finds the files of the model at `path`: those in the folder, or beside the file. Nothing is
    /// read.
    pub(crate) fn beside(path: &Path) -> Self {
        Self(Place::Folder(folder(path)))
    }

    /// Takes the files in a folder. Nothing is read.
    #[cfg(feature = "text")]
    pub(crate) fn at(folder: &Path) -> Self {
        Self(Place::Folder(folder.into()))
    }

    #[cfg_attr(not(test), expect(dead_code, reason = "GGUF files become these"))]
    /// Takes files that were made of the file `of`.
    pub(crate) fn made(of: &Path, files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        Self(Place::Made(Arc::new(Made { of: of.into(), files })))
    }

    /// Returns the folder; for files that were made in memory, the file that they were made of.
    pub(crate) fn place(&self) -> &Path {
        match &self.0 {
            Place::Folder(folder) => folder,
            Place::Made(made) => &made.of,
        }
    }

    /// Returns whether there is a file of this name, which may have folders separated by `/`.
    pub(crate) fn exists(&self, name: &str) -> bool {
        match &self.0 {
            Place::Folder(_) => self.path(name).exists(),
            Place::Made(made) => made.files.contains_key(name),
        }
    }

    /// Returns the path of a file for messages. A file that was made in memory has the path that it
    /// would have if what it was made of were a folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        name.split('/').fold(self.place().to_owned(), |path, part| path.join(part))
    }

    /// Reads a file of at most `most` bytes.
    pub(crate) fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, Error> {
        match &self.0 {
            Place::Folder(_) => read_text(&self.path(name), most),
            Place::Made(made) => {
                let bytes = made.files.get(name).ok_or_else(|| self.missing(name))?;
                check_length(bytes.len(), most).map_err(|error| error.in_file(&self.path(name)))?;
                Ok(bytes.clone())
            }
        }
    }

    /// Reads a JSON file of at most `most` bytes: the parsed value can be 40 times as large.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str, most: usize) -> Result<T, Error> {
        Ok(parse_json(&self.read(name, most)?).map_err(|error| error.in_file(&self.path(name)))?)
    }

    /// Reads a JSON file that may be missing.
    #[cfg(feature = "text")]
    pub(crate) fn read_json_if<T: DeserializeOwned>(&self, name: &str, most: usize) -> Result<Option<T>, Error> {
        self.exists(name).then(|| self.read_json(name, most)).transpose()
    }

    fn missing(&self, name: &str) -> Error {
        let message = format!("the file that it was made of has nothing of which to make {name}");
        FileError::new(FileErrorKind::Network, message).in_file(&self.path(name)).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::sentence::Sentence;

    fn made(files: &[(&'static str, String)]) -> ModelFiles {
        let files = files.iter().map(|(name, text)| (*name, text.clone().into_bytes()));
        ModelFiles::made(Path::new("a/model.gguf"), files)
    }

    #[test]
    fn files_in_memory_are_read_like_those_in_a_folder() {
        let files = made(&[
            ("config.json", json!({"hidden_size": 3, "eos_token_id": 9}).to_string()),
            (
                "modules.json",
                json!([
                    {"path": "", "type": "sentence_transformers.models.Transformer"},
                    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                ])
                .to_string(),
            ),
            ("1_Pooling/config.json", json!({"pooling_mode": "cls"}).to_string()),
            ("tokenizer_config.json", json!({"model_max_length": 77}).to_string()),
        ]);
        let config = Config::read(&files, "config.json").unwrap();
        assert_eq!(config.size("hidden_size", 1..=9).unwrap(), 3);
        assert!(Config::read_if(&files, "generation_config.json").unwrap().is_none());
        let sentence = Sentence::read(&files).unwrap();
        assert_eq!((sentence.pooling, sentence.max_tokens), (vec![crate::Pooling::Cls], Some(77)));
    }

    #[test]
    fn errors_name_the_file_as_if_the_source_were_a_folder() {
        let files = made(&[("config.json", "{\"a\": true, }".into()), ("long.json", " ".repeat(11))]);
        let error = |name: &str| files.read_json::<serde_json::Value>(name, 20).unwrap_err();
        assert!(
            matches!(error("config.json"), Error::File(error) if error.path() == Some(Path::new("a/model.gguf/config.json")))
        );
        assert!(error("tokenizer.json").to_string().contains("nothing of which to make tokenizer.json"));
        let long = files.read("long.json", 10).unwrap_err();
        assert!(long.to_string().contains("11 bytes, expected at most 10"), "{long}");
    }

    #[cfg(feature = "text")]
    #[test]
    fn a_tokenizer_and_a_template_may_be_in_memory() {
        let tokenizer = json!({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
            "pre_tokenizer": {"type": "Whitespace"}});
        let config = json!({"chat_template": "{{ eos_token }}", "eos_token": "b"});
        let files = made(&[("tokenizer.json", tokenizer.to_string()), ("tokenizer_config.json", config.to_string())]);
        let tokenizer = crate::Tokenizer::read(&files, |_| ()).unwrap();
        assert_eq!(tokenizer.encode("b a", false).unwrap(), [1, 0]);
        let template = crate::ChatTemplate::read(&files).unwrap().unwrap();
        assert_eq!(template.render(&[], false).unwrap(), "b");
    }
}
