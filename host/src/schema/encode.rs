//! JSON as the bytes that serde and postcard make of the same value.
//!
//! The walk follows the value, so it ends with it; only a type that holds nothing but itself needs the bound on depth.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sandgate_schema::{Definition, Node, Shape, TaskSchema, TypeSchema, Variant};
use serde_json::{Map, Number, Value};

use super::error::{SchemaError, quoted};
use super::is_text_key;
use crate::budget::MAX_VALUE_DEPTH;

/// Most variants that an error lists.
const MAX_LISTED: usize = 12;

/// Encodes a value as one of this type; [the module](super) says how JSON is read.
///
/// # Errors
/// [`SchemaError`] names the first place where the value is not one of the type.
pub fn encode_json(schema: &TypeSchema, value: &Value) -> Result<Vec<u8>, SchemaError> {
    let mut encoder = Encoder { definitions: schema.definitions(), bytes: Vec::new(), depth: 0 };
    encoder.node(schema.root(), value)?;
    Ok(encoder.bytes)
}

/// Encodes the arguments of a task: of several parameters an array, or an object with their names; of a single one its
/// value alone; of none `null`, `[]` or `{}`.
///
/// # Errors
/// [`SchemaError`], whose path begins with the argument, such as ``argument 2 (`count`)``.
pub fn encode_arguments(task: &TaskSchema, arguments: &Value) -> Result<Vec<u8>, SchemaError> {
    let parameters = &task.parameters;
    let mut bytes = Vec::new();
    match (&parameters[..], arguments) {
        ([], Value::Null) => {}
        ([], Value::Array(items)) if items.is_empty() => {}
        ([], Value::Object(fields)) if fields.is_empty() => {}
        ([], other) => return Err(SchemaError::value("no arguments", other)),
        ([single], value) => {
            bytes = encode_json(&single.schema, value).map_err(|error| error.within(place(task, 0)))?;
        }
        (several, Value::Array(items)) if items.len() == several.len() => {
            for (at, (parameter, value)) in several.iter().zip(items).enumerate() {
                let encoded = encode_json(&parameter.schema, value).map_err(|error| error.within(place(task, at)))?;
                bytes.extend(encoded);
            }
        }
        (several, Value::Object(fields)) => {
            for (at, parameter) in several.iter().enumerate() {
                let value = field(&parameter.name, parameter.schema.root(), fields);
                let encoded = value
                    .and_then(|value| encode_json(&parameter.schema, value))
                    .map_err(|error| error.within(place(task, at)))?;
                bytes.extend(encoded);
            }
            let is_known = |name: &str| several.iter().any(|parameter| parameter.name == name);
            refuse_unknown(fields, is_known, "one of the parameters")?;
        }
        (several, other) => {
            let expected = format!("an array or an object of {} arguments", several.len());
            return Err(SchemaError::value(expected, other));
        }
    }
    Ok(bytes)
}

/// What errors call an argument.
pub(super) fn place(task: &TaskSchema, at: usize) -> String {
    format!("argument {} (`{}`)", at + 1, task.parameters[at].name)
}

struct Encoder<'a> {
    definitions: &'a [Definition],
    bytes: Vec<u8>,
    depth: u32,
}

