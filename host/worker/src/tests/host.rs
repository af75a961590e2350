//! The scripted host, and how its guests are written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::assembly::{Assembly, SEVERAL};
use sandgate_wire::flow::Credit;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::grants::{Directory, ExecutionGrants, Grants};
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::{Close, Codegen, Encoded, Entry, Execute, HostHello, Stream, WorkerHello, WorkerStatus};
use sandgate_wire::messages::each;
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::ring;
use sandgate_wire::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket};
use sandgate_wire::{ChannelId, Limits, Message, ModuleId, Outbox, Outcome, Side, ToHost, ToWorker};
use sha2::{Digest, Sha256};

use crate::worker::{Ended, WorkerError, run};

/// What every wait of a test is allowed. Generous: it is reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(20);

/// A message of the worker's, with its bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Hello(WorkerHello),
    Data(ChannelId, Message),
    Credit(ChannelId, Credit),
    CreditWanted(ChannelId),
    Open(ChannelId, ChannelId),
    Close(ChannelId, Close),
    Done(ChannelId, Outcome),
    Output(ChannelId, Stream, bool, Vec<u8>),
    Status(WorkerStatus),
}

pub(super) struct Host {
    outbox: Arc<Outbox>,
    events: Receiver<Event>,
    /// Events that no wait has asked for yet.
    pending: VecDeque<Event>,
    worker: Option<JoinHandle<Result<Ended, WorkerError>>>,
    next: ChannelId,
    /// Whether output is paid for as it comes.
    pub(super) takes_output: bool,
}

/// What an execution may differ in.
pub(super) struct Call {
    pub(super) entry: Entry,
    pub(super) limits: Limits,
    pub(super) argv: Vec<String>,
    pub(super) arguments: Option<Message>,
    pub(super) grants: ExecutionGrants,
    pub(super) codegen: Codegen,
}

impl Default for Call {
    fn default() -> Self {
        Call {
            entry: Entry::Start,
            limits: Limits::default(),
            argv: vec!["guest".to_owned()],
            arguments: None,
            grants: ExecutionGrants::default(),
            codegen: Codegen::default(),
        }
    }
}

impl Call {
    fn of(self, module: ModuleId) -> Execute {
        Execute {
            module,
            codegen: self.codegen,
            entry: self.entry,
            has_arguments: self.arguments.is_some(),
            stdin: false,
            patient: false,
            argv: self.argv,
            limits: self.limits,
            grants: self.grants,
        }
    }
}

/// Both halves of one side of a connection.
type Halves = (Box<dyn SendHalf>, Box<dyn ReceiveHalf>);

impl Host {
    /// A worker that has said hello.
    pub(super) fn new(max_executions: u32) -> Host {
        Host::greeted(max_executions, Vec::new())
    }

    /// A worker whose guests are given directories.
    pub(super) fn with_directories(directories: Vec<Directory>) -> Host {
        Host::greeted(1, directories)
    }

    fn greeted(max_executions: u32, directories: Vec<Directory>) -> Host {
        Host::without_hello().greet(max_executions, directories)
    }

    /// A worker of one executor that talks through shared memory.
    pub(super) fn over_rings() -> Host {
        Host::over_rings_through(&|send| send)
    }

    /// The same, of a host that sends through something of the test's.
    pub(super) fn over_rings_through(change: &dyn Fn(Box<dyn SendHalf>) -> Box<dyn SendHalf>) -> Host {
        let (ours, theirs) = socket_pair().unwrap();
        let (send, receive) = ring::offer(ours).map_err(|(error, _)| error).unwrap();
        let theirs = ring::accept(theirs).unwrap();
        let host = Host::over((theirs.send, theirs.receive), (change(Box::new(send)), Box::new(receive)));
        host.greet(1, Vec::new())
    }

    /// The same over a socket.
    pub(super) fn over_socket_through(change: &dyn Fn(Box<dyn SendHalf>) -> Box<dyn SendHalf>) -> Host {
        Host::silent(change).greet(1, Vec::new())
    }

    fn greet(self, max_executions: u32, directories: Vec<Directory>) -> Host {
        let mut host = self;
        host.send(&ToWorker::Hello(HostHello {
            gateway: "test".to_owned(),
            host_pid: std::process::id(),
            max_executions,
            nice: 0,
            grants: Grants {
                environment: vec![("GIVEN".to_owned(), "yes".to_owned())],
                directories,
                ..Grants::default()
            },
            policy: Policy::default(),
            limits: Limits::default(),
            one_module: false,
        }));
        host.wait_for("the worker's hello", |event| matches!(event, Event::Hello(_)).then_some(()));
        host
    }

