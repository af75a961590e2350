//! The standard library's types, as serde encodes them for a format that is not for people to read.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32,
    NonZeroU64, NonZeroU128, NonZeroUsize, Saturating, Wrapping,
};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use crate::types::{DefinitionType, FieldType, Schema, ShapeType, Type, VariantType};

macro_rules! plain {
    ($($kind:ident: $($ty:ty),+;)+) => {
        $($(impl Schema for $ty {
            const TYPE: &'static Type = &Type::$kind;
        })+)+
    };
}

plain! {
    Unit: ();
    Bool: bool;
    I8: i8, NonZeroI8;
    I16: i16, NonZeroI16;
    I32: i32, NonZeroI32;
    I64: i64, NonZeroI64, isize, NonZeroIsize;
    I128: i128, NonZeroI128;
    U8: u8, NonZeroU8;
    U16: u16, NonZeroU16;
    U32: u32, NonZeroU32;
    U64: u64, NonZeroU64, usize, NonZeroUsize;
    U128: u128, NonZeroU128;
    F32: f32;
    F64: f64;
    Char: char;
    String: str, String, Path, PathBuf;
}

/// Types that are encoded as the one they hold.
macro_rules! transparent {
    ($($ty:ty: <$($lifetime:lifetime,)? $inner:ident>;)+) => {
        $(impl<$($lifetime,)? $inner: Schema + ?Sized> Schema for $ty {
            const TYPE: &'static Type = $inner::TYPE;
        })+
    };
}

transparent! {
    &'a T: <'a, T>;
    &'a mut T: <'a, T>;
    Box<T>: <T>;
    Rc<T>: <T>;
    Arc<T>: <T>;
    Cell<T>: <T>;
    RefCell<T>: <T>;
    Mutex<T>: <T>;
    RwLock<T>: <T>;
}

impl<T: Schema> Schema for Wrapping<T> {
    const TYPE: &'static Type = T::TYPE;
}

impl<T: Schema> Schema for Saturating<T> {
    const TYPE: &'static Type = T::TYPE;
}

impl<T: Schema + ToOwned + ?Sized> Schema for Cow<'_, T> {
    const TYPE: &'static Type = T::TYPE;
}

impl<T: ?Sized> Schema for PhantomData<T> {
    const TYPE: &'static Type = &Type::Unit;
}

impl<T: Schema> Schema for Option<T> {
    const TYPE: &'static Type = &Type::Option(T::TYPE);
}

/// Types of any number of elements; those of hashers and orders do not matter.
macro_rules! sequence {
    ($($ty:ty: <$item:ident $(, $hasher:ident)?>;)+) => {
        $(impl<$item: Schema $(, $hasher)?> Schema for $ty {
            const TYPE: &'static Type = &Type::Sequence($item::TYPE);
        })+
    };
}

sequence! {
    [T]: <T>;
    Vec<T>: <T>;
    VecDeque<T>: <T>;
    LinkedList<T>: <T>;
    BinaryHeap<T>: <T>;
    BTreeSet<T>: <T>;
    HashSet<T, S>: <T, S>;
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    const TYPE: &'static Type = &Type::Array(N, T::TYPE);
}

impl<K: Schema, V: Schema> Schema for BTreeMap<K, V> {
    const TYPE: &'static Type = &Type::Map(K::TYPE, V::TYPE);
}

impl<K: Schema, V: Schema, S> Schema for HashMap<K, V, S> {
    const TYPE: &'static Type = &Type::Map(K::TYPE, V::TYPE);
}

macro_rules! tuple {
    ($($item:ident)+) => {
        impl<$($item: Schema),+> Schema for ($($item,)+) {
            const TYPE: &'static Type = &Type::Tuple(&[$($item::TYPE),+]);
        }
    };
}

tuple! { A }
tuple! { A B }
tuple! { A B C }
tuple! { A B C D }
tuple! { A B C D E }
tuple! { A B C D E F }
tuple! { A B C D E F G }
tuple! { A B C D E F G H }
tuple! { A B C D E F G H I }
tuple! { A B C D E F G H I J }
tuple! { A B C D E F G H I J K }
tuple! { A B C D E F G H I J K L }
tuple! { A B C D E F G H I J K L M }
tuple! { A B C D E F G H I J K L M N }
tuple! { A B C D E F G H I J K L M N O }
tuple! { A B C D E F G H I J K L M N O P }

const fn definition(name: &'static str, id: &'static str, shape: ShapeType) -> DefinitionType {
    DefinitionType { name, id, shape }
}

impl<T: Schema, E: Schema> Schema for Result<T, E> {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "Result",
        "",
        ShapeType::Enum(&[
            VariantType { name: "Ok", shape: ShapeType::Newtype(T::TYPE) },
            VariantType { name: "Err", shape: ShapeType::Newtype(E::TYPE) },
        ]),
    ));
}

impl<T: Schema> Schema for Range<T> {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "Range",
        "",
        ShapeType::Struct(&[FieldType { name: "start", ty: T::TYPE }, FieldType { name: "end", ty: T::TYPE }]),
    ));
}

impl<T: Schema> Schema for RangeInclusive<T> {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "RangeInclusive",
        "",
        ShapeType::Struct(&[FieldType { name: "start", ty: T::TYPE }, FieldType { name: "end", ty: T::TYPE }]),
    ));
}

impl Schema for Duration {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "Duration",
        "std::time::Duration",
        ShapeType::Struct(&[FieldType { name: "secs", ty: &Type::U64 }, FieldType { name: "nanos", ty: &Type::U32 }]),
    ));
}

impl Schema for SystemTime {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "SystemTime",
        "std::time::SystemTime",
        ShapeType::Struct(&[
            FieldType { name: "secs_since_epoch", ty: &Type::U64 },
            FieldType { name: "nanos_since_epoch", ty: &Type::U32 },
        ]),
    ));
}

impl Schema for Ipv4Addr {
    const TYPE: &'static Type = <[u8; 4]>::TYPE;
}

impl Schema for Ipv6Addr {
    const TYPE: &'static Type = <[u8; 16]>::TYPE;
}

impl Schema for SocketAddrV4 {
    const TYPE: &'static Type = <(Ipv4Addr, u16)>::TYPE;
}

impl Schema for SocketAddrV6 {
    const TYPE: &'static Type = <(Ipv6Addr, u16)>::TYPE;
}

const fn versions(v4: &'static Type, v6: &'static Type) -> [VariantType; 2] {
    [
        VariantType { name: "V4", shape: ShapeType::Newtype(v4) },
        VariantType { name: "V6", shape: ShapeType::Newtype(v6) },
    ]
}

impl Schema for IpAddr {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "IpAddr",
        "std::net::IpAddr",
        ShapeType::Enum(&const { versions(Ipv4Addr::TYPE, Ipv6Addr::TYPE) }),
    ));
}

impl Schema for SocketAddr {
    const TYPE: &'static Type = &Type::Definition(&definition(
        "SocketAddr",
        "std::net::SocketAddr",
        ShapeType::Enum(&const { versions(SocketAddrV4::TYPE, SocketAddrV6::TYPE) }),
    ));
}
