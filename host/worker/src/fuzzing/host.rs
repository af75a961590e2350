//! One worker in this process for all inputs, and the host that drives it: rightful, and quick to answer.
//!
//! The host pays for data and output as they come, closes what the worker closes, and checks after each execution that the
//! worker holds nothing of it any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::flow::Credit;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::grants::{Directory, ExecutionGrants, Grants};
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::{Close, Codegen, Entry, Execute, HostHello, WorkerStatus};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait};
use sandgate_wire::{ChannelId, Limits, Message, ModuleId, Outbox, Outcome, Side, ToHost, ToWorker};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Host {
    outbox: Arc<Outbox>,
    frames: FrameReader,
    readable: OwnedFd,
    next: ChannelId,
    /// Channels that are no execution's own, and whether this side and the worker have closed them.
    plain: HashMap<ChannelId, (bool, bool)>,
    module: ModuleId,
}

impl Host {
    /// Starts the worker and loads the one module.
    pub(super) fn new(wasm: &[u8], limits: Limits, directories: Vec<Directory>) -> Host {
        let (ours, theirs) = socket_pair().expect("sockets");
        let (send, receive) = unix_socket(theirs, Descriptors::Accept);
        let worker = move || match crate::run(Box::new(send), Box::new(receive)) {
            Ok(ended) => panic!("the worker has ended: {ended:?}"),
            Err(error) => panic!("the worker has ended: {error:?}"),
        };
        start("worker", worker);
        let readable = ours.try_clone().expect("a descriptor");
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let outbox = Arc::new(Outbox::new(Box::new(send)));
        let outbox_of_thread = Arc::clone(&outbox);
        start("host-writer", move || outbox_of_thread.run_writer());
        let module = ModuleId([1; 32]);
        let mut host = Host {
            outbox,
            frames: FrameReader::new(Box::new(receive)),
            readable,
            next: ChannelId::first(Side::Host),
            plain: HashMap::new(),
            module,
        };
        host.send(&ToWorker::Hello(HostHello {
            gateway: "fuzz".to_owned(),
            host_pid: std::process::id(),
            max_executions: 1,
            nice: 0,
            grants: Grants {
                environment: vec![("GIVEN".to_owned(), "yes".to_owned())],
                directories,
                execution: ExecutionGrants::default(),
            },
            policy: Policy::default(),
            limits,
            one_module: false,
        }));
        host.until("the worker's hello", |message| matches!(message, ToHost::Hello(_)).then_some(()));
        let artefact = crate::compile(wasm).expect("the guest compiles").artefact;
        let load = ToWorker::Load { module, codegen: Codegen::default(), bytes: artefact.len() as u64 };
        host.outbox.push_with_descriptors(load.encode(), vec![sealed(&artefact)]).expect("the worker is there");
        host
    }

    /// Asks for an execution of the module.
    pub(super) fn execute(&mut self, arguments: Message, limits: Limits) -> ChannelId {
        let id = self.id();
        self.outbox.push_arguments(id, arguments).expect("the worker is there");
        let execute = Execute {
            module: self.module,
            codegen: Codegen::default(),
            entry: Entry::Start,
            has_arguments: true,
            argv: vec!["guest".to_owned(), "argument".to_owned()],
            limits,
            grants: ExecutionGrants::default(),
            stdin: false,
            patient: false,
        };
        self.send(&ToWorker::Execute(id, execute));
        id
    }

    pub(super) fn open(&mut self) -> ChannelId {
        let id = self.id();
        self.outbox.push_urgent(ToWorker::Open(id).encode()).expect("the worker is there");
        self.plain.insert(id, (false, false));
        id
    }

    pub(super) fn data(&self, channel: ChannelId, message: Message) {
        self.outbox.push_message(channel, message).expect("the worker is there");
    }

    pub(super) fn send(&self, message: &ToWorker<'_>) {
        self.outbox.push(message.encode()).expect("the worker is there");
    }

