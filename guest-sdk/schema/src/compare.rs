//! Whether two types are encoded alike and mean the same, as far as names tell.
//!
//! Two types that contain themselves are walked side by side. A pair of named types that is being compared already counts
//! as alike: if the two differ, it shows elsewhere.

use std::collections::HashSet;
use std::fmt;

use crate::model::{Field, Node, Shape, TypeSchema, Variant};

/// The longest way into two types before they are given up as different.
const MAX_STEPS: usize = 512;

/// The first place at which two types differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The way to it, such as `.jobs[].name`; empty for the type itself.
    pub path: String,
    /// What one of them has there.
    pub ours: String,
    /// What the other one has there.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "at {}: ", self.path)?;
        }
        write!(f, "`{}` here, `{}` there", self.ours, self.theirs)
    }
}

impl TypeSchema {
    /// Compares this type with the one of the other side: the encoding, and the names of fields and variants.
    ///
    /// Not compared are the names of types, since each side may have its own; a struct of one unnamed value is that value,
    /// an array of three is a tuple of three. An opaque type is equal to nothing, not even to itself.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, theirs: &TypeSchema) -> Result<(), Difference> {
        let mut walk = Walk { ours: self, theirs, assumed: HashSet::new(), path: Vec::new() };
        walk.nodes(&self.root, &theirs.root)
    }
}

struct Walk<'a> {
    ours: &'a TypeSchema,
    theirs: &'a TypeSchema,
    assumed: HashSet<(usize, usize)>,
    path: Vec<String>,
}