impl Encoder<'_> {
    fn node(&mut self, node: &Node, value: &Value) -> Result<(), SchemaError> {
        if self.depth == MAX_VALUE_DEPTH {
            let expected = format!("a value that nests at most {MAX_VALUE_DEPTH} levels deep");
            return Err(SchemaError::value(expected, value));
        }
        self.depth += 1;
        self.node_inside(node, value)?;
        self.depth -= 1;
        Ok(())
    }

    fn node_inside(&mut self, node: &Node, value: &Value) -> Result<(), SchemaError> {
        let wrong = || SchemaError::value(node.to_string(), value);
        match node {
            Node::Unit => value.as_null().ok_or_else(wrong)?,
            Node::Bool => self.bytes.push(u8::from(value.as_bool().ok_or_else(wrong)?)),
            Node::I8 => {
                let number = signed(value, false).and_then(|number| i8::try_from(number).ok()).ok_or_else(wrong)?;
                self.bytes.extend(number.to_le_bytes());
            }
            Node::U8 => {
                self.bytes.push(unsigned(value, false).and_then(|number| number.try_into().ok()).ok_or_else(wrong)?);
            }
            Node::I16 => self.signed(value, false, i16::MIN.into(), i16::MAX.into()).ok_or_else(wrong)?,
            Node::I32 => self.signed(value, false, i32::MIN.into(), i32::MAX.into()).ok_or_else(wrong)?,
            Node::I64 => self.signed(value, true, i64::MIN.into(), i64::MAX.into()).ok_or_else(wrong)?,
            Node::I128 => self.signed(value, true, i128::MIN, i128::MAX).ok_or_else(wrong)?,
            Node::U16 => self.unsigned(value, false, u16::MAX.into()).ok_or_else(wrong)?,
            Node::U32 => self.unsigned(value, false, u32::MAX.into()).ok_or_else(wrong)?,
            Node::U64 => self.unsigned(value, true, u64::MAX.into()).ok_or_else(wrong)?,
            Node::U128 => self.unsigned(value, true, u128::MAX).ok_or_else(wrong)?,
            Node::F32 => self.bytes.extend(single(value).ok_or_else(wrong)?.to_le_bytes()),
            Node::F64 => self.bytes.extend(float(value).ok_or_else(wrong)?.to_le_bytes()),
            Node::Char => {
                let text = value.as_str().filter(|text| text.chars().count() == 1).ok_or_else(wrong)?;
                self.sized(text.as_bytes());
            }
            Node::String => self.sized(value.as_str().ok_or_else(wrong)?.as_bytes()),
            Node::Bytes => {
                let expected = "bytes, as base64 or an array of numbers";
                let bytes = bytes(value).ok_or_else(|| SchemaError::value(expected, value))?;
                self.sized(&bytes);
            }
            Node::Option(_) if value.is_null() => self.bytes.push(0),
            Node::Option(inner) => {
                self.bytes.push(1);
                self.node(inner, value)?;
            }
            Node::Sequence(item) => {
                let items = value.as_array().ok_or_else(wrong)?;
                self.number(items.len() as u128);
                for (at, value) in items.iter().enumerate() {
                    self.node(item, value).map_err(|error| error.within(format_args!("[{at}]")))?;
                }
            }
            Node::Array(length, item) => {
                let items = value.as_array().filter(|items| u32::try_from(items.len()) == Ok(*length));
                for (at, value) in items.ok_or_else(wrong)?.iter().enumerate() {
                    self.node(item, value).map_err(|error| error.within(format_args!("[{at}]")))?;
                }
            }
            Node::Tuple(nodes) => self.tuple(nodes, value).ok_or_else(wrong)??,
            Node::Map(key, inner) => self.map(key, inner, value).ok_or_else(wrong)??,
            Node::Named(index, name) => {
                let definitions = self.definitions;
                self.shape(name, &definitions[*index].shape, value)?;
            }
            Node::Channel => return Err(SchemaError::value("a channel, which JSON cannot give", value)),
            // Opaque, and whatever a later version knows.
            other => return Err(SchemaError::value(format!("{other}, which has no schema"), value)),
        }
        Ok(())
    }

    fn shape(&mut self, name: &str, shape: &Shape, value: &Value) -> Result<(), SchemaError> {
        let wrong = || SchemaError::value(expected(name, shape), value);
        match shape {
            Shape::Unit => value.as_null().ok_or_else(wrong),
            Shape::Newtype(inner) => self.node(inner, value),
            Shape::Tuple(nodes) => self.tuple(nodes, value).ok_or_else(wrong)?,
            Shape::Struct(fields) => {
                let object = value.as_object().ok_or_else(wrong)?;
                for wanted in fields {
                    let within = |error: SchemaError| error.within(format_args!(".{}", wanted.name));
                    let value = field(&wanted.name, &wanted.node, object).map_err(within)?;
                    self.node(&wanted.node, value).map_err(within)?;
                }
                let is_known = |name: &str| fields.iter().any(|field| field.name == name);
                refuse_unknown(object, is_known, &format!("a field of {name}"))
            }
            Shape::Enum(variants) => {
                let (variant, value) = match value {
                    Value::String(name) => (name, &Value::Null),
                    Value::Object(fields) if fields.len() == 1 => fields.iter().next().ok_or_else(wrong)?,
                    _ => return Err(wrong()),
                };
                let Some(at) = variants.iter().position(|known| known.name == *variant) else {
                    return Err(SchemaError::new(expected(name, shape), quoted(variant)));
                };
                self.number(at as u128);
                let Variant { name, shape } = &variants[at];
                self.shape(name, shape, value).map_err(|error| error.within(format_args!(".{name}")))
            }
        }
    }

    /// `None` if the value is no array of this length.
    fn tuple(&mut self, nodes: &[Node], value: &Value) -> Option<Result<(), SchemaError>> {
        let items = value.as_array().filter(|items| items.len() == nodes.len())?;
        Some(nodes.iter().zip(items).enumerate().try_for_each(|(at, (node, value))| {
            self.node(node, value).map_err(|error| error.within(format_args!("[{at}]")))
        }))
    }

    /// `None` if the value is neither an object nor an array of pairs, as the key wants it.
    fn map(&mut self, key: &Node, inner: &Node, value: &Value) -> Option<Result<(), SchemaError>> {
        if is_text_key(key, self.definitions) {
            let object = value.as_object()?;
            return Some(self.object(key, inner, object));
        }
        let pairs = value.as_array()?;
        self.number(pairs.len() as u128);
        Some(pairs.iter().enumerate().try_for_each(|(at, pair)| {
            let encoded = match pair.as_array().map(Vec::as_slice) {
                Some([its_key, value]) => self.node(key, its_key).and_then(|()| self.node(inner, value)),
                _ => Err(SchemaError::value("an array of key and value", pair)),
            };
            encoded.map_err(|error| error.within(format_args!("[{at}]")))
        }))
    }

    fn object(&mut self, key: &Node, inner: &Node, object: &Map<String, Value>) -> Result<(), SchemaError> {
        let mut keys = Vec::with_capacity(object.len());
        for (text, value) in object {
            let order = self.key_order(key, text);
            let order = order.ok_or_else(|| SchemaError::new(format!("a key of type {key}"), quoted(text)))?;
            keys.push((order, text, value));
        }
        keys.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        if let Some(twice) = keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(SchemaError::new("different keys", quoted(twice[1].1)));
        }
        self.number(keys.len() as u128);
        for (order, text, value) in keys {
            match (&order, self.bare(key)) {
                (Order::Text(text), _) => self.sized(text.as_bytes()),
                (Order::Signed(number), Node::I8) => self.bytes.extend(number.to_le_bytes().first()),
                (Order::Unsigned(number), Node::Bool | Node::U8) => self.bytes.extend(number.to_le_bytes().first()),
                (Order::Signed(number), _) => self.number(zigzag(*number)),
                (Order::Unsigned(number), _) => self.number(*number),
            }
            self.node(inner, value).map_err(|error| error.within(format_args!("[{}]", quoted(text))))?;
        }
        Ok(())
    }

    /// What a key is, and where it belongs among others.
    fn key_order<'t>(&self, key: &Node, text: &'t str) -> Option<Order<'t>> {
        let within =
            |low: i128, high: i128| text.parse().ok().filter(|number| (low..=high).contains(number)).map(Order::Signed);
        let up_to = |high: u128| text.parse().ok().filter(|number| *number <= high).map(Order::Unsigned);
        match self.bare(key) {
            Node::String => Some(Order::Text(text)),
            Node::Char => Some(Order::Text(text)).filter(|_| text.chars().count() == 1),
            Node::Bool => text.parse().ok().map(|truth: bool| Order::Unsigned(truth.into())),
            Node::I8 => within(i8::MIN.into(), i8::MAX.into()),
            Node::I16 => within(i16::MIN.into(), i16::MAX.into()),
            Node::I32 => within(i32::MIN.into(), i32::MAX.into()),
            Node::I64 => within(i64::MIN.into(), i64::MAX.into()),
            Node::I128 => within(i128::MIN, i128::MAX),
            Node::U8 => up_to(u8::MAX.into()),
            Node::U16 => up_to(u16::MAX.into()),
            Node::U32 => up_to(u32::MAX.into()),
            Node::U64 => up_to(u64::MAX.into()),
            Node::U128 => up_to(u128::MAX),
            Node::Named(index, _) => match &self.definitions[*index].shape {
                Shape::Enum(variants) => {
                    variants.iter().position(|variant| variant.name == text).map(|at| Order::Unsigned(at as u128))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn bare<'n>(&'n self, key: &'n Node) -> &'n Node {
        super::bare(key, self.definitions)
    }

    fn signed(&mut self, value: &Value, is_wide: bool, low: i128, high: i128) -> Option<()> {
        let number = signed(value, is_wide).filter(|number| (low..=high).contains(number))?;
        self.number(zigzag(number));
        Some(())
    }

    fn unsigned(&mut self, value: &Value, is_wide: bool, high: u128) -> Option<()> {
        let number = unsigned(value, is_wide).filter(|number| *number <= high)?;
        self.number(number);
        Some(())
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u128);
        self.bytes.extend_from_slice(bytes);
    }

    /// In groups of seven bits, the lowest first.
    fn number(&mut self, mut number: u128) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                self.bytes.push(low & 0x7f);
                return;
            }
            self.bytes.push(low | 0x80);
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order<'t> {
    Text(&'t str),
    Signed(i128),
    Unsigned(u128),
}

/// The value of a field; one that is not there is `null` where that means nothing.
fn field<'v>(name: &str, node: &Node, object: &'v Map<String, Value>) -> Result<&'v Value, SchemaError> {
    match object.get(name) {
        Some(value) => Ok(value),
        None if matches!(node, Node::Option(_)) => Ok(&Value::Null),
        None => Err(SchemaError::new(node.to_string(), "nothing: it is missing")),
    }
}