    pub(super) fn without_hello() -> Host {
        Host::silent(&|send| send)
    }

    fn silent(change: &dyn Fn(Box<dyn SendHalf>) -> Box<dyn SendHalf>) -> Host {
        let (ours, theirs) = socket_pair().unwrap();
        let theirs = unix_socket(theirs, Descriptors::Accept);
        let ours = unix_socket(ours, Descriptors::Refuse);
        Host::over((Box::new(theirs.0), Box::new(theirs.1)), (change(Box::new(ours.0)), Box::new(ours.1)))
    }

    fn over(theirs: Halves, (send, receive): Halves) -> Host {
        let worker = Builder::new().name("worker".to_owned()).spawn(move || run(theirs.0, theirs.1)).unwrap();
        let outbox = Arc::new(Outbox::new(send));
        let outbox_of_thread = Arc::clone(&outbox);
        Builder::new().name("host-writer".to_owned()).spawn(move || outbox_of_thread.run_writer()).unwrap();
        let (to_test, events) = channel();
        Builder::new()
            .name("host-reader".to_owned())
            .spawn(move || {
                let mut reader = FrameReader::new(receive);
                let mut assemblies = std::collections::HashMap::<_, Assembly>::new();
                while let Ok(Some(frame)) = reader.read_frame() {
                    let event = match ToHost::decode(frame).unwrap() {
                        ToHost::Hello(hello) => Event::Hello(hello),
                        ToHost::Data(id, chunk) if chunk.flags == SEVERAL => {
                            let event = |bytes| Event::Data(id, Message { bytes, channels: Vec::new() });
                            let mut messages = each(chunk.payload).map(Bytes::copy_from_slice).map(event);
                            if messages.any(|event| to_test.send(event).is_err()) {
                                return;
                            }
                            continue;
                        }
                        ToHost::Data(id, chunk) => {
                            let assembly = assemblies.entry(id).or_default();
                            match assembly.push(chunk, u64::MAX, None).unwrap() {
                                Some(message) => Event::Data(id, message),
                                None => continue,
                            }
                        }
                        ToHost::Credit(id, credit) => Event::Credit(id, credit),
                        ToHost::CreditWanted(channel) => Event::CreditWanted(channel),
                        ToHost::Open { channel, parent } => Event::Open(channel, parent),
                        ToHost::Close(id, close) => Event::Close(id, close),
                        ToHost::Done(id, outcome) => Event::Done(id, outcome),
                        ToHost::Output(id, output) => {
                            Event::Output(id, output.stream, output.truncated, output.bytes.to_vec())
                        }
                        ToHost::Status(status) => Event::Status(status),
                        ToHost::Compiled(_) | ToHost::Initialized(_) => panic!("a worker compiles nothing"),
                    };
                    if to_test.send(event).is_err() {
                        return;
                    }
                }
            })
            .unwrap();
        Host {
            outbox,
            events,
            pending: VecDeque::new(),
            worker: Some(worker),
            next: ChannelId::first(Side::Host),
            takes_output: true,
        }
    }

    pub(super) fn send(&self, message: &ToWorker<'_>) {
        self.push(message.encode());
    }

    pub(super) fn push(&self, encoded: Encoded) {
        self.outbox.push(encoded).unwrap();
    }

