//! A worker in a thread of this process, over a socket pair, with a scripted host: one guest that sends back what it gets.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::assembly::Assembly;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::grants::{ExecutionGrants, Grants};
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::{Codegen, Entry, Execute, HostHello};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket};
use sandgate_wire::{ChannelId, Limits, Message, ModuleId, Outbox, Outcome, Side, ToHost, ToWorker};
use sandgate_worker::{Ended, WorkerError};

/// Receives up to 1 MiB at 4096 and sends it back, until there is nothing more.
const GUEST: &str = r#"(module
    (import "sandgate_v1" "channel_receive" (func $receive (param i32 i32 i32 i32 i32 i32 i64) (result i32)))
    (import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))
    (memory (export "memory") 32)
    (func (export "_start")
        (loop $again
            (if (i32.eqz (call $receive
                    (i32.const 0) (i32.const 4096) (i32.const 1048576) (i32.const 0) (i32.const 0) (i32.const 64) (i64.const -1)))
                (then
                    (br_if $again (i32.eqz (call $send
                        (i32.const 0) (i32.const 4096) (i32.load (i32.const 64)) (i32.const 0) (i32.const 0) (i64.const -1)))))))))"#;

pub(crate) struct Echo {
    outbox: Arc<Outbox>,
    reader: FrameReader,
    channel: ChannelId,
    assembly: Assembly,
    worker: JoinHandle<Result<Ended, WorkerError>>,
    writer: JoinHandle<()>,
}

impl Echo {
    /// A worker whose guest waits for a message.
    pub(crate) fn start() -> Echo {
        let (ours, theirs) = socket_pair().expect("a socket pair");
        let (send, receive) = unix_socket(theirs, Descriptors::Accept);
        let worker = Builder::new()
            .name("worker".to_owned())
            .spawn(move || sandgate_worker::run(Box::new(send), Box::new(receive)))
            .expect("a thread");
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let outbox = Arc::new(Outbox::new(Box::new(send)));
        let of_thread = Arc::clone(&outbox);
        let writer = Builder::new().name("writer".to_owned()).spawn(move || of_thread.run_writer()).expect("a thread");
        let mut reader = FrameReader::new(Box::new(receive));
        push(&outbox, &ToWorker::Hello(hello()));
        assert!(matches!(next(&mut reader), ToHost::Hello(_)));

        let wasm = wat::parse_str(GUEST).expect("the text of a module");
        let artefact = sandgate_worker::compile(&wasm).expect("a compiled module").artefact;
        let module = ModuleId([7; 32]);
        let load = ToWorker::Load { module, codegen: Codegen::default(), bytes: artefact.len() as u64 };
        outbox.push_with_descriptors(load.encode(), vec![sealed(&artefact)]).expect("an open connection");
        let channel = ChannelId::first(Side::Host);
        push(&outbox, &ToWorker::Execute(channel, execute(module)));
        Echo { outbox, reader, channel, assembly: Assembly::default(), worker, writer }
    }

    /// Sends so many bytes and gives back how many came.
    pub(crate) fn echo(&mut self, size: usize) -> usize {
        static BYTES: [u8; 1 << 20] = [7; 1 << 20];
        let message = Message { bytes: Bytes::from_static(&BYTES[..size]), channels: Vec::new() };
        self.outbox.push_message(self.channel, message).expect("an open connection");
        self.outbox.about_to_wait();
        loop {
            match next(&mut self.reader) {
                ToHost::Data(_, chunk) => {
                    if let Some(message) = self.assembly.push(chunk, u64::MAX, None).expect("a message in order") {
                        // What was taken is paid for.
                        let credit = sandgate_wire::flow::Credit { bytes: size as u64, messages: 1 };
                        push(&self.outbox, &ToWorker::Credit(self.channel, credit));
                        return message.bytes.len();
                    }
                }
                ToHost::Credit(..) => {}
                other => panic!("the guest has ended: {other:?}"),
            }
        }
    }

    /// Ends the guest and the worker.
    pub(crate) fn end(mut self) {
        let close = sandgate_wire::message::Close { error: None, sending_only: false };
        push(&self.outbox, &ToWorker::Close(self.channel, close));
        loop {
            match next(&mut self.reader) {
                ToHost::Done(_, outcome) => {
                    assert!(matches!(outcome, Outcome::Returned), "{outcome:?}");
                    break;
                }
                ToHost::Data(..) | ToHost::Credit(..) | ToHost::Close(..) => {}
                other => panic!("instead of its end: {other:?}"),
            }
        }
        self.outbox.shutdown();
        self.writer.join().expect("a writer that ends");
        let _ = self.worker.join().expect("a worker that ends");
    }
}

fn push(outbox: &Outbox, message: &ToWorker<'_>) {
    outbox.push(message.encode()).expect("an open connection");
}

fn next(reader: &mut FrameReader) -> ToHost<'_> {
    let frame = reader.read_frame().expect("frames in order").expect("a worker that is there");
    ToHost::decode(frame).expect("a message that is there is")
}

fn hello() -> HostHello {
    HostHello {
        gateway: "bench".to_owned(),
        host_pid: std::process::id(),
        max_executions: 1,
        nice: 0,
        grants: Grants::default(),
        policy: Policy::default(),
        limits: Limits::default(),
        one_module: false,
    }
}

fn execute(module: ModuleId) -> Execute {
    Execute {
        module,
        codegen: Codegen::default(),
        entry: Entry::Start,
        has_arguments: false,
        stdin: false,
        patient: false,
        argv: vec!["guest".to_owned()],
        limits: Limits::default(),
        grants: ExecutionGrants::default(),
    }
}

/// The artefact as the host hands it over.
fn sealed(artefact: &[u8]) -> std::os::fd::OwnedFd {
    let memory = memfd_create("artefact", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
    let mut file = File::from(memory);
    file.write_all(artefact).expect("room for it");
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).expect("a memory file can be sealed");
    file.into()
}
