//! The link itself: its streams by number, what its reader does with a frame, and its end.
//!
//! Three threads serve a link, and none of them waits for anybody's work: one reads ([`Link::run_reader`]), one writes
//! ([`Link::run_writer`]), one looks at the clock ([`Link::run_clock`]). The last sends a beat four times in the time that a
//! link may be silent, and ends the link when nothing was heard for all of it. Anything that arrives counts. An agent that
//! ends the link says why with its last frame, if there is room for it: what its host sees may be the end alone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::frame::{LinkError, LinkFrame, LinkReader};
use super::message::{LastWord, LinkEncoded, kind};
use super::stream::{Stream, StreamReceive, StreamSend};
use crate::text::printable;
use crate::transport::SendHalf;

/// Beats in the time that a link may be silent.
const BEATS: u32 = 4;
/// Messages that wait to be sent, above which the peer is taken for one that asks and does not read the answers.
const MAX_CONTROLS: usize = 65_536;
/// The longest text of a peer's last word.
const MAX_LAST_CHARS: usize = 256;

/// Which end of a link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The end that opens streams.
    Host,
    /// The other one.
    Agent,
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// This side closed it.
    Closed,
    /// The far end is gone: the stream ended, or could not be written to.
    Ended,
    /// Nothing was heard for so long.
    Silent {
        /// How long that is.
        after: Duration,
    },
    /// What arrived is not what was sent, or not what is ever sent.
    Corrupt {
        /// What it was.
        what: String,
    },
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Closed => f.write_str("link was closed here"),
            LinkEnd::Ended => f.write_str("link ended"),
            LinkEnd::Silent { after } => write!(f, "link was silent for {after:?}"),
            LinkEnd::Corrupt { what } => write!(f, "link is corrupt: {what}"),
        }
    }
}

/// One end of a link; see the [module](self).
#[derive(Debug)]
pub struct Link {
    end: End,
    pub(super) send: Box<dyn SendHalf>,
    heartbeat: Duration,
    /// Most streams at once that the far end may open.
    max_streams: usize,
    pub(super) state: Mutex<State>,
    /// There is something to write, or nothing ever again.
    pub(super) work: Condvar,
    /// The link has ended.
    over: Condvar,
    began: Instant,
    /// When something was heard last, in nanoseconds since `began`.
    heard: AtomicU64,
    /// How long a beat takes there and back, in nanoseconds; 0 if no echo has come.
    round_trip: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) controls: VecDeque<LinkEncoded>,
    /// Streams with something to send, in the order of their turns.
    pub(super) listed: VecDeque<Arc<Stream>>,
    streams: HashMap<u64, Arc<Stream>>,
    /// The highest number of a stream so far.
    last_stream: u64,
    pub(super) beat_is_due: bool,
    /// The number of the peer's beat that is to be echoed.
    pub(super) echo: Option<u64>,
    pub(super) ended: Option<LinkEnd>,
    /// The writer is there, and does not wait for room: it sees an end at once.
    pub(super) writer_is_near: bool,
}

impl Link {
    /// A link over the sending half of a transport, once hellos were exchanged. Somebody must run its three threads.
    pub fn new(end: End, send: Box<dyn SendHalf>, heartbeat: Duration) -> Arc<Link> {
        Link::with_streams(end, send, heartbeat, usize::MAX)
    }

