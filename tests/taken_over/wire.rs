//! What a worker that was taken over writes, or does not.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio, exit};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdin;
use sandgate_wire::flow::Credit;
use sandgate_wire::frame::{FrameReader, Header};
use sandgate_wire::isolation::{Layer, Report, State};
use sandgate_wire::message::{Close, Encoded, Output, Stream, WorkerHello, WorkerStatus, kind};
use sandgate_wire::outcome::{Rejection, TrapKind};
use sandgate_wire::ring::{Accepted, accept};
use sandgate_wire::transport::{Descriptors, SendHalf, unix_socket};
use sandgate_wire::{ChannelId, Outcome, ToHost, ToWorker};

use crate::rings::{self, Rings};

/// The engine that this worker says it has. Its own compiler says so, too.
pub(crate) const ENGINE: &str = "taken over";

/// The host's end of the connection.
struct Host {
    /// What the worker was started with: the connection, or the line beside its rings.
    socket: UnixStream,
    send: Box<dyn SendHalf>,
    frames: FrameReader,
    /// The execution that the host has asked for last, and its channel that belongs to none.
    task: ChannelId,
    plain: ChannelId,
}

/// Serves in the way that the gateway's id says.
pub(crate) fn run(id: &str) {
    let own = || stdin().try_clone_to_owned().unwrap();
    let rings = Rings::of_this_process();
    let Accepted { send, receive, .. } = accept(own()).unwrap();
    let mut frames = FrameReader::new(receive);
    let Some(Ok(ToWorker::Hello(_))) = frames.read_frame().unwrap().map(ToWorker::decode) else { exit(2) };
    let nobody = ChannelId::CONNECTION;
    let mut host = Host { socket: own().into(), send, frames, task: nobody, plain: nobody };
    match id {
        "never-says-hello" => rest(),
        "says-garbage-for-hello" => host.raw(&[0xa5; 4096]),
        "says-half-a-hello" => {
            let hello = bytes(&host.hello_message().encode());
            host.raw(&hello[..hello.len() / 2]);
            rest()
        }
        "begins-with-something-else" => host.say(&ToHost::Status(WorkerStatus::default())),
        "is-of-another-version" => {
            let hello = WorkerHello { package_version: "99.0.0".to_owned(), ..host.hello() };
            host.say(&ToHost::Hello(hello));
            rest()
        }
        "speaks-another-protocol" => {
            let mut hello = bytes(&host.hello_message().encode());
            // The version stands behind the magic.
            hello[24] ^= 0x5a;
            host.raw(&hello);
            rest()
        }
        "has-an-engine-with-a-long-name" => host.greets(|hello| hello.engine = "x".repeat(200_000)),
        "reports-a-lot" => host.greets(|hello| {
            let state = || State::Enforced("\u{1b}[31m".repeat(10_000));
            hello.isolation = Report { layers: vec![(Layer::Seccomp, state()), (Layer::Seccomp, state())] };
        }),
        "reports-nothing" => host.greets(|hello| hello.isolation = Report::default()),
        "lies-about-its-sandbox" => host.greets(|hello| {
            let layers = Layer::ALL.map(|layer| (layer, State::Enforced("believe me".to_owned())));
            hello.isolation = Report { layers: layers.into() };
        }),
        "crashes-before-hello" => {
            eprintln!("\u{1b}[31mlast \u{7}words");
            exit(9)
        }
        _ => {
            host.say(&host.hello_message());
            if id.starts_with(rings::PREFIX) {
                host.listens();
                assert!(rings.is_some_and(|rings| rings.spoil(id)), "no way to spoil rings is called `{id}`");
                rest();
            }
            host.goes_on(id);
        }
    }
    host.waits_for_the_end();
}

fn bytes(Encoded { kind, flags, channel, body }: &Encoded) -> Vec<u8> {
    frame(*kind, *flags, *channel, body)
}

fn frame(kind: u8, flags: u8, channel: ChannelId, body: &[u8]) -> Vec<u8> {
    let header = Header { length: u32::try_from(body.len()).unwrap(), kind, flags, channel };
    [&header.encode()[..], body].concat()
}

/// Does nothing any more. Killed with its host at the latest, for the socket ends then, and it does not look.
fn rest() -> ! {
    let (_open, never) = mpsc::channel::<()>();
    // A test that lost it must not keep it for ever.
    let _ = never.recv_timeout(Duration::from_secs(60));
    exit(0)
}

