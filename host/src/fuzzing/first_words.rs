//! The other half of the body of `link_agent`, and its seeds: what a host hears before there is a link.
//!
//! What it promises: whatever a launcher says, in whatever pieces, and however it ends, the host either has an agent of its own
//! version or an error; neither takes longer than it may, and texts of the far end come out bounded and escaped.
//!
//! The launcher is one that an agent has started, so that what it says comes on a stream of a link, and no process is needed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use sandgate_wire::link::frame::{FrameEncoder, LinkFrame, LinkReader, MAX_DATA_BYTES, PREAMBLE};
use sandgate_wire::link::message::{AgentHello, Exited, FromAgent, HostGreeting, ToAgent, hello_body, kind};
use sandgate_wire::message::PROTOCOL_VERSION;
use sandgate_wire::outcome::LossCause;

use super::far_end::check_text;
use super::link_script::{Frames, Play, Plays, Writes, Written, bytes, text};
use crate::remote::{RemoteHost, greet_over};

/// How long a host waits for what does not come, and how long all of it may take.
const PATIENCE: Duration = Duration::from_millis(20);
const ALL: Duration = Duration::from_secs(10);

/// What a launcher says, in pieces, and how it ends.
#[derive(Debug, Default)]
struct Words {
    pieces: Vec<Vec<u8>>,
    ends: Option<i32>,
}

impl Words {
    fn of(input: &mut Unstructured<'_>) -> Words {
        let mut words = Words::default();
        let mut encoder = FrameEncoder::default();
        while !input.is_empty() && words.piece(&mut encoder, input).is_ok() {}
        words
    }

    fn piece(&mut self, encoder: &mut FrameEncoder, input: &mut Unstructured<'_>) -> Result<()> {
        let mut frame = |kind, payload: &[u8]| {
            let mut bytes = Vec::new();
            encoder.append(LinkFrame { kind, stream: 0, payload }, &mut bytes);
            bytes
        };
        let line = |what: &str, input: &mut Unstructured<'_>| -> Result<Vec<u8>> {
            Ok([what.as_bytes(), &bytes(input)?, b"\n"].concat())
        };
        let piece = match input.arbitrary::<u8>()? % 9 {
            0 => bytes(input)?,
            1 => PREAMBLE.to_vec(),
            2 => line("SANDGATE NEED ", input)?,
            3 => line("SANDGATE FAIL ", input)?,
            4 => frame(kind::HELLO, &hello_body(&AgentHello::of_this_process(env!("CARGO_PKG_VERSION")))),
            5 => {
                let protocol = if input.arbitrary()? { PROTOCOL_VERSION } else { input.arbitrary()? };
                let (package_version, platform) = (text(input)?, text(input)?);
                let (pid, processors) = (input.arbitrary()?, input.arbitrary()?);
                frame(kind::HELLO, &hello_body(&AgentHello { package_version, protocol, platform, pid, processors }))
            }
            6 => {
                let (kind, payload) = (input.arbitrary()?, bytes(input)?);
                frame(kind, &payload)
            }
            // A part of what was to come.
            7 => {
                let cut = usize::from(input.arbitrary::<u8>()?);
                self.pieces.iter_mut().last().iter_mut().for_each(|last| last.truncate(cut));
                return Ok(());
            }
            _ => {
                self.ends = Some(i32::from(input.arbitrary::<u8>()?));
                return Ok(());
            }
        };
        self.pieces.push(piece);
        Ok(())
    }
}

/// The agent that has started the launcher: says what that says, each piece by itself, and its end.
#[derive(Debug)]
struct Relay {
    frames: Frames,
    words: std::vec::IntoIter<Vec<u8>>,
    ends: Option<i32>,
    said: End,
}

/// How far the end is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Exited,
    Over,
}