    /// Waits for the end of an execution, and until the worker has forgotten it.
    pub(super) fn end(&mut self, execution: ChannelId) -> Outcome {
        let outcome = self.until("the end of the execution", |message| match message {
            ToHost::Done(id, outcome) if *id == execution => Some(outcome.clone()),
            _ => None,
        });
        let unclosed: Vec<_> = self.plain.iter().filter(|(_, (ours, _))| !ours).map(|(id, _)| *id).collect();
        unclosed.into_iter().for_each(|id| self.close(id));
        let start = Instant::now();
        loop {
            self.outbox.push_urgent(ToWorker::Status.encode()).expect("the worker is there");
            let status = self.until("a status", |message| match message {
                ToHost::Status(status) => Some(status.clone()),
                _ => None,
            });
            let WorkerStatus { running, queued, channels, .. } = status;
            if (running, queued, channels) == (0, 0, 0) && self.plain.is_empty() {
                return outcome;
            }
            let left = &self.plain;
            assert!(start.elapsed() < PATIENCE, "the worker holds {status:?} of an execution that is over: {left:?}");
        }
    }

    fn id(&mut self) -> ChannelId {
        let id = self.next;
        self.next = id.next();
        id
    }

    fn close(&mut self, id: ChannelId) {
        self.send(&ToWorker::Close(id, Close::default()));
        if let Some((ours, theirs)) = self.plain.get_mut(&id) {
            *ours = true;
            if *theirs {
                self.plain.remove(&id);
            }
        }
    }

    /// Answers the worker until there is a message for which `pick` gives something.
    fn until<R>(&mut self, what: &str, pick: impl Fn(&ToHost<'_>) -> Option<R>) -> R {
        let start = Instant::now();
        loop {
            while !self.frames.has_frame() {
                let left = PATIENCE.saturating_sub(start.elapsed());
                let readable =
                    wait(self.readable.as_fd(), PollFlags::IN, Some(left)).expect("a socket can be waited for");
                assert!(readable, "waited {PATIENCE:?} for {what}");
                assert!(self.frames.fill_now(), "the worker hung up before {what}");
            }
            let frame = self.frames.read_frame().expect("a worker writes frames").expect("there is a frame");
            let message = ToHost::decode(frame).expect("a worker writes messages");
            let picked = pick(&message);
            let answer = match &message {
                ToHost::Data(id, chunk) => Some(ToWorker::Credit(*id, paid(*chunk))),
                ToHost::Output(id, output) => Some(ToWorker::OutputCredit(*id, output.bytes.len() as u64)),
                ToHost::Open { channel, .. } => {
                    self.plain.insert(*channel, (false, false));
                    None
                }
                ToHost::Close(id, _) => {
                    let id = *id;
                    let state = self.plain.get_mut(&id).expect("a worker closes what is open");
                    assert!(!std::mem::replace(&mut state.1, true), "the worker closes {id} twice");
                    if state.0 {
                        self.plain.remove(&id);
                    } else {
                        self.close(id);
                    }
                    None
                }
                _ => None,
            };
            if let Some(answer) = answer {
                self.outbox.push_urgent(answer.encode()).expect("the worker is there");
            }
            if let Some(picked) = picked {
                return picked;
            }
        }
    }
}

/// The credit for a chunk. A message of several is paid for with its last.
fn paid(chunk: sandgate_wire::assembly::Chunk<'_>) -> Credit {
    use sandgate_wire::assembly::{CHANNELS, MORE, SEVERAL};
    if chunk.flags == SEVERAL {
        let lengths = sandgate_wire::messages::each(chunk.payload).map(|message| message.len() as u64);
        return lengths
            .fold(Credit::default(), |paid, bytes| Credit { bytes: paid.bytes + bytes, messages: paid.messages + 1 });
    }
    // The sizes of the messages of this target are below that of a chunk.
    assert_eq!(chunk.flags & MORE, 0, "a message of one chunk");
    let prefix = match chunk.flags & CHANNELS {
        0 => 0,
        _ => 2 + 8 * usize::from(u16::from_le_bytes([chunk.payload[0], chunk.payload[1]])),
    };
    Credit { bytes: (chunk.payload.len() - prefix) as u64, messages: 1 }
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("threads can be started");
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
    let mut file = File::from(memory);
    file.write_all(bytes).expect("memory takes bytes");
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).expect("memory can be sealed");
    file.into()
}
