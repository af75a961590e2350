//! `guest_abi`: a guest calls every function there is, with pointers, lengths, handles and sizes of any kind.
//!
//! What it promises: whatever a guest passes, its worker neither panics nor allocates by the guest's numbers; the execution
//! ends, and the worker holds nothing of it afterwards: no channel, no message, no thread. What is granted to be read only
//! stays as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use sandgate_wire::grants::Directory;
use sandgate_wire::message::Close;
use sandgate_wire::{ChannelId, Limits, Message, ToWorker};

use super::guest::{self, MAX_SCRIPT_BYTES, NAMES, NAMES_TEXT, call, functions, kind};
use super::host::Host;

/// Most things that the host does beside an execution.
const MAX_DEEDS: u8 = 6;

/// Small, so that they are met; a message is of one chunk.
fn limits() -> Limits {
    Limits {
        memory_bytes: 1 << 20,
        message_bytes: 48 << 10,
        channels: 12,
        output_bytes: 100_000,
        wall_time: Some(Duration::from_millis(20)),
        ..Limits::default()
    }
}

/// Runs the guest with a script that the input holds, while the host does what the input says.
///
/// # Panics
/// When something does not hold.
pub fn guest_abi(input: &[u8]) {
    static HOST: OnceLock<Mutex<Host>> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let wasm = wat::parse_str(guest::text()).expect("the guest is well-formed");
        Mutex::new(Host::new(&wasm, limits(), directories()))
    });
    let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
    // An input that is too short describes nothing.
    let _ = play(&mut Unstructured::new(input), &mut host);
    let kept = fs::read(scratch().join("read").join(FILE)).expect("the file is there");
    assert!(kept == CONTENT, "a guest has changed what it may only read");
    empty(&scratch().join("write"));
}

/// The file that a guest may read, and what is in it.
const FILE: &str = "file";
const CONTENT: &[u8] = b"what a guest may read";

/// A directory of this process, with one below it to read and one to write.
fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("sandgate-fuzz-{}", std::process::id()))
}

fn directories() -> Vec<Directory> {
    let grant = |name: &str, writable| {
        let host = scratch().join(name);
        fs::create_dir_all(host.join("sub")).expect("a directory can be made");
        fs::write(host.join(FILE), CONTENT).expect("a file can be written");
        Directory { host, guest: format!("/{name}"), writable }
    };
    vec![grant("read", false), grant("write", true)]
}

/// What one input has written is nothing to the next.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.expect("what a guest has made can be removed");
    }
}

fn play(input: &mut Unstructured<'_>, host: &mut Host) -> Result<()> {
    let deeds: Vec<(u8, u8)> = (0..input.int_in_range(0..=MAX_DEEDS)?)
        .map(|_| Ok((input.int_in_range(0..=6)?, input.arbitrary()?)))
        .collect::<Result<_>>()?;
    let channels = (0..input.int_in_range(0..=3)?).map(|_| host.open()).collect();
    let script = input.peek_bytes(input.len()).unwrap_or_default();
    let script = &script[..script.len().min(MAX_SCRIPT_BYTES as usize)];
    let arguments = Message { bytes: script.to_vec().into(), channels };
    let execution = host.execute(arguments, limits());
    let mut open = true;
    for (deed, size) in deeds {
        open = open && act(host, execution, deed, size.into());
    }
    host.end(execution);
    Ok(())
}

/// One thing that a host does beside an execution; false if it sends nothing more on its channel.
fn act(host: &mut Host, execution: ChannelId, deed: u8, size: usize) -> bool {
    let message = |bytes: usize, channels| Message { bytes: vec![7; bytes].into(), channels };
    match deed {
        0 => host.data(execution, message(size, vec![])),
        // The largest are more than an execution may have.
        1 => host.data(execution, message(size * 200, vec![])),
        2 => {
            let attached = (0..size % 5).map(|_| host.open()).collect();
            host.data(execution, message(size, attached));
        }
        3 => {
            let attached = host.open();
            host.data(execution, message(1, vec![attached]));
            host.data(attached, message(size, vec![]));
        }
        _ => {
            let error = (deed == 6).then(|| "error".repeat(size));
            host.send(&ToWorker::Close(execution, Close { error, sending_only: deed != 4 }));
            return false;
        }
    }
    true
}

