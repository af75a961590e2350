//! Descriptions as values: what a reader makes of the bytes.
//!
//! A [`TypeSchema`] is a tree whose named types lie in a table beside it, so a type that contains itself is an ordinary
//! value. Nothing here is deeper than [`MAX_DEPTH`](sandgate_abi::schema::MAX_DEPTH) levels.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// A named task, or an init function, and its types.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskSchema {
    /// The task's name.
    pub name: String,
    /// What its documentation says.
    pub help: String,
    /// Whether the function takes the task's own channel: then it may receive and send more than arguments and result.
    pub takes_channel: bool,
    /// Whether it is an init function, which runs before a snapshot, and no task.
    pub is_init: bool,
    /// What the host passes, in order.
    pub parameters: Vec<Parameter>,
    /// The item that is sent last on the task's channel when the task succeeds; [`Node::Unit`] if there is none.
    pub result: TypeSchema,
}

/// A parameter of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; may be `_` or a pattern's text.
    pub name: String,
    /// Its type.
    pub schema: TypeSchema,
}

/// The description of a type.
#[derive(Clone, PartialEq, Eq)]
pub struct TypeSchema {
    pub(crate) root: Node,
    pub(crate) definitions: Arc<[Definition]>,
}

/// A type, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the kinds are documented with the format")]
pub enum Node {
    Unit,
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    String,
    Bytes,
    Channel,
    Option(Box<Node>),
    Sequence(Box<Node>),
    Array(u32, Box<Node>),
    Tuple(Vec<Node>),
    Map(Box<Node>, Box<Node>),
    /// Without a description, with a name for people.
    Opaque(String),
    /// A named type: its position in [`TypeSchema::definitions`], and its name.
    Named(usize, Arc<str>),
}

/// A named type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What it consists of.
    pub shape: Shape,
}

/// What a named type or a variant consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Unit,
    /// One value.
    Newtype(Node),
    /// Values without names.
    Tuple(Vec<Node>),
    /// Values with names.
    Struct(Vec<Field>),
    /// One of several variants. Variants are none of these.
    Enum(Vec<Variant>),
}

/// A field of a struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub node: Node,
}

/// A variant of an enum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub shape: Shape,
}

impl TypeSchema {
    /// The type itself.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The named types that the nodes of this schema refer to, and maybe others.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The named type behind [`Node::Named`].
    ///
    /// # Panics
    /// If the index is not from a node of this schema.
    pub fn definition(&self, index: usize) -> &Definition {
        &self.definitions[index]
    }

    /// A part of this type as a type of its own.
    #[must_use]
    pub fn part(&self, node: &Node) -> TypeSchema {
        TypeSchema { root: node.clone(), definitions: Arc::clone(&self.definitions) }
    }

    /// Whether a successful task sends no item of this type, which is so for `()` alone.
    pub fn is_unit(&self) -> bool {
        self.root == Node::Unit
    }
}

impl TaskSchema {
    /// All arguments as one type, the tuple of the parameters; a single one is its own type.
    pub fn arguments(&self) -> TypeSchema {
        let definitions = self.result.definitions.clone();
        let root = match &self.parameters[..] {
            [] => Node::Unit,
            [single] => single.schema.root.clone(),
            several => Node::Tuple(several.iter().map(|parameter| parameter.schema.root.clone()).collect()),
        };
        TypeSchema { root, definitions }
    }
}

impl Display for TaskSchema {
    /// As `add(a: u32, b: u32) -> u32`; the task's own channel is left out.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        separated(f, &self.parameters, |f, parameter| write!(f, "{}: {}", parameter.name, parameter.schema))?;
        f.write_str(")")?;
        if self.result.is_unit() { Ok(()) } else { write!(f, " -> {}", self.result) }
    }
}

impl fmt::Debug for TypeSchema {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "TypeSchema({self})")
    }
}

impl Display for TypeSchema {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl Display for Definition {
    /// As `struct Point { x: i32, y: i32 }` or `enum Reply { Ready, Done(u32) }`. Named types in it are named only.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let keyword = if matches!(self.shape, Shape::Enum(_)) { "enum" } else { "struct" };
        write!(f, "{keyword} {}", self.name)?;
        self.shape.fmt(f)
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Unit => Ok(()),
            Shape::Newtype(node) => write!(f, "({node})"),
            Shape::Tuple(nodes) => {
                f.write_str("(")?;
                separated(f, nodes, |f, node| node.fmt(f))?;
                f.write_str(")")
            }
            Shape::Struct(fields) => {
                f.write_str(" { ")?;
                separated(f, fields, |f, field| write!(f, "{}: {}", field.name, field.node))?;
                f.write_str(" }")
            }
            Shape::Enum(variants) => {
                f.write_str(" { ")?;
                separated(f, variants, |f, variant| write!(f, "{}{}", variant.name, variant.shape))?;
                f.write_str(" }")
            }
        }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Node::Option(inner) => write!(f, "{inner}?"),
            Node::Sequence(item) => write!(f, "[{item}]"),
            Node::Array(length, item) => write!(f, "[{item}; {length}]"),
            Node::Tuple(items) => {
                f.write_str("(")?;
                separated(f, items, |f, item| item.fmt(f))?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Node::Map(key, value) => write!(f, "{{{key}: {value}}}"),
            Node::Opaque(name) => write!(f, "opaque `{name}`"),
            Node::Named(_, name) => f.write_str(name),
            Node::Unit => f.write_str("()"),
            Node::Bool => f.write_str("bool"),
            Node::I8 => f.write_str("i8"),
            Node::I16 => f.write_str("i16"),
            Node::I32 => f.write_str("i32"),
            Node::I64 => f.write_str("i64"),
            Node::I128 => f.write_str("i128"),
            Node::U8 => f.write_str("u8"),
            Node::U16 => f.write_str("u16"),
            Node::U32 => f.write_str("u32"),
            Node::U64 => f.write_str("u64"),
            Node::U128 => f.write_str("u128"),
            Node::F32 => f.write_str("f32"),
            Node::F64 => f.write_str("f64"),
            Node::Char => f.write_str("char"),
            Node::String => f.write_str("string"),
            Node::Bytes => f.write_str("bytes"),
            Node::Channel => f.write_str("channel"),
        }
    }
}

fn separated<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    write: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write(f, item)?;
    }
    Ok(())
}
