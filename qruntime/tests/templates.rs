//! Chat templates in folders like those of hubs, rendered as transformers renders them.
#![cfg(feature = "text")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::fs;
use std::path::Path;

use qruntime::{ChatTemplate, Message};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Makes a folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn render(files: &[(&str, &str)], variables: Value) -> Result<String, String> {
    let folder = folder(files);
    let template = ChatTemplate::open(folder.path()).map_err(|error| error.to_string())?.expect("a template");
    let messages = [Message::new("user", "Hi")];
    template.render_with(&messages, variables.as_object().unwrap(), false).map_err(|error| error.to_string())
}

/// Conversations and transformers' renderings of them, which are not part of the project.
#[test]
fn conversations_are_what_transformers_makes_of_them() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases/networks");
    if !cases.exists() {
        eprintln!("skipped: no {}", cases.display());
        return;
    }
    let mut count = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        if !case.join("expected.txt").exists() || !case.join("messages.json").exists() {
            continue;
        }
        let messages: Vec<Value> = serde_json::from_slice(&fs::read(case.join("messages.json")).unwrap()).unwrap();
        let template = ChatTemplate::open(&case).unwrap().expect("a template");
        let text = template.render_with(&messages, &Map::new(), true).unwrap();
        assert_eq!(text, fs::read_to_string(case.join("expected.txt")).unwrap(), "{}", case.display());
        count += 1;
    }
    assert!(count > 0, "no conversations");
}

/// Single templates with Jinja2's results: `None` if it refuses. `ci/templates.txt` has many more.
#[test]
fn templates_are_what_jinja2_makes_of_them() {
    for (template, expected) in [
        // Macros.
        (
            "{% macro m(a, b=1) %}{{ kwargs }}{% endmacro %}{{ m.name }} {{ m.arguments }} {{ m['caller'] }} \
             {{ m.catch_kwargs }} {{ m.catch_varargs }} {{ m|attr('name') }} {{ m }} {{ [m] }} {{ m.other }}|{{ m._func }}",
            Some("m ('a', 'b') False True False m <Macro 'm'> [<Macro 'm'>] |"),
        ),
        (
            "{% macro m() %}{{ caller }} {{ caller.name }} {{ caller.arguments }}{% endmacro %}\
             {% call(x) m() %}{% endcall %} {{ m.caller }} {{ m.explicit_caller }}",
            Some("<Macro anonymous> None ('x',) True False"),
        ),
        (
            "{% macro m(caller=1, kwargs=2, varargs=3) %}{{ kwargs }}{{ varargs }}{% endmacro %}\
             {{ m.explicit_caller }} {{ m.caller }} {{ m.catch_kwargs }} {{ m.catch_varargs }}",
            Some("True False False False"),
        ),
        // Numbers.
        ("{{ 07 }}", None),
        ("{{ 0_7 }}", None),
        ("{{ 1__0 }}", None),
        ("{{ 1_ }}", None),
        ("{{ 0x }}", None),
        ("{{ 0xfg }}", None),
        ("{{ 0b12 }}", None),
        ("{{ 1e5_ }}", None),
        ("{{ 00 }} {{ 0_0 }} {{ 0x_f }} {{ 0X1F }} {{ 1_0 }}", Some("0 0 15 31 10")),
        ("{{ 07.5 }} {{ 0e1 }} {{ 1_0.5_0 }} {{ 1.5e1_0 }} {{ [1, 2].0 }}", Some("7.5 0.0 10.5 15000000000.0 1")),
        // Forbidden attributes can be printed: as nothing.
        ("{{ messages.append }}|{{ [messages.append] }}|{{ '%s' % messages.append }}", Some("|[Undefined]|")),
        ("{{ messages.append ~ 1 }}|{{ messages.append|upper }}|{{ messages.append|string }}", Some("1||")),
        ("{{ messages.append(1) }}", None),
        // Digits.
        (
            "{{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '²3'.isdigit() }} {{ '²a'.isdigit() }}",
            Some("True False True False"),
        ),
        (
            "{{ '٣'.isdigit() }} {{ '٣'.isdecimal() }} {{ '𝟗'.isdecimal() }} {{ ''.isdigit() }}",
            Some("True True True False"),
        ),
        (
            "{{ '①'.isdigit() }} {{ '①'.isdecimal() }} {{ '½'.isdigit() }} {{ '½'.isnumeric() }}",
            Some("True False False True"),
        ),
    ] {
        let found = render(&[("chat_template.jinja", template)], json!({}));
        assert_eq!(found.as_deref().ok(), expected, "{template}: {found:?}");
    }
}

