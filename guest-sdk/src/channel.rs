//! A channel to the other side, and waiting for several at once.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use sandgate_abi::{TASK_CHANNEL, status};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message;
use crate::operation::{CloseError, NewChannelError, ReceiveError, SendError, WaitError};
use crate::{startup, sys};

const FOR_EVER: i64 = -1;
const NOT_AT_ALL: i64 = 0;

/// A two-way channel whose other end is on the host.
///
/// [`channel`] is the one every execution starts with; more come from [`new_channel`] and inside received values. A clone
/// is the same channel, not a second one. When the last clone is dropped, the channel is closed; the task's own channel
/// ends with the task.
///
/// # Sending channels
///
/// A channel can be a part of any value that is sent or received, except for messages of raw bytes. It cannot be
/// serialised into anything else.
///
/// ```no_run
/// # fn main() -> sandgate_guest::Result<()> {
/// #[derive(serde::Serialize)]
/// struct Offer {
///     price: u32,
///     answer_on: sandgate_guest::Channel,
/// }
///
/// let answer_on = sandgate_guest::new_channel()?;
/// sandgate_guest::channel().send(&Offer { price: 3, answer_on: answer_on.clone() })?;
/// let accepted: bool = answer_on.receive()?;
/// # Ok(())
/// # }
/// ```
///
/// # Order
///
/// What is sent on one channel arrives in order, and its end arrives after it. Channels are not ordered among each other.
///
/// # Blocking
///
/// A call that blocks needs no timeout to be stoppable: the host can end the whole task at any point.
#[derive(Clone)]
pub struct Channel {
    /// `None` is the task's own channel, which is not owned.
    owned: Option<Rc<Handle>>,
}

/// The channel of this task: what the host got from `remote_exec`. Every call returns the same channel.
#[must_use]
pub fn channel() -> Channel {
    startup::ensure_linked();
    Channel { owned: None }
}

/// A new channel. It reaches the host when it is sent inside a value.
///
/// # Errors
///
/// [`NewChannelError::TooMany`] when the task has as many channels as it may.
pub fn new_channel() -> Result<Channel, NewChannelError> {
    startup::ensure_linked();
    let code = sys::channel_new();
    match u32::try_from(code) {
        Ok(handle) => Ok(Channel::owning(handle)),
        Err(_) => Err(NewChannelError::from_status(code)),
    }
}

/// Blocks until one of `channels` has a message or has ended, and returns its position.
///
/// Receiving from that channel then does not block. Of several that are ready, each gets its turn.
///
/// # Errors
///
/// None at present: waiting for no channel at all blocks until the task is ended.
pub fn wait(channels: &[&Channel]) -> Result<usize, WaitError> {
    wait_nanos(channels, FOR_EVER)
}

/// As [`wait`], for at most `timeout`.
///
/// # Errors
///
/// [`WaitError::Timeout`] when nothing happened on any of them.
pub fn wait_timeout(channels: &[&Channel], timeout: Duration) -> Result<usize, WaitError> {
    wait_nanos(channels, nanos(timeout))
}

