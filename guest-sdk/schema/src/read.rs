//! Bytes as descriptions. The bytes may be anybody's: every count is checked against what is left of them before memory is
//! taken, nesting is bounded, and what is wrong is an error.
//!
//! Memory is at most a constant times the size of the section, and time as well: each node has at least one byte.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use sandgate_abi::schema::{
    ENTRY_HEADER_BYTES, ENTRY_VERSION, FLAG_CHANNEL, FLAG_INIT, MAX_DEFINITIONS, MAX_DEPTH, MAX_ENTRY_BYTES,
    MAX_SECTION_BYTES, kind, shape,
};

use crate::model::{Definition, Field, Node, Parameter, Shape, TaskSchema, TypeSchema, Variant};
use crate::types::Schema;
use crate::write::Writer;

/// Why bytes are no description.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The section is larger than is looked at.
    SectionTooLarge(usize),
    /// An entry is larger than it may be.
    EntryTooLarge(usize),
    /// The bytes end within something.
    Truncated,
    /// Bytes follow the last part of an entry.
    LeftOver(usize),
    /// A number takes more bytes than it may.
    Number,
    /// A text is no UTF-8, or holds control characters.
    Text,
    /// Flags, a kind or a shape that this version does not know.
    Unknown(u8),
    /// Types nest too deep.
    TooDeep,
    /// There are too many definitions.
    TooManyDefinitions,
    /// A reference to a definition that has not begun.
    Reference(u32),
    /// Two tasks, parameters, fields or variants have the same name.
    Duplicate(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::SectionTooLarge(bytes) => {
                write!(f, "the section has `{bytes}` bytes, more than the maximum of `{MAX_SECTION_BYTES}`")
            }
            ReadError::EntryTooLarge(bytes) => {
                write!(f, "an entry has `{bytes}` bytes, more than the maximum of `{MAX_ENTRY_BYTES}`")
            }
            ReadError::Truncated => f.write_str("the description ends too early"),
            ReadError::LeftOver(bytes) => write!(f, "`{bytes}` bytes follow the end of an entry"),
            ReadError::Number => f.write_str("a number is not a `u32`"),
            ReadError::Text => f.write_str("a text is not UTF-8, or has control characters"),
            ReadError::Unknown(number) => write!(f, "`{number}` has no meaning where it stands"),
            ReadError::TooDeep => write!(f, "types nest deeper than `{MAX_DEPTH}` levels"),
            ReadError::TooManyDefinitions => write!(f, "there are more than `{MAX_DEFINITIONS}` definitions"),
            ReadError::Reference(index) => write!(f, "there is no definition number `{index}`"),
            ReadError::Duplicate(name) => write!(f, "`{name}` is described twice"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads a whole section. Entries of versions that this crate does not know are left out.
///
/// # Errors
/// [`ReadError`]; then nothing of the section can be relied on.
pub fn read_section(section: &[u8]) -> Result<Vec<TaskSchema>, ReadError> {
    if section.len() > MAX_SECTION_BYTES {
        return Err(ReadError::SectionTooLarge(section.len()));
    }
    let mut tasks: Vec<TaskSchema> = Vec::new();
    let mut names = HashSet::new();
    let mut rest = section;
    while !rest.is_empty() {
        let (header, behind) = rest.split_first_chunk::<ENTRY_HEADER_BYTES>().ok_or(ReadError::Truncated)?;
        let [version, a, b, c, d] = *header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| ReadError::Truncated)?;
        let (body, behind) = behind.split_at_checked(length).ok_or(ReadError::Truncated)?;
        rest = behind;
        if version != ENTRY_VERSION {
            continue;
        }
        if length > MAX_ENTRY_BYTES {
            return Err(ReadError::EntryTooLarge(length));
        }
        let task = read_entry(body)?;
        if !names.insert((task.name.clone(), task.is_init)) {
            return Err(ReadError::Duplicate(task.name));
        }
        tasks.push(task);
    }
    tasks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tasks)
}

