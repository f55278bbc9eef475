//! Finds models in the local cache of the Hugging Face Hub. Nothing is downloaded.

use std::env::var_os;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::files::{is_plain_name, is_there, read_text};

/// Most bytes of a file that names a commit.
const MAX_REFERENCE: usize = 1024;

/// Returns where a model is, given by a path or by its id.
///
/// A path that exists is returned as it is. Otherwise `org/name`, `org/name@revision` (a branch, a
/// tag or a commit; `main` by default) and `org/name/file` are looked up in the cache that
/// `hf download` and `transformers` fill: `HF_HUB_CACHE`, or else `hub` in `HF_HOME`, or else
/// `huggingface/hub` in `XDG_CACHE_HOME` or `~/.cache`. So is a `name` without a slash. Everything
/// else is returned as it is, and opening it reports what is wrong.
///
/// # Errors
/// If `org/name` is neither a path nor in the cache, or the cache lacks its revision.
///
/// ```no_run
/// let lm = qruntime::CausalLm::open(qruntime::hub::locate("HuggingFaceTB/SmolLM2-135M")?)?;
/// # Ok::<(), qruntime::Error>(())
/// ```
pub fn locate(model: impl AsRef<Path>) -> Result<PathBuf, Error> {
    let model = model.as_ref();
    if is_there(model) {
        return Ok(model.into());
    }
    match (Id::parse(model), cache(var_os)) {
        (Some(id), Some(cache)) => id.find(&cache, model),
        _ => Ok(model.into()),
    }
}

/// Returns the folder of the cache, whether it exists or not; `None` if the environment names none.
fn cache(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
    let folder = |name| {
        let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
        match path.strip_prefix("~") {
            Ok(rest) => Some(home()?.join(rest)),
            Err(_) => Some(path),
        }
    };
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(folder("HF_HOME")?.join("hub")))
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(home()?.join(".cache/huggingface/hub")))
}

/// A model on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Id {
    /// `org/name`, or `name` alone.
    repository: String,
    revision: Option<String>,
    /// A file or folder of the model; empty for all of it.
    within: PathBuf,
}

