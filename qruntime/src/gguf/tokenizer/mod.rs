//! The tokenizer of a GGUF file (`tokenizer.*`), as the files of a folder: `tokenizer.json` and
//! `tokenizer_config.json`.
//!
//! | `tokenizer.ggml.model` | `model.type` in `tokenizer.json` | file |
//! |---|---|---|
//! | `llama` | BPE, merges derived from scores | `sentencepiece.rs` |
//! | `gpt2` | BPE, its pre-tokenizer found by its name (`pre.rs`) | `byte_level.rs` |
//! | `gemma4` | BPE on characters | `byte_level.rs` |
//! | `bert` | WordPiece | `wordpiece.rs` |
//! | `t5` | Unigram | `unigram.rs` |

mod back;
mod byte_level;
mod config;
mod json;
mod pre;
mod sentencepiece;
mod unigram;
mod vocabulary;
mod wordpiece;

use serde_json::Value;

use crate::error::FileError;
use crate::gguf::Metadata;
pub use back::tokenizer_metadata;
use byte_level::Pre;
use json::{Added, File, Model, around};
use vocabulary::{Kind, Roles, Vocabulary};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const BEGIN: &str = "tokenizer.ggml.add_bos_token";
const END: &str = "tokenizer.ggml.add_eos_token";

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// The parts of `tokenizer.json` that depend on the model.
struct Built<'a> {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Model<'a>,
    /// Whether programs may remove spaces before punctuation from decoded texts.
    tidy: bool,
}

