//! Which of GGUF's models and pre-tokenizers does what the steps of a folder do.

use serde_json::{Value, json};

use super::super::SPACE;
use super::super::pre::{self, DIGIT, GPT2, Row};
use super::file::{File, steps};
use super::{bad, unsaid};
use crate::base64;
use crate::error::FileError;

/// Returns whether the tokens of a BPE model spell bytes.
pub(super) fn spells_bytes(file: &File) -> bool {
    let byte_level = |part, list| steps(part, list).iter().any(|step| step["type"] == "ByteLevel");
    byte_level(&file.pre_tokenizer, "pretokenizers") || byte_level(&file.decoder, "decoders")
}

/// Returns an error if pieces have marks other than those of the model's kind.
fn unmarked(file: &File) -> Result<(), FileError> {
    let marks = [&file.model.continuing_subword_prefix, &file.model.end_of_word_suffix];
    match marks.into_iter().flatten().find(|mark| !mark.is_empty()) {
        Some(mark) => {
            Err(bad(format!("pieces are marked by {mark:?}, expected none in BPE: a GGUF file cannot say it")))
        }
        None => Ok(()),
    }
}

/// Finds the pre-tokenizer of byte-level BPE that splits as a file does.
pub(super) fn row(file: &File) -> Result<&'static Row, FileError> {
    unmarked(file)?;
    let normalizers = steps(&file.normalizer, "normalizers");
    let nfc = match &normalizers[..] {
        [] => false,
        [only] if only["type"] == "NFC" => true,
        [first, ..] => return Err(unsaid("normalizer", first, "NFC or none with byte-level BPE")),
    };
    let mut patterns: Vec<String> = Vec::new();
    for step in steps(&file.pre_tokenizer, "pretokenizers") {
        patterns.extend(pattern(step)?);
    }
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let whole = file.model.ignore_merges;
    let row = pre::split_by(&patterns).find(|row| row.nfc == nfc && row.whole == whole);
    row.ok_or_else(|| {
        let with = format!("{}, ignore_merges {whole}", if nfc { "NFC" } else { "no normalizer" });
        bad(format!("splits texts by {patterns:?} with {with}, expected what a GGUF file has a name for"))
    })
}

/// Returns the expression by which a step splits, if it splits.
fn pattern(step: &Value) -> Result<Option<String>, FileError> {
    // Some files have line ends as they are, some escaped.
    let escaped = |regex: &str| regex.replace('\r', "\\r").replace('\n', "\\n").replace('\t', "\\t");
    let regex = step["pattern"]["Regex"].as_str();
    let kept = (step["behavior"].as_str(), step["invert"] == true);
    match (step["type"].as_str(), regex) {
        (Some("Split"), Some(regex)) if matches!(kept, (Some("Isolated"), false) | (Some("Removed"), true)) => {
            Ok(Some(escaped(regex)))
        }
        (Some("Digits"), _) => Ok(Some(if step["individual_digits"] == true { DIGIT } else { r"\p{N}+" }.to_owned())),
        (Some("Punctuation"), _) if step["behavior"] == "Contiguous" => Ok(Some(pre::PUNCTUATION.to_owned())),
        (Some("ByteLevel"), _) if step["add_prefix_space"] != true => {
            Ok((step["use_regex"] != false).then(|| GPT2.to_owned()))
        }
        _ => Err(unsaid("pre_tokenizer", step, "expressions that isolate their matches, and bytes")),
    }
}