impl TypeSchema {
    /// The schema of a type of this program. One that is too large for a description is opaque, as it is in a module.
    pub fn of<T: Schema + ?Sized>() -> TypeSchema {
        let mut writer = Box::new(Writer::<MAX_ENTRY_BYTES>::new());
        writer.ty(T::TYPE, 1);
        let bytes: Vec<u8> = (0..writer.length()).map(|at| writer.byte_at(at)).collect();
        let read = if writer.is_overflown() { Err(ReadError::TooDeep) } else { read_type(&bytes) };
        read.unwrap_or_else(|_| TypeSchema {
            root: Node::Opaque(std::any::type_name::<T>().to_owned()),
            definitions: Arc::from([]),
        })
    }
}

/// A type that stands alone.
fn read_type(bytes: &[u8]) -> Result<TypeSchema, ReadError> {
    let mut reader = Reader { rest: bytes, definitions: Vec::new() };
    let root = reader.node(1)?;
    Ok(TypeSchema { root, definitions: reader.finish()? })
}

fn read_entry(body: &[u8]) -> Result<TaskSchema, ReadError> {
    let mut reader = Reader { rest: body, definitions: Vec::new() };
    let name = reader.name()?;
    let (takes_channel, is_init) = match reader.byte()? {
        0 => (false, false),
        FLAG_CHANNEL => (true, false),
        FLAG_INIT => (false, true),
        other => return Err(ReadError::Unknown(other)),
    };
    let help = reader.text(|c| c.is_control() && c != '\n' && c != '\t')?;
    let parameters = reader.named_list(|reader| reader.node(1))?;
    let result = reader.node(1)?;
    let definitions = reader.finish()?;
    let schema = |root| TypeSchema { root, definitions: Arc::clone(&definitions) };
    let parameters = parameters.into_iter().map(|(name, node)| Parameter { name, schema: schema(node) }).collect();
    Ok(TaskSchema { name, help, takes_channel, is_init, parameters, result: schema(result) })
}

struct Reader<'a> {
    rest: &'a [u8],
    /// A place for each definition that has begun, with its shape once that has been read.
    definitions: Vec<(Arc<str>, Option<Shape>)>,
}

