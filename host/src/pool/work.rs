//! What a pool runs for each input, and how values go in and out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandgate_wire::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::Finished;
use super::mailbox::Sender;
use super::result::{ProgramOutput, TaskError, TaskResult, Timing};
use crate::error::CodecError;
use crate::value;

/// An iterator, feed or handle: its number, and where the results of its inputs go.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) number: u64,
    pub(crate) results: Sender<RawResult>,
}

/// One input on its way.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) owner: Arc<Owner>,
    pub(crate) index: u64,
    pub(crate) input: Bytes,
    /// Its own arguments, instead of the pool's.
    pub(crate) argv: Option<Arc<[String]>>,
    /// It cannot be run: its result is this.
    pub(crate) refused: Option<Box<TaskError>>,
}

/// What a run brought.
#[derive(Debug)]
pub(crate) enum RawValue {
    /// What it sent last, if anything.
    Message(Option<Message>),
    /// What it printed.
    Program(ProgramOutput),
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
    pub(crate) value: Result<RawValue, TaskError>,
    pub(crate) attempts: u32,
    pub(crate) gateway: Option<Arc<str>>,
    pub(crate) timing: Timing,
    /// Size of the input.
    pub(crate) input_bytes: usize,
}

/// The bytes of an input. A tuple is a task's arguments; another value is its only one.
pub(crate) fn encode<T: Serialize + ?Sized>(input: &T) -> Result<Bytes, TaskError> {
    let mut bytes = Vec::new();
    encode_behind(input, &mut bytes).map(|()| bytes.into())
}

/// As [`encode`], at the end of other bytes. What is there of an input that cannot be encoded is of no use.
pub(crate) fn encode_behind<T: Serialize + ?Sized>(input: &T, bytes: &mut Vec<u8>) -> Result<(), TaskError> {
    let encoded = value::encode_behind(input, bytes).and_then(|channels| match channels.is_empty() {
        true => Ok(()),
        false => Err(CodecError::new("an input of a pool cannot hold channels")),
    });
    encoded.map_err(|error| TaskError::Encode(Arc::new(error)))
}

/// Hands results to those who wait for them, if anybody does. Results of one owner that follow each other go together, and
/// wake it once. `name` tells the gateway of a lane.
pub(crate) fn deliver(
    finished: &mut Vec<Finished<Work, RawValue>>,
    name: impl Fn(usize) -> Option<Arc<str>>,
    epoch: Instant,
) {
    let mut finished = finished.drain(..).peekable();
    while let Some(first) = finished.next() {
        let owner = Arc::clone(&first.payload.owner);
        let mut next = Some(first);
        let run = std::iter::from_fn(|| {
            let one = next.take().or_else(|| finished.next_if(|next| Arc::ptr_eq(&next.payload.owner, &owner)))?;
            let gateway = one.lane.and_then(&name);
            Some(RawResult::of(one, gateway, epoch))
        });
        // If nobody wants them, those that are left are dropped here.
        let _ = owner.results.send_all(run);
    }
}

impl RawResult {
    fn of(finished: Finished<Work, RawValue>, gateway: Option<Arc<str>>, epoch: Instant) -> RawResult {
        let Finished { task, payload, value, attempts, queued, started, finished, .. } = finished;
        let since = |instant: Instant| instant.saturating_duration_since(epoch);
        let timing = Timing { queued: since(queued), started: started.map(since), finished: since(finished) };
        let (index, input_bytes) = (payload.index, payload.input.len());
        RawResult { index, task, value, attempts, gateway, timing, input_bytes }
    }

    /// The result of an input that the pool does not hear of.
    pub(crate) fn cancelled(index: u64, task: u64, at: Duration) -> RawResult {
        let timing = Timing { queued: at, started: None, finished: at };
        let value = Err(TaskError::Cancelled);
        RawResult { index, task, value, attempts: 0, gateway: None, timing, input_bytes: 0 }
    }

    pub(crate) fn typed<T>(self, decode: fn(RawValue) -> Result<T, TaskError>) -> TaskResult<T> {
        let RawResult { index, task, value, attempts, gateway, timing, .. } = self;
        TaskResult { index, task, value: value.and_then(decode), attempts, gateway, timing }
    }
}

/// A task that returns `()` sends nothing.
pub(crate) fn decode<T: DeserializeOwned>(raw: RawValue) -> Result<T, TaskError> {
    let RawValue::Message(message) = raw else { return Err(TaskError::NoValue) };
    let has_value = message.is_some();
    let bytes = message.map(|message| message.bytes).unwrap_or_default();
    value::decode_plain(&bytes).map_err(|source| match has_value {
        false => TaskError::NoValue,
        true => TaskError::Decode { type_name: std::any::type_name::<T>(), source: Arc::new(source) },
    })
}

pub(crate) fn output_of(raw: RawValue) -> Result<ProgramOutput, TaskError> {
    match raw {
        RawValue::Program(output) => Ok(output),
        RawValue::Message(_) => Err(TaskError::NoValue),
    }
}

/// The bytes of a value, which are none for `()`.
pub(crate) fn bytes_of(raw: RawValue) -> Result<Vec<u8>, TaskError> {
    match raw {
        RawValue::Message(Some(message)) if message.channels.is_empty() => Ok(message.bytes.into()),
        RawValue::Message(None) => Ok(Vec::new()),
        RawValue::Message(Some(_)) | RawValue::Program(_) => Err(TaskError::NoValue),
    }
}
