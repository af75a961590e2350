//! Bytes made from JSON are those that serde makes, and JSON made from bytes is what serde makes of the value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use sandgate_schema::{Schema, TypeSchema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{decode_json, encode_json};

/// Of which serde's own JSON is the same as here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Schema)]
#[serde(rename_all = "camelCase")]
struct Zoo {
    signed: (i8, i16, i32, i64),
    unsigned_ones: (u8, u16, u32, u64, usize),
    floats: [f64; 2],
    flag: bool,
    letter: char,
    name: String,
    raw: Vec<u8>,
    maybe: Option<Box<Zoo>>,
    animals: Vec<Animal>,
    by_name: BTreeMap<String, Animal>,
    by_number: BTreeMap<i32, u8>,
    by_small: BTreeMap<u8, ()>,
    by_kind: BTreeMap<Kind, Age>,
    by_letter: BTreeMap<char, BTreeSet<u64>>,
    by_flag: BTreeMap<bool, Marker>,
    fate: Result<u8, String>,
    time: Duration,
    #[serde(skip)]
    ignored: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Schema)]
enum Animal {
    None,
    Named(String),
    Pair(u8, Age),
    #[serde(rename = "group")]
    Group {
        name: String,
        #[serde(rename = "m")]
        members: Vec<Animal>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
enum Kind {
    Zebra,
    Ant,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Schema)]
struct Age(u16);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Schema)]
struct Marker;

fn animal() -> impl Strategy<Value = Animal> {
    let leaf = prop_oneof![
        Just(Animal::None),
        ".{0,5}".prop_map(Animal::Named),
        any::<(u8, u16)>().prop_map(|(first, age)| Animal::Pair(first, Age(age))),
    ];
    leaf.prop_recursive(3, 10, 3, |inner| {
        (".{0,3}", vec(inner, 0..3)).prop_map(|(name, members)| Animal::Group { name, members })
    })
}

prop_compose! {
    fn zoo()(
        signed in any::<(i8, i16, i32, i64)>(),
        unsigned_ones in any::<(u8, u16, u32, u64, usize)>(),
        floats in [-1e300..1e300, -1e-300..1e-300],
        (flag, letter, name, raw) in any::<(bool, char, String, Vec<u8>)>(),
        animals in vec(animal(), 0..4),
        by_name in btree_map(".{0,4}", animal(), 0..3),
        by_number in btree_map(any::<i32>(), any::<u8>(), 0..12),
        by_small in btree_map(any::<u8>(), Just(()), 0..12),
        by_kind in btree_map(prop_oneof![Just(Kind::Zebra), Just(Kind::Ant)], any::<u16>().prop_map(Age), 0..3),
        by_letter in btree_map(any::<char>(), btree_set(any::<u64>(), 0..4), 0..4),
        by_flag in btree_map(any::<bool>(), Just(Marker), 0..3),
        fate in prop_oneof![any::<u8>().prop_map(Ok), ".{0,4}".prop_map(Err)],
        time in any::<Duration>(),
    ) -> Zoo {
        Zoo {
            signed, unsigned_ones, floats, flag, letter, name, raw, maybe: None, animals, by_name, by_number, by_small,
            by_kind, by_letter, by_flag, fate, time, ignored: 0,
        }
    }
}

/// Both ways, against serde.
fn check<T: Serialize + DeserializeOwned + Schema + Debug + PartialEq>(value: &T) {
    let schema = TypeSchema::of::<T>();
    let bytes = postcard::to_allocvec(value).unwrap();
    let json = serde_json::to_value(value).unwrap();
    assert_eq!(decode_json(&schema, &bytes).unwrap(), json, "{value:?}");
    assert_eq!(encode_json(&schema, &json).unwrap(), bytes, "{json}");
    // Through text too, as lines of a file.
    let text: Value = serde_json::from_str(&json.to_string()).unwrap();
    assert_eq!(encode_json(&schema, &text).unwrap(), bytes, "{json}");
}

