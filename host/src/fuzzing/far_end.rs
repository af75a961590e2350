//! The body of the fuzz target `link_agent`, and its seeds: what a host reads from an agent.
//!
//! What it promises: whatever an agent says, in whatever order, while the host starts workers, talks to them and drops them, the
//! host neither panics nor waits; a stream holds at most its window; what the host writes are messages; texts of the agent come
//! out bounded and escaped; and at the end everybody is told, and nothing of the link is left. An input that begins with
//! [`FIRST_WORDS`] is what a host hears before there is a link: see `first_words`.

use std::io::IoSlice;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use sandgate_wire::link::frame::{FrameEncoder, LinkReader};
use sandgate_wire::link::message::{AgentHello, Exited, FromAgent, RemoteCompiled, Start, ToAgent};
use sandgate_wire::link::{StreamReceive, StreamSend};
use sandgate_wire::outcome::{LossCause, WorkerLoss};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};

use super::first_words;
use super::link_script::{Frames, Play, Plays, Writes, Written, bytes, number, text};
use crate::deadline::Deadline;
use crate::remote::{Answer, RemoteHost, RemoteWorker};

/// Most workers at once.
const MAX_WORKERS: usize = 8;
/// The longest text of an agent that is kept, escaped.
const MAX_WORDS_BYTES: usize = 16 * 1024 * 8;

/// The beginning of inputs that are no script.
const FIRST_WORDS: u8 = 255;

type Worker = (StreamSend, StreamReceive, RemoteWorker);

/// A script: an agent and a host, by turns.
#[derive(Debug)]
struct Script {
    input: Vec<u8>,
    at: usize,
    frames: Frames,
    host: Arc<RemoteHost>,
    workers: Vec<Worker>,
    ended: Vec<RemoteWorker>,
    requests: Vec<u64>,
}

/// Plays a script of an agent.
///
/// # Panics
/// When something does not hold.
pub fn link_agent(input: &[u8]) {
    if let Some((&FIRST_WORDS, words)) = input.split_first() {
        return first_words::first_words(words);
    }
    let written = Arc::new(Written::default());
    let hello = AgentHello::of_this_process(env!("CARGO_PKG_VERSION"));
    let send = Box::new(Writes(Arc::clone(&written)));
    let host = RemoteHost::over("exec=fuzz".to_owned(), send, None, hello, Duration::from_secs(10));
    let script = Script {
        input: input.to_vec(),
        at: 0,
        frames: Frames::default(),
        host: Arc::clone(&host),
        workers: Vec::new(),
        ended: Vec::new(),
        requests: Vec::new(),
    };
    let writing = Arc::clone(&host.link);
    let writer = std::thread::Builder::new().name("link-writer".to_owned());
    let writer = writer.spawn(move || writing.run_writer(FrameEncoder::default())).expect("threads can be started");
    let told = Arc::new(parking_lot::Mutex::new((Vec::new(), Vec::new(), Vec::new())));
    let plays = Plays { script: Leaves { script, told: Arc::clone(&told) }, left: Vec::new() };
    host.link.run_reader(&mut LinkReader::new(Box::new(plays), &[]), |frame| host.take(frame));
    host.clear_up();
    writer.join().expect("the writer does not panic");

    let (workers, ended, requests) = std::mem::take(&mut *told.lock());
    assert_eq!(host.link.streams(), 0, "a link that is over has streams");
    for worker in workers.iter().map(|(_, _, worker)| worker).chain(&ended) {
        let cause = worker.ended().expect("every worker is told of its end");
        check_text(&format!("{cause:?}"));
        check_text(&worker.take_stderr_tail());
    }
    for request in requests {
        let mut answers = 0;
        while let Some(answer) = host.requests.next(request, Deadline::after(Duration::ZERO)) {
            answers += 1;
            assert!(answers <= 5, "an end comes after a few answers");
            if matches!(answer, Answer::Over) {
                break;
            }
        }
        assert!(answers > 0, "whoever waits for an answer is told of the end");
        host.requests.give_up(request);
    }
    drop((workers, ended));
    written.check(|frame| ToAgent::decode(frame).is_ok());
    let left = Arc::downgrade(&host);
    drop(host);
    assert_eq!(Weak::strong_count(&left), 0, "somebody holds a link that is over");
}

