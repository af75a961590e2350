//! What a module is made of, as the compiler process saw it: names, and the bytes with which it describes its tasks.
//!
//! All of it is the module's word, passed on within bounds. The host keeps it as bytes beside the artefact and decodes it
//! when somebody asks.

use serde::{Deserialize, Serialize};

/// Most bytes of an encoded description. What does not fit is left out, and that is said.
pub const MAX_DESCRIPTION_BYTES: usize = 64 * 1024;

/// What a module is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it takes from outside, in its order.
    pub imports: Vec<Import>,
    /// What it offers, in its order.
    pub exports: Vec<Export>,
    /// Whether imports or exports were left out for want of room.
    pub is_cut: bool,
    /// The bytes that describe its tasks; none if there are more of them than are looked at.
    pub tasks: Vec<u8>,
    /// How many bytes of that kind the module has.
    pub task_bytes: u64,
}

/// Something that a module takes from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The module it is taken from.
    pub module: String,
    /// Its name there.
    pub name: String,
    /// What it is.
    pub kind: ItemKind,
}

/// Something that a module offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ItemKind,
}

/// What is imported or exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ItemKind {
    /// A function.
    Function,
    /// A table.
    Table,
    /// A linear memory.
    Memory,
    /// A global.
    Global,
    /// A tag of exceptions.
    Tag,
}

impl Description {
    /// The bytes, which are [`MAX_DESCRIPTION_BYTES`] at most.
    ///
    /// # Panics
    /// Never: what is described consists of texts and numbers.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("texts and numbers can be encoded")
    }

    /// A description from its bytes. `None` if they are none, or more than there may be.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Description> {
        if bytes.len() > MAX_DESCRIPTION_BYTES {
            return None;
        }
        match postcard::take_from_bytes(bytes) {
            Ok((description, [])) => Some(description),
            _ => None,
        }
    }
}

impl ItemKind {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ItemKind::Function => "function",
            ItemKind::Table => "table",
            ItemKind::Memory => "memory",
            ItemKind::Global => "global",
            ItemKind::Tag => "tag",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> Description {
        Description {
            imports: vec![Import { module: "sandgate_v1".into(), name: "call_args".into(), kind: ItemKind::Function }],
            exports: vec![Export { name: "memory".into(), kind: ItemKind::Memory }],
            is_cut: true,
            tasks: vec![1, 2],
            task_bytes: 2,
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_nothing_else() {
        let bytes = some().encode();
        assert_eq!(Description::decode(&bytes), Some(some()));
        for end in 0..bytes.len() {
            assert_eq!(Description::decode(&bytes[..end]), None, "{end} bytes");
        }
        assert_eq!(Description::decode(&[bytes, vec![0]].concat()), None);
        assert_eq!(Description::decode(&vec![0; MAX_DESCRIPTION_BYTES + 1]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Description::decode(&bytes);
        }
    }
}