/// Checks the steps of BPE on characters. Returns whether texts begin with a space that they do not
/// have. Where the folder adds one to a whole text only, GGUF's programs add one after every added
/// token, too.
pub(super) fn prefix(file: &File) -> Result<bool, FileError> {
    unmarked(file)?;
    let expected = "spaces that become \u{2581}";
    if file.model.ignore_merges {
        return Err(bad("ignore_merges true, expected false with BPE on characters: a GGUF file cannot say it"));
    }
    let (mut marked, mut prefix) = (false, false);
    for step in steps(&file.normalizer, "normalizers") {
        if *step == json!({"type": "Prepend", "prepend": SPACE}) {
            prefix = true;
        } else if *step == json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}) {
            marked = true;
        } else {
            return Err(unsaid("normalizer", step, expected));
        }
    }
    for step in steps(&file.pre_tokenizer, "pretokenizers") {
        match step["type"].as_str() {
            // No spaces are left to split at.
            Some("Split") if marked && step["pattern"]["String"] == " " => {}
            Some("Metaspace") if step["replacement"] == SPACE && step["split"] == false && !marked => {
                marked = true;
                prefix = step["prepend_scheme"] != "never";
            }
            _ => return Err(unsaid("pre_tokenizer", step, expected)),
        }
    }
    match marked {
        true => Ok(prefix),
        false => Err(bad(format!("BPE without bytes, expected {expected}: a GGUF file has no other kind"))),
    }
}

/// Checks the steps of WordPiece. Returns whether texts become lower case, and whether accents are
/// removed if that is said.
pub(super) fn words(file: &File) -> Result<(bool, Option<bool>), FileError> {
    let normalizers = steps(&file.normalizer, "normalizers");
    let [only] = &normalizers[..] else {
        return Err(unsaid("normalizer", &file.normalizer, "BertNormalizer with WordPiece"));
    };
    let cleans = only["clean_text"] != false && only["handle_chinese_chars"] != false;
    if only["type"] != "BertNormalizer" || !cleans {
        return Err(unsaid("normalizer", only, "BertNormalizer that cleans texts and splits Chinese"));
    }
    let splits = steps(&file.pre_tokenizer, "pretokenizers");
    if !matches!(&splits[..], [only] if only["type"] == "BertPreTokenizer") {
        return Err(unsaid("pre_tokenizer", &file.pre_tokenizer, "BertPreTokenizer with WordPiece"));
    }
    match file.model.continuing_subword_prefix.as_deref() {
        None | Some("##") => Ok((only["lowercase"] != false, only["strip_accents"].as_bool())),
        Some(mark) => Err(bad(format!("pieces are marked by {mark:?}, expected \"##\": a GGUF file cannot say it"))),
    }
}

/// Checks the steps of a unigram model. Returns its table of characters, whether spaces are
/// removed, and whether texts begin with a space that they do not have.
pub(super) fn likeliest(file: &File) -> Result<(Option<Vec<u8>>, bool, bool), FileError> {
    let (mut table, mut trimmed, mut prefix) = (None, false, None);
    for step in steps(&file.normalizer, "normalizers") {
        let spaces = step["pattern"]["Regex"] == " {2,}" && (step["content"] == " " || step["content"] == SPACE);
        let ends = step["pattern"]["Regex"] == "^ | $" && step["content"] == "";
        match step["type"].as_str() {
            Some("Precompiled") if table.is_none() && !trimmed => {
                let text = step["precompiled_charsmap"].as_str().unwrap_or_default();
                table =
                    Some(base64::decode(text).ok_or_else(|| bad("normalizer: the precompiled_charsmap is no base64"))?);
            }
            Some("Replace") if spaces || ends => trimmed = true,
            Some("Strip") => trimmed = true,
            _ => return Err(unsaid("normalizer", step, "a precompiled table, and spaces that are removed")),
        }
    }
    for step in steps(&file.pre_tokenizer, "pretokenizers") {
        match step["type"].as_str() {
            Some("WhitespaceSplit") => trimmed = true,
            Some("Metaspace") if step["replacement"] == SPACE => {
                let scheme = step["prepend_scheme"].as_str();
                let never = scheme == Some("never") || scheme.is_none() && step["add_prefix_space"] == false;
                prefix = Some(!never);
            }
            _ => return Err(unsaid("pre_tokenizer", step, "Metaspace with a unigram model")),
        }
    }
    match prefix {
        Some(prefix) => Ok((table, trimmed, prefix)),
        None => Err(unsaid("pre_tokenizer", &file.pre_tokenizer, "Metaspace with a unigram model")),
    }
}
