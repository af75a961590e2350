//! Bytes that a guest sent as JSON, by the type that it said they have.
//!
//! Both come from the guest. The bytes end, so most values do; for those that take no bytes, and for types that hold
//! themselves, there are the bounds that decoding has everywhere: [`MAX_VALUE_DEPTH`], and a number of values for each byte.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sandgate_schema::{Definition, Node, Shape, TaskSchema, TypeSchema, Variant};
use serde_json::{Map, Number, Value};

use super::error::{SchemaError, quoted, shown};
use super::{bare, is_text_key};
use crate::budget::{FREE_VALUES, MAX_VALUE_DEPTH, VALUES_PER_BYTE};

/// Decodes the bytes of one value; [the module](super) says how it is written in JSON.
///
/// # Errors
/// [`SchemaError`] names the first place where the bytes are not a value of the type.
pub fn decode_json(schema: &TypeSchema, bytes: &[u8]) -> Result<Value, SchemaError> {
    let values = (bytes.len() as u64).saturating_mul(VALUES_PER_BYTE).saturating_add(FREE_VALUES);
    let mut decoder = Decoder { definitions: schema.definitions(), rest: bytes, depth: 0, values };
    let value = decoder.node(schema.root())?;
    match decoder.rest.len() {
        0 => Ok(value),
        rest => Err(SchemaError::new(format!("the end of {schema}"), format!("{rest} more bytes"))),
    }
}

/// Decodes the item that a successful task sends last.
///
/// # Errors
/// As [`decode_json`].
pub fn decode_result(task: &TaskSchema, bytes: &[u8]) -> Result<Value, SchemaError> {
    decode_json(&task.result, bytes).map_err(|error| error.within("result"))
}

struct Decoder<'a> {
    definitions: &'a [Definition],
    rest: &'a [u8],
    depth: u32,
    values: u64,
}

impl<'a> Decoder<'a> {
    fn node(&mut self, node: &Node) -> Result<Value, SchemaError> {
        if self.depth == MAX_VALUE_DEPTH {
            let found = format!("one that nests deeper than {MAX_VALUE_DEPTH} levels");
            return Err(SchemaError::new(node.to_string(), found));
        }
        self.values = self.values.checked_sub(1).ok_or_else(|| {
            SchemaError::new(node.to_string(), "more values than the bytes of the message can account for")
        })?;
        self.depth += 1;
        let value = self.node_inside(node)?;
        self.depth -= 1;
        Ok(value)
    }

