//! Descriptions as bytes, written while the compiler evaluates constants.
//!
//! A writer never fails: once something does not fit it writes nothing more and remembers it.

use sandgate_abi::schema::{MAX_DEFINITIONS, MAX_DEPTH, kind, shape};

use crate::types::{DefinitionType, ShapeType, Type};

/// Bytes in a buffer of fixed size, and the definitions that they hold.
pub(crate) struct Writer<const N: usize> {
    bytes: [u8; N],
    length: usize,
    overflown: bool,
    definitions: [Option<&'static DefinitionType>; MAX_DEFINITIONS],
    /// Those whose end has not been written.
    open: [bool; MAX_DEFINITIONS],
    count: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) const fn new() -> Self {
        Writer {
            bytes: [0; N],
            length: 0,
            overflown: false,
            definitions: [None; MAX_DEFINITIONS],
            open: [false; MAX_DEFINITIONS],
            count: 0,
        }
    }

    /// Whether something was too large or too deep.
    pub(crate) const fn is_overflown(&self) -> bool {
        self.overflown
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    pub(crate) const fn byte_at(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    pub(crate) const fn byte(&mut self, byte: u8) {
        if self.length < N && !self.overflown {
            self.bytes[self.length] = byte;
            self.length += 1;
        } else {
            self.overflown = true;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time, and larger numbers are refused")]
    pub(crate) const fn number(&mut self, number: usize) {
        if number > u32::MAX as usize {
            self.overflown = true;
            return;
        }
        let mut rest = number;
        while rest >= 0x80 {
            self.byte((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    pub(crate) const fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        if bytes.len() > N {
            self.overflown = true;
            return;
        }
        self.number(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            self.byte(bytes[at]);
            at += 1;
        }
    }

    /// A type that stands `depth` levels deep.
    pub(crate) const fn ty(&mut self, ty: &Type, depth: usize) {
        if depth > MAX_DEPTH {
            self.overflown = true;
        }
        if self.overflown {
            return;
        }
        match ty {
            Type::Unit => self.byte(kind::UNIT),
            Type::Bool => self.byte(kind::BOOL),
            Type::I8 => self.byte(kind::I8),
            Type::I16 => self.byte(kind::I16),
            Type::I32 => self.byte(kind::I32),
            Type::I64 => self.byte(kind::I64),
            Type::I128 => self.byte(kind::I128),
            Type::U8 => self.byte(kind::U8),
            Type::U16 => self.byte(kind::U16),
            Type::U32 => self.byte(kind::U32),
            Type::U64 => self.byte(kind::U64),
            Type::U128 => self.byte(kind::U128),
            Type::F32 => self.byte(kind::F32),
            Type::F64 => self.byte(kind::F64),
            Type::Char => self.byte(kind::CHAR),
            Type::String => self.byte(kind::STRING),
            Type::Bytes => self.byte(kind::BYTES),
            Type::Channel => self.byte(kind::CHANNEL),
            Type::Option(inner) => {
                self.byte(kind::OPTION);
                self.ty(inner, depth + 1);
            }
            Type::Sequence(item) => {
                self.byte(kind::SEQUENCE);
                self.ty(item, depth + 1);
            }
            Type::Array(length, item) => {
                self.byte(kind::ARRAY);
                self.number(*length);
                self.ty(item, depth + 1);
            }
            Type::Tuple(items) => {
                self.byte(kind::TUPLE);
                self.types(items, depth + 1);
            }
            Type::Map(key, value) => {
                self.byte(kind::MAP);
                self.ty(key, depth + 1);
                self.ty(value, depth + 1);
            }
            Type::Opaque(name) => self.opaque(name),
            Type::Definition(definition) => self.definition(definition, depth),
            Type::Recursive(name) => self.recursion(name),
        }
    }

    pub(crate) const fn opaque(&mut self, name: &str) {
        self.byte(kind::OPAQUE);
        self.text(name);
    }

    const fn types(&mut self, types: &[&'static Type], depth: usize) {
        self.number(types.len());
        let mut at = 0;
        while at < types.len() {
            self.ty(types[at], depth);
            at += 1;
        }
    }

    const fn definition(&mut self, definition: &'static DefinitionType, depth: usize) {
        let mut at = 0;
        while at < self.count {
            if let Some(known) = self.definitions[at]
                && !known.id.is_empty()
                && are_equal(known.id, definition.id)
            {
                self.reference(at);
                return;
            }
            at += 1;
        }
        if self.count == MAX_DEFINITIONS {
            self.overflown = true;
            return;
        }
        let index = self.count;
        self.definitions[index] = Some(definition);
        self.open[index] = true;
        self.count += 1;
        self.byte(kind::DEFINITION);
        self.text(definition.name);
        self.shape(&definition.shape, depth + 1);
        self.open[index] = false;
    }

    const fn recursion(&mut self, name: &str) {
        let mut at = self.count;
        while at > 0 {
            at -= 1;
            if let Some(around) = self.definitions[at]
                && self.open[at]
                && are_equal(around.name, name)
            {
                self.reference(at);
                return;
            }
        }
        self.opaque(name);
    }

    const fn reference(&mut self, index: usize) {
        self.byte(kind::REFERENCE);
        self.number(index);
    }

    const fn shape(&mut self, shape: &ShapeType, depth: usize) {
        match shape {
            ShapeType::Unit => self.byte(shape::UNIT),
            ShapeType::Newtype(inner) => {
                self.byte(shape::NEWTYPE);
                self.ty(inner, depth);
            }
            ShapeType::Tuple(items) => {
                self.byte(shape::TUPLE);
                self.types(items, depth);
            }
            ShapeType::Struct(fields) => {
                self.byte(shape::STRUCT);
                self.number(fields.len());
                let mut at = 0;
                while at < fields.len() {
                    self.text(fields[at].name);
                    self.ty(fields[at].ty, depth);
                    at += 1;
                }
            }
            ShapeType::Enum(variants) => {
                self.byte(shape::ENUM);
                self.number(variants.len());
                let mut at = 0;
                while at < variants.len() {
                    self.text(variants[at].name);
                    self.shape(&variants[at].shape, depth + 1);
                    at += 1;
                }
            }
        }
    }
}

const fn are_equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    // Names of one module begin alike.
    let mut at = a.len();
    while at > 0 {
        at -= 1;
        if a[at] != b[at] {
            return false;
        }
    }
    true
}
