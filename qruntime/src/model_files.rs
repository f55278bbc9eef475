//! The small files of a model: those in its folder, or files that are made of a GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::{MAX_CONFIG, check_length, folder, parse_json, read_text};
use crate::gguf::source::Source;
use crate::gguf::{self, config_files, tokenizer_files};

/// The small files of a model (`config.json`, `tokenizer.json`, ...): all but its weights.
///
/// Cloning is cheap: clones share files that are made of a GGUF file.
#[derive(Clone, Debug)]
pub(crate) struct ModelFiles(Place);

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Made(Arc<Made>),
}

#[derive(Debug)]
struct Made {
    /// What they are made of, for messages.
    of: PathBuf,
    files: Files,
    /// Those of [`TEXT`], which are made when one of them is asked for: they are long.
    text: OnceLock<Result<Files, FileError>>,
    source: Option<Source>,
}

type Files = BTreeMap<&'static str, Vec<u8>>;

/// The files of a GGUF file's tokenizer.
const TEXT: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

impl ModelFiles {
    /// Finds the files of the model at `path`: those in the folder, or beside the file; or makes
    /// them of a GGUF file.
    ///
    /// # Errors
    /// If the folder is not a checkpoint: says what it is, before anything else is missed.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        match gguf::find(path)? {
            Some(file) => Self::of_gguf(Source::open(&file)?),
            None => {
                Checkpoint::find(path)?;
                Ok(Self(Place::Folder(folder(path))))
            }
        }
    }

    /// Makes the files of a GGUF model.
    fn of_gguf(source: Source) -> Result<Self, Error> {
        let read = |tensor: usize| source.read_whole(tensor);
        let files = config_files(source.gguf(), &read).map_err(|error| match error {
            Error::File(error) if error.path().is_none() => error.in_file(source.path()).into(),
            error => error,
        })?;
        let (of, files) = (source.path().to_owned(), files.into_iter().collect());
        Ok(Self(Place::Made(Arc::new(Made { of, files, text: OnceLock::new(), source: Some(source) }))))
    }

    /// Returns the GGUF model that the files are made of.
    pub(crate) fn gguf(&self) -> Option<&Source> {
        match &self.0 {
            Place::Folder(_) => None,
            Place::Made(made) => made.source.as_ref(),
        }
    }

    /// Takes the files in a folder, with or without weights, or makes those of a GGUF file.
    #[cfg(feature = "text")]
    pub(crate) fn at(path: &Path) -> Result<Self, Error> {
        match path.is_file() && gguf::Gguf::is_gguf(path) {
            true => Self::of_gguf(Source::open(path)?),
            false => Ok(Self(Place::Folder(path.into()))),
        }
    }

    /// Takes files as if they had been made of the file `of`.
    #[cfg(test)]
    fn made(of: &Path, files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let (text, files): (Files, Files) = files.into_iter().partition(|(name, _)| TEXT.contains(name));
        Self(Place::Made(Arc::new(Made { of: of.into(), files, text: Ok(text).into(), source: None })))
    }

    /// Returns the folder; for files that are made of a GGUF file, that file.
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
            // If they cannot be made, reading them says why.
            Place::Made(made) => made.get(name).map_or(true, |file| file.is_some()),
        }
    }

    /// Returns the path of a file for messages. A file that is made of another one has the path
    /// that it would have if that were a folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        name.split('/').fold(self.place().to_owned(), |path, part| path.join(part))
    }

    /// Reads a file of at most `most` bytes.
    pub(crate) fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, Error> {
        match &self.0 {
            Place::Folder(_) => read_text(&self.path(name), most),
            Place::Made(made) => {
                let in_file = |error: FileError| error.in_file(&self.path(name));
                let bytes = made.get(name)?.ok_or_else(|| in_file(missing(name)))?;
                check_length(bytes.len(), most).map_err(in_file)?;
                Ok(bytes.to_vec())
            }
        }
    }

    /// Reads a file that holds an object.
    pub(crate) fn config(&self, name: &str) -> Result<Config, Error> {
        Ok(Config::new(self.path(name), self.read_json(name, MAX_CONFIG)?))
    }

    /// Reads a file that holds an object and may be missing.
    pub(crate) fn config_if(&self, name: &str) -> Result<Option<Config>, Error> {
        self.exists(name).then(|| self.config(name)).transpose()
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
}

impl Made {
    /// Returns a file, if there is one of this name.
    fn get(&self, name: &str) -> Result<Option<&[u8]>, FileError> {
        let files = if TEXT.contains(&name) { self.text()? } else { &self.files };
        Ok(files.get(name).map(Vec::as_slice))
    }

    /// Returns the files of the tokenizer.
    fn text(&self) -> Result<&Files, FileError> {
        let make = || match &self.source {
            Some(source) => Ok(tokenizer_files(source.gguf().metadata())
                .map_err(|error| match error.path() {
                    Some(_) => error,
                    None => error.in_file(&self.of),
                })?
                .into_iter()
                .collect()),
            None => Ok(Files::new()),
        };
        self.text.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

fn missing(name: &str) -> FileError {
    FileError::new(FileErrorKind::Network, format!("the GGUF file has nothing of which to make {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
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
        let config = files.config("config.json").unwrap();
        assert_eq!(config.size("hidden_size", 1..=9).unwrap(), 3);
        assert!(files.config_if("generation_config.json").unwrap().is_none());
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
