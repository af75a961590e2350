//! What the guests and the tests that run them say to each other: types only, for both targets.
//!
//! A guest whose messages are plain numbers or texts has no type here; its own `//!` says what it speaks.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use sandgate_schema::Schema;
use serde::{Deserialize, Serialize};

/// What `process_item` sends. It receives `Option<u32>`: an item, or `None` to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Sent once, first.
    Ready,
    /// The result of an item.
    Done(u32),
}

/// How `traps` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trap {
    Unreachable,
    DivisionByZero,
    OutOfBounds,
    StackOverflow,
    IndirectCall,
}

/// What `prints` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// Lines to each of stdout and stderr.
    pub lines: u32,
    /// Bytes of a line, without its line break.
    pub line_bytes: u32,
    /// Text without a line break at the end of stdout, to see whether it is flushed.
    pub unfinished: bool,
}

/// What `wasi_probe` sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasiView {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Of the wall clock, in nanoseconds since 1970.
    pub wall_clock: u128,
    /// Whether the monotonic clock advanced while the guest slept for a millisecond.
    pub monotonic_advances: bool,
    /// Whether two calls for random numbers differ.
    pub random_differs: bool,
    /// Entries of `.`, or the error of listing it.
    pub current_dir: Result<Vec<String>, String>,
    /// Entries of `/`, or the error of listing it.
    pub root_dir: Result<Vec<String>, String>,
    /// The length of `/etc/passwd`, or the error of reading it.
    pub passwd: Result<u64, String>,
    /// The error of creating `/tmp/sandgate-probe`, if it is one.
    pub create: Result<(), String>,
    /// Bytes read from stdin, or the error.
    pub stdin: Result<u64, String>,
    /// The error of connecting to 127.0.0.1:80.
    pub connect: Result<(), String>,
}

/// What `ops` is asked to do, one operation after the other on its task channel or on a channel it was sent.
///
/// `C` is the channel type of either side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op<C> {
    /// Keeps this channel at the end of the guest's list, where [`Op::On`] finds it.
    Take(C),
    /// Makes a new channel, keeps it at the end of the list and sends it as [`Answer::Channel`].
    New,
    /// Does something with the channel at this position of the list. Position 0 is the task's own channel.
    On(u32, Action),
    /// Gives all channels but the task's own back.
    DropAll,
    /// Waits on these positions.
    Wait { positions: Vec<u32>, timeout_nanos: Option<u64> },
    /// Ends the guest: `main` returns.
    Return,
    /// Ends the guest with this error.
    Fail(String),
}

/// What [`Op::On`] does. Values are `u32`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Send(u32),
    TrySend(u32),
    SendTimeout(u32, u64),
    SendBytes(Vec<u8>),
    Receive,
    TryReceive,
    ReceiveTimeout(u64),
    ReceiveBytes,
    /// All values up to the end.
    Drain,
    Close,
    CloseWithError(String),
}

/// What `ops` sends after each operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<C> {
    Done,
    Channel(C),
    Value(Option<u32>),
    Bytes(Vec<u8>),
    Values(Vec<u32>),
    Ready(u32),
    Error(OpError),
}

/// The errors of the SDK, as far as a test wants to tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpError {
    Closed,
    Timeout,
    TooLarge,
    TooManyChannels,
    NotAllowed,
    Decode(String),
    Peer(String),
    Other(String),
}

/// What `typed` takes and gives back: one of each kind of type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[serde(rename_all = "camelCase")]
pub struct Zoo {
    pub small_numbers: (i8, u8, i16, u16, i32),
    pub large: u64,
    pub larger: i128,
    pub floats: [f64; 2],
    pub single: f32,
    pub letter: char,
    pub name: String,
    pub maybe: Option<Box<Zoo>>,
    pub animals: Vec<Animal>,
    pub counts: BTreeMap<u32, bool>,
    pub nothing: (),
}

/// One animal of the [`Zoo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Animal {
    None,
    Named(String),
    Pair(u8, Age),
    Group { name: String, members: Vec<Animal> },
}

/// In years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Age(pub u16);

/// An input of the tasks of `pooled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Hostile {
    /// Return twice the number.
    Double(u64),
    /// Sleep so many milliseconds.
    Sleep(u64),
    /// Compute for ever.
    Loop,
    /// Panic.
    Panic,
    /// Allocate for ever.
    Bomb,
    /// Recurse for ever.
    Recurse,
    /// Return an error.
    Fail,
    /// Exit with this code.
    Exit(i32),
}

/// How the init function `ends` of `warm` ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum InitEnd {
    /// Panic with this text.
    Panic(String),
    /// Exit with this code.
    Exit(i32),
    /// Return an error.
    Fail(String),
    /// Receive on the task's channel, and return the error.
    Receive,
    /// Send on the task's channel, and return the error.
    Send,
    /// Make a channel, and return the error.
    NewChannel,
    /// Compute for ever.
    Loop,
    /// Sleep for an hour, of which a clock that stands still makes nothing.
    Sleep,
    /// Allocate for ever.
    Bomb,
    /// Recurse for ever.
    Recurse,
    /// Print for ever.
    Print,
    /// Keep so many bytes that are not zero, and return.
    Keep(u32),
}

/// A value of a script, on its way from or to the host. `script` speaks it on its channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Schema)]
pub enum ScriptValue {
    /// `()`.
    Unit,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text, or a single character.
    Text(String),
    /// A blob.
    Bytes(Vec<u8>),
    /// An array.
    List(Vec<ScriptValue>),
    /// An object map.
    Map(BTreeMap<String, ScriptValue>),
}
