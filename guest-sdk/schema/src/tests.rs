//! What is written is read: constants, sections and hostile bytes.
#![expect(dead_code, reason = "types are there for their schemas")]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use sandgate_abi::schema::{ENTRY_VERSION, MAX_DEPTH, MAX_ENTRY_BYTES, MAX_SECTION_BYTES, kind};
use serde::{Deserialize, Serialize};

use crate::__private::{Described, DescribedResult, IsResult, NoResult, NoSchema, NoSchemaResult};
use crate::__private::{ParameterType, TaskEntry, entry_bytes, entry_length};
use crate::{ReadError, Schema, Type, TypeSchema, read_section};

#[derive(Schema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Point<T> {
    x_axis: T,
    #[serde(rename = "Y", default)]
    y_axis: T,
    #[serde(skip)]
    _cached: Option<HashMap<u8, u8>>,
}

#[derive(Schema)]
enum Tree {
    Leaf(i64),
    Node { left: Box<Tree>, right: Box<Self>, names: BTreeMap<String, Tree> },
    Nothing,
}

#[derive(Schema)]
struct Wrapper(Point<f32>);

#[derive(Schema, Serialize, Deserialize)]
#[serde(transparent)]
struct Transparent {
    inner: Vec<u8>,
}

#[derive(Schema)]
struct Rose<T> {
    value: T,
    children: Vec<Rose<T>>,
}

#[derive(Schema)]
#[schema(cycle = "Even")]
struct Odd(Option<Box<Even>>);

#[derive(Schema)]
struct Even(Option<Box<Odd>>);

#[derive(Schema)]
struct Borrows<'a> {
    text: &'a str,
    list: &'a [u8],
}

