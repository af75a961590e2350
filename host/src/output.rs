//! What guests print: lines, with the gateway and channel they came from, to a sink of the user's choice.
//!
//! Output arrives in pieces with credits of its own, waits in a queue per gateway, and is handed on by the threads that
//! run callbacks. A sink that blocks therefore stops the guests of that gateway that print, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use sandgate_wire::ChannelId;
use sandgate_wire::message::{Output, Stream};

use crate::callback::run_soon;
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::process::printable;

/// Longest line that is handed on as one; a longer one is cut into several.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// One line that a guest printed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputLine {
    /// The gateway's id; in a pool, that of the place that it has.
    pub gateway: String,
    /// The number of the execution's channel.
    pub channel: u64,
    /// The number of the pool's task that the execution runs, as its [`TaskResult`](crate::TaskResult) has it. None for what
    /// no pool runs, and for an execution that serves many tasks.
    pub task: Option<u64>,
    /// Standard output or error.
    pub stream: Stream,
    /// The line without its line break, as the guest wrote it: it may hold anything, escapes of a terminal included.
    /// What is not UTF-8 is replaced.
    pub text: String,
    /// Whether the execution reached its limit here (setting `output=`) and all that followed was dropped.
    pub truncated: bool,
    /// The limit in bytes, if it is reached here.
    pub limit: Option<u64>,
}

impl fmt::Display for OutputLine {
    /// The line with a prefix, safe to print on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Some(task) => self.write(f, &format_args!("task {task}")),
            None => self.write(f, &format_args!("#{}", self.channel)),
        }
    }
}

impl OutputLine {
    /// The line with a prefix that calls what printed it so, safe to print on a terminal.
    pub fn named(&self, name: &str) -> String {
        struct Named<'a>(&'a OutputLine, &'a str);
        impl fmt::Display for Named<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, &self.1)
            }
        }
        Named(self, name).to_string()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &dyn fmt::Display) -> fmt::Result {
        write!(f, "[{} {name} {}] {}", self.gateway, self.stream, printable(&self.text))?;
        match self.limit {
            Some(bytes) => {
                write!(f, " [output limit of {bytes} bytes reached, the rest is dropped; setting `output=`]")
            }
            None => Ok(()),
        }
    }
}

/// All that an execution printed, if its call asked for it: see [`Call::capture_output`](crate::Call::capture_output).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CapturedOutput {
    /// Standard output, as it was written.
    pub stdout: Vec<u8>,
    /// Standard error, as it was written.
    pub stderr: Vec<u8>,
    /// Whether the execution reached its limit (setting `output=`) and what followed was dropped.
    pub truncated: bool,
}

/// Bytes that a guest printed, as they came.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct OutputPiece<'a> {
    /// The gateway's id; in a pool, that of the place that it has.
    pub gateway: &'a str,
    /// The number of the execution's channel.
    pub channel: u64,
    /// The number of the pool's task, as in [`OutputLine`].
    pub task: Option<u64>,
    /// Standard output or error.
    pub stream: Stream,
    /// What it wrote; never cut or changed.
    pub bytes: &'a [u8],
    /// Whether the execution reached its limit (setting `output=`) here and all that followed was dropped.
    pub truncated: bool,
}