fn refuse_unknown(
    object: &Map<String, Value>,
    is_known: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<(), SchemaError> {
    match object.keys().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(SchemaError::new(expected, quoted(name))),
    }
}

/// What an error says about a named type.
fn expected(name: &str, shape: &Shape) -> String {
    match shape {
        Shape::Unit => format!("null for {name}"),
        Shape::Newtype(_) => name.to_owned(),
        Shape::Tuple(nodes) => format!("an array of {} for {name}", nodes.len()),
        Shape::Struct(_) => format!("an object for {name}"),
        Shape::Enum(variants) => {
            let names: Vec<String> = variants.iter().take(MAX_LISTED).map(|one| quoted(&one.name)).collect();
            let more = if variants.len() > MAX_LISTED { " and others" } else { "" };
            format!("{name}, one of {}{more}", names.join(", "))
        }
    }
}

fn zigzag(number: i128) -> u128 {
    ((number << 1) ^ (number >> 127)).cast_unsigned()
}

/// An integer; only of wide ones a writer may have made a string.
fn signed(value: &Value, is_wide: bool) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i128(),
        Value::String(text) if is_wide && is_decimal(text) => text.parse().ok(),
        _ => None,
    }
}

fn unsigned(value: &Value, is_wide: bool) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u128(),
        Value::String(text) if is_wide && is_decimal(text) => text.parse().ok(),
        _ => None,
    }
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Rounded to the nearest; one that is too large is refused, not made infinite.
#[expect(clippy::cast_possible_truncation, reason = "it is what rounds")]
fn single(value: &Value) -> Option<f32> {
    let double = float(value)?;
    let single = double as f32;
    (single.is_infinite() == double.is_infinite()).then_some(single)
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => BASE64_STANDARD.decode(text).ok(),
        Value::Array(items) => {
            let byte = |item: &Value| item.as_number().and_then(Number::as_u64).and_then(|byte| byte.try_into().ok());
            items.iter().map(byte).collect()
        }
        _ => None,
    }
}
