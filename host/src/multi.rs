//! [`MultiChannel`]: several channels as one container.

use std::ops::Index;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::Channel;
use crate::deadline::Deadline;
use crate::error::{CodecError, ConsumerError, ReceiveError, SendError, WaitError};
use crate::queue::{QueueCore, ReceiveQueue, Tokens};
use crate::value;

/// Channels to work with together, in a fixed order. Clones share their receive queue.
#[derive(Debug, Clone, Default)]
pub struct MultiChannel {
    channels: Arc<[Channel]>,
    queue: Arc<QueueSlot>,
}

#[derive(Debug, Default)]
struct QueueSlot {
    making: Mutex<()>,
    core: OnceLock<Arc<QueueCore>>,
}

/// Why not every channel took a message. The others did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendEachError {
    /// The value cannot be serialised; nothing was sent.
    #[error("value cannot be serialised")]
    Encode(#[source] CodecError),
    /// Some channels did not take it.
    #[error("{} of {count} channels did not take the message; the first, on gateway `{}`, because: {}", .failures.len(), .failures[0].0.gateway_id(), .failures[0].1)]
    Channels {
        /// How many channels there are.
        count: usize,
        /// Those that did not take it, and why. Not empty.
        failures: Vec<(Channel, SendError)>,
    },
}

/// Why not every channel gave a message. Nothing that was received is lost: it is in here.
#[derive(Debug, thiserror::Error)]
#[error("{} of {} channels gave no message", .results.iter().filter(|result| result.is_err()).count(), .results.len())]
pub struct ReceiveEachError<T> {
    /// What each channel gave, in the channels' order.
    pub results: Vec<Result<T, ReceiveError>>,
}

/// Why not every channel ended well. All were waited for.
#[derive(Debug, thiserror::Error)]
#[error("{} of {count} channels did not end well; the first, on gateway `{}`: {}", .failures.len(), .failures[0].0.gateway_id(), .failures[0].1)]
pub struct WaitEachError {
    /// How many channels there are.
    pub count: usize,
    /// Those that did not, and why. Not empty.
    pub failures: Vec<(Channel, WaitError)>,
}

impl MultiChannel {
    /// A container of these channels.
    pub fn new(channels: impl IntoIterator<Item = Channel>) -> MultiChannel {
        MultiChannel { channels: channels.into_iter().collect(), queue: Arc::default() }
    }

    /// How many channels there are.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The channel at a position.
    pub fn get(&self, index: usize) -> Option<&Channel> {
        self.channels.get(index)
    }

    /// Whether this channel is one of them.
    pub fn contains(&self, channel: &Channel) -> bool {
        self.channels.contains(channel)
    }

    /// The channels in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Channel> {
        self.channels.iter()
    }

    /// Sends a value to every channel. It is serialised once. Blocks while a channel's window is full, one after the
    /// other; a channel that fails does not keep the others from getting it.
    ///
    /// # Errors
    /// [`SendEachError`].
    pub fn send_each<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendEachError> {
        let encoded = value::encode(value).map_err(SendEachError::Encode)?;
        let send = |channel: &Channel| match channel.send_encoded(encoded.clone(), Deadline::NEVER) {
            Ok(()) => None,
            Err(error) => Some((channel.clone(), error)),
        };
        let failures: Vec<_> = self.channels.iter().filter_map(send).collect();
        if failures.is_empty() { Ok(()) } else { Err(SendEachError::Channels { count: self.len(), failures }) }
    }

    /// Takes one message from every channel, in their order. Blocks until each has given one or ended.
    ///
    /// # Errors
    /// [`ReceiveEachError`], which holds what the other channels gave.
    pub fn receive_each<T: DeserializeOwned>(&self) -> Result<Vec<T>, ReceiveEachError<T>> {
        self.receive_each_by(Deadline::NEVER)
    }

    /// [`receive_each`](Self::receive_each) that waits at most `timeout` for all of them together.
    ///
    /// # Errors
    /// [`ReceiveEachError`], which holds what the other channels gave.
    pub fn receive_each_timeout<T: DeserializeOwned>(&self, timeout: Duration) -> Result<Vec<T>, ReceiveEachError<T>> {
        self.receive_each_by(Deadline::after(timeout))
    }

    fn receive_each_by<T: DeserializeOwned>(&self, deadline: Deadline) -> Result<Vec<T>, ReceiveEachError<T>> {
        let results: Vec<Result<T, _>> = self.channels.iter().map(|channel| channel.receive_by(deadline)).collect();
        if results.iter().any(Result::is_err) {
            return Err(ReceiveEachError { results });
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// A queue of everything that arrives on these channels, and of their ends. What waits already comes first. Asked
    /// again, returns the same queue.
    ///
    /// # Errors
    /// [`ConsumerError`] if a channel has a callback or feeds another queue.
    pub fn make_receive_queue<T: DeserializeOwned>(&self) -> Result<ReceiveQueue<T>, ConsumerError> {
        let _making = self.queue.making.lock();
        if let Some(core) = self.queue.core.get() {
            return Ok(ReceiveQueue::new(Arc::clone(core)));
        }
        let core = QueueCore { channels: RwLock::new(self.channels.to_vec()), tokens: Tokens::new(self.len()) };
        for (index, channel) in self.channels.iter().enumerate() {
            if let Err(error) = channel.endpoint().set_queue(Arc::clone(&core.tokens), index) {
                self.channels[..index].iter().for_each(|channel| channel.endpoint().unset_queue());
                return Err(error);
            }
        }
        Ok(ReceiveQueue::new(Arc::clone(self.queue.core.get_or_init(|| Arc::new(core)))))
    }

    /// Waits until every channel has ended; see [`Channel::wait_close`].
    ///
    /// # Errors
    /// [`WaitEachError`] with every channel that did not end well, after all were waited for.
    pub fn wait_close(&self) -> Result<(), WaitEachError> {
        self.wait_close_by(Deadline::NEVER)
    }

    /// [`wait_close`](Self::wait_close) that waits at most `timeout` for all of them together.
    ///
    /// # Errors
    /// [`WaitEachError`].
    pub fn wait_close_timeout(&self, timeout: Duration) -> Result<(), WaitEachError> {
        self.wait_close_by(Deadline::after(timeout))
    }

    fn wait_close_by(&self, deadline: Deadline) -> Result<(), WaitEachError> {
        let wait = |channel: &Channel| channel.wait_close_by(deadline).err().map(|error| (channel.clone(), error));
        let failures: Vec<_> = self.channels.iter().filter_map(wait).collect();
        if failures.is_empty() { Ok(()) } else { Err(WaitEachError { count: self.len(), failures }) }
    }
}

impl Index<usize> for MultiChannel {
    type Output = Channel;

    /// # Panics
    /// If there is no such position.
    fn index(&self, index: usize) -> &Channel {
        &self.channels[index]
    }
}

impl<'a> IntoIterator for &'a MultiChannel {
    type Item = &'a Channel;
    type IntoIter = std::slice::Iter<'a, Channel>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Channel> for MultiChannel {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> MultiChannel {
        MultiChannel::new(channels)
    }
}
