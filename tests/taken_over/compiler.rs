//! A compiler that was taken over by the module it has read. A module that is a text says what the compiler does.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdin;
use sandgate_wire::ToHost;
use sandgate_wire::ToWorker;
use sandgate_wire::frame::{FrameReader, Header};
use sandgate_wire::message::Compiled;
use sandgate_wire::module_limits::Shape;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::transport::{Descriptors, unix_socket};

use crate::wire::ENGINE;

pub(crate) fn run() {
    let own = || stdin().try_clone_to_owned().unwrap();
    let mut frames = FrameReader::new(Box::new(unix_socket(own(), Descriptors::Accept).1));
    let Some(Ok(ToWorker::Compile(_))) = frames.read_frame().unwrap().map(ToWorker::decode) else { exit(2) };
    let (mut module, mut artefact) =
        (File::from(frames.take_descriptor().unwrap()), File::from(frames.take_descriptor().unwrap()));
    let mut text = Vec::new();
    module.seek(SeekFrom::Start(0)).unwrap();
    module.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut socket = UnixStream::from(own());
    let mut say = |compiled: Compiled| {
        let encoded = ToHost::Compiled(compiled).encode();
        let length = u32::try_from(encoded.body.len()).unwrap();
        let header = Header { length, kind: encoded.kind, flags: encoded.flags, channel: encoded.channel };
        let _ = socket.write_all(&[&header.encode()[..], &encoded.body].concat());
    };
    let done = |engine: &str, bytes| Compiled::Done {
        engine: engine.to_owned(),
        bytes,
        shape: Shape::default(),
        description: Vec::new(),
    };
    let native = b"native code";
    match text.strip_prefix("compiler: ") {
        None => {
            artefact.write_all(native).unwrap();
            say(done(ENGINE, native.len() as u64));
        }
        Some("says nothing") => {
            let _ = socket.read_to_end(&mut Vec::new());
        }
        Some("stops itself") => drop(kill_process(getpid(), Signal::STOP)),
        Some("crashes") => drop(kill_process(getpid(), Signal::TRAP)),
        Some("exits") => {}
        Some("writes garbage") => drop(socket.write_all(&[0xa5; 4096])),
        Some("announces more than it wrote") => say(done(ENGINE, u64::MAX)),
        Some("writes 1 GiB of nothing") => {
            artefact.set_len(1 << 30).unwrap();
            say(done(ENGINE, 1 << 30));
        }
        Some("is for another engine") => say(done("\u{1b}[31mred", 0)),
        Some("answers and does not end") => {
            artefact.write_all(native).unwrap();
            say(done(ENGINE, native.len() as u64));
            let _ = socket.read_to_end(&mut Vec::new());
            std::thread::park();
        }
        Some("answers and goes on writing") => {
            artefact.write_all(native).unwrap();
            say(done(ENGINE, native.len() as u64));
            for _ in 0..10_000 {
                let _ = artefact.write_all(&[0xcc; 64]);
            }
        }
        Some("refuses at length") => {
            say(Compiled::Rejected(Rejection::Compilation { message: "\u{1b}]0;owned\u{7}".repeat(20_000) }))
        }
        Some(other) => {
            eprintln!("no compiler does `{other}`");
            exit(1)
        }
    }
}