#[test]
fn special_tokens_come_from_where_transformers_takes_them() {
    const TEMPLATE: (&str, &str) =
        ("chat_template.jinja", "{{ bos_token }}|{{ eos_token }}|{{ image_token }}|{{ audio_token }}|{{ end_token }}");
    let map =
        ("special_tokens_map.json", r#"{"bos_token": {"content": "<b>"}, "eos_token": "<e>", "image_token": "<i>"}"#);
    let config = (
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "pad_token": null, "add_bos_token": true,
        "extra_special_tokens": {"audio_token": "<a>"}, "end_token": {"content": "<end>"}}"#,
    );
    assert_eq!(render(&[TEMPLATE, map], json!({})).unwrap(), "<b>|<e>|<i>||");
    assert_eq!(render(&[TEMPLATE, config], json!({})).unwrap(), "<s>|||<a>|<end>");
    // The map takes precedence, but not over the field that replaced it.
    assert_eq!(render(&[TEMPLATE, config, map], json!({})).unwrap(), "<b>|<e>|<i>|<a>|<end>");
    let new = ("tokenizer_config.json", r#"{"bos_token": "<s>", "added_tokens_decoder": {}}"#);
    assert_eq!(render(&[TEMPLATE, new, map], json!({})).unwrap(), "<s>||||");
    // The caller may give others.
    assert_eq!(render(&[TEMPLATE, config], json!({"bos_token": "x"})).unwrap(), "x|||<a>|<end>");
    let template = ChatTemplate::open(folder(&[TEMPLATE, map]).path()).unwrap().unwrap();
    assert_eq!(template.end(), Some("<e>"));
}

#[test]
fn templates_are_found_where_hubs_have_them() {
    let named = r#"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools | length }}"}]}"#;
    let tools = || json!({"tools": [1, 2]});
    let config = ("tokenizer_config.json", named);
    assert_eq!(render(&[config], json!({})).unwrap(), "plain");
    assert_eq!(render(&[config], tools()).unwrap(), "tools 2");
    assert_eq!(render(&[config], json!({"tools": null})).unwrap(), "plain");
    // Files take precedence over it.
    let files = [config, ("chat_template.jinja", "a"), ("additional_chat_templates/tool_use.jinja", "b")];
    assert_eq!(render(&files[..2], tools()).unwrap(), "a");
    assert_eq!(render(&files, tools()).unwrap(), "b");
    assert_eq!(render(&files, json!({})).unwrap(), "a");
    let only = [("additional_chat_templates/tool_use.jinja", "b")];
    assert!(render(&only, json!({})).unwrap_err().contains("conversations with tools"));
    assert_eq!(render(&[("chat_template.json", r#"{"chat_template": "old"}"#)], json!({})).unwrap(), "old");
    let unknown = r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#;
    let error = render(&[("tokenizer_config.json", unknown)], json!({})).unwrap_err();
    assert!(error.contains("[\"rag\"]") && error.contains("\"default\""), "{error}");
}

#[test]
fn lines_end_as_they_may() {
    for newline in ["\n", "\r\n", "\r"] {
        let template = ["{% if true %}", "a", "{% endif %}", "{{ 'b", "c' }}d", ""].join(newline);
        assert_eq!(render(&[("chat_template.jinja", &template)], json!({})).unwrap(), "a\nb\ncd");
        let config = json!({ "chat_template": template }).to_string();
        assert_eq!(render(&[("tokenizer_config.json", &config)], json!({})).unwrap(), "a\nb\ncd");
    }
    // Text of users stays.
    assert_eq!(
        render(&[("chat_template.jinja", "{{ x }}{{ '\\r\\n' }}")], json!({"x": "a\r\nb"})).unwrap(),
        "a\r\nb\r\n"
    );
}

#[test]
fn messages_are_what_transformers_hands_on() {
    let folder = folder(&[("chat_template.jinja", "{% for m in messages %}{{ m | tojson }}\n{% endfor %}")]);
    let template = ChatTemplate::open(folder.path()).unwrap().unwrap();
    let messages = [
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.0, "y": null}}}]}),
        json!({"role": "user", "content": [{"type": "text", "text": "é"}]}),
        json!({"role": "assistant", "reasoning": "Hm", "content": ""}),
    ];
    let text = template.render_with(&messages, &Map::new(), false).unwrap();
    assert_eq!(
        text,
        "{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.0, \"y\": null}}}]}\n\
         {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"é\"}]}\n\
         {\"thinking\": \"Hm\", \"role\": \"assistant\", \"reasoning\": \"Hm\", \"content\": \"\", \"reasoning_content\": \"Hm\"}\n"
    );
    let error = template.render_with(&[json!("Hi")], &Map::new(), false).unwrap_err().to_string();
    assert!(error.contains("[0]: \"Hi\"") && error.contains("objects"), "{error}");
    let error = render(&[("chat_template.jinja", "")], json!({"messages": []})).unwrap_err();
    assert!(error.contains("\"messages\""), "{error}");
}

/// Features of Python's values that other interpreters of Jinja lack; the script `ci/templates.sh`
/// compares more.
#[test]
fn values_are_pythons() {
    for (template, expected) in [
        (
            "{{ none is iterable }}{{ [] is sequence }}{{ {} is sequence }}{{ nothing is iterable }}",
            "FalseTrueTrueTrue",
        ),
        ("{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "aFalse"),
        (
            "{{ 'a b c'.rsplit(' ', 1) }}{{ 'xay'.removeprefix('x').removesuffix('y') }}{{ 'it is'.title() }}",
            "['a b', 'c']aIt Is",
        ),
        ("{{ [true, none, 1.0, 1e16, 'it\\'s'] }}", "[True, None, 1.0, 1e+16, \"it's\"]"),
        (
            "{{ {'a': [1, 'é']} | tojson }}{{ [1] | tojson(indent=2) }}{{ 'é' | tojson(ensure_ascii=true) }}",
            "{\"a\": [1, \"é\"]}[\n  1\n]\"\\u00e9\"",
        ),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", "{\"a\":2,\"b\":1}"),
        (
            "{{ {'items': 1}['items'] }}{{ ({'items': 1}).items is callable }}{{ 'abc'[::-1] }}{{ -7 // 2 }}{{ -7 % 3 }}",
            "1Truecba-42",
        ),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join }}", "Hi"),
        ("{% if [] | select %}generators are true{% endif %}", "generators are true"),
        ("{{ '%s is %d' % ('a', 3) }} {{ '{:>4}|{:.2f}'.format('a', 1.5) }}", "a is 3    a|1.50"),
    ] {
        assert_eq!(render(&[("chat_template.jinja", template)], json!({})).as_deref(), Ok(expected), "{template}");
    }
}