/// Where the lines go.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum OutputSink {
    /// The host's standard error, with a prefix and escapes made visible.
    #[default]
    Stderr,
    /// Nowhere.
    Discard,
    /// A function. It may block; a panic of it is logged.
    Callback(Arc<dyn Fn(OutputLine) + Send + Sync>),
    /// A function that is given the bytes as they come, not lines. It may block, which stops the guests of that gateway
    /// that print; a panic of it is logged.
    Pieces(Arc<dyn Fn(OutputPiece<'_>) + Send + Sync>),
}

impl OutputSink {
    /// A sink that calls a function for each line.
    pub fn callback(sink: impl Fn(OutputLine) + Send + Sync + 'static) -> OutputSink {
        OutputSink::Callback(Arc::new(sink))
    }

    /// A sink that calls a function with the bytes as they come.
    pub fn pieces(sink: impl Fn(OutputPiece<'_>) + Send + Sync + 'static) -> OutputSink {
        OutputSink::Pieces(Arc::new(sink))
    }

    /// Hands on all that something printed which is no execution of a gateway, but has a name, and its limit in bytes.
    pub(crate) fn put_all(&self, name: &str, printed: &[(Stream, Vec<u8>, bool)], limit: u64) {
        if let OutputSink::Pieces(sink) = self {
            for (stream, bytes, truncated) in printed {
                let (gateway, stream, truncated) = (name, *stream, *truncated);
                let piece = OutputPiece { gateway, channel: 0, task: None, stream, bytes, truncated };
                if catch_unwind(AssertUnwindSafe(|| sink(piece))).is_err() {
                    tracing::warn!("the output callback panicked");
                }
            }
            return;
        }
        let router = OutputRouter::new(name.to_owned(), self.clone());
        let source = Source { channel: ChannelId(0), gateway: name, task: None };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (mut line, mut complete) = (Vec::new(), true);
            for (_, bytes, truncated) in printed.iter().filter(|(of, ..)| *of == stream) {
                complete = router.add(&source, stream, &mut line, bytes, truncated.then_some(limit));
            }
            if !complete {
                router.put(&source, stream, &line, None);
            }
        }
    }

    fn put(&self, line: OutputLine) {
        match self {
            OutputSink::Stderr => {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(std::io::stderr().lock(), "{line}");
            }
            OutputSink::Discard | OutputSink::Pieces(_) => {}
            OutputSink::Callback(sink) => {
                if catch_unwind(AssertUnwindSafe(|| sink(line))).is_err() {
                    tracing::warn!("the output callback panicked");
                }
            }
        }
    }
}

impl fmt::Debug for OutputSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutputSink::Stderr => "Stderr",
            OutputSink::Discard => "Discard",
            OutputSink::Callback(_) => "Callback",
            OutputSink::Pieces(_) => "Pieces",
        })
    }
}

/// What an execution of a pool is: what it prints is told to be of that, and not of the gateway that happens to be there.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) gateway: Arc<str>,
    pub(crate) task: Option<u64>,
}

/// Whose output it is.
struct Source<'a> {
    channel: ChannelId,
    gateway: &'a str,
    task: Option<u64>,
}

/// The queue of one gateway's output.
#[derive(Debug)]
pub(crate) struct OutputRouter {
    gateway: String,
    sink: OutputSink,
    state: Mutex<RouterState>,
    /// Only the thread that delivers takes this.
    unfinished: Mutex<Unfinished>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct RouterState {
    pieces: VecDeque<Piece>,
    delivering: bool,
}

#[derive(Debug)]
struct Piece {
    endpoint: Arc<Endpoint>,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Bytes { stream: Stream, bytes: Vec<u8>, truncated: bool },
    End,
}

/// Lines that are not complete.
type Unfinished = HashMap<(ChannelId, Stream), Vec<u8>>;

impl OutputRouter {
    pub(crate) fn new(gateway: String, sink: OutputSink) -> Arc<OutputRouter> {
        Arc::new(OutputRouter {
            gateway,
            sink,
            state: Mutex::default(),
            unfinished: Mutex::default(),
            idle: Condvar::new(),
        })
    }

    /// Takes a piece of output. Never blocks.
    pub(crate) fn arrive(self: &Arc<Self>, endpoint: &Arc<Endpoint>, output: Output<'_>) {
        if let OutputSink::Discard = self.sink {
            endpoint.output_delivered(output.bytes.len() as u64);
            return;
        }
        let Output { stream, truncated, bytes } = output;
        let mut state = self.state.lock();
        // A byte at a time must not take a hundred times its memory.
        if let Some(Piece { endpoint: last, part: Part::Bytes { stream: same, bytes: waiting, truncated: cut } }) =
            state.pieces.back_mut()
            && Arc::ptr_eq(last, endpoint)
            && *same == stream
            && !*cut
        {
            waiting.extend_from_slice(bytes);
            *cut = truncated;
            return;
        }
        drop(state);
        self.push(endpoint, Part::Bytes { stream, bytes: bytes.to_vec(), truncated });
    }

    /// An execution that printed has ended: its last lines are complete.
    pub(crate) fn end(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        if !matches!(self.sink, OutputSink::Discard) {
            self.push(endpoint, Part::End);
        }
    }

