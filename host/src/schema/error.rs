//! Why a value is none of a type, and where in it.

use std::fmt;

use serde_json::Value;

/// Longest text of a value in an error, in characters.
const MAX_FOUND_CHARS: usize = 60;

/// A value is not one of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}expected {expected}, found {found}", Place(path))]
pub struct SchemaError {
    /// The way to the place: `argument 2 (`count`)`, then `.field`, `[3]` or `["key"]`; empty for the whole value.
    pub path: String,
    /// What the type wants there.
    pub expected: String,
    /// What is there, shortened if it is long.
    pub found: String,
}

struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

impl SchemaError {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> SchemaError {
        SchemaError { path: String::new(), expected: expected.into(), found: found.into() }
    }

    /// For a value of JSON.
    pub(super) fn value(expected: impl Into<String>, found: &Value) -> SchemaError {
        SchemaError::new(expected, shown(found))
    }

    /// The same error, seen from a step further out.
    pub(super) fn within(mut self, step: impl fmt::Display) -> SchemaError {
        self.path.insert_str(0, &step.to_string());
        self
    }
}

/// A value's text, of which a long one is never made as a whole.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(fields) => match fields.keys().next() {
            None => "an empty object".to_owned(),
            Some(key) => format!("an object with {}", quoted(key)),
        },
        Value::String(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".to_owned(),
    }
}

/// A string as in JSON, cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(MAX_FOUND_CHARS).collect();
    let ellipsis = if start.len() < text.len() { "…" } else { "" };
    format!("{}{ellipsis}", Value::String(start))
}
