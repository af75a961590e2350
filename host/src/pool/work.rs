//! What a pool runs for each input, and how values go in and out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandgate_wire::Message;
use sandgate_wire::ids::ChannelHashes;
use sandgate_wire::messages::Messages;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::{Finished, TaskId};
use super::mailbox::Sender;
use super::packed::Packed;
use super::result::{ProgramOutput, TaskError, TaskResult, Timing};
use crate::error::CodecError;
use crate::value;

/// An iterator, feed or handle: its number, and where the results of its inputs go.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) number: u64,
    pub(crate) results: Sender<RawResult>,
}

/// Inputs that are handed to the pool together.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) owner: Arc<Owner>,
    pub(crate) tasks: Vec<(TaskId, Work)>,
}

/// One input on its way.
#[derive(Debug)]
pub(crate) struct Work {
    /// The number of its owner.
    pub(crate) owner: u64,
    pub(crate) index: u64,
    pub(crate) input: Packed,
    /// Its own arguments, instead of the pool's.
    pub(crate) argv: Option<Arc<[String]>>,
    /// It cannot be run: its result is this.
    pub(crate) refused: Option<Box<TaskError>>,
}

/// What a run brought.
#[derive(Debug)]
pub(crate) enum RawValue {
    /// It sent nothing.
    Nothing,
    /// What it sent last.
    Bytes(Packed),
    /// The same, and there are channels in it.
    WithChannels(Box<Message>),
    /// What it printed.
    Program(Box<ProgramOutput>),
}

impl From<Message> for RawValue {
    fn from(message: Message) -> RawValue {
        if message.channels.is_empty() {
            RawValue::Bytes(message.bytes.into())
        } else {
            RawValue::WithChannels(Box::new(message))
        }
    }
}

/// What a session has said: an answer to each of its first tasks. What is not taken is dropped.
#[derive(Debug)]
pub(crate) struct Answers<'a>(&'a mut Messages);

impl<'a> Answers<'a> {
    pub(crate) fn new(messages: &'a mut Messages) -> Answers<'a> {
        Answers(messages)
    }
}

impl Iterator for Answers<'_> {
    type Item = RawValue;

