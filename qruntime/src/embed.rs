//! Prepares texts for sentence encoders: prompts, lower case, and truncation.

use ndarray::Array2;
use serde_json::{Value, json};

use crate::encoder::{Encoder, EncoderConfig};
use crate::error::Error;
use crate::model_files::ModelFiles;
use crate::text::{MAX_TEXT, Tokenizer};

/// The text that precedes every text to embed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// The folder's default, [`EncoderConfig::default_prompt`]; no prompt if it has no default.
    #[default]
    Default,
    /// The prompt of this name in [`EncoderConfig::prompts`].
    Named(&'a str),
    /// This text. An empty text means no prompt.
    Text(&'a str),
}

/// The vectors of some texts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Embeddings {
    /// One row of [`dimensions`](EncoderConfig::dimensions) elements for each text.
    pub vectors: Array2<f32>,
    /// For each text, whether it was cut to [`max_tokens`](EncoderConfig::max_tokens).
    pub cut: Vec<bool>,
}

impl Encoder {
    /// Returns the tokenizer in the encoder's folder, which cuts texts to
    /// [`max_tokens`](EncoderConfig::max_tokens). The first call opens it.
    ///
    /// # Errors
    /// See [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.files().tokenizer(|files| open(files, self.config()))
    }

    /// Embeds texts with the folder's default prompt, if it has one; returns one row for each text.
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
    /// See [`tokenizer`](Self::tokenizer). Also if a text cannot be encoded.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Array2<f32>, Error> {
        Ok(self.embed_with(texts, Prompt::Default)?.vectors)
    }

    /// Embeds texts with a prompt; also returns which texts were cut.
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
    /// See [`embed`](Self::embed). Also if there is no prompt of that name, or if
    /// [`include_prompt`](EncoderConfig::include_prompt) is false and the prompt leaves no room for
    /// a text.
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

    /// Returns the text of a prompt.
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

/// Returns how many tokens at the beginning of a text belong to its prompt, counted as
/// sentence-transformers does: the tokens of the prompt alone, without a special token at its end.
fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<usize, Error> {
    let (tokens, _) = tokenizer.encode_cut(prompt)?;
    let ends = tokens.last().is_some_and(|&last| tokenizer.is_special(last));
    Ok(tokens.len() - usize::from(ends))
}

/// Opens the tokenizer of an encoder: `tokenizer.json`, with the changes that the files beside it
/// make.
fn open(files: &ModelFiles, config: &EncoderConfig) -> Result<Tokenizer, Error> {
    let settings = files.read_json_if("tokenizer_config.json", MAX_TEXT)?.unwrap_or_else(|| json!({}));
    let class = class(files, &settings)?;
    let mut left_in_file = false;
    let tokenizer = Tokenizer::read(files, |file| {
        // Of the file's own truncation settings, only the side matters.
        left_in_file = file.pointer("/truncation/direction") == Some(&"Left".into());
        change(file, &class, &settings, config.lower_case);
    })?;
    let left = match settings.get("truncation_side").and_then(Value::as_str) {
        Some(side) => side == "left",
        None => left_in_file,
    };
    tokenizer.with_limit_at(config.max_tokens, left)
}

/// Returns the transformers class that reads the tokenizer: the one that `tokenizer_config.json` or
/// `config.json` names, or else BERT's.
fn class(files: &ModelFiles, settings: &Value) -> Result<String, Error> {
    if let Some(class) = settings["tokenizer_class"].as_str().filter(|class| !class.is_empty()) {
        return Ok(class.to_owned());
    }
    let config = files.config_if("config.json")?;
    let class = config.as_ref().map(|config| config.text_if("tokenizer_class")).transpose()?.flatten();
    Ok(class.map(str::to_owned).unwrap_or_else(|| "BertTokenizer".to_owned()))
}

/// The transformers classes that build the normalizer and the pre-tokenizer from their own fields,
/// whatever `tokenizer.json` says. Their names may end in `Fast`.
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
/// Classes that do the same but do not pass on `do_lower_case`. Their `Fast` variants are different
/// classes, which use `tokenizer.json` as it is.
const REBUILT_LOWER: [&str; 3] = ["DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer"];

/// Changes the content of `tokenizer.json` as transformers and sentence-transformers do when they
/// load it.
fn change(file: &mut Value, class: &str, settings: &Value, lower_case: bool) {
    let plain = class.strip_suffix("Fast").unwrap_or(class);
    let lower = REBUILT_LOWER.contains(&class);
    if (lower || REBUILT.contains(&plain)) && file["model"]["type"] == "WordPiece" {
        let setting = |name: &str, otherwise: Value| settings.get(name).cloned().unwrap_or(otherwise);
        file["normalizer"] = json!({
            "type": "BertNormalizer",
            // Only this class has the field.
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
