//! What a model's card (`README.md`) says for the keys `general.*`.

use super::write::About;
use crate::gguf::{Array, Value};

/// A field of a card.
enum Field {
    One(String),
    Several(Vec<String>),
}

/// Keys with one text, and the fields of a card that say it, the first that exists.
const TEXTS: [(&str, &[&str]); 10] = [
    ("general.author", &["author", "model_author", "model_creator"]),
    ("general.version", &["version", "model_version"]),
    ("general.organization", &["organization", "model_organization"]),
    ("general.description", &["description", "model_description"]),
    ("general.finetune", &["finetune", "model_finetune"]),
    ("general.basename", &["basename", "model_basename"]),
    ("general.license", &["license"]),
    ("general.license.name", &["license_name"]),
    ("general.license.link", &["license_link"]),
    ("general.source.url", &["url", "model_url"]),
];

/// Returns the keys that describe the model, by the conventions of GGUF.
pub(super) fn values(card: Option<&[u8]>, about: &About, experts: usize) -> Vec<(String, Value)> {
    let fields = fields(&card.map(String::from_utf8_lossy).unwrap_or_default());
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let text = |names: &[&str]| {
        names.iter().find_map(|name| match field(name)? {
            Field::One(text) => Some(text.clone()),
            Field::Several(list) => Some(list.join(",")).filter(|list| !list.is_empty()),
        })
    };
    let list = |names: &[&str]| -> Vec<String> {
        let lists = names.iter().filter_map(|name| field(name)).map(|field| match field {
            Field::One(text) => vec![text.clone()],
            Field::Several(list) => list.clone(),
        });
        lists.flatten().collect()
    };
    let mut values = Vec::new();
    let mut add = |key: String, text: String| values.push((key, Value::Text(text)));
    add("general.name".into(), text(&["name", "model_name"]).unwrap_or_else(|| title(&about.name)));
    if about.parameters > 0 {
        add("general.size_label".into(), size_label(about, experts as u64));
    }
    for (key, names) in TEXTS {
        if let Some(text) = text(names) {
            add(key.into(), text);
        }
    }
    let bases = list(&["base_model"]);
    for (i, base) in bases.iter().enumerate() {
        let (organization, name) = base.trim_start_matches("https://huggingface.co/").split_once('/').unzip();
        add(format!("general.base_model.{i}.name"), title(name.unwrap_or(base)));
        if let (Some(organization), Some(name)) = (organization, name) {
            add(format!("general.base_model.{i}.organization"), title(organization));
            let url = format!("https://huggingface.co/{organization}/{name}");
            add(format!("general.base_model.{i}.repo_url"), url);
        }
    }
    if !bases.is_empty() {
        values.push(("general.base_model.count".into(), Value::Unsigned(bases.len() as u64)));
    }
    for (key, names) in [("general.tags", &["tags", "pipeline_tag"]), ("general.languages", &["languages", "language"])]
    {
        let list = list(names);
        if !list.is_empty() {
            values.push((key.into(), Value::Array(Array::Texts(list))));
        }
    }
    values
}

/// Returns a title: words instead of hyphens, those in lower case with a capital letter, except
/// versions and numbers.
fn title(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next();
        let is_version = first == Some('v') && letters.clone().next().is_some_and(|c| c.is_ascii_digit());
        match first {
            Some(first) if first.is_lowercase() && !is_version && !word.contains(char::is_uppercase) => {
                first.to_uppercase().chain(letters).collect()
            }
            _ => word.to_owned(),
        }
    };
    name.split(['-', ' ']).filter(|part| !part.is_empty()).map(word).collect::<Vec<String>>().join(" ")
}

/// Returns the size of a model as names have it: `1.1B`, or `8x7B` for eight experts.
fn size_label(about: &About, experts: u64) -> String {
    let rounded = |parameters: u64| {
        let (unit, suffix) = match parameters {
            1_000_000_000_001.. => (1e12, 'T'),
            1_000_000_001.. => (1e9, 'B'),
            1_000_001.. => (1e6, 'M'),
            _ => (1e3, 'K'),
        };
        let scaled = parameters as f64 / unit;
        // Two digits that count.
        let digits = [9.5, 0.5].iter().filter(|limit| scaled < **limit).count();
        format!("{scaled:.digits$}{suffix}")
    };
    match experts {
        0 => rounded(about.parameters),
        experts => {
            let shared = about.parameters.saturating_sub(about.expert_parameters);
            format!("{experts}x{}", rounded(shared + about.expert_parameters / experts))
        }
    }
}

/// Returns the fields at the head of a card: between lines `---`, as far as they are texts or
/// lists of texts. The rest of YAML is passed over.
fn fields(card: &str) -> Vec<(String, Field)> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return vec![];
    }
    let mut fields: Vec<(String, Field)> = Vec::new();
    for line in lines.take_while(|line| line.trim_end() != "---") {
        let item = line.trim_start().strip_prefix("- ");
        match (item, line.split_once(':'), fields.last_mut()) {
            (Some(item), _, Some((_, Field::Several(list)))) if !item.contains(": ") => list.push(unquoted(item)),
            (None, Some((name, value)), _) if !line.starts_with([' ', '\t', '#']) => {
                let (name, value) = (name.trim().to_owned(), value.trim());
                let inner = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
                let value = match (inner, value) {
                    (Some(inner), _) => {
                        Field::Several(inner.split(',').map(unquoted).filter(|item| !item.is_empty()).collect())
                    }
                    (None, "") => Field::Several(vec![]),
                    (None, value) => Field::One(unquoted(value)),
                };
                fields.push((name, value));
            }
            _ => {}
        }
    }
    fields
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    let quoted = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(text).to_owned()
}