impl Reader<'_> {
    fn finish(self) -> Result<Arc<[Definition]>, ReadError> {
        if !self.rest.is_empty() {
            return Err(ReadError::LeftOver(self.rest.len()));
        }
        let definitions = self.definitions.into_iter().map(|(name, shape)| {
            // A definition's end is read before anything behind it is.
            let shape = shape.ok_or(ReadError::Truncated)?;
            Ok(Definition { name: name.as_ref().to_owned(), shape })
        });
        definitions.collect()
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        let (&byte, rest) = self.rest.split_first().ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u32, ReadError> {
        let mut number: u32 = 0;
        for place in 0..5 {
            let byte = self.byte()?;
            let part = u32::from(byte & 0x7f);
            if place == 4 && part > 0xf {
                return Err(ReadError::Number);
            }
            number |= part << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ReadError::Number)
    }

    /// A number of things of which each takes a byte at least.
    fn count(&mut self) -> Result<usize, ReadError> {
        let count = usize::try_from(self.number()?).map_err(|_| ReadError::Number)?;
        if count > self.rest.len() {
            return Err(ReadError::Truncated);
        }
        Ok(count)
    }

    fn text(&mut self, is_forbidden: impl Fn(char) -> bool) -> Result<String, ReadError> {
        let length = self.count()?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ReadError::Truncated)?;
        self.rest = rest;
        let text = std::str::from_utf8(bytes).map_err(|_| ReadError::Text)?;
        if text.chars().any(is_forbidden) { Err(ReadError::Text) } else { Ok(text.to_owned()) }
    }

    fn name(&mut self) -> Result<String, ReadError> {
        self.text(char::is_control)
    }

    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T, ReadError>) -> Result<Vec<T>, ReadError> {
        // Grows with what is really there: an element is larger than its bytes.
        let count = self.count()?;
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Elements whose names differ, unless they are `_`.
    fn named_list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, ReadError>,
    ) -> Result<Vec<(String, T)>, ReadError> {
        let list = self.list(|reader| Ok((reader.name()?, element(reader)?)))?;
        let mut names = HashSet::new();
        for (name, _) in &list {
            if !names.insert(name) && name != "_" {
                return Err(ReadError::Duplicate(name.clone()));
            }
        }
        Ok(list)
    }

    fn node(&mut self, depth: usize) -> Result<Node, ReadError> {
        if depth > MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        Ok(match self.byte()? {
            kind::UNIT => Node::Unit,
            kind::BOOL => Node::Bool,
            kind::I8 => Node::I8,
            kind::I16 => Node::I16,
            kind::I32 => Node::I32,
            kind::I64 => Node::I64,
            kind::I128 => Node::I128,
            kind::U8 => Node::U8,
            kind::U16 => Node::U16,
            kind::U32 => Node::U32,
            kind::U64 => Node::U64,
            kind::U128 => Node::U128,
            kind::F32 => Node::F32,
            kind::F64 => Node::F64,
            kind::CHAR => Node::Char,
            kind::STRING => Node::String,
            kind::BYTES => Node::Bytes,
            kind::CHANNEL => Node::Channel,
            kind::OPTION => Node::Option(self.boxed(depth)?),
            kind::SEQUENCE => Node::Sequence(self.boxed(depth)?),
            kind::ARRAY => {
                let length = self.number()?;
                Node::Array(length, self.boxed(depth)?)
            }
            kind::TUPLE => Node::Tuple(self.list(|reader| reader.node(depth + 1))?),
            kind::MAP => {
                let key = self.boxed(depth)?;
                Node::Map(key, self.boxed(depth)?)
            }
            kind::OPAQUE => Node::Opaque(self.name()?),
            kind::DEFINITION => self.definition(depth)?,
            kind::REFERENCE => {
                let index = self.number()?;
                let at = usize::try_from(index).map_err(|_| ReadError::Reference(index))?;
                let (name, _) = self.definitions.get(at).ok_or(ReadError::Reference(index))?;
                Node::Named(at, Arc::clone(name))
            }
            other => return Err(ReadError::Unknown(other)),
        })
    }

    fn boxed(&mut self, depth: usize) -> Result<Box<Node>, ReadError> {
        self.node(depth + 1).map(Box::new)
    }

    fn definition(&mut self, depth: usize) -> Result<Node, ReadError> {
        let name: Arc<str> = self.name()?.into();
        let index = self.definitions.len();
        if index == MAX_DEFINITIONS {
            return Err(ReadError::TooManyDefinitions);
        }
        self.definitions.push((Arc::clone(&name), None));
        let shape = self.shape(depth + 1, true)?;
        self.definitions[index].1 = Some(shape);
        Ok(Node::Named(index, name))
    }

    fn shape(&mut self, depth: usize, may_be_enum: bool) -> Result<Shape, ReadError> {
        Ok(match self.byte()? {
            shape::UNIT => Shape::Unit,
            shape::NEWTYPE => Shape::Newtype(self.node(depth)?),
            shape::TUPLE => Shape::Tuple(self.list(|reader| reader.node(depth))?),
            shape::STRUCT => {
                let fields = self.named_list(|reader| reader.node(depth))?;
                Shape::Struct(fields.into_iter().map(|(name, node)| Field { name, node }).collect())
            }
            shape::ENUM if may_be_enum => {
                let variants = self.named_list(|reader| reader.shape(depth + 1, false))?;
                Shape::Enum(variants.into_iter().map(|(name, shape)| Variant { name, shape }).collect())
            }
            other => return Err(ReadError::Unknown(other)),
        })
    }
}
