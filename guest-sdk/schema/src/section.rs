//! The entry of one task or init function, as the attributes have it made, and how it picks a type's description if there is
//! one.
//!
//! An associated constant of the type itself goes before one of a trait: `Described::<T>::TYPE` is the schema where `T` has
//! one, and nothing where only [`NoSchema`] offers it. That works where the type is written out, so the attribute does it.
#![expect(missing_docs, reason = "public for the expansion of the attribute only")]

use std::marker::PhantomData;

use sandgate_abi::schema::{ENTRY_HEADER_BYTES, ENTRY_VERSION, FLAG_CHANNEL, FLAG_INIT, MAX_ENTRY_BYTES};

use crate::types::{Schema, Type};
use crate::write::Writer;

/// One task, as it is written in the module.
#[derive(Debug)]
pub struct TaskEntry {
    pub name: &'static str,
    pub takes_channel: bool,
    pub is_init: bool,
    pub help: &'static str,
    pub parameters: &'static [ParameterType],
    pub result: Option<&'static Type>,
    /// The result's type for people.
    pub result_text: &'static str,
}

/// One parameter.
#[derive(Debug)]
pub struct ParameterType {
    pub name: &'static str,
    pub ty: Option<&'static Type>,
    /// The type as written.
    pub text: &'static str,
}

/// The length of an entry with its header.
pub const fn entry_length(task: &TaskEntry) -> usize {
    ENTRY_HEADER_BYTES + written(task).length()
}

/// An entry with its header; `N` is what [`entry_length`] says.
#[expect(clippy::cast_possible_truncation, reason = "a byte at a time, and an entry is far shorter than 4 GiB")]
pub const fn entry_bytes<const N: usize>(task: &TaskEntry) -> [u8; N] {
    let body = written(task);
    let length = (body.length() as u32).to_le_bytes();
    let mut bytes = [0; N];
    bytes[0] = ENTRY_VERSION;
    let mut at = 0;
    while at < length.len() {
        bytes[1 + at] = length[at];
        at += 1;
    }
    at = 0;
    while at < body.length() {
        bytes[ENTRY_HEADER_BYTES + at] = body.byte_at(at);
        at += 1;
    }
    bytes
}

/// The body. Types that do not fit are left out, and the help if that is not enough.
const fn written(task: &TaskEntry) -> Writer<MAX_ENTRY_BYTES> {
    let whole = body(task, true, task.help);
    if !whole.is_overflown() {
        return whole;
    }
    let untyped = body(task, false, task.help);
    if !untyped.is_overflown() {
        return untyped;
    }
    let bare = body(task, false, "");
    assert!(!bare.is_overflown(), "the names of this task and its parameters are too long");
    bare
}

const fn body(task: &TaskEntry, typed: bool, help: &str) -> Writer<MAX_ENTRY_BYTES> {
    let mut writer = Writer::new();
    writer.text(task.name);
    writer.byte(match (task.takes_channel, task.is_init) {
        (false, false) => 0,
        (true, false) => FLAG_CHANNEL,
        (false, true) => FLAG_INIT,
        (true, true) => panic!("an init function has no channel"),
    });
    writer.text(help);
    writer.number(task.parameters.len());
    let mut at = 0;
    while at < task.parameters.len() {
        let parameter = &task.parameters[at];
        writer.text(parameter.name);
        match parameter.ty {
            Some(ty) if typed => writer.ty(ty, 1),
            _ => writer.opaque(parameter.text),
        }
        at += 1;
    }
    match task.result {
        Some(ty) if typed => writer.ty(ty, 1),
        _ => writer.opaque(task.result_text),
    }
    writer
}

/// `Described::<T>::TYPE`: the schema of `T`, if it has one.
#[derive(Debug)]
pub struct Described<T: ?Sized>(PhantomData<T>);

impl<T: Schema + ?Sized> Described<T> {
    pub const TYPE: Option<&'static Type> = Some(T::TYPE);
}

/// What holds for any type.
pub trait NoSchema {
    const TYPE: Option<&'static Type> = None;
}

impl<T: ?Sized> NoSchema for Described<T> {}

/// `DescribedResult::<R>::TYPE`: the schema of `T` if `R` is a `Result<T, _>` and `T` has one.
#[derive(Debug)]
pub struct DescribedResult<R>(PhantomData<R>);

impl<T: Schema, E> DescribedResult<Result<T, E>> {
    pub const TYPE: Option<&'static Type> = Some(T::TYPE);
}

/// What holds for any type.
pub trait NoSchemaResult {
    const TYPE: Option<&'static Type> = None;
}

impl<R> NoSchemaResult for DescribedResult<R> {}

/// `IsResult::<R>::YES`: whether `R` is a `Result`.
#[derive(Debug)]
pub struct IsResult<R>(PhantomData<R>);

impl<T, E> IsResult<Result<T, E>> {
    pub const YES: bool = true;
}

/// What holds for any type.
pub trait NoResult {
    const YES: bool = false;
}

impl<R> NoResult for IsResult<R> {}