impl Channel {
    /// Sends a value. Blocks while the host has not made room for it.
    ///
    /// # Errors
    ///
    /// * [`SendError::Closed`] when this channel can no longer send, because either side closed it.
    /// * [`SendError::TooLarge`] when the message exceeds the limit of this execution.
    /// * [`SendError::Encode`] when the value could not be encoded; nothing was sent.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_nanos(value, FOR_EVER)
    }

    /// As [`send`](Self::send), but waits for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of `send`, and [`SendError::Timeout`]; then nothing was sent.
    pub fn send_timeout<T: Serialize + ?Sized>(&self, value: &T, timeout: Duration) -> Result<(), SendError> {
        self.send_nanos(value, nanos(timeout))
    }

    /// As [`send`](Self::send), but does not wait for room.
    ///
    /// # Errors
    ///
    /// Those of `send`, and [`SendError::Timeout`] when there is no room; then nothing was sent.
    pub fn try_send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_nanos(value, NOT_AT_ALL)
    }

    /// Sends a message of raw bytes, as they are. The host takes it with its own `receive_bytes`.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), except for `Encode`.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_bytes_nanos(bytes, FOR_EVER)
    }

    /// As [`send_bytes`](Self::send_bytes), but waits for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of `send_bytes`, and [`SendError::Timeout`]; then nothing was sent.
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.send_bytes_nanos(bytes, nanos(timeout))
    }

    /// As [`send_bytes`](Self::send_bytes), but does not wait for room.
    ///
    /// # Errors
    ///
    /// Those of `send_bytes`, and [`SendError::Timeout`] when there is no room; then nothing was sent.
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_bytes_nanos(bytes, NOT_AT_ALL)
    }

    /// Takes the next value. Blocks until there is one.
    ///
    /// # Errors
    ///
    /// * [`ReceiveError::Closed`] at the end of the channel, and [`ReceiveError::Peer`] when the host closed it with an
    ///   error: both after everything that was sent before, and on every further call.
    /// * [`ReceiveError::Decode`] when the message is not a `T`. The message is gone; the next one can be received.
    /// * [`ReceiveError::TooManyChannels`] when the value brings more channels than the task may have.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T, ReceiveError> {
        self.receive_nanos(FOR_EVER)
    }

    /// As [`receive`](Self::receive), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of `receive`, and [`ReceiveError::Timeout`]; then nothing was taken.
    pub fn receive_timeout<T: DeserializeOwned>(&self, timeout: Duration) -> Result<T, ReceiveError> {
        self.receive_nanos(nanos(timeout))
    }

    /// The next value if there is one now.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive).
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<Option<T>, ReceiveError> {
        timeout_to_none(self.receive_nanos(NOT_AT_ALL))
    }

    /// Takes the next message as raw bytes. Blocks until there is one.
    ///
    /// Channels that were sent inside the message are given back: raw bytes cannot refer to them.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive), except for `Decode`.
    pub fn receive_bytes(&self) -> Result<Vec<u8>, ReceiveError> {
        self.receive_bytes_nanos(FOR_EVER)
    }

    /// As [`receive_bytes`](Self::receive_bytes), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of `receive_bytes`, and [`ReceiveError::Timeout`]; then nothing was taken.
    pub fn receive_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, ReceiveError> {
        self.receive_bytes_nanos(nanos(timeout))
    }

    /// The next message as raw bytes if there is one now.
    ///
    /// # Errors
    ///
    /// Those of [`receive_bytes`](Self::receive_bytes).
    pub fn try_receive_bytes(&self) -> Result<Option<Vec<u8>>, ReceiveError> {
        timeout_to_none(self.receive_bytes_nanos(NOT_AT_ALL))
    }

    /// As [`receive_bytes`](Self::receive_bytes), into a vector that can be used again and again. Its contents are
    /// replaced; after an error it is empty.
    ///
    /// # Errors
    ///
    /// Those of `receive_bytes`.
    pub fn receive_bytes_into(&self, bytes: &mut Vec<u8>) -> Result<(), ReceiveError> {
        self.receive_into_nanos(bytes, FOR_EVER)
    }

    /// The values of this channel up to its end. Each step blocks as [`receive`](Self::receive) does.
    ///
    /// The end itself is no item. Any error is one, and the last one, except for `Decode`, which concerns one message.
    ///
    /// ```no_run
    /// # fn main() -> sandgate_guest::Result<()> {
    /// let channel = sandgate_guest::channel();
    /// let mut sum = 0;
    /// for number in channel.iter::<u32>() {
    ///     sum += number?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter<T: DeserializeOwned>(&self) -> Iter<'_, T> {
        Iter { channel: self, ended: false, values: PhantomData }
    }

    /// Ends the channel for both sides. The host still receives what was sent before. Closing twice is no error.
    ///
    /// # Errors
    ///
    /// [`CloseError::NotAllowed`] on the task's own channel, which ends by returning from the task.
    pub fn close(&self) -> Result<(), CloseError> {
        CloseError::check(sys::channel_close(self.handle(), None))
    }

    /// As [`close`](Self::close), but the host sees an error with this text instead of the plain end. At most 16 KiB of
    /// it are kept.
    ///
    /// # Errors
    ///
    /// Those of `close`.
    pub fn close_with_error(&self, text: &str) -> Result<(), CloseError> {
        CloseError::check(sys::channel_close(self.handle(), Some(text)))
    }

    /// The channel of a handle that the worker has just given to this instance.
    pub(crate) fn owning(handle: u32) -> Self {
        Channel { owned: Some(Rc::new(Handle(handle))) }
    }

    pub(crate) fn handle(&self) -> u32 {
        self.owned.as_ref().map_or(TASK_CHANNEL, |handle| handle.0)
    }

    fn send_nanos<T: Serialize + ?Sized>(&self, value: &T, timeout: i64) -> Result<(), SendError> {
        let send = |bytes: &[u8], handles: &[u32]| sys::channel_send(self.handle(), bytes, handles, timeout);
        SendError::check(message::encode(value, send).map_err(SendError::Encode)?)
    }

    fn send_bytes_nanos(&self, bytes: &[u8], timeout: i64) -> Result<(), SendError> {
        SendError::check(sys::channel_send(self.handle(), bytes, &[], timeout))
    }

    fn receive_nanos<T: DeserializeOwned>(&self, timeout: i64) -> Result<T, ReceiveError> {
        message::decode(|bytes, handles| sys::channel_receive(self.handle(), bytes, handles, timeout))
            .map_err(|code| self.receive_error(code))?
            .map_err(ReceiveError::Decode)
    }

    fn receive_bytes_nanos(&self, timeout: i64) -> Result<Vec<u8>, ReceiveError> {
        let mut bytes = Vec::new();
        self.receive_into_nanos(&mut bytes, timeout)?;
        Ok(bytes)
    }

    fn receive_into_nanos(&self, bytes: &mut Vec<u8>, timeout: i64) -> Result<(), ReceiveError> {
        message::take_bytes(bytes, |bytes, handles| sys::channel_receive(self.handle(), bytes, handles, timeout))
            .map_err(|code| self.receive_error(code))
    }

    fn receive_error(&self, code: i32) -> ReceiveError {
        match code {
            status::PEER_ERROR => ReceiveError::Peer(message::peer_error(self.handle())),
            code => ReceiveError::from_status(code),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.handle()).finish()
    }
}

