//! One of the byte streams of a link, with credits of its own in both directions.
//!
//! ```text
//!  try_write ──► out ──► a turn of the link's writer ──►┃ link ┃──► arrived ──► read
//!      ▲ room: credit for at most a window                                        │
//!      └───────────────────────────── CREDIT once a quarter was read ◄────────────┘
//! ```
//!
//! What waits in either place is at most a window. A stream whose reader is slow holds up nobody but its own sender: the
//! link's reader never waits, since whatever arrives has room.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::core::Link;
use super::frame::MAX_DATA_BYTES;
use super::message::kind;
use crate::transport::{ReceiveHalf, SendHalf, wait};

/// Bytes of a stream that may be under way or unread, in each direction.
pub const WINDOW_BYTES: u64 = 2 << 20;

/// Small pieces are put together up to this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What comes out of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// Some bytes.
    Data(Vec<u8>),
    /// The next byte comes with this artefact.
    Attach(u64),
    /// Nothing more comes.
    End,
}

#[derive(Debug)]
enum Piece {
    Data(Vec<u8>),
    Attach(u64),
}

/// Both directions of a stream, as the link has them.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    state: Mutex<State>,
    /// There is credit, or no use in waiting for it.
    room: Condvar,
    /// Readable while something has arrived, or the stream is over.
    bell: OwnedFd,
}

#[derive(Debug)]
struct State {
    out: VecDeque<Piece>,
    /// Bytes of the first piece that were sent.
    out_sent: usize,
    credit: u64,
    /// Nothing more is sent after what is in `out`.
    finished: bool,
    end_sent: bool,
    arrived: VecDeque<Piece>,
    /// Bytes of the first piece that were read.
    read: usize,
    /// What the peer may still send.
    allowed: u64,
    /// What was read and not given back.
    owed: u64,
    /// Nothing more is to be read after what is in `arrived`.
    over: bool,
    peer_ended: bool,
    /// What arrives now is nobody's.
    discards: bool,
    /// The link's writer knows that there is something to send.
    listed: bool,
    /// The link is gone.
    cut: bool,
}