    fn node_inside(&mut self, node: &Node) -> Result<Value, SchemaError> {
        let wrong = |found: &str| SchemaError::new(node.to_string(), found);
        let range = || wrong("a number out of range");
        let ended = || wrong(ENDED);
        Ok(match node {
            Node::Unit => Value::Null,
            Node::Bool => match self.byte().ok_or_else(ended)? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(wrong(&format!("the byte {other}"))),
            },
            Node::I8 => i8::from_le_bytes([self.byte().ok_or_else(ended)?]).into(),
            Node::U8 => self.byte().ok_or_else(ended)?.into(),
            Node::I16 => i16::try_from(self.signed(16).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::I32 => i32::try_from(self.signed(32).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::I64 => i64::try_from(self.signed(64).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::I128 => {
                let number = self.signed(128).ok_or_else(ended)?;
                Number::from_i128(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
            }
            Node::U16 => u16::try_from(self.number(16).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::U32 => u32::try_from(self.number(32).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::U64 => u64::try_from(self.number(64).ok_or_else(ended)?).map_err(|_| range())?.into(),
            Node::U128 => {
                let number = self.number(128).ok_or_else(ended)?;
                Number::from_u128(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
            }
            Node::F32 => {
                let bytes = self.take(4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(ended)?;
                float(shortest(f32::from_le_bytes(bytes)))
            }
            Node::F64 => {
                let bytes = self.take(8).and_then(|bytes| bytes.try_into().ok()).ok_or_else(ended)?;
                float(f64::from_le_bytes(bytes))
            }
            Node::Char => {
                let text = self.text().ok_or_else(ended)?;
                if text.chars().count() != 1 {
                    return Err(wrong(&quoted(text)));
                }
                text.into()
            }
            Node::String => self.text().ok_or_else(|| wrong("no UTF-8, or the end of the message"))?.into(),
            Node::Bytes => BASE64_STANDARD.encode(self.sized().ok_or_else(ended)?).into(),
            Node::Option(inner) => match self.byte().ok_or_else(ended)? {
                0 => Value::Null,
                1 => self.node(inner)?,
                other => return Err(wrong(&format!("the byte {other}"))),
            },
            Node::Sequence(item) => {
                let count = self.number(64).ok_or_else(ended)?;
                self.items(count, item)?
            }
            Node::Array(length, item) => self.items(u128::from(*length), item)?,
            Node::Tuple(nodes) => self.tuple(nodes)?,
            Node::Map(key, inner) => {
                let count = self.number(64).ok_or_else(ended)?;
                self.map(count, key, inner)?
            }
            Node::Named(index, name) => {
                let definitions = self.definitions;
                self.shape(name, &definitions[*index].shape)?
            }
            Node::Channel => {
                let position = self.number(32).ok_or_else(ended)?;
                let position = u32::try_from(position).map_err(|_| range())?;
                Value::Object(Map::from_iter([("$channel".to_owned(), position.into())]))
            }
            // Opaque, and whatever a later version knows.
            other => return Err(SchemaError::new("a type with a schema", other.to_string())),
        })
    }

    fn shape(&mut self, name: &str, shape: &Shape) -> Result<Value, SchemaError> {
        Ok(match shape {
            Shape::Unit => Value::Null,
            Shape::Newtype(inner) => self.node(inner)?,
            Shape::Tuple(nodes) => self.tuple(nodes)?,
            Shape::Struct(fields) => {
                let mut object = Map::new();
                for field in fields {
                    let value = self.node(&field.node);
                    let value = value.map_err(|error| error.within(format_args!(".{}", field.name)))?;
                    object.insert(field.name.clone(), value);
                }
                Value::Object(object)
            }
            Shape::Enum(variants) => {
                let Variant { name, shape } = self.variant(name, variants)?;
                if let Shape::Unit = shape {
                    return Ok(name.clone().into());
                }
                let value = self.shape(name, shape).map_err(|error| error.within(format_args!(".{name}")))?;
                Value::Object(Map::from_iter([(name.clone(), value)]))
            }
        })
    }

    fn variant<'v>(&mut self, name: &str, variants: &'v [Variant]) -> Result<&'v Variant, SchemaError> {
        let at = self.number(32).ok_or_else(|| SchemaError::new(name, ENDED))?;
        let found = usize::try_from(at).ok().and_then(|at| variants.get(at));
        found.ok_or_else(|| {
            SchemaError::new(format!("{name} with {} variants", variants.len()), format!("variant {at}"))
        })
    }

    fn items(&mut self, count: u128, item: &Node) -> Result<Value, SchemaError> {
        // Grows with what is really there.
        let mut items = Vec::new();
        for at in 0..count {
            items.push(self.node(item).map_err(|error| error.within(format_args!("[{at}]")))?);
        }
        Ok(Value::Array(items))
    }

    fn tuple(&mut self, nodes: &[Node]) -> Result<Value, SchemaError> {
        let items = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| self.node(node).map_err(|error| error.within(format_args!("[{at}]"))));
        items.collect::<Result<_, _>>().map(Value::Array)
    }

    fn map(&mut self, count: u128, key: &Node, inner: &Node) -> Result<Value, SchemaError> {
        if !is_text_key(key, self.definitions) {
            let mut pairs = Vec::new();
            for at in 0..count {
                let within = |error: SchemaError| error.within(format_args!("[{at}]"));
                let its_key = self.node(key).map_err(within)?;
                pairs.push(Value::Array(vec![its_key, self.node(inner).map_err(within)?]));
            }
            return Ok(Value::Array(pairs));
        }
        let mut object = Map::new();
        for at in 0..count {
            let its_key = match self.node(bare(key, self.definitions)) {
                Ok(Value::String(text)) => text,
                Ok(other) => shown(&other),
                Err(error) => return Err(error.within(format_args!("[{at}]"))),
            };
            let value = self.node(inner).map_err(|error| error.within(format_args!("[{}]", quoted(&its_key))))?;
            if object.contains_key(&its_key) {
                return Err(SchemaError::new("different keys", quoted(&its_key)));
            }
            object.insert(its_key, value);
        }
        Ok(Value::Object(object))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let count = self.number(64)?;
        self.take(usize::try_from(count).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.sized()?).ok()
    }

    /// A number in as many bytes as one of `bits` may take, in which it may be larger all the same.
    fn number(&mut self, bits: u32) -> Option<u128> {
        let mut number: u128 = 0;
        for place in 0..bits.div_ceil(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            let shifted = part << (7 * place);
            if shifted >> (7 * place) != part {
                return None;
            }
            number |= shifted;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self, bits: u32) -> Option<i128> {
        let number = self.number(bits)?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

const ENDED: &str = "the end of the message, or a number out of range";

fn float(number: f64) -> Value {
    let text = match number {
        number if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        number => return Number::from_f64(number).map_or(Value::Null, Value::Number),
    };
    text.into()
}

/// The number with the fewest digits that is still the same `f32`.
#[expect(clippy::cast_possible_truncation, reason = "to see whether it comes back")]
fn shortest(number: f32) -> f64 {
    let short: f64 = number.to_string().parse().unwrap_or(f64::NAN);
    if (short as f32).to_bits() == number.to_bits() { short } else { number.into() }
}