    /// The same, on which the far end has at most so many streams open.
    pub fn with_streams(end: End, send: Box<dyn SendHalf>, heartbeat: Duration, max_streams: usize) -> Arc<Link> {
        Arc::new(Link {
            end,
            send,
            max_streams,
            heartbeat: heartbeat.max(Duration::from_millis(10)),
            state: Mutex::default(),
            work: Condvar::new(),
            over: Condvar::new(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
        })
    }

    /// Opens the next stream and sends what announces it, so that streams are announced in the order of their numbers.
    /// `announce` may have to wait for nothing.
    ///
    /// # Errors
    /// The system has no descriptor for it.
    pub fn open(
        self: &Arc<Self>,
        announce: impl FnOnce(u64) -> Option<LinkEncoded>,
    ) -> io::Result<(StreamSend, StreamReceive)> {
        let mut state = self.state.lock();
        let id = state.last_stream + 1;
        let halves = self.add(&mut state, id)?;
        if let Some(message) = announce(id).filter(|_| state.ended.is_none()) {
            state.controls.push_back(message);
            self.work.notify_one();
        }
        drop(state);
        Ok(halves)
    }

    /// Opens a stream that the far end has announced.
    ///
    /// # Errors
    /// Its number was used before, there are as many streams as there may be, or the system has no descriptor for it.
    pub fn accept(self: &Arc<Self>, id: u64) -> io::Result<(StreamSend, StreamReceive)> {
        let mut state = self.state.lock();
        if id <= state.last_stream {
            return Err(io::Error::other("a stream's number is used twice"));
        }
        if state.streams.len() >= self.max_streams {
            return Err(io::Error::other("more streams than there may be"));
        }
        self.add(&mut state, id)
    }

    fn add(self: &Arc<Self>, state: &mut State, id: u64) -> io::Result<(StreamSend, StreamReceive)> {
        let stream = Arc::new(Stream::new(id)?);
        state.last_stream = id;
        if state.ended.is_some() {
            stream.cut();
        } else {
            state.streams.insert(id, Arc::clone(&stream));
        }
        let receive = StreamReceive { link: Arc::clone(self), stream: Arc::clone(&stream) };
        Ok((StreamSend { link: Arc::clone(self), stream }, receive))
    }

    /// Sends a message before all that streams have. Never blocks. A peer that does not read what it has asked for loses the
    /// link.
    pub fn push(&self, message: LinkEncoded) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return;
        }
        if state.controls.len() >= MAX_CONTROLS {
            drop(state);
            return self.end(LinkEnd::Corrupt { what: "the far end does not read what it has asked for".to_owned() });
        }
        state.controls.push_back(message);
        self.work.notify_one();
    }

    pub(super) fn list(&self, stream: Arc<Stream>) {
        let mut state = self.state.lock();
        if state.ended.is_none() {
            state.listed.push_back(stream);
            self.work.notify_one();
        }
    }

    /// Forgets a stream on which nobody says anything any more.
    pub(super) fn settle(&self, stream: &Stream) {
        if stream.is_done() {
            self.state.lock().streams.remove(&stream.id);
        }
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.state.lock().streams.len()
    }

    /// Why the link ended, once it has.
    pub fn ended(&self) -> Option<LinkEnd> {
        self.state.lock().ended.clone()
    }

    /// Ends the link and all streams on it, unless it has ended already. Never blocks.
    pub fn end(&self, why: LinkEnd) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return;
        }
        // The writer shuts the transport once it has said so.
        let is_said = state.writer_is_near && self.last_word(&why).is_some();
        state.ended = Some(why);
        state.controls.clear();
        state.listed.clear();
        let streams = std::mem::take(&mut state.streams);
        drop(state);
        if !is_said {
            self.send.shutdown();
        }
        streams.values().for_each(|stream| stream.cut());
        self.work.notify_all();
        self.over.notify_all();
    }

    /// What this side says at an end that the other one may not see for what it is.
    pub(super) fn last_word(&self, why: &LinkEnd) -> Option<LastWord> {
        match why {
            LinkEnd::Silent { .. } if self.end == End::Agent => Some(LastWord::Silent),
            LinkEnd::Corrupt { what } if self.end == End::Agent => Some(LastWord::Corrupt(what.clone())),
            _ => None,
        }
    }

    /// The end that an agent tells of.
    fn told(&self, frame: LinkFrame<'_>) -> LinkEnd {
        match LastWord::decode(frame) {
            Ok(LastWord::Silent) => LinkEnd::Silent { after: self.heartbeat },
            Ok(LastWord::Corrupt(what)) => {
                let what: String = what.chars().take(MAX_LAST_CHARS).collect();
                LinkEnd::Corrupt { what: format!("at its far end: {}", printable(&what)) }
            }
            Err(error) => LinkEnd::Corrupt { what: error.to_string() },
        }
    }

    // ---- reading ----

    /// Reads until the link ends. What is no stream's is given to `take`; an error of it ends the link.
    pub fn run_reader(&self, frames: &mut LinkReader, mut take: impl FnMut(LinkFrame<'_>) -> Result<(), String>) {
        let why = loop {
            match frames.next_frame() {
                Ok(Some(frame)) if frame.kind == kind::LAST && self.end == End::Host => break self.told(frame),
                Ok(Some(frame)) => {
                    if let Err(what) = self.dispatch(frame, &mut take) {
                        break LinkEnd::Corrupt { what };
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => break LinkEnd::Corrupt { what: error.to_string() },
            }
            match frames.fill(true) {
                Ok(true) => self.hear(),
                Ok(false) | Err(LinkError::Io(_)) => break LinkEnd::Ended,
                Err(error) => break LinkEnd::Corrupt { what: error.to_string() },
            }
        };
        self.end(why);
    }

    fn hear(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The number of a beat that is written now: when that is.
    pub(super) fn beat(&self) -> u64 {
        self.now()
    }

    /// The shortest way so far counts, and longer ones a little: they were held up by something.
    fn echo_arrived(&self, of: u64) -> Result<(), &'static str> {
        let now = self.now();
        let took = now.checked_sub(of).ok_or("an echo of a beat that was not sent")?;
        let (took, known) = (took.max(1), self.round_trip.load(Ordering::Relaxed));
        let smoothed = if known == 0 || took < known { took } else { known + (took - known) / 8 };
        self.round_trip.store(smoothed, Ordering::Relaxed);
        Ok(())
    }

    /// How long something takes there and back, once that is known.
    pub fn round_trip(&self) -> Option<Duration> {
        Some(self.round_trip.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    fn dispatch(
        &self,
        frame: LinkFrame<'_>,
        take: &mut impl FnMut(LinkFrame<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        match frame.kind {
            kind::BEAT => {
                self.state.lock().echo = Some(number(frame.payload)?);
                self.work.notify_one();
                return Ok(());
            }
            kind::ECHO => return Ok(self.echo_arrived(number(frame.payload)?)?),
            kind::HELLO => return Err("a second hello".to_owned()),
            kind::DATA | kind::CREDIT | kind::ATTACH | kind::END => {}
            _ => return take(frame),
        }
        let stream = {
            let state = self.state.lock();
            match state.streams.get(&frame.stream) {
                Some(stream) => Arc::clone(stream),
                None if frame.stream <= state.last_stream => return Ok(()),
                None => return Err("a stream that does not exist".to_owned()),
            }
        };
        match frame.kind {
            kind::DATA => stream.data_arrived(frame.payload)?,
            kind::CREDIT => stream.credit_arrived(number(frame.payload)?)?,
            kind::ATTACH if self.end == End::Agent => stream.attach_arrived(number(frame.payload)?)?,
            kind::ATTACH => return Err("an artefact from an agent".to_owned()),
            _ => {
                stream.end_arrived()?;
                self.settle(&stream);
            }
        }
        Ok(())
    }

    // ---- the clock ----

    /// Sends beats and listens for them until the link ends.
    pub fn run_clock(&self) {
        let pause = self.heartbeat / BEATS;
        let mut looked_at = Instant::now();
        let mut state = self.state.lock();
        // The first one tells how far away the peer is.
        state.beat_is_due = true;
        self.work.notify_one();
        while state.ended.is_none() {
            if !self.over.wait_for(&mut state, pause).timed_out() {
                continue;
            }
            state.beat_is_due = true;
            self.work.notify_one();
            // Where this process itself was not run for a while, what has arrived meanwhile is to be read first.
            let was_held_up = looked_at.elapsed() > pause * 2;
            looked_at = Instant::now();
            let heard = Duration::from_nanos(self.heard.load(Ordering::Relaxed));
            if !was_held_up && self.began.elapsed().saturating_sub(heard) > self.heartbeat {
                drop(state);
                return self.end(LinkEnd::Silent { after: self.heartbeat });
            }
        }
    }
}

fn number(body: &[u8]) -> Result<u64, &'static str> {
    body.try_into().map(u64::from_le_bytes).map_err(|_| "a malformed number")
}
