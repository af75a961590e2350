//! How a module describes its named tasks and init functions: the custom section [`SECTION`] and the numbers in it.
//!
//! The section is optional, and nothing of it is needed to run the module. It tells a host the types of a task's
//! parameters and result, so that the host can make arguments from JSON, print results as JSON, and compare its own
//! types with the guest's before anything runs. A linker may put the section together from any number of parts.
//!
//! # Format
//!
//! ```text
//! section = entry*                      at most MAX_SECTION_BYTES; order without meaning, no two tasks with one name, nor two init functions
//! entry   = version: u8                 ENTRY_VERSION; a reader skips entries of other versions
//!           length: u32 little-endian   of the body in bytes, at most MAX_ENTRY_BYTES
//!           body
//! body    = name: text                  of the task, without TASK_EXPORT_PREFIX
//!           flags: u8                   FLAG_CHANNEL: the function takes the task's own channel; FLAG_INIT: it is no
//!                                       task but an init function, with its result UNIT; other bits are 0
//!           help: text                  for people; may hold line breaks
//!           parameters: list of { name: text, type }
//!           result: type                of the item that a successful task sends last; UNIT if it sends none
//! text    = length: varint, that many bytes of UTF-8, without control characters (but `\n` and `\t` in `help`)
//! list    = count: varint, that many elements
//! varint  = unsigned LEB128 of a u32, at most 5 bytes
//! type    = kind: u8, then
//!           UNIT … BYTES, CHANNEL       nothing
//!           OPTION, SEQUENCE            type
//!           ARRAY                       length: varint, type
//!           TUPLE                       list of type
//!           MAP                         type of the key, type of the value
//!           OPAQUE                      name: text      values cannot be made or read by schema
//!           DEFINITION                  name: text, shape
//!           REFERENCE                   index: varint   of a definition that began earlier in this entry, in the order
//!                                                       of their first bytes; it may contain this very reference
//! shape   = UNIT_SHAPE                  nothing
//!           NEWTYPE_SHAPE               type
//!           TUPLE_SHAPE                 list of type
//!           STRUCT_SHAPE                list of { name: text, type }
//!           ENUM_SHAPE                  list of { name: text, shape that is no ENUM_SHAPE }
//! ```
//!
//! Types nest at most [`MAX_DEPTH`] deep and an entry has at most [`MAX_DEFINITIONS`]. Names within one parameter list,
//! struct or enum differ.
//!
//! # Encoding of values
//!
//! That of [postcard](https://postcard.jamesmunns.com/wire-format). Structs, tuples and arrays are their parts one after the
//! other, an enum is the position of its variant in the list, a map is a sequence of pairs. A channel is written as the `u32`
//! that says its position in the message's list of channels.

/// Name of the custom section.
pub const SECTION: &str = "sandgate.tasks";

/// Version of an entry.
pub const ENTRY_VERSION: u8 = 1;

/// Bytes of an entry before its body.
pub const ENTRY_HEADER_BYTES: usize = 5;

/// Most bytes of the section that are looked at; a larger one describes nothing.
pub const MAX_SECTION_BYTES: usize = 48 * 1024;

/// Longest body of an entry in bytes.
pub const MAX_ENTRY_BYTES: usize = 16 * 1024;

/// Deepest nesting of types; a parameter's own type is at depth 1. A reference counts as one level.
pub const MAX_DEPTH: usize = 32;

/// Most definitions in an entry.
pub const MAX_DEFINITIONS: usize = 256;

/// The function takes the task's own channel as its first parameter.
pub const FLAG_CHANNEL: u8 = 1;

/// It is an init function.
pub const FLAG_INIT: u8 = 2;

/// Kinds of types.
pub mod kind {
    /// Nothing.
    pub const UNIT: u8 = 0;
    /// `0` or `1`.
    pub const BOOL: u8 = 1;
    /// 8-bit signed integer.
    pub const I8: u8 = 2;
    /// 16-bit signed integer.
    pub const I16: u8 = 3;
    /// 32-bit signed integer.
    pub const I32: u8 = 4;
    /// 64-bit signed integer.
    pub const I64: u8 = 5;
    /// 128-bit signed integer.
    pub const I128: u8 = 6;
    /// 8-bit unsigned integer.
    pub const U8: u8 = 7;
    /// 16-bit unsigned integer.
    pub const U16: u8 = 8;
    /// 32-bit unsigned integer.
    pub const U32: u8 = 9;
    /// 64-bit unsigned integer.
    pub const U64: u8 = 10;
    /// 128-bit unsigned integer.
    pub const U128: u8 = 11;
    /// 32-bit floating point.
    pub const F32: u8 = 12;
    /// 64-bit floating point.
    pub const F64: u8 = 13;
    /// One Unicode scalar value.
    pub const CHAR: u8 = 14;
    /// UTF-8 text.
    pub const STRING: u8 = 15;
    /// Bytes as one value. A `Vec<u8>` is a sequence of `U8` instead, with the same encoding.
    pub const BYTES: u8 = 16;
    /// A channel.
    pub const CHANNEL: u8 = 17;
    /// Something or nothing.
    pub const OPTION: u8 = 18;
    /// Any number of elements of one type.
    pub const SEQUENCE: u8 = 19;
    /// A fixed number of elements of one type.
    pub const ARRAY: u8 = 20;
    /// A fixed number of elements, each of its own type.
    pub const TUPLE: u8 = 21;
    /// Keys and values.
    pub const MAP: u8 = 22;
    /// A type without a description.
    pub const OPAQUE: u8 = 23;
    /// A named type, described here.
    pub const DEFINITION: u8 = 24;
    /// A named type, described before.
    pub const REFERENCE: u8 = 25;
}

/// Kinds of named types and of variants.
pub mod shape {
    /// Nothing.
    pub const UNIT: u8 = 0;
    /// One value, encoded as that value.
    pub const NEWTYPE: u8 = 1;
    /// Values without names.
    pub const TUPLE: u8 = 2;
    /// Values with names.
    pub const STRUCT: u8 = 3;
    /// One of several variants.
    pub const ENUM: u8 = 4;
}

// Modules in the field carry these numbers. To change a meaning, raise ENTRY_VERSION and read both; do not edit a number.
const _: () = {
    assert!(ENTRY_VERSION == 1 && ENTRY_HEADER_BYTES == 5, "readers must go on reading version 1");
    assert!(kind::UNIT == 0 && kind::BOOL == 1 && kind::I8 == 2 && kind::I128 == 6, "add a kind, do not renumber");
    assert!(kind::U8 == 7 && kind::U128 == 11 && kind::F32 == 12 && kind::F64 == 13, "add a kind, do not renumber");
    assert!(kind::CHAR == 14 && kind::STRING == 15 && kind::BYTES == 16, "add a kind, do not renumber");
    assert!(kind::CHANNEL == 17 && kind::OPTION == 18 && kind::SEQUENCE == 19, "add a kind, do not renumber");
    assert!(kind::ARRAY == 20 && kind::TUPLE == 21 && kind::MAP == 22, "add a kind, do not renumber");
    assert!(kind::OPAQUE == 23 && kind::DEFINITION == 24 && kind::REFERENCE == 25, "add a kind, do not renumber");
    assert!(shape::UNIT == 0 && shape::NEWTYPE == 1 && shape::TUPLE == 2, "add a shape, do not renumber");
    assert!(shape::STRUCT == 3 && shape::ENUM == 4, "add a shape, do not renumber");
};
