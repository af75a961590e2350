//! The description of a type as a constant: a tree of references, made by the compiler.
//!
//! Constants cannot refer to each other in a circle. A type that contains itself therefore names itself inside
//! ([`Type::Recursive`]), and the writer makes a reference of that.

/// A type that has a description.
///
/// Derive it, or name the type whose encoding is the same:
///
/// ```
/// use sandgate_schema::{Schema, Type};
///
/// /// Serialised as its text.
/// struct Version(u32, u32);
///
/// impl Schema for Version {
///     const TYPE: &'static Type = <String as Schema>::TYPE;
/// }
/// ```
///
/// It has to describe what serde's `Serialize` and `Deserialize` of the type do with postcard; a wrong description makes
/// wrong arguments, which the guest refuses or misreads.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no schema",
    note = "derive `Schema` for it, or put `#[schema(opaque)]` on the field"
)]
pub trait Schema {
    /// The description.
    const TYPE: &'static Type;
}

/// The description of a type.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the kinds are documented with the format")]
pub enum Type {
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
    Option(&'static Type),
    Sequence(&'static Type),
    Array(usize, &'static Type),
    Tuple(&'static [&'static Type]),
    Map(&'static Type, &'static Type),
    /// No description; the name is for people.
    Opaque(&'static str),
    /// A named type.
    #[doc(hidden)]
    Definition(&'static DefinitionType),
    /// The innermost definition around this one that has this name.
    #[doc(hidden)]
    Recursive(&'static str),
}

/// A named type.
#[doc(hidden)]
#[derive(Debug)]
pub struct DefinitionType {
    /// As serde calls it.
    pub name: &'static str,
    /// Differs from that of any other type; empty if that cannot be had, for generic types.
    pub id: &'static str,
    pub shape: ShapeType,
}

#[doc(hidden)]
#[derive(Debug)]
pub enum ShapeType {
    Unit,
    Newtype(&'static Type),
    Tuple(&'static [&'static Type]),
    Struct(&'static [FieldType]),
    Enum(&'static [VariantType]),
}

#[doc(hidden)]
#[derive(Debug)]
pub struct FieldType {
    pub name: &'static str,
    pub ty: &'static Type,
}

#[doc(hidden)]
#[derive(Debug)]
pub struct VariantType {
    pub name: &'static str,
    pub shape: ShapeType,
}
