//! Chat templates. Each is opened, rendered and dropped on a thread with a small stack.

use std::fs;

use qruntime::{ChatTemplate, Message};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Makes a folder with one file.
fn folder(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

/// The size of the stack of an application's thread.
const STACK: usize = 256 << 10;

/// Returns the outcome of a template: its text or why it is refused.
fn outcome(template: String, variables: Map<String, Value>) -> Result<String, String> {
    let run = move || {
        let folder = folder("chat_template.jinja", &template);
        let template = ChatTemplate::open(folder.path()).map_err(|error| error.to_string())?.unwrap();
        let messages = [Message::new("user", "Hi")];
        template.render_with(&messages, &variables, true).map_err(|error| error.to_string())
    };
    std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap()
}

/// Asserts that a template is refused with these words.
fn refused(template: impl Into<String>, expected: &str) {
    let template = template.into();
    println!("{:.80}", template);
    let error = outcome(template.clone(), Map::new()).unwrap_err();
    assert!(error.contains(expected), "{template:.100}: {error}\nexpected {expected}");
}

/// Asserts that a template renders as this text.
fn rendered(template: impl Into<String>, expected: &str) {
    let template = template.into();
    println!("{:.80}", template);
    let text = outcome(template.clone(), Map::new());
    assert_eq!(text.as_deref(), Ok(expected), "{template:.100}");
}

#[test]
fn what_is_nested_too_deeply_is_refused() {
    const MANY: usize = 20_000;
    let around = |before: &str, after: &str| format!("{{{{ {}1{} }}}}", before.repeat(MANY), after.repeat(MANY));
    for (before, after) in [
        ("-", ""),
        ("+", ""),
        ("not ", ""),
        ("(", ")"),
        ("[", "]"),
        ("{'a':", "}"),
        ("f(", ")"),
        ("1 if 1 else ", ""),
        ("x[", "]"),
        ("1|default(", ")"),
        ("1 is in(", ")"),
        ("-(", ")"),
    ] {
        refused(around(before, after), "nested more than");
    }
    for (begin, end) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for x in [1] %}", "{% endfor %}"),
        ("{% if 1 %}{% else %}", "{% endif %}"),
        ("{% set x %}", "{% endset %}"),
        ("{% filter upper %}", "{% endfilter %}"),
        ("{% macro m() %}", "{% endmacro %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% call m() %}", "{% endcall %}"),
    ] {
        refused(begin.repeat(MANY) + &end.repeat(MANY), "nested more than");
        refused(begin.repeat(MANY), "nested more than");
    }
    refused(format!("{{% set {}x{} = 1 %}}", "(".repeat(MANY), ")".repeat(MANY)), "nested more than");
    // As deep as permitted, in every way at once: it can be dropped, too.
    let level = "[{'a': -(1 + 2 * 3 ~ 4 and not 5 or (";
    let end = ")[1](2)|abs is sameas 3 if 6 else 7)}]";
    rendered(format!("{{% if 0 %}}{{{{ {}1{} }}}}{{% endif %}}ok", level.repeat(7), end.repeat(7)), "ok");
}

#[test]
fn chains_are_as_long_as_they_are() {
    const MANY: usize = 20_000;
    let chain = |first: &str, link: &str| format!("{{{{ {first}{} }}}}", link.repeat(MANY));
    rendered(chain("1", " + 1"), "20001");
    rendered(chain("1", "|abs"), "1");
    rendered(chain("1", "**1"), "1");
    rendered(chain("1", " and 1"), "1");
    rendered(chain("0", " or 0"), "0");
    rendered(chain("1", " == 1"), "True");
    rendered(chain("1", " if 1"), "1");
    rendered(chain("''", "~''"), "");
    rendered(chain("''", " ''"), "");
    rendered(chain("'a'", "[0]"), "a");
    rendered(chain("1", " is defined()"), "True");
    refused(chain("messages", ".a"), "has no attribute 'a'");
    refused(chain("messages", "()"), "not callable");
    rendered(format!("{{% if 0 %}}{}{{% endif %}}ok", "{% elif 0 %}".repeat(MANY)), "ok");
    rendered("{# #}".repeat(MANY), "");
}

#[test]
fn values_are_not_deep() {
    for grown in ["[ns.x]", "(ns.x,)", "{'a': ns.x}", "[ns.x].count", "{1: [ns.x]}.items()", "[ns.x]|map('list')|list"]
    {
        refused(
            format!(
                "{{% set ns = namespace(x=[]) %}}{{% for i in range(20000) %}}{{% set ns.x = {grown} %}}{{% endfor %}}ok"
            ),
            "levels",
        );
    }
    // A namespace may contain itself: it cannot be printed, but it can be dropped.
    rendered("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x == ns.x }}ok", "Trueok");
    refused("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "levels");
    rendered("{% for x in [1] %}{{ loop.changed(loop, [loop]) }}{% endfor %}", "True");
    let mut deep = json!(1);
    for _ in 0..300 {
        deep = json!([deep]);
    }
    let variables = Map::from_iter([("tools".to_owned(), deep)]);
    assert!(outcome("{{ tools }}".to_owned(), variables).unwrap_err().contains("levels"));
}

#[test]
fn calls_do_not_go_on_for_ever() {
    refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "levels");
    refused(
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}{{ m() }}{% endcall %}{% endcall %}",
        "No caller",
    );
    refused("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "levels");
    refused(format!("{{{{ 'a'|map({}'list')|list }}}}", "'map', ".repeat(20_000)), "levels");
    refused(
        "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{% if 1 %}{{ [a(n)] }}{% endif %}{% endmacro %}{{ a(1) }}",
        "levels",
    );
}

