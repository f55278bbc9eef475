//! The files that sentence-transformers adds to an encoder's folder: which modules follow the
//! network, how token vectors are pooled, how texts are prepared. Everything that its version 6
//! reads is read or refused.

use std::collections::BTreeMap;

use crate::config::{Config, SIZES};
use crate::error::{Error, FileError, FileErrorKind};
use crate::files::{MAX_CONFIG, is_plain_name};
use crate::model_files::ModelFiles;
use crate::pooling::Pooling;

const MODULES: &str = "modules.json";

/// The settings in the files.
#[derive(Clone, Debug)]
pub(crate) struct Sentence {
    /// The longest sequence, if specified.
    pub(crate) max_tokens: Option<usize>,
    /// Whether texts are converted to lower case before they are tokenized, whatever the tokenizer
    /// does.
    pub(crate) lower_case: bool,
    /// How the vectors of a text's tokens become the vector of the text. The results of several
    /// ways are concatenated; there is at least one.
    pub(crate) pooling: Vec<Pooling>,
    /// Whether the tokens of a prompt are pooled.
    pub(crate) include_prompt: bool,
    /// Whether vectors are scaled to length 1.
    pub(crate) normalize: bool,
    /// Texts that precede a text to embed, by name.
    pub(crate) prompts: BTreeMap<String, String>,
    /// The name of the prompt that is used by default.
    pub(crate) default_prompt: Option<String>,
}

impl Default for Sentence {
    /// Returns the settings of a folder without `modules.json`.
    fn default() -> Self {
        Self {
            max_tokens: None,
            lower_case: false,
            pooling: vec![Pooling::Mean],
            include_prompt: true,
            normalize: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
        }
    }
}