/// Inputs to begin with, with their names: every function with arguments of each kind, and a few conversations.
pub fn guest_abi_seeds() -> Vec<(String, Vec<u8>)> {
    const QUIET: &[u8] = &[0, 0];
    let mut seeds = Vec::new();
    for (_, name, parameters, _) in functions() {
        let kinds = [
            (kind::SMALL, 1),
            (kind::IN_MEMORY, 4096),
            (kind::RAW, u32::MAX),
            (kind::AT_THE_END, 4),
            (kind::SCRATCH, 64),
            (kind::MINUS, 8),
            (kind::ALIGNED, 1024),
        ];
        let calls = kinds.map(|argument| call(name, &vec![argument; parameters.len()]));
        seeds.push((format!("all-{name}"), [QUIET, &calls.concat()].concat()));
    }
    let (small, place, own) = (|value| (kind::SMALL, value), |value| (kind::SCRATCH, value), (kind::SMALL, 0));
    let forever = (kind::MINUS, 0);
    let send = |length| call("channel_send", &[own, place(1024), small(length), place(0), small(0), own]);
    let receive = call(
        "channel_receive",
        &[own, place(1024), (kind::IN_MEMORY, 8192), place(256), small(8), place(512), forever],
    );
    let new = call("channel_new", &[]);
    let keep = call("store", &[(kind::ALIGNED, 256), (kind::LAST_RESULT, 0)]);
    let send_new = call("channel_send", &[own, place(1024), small(3), place(256), small(1), own]);
    let conversation = |name: &str, host: &[u8], calls: &[&[u8]]| (name.to_owned(), [host, &calls.concat()].concat());
    let file = |name, handle| call(name, &[small(handle), place(16), small(2), place(8)]);
    let name = |text: &str| {
        let at = NAMES_TEXT.find(text).and_then(|at| u32::try_from(at).ok()).expect("one of the names");
        let length = u32::try_from(text.len()).expect("names are short");
        (place(NAMES + at), small(length))
    };
    let rights = (kind::RAW, u32::MAX);
    let open = |directory, (at, length), flags| {
        let rest = [at, length, small(flags), rights, rights, own, place(512)];
        call("path_open", &[&[small(directory), small(1)][..], &rest].concat())
    };
    let on = |function, descriptor| call(function, &[small(descriptor), place(16), small(2), place(8)]);
    let two = |function: &str, from, to| {
        let ((from, from_length), (to, to_length)) = (name(from), name(to));
        call(function, &[small(4), from, from_length, small(4), to, to_length])
    };
    let make = call("path_create_directory", &[small(4), name("new").0, name("new").1]);
    seeds.extend([
        conversation("reads", QUIET, &[&open(3, name("file"), 0), &on("fd_read", 5), &call("fd_close", &[small(5)])]),
        conversation(
            "writes",
            QUIET,
            &[&open(4, name("new"), 9), &on("fd_write", 5), &call("fd_filestat_get", &[small(5), place(0)])],
        ),
        conversation("writes-what-it-reads", QUIET, &[&open(3, name("file"), 8), &on("fd_write", 5)]),
        conversation(
            "escapes",
            QUIET,
            &[&open(3, name("../file"), 0), &open(4, name("/etc/passwd"), 0), &open(3, name("sub/inside"), 1)],
        ),
        conversation(
            "renames",
            QUIET,
            &[&two("path_rename", "file", "new"), &make, &two("path_rename", "new", "link")],
        ),
        conversation("lists", QUIET, &[&call("fd_readdir", &[small(3), place(1024), small(200), own, place(8)])]),
        conversation("echo", &[1, 0, 5, 0], &[&receive, &send(5)]),
        conversation("receives-channels", &[1, 2, 3, 0], &[&receive, &receive, &send_new]),
        conversation(
            "sends-a-channel",
            QUIET,
            &[&new, &keep, &send_new, &call("channel_drop", &[(kind::LAST_RESULT, 0)])],
        ),
        conversation("many-channels", QUIET, &[&new[..]; 20]),
        conversation(
            "hears-an-error",
            &[1, 6, 2, 0],
            &[&receive, &call("channel_error", &[own, place(0), small(99), place(512)])],
        ),
        conversation("too-large", &[1, 1, 255, 0], &[&receive]),
        conversation(
            "arguments-again",
            &[0, 3],
            &[&call("call_args", &[place(0), small(9), place(256), small(9), place(512)])],
        ),
        conversation("flood", QUIET, &vec![&send(200)[..]; 200]),
        conversation("waits", &[0, 1], &[&call("channel_wait", &[place(0), small(1), forever])]),
        conversation("prints", QUIET, &[&file("fd_write", 1), &file("fd_write", 2)]),
        conversation("polls", QUIET, &[&call("poll_oneoff", &[place(0), place(2048), small(2), place(512)])]),
        conversation(
            "exits",
            QUIET,
            &[&call("task_report", &[small(2), place(0), small(9)]), &call("proc_exit", &[small(7)])],
        ),
    ]);
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_guest_abi_holds_for_its_seeds() {
        for (_, input) in super::guest_abi_seeds() {
            super::guest_abi(&input);
        }
        std::fs::remove_dir_all(super::scratch()).unwrap();
    }
}