fn pause(time: Duration) {
    let (_open, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

impl Host {
    fn hello(&self) -> WorkerHello {
        let layers = Layer::ALL.map(|layer| (layer, State::Off));
        WorkerHello {
            package_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            engine: ENGINE.to_owned(),
            isolation: Report { layers: layers.into() },
        }
    }

    fn hello_message(&self) -> ToHost<'static> {
        ToHost::Hello(self.hello())
    }

    fn greets(&mut self, change: impl FnOnce(&mut WorkerHello)) {
        let mut hello = self.hello();
        change(&mut hello);
        self.say(&ToHost::Hello(hello));
        self.listens();
    }

    /// Writes as long as somebody listens.
    fn raw(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.send.try_write(&[IoSlice::new(rest)], None) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.send.wait_writable().is_ok() => {}
                Err(_) => exit(0),
            }
        }
    }

    fn say(&mut self, message: &ToHost<'_>) {
        self.raw(&bytes(&message.encode()));
    }

    fn data(&mut self, channel: ChannelId, payload: &[u8]) {
        self.raw(&frame(kind::DATA, 0, channel, payload));
    }

    /// Reads until it has been given an execution and a channel.
    fn listens(&mut self) {
        while self.task == ChannelId::CONNECTION || self.plain == ChannelId::CONNECTION {
            match self.frames.read_frame().ok().flatten().map(ToWorker::decode) {
                Some(Ok(ToWorker::Execute(channel, _))) => self.task = channel,
                Some(Ok(ToWorker::Open(channel))) => self.plain = channel,
                Some(_) => {}
                None => exit(0),
            }
        }
    }

    /// Reads and does nothing else until the host hangs up.
    fn waits_for_the_end(&mut self) {
        while let Ok(Some(_)) = self.frames.read_frame() {}
    }

    /// What is done once the host believes in this worker.
    #[expect(clippy::too_many_lines, reason = "a table: a line for each way to be wrong")]
    fn goes_on(&mut self, id: &str) {
        self.listens();
        let (task, plain) = (self.task, self.plain);
        let credit = |channel, bytes, messages| ToHost::Credit(channel, Credit { bytes, messages });
        match id {
            "says-hello-twice" => self.say(&self.hello_message()),
            "writes-garbage" => self.raw(&[0xa5; 4096]),
            "announces-4-gib" => {
                let mut header = frame(kind::DATA, 0, task, b"");
                header[..4].fill(0xff);
                self.raw(&header);
            }
            "announces-a-message-of-2-to-the-64" => self.raw(&frame(kind::DATA, 1, task, &[0xff; 8])),
            "writes-to-a-channel-that-is-not" => self.data(ChannelId(4711), b"x"),
            "writes-to-the-connection" => self.data(ChannelId::CONNECTION, b"x"),
            "ends-a-channel-that-is-not" => self.say(&ToHost::Done(ChannelId(4711), Outcome::Returned)),
            "ends-a-plain-channel" => self.say(&ToHost::Done(plain, Outcome::Returned)),
            "ends-twice" => {
                self.say(&ToHost::Done(task, Outcome::Returned));
                self.say(&ToHost::Done(task, Outcome::Returned));
            }
            "closes-twice" => {
                let close = || ToHost::Close(task, Close::default());
                self.say(&close());
                self.say(&close());
            }
            "gives-negative-credit" => self.say(&credit(task, u64::MAX, u32::MAX)),
            "gives-credit-beyond-the-window" => self.say(&credit(plain, 1, 1)),
            "writes-without-credit" => (0..100_000).for_each(|_| self.data(task, b"x")),
            "writes-much-without-credit" => (0..1000).for_each(|_| self.data(task, &[0; 65536])),
            "prints-without-credit" => {
                let output = Output { stream: Stream::Stdout, truncated: false, bytes: &[b'x'; 65537] };
                self.say(&ToHost::Output(task, output));
            }
            "prints-more-than-it-may" => {
                let output = Output { stream: Stream::Stdout, truncated: false, bytes: &[b'x'; 4096] };
                (0..10_000).for_each(|_| self.say(&ToHost::Output(task, output)));
            }
            "prints-escapes" => {
                let output = Output { stream: Stream::Stdout, truncated: true, bytes: b"\x1b]0;owned\x07\n\xff" };
                self.say(&ToHost::Output(task, output));
                self.say(&ToHost::Done(task, Outcome::Returned));
            }
            "opens-without-end" => {
                for number in 1.. {
                    self.say(&ToHost::Open { channel: ChannelId(2 * number), parent: task });
                }
            }
            "opens-and-closes-without-reading" => {
                for number in 1.. {
                    let channel = ChannelId(2 * number);
                    self.say(&ToHost::Open { channel, parent: task });
                    self.say(&ToHost::Close(channel, Close::default()));
                }
            }
            "opens-the-hosts-channels" => self.say(&ToHost::Open { channel: ChannelId(4711), parent: task }),
            "tells-a-status-that-nobody-asked-for" => self.say(&ToHost::Status(WorkerStatus::default())),
            "makes-up-a-status" => {
                let most = u32::MAX;
                let status = WorkerStatus { running: most, queued: most, channels: most, finished: u64::MAX };
                while let Ok(Some(frame)) = self.frames.read_frame() {
                    if matches!(ToWorker::decode(frame), Ok(ToWorker::Status)) {
                        self.say(&ToHost::Status(status.clone()));
                    }
                }
            }
            "ends-with-a-long-text" => {
                let message = "\u{1b}]0;owned\u{7}".repeat(20_000);
                self.say(&ToHost::Done(task, Outcome::Failed { message }));
            }
            "ends-with-a-long-backtrace" => {
                let backtrace = vec!["\u{1b}[2J".to_owned(); 40_000];
                self.say(&ToHost::Done(task, Outcome::Trapped { kind: TrapKind::Other, backtrace, stack_bytes: None }));
            }
            "ends-with-many-tasks" => {
                let available = vec!["\u{1b}[2J".to_owned(); 40_000];
                let reason = Rejection::UnknownTask { name: "\u{7}".to_owned(), available };
                self.say(&ToHost::Done(task, Outcome::Rejected { reason }));
            }
            "ends-as-the-host-alone-can-say" => {
                self.say(&ToHost::Done(task, Outcome::CallbackFailed { message: "made up".to_owned() }));
            }
            "writes-half-a-frame" => {
                let whole = frame(kind::DATA, 0, task, &[1; 1000]);
                self.raw(&whole[..500]);
                rest()
            }
            "writes-a-byte-at-a-time" => {
                for byte in frame(kind::DATA, 0, task, &[1; 1000]) {
                    self.raw(&[byte]);
                    pause(Duration::from_millis(50));
                }
            }
            "closes-its-end" => {
                let _ = self.socket.shutdown(Shutdown::Both);
                rest()
            }
            "closes-its-writing-end" => {
                let _ = self.socket.shutdown(Shutdown::Write);
                rest()
            }
            "stops-itself" => {
                let _ = kill_process(getpid(), Signal::STOP);
            }
            "ignores-everything" => rest(),
            "leaves-a-child-with-the-connection" => {
                leave_a_child();
                exit(0)
            }
            "crashes-and-leaves-a-child-with-the-connection" => {
                leave_a_child();
                let _ = kill_process(getpid(), Signal::KILL);
            }
            "exits" => exit(0),
            "exits-with-a-code" => exit(77),
            "floods-its-last-words" => {
                let mut stderr = io::stderr();
                for _ in 0..10_000 {
                    let _ = stderr.write_all("\u{1b}[31mred \u{1b}]0;owned\u{7}\u{9b}".as_bytes());
                }
                exit(3)
            }
            "attaches-descriptors" => {
                let (send, _receive) = unix_socket(stdin().try_clone_to_owned().unwrap(), Descriptors::Refuse);
                let null = File::open("/dev/null").unwrap();
                for _ in 0..200 {
                    let chunk = frame(kind::DATA, 0, task, b"x");
                    let _ = send.try_write(&[IoSlice::new(&chunk)], Some(null.as_fd()));
                }
                self.say(&ToHost::Done(task, Outcome::Returned));
            }
            "says-what-no-message-is" => self.raw(&frame(200, 0, task, b"")),
            "says-what-only-a-host-says" => self.raw(&frame(kind::EXECUTE, 0, task, b"")),
            "says-what-only-a-compiler-says" => self.raw(&frame(kind::COMPILED, 0, ChannelId::CONNECTION, b"")),
            _ => {
                eprintln!("no way to misbehave is called `{id}`");
                exit(1)
            }
        }
    }
}

/// Starts a child that holds the connection open, and ends by itself soon.
#[expect(clippy::disallowed_methods, clippy::zombie_processes, reason = "nobody waits for it: that is the point")]
fn leave_a_child() {
    let socket = stdin().try_clone_to_owned().unwrap();
    Command::new("/bin/sleep").arg("4").stdin(socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
}