impl Stream {
    pub(super) fn new(id: u64) -> io::Result<Stream> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State {
            out: VecDeque::new(),
            out_sent: 0,
            credit: WINDOW_BYTES,
            finished: false,
            end_sent: false,
            arrived: VecDeque::new(),
            read: 0,
            allowed: WINDOW_BYTES,
            owed: 0,
            over: false,
            peer_ended: false,
            discards: false,
            listed: false,
            cut: false,
        };
        Ok(Stream { id, state: Mutex::new(state), room: Condvar::new(), bell })
    }

    // ---- for the link's writer ----

    /// Hands over what there is for one turn, and says whether there is more.
    pub(super) fn turn(&self, mut emit: impl FnMut(u8, &[u8])) -> bool {
        let mut state = self.state.lock();
        if state.owed >= WINDOW_BYTES / 4 {
            let owed = std::mem::take(&mut state.owed);
            state.allowed += owed;
            emit(kind::CREDIT, &owed.to_le_bytes());
        }
        let mut room = MAX_DATA_BYTES;
        while room > 0 {
            let sent = state.out_sent;
            match state.out.front() {
                None => break,
                Some(Piece::Attach(artefact)) => {
                    emit(kind::ATTACH, &artefact.to_le_bytes());
                    state.out.pop_front();
                }
                Some(Piece::Data(data)) => {
                    let count = room.min(data.len() - sent);
                    emit(kind::DATA, &data[sent..sent + count]);
                    room -= count;
                    if sent + count == data.len() {
                        state.out.pop_front();
                        state.out_sent = 0;
                    } else {
                        state.out_sent = sent + count;
                    }
                }
            }
        }
        if state.out.is_empty() && state.finished && !state.end_sent {
            state.end_sent = true;
            emit(kind::END, &[]);
        }
        state.listed = !state.out.is_empty();
        state.listed
    }

    /// Whether both sides have said their last word.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.end_sent && state.peer_ended
    }

    // ---- for the link's reader ----

    pub(super) fn data_arrived(&self, bytes: &[u8]) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        if bytes.is_empty() {
            return Err("no bytes of a stream");
        }
        if state.peer_ended {
            return Err("bytes of a stream after its end");
        }
        let left = state.allowed.checked_sub(bytes.len() as u64);
        state.allowed = left.ok_or("more of a stream than there is credit for")?;
        if state.discards {
            return Ok(());
        }
        let was_empty = state.arrived.is_empty();
        match state.arrived.back_mut() {
            Some(Piece::Data(last)) if last.len() + bytes.len() <= PIECE_BYTES => last.extend_from_slice(bytes),
            _ => state.arrived.push_back(Piece::Data(bytes.to_vec())),
        }
        if was_empty {
            self.ring();
        }
        Ok(())
    }

    pub(super) fn attach_arrived(&self, artefact: u64) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        if state.peer_ended {
            return Err("an artefact on a stream after its end");
        }
        if matches!(state.arrived.back(), Some(Piece::Attach(_))) {
            return Err("two artefacts for one byte of a stream");
        }
        if !state.discards {
            state.arrived.push_back(Piece::Attach(artefact));
            self.ring();
        }
        Ok(())
    }

    pub(super) fn credit_arrived(&self, bytes: u64) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        let credit = state.credit.checked_add(bytes).filter(|credit| *credit <= WINDOW_BYTES);
        state.credit = credit.ok_or("credit for more of a stream than was sent")?;
        self.room.notify_all();
        Ok(())
    }

    pub(super) fn end_arrived(&self) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        if state.peer_ended {
            return Err("a second end of a stream");
        }
        state.peer_ended = true;
        state.over = true;
        self.ring();
        Ok(())
    }

    /// The link is gone. What had arrived can still be read.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock();
        state.out.clear();
        state.out_sent = 0;
        state.finished = true;
        state.cut = true;
        state.over = true;
        self.room.notify_all();
        self.ring();
    }

    // ---- both halves ----

    fn ring(&self) {
        // It has a counter that does not overflow in the time that there is.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Makes the bell silent, if nothing is there. Called with the state locked.
    fn settle(&self, state: &State) {
        if state.arrived.is_empty() && !state.over {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct StreamSend {
    pub(super) link: Arc<Link>,
    pub(super) stream: Arc<Stream>,
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct StreamReceive {
    pub(super) link: Arc<Link>,
    pub(super) stream: Arc<Stream>,
}

impl StreamSend {
    /// The stream's number.
    pub fn id(&self) -> u64 {
        self.stream.id
    }

    /// Says that nothing more is sent; what is under way still arrives, in both directions. Never blocks.
    pub fn finish(&self) {
        let mut state = self.stream.state.lock();
        state.finished = true;
        list(&self.link, &self.stream, &mut state);
    }
}

impl SendHalf for StreamSend {
    /// The descriptor is one of memory that has an artefact's number in it.
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut state = self.stream.state.lock();
        if state.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.credit == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(descriptor) = descriptor {
            state.out.push_back(Piece::Attach(read_ticket(descriptor)?));
        }
        let mut written = 0;
        for buffer in buffers {
            let room = usize::try_from(state.credit).unwrap_or(usize::MAX);
            let taken = &buffer[..buffer.len().min(room)];
            state.credit -= taken.len() as u64;
            written += taken.len();
            match state.out.back_mut() {
                _ if taken.is_empty() => {}
                Some(Piece::Data(last)) if last.len() + taken.len() <= PIECE_BYTES => last.extend_from_slice(taken),
                _ => state.out.push_back(Piece::Data(taken.to_vec())),
            }
        }
        list(&self.link, &self.stream, &mut state);
        Ok(written)
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut state = self.stream.state.lock();
        while state.credit == 0 && !state.finished {
            self.stream.room.wait(&mut state);
        }
        Ok(())
    }

    fn shutdown(&self) {
        let mut state = self.stream.state.lock();
        state.finished = true;
        state.discards = true;
        state.over = true;
        self.stream.room.notify_all();
        self.stream.ring();
        list(&self.link, &self.stream, &mut state);
    }
}

impl Drop for StreamSend {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl StreamReceive {
    /// Another descriptor that is readable while [`read`](ReceiveHalf::read) would not wait.
    ///
    /// # Errors
    /// The system's.
    pub fn ready(&self) -> io::Result<OwnedFd> {
        self.stream.bell.try_clone()
    }

    /// What comes next. Blocks until there is something.
    ///
    /// # Errors
    /// The system's.
    pub fn next_item(&mut self) -> io::Result<StreamItem> {
        loop {
            let mut state = self.stream.state.lock();
            let read = state.read;
            match state.arrived.pop_front() {
                Some(Piece::Data(mut data)) => {
                    data.drain(..read);
                    state.read = 0;
                    self.was_read(&mut state, data.len());
                    return Ok(StreamItem::Data(data));
                }
                Some(Piece::Attach(artefact)) => {
                    self.stream.settle(&state);
                    return Ok(StreamItem::Attach(artefact));
                }
                None if state.over => return Ok(StreamItem::End),
                None => {}
            }
            drop(state);
            wait(self.stream.bell.as_fd(), PollFlags::IN, None)?;
        }
    }

    fn was_read(&self, state: &mut State, bytes: usize) {
        state.owed += bytes as u64;
        self.stream.settle(state);
        if state.owed >= WINDOW_BYTES / 4 && !state.over {
            list(&self.link, &self.stream, state);
        }
    }
}

impl ReceiveHalf for StreamReceive {
    fn read(&mut self, buffer: &mut [u8], wait_for_it: bool) -> io::Result<usize> {
        loop {
            let mut state = self.stream.state.lock();
            let from = state.read;
            match state.arrived.front() {
                Some(Piece::Data(data)) => {
                    let count = buffer.len().min(data.len() - from);
                    buffer[..count].copy_from_slice(&data[from..from + count]);
                    if from + count == data.len() {
                        state.arrived.pop_front();
                        state.read = 0;
                    } else {
                        state.read = from + count;
                    }
                    self.was_read(&mut state, count);
                    return Ok(count);
                }
                // Only hosts attach artefacts, and the link knows.
                Some(Piece::Attach(_)) => return Err(io::ErrorKind::InvalidData.into()),
                None if state.over => return Ok(0),
                None if !wait_for_it => return Err(io::ErrorKind::WouldBlock.into()),
                None => {}
            }
            drop(state);
            wait(self.stream.bell.as_fd(), PollFlags::IN, None)?;
        }
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}

/// Tells the link's writer, once, that there is something to send.
fn list(link: &Link, stream: &Arc<Stream>, state: &mut State) {
    if !state.listed && !state.cut {
        state.listed = true;
        link.list(Arc::clone(stream));
    }
}

/// The artefact's number that stands in this memory.
fn read_ticket(memory: BorrowedFd<'_>) -> io::Result<u64> {
    let mut number = [0; 8];
    match rustix::io::pread(memory, &mut number, 0)? {
        8 => Ok(u64::from_le_bytes(number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
