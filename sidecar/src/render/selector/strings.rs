//! Selection as AWS's provider for the Secrets Store CSI driver does it (provider/secret_value.go, `getJsonSecrets`).

use std::sync::Arc;

use super::Selector;
use crate::render::json::Json;
use crate::render::{RenderError, Value};

/// Whose entry a selector of strings is: names for messages only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StringsOnly {
    /// The secret or parameter, as the class names it.
    pub(super) object: String,
    /// The file's name, as the class gives it.
    pub(super) alias: String,
}

impl StringsOnly {
    /// The string that `selector` finds in `value`. JSON that was stored as binary is JSON to that provider.
    pub(super) fn find_in(&self, selector: &Selector, value: &Value) -> Result<Arc<Json>, RenderError> {
        let (Value::Text(bytes) | Value::Binary(bytes)) = value;
        let text = str::from_utf8(bytes.expose()).map_err(|_| RenderError::Binary);
        let json = text.and_then(Json::parse).map_err(|error| self.no_json(&error))?;
        let found = selector.find(&json).map_err(|error| self.nothing(selector.as_str(), &error))?;
        match &*found {
            Json::String(_) => Ok(found),
            other => Err(no_string(selector.as_str(), other)),
        }
    }

    fn no_json(&self, error: &RenderError) -> RenderError {
        let fix = "store JSON, or remove this object's `jmesPath`";
        let why = match error {
            RenderError::Binary => format!("the value is binary and no text: {fix}"),
            RenderError::NotJson { line, column } => {
                format!("the value is not JSON (at line {line}, column {column}): {fix}")
            }
            other => other.to_string(),
        };
        RenderError::OfClass { said: format!("Invalid JSON used with jmesPath in secret: {}.", self.object), why }
    }

    fn nothing(&self, path: &str, error: &RenderError) -> RenderError {
        let said = match error {
            RenderError::Missing { .. } => {
                format!("JMES Path - {path} for object alias - {} does not point to a valid object.", self.alias)
            }
            _ => format!("Invalid JMES Path: {path}."),
        };
        RenderError::OfClass { said, why: error.to_string() }
    }
}

fn no_string(path: &str, found: &Json) -> RenderError {
    RenderError::OfClass {
        said: format!("Invalid JMES search result type for path:{path}. Only string is allowed."),
        why: format!("it selects a value of the type {}: write `to_string({path})` to have it as text", found.kind()),
    }
}

#[cfg(test)]
mod tests {
    use coffer_runtime::Secret;

    use super::*;
    use crate::render::{Format, render};

    fn selected(value: &Value, path: &str) -> Result<Vec<u8>, String> {
        let selector = Selector::strings_only(path, "prod/db", "db-user").unwrap();
        let secret = render(value, Some(&selector), Format::Raw).map_err(|error| error.to_string())?;
        Ok(secret.expose().to_vec())
    }

    fn text(value: &str) -> Value {
        Value::Text(Secret::copy_of(value.as_bytes()))
    }

    #[test]
    fn strings_are_selected_from_text_and_from_binary() {
        let json = r#"{"user": "c\u0061rl", "my-key": "k", "db": [{"name": "n"}], "port": 5432}"#;
        for value in [text(json), Value::Binary(Secret::copy_of(json.as_bytes()))] {
            for (path, expected) in
                [("user", "carl"), ("\"my-key\"", "k"), ("db[0].name", "n"), ("to_string(port)", "5432")]
            {
                assert_eq!(selected(&value, path).unwrap(), expected.as_bytes(), "{path}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_the_providers_words_first() {
        let json = r#"{"username": "u", "port": 5432, "on": true, "hosts": ["h"], "none": null}"#;
        for (value, path, expected) in [
            (
                text("hunter2"),
                "a",
                "Invalid JSON used with jmesPath in secret: prod/db.; the value is not JSON (at line 1, column 1): store JSON, or \
                 remove this object's `jmesPath`",
            ),
            (
                Value::Binary(Secret::copy_of(b"\xff")),
                "a",
                "Invalid JSON used with jmesPath in secret: prod/db.; the value is binary and no text: store JSON, or remove this \
                 object's `jmesPath`",
            ),
            (
                text(r#"{"a": "1", "a": "2"}"#),
                "a",
                "Invalid JSON used with jmesPath in secret: prod/db.; the value's JSON has the key `a` twice in one object: remove one",
            ),
            (
                text(json),
                "user_name",
                "JMES Path - user_name for object alias - db-user does not point to a valid object.; `user_name` selects nothing: \
                 no such field, or it is null; did you mean `username`?",
            ),
            (
                text(json),
                "none",
                "JMES Path - none for object alias - db-user does not point to a valid object.; `none` selects nothing: no such \
                 field, or it is null",
            ),
            (
                text(json),
                "port",
                "Invalid JMES search result type for path:port. Only string is allowed.; it selects a value of the type number: \
                 write `to_string(port)` to have it as text",
            ),
            (
                text(json),
                "hosts",
                "Invalid JMES search result type for path:hosts. Only string is allowed.; it selects a value of the type array: \
                 write `to_string(hosts)` to have it as text",
            ),
            (
                text(json),
                "join(',', port)",
                "Invalid JMES Path: join(',', port).; `join(',', port)`: join() wants an array as argument 2, which is: number",
            ),
        ] {
            assert_eq!(selected(&value, path).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_selector_of_strings_is_another_than_the_plain_one() {
        let plain = Selector::new("password").unwrap();
        let strings = Selector::strings_only("password", "prod/db", "pw").unwrap();
        assert_ne!(plain, strings);
        assert_eq!((plain.to_string(), strings.to_string()), ("password".to_owned(), "password as string".to_owned()));
        assert!(Selector::new("password as string").is_err());
    }
}
