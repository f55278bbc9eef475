//! Templates that would take unlimited time or memory: one row for each way. They run with a
//! twentieth of the steps and a sixteenth of the bytes of a rendering, so that all of them together
//! take seconds; `tests/hostile_text.rs` has some with the real bounds.

use serde_json::{Map, json};

use super::{Limits, Template};

const LIMITS: Limits = Limits { steps: 1_000_000, bytes: 16 << 20 };

fn render(template: &str) -> Result<String, String> {
    let template = Template::parse(template).map_err(|fault| fault.to_string())?;
    let variables = Map::from_iter([("messages".to_owned(), json!([{"role": "user", "content": "Hi"}]))]);
    template.render_within(&variables, None, LIMITS).map_err(|fault| fault.to_string())
}

/// Asserts that a template is refused with these words.
fn refused(template: impl AsRef<str>, expected: &str) {
    let template = template.as_ref();
    let error = render(template).expect_err(template);
    assert!(error.contains(expected), "{template:.200}: {error}\nexpected {expected}");
}

/// Asserts that the beginning of a refused template is accepted by itself.
fn harmless(template: impl AsRef<str>) {
    let template = template.as_ref();
    if let Err(error) = render(template) {
        panic!("{template:.200}: {error}");
    }
}

#[test]
fn time_is_bounded() {
    let twice = "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let other = "{% set o = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set o.x = [o.x, o.x] %}{% endfor %}";
    harmless(format!("{twice}{other}"));
    for use_of in [
        "{{ ns.x == o.x }}",
        "{{ ns.x != o.x }}",
        "{{ ns.x < o.x }}",
        "{{ o.x in [ns.x] }}",
        "{{ [ns.x].count(o.x) }}",
        "{{ [ns.x].index(o.x) }}",
        "{{ [ns.x, o.x] | unique | list }}",
        "{{ [ns.x, o.x] | sort }}",
        "{{ {'a': ns.x} == {'a': o.x} }}",
        "{{ ns.x is eq(o.x) }}",
    ] {
        refused(format!("{twice}{other}{use_of}"), "more than 1000000 steps");
    }
    let text = "{% set ns = namespace(x='12345678') %}{% for i in range(18) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    harmless(text);
    harmless("{% set x = range(10000) | list %}{{ x | length }}{{ range(10000) | map('string') | list | length }}");
    for endless in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ 1 in range(10000) | list | reverse | list }}{% endfor %}",
        "{% set x = range(10000) | list %}{% for i in x %}{{ x[1:] | length }}{% endfor %}",
        "{% set x = range(10000) | list %}{% for i in x %}{{ x | sum }}{% endfor %}",
        "{% set ns = namespace(d={}) %}{% for i in range(100000) %}{% set ns.d = dict(ns.d, **{i | string: i}) %}{% endfor %}",
        "{{ range(10000) | map('string') | unique | list | length }}",
    ] {
        refused(endless, "more than");
    }
    for slow in [
        "{{ ns.x | length }}",
        "{{ ns.x[5] }}",
        "{{ 'q' in ns.x }}",
        "{{ ns.x.find('q') }}",
        "{{ ns.x == ns.x ~ 'a' }}",
    ] {
        refused(format!("{text}{{% for i in range(100000) %}}{slow}{{% endfor %}}"), "more than");
    }
    // Text to search for, compare or read may be longer than the text that is searched.
    let long = "{% set a = 'a' * 100000 %}{% set n = '1' * 100000 %}{% set o = n ~ '' %}\
                {% set keys = [a ~ 1, a ~ 2, a ~ 3, a ~ 4, a ~ 5, a ~ 6, a ~ 7, a ~ 8, a ~ 9] %}\
                {% set d = dict.fromkeys(keys) %}{% set ns = namespace(d) %}";
    harmless(long);
    for slow in [
        "{{ 'b'.find(a) }}",
        "{{ 'b'.split(a) }}",
        "{{ 'b'.partition(a) }}",
        "{{ 'b'.replace(a, '') }}",
        "{{ ''.strip(a) }}",
        "{{ 'b' | truncate(9000000, end=a) }}",
        "{{ n | float }}",
        "{{ n | int }}",
        "{{ n | filesizeformat }}",
        "{{ n is sameas o }}",
        "{{ d[keys[8]] }}",
        "{{ ns[keys[8]] }}",
        "{{ dict.fromkeys(keys) | length }}",
        "{{ 1 | tojson(indent=a) }}",
        "{{ 1 | tojson(separators=(a, a)) }}",
        "{{ '{}'.format(1, **d) }}",
    ] {
        refused(format!("{long}{{% for i in range(100000) %}}{slow}{{% endfor %}}"), "more than");
    }
    let arguments = "{% set d = dict(dict.fromkeys(range(500) | map('string') | list), k=1) %}";
    harmless(format!("{arguments}{{{{ '{{k}}' * 40000 }}}}"));
    // Each field searches for its name among all arguments.
    refused(format!("{arguments}{{{{ ('{{k}}' * 40000).format(**d) }}}}"), "more than 1000000 steps");
    // A long template with many different names.
    let names: String = (0..8000).map(|i| format!("{{% set a{i}=1 %}}")).collect();
    refused(format!("{names}{{% for x in range(100000) %}}{{{{ zzz }}}}{{% endfor %}}"), "more than 1000000 steps");
}

#[test]
fn memory_is_bounded() {
    let twice = "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    harmless(twice);
    for use_of in [
        "{{ ns.x }}",
        "{{ ns.x | string }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x | join }}",
        "{{ '%r' % (ns.x,) }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x | tojson(indent=8) }}",
        "{{ ns.x | pprint }}",
    ] {
        refused(format!("{twice}{use_of}"), "more than");
    }
    for large in [
        "{% set ns = namespace(x='12345678') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ (['a' * 1000000] * 1000) | tojson }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 1000000000000 * 'a' }}",
        "{{ 'a'.center(1000000000000) }}",
        "{{ 'a' | center(1000000000000) }}",
        "{{ 'a'.zfill(1000000000000) }}",
        "{{ 'a\tb'.expandtabs(1000000000000) }}",
        "{{ 'a\nb' | indent(1000000000000) }}",
        "{{ [1] | tojson(indent=1000000000000) }}",
        "{{ [1] | batch(1000000000000, 0) | list }}",
        "{{ [1] | slice(1000000000000) | list }}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ '%.1000000000000f' % 1.5 }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{:.1000000000000f}'.format(1.5) }}",
        "{% set a = 'a' * 100000 %}{{ a.replace('', a) }}",
        "{% set a = 'a' * 100000 %}{{ a.join(a) }}",
        "{% set a = 'a' * 100000 %}{{ a | list | join(a) }}",
        "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
        "{% set a = '\n' * 100000 %}{{ a | indent('a' * 100000, true, true) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% macro m() %}{% endmacro %}{% for i in range(100000) %}{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}",
    ] {
        refused(large, "more than");
    }
}
