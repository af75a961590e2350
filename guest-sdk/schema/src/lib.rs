//! Types that describe themselves, at compile time and without a cost at run time.
//!
//! ```text
//!  Schema (trait) ──► Type (a constant) ──► write (const fn) ──► bytes in the module's custom section
//!                                                                   │ compiler process
//!  host: TaskSchema, TypeSchema ◄── read (bounded, total) ◄─────────┘
//! ```
//!
//! Both sides of the format, which `sandgate_abi::schema` documents, stand here. Guests use this through `sandgate_guest`,
//! hosts through `sandgate`; a crate of types that both sides share can depend on this one alone:
//!
//! ```
//! use sandgate_schema::{Schema, TypeSchema};
//!
//! #[derive(Schema)]
//! struct Job {
//!     name: String,
//!     sizes: Vec<(u32, f64)>,
//!     then: Option<Box<Job>>,
//! }
//!
//! let schema = TypeSchema::of::<Job>();
//! assert_eq!(schema.to_string(), "Job");
//! assert_eq!(schema.definitions()[0].to_string(), "struct Job { name: string, sizes: [(u32, f64)], then: Job? }");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

// The derive macro names this crate by its name.
extern crate self as sandgate_schema;

mod compare;
mod impls;
mod model;
mod read;
mod section;
mod types;
mod write;

#[cfg(test)]
mod tests;

pub use compare::Difference;
pub use model::{Definition, Field, Node, Parameter, Shape, TaskSchema, TypeSchema, Variant};
pub use read::{ReadError, read_section};
/// Derives [`Schema`](trait@Schema) for a struct or an enum that derives serde's `Serialize` or `Deserialize`.
///
/// The attributes of serde that change the encoding or the names are understood; what postcard cannot encode or what cannot
/// be known (`with`, `flatten`, `tag`, …) is a compile error that says what to do.
///
/// * `#[schema(as = "Type")]` on a field: it is encoded as that type. For `#[serde(with = ..)]`.
/// * `#[schema(opaque)]` on a field: its type has no schema.
/// * `#[schema(cycle = "A, B")]` on the type: fields name these types, which contain this one. A type that contains itself
///   needs nothing.
/// * `#[schema(crate = "path")]` on the type: where this crate is found, if not at its usual place.
pub use sandgate_guest_macros::PlainSchema as Schema;
pub use types::{Schema, Type};

/// What the expansions of the macros use.
#[doc(hidden)]
pub mod __private {
    pub use crate::section::{
        Described, DescribedResult, IsResult, NoResult, NoSchema, NoSchemaResult, ParameterType, TaskEntry,
        entry_bytes, entry_length,
    };
    pub use crate::types::{DefinitionType, FieldType, Schema, ShapeType, Type, VariantType};
}