/// Returns `tokenizer.json` and `tokenizer_config.json` of a GGUF file, by name.
///
/// # Errors
/// If the file has no tokenizer, one of a kind that is not read, or one that disagrees with itself.
/// The error names key, found and expected.
pub fn tokenizer_files(metadata: &Metadata) -> Result<Vec<(&'static str, Vec<u8>)>, FileError> {
    const EXPECTED: &str = "llama, gpt2, gemma4, bert or t5";
    let Some(model) = metadata.text(MODEL)? else {
        return Err(metadata.refuse(MODEL, "missing: the file has no tokenizer", EXPECTED));
    };
    let vocabulary = || Vocabulary::read(metadata);
    match model {
        "llama" => {
            let vocabulary = sentencepiece::pieces(vocabulary()?)?;
            let roles = Roles::read(&vocabulary, &[("bos_token", 1), ("eos_token", 2), ("unk_token", 0)])?;
            let built = sentencepiece::build(&vocabulary, &roles)?;
            write(&vocabulary, &roles, built, Usual { begin: true, end: false })
        }
        "gpt2" => {
            let vocabulary = vocabulary()?;
            let roles = Roles::read(&vocabulary, &[])?;
            match byte_level::pre(&vocabulary)? {
                Pre::Bytes(row) => {
                    let built = byte_level::build(&vocabulary, row)?;
                    write(&vocabulary, &roles, built, Usual { begin: row.begin, end: false })
                }
                Pre::Spelled => {
                    let built = byte_level::spelled(&vocabulary, &roles)?;
                    write(&vocabulary, &roles, built, Usual { begin: false, end: false })
                }
            }
        }
        "gemma4" => {
            let vocabulary = vocabulary()?;
            let roles = Roles::read(&vocabulary, &[])?;
            let built = byte_level::spelled(&vocabulary, &roles)?;
            write(&vocabulary, &roles, built, Usual { begin: true, end: false })
        }
        "bert" => {
            let vocabulary = wordpiece::pieces(vocabulary()?)?;
            let find = |text: &str| vocabulary.find(text);
            let usual =
                [("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("unk_token", "[UNK]"), ("pad_token", "[PAD]")];
            let usual: Vec<(&str, u32)> = usual.iter().filter_map(|(role, text)| Some((*role, find(text)?))).collect();
            let roles = Roles::read(&vocabulary, &usual)?;
            let built = wordpiece::build(&vocabulary, &roles)?;
            write(&vocabulary, &roles, built, Usual { begin: true, end: true })
        }
        "t5" => {
            let vocabulary = vocabulary()?;
            let roles = Roles::read(&vocabulary, &[("eos_token", 1), ("unk_token", 2), ("pad_token", 0)])?;
            let built = unigram::build(&vocabulary, &roles)?;
            write(&vocabulary, &roles, built, Usual { begin: false, end: true })
        }
        "none" | "no_vocab" => {
            Err(metadata.refuse(MODEL, format_args!("{model:?}: the file has no tokenizer"), EXPECTED))
        }
        _ => Err(metadata.refuse(MODEL, format_args!("{model:?}, which is not read"), EXPECTED)),
    }
}

/// Whether tokens are put around texts, unless the file says otherwise.
struct Usual {
    begin: bool,
    end: bool,
}

fn write(
    vocabulary: &Vocabulary<'_>,
    roles: &Roles,
    built: Built<'_>,
    usual: Usual,
) -> Result<Vec<(&'static str, Vec<u8>)>, FileError> {
    let bert = matches!(built.model, Model::WordPiece { .. });
    // BERT's tokens have names of their own, and are always there.
    let names = if bert {
        [["bos_token", "cls_token"], ["sep_token", "eos_token"]]
    } else {
        [["bos_token"; 2], ["eos_token"; 2]]
    };
    let mark = |key: &str, usual: bool, names: [&str; 2]| {
        let asked = vocabulary.metadata.flag(key)?.filter(|_| !bert);
        let id = names.iter().find_map(|name| roles.get(name)).filter(|_| asked.unwrap_or(usual));
        if asked == Some(true) && id.is_none() {
            let expected = format!("the {} that it asks for", names[0].replace('_', " "));
            return Err(vocabulary.metadata.refuse(key, "true, but there is no such token", expected));
        }
        Ok(id.map(|id| (vocabulary.text(id), id)))
    };
    let before = mark(BEGIN, usual.begin, names[0])?;
    let after = mark(END, usual.end, names[1])?;
    let config = config::file(vocabulary, roles, before.is_some(), after.is_some(), built.tidy)?;
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added(vocabulary, roles)?,
        normalizer: built.normalizer,
        pre_tokenizer: built.pre_tokenizer,
        post_processor: around(before, after),
        decoder: built.decoder,
        model: built.model,
    };
    let tokenizer = serde_json::to_vec(&file).expect("texts and finite numbers");
    Ok(vec![("tokenizer.json", tokenizer), ("tokenizer_config.json", config.to_string().into_bytes())])
}

/// Returns the tokens that are found in texts before anything else: those that the file marks, and
/// those with a role that look like marks.
fn added<'a>(vocabulary: &'a Vocabulary<'_>, roles: &Roles) -> Result<Vec<Added<'a>>, FileError> {
    let strip = Strip::of(vocabulary)?;
    let model = vocabulary.metadata.text(MODEL)?;
    let kinds = (0..).zip(vocabulary.pieces.iter().zip(&vocabulary.kinds));
    let added = |(id, (piece, kind)): (u32, (&'a std::borrow::Cow<'_, str>, &Kind))| {
        let marked = matches!(kind, Kind::Control | Kind::Unknown);
        let special = marked || *kind != Kind::Added && is_mark(piece) && roles.all().any(|(_, other)| other == id);
        let (lstrip, rstrip) = strip.sides(piece);
        (special || *kind == Kind::Added).then_some(Added {
            id,
            content: piece,
            single_word: false,
            lstrip,
            rstrip,
            // A text's spaces are marked before these are looked for.
            normalized: *kind == Kind::Added && piece.contains(SPACE) && model == Some("llama"),
            special,
        })
    };
    Ok(kinds.filter_map(added).collect())
}

/// Returns whether a token looks like one that nobody writes as text.
fn is_mark(piece: &str) -> bool {
    let between = |open, close| piece.len() > 2 && piece.starts_with(open) && piece.ends_with(close);
    between('<', '>') || between('[', ']')
}

/// Which tokens take the spaces beside them along: GGUF does not say, llama.cpp knows by name.
enum Strip {
    None,
    /// The mask takes spaces before it.
    Mask,
    /// All tokens but three take spaces after them.
    Phi3,
}

impl Strip {
    fn of(vocabulary: &Vocabulary<'_>) -> Result<Self, FileError> {
        let metadata = vocabulary.metadata;
        let text = |key: &str| metadata.text(key).map(Option::unwrap_or_default);
        Ok(Self::by(metadata.architecture().unwrap_or_default(), text(MODEL)?, text(PRE)?))
    }

    /// Returns the rule of an architecture, a model of tokenizers and a pre-tokenizer.
    fn by(architecture: &str, model: &str, pre: &str) -> Self {
        match (architecture, model) {
            ("phi3", "llama") => Self::Phi3,
            ("nomic-bert-moe" | "jina-bert-v3", _) => Self::Mask,
            _ if ["roberta-bpe", "jina-v2-de", "jina-v2-es", "jina-v2-code", "modern-bert"].contains(&pre) => {
                Self::Mask
            }
            _ => Self::None,
        }
    }

    /// Returns whether a token takes the spaces before and after it.
    fn sides(&self, piece: &str) -> (bool, bool) {
        match self {
            Self::None => (false, false),
            Self::Mask => (piece == "<mask>" || piece == "[MASK]", false),
            Self::Phi3 => (false, !["<unk>", "<s>", "<|endoftext|>"].contains(&piece)),
        }
    }
}
