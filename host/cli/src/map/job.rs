//! What is run for each input, and how an input becomes what it takes.

use anyhow::{Context, Result, bail};
use sandgate::schema::{self, ModuleDescription, Node, Shape, TaskSchema, TypeSchema};
use serde_json::Value;

use crate::options::Entry;

/// What is run for each input.
#[derive(Debug)]
pub(crate) enum Job {
    /// A program: the input is what it reads.
    Program,
    /// A task of the SDK.
    Task(Task),
}

/// A task and its types.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    /// How it describes itself; without that, it takes and gives a string.
    schema: Option<TaskSchema>,
    takes: Takes,
    /// Whether values are JSON also where they are strings.
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Text,
    Bytes,
    Json,
}

impl Job {
    /// An error if the task takes something that its inputs cannot be.
    pub(crate) fn new(entry: &Entry, described: &ModuleDescription, json: bool) -> Result<Job> {
        let Entry::Task(name) = entry else { return Ok(Job::Program) };
        let schema = described.task(name).cloned();
        if schema.is_none()
            && let Some(trouble) = &described.trouble
        {
            bail!("the module's description of its tasks cannot be read: {trouble}");
        }
        let takes = match (&schema, json) {
            (Some(schema), true) => {
                let opaque = schema.parameters.iter().find(|parameter| is_opaque(&parameter.schema));
                if let Some(parameter) = opaque {
                    bail!("task `{name}` takes `{}`, whose type it does not describe", parameter.name);
                }
                Takes::Json
            }
            (None, true) => bail!("task `{name}` does not describe its types, so it cannot be given JSON"),
            (Some(schema), false) => plain(schema)?,
            (None, false) => Takes::Text,
        };
        if let Some(schema) = schema.as_ref().filter(|schema| is_opaque(&schema.result)) {
            bail!("task `{name}` gives {}, which cannot be printed: its type is not described", schema.result);
        }
        Ok(Job::Task(Task { name: name.clone(), schema, takes, json }))
    }

    /// An input as the pool takes it, or what is wrong with it.
    pub(crate) fn encode(&self, input: Vec<u8>) -> Result<Vec<u8>, String> {
        match self {
            Job::Program => Ok(input),
            Job::Task(task) => task.encode(input),
        }
    }
}

impl Task {
    fn encode(&self, input: Vec<u8>) -> Result<Vec<u8>, String> {
        match (self.takes, &self.schema) {
            (Takes::Json, Some(schema)) => {
                let value: Value =
                    serde_json::from_slice(&input).map_err(|error| format!("it is not JSON: {error}"))?;
                schema::encode_arguments(schema, &value).map_err(|error| error.to_string())
            }
            (Takes::Bytes, _) => Ok(sized(&input)),
            _ => match std::str::from_utf8(&input) {
                Ok(_) => Ok(sized(&input)),
                Err(error) => Err(format!("it is not UTF-8: {error}")),
            },
        }
    }

    /// What it gave; `None` for a task that gives nothing.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Option<Value>> {
        match &self.schema {
            Some(schema) if schema.result.is_unit() && !self.json => Ok(None),
            Some(schema) => Ok(Some(schema::decode_result(schema, bytes)?)),
            None => {
                let text = postcard::from_bytes(bytes).context("it gave something that is not a string")?;
                Ok(Some(Value::String(text)))
            }
        }
    }

    /// A value on a line.
    pub(crate) fn line(&self, value: &Value) -> String {
        match value {
            Value::String(text) if !self.json => text.clone(),
            value => value.to_string(),
        }
    }
}

/// How a task takes an input as it is.
fn plain(schema: &TaskSchema) -> Result<Takes> {
    let name = &schema.name;
    let [parameter] = &schema.parameters[..] else {
        bail!("task `{schema}` does not take one argument: give it JSON (--json)");
    };
    match bare(&parameter.schema) {
        Node::String => Ok(Takes::Text),
        Node::Bytes => Ok(Takes::Bytes),
        Node::Sequence(item) if **item == Node::U8 => Ok(Takes::Bytes),
        _ => bail!("task `{name}` takes {}, neither a string nor bytes: give it JSON (--json)", parameter.schema),
    }
}

/// A type without the structs of one value around it.
fn bare(schema: &TypeSchema) -> &Node {
    let mut node = schema.root();
    for _ in 0..schema.definitions().len() {
        let Node::Named(index, _) = node else { break };
        let Shape::Newtype(inner) = &schema.definition(*index).shape else { break };
        node = inner;
    }
    node
}

fn is_opaque(schema: &TypeSchema) -> bool {
    matches!(schema.root(), Node::Opaque(..))
}

/// Bytes as a string or list of bytes is encoded: the length in groups of seven bits, and then they themselves.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len() + 10);
    let mut length = bytes.len();
    while length > 0x7f {
        encoded.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    encoded.push(u8::try_from(length).unwrap_or(0));
    encoded.extend_from_slice(bytes);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_as_postcard_has_it() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let text = "x".repeat(length);
            assert_eq!(sized(text.as_bytes()), postcard::to_allocvec(&text).unwrap());
        }
    }

    #[test]
    fn a_task_without_a_description_takes_and_gives_text() {
        let described = ModuleDescription::default();
        let job = Job::new(&Entry::Task("t".to_owned()), &described, false).unwrap();
        assert_eq!(job.encode(b"ab".to_vec()), Ok(vec![2, b'a', b'b']));
        assert!(job.encode(vec![0xff]).unwrap_err().starts_with("it is not UTF-8"));
        let Job::Task(task) = job else { panic!("a task") };
        assert_eq!(task.decode(&[1, b'x']).unwrap(), Some(Value::String("x".to_owned())));
        assert!(task.decode(&[1]).is_err());
        assert!(Job::new(&Entry::Task("t".to_owned()), &described, true).is_err());
    }
}