    fn next(&mut self) -> Option<RawValue> {
        let few = self.0.front().filter(|front| front.channels.is_empty()).and_then(|front| Packed::here(front.bytes));
        match few {
            Some(bytes) => {
                self.0.skip();
                Some(RawValue::Bytes(bytes))
            }
            None => self.0.pop().map(RawValue::from),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl ExactSizeIterator for Answers<'_> {}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// How inputs of a type become bytes, at the end of others, and what becomes of a result.
pub(crate) struct Codec<I, T> {
    pub(crate) encode: fn(&I, &mut Vec<u8>) -> Result<(), TaskError>,
    pub(crate) decode: fn(RawValue) -> Result<T, TaskError>,
}

impl<I: Serialize, T: DeserializeOwned> Codec<I, T> {
    /// Both are values.
    pub(crate) const VALUES: Codec<I, T> = Codec { encode: encode_behind::<I>, decode: decode::<T> };
}

impl<I: AsRef<[u8]>> Codec<I, ProgramOutput> {
    /// What a program reads, and what it prints.
    pub(crate) const PROGRAMS: Codec<I, ProgramOutput> = Codec {
        encode: |input, bytes| {
            bytes.extend_from_slice(input.as_ref());
            Ok(())
        },
        decode: output_of,
    };
}

/// A result before anybody has asked for its type.
#[derive(Debug)]
pub(crate) struct RawResult {
    pub(crate) index: u64,
    pub(crate) task: u64,
    pub(crate) value: Result<RawValue, Box<TaskError>>,
    attempts: u32,
    /// The place of its last run.
    lane: Option<u32>,
    times: Times,
    /// Size of the input.
    pub(crate) input_bytes: usize,
}

/// A [`Timing`] in nanoseconds, in half of the room: what goes from thread to thread costs by its size.
#[derive(Debug, Clone, Copy)]
struct Times {
    queued: u64,
    started: Option<NonZero<u64>>,
    finished: u64,
}

impl Times {
    fn timing(self) -> Timing {
        let since = Duration::from_nanos;
        let started = self.started.map(|started| since(started.get()));
        Timing { queued: since(self.queued), started, finished: since(self.finished) }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The bytes of an input. A tuple is a task's arguments; another value is its only one.
pub(crate) fn encode<T: Serialize + ?Sized>(input: &T) -> Result<Packed, TaskError> {
    let mut bytes = Vec::new();
    encode_behind(input, &mut bytes).map(|()| Bytes::from(bytes).into())
}

/// As [`encode`], at the end of other bytes. What is there of an input that cannot be encoded is of no use.
pub(crate) fn encode_behind<T: Serialize + ?Sized>(input: &T, bytes: &mut Vec<u8>) -> Result<(), TaskError> {
    let encoded = value::encode_behind(input, bytes).and_then(|channels| match channels.is_empty() {
        true => Ok(()),
        false => Err(CodecError::new("an input of a pool cannot hold channels")),
    });
    encoded.map_err(|error| TaskError::Encode(Arc::new(error)))
}

/// Those whose tasks are under way, and how many tasks that are for each.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<u64, (Arc<Owner>, usize), ChannelHashes>);

impl Owners {
    /// So many more are under way.
    pub(crate) fn enter(&mut self, owner: Arc<Owner>, tasks: usize) {
        self.0.entry(owner.number).or_insert((owner, 0)).1 += tasks;
    }

    /// Hands results to those who wait for them, if anybody does. Results of one owner that follow each other go together, and
    /// wake it once.
    pub(crate) fn deliver(&mut self, finished: &mut Vec<Finished<Work, RawValue>>, epoch: Instant) {
        let mut finished = finished.drain(..).peekable();
        while let Some(first) = finished.peek() {
            let number = first.payload.owner;
            let mut count = 0;
            let mut run = std::iter::from_fn(|| {
                let one = finished.next_if(|next| next.payload.owner == number)?;
                count += 1;
                Some(RawResult::of(one, epoch))
            });
            let entry = self.0.entry(number);
            if let Entry::Occupied(entry) = &entry {
                let _ = entry.get().0.results.send_all(run.by_ref());
            }
            // Nobody wants those that are left.
            run.for_each(drop);
            if let Entry::Occupied(mut entry) = entry {
                let under_way = &mut entry.get_mut().1;
                *under_way = under_way.saturating_sub(count);
                if *under_way == 0 {
                    entry.remove();
                }
            }
        }
    }
}

impl RawResult {
    fn of(finished: Finished<Work, RawValue>, epoch: Instant) -> RawResult {
        let Finished { task, payload, value, attempts, lane, queued, started, finished } = finished;
        let since = |instant: Instant| nanos(instant.saturating_duration_since(epoch));
        // Nothing runs in the pool's first nanosecond.
        let started = started.map(|started| NonZero::new(since(started)).unwrap_or(NonZero::<u64>::MIN));
        let times = Times { queued: since(queued), started, finished: since(finished) };
        let (index, input_bytes) = (payload.index, payload.input.as_ref().len());
        let lane = lane.and_then(|lane| u32::try_from(lane).ok());
        RawResult { index, task, value, attempts, lane, times, input_bytes }
    }

    /// The result of an input that the pool does not hear of.
    pub(crate) fn cancelled(index: u64, task: u64, at: Duration) -> RawResult {
        let times = Times { queued: nanos(at), started: None, finished: nanos(at) };
        let value = Err(Box::new(TaskError::Cancelled));
        RawResult { index, task, value, attempts: 0, lane: None, times, input_bytes: 0 }
    }

    /// `name` tells the gateway of a lane.
    pub(crate) fn typed<T>(
        self,
        decode: fn(RawValue) -> Result<T, TaskError>,
        name: impl FnOnce(usize) -> Option<Arc<str>>,
    ) -> TaskResult<T> {
        let RawResult { index, task, value, attempts, lane, times, .. } = self;
        let value = value.map_err(|error| *error).and_then(decode);
        let gateway = lane.and_then(|lane| name(lane as usize));
        TaskResult { index, task, value, attempts, gateway, timing: times.timing() }
    }
}

/// A task that returns `()` sends nothing.
pub(crate) fn decode<T: DeserializeOwned>(raw: RawValue) -> Result<T, TaskError> {
    let (bytes, has_value) = match &raw {
        RawValue::Nothing => (&[][..], false),
        RawValue::Bytes(bytes) => (bytes.as_ref(), true),
        RawValue::WithChannels(message) => (&message.bytes[..], true),
        RawValue::Program(_) => return Err(TaskError::NoValue),
    };
    value::decode_plain(bytes).map_err(|source| match has_value {
        false => TaskError::NoValue,
        true => TaskError::Decode { type_name: std::any::type_name::<T>(), source: Arc::new(source) },
    })
}

pub(crate) fn output_of(raw: RawValue) -> Result<ProgramOutput, TaskError> {
    match raw {
        RawValue::Program(output) => Ok(*output),
        _ => Err(TaskError::NoValue),
    }
}

/// The bytes of a value, which are none for `()`.
pub(crate) fn bytes_of(raw: RawValue) -> Result<Vec<u8>, TaskError> {
    match raw {
        RawValue::Nothing => Ok(Vec::new()),
        RawValue::Bytes(bytes) => Ok(bytes.into_bytes().into()),
        RawValue::WithChannels(_) | RawValue::Program(_) => Err(TaskError::NoValue),
    }
}