    /// Waits for an event for which `pick` gives something; others stay for later waits.
    pub(super) fn wait_for<R>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<R>) -> R {
        let found = self.pending.iter().enumerate().find_map(|(position, event)| Some((position, pick(event)?)));
        if let Some((position, result)) = found {
            self.pending.remove(position);
            return result;
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = match self.events.recv_timeout(left) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited {DEADLINE:?} for {what}; there was {:?}", self.pending)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let end = self.worker.take().map(JoinHandle::join);
                    panic!("worker ended ({end:?}) instead of {what}; before: {:?}", self.pending)
                }
            };
            if let Event::Output(id, _, _, bytes) = &event
                && self.takes_output
            {
                let message = ToWorker::OutputCredit(*id, bytes.len() as u64);
                let _ = self.outbox.push(message.encode());
            }
            if let Some(result) = pick(&event) {
                return result;
            }
            self.pending.push_back(event);
        }
    }

    pub(super) fn load(&self, text: &str) -> ModuleId {
        self.load_for(text, Codegen::default())
    }

    pub(super) fn load_for(&self, text: &str, codegen: Codegen) -> ModuleId {
        let wasm = wat::parse_str(text).unwrap();
        let artefact = crate::compiler::compile_with(&wasm, codegen).unwrap().artefact;
        let module = ModuleId(Sha256::digest(&wasm).into());
        self.send_artefact(module, codegen, &artefact, true);
        module
    }

    pub(super) fn load_artefact(&self, module: ModuleId, artefact: &[u8], sealed: bool) {
        self.send_artefact(module, Codegen::default(), artefact, sealed);
    }

    fn send_artefact(&self, module: ModuleId, codegen: Codegen, artefact: &[u8], sealed: bool) {
        let bytes = artefact.len() as u64;
        let message = ToWorker::Load { module, codegen, bytes }.encode();
        let descriptor = memory_file(artefact, sealed);
        self.outbox.push_with_descriptors(message, vec![descriptor]).unwrap();
    }

    pub(super) fn id(&mut self) -> ChannelId {
        let id = self.next;
        self.next = id.next();
        id
    }

    pub(super) fn execute(&mut self, module: ModuleId, call: Call) -> ChannelId {
        let id = self.id();
        if let Some(arguments) = call.arguments.clone() {
            self.outbox.push_arguments(id, arguments).unwrap();
        }
        self.send(&ToWorker::Execute(id, call.of(module)));
        id
    }

    /// Executes as a pool does, whose worker is not woken for it if it has other things to do.
    pub(super) fn execute_lazily(&mut self, module: ModuleId, call: Call) -> ChannelId {
        let id = self.id();
        self.execute_lazily_on(id, module, call);
        id
    }

    pub(super) fn execute_lazily_on(&mut self, id: ChannelId, module: ModuleId, call: Call) {
        let arguments = call.arguments.clone();
        let execute = ToWorker::Execute(id, Execute { patient: true, ..call.of(module) });
        self.outbox.place_lazily(id, arguments, &execute.encode().body).unwrap();
        self.outbox.write_placed();
    }

    /// Compiles, loads and executes.
    pub(super) fn start(&mut self, text: &str, call: Call) -> ChannelId {
        let module = self.load_for(text, call.codegen);
        self.execute(module, call)
    }

    pub(super) fn open(&mut self) -> ChannelId {
        let id = self.id();
        self.outbox.push_urgent(ToWorker::Open(id).encode()).unwrap();
        id
    }

    pub(super) fn data(&self, channel: ChannelId, bytes: &[u8], channels: &[ChannelId]) {
        let message = Message { bytes: bytes.to_vec().into(), channels: channels.to_vec() };
        self.outbox.push_message(channel, message).unwrap();
    }

    pub(super) fn kill(&self, channel: ChannelId) {
        self.kill_by(channel, KilledBy::Kill);
    }

    pub(super) fn kill_by(&self, channel: ChannelId, by: KilledBy) {
        self.outbox.push_urgent(ToWorker::Kill(channel, by).encode()).unwrap();
    }

    pub(super) fn close(&self, channel: ChannelId, error: Option<&str>, sending_only: bool) {
        let close = Close { error: error.map(str::to_owned), sending_only };
        self.send(&ToWorker::Close(channel, close));
    }

    pub(super) fn done(&mut self, channel: ChannelId) -> Outcome {
        self.wait_for(&format!("the end of {channel}"), |event| match event {
            Event::Done(id, outcome) if *id == channel => Some(outcome.clone()),
            _ => None,
        })
    }

    pub(super) fn receive(&mut self, channel: ChannelId) -> Message {
        self.wait_for(&format!("a message on {channel}"), |event| match event {
            Event::Data(id, message) if *id == channel => Some(message.clone()),
            _ => None,
        })
    }

    pub(super) fn receive_bytes(&mut self, channel: ChannelId) -> Vec<u8> {
        self.receive(channel).bytes.to_vec()
    }

    pub(super) fn closed(&mut self, channel: ChannelId) -> Close {
        self.wait_for(&format!("the close of {channel}"), |event| match event {
            Event::Close(id, close) if *id == channel => Some(close.clone()),
            _ => None,
        })
    }

    pub(super) fn opened(&mut self, parent: ChannelId) -> ChannelId {
        self.wait_for("a new channel", |event| match event {
            Event::Open(id, by) if *by == parent => Some(*id),
            _ => None,
        })
    }

    pub(super) fn status(&mut self) -> WorkerStatus {
        self.send(&ToWorker::Status);
        self.wait_for("a status", |event| match event {
            Event::Status(status) => Some(status.clone()),
            _ => None,
        })
    }

    /// Asks for the status until it is as wanted.
    pub(super) fn wait_status(&mut self, what: &str, wanted: impl Fn(&WorkerStatus) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {status:?}");
        }
    }

    /// All output of a stream so far, and whether its last frame is marked as truncated.
    pub(super) fn output(&mut self, channel: ChannelId, stream: Stream) -> (Vec<u8>, bool) {
        let mut all = (Vec::new(), false);
        for event in &self.pending {
            if let Event::Output(id, from, truncated, bytes) = event
                && (*id, *from) == (channel, stream)
            {
                assert!(!all.1, "nothing follows the frame that says so");
                all.0.extend_from_slice(bytes);
                all.1 = *truncated;
            }
        }
        all
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Event> {
        self.pending.iter()
    }

    /// How the worker ended, within the deadline.
    pub(super) fn end(&mut self) -> Result<Ended, WorkerError> {
        let worker = self.worker.take().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while !worker.is_finished() {
            assert!(Instant::now() < deadline, "waited for the worker to end; there was {:?}", self.pending);
            std::thread::yield_now();
        }
        worker.join().unwrap()
    }

    /// Closes the connection, as the kernel does for a host that is gone.
    pub(super) fn vanish(&self) {
        self.outbox.shutdown();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.vanish();
        if self.worker.is_some() && !std::thread::panicking() {
            let _ = self.end();
        }
    }
}