#[track_caller]
pub(super) fn check_text(text: &str) {
    assert!(text.len() <= MAX_WORDS_BYTES, "a text of {} bytes", text.len());
    assert!(
        text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'),
        "a text with control characters: {text:?}"
    );
}

/// What a script leaves: workers, those that were dropped, and requests.
type Left = (Vec<Worker>, Vec<RemoteWorker>, Vec<u64>);

/// A script that hands over what it has when it is dropped, which the reader does last.
#[derive(Debug)]
struct Leaves {
    script: Script,
    told: Arc<parking_lot::Mutex<Left>>,
}

impl Play for Leaves {
    fn play(&mut self) -> Option<Vec<u8>> {
        self.script.play()
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let script = &mut self.script;
        let take = (&mut script.workers, &mut script.ended, &mut script.requests);
        *self.told.lock() = (std::mem::take(take.0), std::mem::take(take.1), std::mem::take(take.2));
    }
}

impl Play for Script {
    fn play(&mut self) -> Option<Vec<u8>> {
        loop {
            let input = std::mem::take(&mut self.input);
            let mut rest = Unstructured::new(&input[self.at.min(input.len())..]);
            let before = rest.len();
            let said = if rest.is_empty() { None } else { self.step(&mut rest).ok() };
            self.at += before - rest.len();
            self.input = input;
            match said {
                Some(bytes) if bytes.is_empty() => {}
                said => return said,
            }
        }
    }
}