#[derive(Schema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "UPPERCASE")]
enum Renamed {
    FirstOne,
    SecondOne {
        a_field: u8,
    },
    #[serde(rename = "3")]
    Third(#[schema(as = "String")] Duration),
    #[serde(skip)]
    _Skipped(Opaque),
}

#[derive(Serialize, Deserialize, Default)]
struct Opaque;

#[derive(Schema)]
struct HasOpaque {
    #[schema(opaque)]
    it: Opaque,
}

fn check<T: Schema + ?Sized>(text: &str, definitions: &[&str]) {
    let schema = TypeSchema::of::<T>();
    assert_eq!(schema.to_string(), text);
    let found: Vec<String> = schema.definitions().iter().map(ToString::to_string).collect();
    assert_eq!(found, definitions);
}

#[test]
fn types_describe_themselves() {
    check::<u32>("u32", &[]);
    check::<(u8,)>("(u8,)", &[]);
    check::<HashMap<String, Vec<Option<(i8, char)>>>>("{string: [(i8, char)?]}", &[]);
    check::<[f64; 3]>("[f64; 3]", &[]);
    check::<Point<u16>>("Point", &["struct Point { xAxis: u16, Y: u16 }"]);
    check::<Wrapper>("Wrapper", &["struct Wrapper(Point)", "struct Point { xAxis: f32, Y: f32 }"]);
    check::<Transparent>("[u8]", &[]);
    check::<Borrows<'_>>("Borrows", &["struct Borrows { text: string, list: [u8] }"]);
    check::<Duration>("Duration", &["struct Duration { secs: u64, nanos: u32 }"]);
    check::<Result<u8, String>>("Result", &["enum Result { Ok(u8), Err(string) }"]);
    check::<Renamed>("Renamed", &["enum Renamed { first-one, second-one { A_FIELD: u8 }, 3(string) }"]);
    check::<HasOpaque>("HasOpaque", &["struct HasOpaque { it: opaque `Opaque` }"]);
}

#[test]
fn types_may_contain_themselves() {
    check::<Tree>(
        "Tree",
        &["enum Tree { Leaf(i64), Node { left: Tree, right: Tree, names: {string: Tree} }, Nothing }"],
    );
    check::<Rose<u8>>("Rose", &["struct Rose { value: u8, children: [Rose] }"]);
    check::<Even>("Even", &["struct Even(Odd?)", "struct Odd(Even?)"]);
    // Not from this side: nothing around it is called `Even`.
    check::<Odd>("Odd", &["struct Odd(opaque `Even`?)"]);
}

#[test]
fn a_type_is_described_once() {
    check::<(Tree, Vec<Tree>)>(
        "(Tree, [Tree])",
        &["enum Tree { Leaf(i64), Node { left: Tree, right: Tree, names: {string: Tree} }, Nothing }"],
    );
    // Generic types are other ones each time.
    let twice = TypeSchema::of::<(Point<u8>, Point<u16>)>();
    assert_eq!(twice.definitions().len(), 2);
}

#[test]
fn what_is_too_deep_is_opaque() {
    type Deep<T> = Option<Option<Option<Option<Option<Option<Option<Option<T>>>>>>>>;
    let schema = TypeSchema::of::<Deep<Deep<Deep<Deep<u8>>>>>();
    assert!(schema.to_string().starts_with("opaque `core::option::Option<"), "{schema}");
    let fits = TypeSchema::of::<Deep<Deep<Deep<Option<u8>>>>>();
    assert_eq!(fits.to_string(), format!("u8{}", "?".repeat(25)));
}

type Fails = Result<Tree, std::num::ParseIntError>;

const TASK: TaskEntry = TaskEntry {
    name: "add",
    takes_channel: true,
    is_init: false,
    help: "Adds.\n\nTwo things.",
    parameters: &[
        ParameterType { name: "a", ty: Described::<Point<u32>>::TYPE, text: "Point<u32>" },
        ParameterType { name: "b", ty: Described::<Opaque>::TYPE, text: "Opaque" },
        ParameterType { name: "c", ty: Described::<Vec<Tree>>::TYPE, text: "Vec<Tree>" },
    ],
    result: DescribedResult::<Fails>::TYPE,
    result_text: "Fails",
};

static ENTRY: [u8; entry_length(&TASK)] = entry_bytes(&TASK);

#[test]
fn a_task_is_written_by_the_compiler_and_read_by_the_host() {
    let tasks = read_section(&ENTRY).unwrap();
    let [task] = &tasks[..] else { panic!("{tasks:?}") };
    assert_eq!(task.to_string(), "add(a: Point, b: opaque `Opaque`, c: [Tree]) -> Tree");
    assert_eq!((task.help.as_str(), task.takes_channel), ("Adds.\n\nTwo things.", true));
    assert_eq!(task.result.definitions().len(), 2);
    assert_eq!(task.arguments().to_string(), "(Point, opaque `Opaque`, [Tree])");
    assert!(ENTRY.len() < 160, "an entry of {} bytes", ENTRY.len());
}

#[test]
fn golden_bytes() {
    const ADD: TaskEntry = TaskEntry {
        name: "add",
        takes_channel: false,
        is_init: false,
        help: "",
        parameters: &[ParameterType { name: "a", ty: Described::<u32>::TYPE, text: "u32" }],
        result: Described::<Wrapper>::TYPE,
        result_text: "Wrapper",
    };
    let bytes: [u8; entry_length(&ADD)] = entry_bytes(&ADD);
    let body = b"\x03add\x00\x00\x01\x01a\x09\x18\x07Wrapper\x01\x18\x05Point\x03\x02\x05xAxis\x0c\x01Y\x0c";
    assert_eq!(bytes[..5], [1, 39, 0, 0, 0]);
    assert_eq!(&bytes[5..], body);
}

#[test]
fn types_are_picked_by_what_they_are() {
    assert!(Described::<u8>::TYPE.is_some() && Described::<Opaque>::TYPE.is_none());
    assert!(Described::<Vec<Opaque>>::TYPE.is_none());
    assert!(DescribedResult::<Fails>::TYPE.is_some() && DescribedResult::<u8>::TYPE.is_none());
    const { assert!(IsResult::<Fails>::YES && !IsResult::<u8>::YES && IsResult::<Result<Opaque, ()>>::YES) };
}

struct Huge;

impl Schema for Huge {
    const TYPE: &'static Type = {
        const A: &Type = &Type::Tuple(&[&Type::Bool; 64]);
        const B: &Type = &Type::Tuple(&[A; 64]);
        &Type::Tuple(&[B; 64])
    };
}