pub(crate) fn memory_file(bytes: &[u8], sealed: bool) -> OwnedFd {
    let descriptor = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(descriptor);
    file.write_all(bytes).unwrap();
    if sealed {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).unwrap();
    }
    file.into()
}

/// What guests of the tests can call.
const IMPORTS: &str = r#"
    (import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))
    (import "sandgate_v1" "channel_receive" (func $receive (param i32 i32 i32 i32 i32 i32 i64) (result i32)))
    (import "sandgate_v1" "channel_wait" (func $wait (param i32 i32 i64) (result i32)))
    (import "sandgate_v1" "channel_close" (func $close (param i32 i32 i32 i32) (result i32)))
    (import "sandgate_v1" "channel_error" (func $error (param i32 i32 i32 i32) (result i32)))
    (import "sandgate_v1" "channel_new" (func $new (result i32)))
    (import "sandgate_v1" "channel_drop" (func $drop (param i32) (result i32)))
    (import "sandgate_v1" "call_args" (func $args (param i32 i32 i32 i32 i32) (result i32)))
    (import "sandgate_v1" "task_report" (func $report (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
"#;

/// A guest with one page of memory whose `_start` is `body`.
pub(super) fn guest(body: &str) -> String {
    guest_with("", body)
}

/// The same with other items beside it.
pub(super) fn guest_with(items: &str, body: &str) -> String {
    format!(
        r#"(module {IMPORTS} (memory (export "memory") 1) {items}
            (func (export "_start") (local $i i32) (local $j i32) {body}))"#
    )
}

/// A guest that exits with the negated result of `expression`: 0 for OK, 1 for CLOSED and so on.
pub(super) fn guest_status(expression: &str) -> String {
    guest(&exit_with(expression))
}

/// Exits with the negated result of `expression`.
pub(super) fn exit_with(expression: &str) -> String {
    format!("(call $exit (i32.sub (i32.const 0) {expression}))")
}

/// The outcome of a guest that exited with this status.
pub(super) fn status_outcome(status: i32) -> Outcome {
    match status {
        0 => Outcome::Returned,
        status => Outcome::Exited { code: -status },
    }
}

/// The call of a function whose message goes to and comes from address 1024.
pub(super) const SEND_1: &str =
    "(call $send (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const -1))";
/// Takes a message of up to 4096 bytes and 16 channels: bytes at 1024, handles at 512, size at 8.
pub(super) const RECEIVE: &str = "(call $receive (i32.const 0) (i32.const 1024) (i32.const 4096) (i32.const 512) (i32.const 16) (i32.const 8) (i64.const -1))";
/// Sends what was received back.
pub(super) const ECHO: &str = "(call $send (i32.const 0) (i32.const 1024) (i32.load (i32.const 8)) (i32.const 512) (i32.load (i32.const 12)) (i64.const -1))";
