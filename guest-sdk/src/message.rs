//! Between values and messages: the codec, the receive buffer, and how a [`Channel`] travels inside a value.
//!
//! ```text
//! send:     value ── postcard, each channel as its index ──► bytes + handles ── sys ──► worker
//! receive:  worker ── sys ──► bytes + handles ──► channels ── postcard, index to channel ──► value
//! ```
//!
//! A message is bytes and a list of handles. While a value is encoded or decoded, the list stands in [`TRAVELLING`], where
//! the implementations of `Serialize` and `Deserialize` for `Channel` find it; outside of that they fail.

use std::cell::{Cell, RefCell};

use sandgate_abi::status;
use sandgate_schema::{Schema, Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::channel::Channel;
use crate::operation::{DecodeCause, DecodeError, EncodeCause, EncodeError};
use crate::sys::{self, HANDLES, Handles, Size};

/// What a first message is received into. Most messages fit, and one that does not costs one more call.
const INITIAL_BUFFER_BYTES: usize = 4 * 1024;

/// A larger receive buffer is given back to the allocator after its message.
const MAX_KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    /// The list of the message that is being encoded or decoded.
    static TRAVELLING: Travelling =
        const { Travelling { direction: Cell::new(Direction::None), list: RefCell::new(List::NEW) } };
    /// Kept from message to message. Whoever uses it takes it out, so that a nested use finds an empty one.
    static SENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static RECEIVED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The channels of a message on its way, and why it cannot go on.
struct Travelling {
    direction: Cell<Direction>,
    list: RefCell<List>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// There is no message.
    None,
    Out,
    In,
}

struct List {
    channels: Vec<Channel>,
    encode: Option<EncodeCause>,
    decode: Option<DecodeCause>,
}

impl List {
    const NEW: List = List { channels: Vec::new(), encode: None, decode: None };
}

/// What the worker said to a receive: a message was taken, or the status of not taking one.
pub(crate) type Taken<T> = Result<T, i32>;

/// Encodes `value` and passes its bytes and handles on.
pub(crate) fn encode<T: Serialize + ?Sized, R>(
    value: &T,
    pass: impl FnOnce(&[u8], &[u32]) -> R,
) -> Result<R, EncodeError> {
    let mut bytes = SENT.take();
    bytes.clear();
    let scope = Scope::enter(Direction::Out, Vec::new());
    let encoded = postcard::to_extend(value, bytes);
    let List { channels, encode: cause, .. } = scope.leave();
    if let Some(cause) = cause {
        return Err(EncodeError::new::<T>(cause));
    }
    let bytes = encoded.map_err(|error| EncodeError::new::<T>(EncodeCause::Codec(error)))?;
    let handles: Vec<u32> = channels.iter().map(Channel::handle).collect();
    let passed = pass(&bytes, &handles);
    keep(&SENT, bytes);
    Ok(passed)
}

/// Takes a message with `call` and decodes all of it.
pub(crate) fn decode<T: DeserializeOwned>(
    call: impl FnMut(&mut Vec<u8>, &mut Handles) -> (i32, Size),
) -> Taken<Result<T, DecodeError>> {
    let mut bytes = RECEIVED.take();
    let decoded = take(&mut bytes, call).map(|channels| decode_bytes(&bytes, channels));
    keep(&RECEIVED, bytes);
    decoded
}

/// Takes a message with `call` as it is. Channels in it are given back.
pub(crate) fn take_bytes(
    bytes: &mut Vec<u8>,
    call: impl FnMut(&mut Vec<u8>, &mut Handles) -> (i32, Size),
) -> Taken<()> {
    take(bytes, call).map(drop)
}

/// The text of the error a peer closed the channel with.
pub(crate) fn peer_error(handle: u32) -> String {
    let mut bytes = Vec::new();
    match take(&mut bytes, |bytes, _| sys::channel_error(handle, bytes)) {
        Ok(_) => {
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Err(_) => String::new(),
    }
}

fn take(bytes: &mut Vec<u8>, mut call: impl FnMut(&mut Vec<u8>, &mut Handles) -> (i32, Size)) -> Taken<Vec<Channel>> {
    if bytes.capacity() < INITIAL_BUFFER_BYTES {
        *bytes = Vec::with_capacity(INITIAL_BUFFER_BYTES);
    }
    let mut handles = Handles::new();
    let (mut code, size) = call(bytes, &mut handles);
    if code == status::TOO_SMALL {
        // The message waits for a second call, and no other taker exists in this instance: the size is exact.
        bytes.clear();
        bytes.reserve_exact(size.bytes as usize);
        (code, _) = call(bytes, &mut handles);
    }
    if code != status::OK {
        return Err(code);
    }
    Ok(handles.iter().map(Channel::owning).collect())
}

fn decode_bytes<T: DeserializeOwned>(bytes: &[u8], channels: Vec<Channel>) -> Result<T, DecodeError> {
    let scope = Scope::enter(Direction::In, channels);
    let decoded = postcard::take_from_bytes::<T>(bytes);
    let List { channels: _given_back, decode: cause, .. } = scope.leave();
    let cause = match (decoded, cause) {
        (Ok((value, [])), None) => return Ok(value),
        (_, Some(cause)) => cause,
        (Ok((_, rest)), None) => DecodeCause::Trailing(rest.len()),
        (Err(error), None) => DecodeCause::Codec(error),
    };
    Err(DecodeError::new::<T>(cause))
}

#[inline]
fn keep(place: &'static std::thread::LocalKey<Cell<Vec<u8>>>, bytes: Vec<u8>) {
    if bytes.capacity() <= MAX_KEPT_BUFFER_BYTES {
        place.set(bytes);
    }
}

/// Puts a list in place, and the one before it back, also when a value's own code sends or receives in between.
struct Scope {
    /// What there was, if there was something.
    outer: Option<Box<(Direction, List)>>,
}

impl Scope {
    #[inline]
    fn enter(direction: Direction, channels: Vec<Channel>) -> Self {
        TRAVELLING.with(|it| {
            let before = it.direction.replace(direction);
            let outer = (before != Direction::None).then(|| Box::new((before, it.list.replace(List::NEW))));
            if !channels.is_empty() {
                it.list.borrow_mut().channels = channels;
            }
            Scope { outer }
        })
    }

    #[inline]
    fn leave(self) -> List {
        TRAVELLING.with(|it| {
            let (direction, list) = self.outer.map_or((Direction::None, List::NEW), |outer| *outer);
            it.direction.set(direction);
            it.list.replace(list)
        })
    }
}

/// As its position in the message's list of channels. A channel that stands several times in a value is listed once.
impl Schema for Channel {
    const TYPE: &'static Type = &Type::Channel;
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = TRAVELLING.with(|it| match it.direction.get() {
            Direction::Out => {
                let List { channels, encode: cause, .. } = &mut *it.list.borrow_mut();
                let known = channels.iter().position(|channel| channel.handle() == self.handle());
                let index = known.unwrap_or(channels.len());
                if index == HANDLES {
                    *cause = Some(EncodeCause::TooManyChannels);
                } else if known.is_none() {
                    channels.push(self.clone());
                }
                u32::try_from(index).ok()
            }
            _ => None,
        });
        match index {
            Some(index) => serializer.serialize_u32(index),
            None => Err(serde::ser::Error::custom("a channel is encoded only while it is sent")),
        }
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u32::deserialize(deserializer)?;
        let channel = TRAVELLING.with(|it| match it.direction.get() {
            Direction::In => {
                let List { channels, decode: cause, .. } = &mut *it.list.borrow_mut();
                let channel = channels.get(index as usize).cloned();
                if channel.is_none() {
                    *cause = Some(DecodeCause::NoSuchChannel { index, count: channels.len() });
                }
                channel
            }
            _ => None,
        });
        channel.ok_or_else(|| serde::de::Error::custom("a channel is decoded only while it is received"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::loopback;
    use crate::{channel, new_channel};

    #[derive(Debug, Serialize, Deserialize)]
    struct Pair {
        name: String,
        first: Channel,
        second: Channel,
    }

    fn sent<T: Serialize>(value: &T) -> (Vec<u8>, Vec<u32>) {
        encode(value, |bytes, handles| (bytes.to_vec(), handles.to_vec())).unwrap()
    }

    #[test]
    fn channels_are_listed_once_and_referred_to_by_index() {
        let (a, b) = (new_channel().unwrap(), new_channel().unwrap());
        assert_eq!(sent(&(&a, &b)), (vec![0, 1], vec![1, 2]));
        assert_eq!(sent(&(&b, &a, 7u8, &b)), (vec![0, 1, 7, 0], vec![2, 1]));
        assert_eq!(sent(&[a.clone(), a.clone()]), (vec![0, 0], vec![1]));
        assert_eq!(sent(&5u8), (vec![5], vec![]));
    }

    #[test]
    fn channels_inside_a_value_come_back_and_work() {
        let task = channel();
        let inner = new_channel().unwrap();
        task.send(&Pair { name: "x".into(), first: inner.clone(), second: inner.clone() }).unwrap();
        let pair: Pair = task.receive().unwrap();
        assert_eq!(pair.name, "x");
        pair.first.send(&42u8).unwrap();
        assert_eq!(pair.second.receive::<u8>().unwrap(), 42);
        drop(pair);
        // `pair` held one handle, shared by its two fields.
        assert_eq!(loopback::worker(|worker| worker.dropped.clone()), [1]);
        drop(inner);
    }

    #[test]
    fn channels_that_no_value_refers_to_are_given_back() {
        let task = channel();
        let inner = new_channel().unwrap();
        task.send(&inner).unwrap();
        assert_eq!(task.receive::<u8>().unwrap(), 0);
        assert_eq!(loopback::worker(|worker| worker.dropped.clone()), [1]);
        task.send(&inner).unwrap();
        assert_eq!(task.receive_bytes().unwrap(), [0]);
        assert_eq!(loopback::worker(|worker| worker.dropped.clone()), [1, 1]);
    }

    #[test]
    fn a_channel_is_not_a_value_outside_of_a_message() {
        assert!(postcard::to_allocvec(&channel()).is_err());
        assert!(postcard::from_bytes::<Channel>(&[0]).is_err());
    }

    #[test]
    fn a_message_carries_a_limited_number_of_channels() {
        let mut channels: Vec<_> = (0..HANDLES).map(|_| new_channel().unwrap()).collect();
        assert_eq!(sent(&channels).1.len(), HANDLES);
        channels.push(new_channel().unwrap());
        let error = encode(&channels, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("more than `64` channels"), "{error}");
        assert!(TRAVELLING.with(|it| it.direction.get() == Direction::None && it.list.borrow().channels.is_empty()));
    }

    #[test]
    fn what_does_not_decode_says_why() {
        fn check<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8], text: &str) {
            let error = decode_bytes::<T>(bytes, Vec::new()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        check::<u8>(&[1, 2, 3], "`2` bytes follow the value of type `u8`");
        check::<String>(&[9, b'a'], "the message ends within a value of type `alloc::string::String`");
        check::<bool>(&[2], "not a value of type `bool`: a bool that is not 0 or 1");
        check::<Channel>(&[3], "channel `3` of the value is not among the `0` channels of its message");
        check::<Vec<u64>>(
            &[255, 255, 255, 255, 15, 1],
            "the message ends within a value of type `alloc::vec::Vec<u64>`",
        );
    }

    #[test]
    fn the_buffer_grows_to_the_message_and_is_kept() {
        let task = channel();
        for len in [0, 1, INITIAL_BUFFER_BYTES, INITIAL_BUFFER_BYTES + 1, 100_000, 3] {
            let value = vec![7u8; len];
            task.send(&value).unwrap();
            assert_eq!(task.receive::<Vec<u8>>().unwrap(), value);
            task.send_bytes(&value).unwrap();
            assert_eq!(task.receive_bytes().unwrap(), value);
        }
        let kept = RECEIVED.take();
        assert!((100_000..200_000).contains(&kept.capacity()), "{}", kept.capacity());

        task.send_bytes(&vec![0; MAX_KEPT_BUFFER_BYTES + 1]).unwrap();
        assert!(task.receive::<u8>().is_err());
        assert_eq!(RECEIVED.take().capacity(), 0);
    }
}
