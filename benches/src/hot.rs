//! The hot paths of the host's side, each as something that can be done again and again without a process, thread or system
//! call: for counting instructions, and for criterion.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::Bytes;
use sandgate::measuring::pool_core;
use sandgate_wire::assembly::{Assembly, SEVERAL};
use sandgate_wire::flow::ReceiveWindow;
use sandgate_wire::frame::{FrameReader, Header};
use sandgate_wire::message::kind;
use sandgate_wire::messages::{Messages, Together};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{ChannelId, Message, Outbox, ToHost};

/// One of them.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Makes what is done.
    pub(crate) make: fn() -> Box<dyn FnMut()>,
}

pub(crate) const PATHS: &[Path] = &[
    Path { name: "outbox-1", what: "one message of 16 bytes pushed and written", make: || outbox(16, 1) },
    Path { name: "outbox-64", what: "64 messages of 16 bytes pushed and written", make: || outbox(16, 64) },
    Path { name: "outbox-large", what: "one message of 1 MiB pushed and written", make: || outbox(1 << 20, 1) },
    Path { name: "frame-read", what: "one frame of 16 bytes read and decoded", make: frame_read },
    Path {
        name: "several-read",
        what: "64 messages of 16 bytes in a frame, read, queued and taken",
        make: several_read,
    },
    Path { name: "pool-core", what: "64 tasks from their submission to their ends, on two lanes", make: core },
];

const CHANNEL: ChannelId = ChannelId(2);

fn outbox(size: usize, count: usize) -> Box<dyn FnMut()> {
    let outbox = Outbox::new(Box::new(Abyss));
    let message = Message { bytes: Bytes::from(vec![7; size]), channels: Vec::new() };
    Box::new(move || {
        for _ in 0..count {
            outbox.push_message(CHANNEL, message.clone()).expect("nobody closes it");
        }
        outbox.about_to_wait();
    })
}

fn frame_read() -> Box<dyn FnMut()> {
    let payload = [7; 16];
    let header = Header { length: 16, kind: kind::DATA, flags: 0, channel: CHANNEL };
    let frame = [&header.encode()[..], &payload].concat();
    let mut reader = FrameReader::new(Box::new(Spring { bytes: frame.repeat(512), at: 0 }));
    Box::new(move || {
        let frame = reader.read_frame().expect("well-formed frames").expect("frames without end");
        let message = ToHost::decode(frame).expect("a chunk of data");
        assert!(matches!(black_box(message), ToHost::Data(CHANNEL, chunk) if chunk.payload.len() == 16));
    })
}

fn several_read() -> Box<dyn FnMut()> {
    const COUNT: usize = 64;
    let payload = [&16_u16.to_le_bytes()[..], &[7; 16]].concat().repeat(COUNT);
    let length = u32::try_from(payload.len()).expect("a small frame");
    let header = Header { length, kind: kind::DATA, flags: SEVERAL, channel: CHANNEL };
    let frame = [&header.encode()[..], &payload].concat();
    let mut reader = FrameReader::new(Box::new(Spring { bytes: frame.repeat(8), at: 0 }));
    let (assembly, mut window) = (Assembly::default(), ReceiveWindow::default());
    let (mut together, mut queue) = (Together::default(), Messages::default());
    Box::new(move || {
        let frame = reader.read_frame().expect("well-formed frames").expect("frames without end");
        let (count, _) = assembly.several(frame.payload, 1 << 20, &mut window).expect("there is credit");
        together.extend(frame.payload, count);
        together.share(&mut queue);
        let mut taken = 0;
        while let Some(message) = black_box(queue.pop()) {
            let _ = window.take(message.bytes.len() as u64);
            taken += 1;
        }
        assert_eq!(taken, COUNT);
    })
}

fn core() -> Box<dyn FnMut()> {
    Box::new(pool_core(2))
}

/// Takes everything.
#[derive(Debug)]
struct Abyss;

impl SendHalf for Abyss {
    fn try_write(&self, buffers: &[IoSlice<'_>], _descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        Ok(buffers.iter().map(|buffer| black_box(buffer).len()).sum())
    }

    fn wait_writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self) {}
}

/// Gives the same bytes again and again.
#[derive(Debug)]
struct Spring {
    bytes: Vec<u8>,
    at: usize,
}

impl ReceiveHalf for Spring {
    fn read(&mut self, buffer: &mut [u8], _wait: bool) -> io::Result<usize> {
        let count = buffer.len().min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at = (self.at + count) % self.bytes.len();
        Ok(count)
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}