/// Both ways, where serde's JSON is another.
fn check_own<T: Serialize + Schema + Debug>(value: &T, json: &Value) {
    let schema = TypeSchema::of::<T>();
    let bytes = postcard::to_allocvec(value).unwrap();
    assert_eq!(decode_json(&schema, &bytes).unwrap(), *json, "{value:?}");
    assert_eq!(encode_json(&schema, json).unwrap(), bytes, "{json}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_zoo_is_the_same_by_serde_and_by_schema(mut outer in zoo(), inner in proptest::option::of(zoo())) {
        outer.maybe = inner.map(Box::new);
        check(&outer);
    }

    #[test]
    fn any_wide_number_comes_back(signed in any::<i128>(), unsigned in any::<u128>()) {
        let schema = TypeSchema::of::<(i128, u128)>();
        let bytes = postcard::to_allocvec(&(signed, unsigned)).unwrap();
        prop_assert_eq!(encode_json(&schema, &decode_json(&schema, &bytes).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn any_float_comes_back(single in any::<f32>(), double in any::<f64>()) {
        let schema = TypeSchema::of::<(f32, f64)>();
        let bytes = postcard::to_allocvec(&(single, double)).unwrap();
        let back = encode_json(&schema, &decode_json(&schema, &bytes).unwrap()).unwrap();
        let (a, b): (f32, f64) = postcard::from_bytes(&back).unwrap();
        prop_assert!(a.to_bits() == single.to_bits() || (a.is_nan() && single.is_nan()));
        prop_assert!(b.to_bits() == double.to_bits() || (b.is_nan() && double.is_nan()));
    }

    #[test]
    fn arbitrary_bytes_are_values_or_errors(bytes in vec(any::<u8>(), 0..200)) {
        let schema = TypeSchema::of::<Zoo>();
        let ours = decode_json(&schema, &bytes);
        if let Ok(json) = ours {
            let value: Zoo = postcard::from_bytes(&bytes).expect("what is read here is read by serde");
            prop_assert_eq!(serde_json::to_value(&value).unwrap(), json);
        }
        let _ = decode_json(&TypeSchema::of::<Vec<Animal>>(), &bytes);
    }

    #[test]
    fn values_of_other_types_are_errors(bytes in vec(any::<u8>(), 0..300)) {
        let Ok(json) = serde_json::from_slice::<Value>(&bytes) else { return Ok(()) };
        let _ = encode_json(&TypeSchema::of::<Zoo>(), &json);
    }
}

#[test]
fn values_that_serde_writes_otherwise() {
    check_own(&u64::MAX, &json!(u64::MAX));
    check_own(&(i64::MIN, u64::MAX), &json!([i64::MIN, u64::MAX]));
    check_own(&i128::MIN, &json!("-170141183460469231731687303715884105728"));
    check_own(&u128::MAX, &json!("340282366920938463463374607431768211455"));
    check_own(&7_u128, &json!(7));
    check_own(&f64::INFINITY, &json!("Infinity"));
    check_own(&f32::NEG_INFINITY, &json!("-Infinity"));
    check_own(&f64::NAN, &json!("NaN"));
    check_own(&0.1_f32, &json!(0.1));
    check_own(&-0.0_f64, &json!(-0.0));
    check_own(&BTreeMap::from([((1_u8, 2_u8), 'a')]), &json!([[[1, 2], "a"]]));
    check_own(&BTreeMap::from([(Some(1_u8), 'a')]), &json!([[1, "a"]]));
}

#[test]
fn bytes_are_base64() {
    let schema = bytes_schema();
    let encoded = [3, 1, 2, 255];
    assert_eq!(decode_json(&schema, &encoded).unwrap(), json!("AQL/"));
    assert_eq!(encode_json(&schema, &json!("AQL/")).unwrap(), encoded);
    assert_eq!(encode_json(&schema, &json!([1, 2, 255])).unwrap(), encoded);
    assert!(encode_json(&schema, &json!([1, 256])).is_err());
    for text in ["Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zh==", "Zm9=", "Z!==", "Zm9v\n", "Zmé="] {
        assert!(encode_json(&schema, &json!(text)).is_err(), "{text:?}");
    }
}

#[test]
fn bytes_come_back_from_base64() {
    let schema = bytes_schema();
    for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")] {
        let encoded = [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        assert_eq!(decode_json(&schema, &encoded).unwrap(), json!(text));
        assert_eq!(encode_json(&schema, &json!(text)).unwrap(), encoded);
    }
}

struct Raw;

impl Schema for Raw {
    const TYPE: &'static sandgate_schema::Type = &sandgate_schema::Type::Bytes;
}

fn bytes_schema() -> TypeSchema {
    TypeSchema::of::<Raw>()
}

#[test]
fn what_json_may_leave_out_or_write_otherwise() {
    #[derive(Schema)]
    #[expect(dead_code, reason = "for its schema")]
    struct Job {
        name: String,
        size: Option<u8>,
    }
    let check = |value: &Value, bytes: &[u8]| {
        assert_eq!(encode_json(&TypeSchema::of::<Job>(), value).unwrap(), bytes, "{value}");
    };
    check(&json!({"name": "a"}), b"\x01a\x00");
    check(&json!({"name": "a", "size": null}), b"\x01a\x00");
    check(&json!({"size": 3, "name": "a"}), b"\x01a\x01\x03");
    let number = TypeSchema::of::<u64>();
    assert_eq!(encode_json(&number, &json!("18446744073709551615")), encode_json(&number, &json!(u64::MAX)));
    assert_eq!(encode_json(&TypeSchema::of::<Animal>(), &json!({"None": null})).unwrap(), [0]);
    assert_eq!(encode_json(&TypeSchema::of::<Option<Option<u8>>>(), &json!(null)).unwrap(), [0]);
}

#[test]
fn errors_name_place_type_and_value() {
    fn check<T: Schema + ?Sized>(value: &Value, text: &str) {
        assert_eq!(encode_json(&TypeSchema::of::<T>(), value).unwrap_err().to_string(), text);
    }
    check::<u32>(&json!("x"), r#"expected u32, found "x""#);
    check::<u32>(&json!(-1), "expected u32, found -1");
    check::<u32>(&json!(1.0), "expected u32, found 1.0");
    check::<u32>(&json!("1"), r#"expected u32, found "1""#);
    check::<u8>(&json!(256), "expected u8, found 256");
    check::<u64>(&json!("+1"), r#"expected u64, found "+1""#);
    check::<i64>(&json!(u64::MAX), "expected i64, found 18446744073709551615");
    check::<f32>(&json!(1e300), "expected f32, found 1e+300");
    check::<f64>(&json!(null), "expected f64, found null");
    check::<char>(&json!("ab"), r#"expected char, found "ab""#);
    check::<()>(&json!(0), "expected (), found 0");
    check::<Vec<u8>>(&json!([1, 2, "c"]), r#"[2]: expected u8, found "c""#);
    check::<[u8; 3]>(&json!([1, 2]), "expected [u8; 3], found an array of 2");
    check::<(u8, bool)>(&json!([1, 2]), "[1]: expected bool, found 2");
    check::<Kind>(&json!("Cat"), r#"expected Kind, one of "Zebra", "Ant", found "Cat""#);
    check::<Kind>(&json!({"Ant": 1}), ".Ant: expected null for Ant, found 1");
    check::<Animal>(&json!({"Pair": [1]}), ".Pair: expected an array of 2 for Pair, found an array of 1");
    check::<Animal>(&json!({"group": {"name": "n"}}), ".group.m: expected [Animal], found nothing: it is missing");
    let typo = json!({"group": {"name": "n", "m": [], "membres": []}});
    check::<Animal>(&typo, r#".group: expected a field of group, found "membres""#);
    check::<BTreeMap<u8, u8>>(&json!({"300": 1}), r#"expected a key of type u8, found "300""#);
    check::<BTreeMap<u8, u8>>(&json!({"1": 1, "01": 2}), r#"expected different keys, found "1""#);
    check::<BTreeMap<String, u8>>(&json!({"a b": true}), r#"["a b"]: expected u8, found true"#);
    check::<BTreeMap<(u8, u8), u8>>(&json!([[[1, 2]]]), "[0]: expected an array of key and value, found an array of 1");
    let long = "x".repeat(1000);
    let cut = format!("expected bool, found \"{}\"…", "x".repeat(60));
    check::<bool>(&json!(long), &cut);
    struct Secret;
    impl Schema for Secret {
        const TYPE: &'static sandgate_schema::Type = &sandgate_schema::Type::Opaque("Secret");
    }
    check::<Secret>(&json!(1), "expected opaque `Secret`, which has no schema, found 1");
}

#[test]
fn bytes_that_are_no_value_are_errors() {
    fn check<T: Schema + ?Sized>(bytes: &[u8], text: &str) {
        assert_eq!(decode_json(&TypeSchema::of::<T>(), bytes).unwrap_err().to_string(), text);
    }
    check::<bool>(&[2], "expected bool, found the byte 2");
    check::<Option<u8>>(&[3], "expected u8?, found the byte 3");
    check::<u16>(&[0xff, 0xff, 0x07], "expected u16, found a number out of range");
    check::<(u8, u32)>(&[1], "[1]: expected u32, found the end of the message, or a number out of range");
    check::<u8>(&[1, 2], "expected the end of u8, found 1 more bytes");
    check::<Kind>(&[2], "expected Kind with 2 variants, found variant 2");
    check::<String>(&[2, 0xff, 0xff], "expected string, found no UTF-8, or the end of the message");
    check::<BTreeMap<String, u8>>(&[2, 1, b'a', 1, 1, b'a', 2], r#"expected different keys, found "a""#);
}

#[test]
fn hostile_bytes_and_types_cost_little() {
    // 2^60 values of no bytes.
    let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    let error = decode_json(&TypeSchema::of::<Vec<()>>(), &many).unwrap_err();
    assert_eq!(error.found, "more values than the bytes of the message can account for");
    let error = decode_json(&TypeSchema::of::<[[[(); 4096]; 4096]; 4096]>(), &[]).unwrap_err();
    assert_eq!(error.found, "more values than the bytes of the message can account for");
    // `Group { m: [Group { .. }] }` for ever.
    let deep = [3, 0, 1].repeat(10_000);
    let error = decode_json(&TypeSchema::of::<Animal>(), &deep).unwrap_err();
    assert_eq!(error.found, "one that nests deeper than 128 levels");
    // `struct a(a)`, as only a hostile module describes it.
    let entry = b"\x01\x0b\x00\x00\x00\x01t\x00\x00\x00\x18\x01a\x01\x19\x00";
    let looped = sandgate_schema::read_section(entry).unwrap().remove(0).result;
    assert!(decode_json(&looped, &[]).is_err());
    assert!(encode_json(&looped, &json!(1)).is_err());
}
