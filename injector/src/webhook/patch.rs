//! The difference of two objects as a JSON Patch (RFC 6902) that a person can read.

use serde::Serialize;
use serde_json::Value;

/// One step of a patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Step {
    /// Puts a value where there is none, or before an element of a list.
    Add {
        /// Where: a JSON Pointer (RFC 6901).
        path: String,
        /// What.
        value: Value,
    },
    /// Takes away what is there.
    Remove {
        /// Where.
        path: String,
    },
    /// Puts a value in the place of another.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
}

/// The steps that make `after` of `before`: none if they are the same.
#[must_use]
pub fn between(_before: &Value, _after: &Value) -> Vec<Step> {
    todo!()
}