#[test]
fn a_type_that_does_not_fit_leaves_the_task_described_without_types() {
    const TASK: TaskEntry = TaskEntry {
        name: "huge",
        takes_channel: false,
        is_init: false,
        help: "help",
        parameters: &[ParameterType { name: "a", ty: Described::<Huge>::TYPE, text: "Huge" }],
        result: Described::<u8>::TYPE,
        result_text: "u8",
    };
    let bytes: [u8; entry_length(&TASK)] = entry_bytes(&TASK);
    assert_eq!(read_section(&bytes).unwrap()[0].to_string(), "huge(a: opaque `Huge`) -> opaque `u8`");
}

/// An entry with this body.
fn entry(version: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[version][..], &length, body].concat()
}

/// A task `t` without parameters and with this result.
fn with_result(ty: &[u8]) -> Vec<u8> {
    entry(ENTRY_VERSION, &[b"\x01t\x00\x00\x00", ty].concat())
}

#[test]
fn what_is_wrong_is_said() {
    let check = |bytes: &[u8], expected: ReadError| assert_eq!(read_section(bytes), Err(expected), "{bytes:?}");
    let result = |ty: &[u8], expected: ReadError| check(&with_result(ty), expected);
    assert_eq!(read_section(&[]).unwrap(), []);
    assert_eq!(read_section(&entry(2, b"\xff\xff")).unwrap(), [], "another version");
    for end in 1..ENTRY.len() {
        check(&ENTRY[..end], ReadError::Truncated);
    }
    check(&[&ENTRY[..], &ENTRY].concat(), ReadError::Duplicate("add".to_owned()));
    check(&vec![0; MAX_SECTION_BYTES + 1], ReadError::SectionTooLarge(MAX_SECTION_BYTES + 1));
    check(&entry(1, &vec![0; MAX_ENTRY_BYTES + 1]), ReadError::EntryTooLarge(MAX_ENTRY_BYTES + 1));
    check(&entry(1, b"\x01\x1b\x00\x00\x00\x00"), ReadError::Text);
    check(&entry(1, b"\x01\xff\x00\x00\x00\x00"), ReadError::Text);
    for flags in [3, 4, 0xff] {
        check(&entry(1, &[1, b't', flags, 0, 0, 0]), ReadError::Unknown(flags));
    }
    let (task, init) = (entry(1, b"\x01t\x00\x00\x00\x00"), entry(1, b"\x01t\x02\x00\x00\x00"));
    check(&[&init[..], &init].concat(), ReadError::Duplicate("t".to_owned()));
    let both = read_section(&[init, task].concat()).unwrap();
    assert_eq!(both.iter().filter(|it| it.is_init).count(), 1, "a task and an init function may have one name");
    check(&entry(1, b"\x01t\x00\x00\x02\x01a\x01\x01a\x01\x00"), ReadError::Duplicate("a".to_owned()));
    result(&[99], ReadError::Unknown(99));
    result(&[kind::UNIT, 0], ReadError::LeftOver(1));
    result(&[kind::REFERENCE, 0], ReadError::Reference(0));
    result(&[kind::TUPLE, 0xff, 0xff, 0xff, 0xff, 0x0f], ReadError::Truncated);
    result(&[kind::TUPLE, 0xff, 0xff, 0xff, 0xff, 0x1f], ReadError::Number);
    result(&[kind::OPTION; MAX_DEPTH + 1], ReadError::TooDeep);
    result(&[kind::DEFINITION, 1, b'a', 4, 1, 1, b'b', 4, 0], ReadError::Unknown(4));
    let many: Vec<u8> = [&[kind::TUPLE, 0x81, 0x02][..], &[kind::DEFINITION, 0, 0].repeat(257)].concat();
    result(&many, ReadError::TooManyDefinitions);
}