impl Id {
    /// Parses `name`, `org/name`, `org/name@revision` and `org/name/file`; `None` for what can only
    /// be a path.
    fn parse(model: &Path) -> Option<Self> {
        let mut parts = model.to_str()?.split('/');
        let mut repository = parts.next()?.to_owned();
        let mut revision = None;
        if let Some(name) = parts.next() {
            let (name, branch) = name.split_once('@').map_or((name, None), |(name, branch)| (name, Some(branch)));
            revision = branch.map(str::to_owned);
            repository = format!("{repository}/{name}");
        }
        let rest: Vec<&str> = parts.collect();
        let is_name = |name: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !name.is_empty()
                && name.chars().all(allowed)
                && !name.starts_with(['.', '-'])
                && !name.contains("--")
                && !name.contains("..")
        };
        let fits = repository.split('/').all(is_name)
            && revision.as_deref().is_none_or(is_plain_name)
            && rest.iter().copied().all(is_plain_name);
        fits.then(|| Self { repository, revision, within: rest.iter().collect() })
    }

    /// Finds the model in a cache. `model` is what was asked for.
    fn find(&self, cache: &Path, model: &Path) -> Result<PathBuf, Error> {
        let missing = |what: String| {
            let revision = self.revision.iter().map(|revision| format!(" --revision {revision}")).collect::<String>();
            let command = format!("hf download {}{revision}", self.repository);
            Err(Error::NotCached { model: model.into(), what, cache: cache.into(), command })
        };
        let folder = cache.join(format!("models--{}", self.repository.replace('/', "--")));
        if !folder.is_dir() {
            // Without exactly one slash it is more likely a mistyped path.
            let is_id = self.repository.contains('/') && self.within.as_os_str().is_empty();
            return if is_id { missing("no model of this name".into()) } else { Ok(model.into()) };
        }
        let revision = self.revision.as_deref().unwrap_or("main");
        let commit = read_text(&folder.join("refs").join(revision), MAX_REFERENCE).ok();
        let commit = commit.and_then(|commit| String::from_utf8(commit).ok()).unwrap_or_else(|| revision.into());
        let snapshot = folder.join("snapshots").join(commit.trim());
        if !is_plain_name(commit.trim()) || !snapshot.is_dir() {
            return missing(format!("no revision {revision:?} of this model"));
        }
        match snapshot.join(&self.within) {
            found if is_there(&found) => Ok(if self.within.as_os_str().is_empty() { snapshot } else { found }),
            _ => missing(format!("no file {:?} of this model", self.within)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn parse(model: &str) -> Option<(String, Option<String>, String)> {
        let Id { repository, revision, within } = Id::parse(Path::new(model))?;
        Some((repository, revision, within.to_str()?.into()))
    }

    #[test]
    fn ids_are_told_from_paths() {
        let id = |repository: &str, revision: Option<&str>, within: &str| {
            Some((repository.into(), revision.map(Into::into), within.into()))
        };
        assert_eq!(parse("gpt2"), id("gpt2", None, ""));
        assert_eq!(parse("org/na.me-1_b"), id("org/na.me-1_b", None, ""));
        assert_eq!(parse("org/name@v1.0"), id("org/name", Some("v1.0"), ""));
        assert_eq!(parse("org/name@main/a/b.gguf"), id("org/name", Some("main"), "a/b.gguf"));
        for path in ["", "/org/name", "./name", "../name", "org/", "org//file", "org/na me", "org/a--b", "org/name/.."]
        {
            assert_eq!(parse(path), None, "{path:?}");
        }
        for revision in ["org/name@", "org/name@..", "org/name@a\\b", "org/name@c:d"] {
            assert_eq!(parse(revision), None, "{revision:?}");
        }
    }

    #[test]
    fn variables_name_the_cache_in_the_order_of_huggingface_hub() {
        let mut variables = BTreeMap::from([("HOME", "/home/me")]);
        let mut expect = |name: &'static str, value: &'static str, path: &str| {
            variables.insert(name, value);
            assert_eq!(cache(|name| variables.get(name).map(Into::into)), Some(path.into()), "{name}");
        };
        expect("HF_HOME", "", "/home/me/.cache/huggingface/hub");
        expect("XDG_CACHE_HOME", "/x", "/x/huggingface/hub");
        expect("HF_HOME", "~/hf", "/home/me/hf/hub");
        expect("HUGGINGFACE_HUB_CACHE", "/old", "/old");
        expect("HF_HUB_CACHE", "/new", "/new");
        assert_eq!(cache(|_| None), None);
    }

    #[test]
    fn models_are_found_by_branch_tag_and_commit() {
        let cache = tempfile::tempdir().unwrap();
        let cache = cache.path();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = cache.join("models--org--name/snapshots").join(commit);
        let refs = cache.join("models--org--name/refs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&refs).unwrap();
        fs::write(snapshot.join("model.gguf"), "").unwrap();
        for (name, to) in [("main", commit), ("v1", commit), ("gone", "f00"), ("evil", "../../..")] {
            fs::write(refs.join(name), format!("{to}\n")).unwrap();
        }
        let find = |model: &str| Id::parse(Path::new(model)).unwrap().find(cache, Path::new(model));
        assert_eq!(find("org/name").unwrap(), snapshot);
        assert_eq!(find("org/name@v1").unwrap(), snapshot);
        assert_eq!(find(&format!("org/name@{commit}")).unwrap(), snapshot);
        assert_eq!(find("org/name/model.gguf").unwrap(), snapshot.join("model.gguf"));
        let message = |model: &str| find(model).unwrap_err().to_string();
        let cache = cache.display();
        assert_eq!(
            message("org/other"),
            format!(
                "no file or folder \"org/other\", and no model of this name in Hugging Face's cache ({cache}): `hf download org/other` fetches it"
            )
        );
        for revision in ["gone", "evil", "v9"] {
            let expected = format!("no revision \"{revision}\" of this model");
            let message = message(&format!("org/name@{revision}"));
            assert!(message.contains(&expected) && message.contains(&format!("--revision {revision}`")), "{message}");
        }
        assert!(message("org/name/other.gguf").contains("no file \"other.gguf\""));
        assert_eq!(find("name").unwrap(), Path::new("name"));
        assert_eq!(find("some/path/to").unwrap(), Path::new("some/path/to"));
    }
}
