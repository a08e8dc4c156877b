//! The JSON Schema of the config file, from the very tables that it is read by.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::TOP;
use super::table::{Demands, Mapping, Setting, Takes, Without};

/// A JSON Schema (2020-12) of the config file, for editors and for its reference.
///
/// It knows each key, what may stand there and what holds without it; of what depends on something else in the file it
/// knows little: [`Config::parse`](super::Config::parse) has the last word. Each description is what a key means, a
/// paragraph `Takes …` and, where it can be left out, one that starts with `Without it: `.
#[must_use]
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let Value::Object(top) = mapping(&TOP, &mut definitions) else { unreachable!("a mapping is an object") };
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("The config file of coffer"));
    schema.extend(top);
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(schema)
}

/// A mapping; those that it names are put into `definitions`, in the order in which they come up.
fn mapping(mapping: &Mapping, definitions: &mut Map<String, Value>) -> Value {
    let properties: Map<String, Value> =
        mapping.keys.iter().map(|key| (key.name.to_owned(), setting(key, definitions))).collect();
    let refused = |key: &&Setting| matches!(key.without, Without::Refused);
    let required: Vec<&str> = mapping.keys.iter().filter(refused).map(|key| key.name).collect();
    let mut schema = json!({
        "description": format!("{}.", mapping.meaning),
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    let each = |keys: &[&str]| keys.iter().map(|key| json!({ "required": [key] })).collect::<Vec<Value>>();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    match mapping.demands {
        Demands::Nothing => {}
        Demands::Some(keys) => schema["anyOf"] = json!(each(keys)),
        Demands::One(keys) => schema["oneOf"] = json!(each(keys)),
    }
    if mapping.names().contains(&"external_id") {
        schema["dependentRequired"] = json!({ "external_id": ["role_arn"] });
    }
    schema
}

fn setting(key: &Setting, definitions: &mut Map<String, Value>) -> Value {
    let (words, mut schema) = taken(&key.takes, definitions);
    let mut description = format!("{}.\n\nTakes {words}.", key.meaning);
    if let Some(without) = without(&key.without) {
        description.push_str(&format!("\n\nWithout it: {without}."));
    }
    schema["description"] = json!(description);
    if let Some(default) = default(&key.without) {
        schema["default"] = default;
    }
    schema
}

/// What may stand at a key, in words and as a schema.
fn taken(takes: &Takes, definitions: &mut Map<String, Value>) -> (String, Value) {
    match takes {
        Takes::Text(words) => ((*words).to_owned(), text()),
        Takes::Form(words, pattern, example) => {
            ((*words).to_owned(), json!({ "type": "string", "pattern": pattern, "examples": [example] }))
        }
        Takes::Word(words) => {
            let words = words();
            (listed(&words), json!({ "enum": words }))
        }
        Takes::Boolean => ("`true` or `false`".to_owned(), json!({ "type": "boolean" })),
        Takes::Time(range) => {
            let words = format!("a time from {} to {}, with its unit", time(*range.start()), time(*range.end()));
            let number = r"[0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+";
            let pattern = format!(r"^\s*(0|{number}(\s*{number})*)\s*$");
            (words, json!({ "type": "string", "pattern": pattern, "examples": ["60s", "5m", "1h30m"] }))
        }
        Takes::Count(range) => {
            let (least, most) = (range.start(), range.end());
            let schema = json!({ "type": "integer", "minimum": least, "maximum": most });
            (format!("a whole number from {least} to {most}"), schema)
        }
        Takes::Rate(range) => {
            let (least, most) = (range.start(), range.end());
            let schema = json!({ "type": "number", "minimum": least, "maximum": number(*most) });
            (format!("a number from {least} to {most}"), schema)
        }
        // Readers of YAML 1.1 take it for a number in octal, those of 1.2 for one in decimal.
        Takes::Mode => (
            "permission bits in octal, from 0000 to 0777".to_owned(),
            json!({ "type": ["string", "integer"], "pattern": "^0o?[0-7]{3,}$", "minimum": 0, "maximum": 777, "examples": ["0400"] }),
        ),
        Takes::Address => (
            "an address with its port".to_owned(),
            json!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$", "examples": ["127.0.0.1:9465"] }),
        ),
        Takes::Path(what) => (format!("the absolute path of {what}"), json!({ "type": "string", "pattern": "^/" })),
        Takes::Command => (
            "a list: the absolute path of a program, and its arguments".to_owned(),
            json!({ "type": "array", "minItems": 1, "items": text(), "examples": [["/usr/sbin/nginx", "-s", "reload"]] }),
        ),
        Takes::Named(value) => {
            let schema = json!({
                "type": "object",
                "patternProperties": { "^[A-Za-z_][A-Za-z0-9_]*$": { "anyOf": [
                    taken(&super::table::REFERENCE, definitions).1,
                    reference(value, definitions),
                ] } },
                "additionalProperties": false,
            });
            (format!("names, each with a reference or with a mapping: {}", keys(value)), schema)
        }
        Takes::Mapping(of) => (format!("a mapping: {}", keys(of)), reference(of, definitions)),
        Takes::List(of) => {
            let items = reference(of, definitions);
            let least = usize::from(of.id == "file" || of.id == "volume");
            (format!("a list of mappings: {}", keys(of)), json!({ "type": "array", "minItems": least, "items": items }))
        }
    }
}

/// YAML reads digits as a number, and who writes them may mean a text.
fn text() -> Value {
    json!({ "type": ["string", "integer"] })
}

fn keys(mapping: &Mapping) -> String {
    format!("see `{}`", mapping.id)
}

/// A mapping by its name; it is defined where it comes up first.
fn reference(of: &Mapping, definitions: &mut Map<String, Value>) -> Value {
    if !definitions.contains_key(of.id) {
        // Holds its place among the others.
        definitions.insert(of.id.to_owned(), Value::Null);
        let schema = mapping(of, definitions);
        definitions.insert(of.id.to_owned(), schema);
    }
    json!({ "$ref": format!("#/$defs/{}", of.id) })
}

/// In words, where a key can be left out and that says something.
fn without(without: &Without) -> Option<String> {
    match without {
        Without::Refused | Without::Nothing => None,
        Without::Says(words) => Some((*words).to_owned()),
        Without::Time(default) => Some(time(*default)),
        Without::Count(default) => Some(default.to_string()),
        Without::Rate(default) => Some(default.to_string()),
        Without::Text(default) => Some((*default).to_owned()),
        Without::Mode(default) => Some(default.to_string()),
        Without::No => Some("false".to_owned()),
    }
}

fn default(without: &Without) -> Option<Value> {
    match without {
        Without::Refused | Without::Nothing | Without::Says(_) => None,
        Without::Time(default) => Some(json!(time(*default))),
        Without::Count(default) => Some(json!(default)),
        Without::Rate(default) => Some(number(*default)),
        Without::Text(default) => Some(json!(default)),
        Without::Mode(default) => Some(json!(default.to_string())),
        Without::No => Some(json!(false)),
    }
}

/// A whole number as one.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "what is beyond an i64 is not its own fraction")]
    let whole = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "compared with where it comes from")]
    if whole as f64 == value { json!(whole) } else { json!(value) }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn listed(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, TOP};
    use super::*;

    /// A config with `line` as a key of the mapping of that name, which is otherwise as short as it can be.
    fn with(id: &str, line: &str) -> String {
        let volume = |more: &str, file: &str, action: &str, value: &str| {
            format!(
                "volumes:\n- path: /v\n  values:\n    v: {{from: 'secretsmanager:a', {value}}}\n  on_change: [{{{action}}}]\n  files: [{{{file}}}]\n  {more}\n"
            )
        };
        let (file, action) = ("name: a, from: 'secretsmanager:a'", "exec: [/a]");
        let extra = |short: &str| if line.is_empty() { short.to_owned() } else { format!("{short}, {line}") };
        match id {
            "config" => format!("{}{line}\n", volume("", file, action, "")),
            "volume" => volume(line, file, action, ""),
            "file" => volume("", &extra(file), action, ""),
            "action" => volume("", file, &extra(action), ""),
            "value" => volume("", file, action, line),
            "variable" => format!("env: [{{{}}}]\n", extra("name: A, from: 'secretsmanager:a'")),
            "rate_limits" => format!("{}rate_limits: {{{line}}}\n", volume("", file, action, "")),
            "push" => {
                let sqs = "sqs: 'https://sqs.eu-west-1.amazonaws.com/123456789012/q'";
                format!("{}push: {{{}}}\n", volume("", file, action, ""), extra(sqs))
            }
            "api" => format!("api: {{{line}}}\n"),
            other => panic!("no example of {other}"),
        }
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse("c", text, &|_| Ok(String::new())).map_err(|error| error.to_string())
    }

    /// Every mapping that there is.
    fn mappings() -> Vec<&'static Mapping> {
        let mut all = vec![&TOP];
        let mut at = 0;
        while let Some(mapping) = all.get(at).copied() {
            for key in mapping.keys {
                if let Takes::Mapping(of) | Takes::List(of) | Takes::Named(of) = &key.takes
                    && !all.iter().any(|known| known.id == of.id)
                {
                    all.push(of);
                }
            }
            at += 1;
        }
        all
    }

    #[test]
    fn the_schema_has_every_mapping_and_each_key_once() {
        let schema = schema();
        for mapping in mappings() {
            let shown = if mapping.id == "config" { &schema } else { &schema["$defs"][mapping.id] };
            let shown: Vec<&String> = shown["properties"].as_object().unwrap().keys().collect();
            assert_eq!(shown, mapping.names(), "{}", mapping.id);
            let mut names = mapping.names();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), mapping.keys.len(), "{}", mapping.id);
        }
        assert_eq!(schema["$defs"].as_object().unwrap().len() + 1, mappings().len());
    }

    #[test]
    fn the_parser_reads_each_key_of_the_tables() {
        for mapping in mappings() {
            parse(&with(mapping.id, "")).unwrap();
            for key in mapping.keys {
                // What no key takes: the parser has to trip over it, and over nothing else of that name.
                let is_flow = !matches!(mapping.id, "config" | "volume");
                let line = format!("{}: [[{{x: 1}}]]", key.name);
                let text = with(mapping.id, &line);
                let text = match (is_flow, text.matches(&format!("{}:", key.name)).count()) {
                    // It stands in the shortest example already.
                    (_, 2..) if matches!(parse(&text), Err(error) if error.contains("duplicate key")) => continue,
                    _ => text,
                };
                let error = parse(&text).expect_err(&text);
                assert!(!error.contains("unknown key"), "{}.{}: {error}", mapping.id, key.name);
            }
            let error = parse(&with(mapping.id, "nonsense: 1")).expect_err(mapping.id);
            assert!(error.contains("unknown key `nonsense`"), "{}: {error}", mapping.id);
        }
    }

    #[test]
    fn what_holds_without_a_key_is_what_holds_with_its_default() {
        let mut compared = 0;
        for mapping in mappings() {
            let bare = parse(&with(mapping.id, "")).unwrap();
            for key in mapping.keys {
                let Some(default) = default(&key.without) else { continue };
                // These belong to a path of parameters.
                let line = match (mapping.id, key.name) {
                    ("file", "recursive") => continue,
                    _ => format!("{}: {}", key.name, default.as_str().map_or(default.to_string(), str::to_owned)),
                };
                assert_eq!(parse(&with(mapping.id, &line)), Ok(bare.clone()), "{}: {line}", mapping.id);
                compared += 1;
            }
        }
        assert!(compared >= 15, "only {compared}");
        let tree = |more: &str| {
            let file = format!("from: 'parameterstore:/a/'{more}");
            parse(&format!("volumes: [{{path: /v, files: [{{{file}}}]}}]")).unwrap()
        };
        assert_eq!(tree(", recursive: false"), tree(""));
        let listen = |text: &str| parse(&format!("listen: '{text}'\nprobes: 0.0.0.0:1\nenv: []\n")).unwrap().listen;
        let said = schema()["properties"]["listen"]["description"].as_str().unwrap().to_owned();
        assert!(said.contains(&format!("Without it: {};", super::super::DEFAULT_LISTEN)), "{said}");
        assert_eq!(listen("127.0.0.1:9465"), Some(super::super::DEFAULT_LISTEN));
    }

    #[test]
    fn a_time_is_taken_within_what_the_schema_says_and_not_beyond() {
        let shown = |time: Duration| humantime::format_duration(time).to_string();
        let mut tried = 0;
        for mapping in mappings() {
            for key in mapping.keys {
                let Takes::Time(range) = &key.takes else { continue };
                let read = |time: Duration| parse(&with(mapping.id, &format!("{}: {}", key.name, shown(time))));
                read(*range.start()).unwrap();
                read(*range.end()).unwrap();
                read(*range.end() + Duration::from_secs(1)).unwrap_err();
                if let Some(less) = range.start().checked_sub(Duration::from_millis(1)) {
                    read(less).unwrap_err();
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 6);
    }
}
