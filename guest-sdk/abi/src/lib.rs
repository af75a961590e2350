//! The contract between a sandgate worker and a guest module: import and export names, status codes, layouts, version.
//!
//! This crate holds numbers and names only, needs nothing but `core`, and is shared by `sandgate-worker` and
//! `sandgate-guest`. A guest in another language needs this page and nothing else.
//!
//! # Conventions
//!
//! * The guest exports its linear memory as `memory`. Every pointer and length is an unsigned 32-bit number passed as
//!   `i32`. The worker copies guest bytes before it uses them and keeps no reference after the call returns.
//! * Every function returns an `i32`: [`status::OK`] or a handle (`>= 0`) on success, a negative [`status`] otherwise.
//! * A pointer and length that leave linear memory give [`status::FAULT`]; a length of 0 is never a fault and its
//!   pointer is not looked at.
//! * Timeouts are nanoseconds as `i64`: negative waits for ever, 0 does not wait. Waiting ends the task without
//!   returning when its execution is killed or reaches its deadline.
//! * A *handle* names a channel inside one instance. Handle [`TASK_CHANNEL`] is the channel of the execution itself.
//!   Handles of other instances do not exist here.
//! * A *message* is a string of bytes and a list of channels. Inside the bytes, an SDK refers to a channel by its
//!   position in the list, encoded as it likes; both SDKs of this project use a `u32`.
//!
//! # Imports, all from module [`IMPORT_MODULE`]
//!
//! ```text
//! channel_send(handle, ptr, len, channels_ptr, channels_len, timeout: i64) -> status
//!     Sends `len` bytes and the channels whose handles stand as `channels_len` u32 at `channels_ptr`.
//!     Waits for credit. CLOSED when this channel can no longer send, TOO_LARGE, TIMEOUT, BAD_HANDLE, FAULT.
//! channel_receive(handle, ptr, cap, channels_ptr, channels_cap, size_ptr, timeout: i64) -> status
//!     Takes the next message: bytes to `ptr`, new handles as u32 to `channels_ptr`. Always writes the message's size at
//!     `size_ptr` (see [`SIZE_BYTES`]) on OK and TOO_SMALL. When either capacity is too small the message is kept, the
//!     status is TOO_SMALL and nothing else is written. CLOSED at the end of the channel, PEER_ERROR when the peer closed
//!     it with an error, both on every further call; TIMEOUT, LIMIT (no room for the new handles), BAD_HANDLE, FAULT.
//! channel_wait(handles_ptr, handles_len, timeout: i64) -> index or status
//!     Waits until one of the listed channels has a message or has ended, and returns its position in the list. The
//!     search starts behind the last one returned, so no channel starves. An empty list waits for the timeout alone.
//! channel_close(handle, error_ptr, error_len, has_error) -> status
//!     Ends the channel for both sides, after what was sent before; with `has_error` 1 the peer sees the text as an error.
//!     OK when it is closed already. The task's own channel ends by returning: closing it is NOT_ALLOWED.
//! channel_error(handle, ptr, cap, size_ptr) -> status
//!     The text of a PEER_ERROR. Writes its size as for a message. CLOSED when there is none.
//! channel_new() -> handle or status
//!     A new channel. It is of use once it was sent inside a message. LIMIT when the guest holds too many; waits when the
//!     limit is reached by channels it has given back and the host has not settled yet.
//! channel_drop(handle) -> status
//!     Gives the handle back. The last handle of a channel closes it. The task's own channel is NOT_ALLOWED.
//! call_args(ptr, cap, channels_ptr, channels_cap, size_ptr) -> status
//!     The message the host passed with this execution; as `channel_receive`, but it does not wait. It is taken once:
//!     CLOSED afterwards and when there was none.
//! task_report(kind, ptr, len) -> status
//!     Tells why the task is about to end: see [`report`]. The worker keeps the last report and caps its text at
//!     [`MAX_REPORT_BYTES`].
//! ```
//!
//! # Exports
//!
//! * `_start`, run by `remote_exec`.
//! * `sandgate_task:NAME` with type `() -> ()` for each named task ([`TASK_EXPORT_PREFIX`]), run by `remote_exec_fn`. A
//!   task export does its own start-up (constructors). It reads its arguments with `call_args`.
//! * `_initialize`, if exported, is called once before either.
//! * `sandgate_init:NAME` with type `() -> ()` for each init function ([`INIT_EXPORT_PREFIX`]). See below.
//! * `sandgate_start:NAME` with type `() -> ()`, for a module that has the init function of this name and `_start`
//!   ([`RESTART_EXPORT_PREFIX`]): what `_start` becomes in its snapshots.
//!
//! # Snapshots
//!
//! An init function is run once, by itself, before any execution. It does its own start-up as a task's export does, takes
//! its input with `call_args`, and may report and end as a task may; every other function of this page is NOT_ALLOWED. Once
//! it has returned, a new module is made of the instance: its memory and its mutable globals are as they were left. That
//! module has neither the init function nor `_initialize` nor a `start` function, for all of them have run. What else it
//! exports is what it was, with the constructors done: an export that runs them has to see for itself that they have been
//! run. `_start` of a C runtime does not look, so it is replaced by `sandgate_start:NAME` if the module exports that.
//!
//! # How an execution ends
//!
//! | the guest | after a report of | outcome |
//! |---|---|---|
//! | returns, or calls `proc_exit(0)` | nothing, or anything but the three below | returned |
//! | returns or exits with any code | [`report::BAD_ARGUMENTS`] | rejected, with the text |
//! | exits with a code that is not 0, or returns | [`report::ERROR`] as its last call here | failed, with the text |
//! | traps, or exits with a code that is not 0 | [`report::PANIC`] | panicked, with text and location |
//! | exits with a code that is not 0 | nothing | exited, with the code |
//! | traps | nothing, or [`report::ERROR`] | trapped, with its kind and backtrace |
//!
//! A report of [`report::ERROR`] is forgotten when the guest calls any other function of this page afterwards: it went on.
//!
//! # Description
//!
//! A module can describe its named tasks, with the types of their parameters and results: see [`schema`].
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod schema;