    /// Pieces that wait, and their bytes.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        let bytes = |piece: &Piece| if let Part::Bytes { bytes, .. } = &piece.part { bytes.len() } else { 0 };
        (state.pieces.len(), state.pieces.iter().map(bytes).sum())
    }

    /// Waits until everything that arrived was handed on, and says whether it was.
    pub(crate) fn wait_idle(&self, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while state.delivering {
            if deadline.wait(&self.idle, &mut state).is_err() {
                return false;
            }
        }
        true
    }

    fn push(self: &Arc<Self>, endpoint: &Arc<Endpoint>, part: Part) {
        let mut state = self.state.lock();
        state.pieces.push_back(Piece { endpoint: Arc::clone(endpoint), part });
        if !std::mem::replace(&mut state.delivering, true) {
            let router = Arc::clone(self);
            run_soon(Box::new(move || router.deliver()));
        }
    }

    fn deliver(&self) {
        let mut unfinished = self.unfinished.lock();
        loop {
            let piece = {
                let mut state = self.state.lock();
                let Some(piece) = state.pieces.pop_front() else {
                    drop(unfinished);
                    state.delivering = false;
                    self.idle.notify_all();
                    return;
                };
                piece
            };
            let origin = piece.endpoint.origin();
            let source = Source {
                channel: piece.endpoint.id,
                gateway: origin.as_ref().map_or(&self.gateway, |origin| &origin.gateway),
                task: origin.as_ref().and_then(|origin| origin.task),
            };
            match piece {
                Piece { endpoint, part: Part::Bytes { stream, bytes, truncated } }
                    if let OutputSink::Pieces(sink) = &self.sink =>
                {
                    let Source { channel: ChannelId(channel), gateway, task } = source;
                    let piece = OutputPiece { gateway, channel, task, stream, bytes: &bytes, truncated };
                    if catch_unwind(AssertUnwindSafe(|| sink(piece))).is_err() {
                        tracing::warn!("the output callback panicked");
                    }
                    endpoint.output_delivered(bytes.len() as u64);
                }
                Piece { endpoint, part: Part::Bytes { stream, bytes, truncated } } => {
                    let line = unfinished.entry((endpoint.id, stream)).or_default();
                    let limit = truncated.then_some(endpoint.limits.output_bytes);
                    let complete = self.add(&source, stream, line, &bytes, limit);
                    if complete {
                        unfinished.remove(&(endpoint.id, stream));
                    }
                    endpoint.output_delivered(bytes.len() as u64);
                }
                Piece { endpoint, part: Part::End } => {
                    for stream in [Stream::Stdout, Stream::Stderr] {
                        if let Some(line) = unfinished.remove(&(endpoint.id, stream)) {
                            self.put(&source, stream, &line, None);
                        }
                    }
                }
            }
        }
    }

    /// Hands on the lines that `bytes` completes and keeps the rest; returns whether nothing is kept. A limit is reached at
    /// their end.
    fn add(&self, source: &Source<'_>, stream: Stream, line: &mut Vec<u8>, bytes: &[u8], limit: Option<u64>) -> bool {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            line.extend_from_slice(text);
            while line.len() > MAX_LINE_BYTES {
                let rest = line.split_off(cut(line));
                self.put(source, stream, line, None);
                *line = rest;
            }
            if text.len() < part.len() {
                self.put(source, stream, line, None);
                line.clear();
            }
        }
        if limit.is_some() {
            self.put(source, stream, line, limit);
            line.clear();
        }
        line.is_empty()
    }

    fn put(&self, source: &Source<'_>, stream: Stream, line: &[u8], limit: Option<u64>) {
        let text = String::from_utf8_lossy(line).into_owned();
        let (gateway, channel, task) = (source.gateway.to_owned(), source.channel.0, source.task);
        self.sink.put(OutputLine { gateway, channel, task, stream, text, truncated: limit.is_some(), limit });
    }
}

/// Where to cut a line that is longer than [`MAX_LINE_BYTES`]: there, or just before a character that stands across it.
fn cut(line: &[u8]) -> usize {
    let starts = |at: &usize| line[*at] & 0b1100_0000 != 0b1000_0000;
    (MAX_LINE_BYTES - 3..=MAX_LINE_BYTES).rev().find(starts).unwrap_or(MAX_LINE_BYTES)
}
