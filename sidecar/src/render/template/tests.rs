use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::render::format::tests::shell_reads;
use crate::render::tests::{any_text, json};

const DB: &str = r#"{"username": "app", "password": "p@ss/w'ord", "port": 5432, "ratio": 1.50,
    "big": 123456789012345678901234567890123456789012345678901234567890, "tls": true, "none": null, "user-name": "x",
    "hosts": [{"name": "a", "port": 1}, {"name": "b", "port": 2}], "tags": ["z", "y", true, 2.0], "zero": 0.0e5}"#;

fn text(value: &str) -> Value {
    Value::Text(Secret::copy_of(value.as_bytes()))
}

fn rendered_with(template: &str, values: &[(&str, Value)]) -> Result<String, String> {
    let template = Template::new(template).map_err(|error| error.to_string())?;
    let values: BTreeMap<&str, &Value> = values.iter().map(|(name, value)| (*name, value)).collect();
    template
        .render(&values)
        .map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
        .map_err(|error| error.to_string())
}

/// With the values most tests use.
fn rendered(template: &str) -> Result<String, String> {
    rendered_with(
        template,
        &[
            ("db", text(DB)),
            ("level", text("debug")),
            ("number", text("5432")),
            ("key", Value::Binary(Secret::copy_of(b"\x00\xffA"))),
            ("list", text("[1, 2, 3]")),
            ("o", text(r#"{"items": 1, "upper": 2}"#)),
        ],
    )
}

#[test]
fn values_are_written_as_stored() {
    for (template, expected) in [
        ("", ""),
        ("plain \u{e9}\r\n", "plain \u{e9}\r\n"),
        ("{{ level }}\n", "debug\n"),
        ("{{ db }}", DB),
        ("{{ list }}", "[1, 2, 3]"),
        ("{{ db.username }}:{{ db['password'] }}@{{ db.port }}", "app:p@ss/w'ord@5432"),
        ("{{ db['user-name'] }}", "x"),
        (
            "{{ db.ratio }} {{ db.big }} {{ db.zero }}",
            "1.50 123456789012345678901234567890123456789012345678901234567890 0.0e5",
        ),
        ("{{ db.tls }} {{ not db.tls }}", "true false"),
        ("{{ db.hosts[0].name }}{{ db.hosts[-1].name }}{{ db.hosts | last | json }}", "ab{\"name\":\"b\",\"port\":2}"),
        ("{{ db.hosts }}", r#"[{"name":"a","port":1},{"name":"b","port":2}]"#),
        ("{{ db.tags }} {{ db.tags | join(',') }}", r#"["z","y",true,2.0] z,y,true,2.0"#),
        ("{{ db.tags ~ '' }}", r#"["z","y",true,2.0]"#),
        ("{% for h in db.hosts %}{{ h.name }}={{ h.port }}{% if not loop.last %},{% endif %}{% endfor %}", "a=1,b=2"),
        (
            "{% for k in db %}{{ k }} {% endfor %}",
            "username password port ratio big tls none user-name hosts tags zero ",
        ),
        ("{% for k, v in db.hosts[0] | items %}{{ k }}:{{ v }};{% endfor %}", "name:a;port:1;"),
        ("{% if db.nope is defined %}1{% else %}2{% endif %}{% if db.none is defined %}1{% else %}2{% endif %}", "22"),
        ("{% if db.username is defined %}1{% endif %}", "1"),
        ("{{ db.nope | default('d') }}{{ db.none | default('d') }}{{ nope | default('e') }}", "dde"),
        (
            "{{ db.port + 1 }} {{ db.port > 5000 }} {{ db.ratio | float + 2 }} {{ number | int - 1 }}",
            "5433 true 3.5 5431",
        ),
        (
            "{{ level == 'debug' }} {{ db.tls == true }} {{ 'z' in db.tags }} {{ 'port' in db }} {{ db == db }}",
            "true true true true true",
        ),
        ("{{ db.hosts[0] == db.hosts[1] }} {{ list == [1, 2, 3] }}", "false true"),
        ("{{ [db.username, db.port] | join(':') }}", "app:5432"),
        ("{{ db.hosts | map(attribute='name') | join(',') }}", "a,b"),
        ("{{ db.hosts | join(',', attribute='name') }}", "a,b"),
        ("{{ 'x' if db.tls }}{{ 'y' if not db.tls }}", "x"),
        ("{{ db.username | upper | replace('P', 'q') | length }}", "3"),
        ("{{ db.tags | first }}{{ db.hosts | length }}", "z2"),
        ("{{ o.items }}{{ o.upper }}", "12"),
        ("{% raw %}{{ db.x | nope }}{% endraw %}{# {{ db.x | nope }} #}", "{{ db.x | nope }}"),
        ("{% set u = db.username %}{% set b %}<{{ u }}>{% endset %}{{ b }}", "<app>"),
        ("{% filter upper %}{{ level }}{% endfilter %}", "DEBUG"),
        ("a\n  {{- ' b' -}}  \nc", "a bc"),
        ("{{ key | base64 }} {{ key | b64encode }} {% if key %}yes{% endif %}", "AP9B AP9B yes"),
        ("{{ 'cGxhaW4=' | b64decode }}", "plain"),
        ("{{ db.password | shell }} {{ level | shell }}", r"'p@ss/w'\''ord' 'debug'"),
        ("postgres://{{ db.username }}:{{ db.password | urlencode }}@h", "postgres://app:p%40ss%2Fw%27ord@h"),
        ("{{ '\u{e9}-._~ +&' | urlencode }}", "%C3%A9-._~%20%2B%26"),
        (
            "{{ level | json }} {{ 'a\"b\n' | yaml }} {{ db.hosts[0] | json }} {{ db.ratio | json }}",
            r#""debug" "a\"b\n" {"name":"a","port":1} 1.50"#,
        ),
        ("{{ {'a': [db.ratio, true, db.hosts[0]]} | json }}", r#"{"a":[1.50,true,{"name":"a","port":1}]}"#),
        ("{{ ' a=b' | properties }}", r"\ a\=b"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ range(3) | join }}", "012"),
    ] {
        assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
    }
    assert_eq!(rendered_with("{{ json }}", &[("json", text("[section]\na=1"))]).as_deref(), Ok("[section]\na=1"));
    assert_eq!(rendered_with("{{ a }}", &[("a", text(r#"{"a": 1, "a": 2}"#))]).as_deref(), Ok(r#"{"a": 1, "a": 2}"#));
}

#[test]
fn what_is_missing_is_named() {
    for (template, message) in [
        (
            "\n{{ db.usrname }}",
            "the template's line 2: `db.usrname` has no value: there is no field `usrname`, or it is null; did you mean `username`?; store it, or allow for it with `| default(\"…\")`",
        ),
        (
            "{{ db.none }}",
            "the template's line 1: `db.none` has no value: there is no field `none`, or it is null; store it, or allow for it with `| default(\"…\")`",
        ),
        ("{{ db.none | upper }}", "`db.none | upper` has no value: there is no field `none`"),
        ("{{ db.none ~ 'x' }}", "there is no field `none`"),
        ("{{ db.none + 1 }}", "there is no field `none`"),
        ("{{ db.none.more }}", "there is no field `none`"),
        ("{{ db.hosts[7].name }}", "`db.hosts[7]"),
        ("{{ db.none | json }}", "there is no field `none`"),
        ("{{ db.none | shell }}", "there is no field `none`"),
        ("{{ db.none | join }}", "there is no field `none`"),
        ("{{ db.none | float }}", "there is no field `none`"),
        ("{% for x in db.none %}{% endfor %}", "there is no field `none`"),
        ("{% if db.none %}{% endif %}", "there is no field `none`"),
        ("{% if db.nope == 'x' %}{% endif %}", "there is no field `nope`"),
        (
            "{% for h in db.hosts %}{{ h.nme }}{% endfor %}",
            "`h.nme` has no value: there is no field `nme`, or it is null; did you mean `name`?",
        ),
        ("{{ [db.none, 1] | join }}", "has no value"),
        ("{{ [db.none] }}", "has no value"),
        (
            "{% set a = db.nope %}{% if db.zzz is defined %}{% endif %}{{ a }}",
            "`a` has no value: a field or name in it does not exist or is null",
        ),
        ("{{ dbs.username }}", "no value has the name `dbs`; did you mean `db`?"),
        ("{{ nope }}", "no value has the name `nope`; name one"),
        (
            "{{ level.x }}",
            "`level.x` asks for a field of `level`, which is not JSON with fields: the value is not JSON",
        ),
        ("{{ number.x }}", "`number.x` asks for a field of `number`, which is neither a JSON object nor an array"),
    ] {
        let found = rendered(template);
        assert!(matches!(&found, Err(error) if error.contains(message)), "{template}: {found:?}");
    }
}

#[test]
fn what_cannot_be_is_told_with_its_place() {
    for (template, message) in [
        ("{{ key }}", "the template uses the value `key` as text, and it is binary: write it as `{{ key | base64 }}`"),
        ("{{ key ~ 'x' }}", "is binary"),
        ("{{ key | upper }}", "is binary"),
        ("{{ key | shell }}", "is binary"),
        ("{{ [key] ~ 'x' }}", "is binary"),
        ("{{ [key] }}", "is binary"),
        ("{{ none }}", "`none` cannot be worked out: `none` has no text"),
        (
            "{{ db.username + 1 }}",
            "the template's line 1: `db.username + 1` cannot be worked out: an operation in it does not fit",
        ),
        ("{{ level | int }}", "`level | int` cannot be worked out"),
        ("{{ level | float }}", "it is not a number"),
        ("{{ level | b64decode }}", "it is not base64"),
        ("{{ '/w==' | b64decode }}", "what it decodes to is not text"),
        ("{{ level | upper(1, 2, 3) }}", "it has an argument too many"),
        ("{{ level | replace }}", "an argument is missing"),
        ("{{ db.ratio + 1 }}", "does not fit the types"),
        ("{% for a, b in [1] %}{% endfor %}", "cannot be worked out"),
        ("{{ db[level] }}", "has no value"),
        ("{{ 'x' | map('nope') }}", "cannot be worked out"),
        ("{{ 1 / 0 }}", "cannot be worked out"),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "cannot be worked out"),
        (
            "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
            "takes more work than one file may (400000 steps)",
        ),
        ("{% for a in range(9) %}{{ range(40000) | join }}{% endfor %}", "more than 1048576 bytes"),
        ("{{ range(40000) | join | replace('0', range(9999) | join) }}", "takes more work"),
        ("{{ range(10000) | join(range(9999) | join) }}", "takes more work"),
    ] {
        let found = rendered(template);
        assert!(matches!(&found, Err(error) if error.contains(message)), "{template}: {found:?}");
    }
}

#[test]
fn mistakes_of_the_text_are_found_before_any_value() {
    for (template, message) in [
        ("a\n{{ db.x", "the template's line 2"),
        (
            "{{ a b }}",
            "the template's line 1, column 6: unexpected identifier, expected end of variable block; a `{{` or `{%` of the text itself",
        ),
        ("{% include 'x' %}", "a template stands alone: it has no include"),
        ("{% macro x() %}{% endmacro %}", "a template stands alone"),
        ("{% if a %}", "a `{{`, `{%` or block is not closed"),
        ("\n\n{{ a | uper }}", "the template's line 3: there is no filter `uper`; did you mean `upper`?"),
        ("{{ a | pprint }}", "there is no filter `pprint`"),
        ("{{ '%(a)s%(a)s' | format(a=a) }}", "there is no filter `format`"),
        ("{% filter nope %}{% endfilter %}", "there is no filter `nope`"),
        ("{% set a | nope %}{% endset %}", "there is no filter `nope`"),
        ("{% if a is defned %}{% endif %}", "there is no test `defned`; did you mean `defined`?"),
        ("{% if a is not defned %}{% endif %}", "there is no test `defned`"),
        ("{{ a.items() }}", "there is no method `items`"),
        ("{{ now() }}", "there is no function `now`"),
        ("{{ debug() }}", "there is no function `debug`"),
        ("{{ namespace() }}", "there is no function `namespace`"),
        ("{{ a | default(env('X')) }}", "there is no function `env`"),
        (
            "{% set a = [a, a] %}",
            "the template's line 1: `set`, `with` and `for` may not put values into lists of lists",
        ),
        ("{% set a = (a, a) %}", "lists of lists"),
        ("{% set a = a, a %}", "lists of lists"),
        ("{% set a = {'x': a, 'y': a} %}", "lists of lists"),
        ("{% with a = [a, a] %}{% endwith %}", "lists of lists"),
        ("{% for b in [[a, a]] %}{% endfor %}", "lists of lists"),
        ("{% for b in ((a, a), 1) %}{% endfor %}", "lists of lists"),
        ("{% set a = [none, none] | map('default', a, true) %}", "`map` takes one"),
    ] {
        let error = Template::new(template).unwrap_err().to_string();
        assert!(error.contains(message), "{template}: {error}");
    }
    for fine in [
        "{% for x in [db.a, db.b] %}{% endfor %}",
        "{% for k, v in db | items %}{% endfor %}",
        "{% set x = (db.a + db.b) / 2 %}",
        "{% set x = db.hosts[db.n] %}",
        "{% set names = db.hosts | map(attribute='name') | join(',') %}",
        "{% set x = db.a | replace('a', db.b) %}",
        "{% set names = ['a', 'b'] %}{% for n in names %}{{ db[n] }}{% endfor %}",
        "{{ [[db.a, db.b], [db.c]] | json }}",
        "{{ {'a': {'b': 1}} }}",
        "{{ '}}' }}{{ \"{{ nope() | nope }}\" }}",
        "{% if x in (1, 2) and not (y) %}{% endif %}",
        "{{ loop_ }}{% for x in a %}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{{ db.is.nope }}{{ db.not }}",
    ] {
        assert_eq!(Template::new(fine).err(), None, "{fine}");
    }
}

#[test]
fn every_listed_filter_and_test_exists() {
    let environment = environment();
    for (kind, names) in [("filter", &lint::FILTERS[..]), ("test", &lint::TESTS)] {
        assert!(names.is_sorted());
        for name in names {
            let known = environment.compile_expression(&format!("'{name}' is {kind}")).unwrap().eval(()).unwrap();
            assert!(known.is_true(), "{kind} {name}");
        }
    }
}

#[test]
fn names_and_fingerprint() {
    let template =
        Template::new("{{ a.b }}{% for x in c %}{{ x.y }}{% endfor %}{{ range(d) }}{% set e = f %}{{ e }}").unwrap();
    assert_eq!(template.names().iter().map(String::as_str).collect::<Vec<_>>(), ["a", "c", "d", "f"]);
    assert_eq!(template.fingerprint().len(), 16);
    let clone = template.clone();
    assert_eq!(clone, template);
    let other = Template::new("{{ a }}").unwrap();
    assert_ne!(other, template);
    assert_ne!(other.fingerprint(), template.fingerprint());
    assert_eq!(Template::new("").unwrap().fingerprint(), "e3b0c44298fc1c14");
}

/// What would end the process, were it let through: a stack runs over at once in a small thread.
#[test]
fn no_template_runs_out_of_stack_or_time() {
    let nested = |before: &str, middle: &str, after: &str, count: usize| {
        format!("{}{middle}{}", before.repeat(count), after.repeat(count))
    };
    let mut templates: Vec<String> = vec![
        nested("{% for x in [1] %}", "{{ level }}", "{% endfor %}", 5000),
        nested("{% for x in [1] %}", "{{ level }}", "{% endfor %}", 95),
        nested("{% if 1 %}", "{{ level }}", "{% endif %}", 140),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(100)),
        format!("{{% set a = [1] %}}{}{{{{ a ~ '' }}}}", "{% set a = a + a %}".repeat(4)),
        format!("{{% set a = [1] %}}{}{{{{ a ~ '' }}}}", "{% set a = a + a %}".repeat(60)),
    ];
    for count in [250, 5000, 100_000] {
        for piece in [
            "+1",
            "-1",
            "~1",
            "**1",
            "<1",
            " and 1",
            " or 1",
            "|string",
            ".b",
            "[0]",
            "(1)",
            "[1:]",
            " if 1 else 1",
            " is defined",
            " in [1]",
        ] {
            templates.push(format!("{{{{ 1{} }}}}", piece.repeat(count)));
        }
        for piece in ["not ", "-", "+", "(", "[", "{1:", "[["] {
            templates.push(format!("{{{{ {}1 }}}}", piece.repeat(count)));
        }
        templates.push(format!("{{{{ {} }}}}", nested("(", "1", ")", count)));
        templates.push(format!("{{{{ {} }}}}", nested("[", "1", "]", count)));
    }
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for template in templates {
                let started = std::time::Instant::now();
                let _ = rendered(&template);
                assert!(started.elapsed().as_secs() < 5, "{}", &template[..60]);
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

/// Much made of little, where the engine does not count what it makes.
#[test]
fn no_template_makes_much_of_little() {
    let long = "x".repeat(65_536);
    let many: Vec<_> = (0..10_000).map(|number| format!("\"key{number}\": [{number}, \"x\"]")).collect();
    let values = [("s", text(&long)), ("w", text(&format!("{{{}}}", many.join(", "))))];
    let repeat = |piece: &str, count: usize| piece.repeat(count);
    for template in [
        format!("{{{{ [{}] ~ '' }}}}", repeat("s,", 250)),
        format!("{{{{ [{}] | json }}}}", repeat("w,", 250)),
        format!("{{{{ [{}] ~ '' }}}}", repeat("w,", 250)),
        format!("{{% set a = w | list %}}{}{{{{ a ~ '' }}}}", repeat("{% set a = a + a %}", 4)),
        "{% for i in range(90000) %}{{ w.nope | default('') }}{% endfor %}".to_owned(),
        "{% for i in range(90000) %}{% if s %}{% endif %}{% if w.key9999 %}{% endif %}{% endfor %}".to_owned(),
        "{% for i in range(90000) %}{% if w.key1 == w.key2 %}{% endif %}{% if w in [w] %}{% endif %}{% endfor %}"
            .to_owned(),
        "{% for i in range(1000) %}{% for k, v in w | items %}{{ v }}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(1000) %}{{ w | dictsort | length }}{% endfor %}".to_owned(),
        "{% for i in range(1000) %}{% if w | string %}{% endif %}{% endfor %}".to_owned(),
        "{% for i in range(1000) %}{% if w | upper %}{% endif %}{% endfor %}".to_owned(),
        "{{ s | replace('x', s) }}".to_owned(),
        "{{ s | replace('', s) }}".to_owned(),
        "{{ s | list | join(s) }}".to_owned(),
        "{{ s | indent(1000000000) }}".to_owned(),
        "{{ range(90000) | list ~ '' }}".to_owned(),
    ] {
        let started = std::time::Instant::now();
        let result = rendered_with(&template, &values).map(|text| text.len());
        assert!(
            started.elapsed().as_secs() < 6,
            "{}: {:?} {result:?}",
            &template[..60.min(template.len())],
            started.elapsed()
        );
    }
}

/// Operations that fail, each on a value that holds the canary everywhere.
#[test]
fn no_error_holds_any_part_of_a_value() {
    let operations = [
        "v + 1",
        "1 - v",
        "v * v",
        "v / 2",
        "v // 2",
        "v % 2",
        "v ** 2",
        "-v",
        "v[1:2:0]",
        "v['a':]",
        "v.x",
        "v[0].x",
        "v.x.y",
        "v[v]",
        "w[v]",
        "w.a + 1",
        "w.a.b.c",
        "w.b + 1",
        "w + 1",
        "w * 'a'",
        "[w] + 1",
        "v < 1 and v.x",
        "v in 5",
        "5 in v.x",
        "v | int",
        "v | int(base=99)",
        "v | float",
        "v | abs",
        "v | round",
        "v | round(v)",
        "w | upper | int",
        "v | items",
        "v | dictsort",
        "w.b | dictsort(by=v)",
        "v | b64decode",
        "v | sum",
        "w.b | sum",
        "v | replace",
        "v | replace(1)",
        "v | replace(w)",
        "v | attr",
        "v | attr(1)",
        "v | map(v)",
        "v | select(v)",
        "v | list | map(v) | list",
        "v | selectattr(v)",
        "w.b | map(attribute=v) | join",
        "v | default(x=v)",
        "v | trim(1, 2, 3)",
        "v | split(1)",
        "v | indent(v)",
        "v | join(1, 2, 3)",
        "5 | join",
        "v | min",
        "5 | min",
        "v | first | int",
        "v | sort(attribute=v)",
        "v | unique(v)",
        "5 | length",
        "v | tojson(v)",
        "v is divisibleby(v)",
        "v is divisibleby(0)",
        "v is startingwith(1)",
        "1 is startingwith(v)",
        "v is in(5)",
        "range(v)",
        "range(1, 2, 0)",
        "range(9999999)",
        "v | bool(v)",
        "v | shell(v)",
        "n | shell",
        "k",
        "k | upper",
        "k + 1",
        "k ~ v",
        "k | json",
        "[k] | join",
        "k.x",
        "k[0]",
        "v | string | int",
        "w | string + 1",
        "v if v.x",
        "[v.x] | first",
        "{v: 1}.x",
        "{v: v}[w]",
        "(v, w) + 1",
        "w | json | int",
        "w | urlencode | int",
        "v | escape + 1",
        "v | title | int",
        "v | reverse | int",
        "v | lines | int",
        "v | count | upper + 1",
        "v | capitalize | float",
        "none + v",
        "none",
        "true + v",
        "v ~ none.x",
        "v | max(v)",
        "v | last(v)",
        "v | list | int",
        "v | d",
        "nope | d(v) + 1",
        "v | float(v, v)",
        "v | upper(v)",
        "v | base64(v) ",
        "w.c.x",
        "w[9]",
        "w.b[v]",
        "w.b[9]",
        "v | reject('nope')",
        "loop",
        "v | rejectattr",
    ];
    let statements = [
        "{% for a, b in v %}{% endfor %}",
        "{% for a, b in [v] %}{% endfor %}",
        "{% for a in 5 %}{{ v }}{% endfor %}",
        "{% for a in v.x %}{% endfor %}",
        "{% for a, b in w.b %}{% endfor %}",
        "{% if v.x %}{% endif %}",
        "{% set a, b = v %}",
        "{% with a = v.x %}{{ a }}{% endwith %}",
        "{% filter int %}{{ v }}{% endfilter %}",
        "{% set a | int %}{{ v }}{% endset %}",
        "{% for a in [v] recursive %}{{ loop(a) }}{% endfor %}",
        "{{ v }}{% for a in range(10000) %}{% for b in range(10000) %}{{ v | length }}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ v * 100 }}{% endfor %}",
        "{% autoescape v %}{{ v }}{% endautoescape %}",
        "{% for a in v %}{{ a.x }}{% endfor %}",
        "{% for a in w %}{{ w[a].x.y }}{% endfor %}",
        "{% for a in w %}{{ v[a] + a }}{% endfor %}",
    ];
    let values = [
        ("v", text("c4n4ry")),
        (
            "w",
            text(
                r#"{"a": "c4n4ry", "b": ["c4n4ry", {"c4n4ry": "c4n4ry"}], "c4n4ry": "c4n4ry", "c": {"c4n4ry": {"c4n4ry": 1}}}"#,
            ),
        ),
        ("n", text("c4n4ry\0")),
        ("k", Value::Binary(Secret::copy_of(b"c4n4ry"))),
    ];
    let by_name: BTreeMap<&str, &Value> = values.iter().map(|(name, value)| (*name, value)).collect();
    let templates =
        operations.iter().map(|operation| format!("{{{{ {operation} }}}}")).chain(statements.map(str::to_owned));
    let mut failed = 0;
    for source in templates {
        let Ok(template) = Template::new(&source) else { continue };
        let Err(error) = template.render(&by_name) else { continue };
        failed += 1;
        let mut shown = format!("{error} {error:?} {error:#?} {template:?}");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            shown += &format!("{error} {error:?}");
            cause = error.source();
        }
        assert!(!shown.contains("c4n4ry"), "{source}: {shown}");
    }
    assert!(failed > 90, "{failed}");
}

/// The result of a filter on a text, on the same text as a field, and on it as a JSON value.
fn filtered(filter: &str, value: &str) -> String {
    let fields = serde_json::json!({ "f": value }).to_string();
    let values = [("v", text(value)), ("w", text(&fields))];
    let whole = rendered_with(&format!("{{{{ v | {filter} }}}}"), &values).unwrap();
    assert_eq!(rendered_with(&format!("{{{{ w.f | {filter} }}}}"), &values).as_ref(), Ok(&whole));
    whole
}

/// A text that is taken for a text even when it is a whole value: it is no JSON object or array.
fn plain_text() -> impl Strategy<Value = String> {
    any_text().prop_filter("JSON", |text| !text.trim_start().starts_with(['[', '{']))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_shell_reads_its_words(values in proptest::collection::vec(plain_text(), 1..24)) {
        let values: Vec<String> = values.into_iter().map(|value| value.replace('\0', "")).collect();
        let lines = values.iter().enumerate().map(|(number, value)| format!("K_{number}={}\n", filtered("shell", value)));
        let read = shell_reads(lines.collect::<String>().as_bytes());
        for (number, value) in values.iter().enumerate() {
            prop_assert_eq!(read.get(format!("K_{number}").as_bytes()).map(Vec::as_slice), Some(value.as_bytes()));
        }
    }
}

proptest! {
    #[test]
    fn other_readers_read_what_filters_quote(value in plain_text()) {
        let json = filtered("json", &value);
        prop_assert_eq!(&serde_json::from_str::<String>(&json).unwrap(), &value);
        let yaml = format!("a: {}\nb: [{}]\n", filtered("yaml", &value), filtered("yaml", &value));
        let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        prop_assert_eq!(read, serde_json::json!({"a": value, "b": [value]}));

        let url = filtered("urlencode", &value);
        prop_assert!(url.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        prop_assert_eq!(percent_encoding::percent_decode_str(&url).decode_utf8().unwrap(), value.as_str());

        let base64 = filtered("base64", &value);
        prop_assert_eq!(aws_smithy_types::base64::decode(&base64).unwrap(), value.as_bytes());
        prop_assert_eq!(&filtered("b64encode | b64decode", &value), &value);

        // This reader knows no surrogate pairs, which Java writes and reads.
        let value = value.replace(|c| c > '\u{ffff}', "");
        let line = format!("k={}\nl=1\n", filtered("properties", &value));
        let read: BTreeMap<_, _> = java_properties::read(line.as_bytes()).unwrap().into_iter().collect();
        prop_assert_eq!(read, BTreeMap::from([("k".to_owned(), value), ("l".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn json_keeps_order_and_digits(value in json()) {
        prop_assume!(value.is_object() || value.is_array());
        let stored = value.to_string();
        let written = rendered_with("{{ w | json }}", &[("w", text(&stored))]).unwrap();
        prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&written).unwrap(), &value);
        let keys = |value: &serde_json::Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        prop_assert_eq!(keys(&serde_json::from_str(&written).unwrap()), keys(&value));
    }

    #[test]
    fn a_value_passes_through_whole(value in any_text(), other in json()) {
        let values = [("v", text(&value)), ("w", text(&other.to_string()))];
        prop_assert_eq!(rendered_with("{{ v }}", &values), Ok(value));
        prop_assert_eq!(rendered_with("{{ w }}", &values), Ok(other.to_string()));
    }

    #[test]
    fn never_panics(template in "(\\{\\{ |\\{% | \\}\\}| %\\}|db|key|list|level|\\.|\\[0\\]|hosts| \\| |json|join|shell|upper|if |for x in |end|set a = |==|\\+|~|\\*|'|\"|\\(|\\)|is | not |x|#|raw|\\{|-){0,16}") {
        let _ = rendered(&template);
    }

    #[test]
    fn never_panics_on_expressions(expression in "(db|key|list|level|number|db\\.hosts|db\\.ratio|\\[1\\]|'é'|2)( \\| (json|join|shell|upper|sort|list|items|first|last|length|int|unique|reverse|min|max|sum|string)| (\\+|~|\\*|==|<|in|-|//|and|%) (db|key|list|level|db\\.tags|\\[1\\]|'é'|2|db\\.ratio|db\\.big)){0,4}") {
        let template = format!("{{{{ {expression} }}}}");
        if let Err(error) = rendered(&template) {
            prop_assert!(!error.contains("ss/w"), "{}", error);
        }
    }
}