/// Version of this contract. It is part of [`IMPORT_MODULE`], so that a module built for another version is refused when
/// it is loaded, by name.
pub const ABI_VERSION: u32 = 1;

/// The import module that all functions of this contract live in.
pub const IMPORT_MODULE: &str = "sandgate_v1";

/// What the import module's name starts with in every version; used to tell "another version" from "unknown import".
pub const IMPORT_MODULE_PREFIX: &str = "sandgate_v";

/// The entry point of `remote_exec`.
pub const START_EXPORT: &str = "_start";

/// Called once before the entry point if a module exports it (a reactor).
pub const INITIALIZE_EXPORT: &str = "_initialize";

/// The name of the exported linear memory.
pub const MEMORY_EXPORT: &str = "memory";

/// What the export of a named task starts with; the task's name follows.
pub const TASK_EXPORT_PREFIX: &str = "sandgate_task:";

/// What the export of an init function starts with; the function's name follows.
pub const INIT_EXPORT_PREFIX: &str = "sandgate_init:";

/// What the export starts with that takes the place of `_start` in a snapshot; the init function's name follows.
pub const RESTART_EXPORT_PREFIX: &str = "sandgate_start:";

/// The handle of the execution's own channel.
pub const TASK_CHANNEL: u32 = 0;

/// Bytes written at a `size_ptr`: the message's length and its number of channels, each a little-endian `u32`.
pub const SIZE_BYTES: u32 = 8;

/// Most channels one message can carry.
pub const MAX_MESSAGE_CHANNELS: u32 = 64;

/// Longest text of a report or of a close error in bytes; the rest is cut off at a character boundary.
pub const MAX_REPORT_BYTES: u32 = 16 * 1024;

/// What a function returns when it is not a handle or an index.
pub mod status {
    /// Done.
    pub const OK: i32 = 0;
    /// The channel has ended (receive), can no longer send (send), or there is nothing to take.
    pub const CLOSED: i32 = -1;
    /// The timeout passed.
    pub const TIMEOUT: i32 = -2;
    /// The buffer is too small; the size was written and nothing was taken.
    pub const TOO_SMALL: i32 = -3;
    /// No such handle in this instance.
    pub const BAD_HANDLE: i32 = -4;
    /// A pointer and length leave linear memory.
    pub const FAULT: i32 = -5;
    /// The message is larger than the execution's limit, `message=`.
    pub const TOO_LARGE: i32 = -6;
    /// The execution has too many channels; its limit is `channels=`.
    pub const LIMIT: i32 = -7;
    /// The peer closed the channel with an error; `channel_error` has its text.
    pub const PEER_ERROR: i32 = -8;
    /// Not on this channel.
    pub const NOT_ALLOWED: i32 = -9;
}

/// Kinds of `task_report`.
pub mod report {
    /// The task ends with an error; the text is its message.
    pub const ERROR: i32 = 1;
    /// The task panicked; the text is `LOCATION '\n' MESSAGE`, where the location has no line break and may be empty.
    pub const PANIC: i32 = 2;
    /// The arguments could not be decoded; the text says which and why.
    pub const BAD_ARGUMENTS: i32 = 3;
}

/// Names of the imported functions.
pub mod import {
    /// `channel_send`
    pub const CHANNEL_SEND: &str = "channel_send";
    /// `channel_receive`
    pub const CHANNEL_RECEIVE: &str = "channel_receive";
    /// `channel_wait`
    pub const CHANNEL_WAIT: &str = "channel_wait";
    /// `channel_close`
    pub const CHANNEL_CLOSE: &str = "channel_close";
    /// `channel_error`
    pub const CHANNEL_ERROR: &str = "channel_error";
    /// `channel_new`
    pub const CHANNEL_NEW: &str = "channel_new";
    /// `channel_drop`
    pub const CHANNEL_DROP: &str = "channel_drop";
    /// `call_args`
    pub const CALL_ARGS: &str = "call_args";
    /// `task_report`
    pub const TASK_REPORT: &str = "task_report";
}

// Modules in the field carry these numbers. To change the meaning of one, raise ABI_VERSION and IMPORT_MODULE and let the
// worker serve both; do not edit the number.
const _: () = {
    assert!(ABI_VERSION == 1, "a new version needs a new IMPORT_MODULE; keep serving the old one");
    assert!(status::OK == 0 && status::CLOSED == -1 && status::TIMEOUT == -2, "add a status, do not renumber");
    assert!(
        status::TOO_SMALL == -3 && status::BAD_HANDLE == -4 && status::FAULT == -5,
        "add a status, do not renumber"
    );
    assert!(
        status::TOO_LARGE == -6 && status::LIMIT == -7 && status::PEER_ERROR == -8,
        "add a status, do not renumber"
    );
    assert!(status::NOT_ALLOWED == -9, "add a status, do not renumber");
    assert!(report::ERROR == 1 && report::PANIC == 2 && report::BAD_ARGUMENTS == 3, "add a kind, do not renumber");
    assert!(TASK_CHANNEL == 0 && SIZE_BYTES == 8, "part of the layout: raise the version instead");
};