impl Sentence {
    /// Reads the files of a model.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self, Error> {
        let mut sentence = Self::default();
        // Without it, sentence-transformers builds a default model and reads none of the other
        // files.
        if files.exists(MODULES) {
            sentence.read_transformer(files)?;
            sentence.read_modules(files)?;
            sentence.read_prompts(files)?;
        }
        if sentence.max_tokens.is_none() {
            sentence.max_tokens = model_max_length(files)?;
        }
        Ok(sentence)
    }

    /// Reads the network's own file: the first that exists and has fields.
    fn read_transformer(&mut self, files: &ModelFiles) -> Result<(), Error> {
        const FILES: [&str; 7] = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
        for kind in FILES {
            let Some(config) = files.config_if(&format!("sentence_{kind}_config.json"))? else { continue };
            if config.is_empty() {
                continue;
            }
            self.max_tokens = config.size_if("max_seq_length", SIZES)?;
            self.lower_case = config.flag_if("do_lower_case")?.unwrap_or(false);
            config.one_of("transformer_task", &[("feature-extraction", ())])?;
            config.one_of("module_output_name", &[("token_embeddings", ())])?;
            if let Some(modalities) = config.section_if("modality_config")? {
                // With a message format, texts would go through a chat template.
                if let Some(other) = modalities.names().find(|name| *name != "text") {
                    return Err(modalities.refuse(other, "an object", "\"text\" alone"));
                }
                let text = modalities.section("text")?;
                text.one_of("method", &[("forward", ())])?;
                text.one_of("method_output_name", &[("last_hidden_state", ())])?;
            }
            for arguments in ["tokenizer_args", "processor_kwargs"] {
                if let Some(arguments) = config.section_if(arguments)? {
                    // It takes precedence over the other limit.
                    self.max_tokens = arguments.size_if("model_max_length", SIZES)?.or(self.max_tokens);
                    only_known(&arguments, &["model_max_length", "use_fast"])?;
                }
            }
            for arguments in ["model_args", "model_kwargs", "config_args", "config_kwargs"] {
                if let Some(arguments) = config.section_if(arguments)? {
                    only_known(&arguments, &["attn_implementation", "torch_dtype", "dtype", "low_cpu_mem_usage"])?;
                }
            }
            if let Some(arguments) = config.section_if("processing_kwargs")? {
                only_known(&arguments, &["audio", "image", "video"])?;
            }
            if let Some(other) = config.text_if("tokenizer_name_or_path")? {
                return Err(config.refuse(
                    "tokenizer_name_or_path",
                    format!("{other:?}"),
                    "the tokenizer of this folder",
                ));
            }
            break;
        }
        Ok(())
    }

    /// Reads what follows the network: pooling, and perhaps normalization.
    fn read_modules(&mut self, files: &ModelFiles) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        struct Module {
            path: String,
            r#type: String,
        }

        let refuse = |message: String| {
            Error::from(FileError::new(FileErrorKind::Network, message).in_file(&files.path(MODULES)))
        };
        let modules: Vec<Module> = files.read_json(MODULES, MAX_CONFIG)?;
        if modules.is_empty() {
            return Err(refuse("no modules, expected Transformer and those after it".into()));
        }
        for (i, Module { path, r#type: class }) in modules.iter().enumerate() {
            let config = || {
                // The path must not lead out of the folder.
                if !is_plain_name(path) {
                    return Err(refuse(format!("\"path\": {path:?}, expected the name of a folder")));
                }
                files.config_if(&format!("{path}/config.json"))
            };
            // Modules have moved within the package several times. Modules of other packages need
            // their own code.
            let name = class.strip_prefix("sentence_transformers.").and_then(|class| class.rsplit('.').next());
            match (i, name.unwrap_or_default()) {
                (0, "Transformer") if path.is_empty() => {}
                (0, "Transformer") => {
                    return Err(refuse(format!(
                        "module 0: \"path\": {path:?}, expected \"\": the files of this folder"
                    )));
                }
                (1, "Pooling") => match config()? {
                    Some(config) => self.read_pooling(&config)?,
                    None => return Err(refuse(format!("module 1: no config.json in {path:?}"))),
                },
                (2.., "Normalize") => {
                    if let Some(config) = config()? {
                        config.one_of("module_input_name", &[("sentence_embedding", ())])?;
                        config.one_of("module_output_name", &[("sentence_embedding", ())])?;
                    }
                    self.normalize = true;
                }
                // Only training uses it.
                (2.., "Dropout") => {}
                _ => {
                    let message = format!("module {i}: {class:?}, expected Transformer, Pooling, Normalize, Dropout");
                    return Err(refuse(format!("{message} of sentence_transformers, in this order")));
                }
            }
        }
        // Without pooling there would be no vector for the text.
        match modules.len() {
            1 => Err(refuse("one module, expected Transformer and Pooling".into())),
            _ => Ok(()),
        }
    }

    fn read_pooling(&mut self, config: &Config) -> Result<(), Error> {
        /// The order in which vectors are concatenated where flags choose them.
        const FLAGS: [(&str, Pooling); 6] = [
            ("pooling_mode_cls_token", Pooling::Cls),
            ("pooling_mode_max_tokens", Pooling::Max),
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
            ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
            ("pooling_mode_lasttoken", Pooling::LastToken),
        ];
        const MODES: [(&str, Pooling); 6] = [
            ("cls", Pooling::Cls),
            ("max", Pooling::Max),
            ("mean", Pooling::Mean),
            ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
            ("weightedmean", Pooling::WeightedMean),
            ("lasttoken", Pooling::LastToken),
        ];
        self.include_prompt = config.flag_if("include_prompt")?.unwrap_or(true);
        if config.has("pooling_mode") {
            self.pooling = config.some_of("pooling_mode", &MODES)?;
            return Ok(());
        }
        let mut chosen = Vec::new();
        for name in config.names().filter(|name| name.starts_with("pooling_mode_")) {
            if FLAGS.iter().all(|(flag, _)| *flag != name) && config.flag_if(name)? != Some(false) {
                return Err(config.refuse(name, "there", "no way of pooling that is not known"));
            }
        }
        for (flag, pooling) in FLAGS {
            if config.flag_if(flag)?.unwrap_or(false) {
                chosen.push(pooling);
            }
        }
        if !chosen.is_empty() {
            self.pooling = chosen;
        }
        Ok(())
    }

    fn read_prompts(&mut self, files: &ModelFiles) -> Result<(), Error> {
        let Some(config) = files.config_if("config_sentence_transformers.json")? else { return Ok(()) };
        config.one_of("model_type", &[("SentenceTransformer", ())])?;
        // These two may be asked for by name even if they are empty.
        self.prompts = ["query", "document"].map(|name| (name.to_owned(), String::new())).into();
        if let Some(prompts) = config.section_if("prompts")? {
            for name in prompts.names() {
                self.prompts.insert(name.into(), prompts.text_if(name)?.unwrap_or_default().into());
            }
        }
        self.default_prompt = config.text_if("default_prompt_name")?.map(str::to_owned);
        match &self.default_prompt {
            Some(name) if !self.prompts.contains_key(name) => {
                let names = self.prompts.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                Err(config.refuse("default_prompt_name", format!("{name:?}"), format!("one of the prompts: {names}")))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the longest text that `tokenizer_config.json` allows. Python writes 10^30 for "no
/// limit".
fn model_max_length(files: &ModelFiles) -> Result<Option<usize>, Error> {
    let Some(config) = files.config_if("tokenizer_config.json")? else { return Ok(None) };
    let field = if config.has("model_max_length") { "model_max_length" } else { "max_len" };
    let length = config.number_if(field, 1.0..=f64::MAX)?;
    Ok(length.map(|length| (length as usize).min(*SIZES.end())))
}

/// Refuses unknown fields, which might change results.
fn only_known(config: &Config, known: &[&str]) -> Result<(), Error> {
    // The origin of a file does not matter once it is local, and sentence-transformers does not run
    // remote code here either.
    const OF_THE_HUB: &[&str] =
        &["trust_remote_code", "revision", "token", "cache_dir", "local_files_only", "subfolder"];
    match config.names().find(|name| !known.contains(name) && !OF_THE_HUB.contains(name)) {
        Some(name) => Err(config.refuse(name, "there", "no arguments but those that change nothing here")),
        None => Ok(()),
    }
}