/// A node without the structs of one unnamed value around it.
enum Bare<'a> {
    Node(&'a Node),
    Shape(usize, &'a Shape),
}

fn bare<'a>(schema: &'a TypeSchema, node: &'a Node) -> Bare<'a> {
    let mut node = node;
    // A struct that holds nothing but itself comes to no end.
    for _ in 0..=schema.definitions.len() {
        match node {
            Node::Named(index, _) => match &schema.definition(*index).shape {
                Shape::Newtype(inner) => node = inner,
                shape => return Bare::Shape(*index, shape),
            },
            node => return Bare::Node(node),
        }
    }
    Bare::Node(node)
}

impl Walk<'_> {
    fn differ(&self, ours: impl fmt::Display, theirs: impl fmt::Display) -> Result<(), Difference> {
        Err(Difference { path: self.path.concat(), ours: ours.to_string(), theirs: theirs.to_string() })
    }

    fn inside(
        &mut self,
        step: String,
        walk: impl FnOnce(&mut Self) -> Result<(), Difference>,
    ) -> Result<(), Difference> {
        self.path.push(step);
        if self.path.len() > MAX_STEPS {
            return self.differ("a type that nests deep", "one that nests deeper than is compared");
        }
        walk(self)?;
        self.path.pop();
        Ok(())
    }

    fn nodes(&mut self, a: &Node, b: &Node) -> Result<(), Difference> {
        let (ours, theirs) = (self.ours, self.theirs);
        match (bare(ours, a), bare(theirs, b)) {
            (Bare::Shape(i, left), Bare::Shape(j, right)) => {
                if !self.assumed.insert((i, j)) {
                    return Ok(());
                }
                self.shapes(left, right, (a, b))
            }
            (Bare::Node(left), Bare::Node(right)) => match (left, right) {
                (Node::Option(left), Node::Option(right)) => {
                    self.inside("?".to_owned(), |walk| walk.nodes(left, right))
                }
                (Node::Sequence(left), Node::Sequence(right)) => {
                    self.inside("[]".to_owned(), |walk| walk.nodes(left, right))
                }
                (Node::Map(key, value), Node::Map(their_key, their_value)) => {
                    self.inside("{key}".to_owned(), |walk| walk.nodes(key, their_key))?;
                    self.inside("{value}".to_owned(), |walk| walk.nodes(value, their_value))
                }
                (Node::Array(n, left), Node::Array(m, right)) if n == m => {
                    self.inside("[]".to_owned(), |walk| walk.nodes(left, right))
                }
                (Node::Array(n, item), Node::Tuple(items)) if is_count(items, *n) => {
                    self.each(items.iter().map(|other| (&**item, other)))
                }
                (Node::Tuple(items), Node::Array(n, item)) if is_count(items, *n) => {
                    self.each(items.iter().map(|other| (other, &**item)))
                }
                (Node::Tuple(left), Node::Tuple(right)) if left.len() == right.len() => {
                    self.each(left.iter().zip(right))
                }
                (
                    Node::Option(_)
                    | Node::Sequence(_)
                    | Node::Map(..)
                    | Node::Array(..)
                    | Node::Tuple(_)
                    | Node::Opaque(_)
                    | Node::Named(..),
                    _,
                ) => self.differ(a, b),
                (left, right) if left == right => Ok(()),
                _ => self.differ(a, b),
            },
            // A unit struct and `()`, a tuple struct and a tuple.
            (Bare::Shape(_, Shape::Unit), Bare::Node(Node::Unit))
            | (Bare::Node(Node::Unit), Bare::Shape(_, Shape::Unit)) => Ok(()),
            (Bare::Shape(_, Shape::Tuple(left)), Bare::Node(Node::Tuple(right)))
            | (Bare::Node(Node::Tuple(left)), Bare::Shape(_, Shape::Tuple(right)))
                if left.len() == right.len() =>
            {
                self.each(left.iter().zip(right))
            }
            _ => self.differ(a, b),
        }
    }

    fn each<'n>(&mut self, pairs: impl Iterator<Item = (&'n Node, &'n Node)>) -> Result<(), Difference> {
        for (at, (left, right)) in pairs.enumerate() {
            self.inside(format!(".{at}"), |walk| walk.nodes(left, right))?;
        }
        Ok(())
    }

    /// `around` is what the error calls the two.
    fn shapes(
        &mut self,
        left: &Shape,
        right: &Shape,
        around: (&dyn fmt::Display, &dyn fmt::Display),
    ) -> Result<(), Difference> {
        match (left, right) {
            (Shape::Unit, Shape::Unit) => Ok(()),
            (Shape::Newtype(left), Shape::Newtype(right)) => self.nodes(left, right),
            (Shape::Tuple(left), Shape::Tuple(right)) if left.len() == right.len() => self.each(left.iter().zip(right)),
            (Shape::Struct(left), Shape::Struct(right)) => self.fields(left, right),
            (Shape::Enum(left), Shape::Enum(right)) => self.variants(left, right),
            _ => self.differ(Described(around.0, left), Described(around.1, right)),
        }
    }

    fn fields(&mut self, left: &[Field], right: &[Field]) -> Result<(), Difference> {
        for (ours, theirs) in left.iter().zip(right) {
            if ours.name != theirs.name {
                return self.differ(format!("field {}", ours.name), format!("field {}", theirs.name));
            }
            self.inside(format!(".{}", ours.name), |walk| walk.nodes(&ours.node, &theirs.node))?;
        }
        let name = |fields: &[Field], at: usize| {
            fields.get(at).map_or_else(|| "no more fields".to_owned(), |field| format!("field {}", field.name))
        };
        let shorter = left.len().min(right.len());
        if left.len() == right.len() { Ok(()) } else { self.differ(name(left, shorter), name(right, shorter)) }
    }

    fn variants(&mut self, left: &[Variant], right: &[Variant]) -> Result<(), Difference> {
        for (ours, theirs) in left.iter().zip(right) {
            if ours.name != theirs.name {
                return self.differ(format!("variant {}", ours.name), format!("variant {}", theirs.name));
            }
            self.inside(format!("::{}", ours.name), |walk| {
                walk.shapes(&ours.shape, &theirs.shape, (&ours.name, &theirs.name))
            })?;
        }
        let name = |variants: &[Variant], at: usize| {
            variants
                .get(at)
                .map_or_else(|| "no more variants".to_owned(), |variant| format!("variant {}", variant.name))
        };
        let shorter = left.len().min(right.len());
        if left.len() == right.len() { Ok(()) } else { self.differ(name(left, shorter), name(right, shorter)) }
    }
}

fn is_count(items: &[Node], count: u32) -> bool {
    u32::try_from(items.len()) == Ok(count)
}

/// A name with what it stands for.
struct Described<'a>(&'a dyn fmt::Display, &'a Shape);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}
