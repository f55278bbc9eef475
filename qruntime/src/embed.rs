//! Texts for sentence encoders: prompts before them, lower case, and what does not fit.

use std::path::Path;

use ndarray::Array2;
use serde_json::{Value, json};

use crate::config::Config;
use crate::encoder::{Encoder, EncoderConfig};
use crate::error::Error;
use crate::files::read_json_within;
use crate::text::{MAX_TEXT, Tokenizer};

/// The text that is put before every text that is to be embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// The default of the folder, [`EncoderConfig::default_prompt`]; none if it has no default.
    #[default]
    Default,
    /// That of this name, of [`EncoderConfig::prompts`].
    Named(&'a str),
    /// This text. An empty one is no prompt.
    Text(&'a str),
}

/// The vectors of some texts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Embeddings {
    /// A row for each text, of [`dimensions`](EncoderConfig::dimensions) elements.
    pub vectors: Array2<f32>,
    /// Whether a text was cut to [`max_tokens`](EncoderConfig::max_tokens), for each.
    pub cut: Vec<bool>,
}

impl Encoder {
    /// The tokenizer in the encoder's folder, which cuts texts to
    /// [`max_tokens`](EncoderConfig::max_tokens). It is opened when it is first asked for.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.files().tokenizer(|folder| open(folder, self.config()))
    }

    /// The vectors of texts with the default prompt of the folder, if it has one: a row for each.
    /// Long texts are cut.
    ///
    /// ```no_run
    /// use qruntime::Encoder;
    ///
    /// let encoder = Encoder::open("all-MiniLM-L6-v2")?;
    /// let vectors = encoder.embed(&["A cat sits on a mat.", "A kitten rests on a rug.", "Rates rise."])?;
    /// let likeness = vectors.dot(&vectors.t()); // cosines, where vectors are normalized
    /// assert!(likeness[[0, 1]] > likeness[[0, 2]]);
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`tokenizer`](Self::tokenizer), and if a text cannot be encoded.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Array2<f32>, Error> {
        Ok(self.embed_with(texts, Prompt::Default)?.vectors)
    }

    /// The vectors of texts that have a prompt before them, and whether they were cut.
    ///
    /// ```no_run
    /// use qruntime::{Encoder, Prompt};
    ///
    /// let encoder = Encoder::open("nomic-embed")?;
    /// let question = encoder.embed_with(&["Who sits on the mat?"], Prompt::Named("query"))?;
    /// let answers = encoder.embed_with(&["A cat sits on a mat."], Prompt::Text("search_document: "))?;
    /// println!("{}", question.vectors.dot(&answers.vectors.t()));
    /// # Ok::<(), qruntime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`embed`](Self::embed); if there is no prompt of that name; and if the prompt leaves no
    /// room for a text, where [`include_prompt`](EncoderConfig::include_prompt) is false.
    pub fn embed_with(&self, texts: &[impl AsRef<str>], prompt: Prompt<'_>) -> Result<Embeddings, Error> {
        let EncoderConfig { include_prompt, .. } = *self.config();
        let tokenizer = self.tokenizer()?;
        let prompt = self.prompt(prompt)?;
        let mut sequences = Vec::with_capacity(texts.len());
        let mut cut = Vec::with_capacity(texts.len());
        for text in texts {
            let (tokens, is_cut) = match prompt {
                "" => tokenizer.encode_cut(text.as_ref())?,
                prompt => tokenizer.encode_cut(&format!("{prompt}{}", text.as_ref()))?,
            };
            sequences.push(tokens);
            cut.push(is_cut);
        }
        let skipped = if include_prompt || prompt.is_empty() { 0 } else { prompt_tokens(tokenizer, prompt)? };
        if sequences.iter().any(|tokens| tokens.len() <= skipped && skipped > 0) {
            let found = format!("of {skipped} tokens");
            return Err(Error::Option { name: "prompt", found, expected: "one that leaves room for a text" });
        }
        Ok(Embeddings { vectors: self.embed_ids_after(&sequences, skipped)?, cut })
    }

    /// The text of a prompt.
    fn prompt<'a>(&'a self, prompt: Prompt<'a>) -> Result<&'a str, Error> {
        let EncoderConfig { prompts, default_prompt, .. } = self.config();
        let name = match (prompt, default_prompt) {
            (Prompt::Text(text), _) => return Ok(text),
            (Prompt::Named(name), _) => name,
            (Prompt::Default, Some(name)) => name,
            (Prompt::Default, None) => return Ok(""),
        };
        prompts
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| Error::NoSuchPrompt { name: name.into(), known: prompts.keys().cloned().collect() })
    }
}

