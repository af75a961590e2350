//! What a module says about its tasks, and values as JSON by the types it names.
//!
//! ```text
//!  module ── compiler process ──► bytes ── read (bounded) ──► ModuleDescription ──► TaskSchema ──► TypeSchema
//!  JSON ── encode_json ──► postcard bytes ──► task          task ──► postcard bytes ── decode_json ──► JSON
//! ```
//!
//! A description is the module's word and no more than that: a module can describe tasks that it does not have, or other
//! types than it decodes. Then a task rejects its arguments, or its result is no value of the type that was named, which is
//! an error here. Nothing depends on a description but the use that is made of it.
//!
//! # JSON
//!
//! | type | in JSON |
//! |---|---|
//! | integers | a number without a fraction, in range. Exact: no number passes through floating point. Of 64 and 128 bits also a string of decimal digits, for writers whose numbers end at 2^53; beyond 64 bits a value is written as such a string |
//! | floats | any number, rounded to the nearest; `"NaN"`, `"Infinity"`, `"-Infinity"` for what JSON has no numbers. An `f32` is written with as few digits as tell it from others |
//! | `bool` | `true`, `false` |
//! | `char`, strings | a string; a `char` has one character |
//! | bytes (`serde_bytes`) | a string in base64 with padding; read from an array of numbers too. A `Vec<u8>` is a list of numbers to serde, and here |
//! | options | the value, or `null`. An option of something that is written as `null` itself, such as another option, is `None` when it is read |
//! | `()`, unit structs | `null` |
//! | tuples, arrays, tuple structs, lists, sets | an array |
//! | structs | an object. A field that is missing is `None` if it is an option, otherwise an error; so is one that the struct does not have |
//! | structs of one unnamed value | that value |
//! | enums | as serde has them by default: `"Name"` without values, else `{"Name": value}`, with an array or an object for several values |
//! | maps | an object, if keys are strings, characters, integers, `bool`, or enums without values; otherwise an array of arrays of two. A key that occurs twice is an error |
//! | channels | not read; written as `{"$channel": position}` |
//! | opaque types | neither read nor written |
//!
//! A map is encoded in the order of its keys, as a `BTreeMap` is.

mod decode;
mod description;
mod encode;
mod error;

#[cfg(test)]
mod tests;

pub use decode::{decode_json, decode_result};
pub(crate) use description::Expected;
pub use description::{DescribeError, Mismatch, ModuleDescription};
pub use encode::{encode_arguments, encode_json};
pub use error::SchemaError;
/// Derives [`Schema`](trait@Schema) for a type of the host; see `sandgate_schema`, whose derive it is.
pub use sandgate_guest_macros::HostSchema as Schema;
pub use sandgate_schema::*;
pub use sandgate_wire::description::{Export, Import, ItemKind};

/// A type without the structs of one unnamed value around it. One that holds only itself is left as it is.
fn bare<'n>(mut node: &'n Node, definitions: &'n [Definition]) -> &'n Node {
    for _ in 0..definitions.len() {
        match node {
            Node::Named(index, _) => match &definitions[*index].shape {
                Shape::Newtype(inner) => node = inner,
                _ => break,
            },
            _ => break,
        }
    }
    node
}

/// Whether maps with such keys are objects in JSON.
fn is_text_key(key: &Node, definitions: &[Definition]) -> bool {
    match bare(key, definitions) {
        Node::String | Node::Char | Node::Bool => true,
        Node::I8 | Node::I16 | Node::I32 | Node::I64 | Node::I128 => true,
        Node::U8 | Node::U16 | Node::U32 | Node::U64 | Node::U128 => true,
        Node::Named(index, _) => match &definitions[*index].shape {
            Shape::Enum(variants) => variants.iter().all(|variant| matches!(variant.shape, Shape::Unit)),
            _ => false,
        },
        _ => false,
    }
}