impl Script {
    /// What the agent says next; nothing while it is the host's turn.
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let step = input.arbitrary::<u8>()? % 17;
        let message = match step {
            0..=5 => return self.frames.common(step, input),
            6 => FromAgent::Started(number(input)?, input.arbitrary()?),
            7 => FromAgent::Exited(number(input)?, exited(input)?),
            8 => FromAgent::Resident(number(input)?, input.arbitrary()?),
            9 => FromAgent::Need(number(input)?),
            10 => FromAgent::Compiled(number(input)?, Box::new(compiled(input)?)),
            _ => {
                self.act(step, input)?;
                return Ok(Vec::new());
            }
        };
        Ok(self.frames.message(&message.encode()))
    }

    fn act(&mut self, step: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let which = usize::from(input.arbitrary::<u8>()?);
        let count = self.workers.len().max(1);
        let has_room = self.workers.len() < MAX_WORKERS;
        let worker = self.workers.get_mut(which % count);
        match (step, worker) {
            (11, _) if has_room => {
                let start = Start::Worker { program: None, directory: None };
                self.workers.push(self.host.start(&start).expect("there are descriptors"));
            }
            (12, Some((send, _, _))) => {
                let _ = send.try_write(&[IoSlice::new(&bytes(input)?)], None);
            }
            (13, Some((_, receive, _))) => {
                let mut buffer = [0; 4096];
                while matches!(receive.read(&mut buffer, false), Ok(1..)) {}
            }
            (14, Some(_)) => {
                let (send, receive, worker) = self.workers.swap_remove(which % count);
                drop((send, receive));
                worker.kill();
                self.ended.push(worker);
            }
            (15, Some((_, _, worker))) => {
                let _ = (worker.resident_bytes(), worker.pid());
            }
            (16, _) if which % 2 == 0 => self.requests.push(self.host.requests.begin()),
            (16, _) => {
                if let Some(request) = self.requests.pop() {
                    self.host.requests.give_up(request);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn cause(input: &mut Unstructured<'_>) -> Result<LossCause> {
    Ok(match input.arbitrary::<u8>()? % 5 {
        0 => LossCause::Exited { code: input.arbitrary()? },
        1 => LossCause::Signaled { signal: input.arbitrary()? },
        2 => LossCause::PolicyViolation { call: Some(text(input)?) },
        3 => LossCause::ProtocolViolation { message: text(input)? },
        _ => LossCause::Unknown { message: text(input)? },
    })
}

fn exited(input: &mut Unstructured<'_>) -> Result<Exited> {
    Ok(Exited { cause: cause(input)?, stderr_tail: text(input)? })
}

fn compiled(input: &mut Unstructured<'_>) -> Result<RemoteCompiled> {
    Ok(match input.arbitrary::<u8>()? % 3 {
        0 => RemoteCompiled::Failed(text(input)?),
        1 => {
            let (gateway, cause, stderr_tail) = (text(input)?, cause(input)?, text(input)?);
            RemoteCompiled::Lost(WorkerLoss { gateway, pid: None, cause, stderr_tail })
        }
        _ => RemoteCompiled::Done {
            artefact: input.arbitrary()?,
            bytes: input.arbitrary()?,
            shape: sandgate_wire::module_limits::Shape::default(),
            description: bytes(input)?,
        },
    })
}

/// Inputs to begin with, with their names.
pub fn link_agent_seeds() -> Vec<(String, Vec<u8>)> {
    const START: &[u8] = &[11, 0];
    let seed = |name: &str, steps: &[&[u8]]| (name.to_owned(), steps.concat());
    let data = |stream: u8, repeats: u8| vec![1, stream, repeats, 0, 4, 1, 2, 3, 4];
    let first_words = first_words::seeds().into_iter();
    let first_words = first_words.map(|(name, words)| (name, [&[FIRST_WORDS], &words[..]].concat()));
    let mut seeds = vec![
        seed("nothing", &[]),
        seed("noise", &[&[0, 3, 1, 2, 3]]),
        seed(
            "worker",
            &[START, &[6, 1, 5, 0, 0, 0], &data(1, 0), &[13, 0], &[7, 1, 0, 3, 0, 0, 0, 0, 2, b'h', b'i'], &[3, 1]],
        ),
        seed("escapes", &[START, &[7, 1, 4, 3, 4, 27, b'[', b'2', b'J', 9, 3, 27, 7, 0]]),
        seed("last-word-silent", &[START, &[5, 18, 1, 0, 1, 0], &data(1, 0)]),
        seed("last-word-corrupt", &[START, &[5, 18, 1, 0, 4, 1, 2, 27, b'x'], &data(1, 0)]),
        seed("unasked-start", &[&[6, 1, 5, 0, 0, 0]]),
        seed("exit-twice", &[START, &[7, 1, 0, 3, 0, 0, 0, 0, 0], &[7, 1, 0, 3, 0, 0, 0, 0, 0]]),
        ("more-than-credit".to_owned(), [START, &[&[1, 1, 127, 0, 200][..], &[7; 200]].concat().repeat(100)].concat()),
        seed("no-such-stream", &[&data(5, 0)]),
        seed("after-the-end", &[START, &[3, 1], &data(1, 0)]),
        seed("end-twice", &[START, &[3, 1], &[3, 1]]),
        seed("credit", &[START, &[12, 0, 3, 1, 2, 3], &[2, 1, 3, 0, 0, 0, 0, 0, 0, 0]]),
        seed("credit-for-nothing", &[START, &[2, 1, 0, 0, 0, 0, 0, 0, 0, 1]]),
        seed("artefact", &[START, &[5, 5, 1, 1, 8], &[0; 8]]),
        seed("late-for-one-dropped", &[START, &[14, 0], &data(1, 3), &[3, 1], &[7, 1, 0, 3, 0, 0, 0, 0, 0]]),
        seed("resident", &[START, &[15, 0], &[8, 1, 1, 5, 0, 0, 0, 0, 0, 0, 0], &[15, 0]]),
        seed("compiled", &[&[16, 0], &[9, 1], &[10, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 9]]),
        seed("many-answers", &[&[16, 0], &[9, 1], &[9, 1], &[9, 1], &[9, 1], &[9, 1]]),
        seed("unasked-answer", &[&[9, 3]]),
        seed("beats", &[&[4, 1], &[1; 8], &[4, 0], &[255; 8]]),
        seed("hello-again", &[&[5, 1, 1, 0, 3, 1, 2, 3]]),
    ];
    seeds.extend(first_words);
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_link_agent_holds_for_its_seeds() {
        for (_, input) in super::link_agent_seeds() {
            super::link_agent(&input);
        }
    }
}