/// The real bounds; many more ways to reach them are in `src/text/jinja/bounds.rs`, with smaller
/// ones.
#[test]
fn time_and_memory_are_bounded() {
    const TWICE: &str =
        "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for slow in [
        &*format!("{TWICE}{}{{{{ ns.x == o.x }}}}", TWICE.replace("ns", "o")),
        "{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{{ 'b'.find(a) }}{% endfor %}",
    ] {
        refused(slow, "more than 20000000 steps");
    }
    for large in [
        "{% set ns = namespace(x='12345678') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'a' * 1000000000000 }}",
    ] {
        refused(large, "more than 256 MiB");
    }
    refused(" ".repeat(2 << 20), "expected at most 1048576");
}

/// Numbers at the limits of their range.
#[test]
fn numbers_do_not_overflow() {
    for (template, expected) in [
        ("{{ 2 ** 200 }}", "too large"),
        ("{{ 10 ** 38 * 10 }}", "too large"),
        ("{{ 170141183460469231731687303715884105727 + 1 }}", "too large"),
        ("{{ (-170141183460469231731687303715884105727 - 1) // -1 }}", "too large"),
        ("{{ 170141183460469231731687303715884105728 }}", "too large"),
        ("{{ -(-170141183460469231731687303715884105727 - 1) }}", "unary"),
        ("{{ 1 // 0 }}", "division by zero"),
        ("{{ 1.0 % 0 }}", "division by zero"),
        ("{{ range(9223372036854775807, 9223372036854775808) }}", "64 bits"),
        ("{{ 'a'[:] [::0] }}", "zero"),
        ("{{ '%.65536f' % 1.0 }}", "a width of more than"),
        ("{{ '{:.65535g}'.format(0.0001) }}", "a width of more than"),
        ("{{ '{:.65536f}'.format(1.0) }}", "a width of more than"),
        ("{{ '%.65535g' % 0.0001 }}", "a width of more than"),
        ("{{ 'abc' | truncate(-170141183460469231731687303715884105727) }}", "shorter"),
        ("{{ 'abc' | truncate(-170141183460469231731687303715884105727 - 1) }}", "shorter"),
    ] {
        refused(template, expected);
    }
    for (template, expected) in [
        (
            "{{ 'abc'[170141183460469231731687303715884105727] }}|{{ 'abc'[-170141183460469231731687303715884105727:] }}",
            "|abc",
        ),
        (
            "{{ 'abc'[::170141183460469231731687303715884105727] }}{{ 'abc'[::-170141183460469231731687303715884105727] }}",
            "ac",
        ),
        ("{{ range(-9223372036854775808, 9223372036854775807, 9223372036854775807) | list | length }}", "3"),
        ("{{ 170141183460469231731687303715884105727 in range(-9223372036854775808, -9223372036854775800) }}", "False"),
        (
            "{{ 1e308 * 10 }} {{ '1e999' | float }} {{ 'x' * -5 }} {{ 2.5 | round(1000) }} {{ 25 | round(-1000) }}",
            "inf inf  2.5 0",
        ),
        (
            "{{ '%c' % 55296 }}{{ '{:c}'.format if 0 }}{{ 'abc'.find('c', 170141183460469231731687303715884105727) }}",
            "-1",
        ),
        ("{{ '%.32768g' % 0.0001220703125 }}", "0.0001220703125"),
        ("{{ 99999999999999999999999999999999999999 | round(-38) }}", "100000000000000000000000000000000000000"),
        (
            "{{ -1e39 in range(3, 0, -1) }} {{ 1e39 in range(3, 0, -1) }} {{ 2.0 in range(3, 0, -1) }}",
            "False False True",
        ),
        ("{{ (-170141183460469231731687303715884105727 - 1) % -1 if 0 }}{{ 1e300 | int if 0 }}ok", "ok"),
    ] {
        rendered(template, expected);
    }
}

#[test]
fn nothing_can_be_reached_or_changed() {
    for (template, expected) in [
        ("{% include 'a' %}", "include is not possible"),
        ("{% import 'a' as b %}", "import is not possible"),
        ("{% from 'a' import b %}", "from is not possible"),
        ("{% extends 'a' %}", "extends is not possible"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update({}) }}", "unsafe"),
        ("{{ messages[0].pop('role') }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "has no attribute"),
        ("{{ '{0.__class__.a}'.format(1) }}", "has no attribute"),
        ("{% set ns = namespace() %}{% set ns._a = 1 %}", "underscore"),
        ("{{ self._TemplateReference__context }}", "undefined"),
    ] {
        refused(template, expected);
    }
}