/// How many tokens at the beginning of a text belong to its prompt, counted as
/// sentence-transformers counts them: those that the prompt has alone, but for a special one at its
/// end.
fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<usize, Error> {
    let (tokens, _) = tokenizer.encode_cut(prompt)?;
    let ends = tokens.last().is_some_and(|&last| tokenizer.is_special(last));
    Ok(tokens.len() - usize::from(ends))
}

/// Opens the tokenizer of an encoder: `tokenizer.json`, but for what files beside it say otherwise.
fn open(folder: &Path, config: &EncoderConfig) -> Result<Tokenizer, Error> {
    let path = folder.join("tokenizer_config.json");
    let settings: Value = match path.exists() {
        true => read_json_within(&path, MAX_TEXT)?,
        false => json!({}),
    };
    let class = class(folder, &settings)?;
    let mut left_in_file = false;
    let tokenizer = Tokenizer::open_changed(folder, |file| {
        // Of the truncation that the file may ask for, the side counts.
        left_in_file = file.pointer("/truncation/direction") == Some(&"Left".into());
        change(file, &class, &settings, config.lower_case);
    })?;
    let left = match settings.get("truncation_side").and_then(Value::as_str) {
        Some(side) => side == "left",
        None => left_in_file,
    };
    tokenizer.with_limit_at(config.max_tokens, left)
}

/// The class of transformers that reads the tokenizer: what `tokenizer_config.json` says, or
/// `config.json`, or the class of BERT.
fn class(folder: &Path, settings: &Value) -> Result<String, Error> {
    if let Some(class) = settings["tokenizer_class"].as_str().filter(|class| !class.is_empty()) {
        return Ok(class.to_owned());
    }
    let path = folder.join("config.json");
    let class = if path.exists() { Config::read(&path)?.text_if("tokenizer_class")?.map(str::to_owned) } else { None };
    Ok(class.unwrap_or_else(|| "BertTokenizer".to_owned()))
}

/// The classes of transformers that make the normalizer and the pre-tokenizer of their own fields,
/// whatever `tokenizer.json` has. `Fast` may stand behind the name.
const REBUILT: [&str; 10] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "FunnelTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MPNetTokenizer",
    "MobileBertTokenizer",
    "SplinterTokenizer",
    "SqueezeBertTokenizer",
];
/// The same, without `do_lower_case`, which these classes do not pass on. With `Fast` they are
/// others, which take what `tokenizer.json` has.
const REBUILT_LOWER: [&str; 3] = ["DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer"];

/// Changes what is in `tokenizer.json` as transformers and sentence-transformers do when they load
/// it.
fn change(file: &mut Value, class: &str, settings: &Value, lower_case: bool) {
    let plain = class.strip_suffix("Fast").unwrap_or(class);
    let lower = REBUILT_LOWER.contains(&class);
    if (lower || REBUILT.contains(&plain)) && file["model"]["type"] == "WordPiece" {
        let setting = |name: &str, otherwise: Value| settings.get(name).cloned().unwrap_or(otherwise);
        file["normalizer"] = json!({
            "type": "BertNormalizer",
            // A field of this class alone.
            "clean_text": if plain == "FunnelTokenizer" { setting("clean_text", true.into()) } else { true.into() },
            "handle_chinese_chars": setting("tokenize_chinese_chars", true.into()),
            "strip_accents": setting("strip_accents", Value::Null),
            "lowercase": if lower { true.into() } else { setting("do_lower_case", true.into()) },
        });
        file["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    }
    let normalizer = &mut file["normalizer"];
    if lower_case {
        let mut steps = match normalizer.take() {
            Value::Null => Vec::new(),
            Value::Object(fields) if fields.get("type") == Some(&"Sequence".into()) => {
                fields.get("normalizers").and_then(Value::as_array).cloned().unwrap_or_default()
            }
            other => vec![other],
        };
        if !steps.iter().any(|step| step["type"] == "Lowercase") {
            steps.insert(0, json!({"type": "Lowercase"}));
        }
        *normalizer = json!({"type": "Sequence", "normalizers": steps});
    }
}
