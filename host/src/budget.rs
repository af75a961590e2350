//! Bounds what decoding a message can cost: how deep values nest, and how many there are.
//!
//! A guest chooses the bytes, the host's program the type. A type that contains itself could be made to overflow the
//! host's stack, and a list of things that take no bytes could be announced to be endless. So every container and
//! element counts, whatever the type is. This wraps a deserialiser and everything it hands out:
//!
//! ```text
//!  Budgeted<D> ─► Counted<V> (visitor) ─► Budgeted<A> (access) ─► Counted<S> (seed) ─► Budgeted<D> …
//! ```

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

/// Deepest nesting of containers, options and enums in one message.
pub const MAX_VALUE_DEPTH: u32 = 128;
/// Elements, fields and variants that a message may hold for each of its bytes, and besides.
pub(crate) const VALUES_PER_BYTE: u64 = 16;
pub(crate) const FREE_VALUES: u64 = 4096;

/// What is left for one message.
#[derive(Debug)]
pub(crate) struct Budget {
    depth: Cell<u32>,
    values: Cell<u64>,
    exceeded: Cell<Option<&'static str>>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Budget {
        let values = (bytes as u64).saturating_mul(VALUES_PER_BYTE).saturating_add(FREE_VALUES);
        Budget { depth: Cell::new(MAX_VALUE_DEPTH), values: Cell::new(values), exceeded: Cell::new(None) }
    }

    /// What was exceeded, since the decoder's own error does not carry a text.
    pub(crate) fn exceeded(&self) -> Option<&'static str> {
        self.exceeded.get()
    }

    fn exceed<E: Error>(&self, what: &'static str) -> E {
        self.exceeded.set(Some(what));
        E::custom(what)
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.values.get().checked_sub(1);
        self.values.set(left.ok_or_else(|| self.exceed("it holds more values than its bytes can account for"))?);
        Ok(())
    }

    /// Goes one level deeper for the time of `inside`.
    fn nested<T, E: Error>(&self, inside: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let left = self.depth.get().checked_sub(1);
        let left = left.ok_or_else(|| self.exceed("it nests deeper than 128 levels"))?;
        self.depth.set(left);
        let result = inside();
        self.depth.set(left + 1);
        result
    }
}

/// A deserialiser, or what one hands out, that counts.
#[derive(Debug)]
pub(crate) struct Budgeted<'b, T> {
    inner: T,
    budget: &'b Budget,
}

impl<'b, T> Budgeted<'b, T> {
    pub(crate) fn new(inner: T, budget: &'b Budget) -> Budgeted<'b, T> {
        Budgeted { inner, budget }
    }
}

/// A visitor or seed whose values count.
struct Counted<'b, T> {
    inner: T,
    budget: &'b Budget,
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            let Budgeted { inner, budget } = self;
            budget.nested(|| inner.$method($($argument,)* Counted { inner: visitor, budget }))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Budgeted<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any(); deserialize_bool();
        deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64(); deserialize_i128();
        deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_f32(); deserialize_f64(); deserialize_char(); deserialize_str(); deserialize_string();
        deserialize_bytes(); deserialize_byte_buf(); deserialize_option(); deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq(); deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier(); deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($kind:ty);)*) => {$(
        fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Counted<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool); visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64); visit_i128(i128);
        visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64); visit_u128(u128);
        visit_f32(f32); visit_f64(f64); visit_char(char); visit_str(&str); visit_borrowed_str(&'de str);
        visit_string(String); visit_bytes(&[u8]); visit_borrowed_bytes(&'de [u8]); visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Budgeted::new(deserializer, self.budget))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Budgeted::new(deserializer, self.budget))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Budgeted::new(access, self.budget))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Budgeted::new(access, self.budget))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Budgeted::new(access, self.budget))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Counted<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.budget.count()?;
        self.inner.deserialize(Budgeted::new(deserializer, self.budget))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Budgeted<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(Counted { inner: seed, budget: self.budget })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Budgeted<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.inner.next_key_seed(Counted { inner: seed, budget: self.budget })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.inner.next_value_seed(Counted { inner: seed, budget: self.budget })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Budgeted<'b, A> {
    type Error = A::Error;
    type Variant = Budgeted<'b, A::Variant>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), A::Error> {
        let Budgeted { inner, budget } = self;
        let (value, variant) = inner.variant_seed(Counted { inner: seed, budget })?;
        Ok((value, Budgeted::new(variant, budget)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Budgeted<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Counted { inner: seed, budget: self.budget })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Counted { inner: visitor, budget: self.budget })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Counted { inner: visitor, budget: self.budget })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use super::*;

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let budget = Budget::new(bytes.len());
        let mut inner = postcard::Deserializer::from_bytes(bytes);
        let result = T::deserialize(Budgeted::new(&mut inner, &budget));
        result.map_err(|error| budget.exceeded().map_or_else(|| error.to_string(), str::to_owned))
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Number(i64),
        Pair { left: Box<Tree>, right: Option<Box<Tree>> },
        Many(Vec<Tree>),
        Named(BTreeMap<String, Tree>, (u8, char)),
    }

    #[test]
    fn a_payload_that_nests_for_ever_is_an_error() {
        // Many([Many([Many([…
        let bytes = [3_u8, 1].repeat(500_000);
        assert_eq!(decode::<Tree>(&bytes).unwrap_err(), format!("it nests deeper than {MAX_VALUE_DEPTH} levels"));
    }

    #[test]
    fn a_list_of_nothing_cannot_be_endless() {
        let bytes = postcard::to_allocvec(&u64::from(u32::MAX)).unwrap();
        assert!(decode::<Vec<()>>(&bytes).unwrap_err().contains("more values"));
        assert!(decode::<Vec<[u8; 0]>>(&bytes).is_err());
        let bytes = postcard::to_allocvec(&vec![(); 1000]).unwrap();
        assert_eq!(decode::<Vec<()>>(&bytes).unwrap().len(), 1000);
    }

    #[test]
    fn a_long_list_of_small_things_is_fine() {
        for bytes in [
            postcard::to_allocvec(&vec![1_u8; 1_000_000]).unwrap(),
            postcard::to_allocvec(&vec![true; 1_000_000]).unwrap(),
        ] {
            assert_eq!(decode::<Vec<u8>>(&bytes).unwrap().len(), 1_000_000);
        }
        let pairs = vec![(1_u8, 2_u8); 100_000];
        assert_eq!(decode::<Vec<(u8, u8)>>(&postcard::to_allocvec(&pairs).unwrap()).unwrap(), pairs);
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![Just(Tree::Leaf), any::<i64>().prop_map(Tree::Number)];
        leaf.prop_recursive(8, 64, 4, |inner| {
            prop_oneof![
                (inner.clone(), prop::option::of(inner.clone()))
                    .prop_map(|(left, right)| Tree::Pair { left: left.into(), right: right.map(Box::new) }),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Many),
                (prop::collection::btree_map(".*", inner, 0..3), any::<(u8, char)>())
                    .prop_map(|(map, rest)| Tree::Named(map, rest)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_can_be_encoded_is_decoded(tree in tree()) {
            prop_assert_eq!(decode::<Tree>(&postcard::to_allocvec(&tree).unwrap()).unwrap(), tree);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = decode::<Tree>(&bytes);
            let _ = decode::<Vec<(String, Option<Vec<u8>>)>>(&bytes);
        }
    }
}