impl Play for Relay {
    fn play(&mut self) -> Option<Vec<u8>> {
        if let Some(piece) = self.words.next() {
            let piece = &piece[..piece.len().min(MAX_DATA_BYTES)];
            return Some(self.frames.data(1, if piece.is_empty() { b"x" } else { piece }));
        }
        match (self.said, self.ends) {
            (End::NotYet, Some(code)) => {
                self.said = End::Exited;
                let stderr_tail = "words\u{1b}[2J\r\n".to_owned();
                let exited = Exited { cause: LossCause::Exited { code }, stderr_tail };
                Some(self.frames.message(&FromAgent::Exited(1, exited).encode()))
            }
            (End::Exited, _) => {
                self.said = End::Over;
                Some(self.frames.end(1))
            }
            // Silence would be a thread that waits: the link is over.
            _ => None,
        }
    }
}

/// Plays what a launcher says to a host that wants to reach an agent.
///
/// # Panics
/// When something does not hold.
pub(super) fn first_words(input: &[u8]) {
    let words = Words::of(&mut Unstructured::new(input));
    let written = Arc::new(Written::default());
    let send = Box::new(Writes(Arc::clone(&written)));
    let hello = AgentHello::of_this_process(env!("CARGO_PKG_VERSION"));
    let base = RemoteHost::over("exec=fuzz".to_owned(), send, None, hello, ALL);
    let relay =
        Relay { frames: Frames::default(), words: words.pieces.into_iter(), ends: words.ends, said: End::NotYet };
    let is_ssh = input.len() % 2 == 1;
    let greeting = HostGreeting {
        package_version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat: ALL,
        tenant: None,
        keeps_modules: false,
    };
    let (reading, writing) = (Arc::clone(&base), Arc::clone(&base.link));
    let named = is_ssh.then_some(Path::new("/dev/null"));
    let started = Instant::now();
    let (result, threads) = greet_over(&base, named, &greeting, PATIENCE, || {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let writer = thread("link-writer").spawn(move || writing.run_writer(FrameEncoder::default()));
        let reader = thread("link-reader").spawn(move || {
            let plays = Plays { script: relay, left: Vec::new() };
            reading.link.run_reader(&mut LinkReader::new(Box::new(plays), &[]), |frame| reading.take(frame));
            reading.clear_up();
        });
        [writer, reader].map(|thread| thread.expect("threads can be started"))
    });
    assert!(started.elapsed() < ALL, "a host that waits for ever");
    match result {
        Ok(hello) => {
            assert_eq!((hello.package_version.as_str(), hello.protocol), (env!("CARGO_PKG_VERSION"), PROTOCOL_VERSION));
            assert!(hello.platform.len() <= 64, "a text of {} bytes", hello.platform.len());
        }
        Err(error) => check_text(&error.to_string()),
    }
    for thread in threads {
        thread.join().expect("the link's threads do not panic");
    }
    written.check(|frame| ToAgent::decode(frame).is_ok());
}

/// Inputs to begin with, with their names.
pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let seed = |name: &str, pieces: &[&[u8]]| (format!("first-words-{name}"), pieces.concat());
    let need = |text: &[u8]| [&[2, u8::try_from(text.len()).unwrap_or(0)], text].concat();
    vec![
        seed("agent", &[&[1], &[4]]),
        seed("noise-and-agent", &[&[0, 3, b'h', b'i', b'\n'], &[1], &[4]]),
        seed("ends", &[&[0, 2, b'h', b'i'], &[8, 0]]),
        seed("not-found", &[&[8, 127]]),
        seed("ssh-fails", &[&[8, 255], &[8, 255]]),
        seed("another-version", &[&[1], &[5, 1, 0, 1, b'9', 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]]),
        seed("no-hello", &[&[1], &[6, 9, 3, 1, 2, 3]]),
        seed("half-a-hello", &[&[1], &[4], &[7, 30], &[8, 0]]),
        seed("needs-a-copy", &[&need(b"Linux x86_64 sandgate 0.0.1"), &[1], &[4]]),
        seed("needs-it-twice", &[&need(b"Linux x86_64 "), &need(b"Linux x86_64 "), &[1], &[4]]),
        seed("fails", &[&need(b"Linux x86_64 "), &[3, 3, 27, b'[', b'J'], &[8, 1]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_holds_for_its_seeds() {
        for (_, input) in seeds() {
            // As a host by ssh, and as one by another launcher.
            first_words(&input);
            first_words(&[&input[..], &[0]].concat());
        }
    }
}