#[test]
fn types_are_compared_by_encoding_and_names() {
    #[derive(Schema)]
    struct Mine {
        id: u32,
        tags: Vec<Tag>,
    }
    #[derive(Schema)]
    struct Tag(String);
    #[derive(Schema)]
    struct Theirs {
        id: u32,
        tags: Vec<String>,
    }
    #[derive(Schema)]
    struct Swapped {
        tags: Vec<String>,
        id: u32,
    }
    #[derive(Schema)]
    struct Wider {
        id: u32,
        tags: Vec<u64>,
    }
    #[derive(Schema)]
    struct Longer {
        id: u32,
        tags: Vec<String>,
        more: bool,
    }
    #[derive(Schema)]
    struct Pair(u8, u8);
    fn differ<A: Schema, B: Schema>() -> String {
        TypeSchema::of::<A>().compare(&TypeSchema::of::<B>()).err().map(|found| found.to_string()).unwrap_or_default()
    }
    assert_eq!(differ::<Mine, Theirs>(), "");
    assert_eq!(differ::<Tree, Tree>(), "");
    assert_eq!(differ::<(u8, u8), [u8; 2]>(), "");
    assert_eq!(differ::<Pair, (u8, u8)>(), "");
    assert_eq!(differ::<Rose<u8>, Rose<Option<u8>>>(), "at .value: `u8` here, `u8?` there");
    assert_eq!(differ::<Mine, Swapped>(), "`field id` here, `field tags` there");
    assert_eq!(differ::<Mine, Wider>(), "at .tags[]: `Tag` here, `u64` there");
    assert_eq!(differ::<Mine, Longer>(), "`no more fields` here, `field more` there");
    assert_eq!(differ::<(u8, String), (u8, u32)>(), "at .1: `string` here, `u32` there");
    assert_eq!(differ::<HasOpaque, HasOpaque>(), "at .it: `opaque `Opaque`` here, `opaque `Opaque`` there");
    assert_eq!(
        differ::<Option<Pair>, Option<Mine>>(),
        "at ?: `Pair(u8, u8)` here, `Mine { id: u32, tags: [Tag] }` there"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_section(&bytes);
        let _ = read_section(&entry(ENTRY_VERSION, &bytes));
        let _ = read_section(&with_result(&bytes));
    }

    #[test]
    fn bytes_of_types_do_not_panic_and_compare(bytes in proptest::collection::vec(0u8..27, 0..200)) {
        if let Ok(tasks) = read_section(&with_result(&bytes)) {
            for task in tasks {
                let _ = task.to_string();
                let _ = task.result.compare(&task.result);
                let _ = TypeSchema::of::<Tree>().compare(&task.result);
            }
        }
    }

    #[test]
    fn changed_sections_do_not_panic(at in 0..ENTRY.len(), byte in any::<u8>()) {
        let mut bytes = ENTRY.to_vec();
        bytes[at] = byte;
        let _ = read_section(&bytes);
    }
}

#[test]
fn a_hostile_type_that_holds_only_itself_is_compared_to_an_end() {
    // `struct a(a)`
    let looped = with_result(&[kind::DEFINITION, 1, b'a', 1, kind::REFERENCE, 0]);
    let looped = read_section(&looped).unwrap().remove(0).result;
    assert!(looped.compare(&TypeSchema::of::<u8>()).is_err());
    assert!(TypeSchema::of::<Tree>().compare(&looped).is_err());
    assert!(looped.compare(&looped).is_err());
}
