//! What an agent has for one host at most: a host of the test's own, which asks for more.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::time::Instant;

use sandgate::ModuleId;
use sandgate_tests::{LIMIT, Running, children_of, eventually, start, within, worker};
use sandgate_wire::isolation::{Demand, Policy};
use sandgate_wire::link::frame::{FrameEncoder, LinkFrame, LinkReader, PREAMBLE};
use sandgate_wire::link::message::{
    FromAgent, HostGreeting, LinkEncoded, RemoteCompile, RemoteCompiled, Start, ToAgent, hello_body, kind,
};
use sandgate_wire::link::pipes::pipes;
use sandgate_wire::message::Codegen;
use sandgate_wire::module_limits::ModuleLimits;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::profile::Profile;
use sandgate_wire::transport::SendHalf;

/// A host that says what it likes.
struct Host {
    agent: Running,
    send: Box<dyn SendHalf>,
    reader: LinkReader,
    encoder: FrameEncoder,
}

impl Host {
    fn new(arguments: &[&str]) -> Host {
        let mut agent = start(worker(), &[&["agent"], arguments].concat(), &[]);
        let (from, to) = agent.pipes();
        let mut first = vec![0; PREAMBLE.len()];
        File::from(from.try_clone().unwrap()).read_exact(&mut first).unwrap();
        assert_eq!(first, PREAMBLE);
        let (send, receive) = pipes(from, to).unwrap();
        let reader = LinkReader::new(Box::new(receive), &[]);
        let mut host = Host { agent, send: Box::new(send), reader, encoder: FrameEncoder::default() };
        let greeting = HostGreeting {
            package_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat: LIMIT * 2,
            tenant: None,
            keeps_modules: false,
        };
        assert!(host.say(&LinkEncoded { kind: kind::HELLO, stream: 0, body: hello_body(&greeting) }));
        host
    }

    /// Says it; whether there is anybody who reads.
    fn say(&mut self, message: &LinkEncoded) -> bool {
        let (mut bytes, deadline) = (Vec::new(), Instant::now() + LIMIT);
        let LinkEncoded { kind, stream, body } = message;
        self.encoder.append(LinkFrame { kind: *kind, stream: *stream, payload: body }, &mut bytes);
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            assert!(Instant::now() < deadline, "the agent reads");
            match self.send.try_write(&[IoSlice::new(bytes)], None) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.send.wait_writable().unwrap();
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// The next message that is about more than the link; `None` at its end.
    fn next(&mut self) -> Option<FromAgent> {
        loop {
            let frame = self.reader.next_frame().unwrap().map(|frame| (frame.kind, FromAgent::decode(frame)));
            match frame {
                Some((kind::HELLO | kind::BEAT | kind::ECHO | kind::END | kind::CREDIT | kind::LAST, _)) => {}
                Some((_, message)) => return Some(message.unwrap()),
                None if self.reader.fill(true).unwrap() => {}
                None => return None,
            }
        }
    }

    /// Reads to the end, which the agent has made; its last words.
    fn last_words(mut self) -> String {
        while self.next().is_some() {}
        let (status, said) = self.agent.wait(LIMIT);
        assert_eq!(status.code(), Some(1), "{said}");
        said
    }

    /// Hangs up, after which nothing is left.
    fn ends(mut self) {
        self.send.shutdown();
        let (status, said) = self.agent.wait(LIMIT);
        assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    }
}

/// A compilation of a module that never comes.
fn compile(number: u8) -> RemoteCompile {
    RemoteCompile {
        module: module(number),
        bytes: 8,
        name: "never".to_owned(),
        engine: "none".to_owned(),
        codegen: Codegen::Interruptible,
        limits: ModuleLimits::default(),
        profile: Profile::MINIMAL,
        policy: Policy::all(Demand::Prefer),
        program: None,
        patience: None,
    }
}

fn module(number: u8) -> ModuleId {
    ModuleId([number; 32])
}

#[test]
fn compilations_and_what_is_refused() {
    within(LIMIT * 2, "answers", || {
        let mut host = Host::new(&[]);
        // Some ask for the same module, which is asked for once.
        for request in 0..300_u64 {
            let wanted = compile(u8::try_from(request % 200).unwrap());
            assert!(host.say(&ToAgent::Compile(request, Box::new(wanted)).encode()));
        }
        let (mut needed, mut refused) = (0, 0);
        while needed < 200 || refused < 44 {
            match host.next().expect("the link is there") {
                FromAgent::Need(_) => needed += 1,
                FromAgent::Compiled(request, answer) => {
                    let RemoteCompiled::Failed(why) = *answer else { panic!("{answer:?}") };
                    assert!(request >= 256 && why.contains("256 compilations"), "{request}: {why}");
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((needed, refused), (200, 44));
        host.ends();
    });
}

#[test]
fn modules_on_their_way() {
    within(LIMIT * 2, "the end of links", || {
        let mut host = Host::new(&[]);
        assert!(host.say(&ToAgent::Upload(1, module(1), (1 << 30) + 1).encode()));
        assert!(host.last_words().contains("larger than modules are"));
        let mut host = Host::new(&[]);
        for stream in 1..=256 {
            assert!(host.say(&ToAgent::Upload(stream, module(1), 8).encode()));
        }
        // All of them are taken: it still does what it is asked for.
        assert!(host.say(&ToAgent::Resident(1000).encode()));
        assert_eq!(host.next(), Some(FromAgent::Resident(1000, None)));
        host.say(&ToAgent::Upload(257, module(1), 8).encode());
        assert!(host.last_words().contains("one too many at once"));
    });
}

#[test]
fn processes_and_streams() {
    within(LIMIT * 2, "the end of a link", || {
        let mut host = Host::new(&["--max-processes", "1"]);
        let start = |stream| ToAgent::Start(stream, Start::Worker { program: None, directory: None }).encode();
        assert!(host.say(&start(1)) && host.say(&start(2)));
        let (mut started, mut refused) = (false, false);
        while !(started && refused) {
            match host.next().expect("the link is there") {
                FromAgent::Started(1, _) => started = true,
                FromAgent::Exited(2, exited) => {
                    let LossCause::Unknown { message } = &exited.cause else { panic!("{exited:?}") };
                    assert!(message.contains("--max-processes"), "{message}");
                    refused = true;
                }
                _ => {}
            }
        }
        let agent = host.agent.pid();
        assert_eq!(children_of(agent).len(), 1);
        // Streams of which the host never says that they are over.
        let said = (3..=600).take_while(|stream| host.say(&start(*stream))).count();
        assert!(said > 500, "{said}");
        assert!(host.last_words().contains("more streams than there may be"));
        eventually(LIMIT, "nothing to be left", || children_of(agent).is_empty());
    });
}

#[test]
fn answers_that_nobody_reads() {
    within(LIMIT * 2, "the end of a link", || {
        let mut host = Host::new(&[]);
        let mut said = 0_u64;
        while host.say(&ToAgent::Resident(said).encode()) {
            said += 1;
            assert!(said < 2_000_000, "it goes on for ever");
        }
        assert!(said > 65_536, "{said}");
        let (status, _) = host.agent.wait(LIMIT);
        assert_eq!(status.code(), Some(1));
    });
}

#[test]
fn nobody_at_the_other_end() {
    let mut agent = start(worker(), &["agent"], &[]);
    let (status, said) = agent.wait(LIMIT);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("no host at the other end"), "{said}");
}