/// The iterator that [`Channel::iter`] returns.
#[derive(Debug)]
pub struct Iter<'a, T> {
    channel: &'a Channel,
    ended: bool,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, ReceiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.channel.receive();
        self.ended = !matches!(item, Ok(_) | Err(ReceiveError::Decode(_)));
        match item {
            Err(ReceiveError::Closed) => None,
            item => Some(item),
        }
    }
}

impl<T: DeserializeOwned> FusedIterator for Iter<'_, T> {}

/// A handle that the worker gave to this instance and gets back once.
struct Handle(u32);

impl Drop for Handle {
    fn drop(&mut self) {
        // The worker refuses only handles it does not know: nothing is left to be done then.
        let _ = sys::channel_drop(self.0);
    }
}

fn wait_nanos(channels: &[&Channel], timeout: i64) -> Result<usize, WaitError> {
    let handles: Vec<u32> = channels.iter().map(|channel| channel.handle()).collect();
    let code = sys::channel_wait(&handles, timeout);
    usize::try_from(code).map_err(|_| WaitError::from_status(code))
}

fn nanos(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)
}

fn timeout_to_none<T>(received: Result<T, ReceiveError>) -> Result<Option<T>, ReceiveError> {
    match received {
        Ok(value) => Ok(Some(value)),
        Err(ReceiveError::Timeout) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_order_up_to_the_end() {
        let channel = new_channel().unwrap();
        for number in 0..3u32 {
            channel.send(&number).unwrap();
        }
        channel.close().unwrap();
        channel.close().unwrap();
        assert!(matches!(channel.send(&1), Err(SendError::Closed)));
        let numbers: Vec<u32> = channel.iter().map(Result::unwrap).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(matches!(channel.receive::<u32>(), Err(ReceiveError::Closed)));
        assert!(matches!(channel.try_receive::<u32>(), Err(ReceiveError::Closed)));
    }

    #[test]
    fn a_peers_error_comes_after_the_values_and_stays() {
        let channel = new_channel().unwrap();
        channel.send("a").unwrap();
        channel.close_with_error("gone wrong").unwrap();
        let mut items = channel.iter::<String>();
        assert_eq!(items.next().unwrap().unwrap(), "a");
        assert!(matches!(items.next(), Some(Err(ReceiveError::Peer(text))) if text == "gone wrong"));
        assert!(items.next().is_none());
        assert!(matches!(channel.receive_bytes(), Err(ReceiveError::Peer(text)) if text == "gone wrong"));
    }

    #[test]
    fn a_message_of_another_type_is_passed_over() {
        let channel = new_channel().unwrap();
        channel.send_bytes(&[1, 2]).unwrap();
        channel.send(&7u8).unwrap();
        let items: Vec<_> = channel.iter::<u8>().take(2).collect();
        assert!(matches!(items[0], Err(ReceiveError::Decode(_))));
        assert!(matches!(items[1], Ok(7)));
    }

    #[test]
    fn nothing_there_is_not_an_error_to_try() {
        let channel = new_channel().unwrap();
        assert!(channel.try_receive::<u8>().unwrap().is_none());
        assert!(channel.try_receive_bytes().unwrap().is_none());
        let timeout = Duration::from_nanos(1);
        assert!(matches!(channel.receive_timeout::<u8>(timeout), Err(ReceiveError::Timeout)));
        assert!(matches!(wait_timeout(&[&channel], timeout), Err(WaitError::Timeout)));
    }

    #[test]
    fn waiting_names_the_one_that_is_ready() {
        let channels = [new_channel().unwrap(), new_channel().unwrap()];
        channels[1].send_bytes(b"").unwrap();
        assert_eq!(wait(&[&channels[0], &channels[1]]).unwrap(), 1);
        channels[0].close().unwrap();
        assert_eq!(wait(&[&channels[0], &channels[1]]).unwrap(), 0);
    }

    #[test]
    fn timeouts_saturate() {
        assert_eq!(nanos(Duration::from_millis(3)), 3_000_000);
        assert_eq!(nanos(Duration::MAX), i64::MAX);
    }

    #[test]
    fn the_last_clone_gives_the_handle_back() {
        let dropped = || sys::loopback::worker(|worker| worker.dropped.clone());
        let channel = new_channel().unwrap();
        let clone = channel.clone();
        drop(channel);
        assert!(dropped().is_empty());
        drop(clone);
        assert_eq!(dropped(), [1]);
        drop(crate::channel());
        assert_eq!(dropped(), [1]);
    }
}
