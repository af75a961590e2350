//! [`ReceiveQueue`]: the messages and ends of several channels in the order of their arrival.
//!
//! Messages stay in their channels; the queue holds *tokens*, one for each message and one for each end. So what waits is
//! bounded by the channels' windows, and a slow reader of the queue slows each sender by its own window alone.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use serde::de::DeserializeOwned;

use crate::channel::{Channel, Event};
use crate::deadline::Deadline;
use crate::endpoint::Delivery;
use crate::error::{ConsumerError, QueueError};
use crate::value;

/// Says which channel has something.
#[derive(Debug)]
pub(crate) struct Tokens {
    state: Mutex<TokenState>,
    arrived: Condvar,
}

#[derive(Debug)]
struct TokenState {
    waiting: VecDeque<usize>,
    /// Channels whose end was not taken yet.
    open: usize,
}

impl Tokens {
    pub(crate) fn new(channels: usize) -> Arc<Tokens> {
        let state = TokenState { waiting: VecDeque::new(), open: channels };
        Arc::new(Tokens { state: Mutex::new(state), arrived: Condvar::new() })
    }

    pub(crate) fn push(&self, index: usize, count: usize) {
        let mut state = self.state.lock();
        state.waiting.extend(std::iter::repeat_n(index, count));
        drop(state);
        self.arrived.notify_one();
    }

    /// Whether [`pop`](Self::pop) would wait.
    fn is_empty(&self) -> bool {
        self.state.lock().waiting.is_empty()
    }

    fn pop(&self, deadline: Deadline) -> Result<usize, QueueError> {
        let mut state = self.state.lock();
        loop {
            if let Some(index) = state.waiting.pop_front() {
                if !state.waiting.is_empty() {
                    self.arrived.notify_one();
                }
                return Ok(index);
            }
            if state.open == 0 {
                return Err(QueueError::Exhausted);
            }
            if let Err(after) = deadline.wait(&self.arrived, &mut state) {
                return Err(QueueError::Timeout(after));
            }
        }
    }

    fn channel_added(&self) {
        self.state.lock().open += 1;
    }

    /// A channel's end was taken, or it could not be added after all.
    fn channel_gone(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        if state.open == 0 {
            self.arrived.notify_all();
        }
    }
}

/// The channels of a queue and their tokens; shared by all queues made of the same [`MultiChannel`](crate::MultiChannel).
#[derive(Debug)]
pub(crate) struct QueueCore {
    /// Grows only: a token is a position in it.
    pub(crate) channels: RwLock<Vec<Channel>>,
    pub(crate) tokens: Arc<Tokens>,
}

/// Messages of several channels, as they come, and exactly one [`Event::End`] per channel.
///
/// Clones take from the same queue.
#[derive(Debug, Clone)]
pub struct ReceiveQueue<T> {
    core: Arc<QueueCore>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> ReceiveQueue<T> {
    pub(crate) fn new(core: Arc<QueueCore>) -> ReceiveQueue<T> {
        ReceiveQueue { core, item: PhantomData }
    }

    /// Takes what came first. Blocks until something comes.
    ///
    /// # Errors
    /// [`QueueError::Exhausted`] once every channel's end was taken; [`QueueError::Decode`] for a message of another
    /// type, which is taken.
    pub fn get(&self) -> Result<(Channel, Event<T>), QueueError> {
        self.get_by(Deadline::NEVER)
    }

    /// [`get`](Self::get) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`QueueError`]; [`QueueError::Timeout`] among them.
    pub fn get_timeout(&self, timeout: Duration) -> Result<(Channel, Event<T>), QueueError> {
        self.get_by(Deadline::after(timeout))
    }

    /// Takes what is there; `None` if nothing is.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn try_get(&self) -> Result<Option<(Channel, Event<T>)>, QueueError> {
        match self.get_timeout(Duration::ZERO) {
            Ok(event) => Ok(Some(event)),
            Err(QueueError::Timeout(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything until the last channel's end; a message of another type is an error in between.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Channel, Event<T>), QueueError>> + '_ {
        std::iter::from_fn(|| match self.get() {
            Err(QueueError::Exhausted) => None,
            result => Some(result),
        })
    }

    /// Adds a channel, for instance of a task that takes the place of one that has ended. What waits in it already comes
    /// as if it arrived now. A queue that was exhausted goes on with it.
    ///
    /// # Errors
    /// [`ConsumerError`] if it has a callback or feeds a queue already.
    pub fn add(&self, channel: &Channel) -> Result<(), ConsumerError> {
        // Until the position exists, whoever has got a token for it waits here.
        let mut channels = self.core.channels.write();
        self.core.tokens.channel_added();
        let added = channel.endpoint().set_queue(Arc::clone(&self.core.tokens), channels.len());
        match added {
            Ok(()) => channels.push(channel.clone()),
            Err(_) => self.core.tokens.channel_gone(),
        }
        added
    }

    fn get_by(&self, deadline: Deadline) -> Result<(Channel, Event<T>), QueueError> {
        loop {
            if self.core.tokens.is_empty() {
                let channels = self.core.channels.read();
                channels.iter().for_each(|channel| channel.endpoint().connection.outbox.about_to_wait());
            }
            let index = self.core.tokens.pop(deadline)?;
            let channel = self.core.channels.read()[index].clone();
            match channel.endpoint().next_delivery() {
                Some(Delivery::Message(message)) => {
                    let value = value::decode(&message, &channel.endpoint().connection);
                    let value = value.map_err(|source| QueueError::Decode {
                        gateway: channel.gateway_id().to_owned(),
                        channel: channel.id(),
                        type_name: std::any::type_name::<T>(),
                        source,
                    })?;
                    return Ok((channel, Event::Item(value)));
                }
                Some(Delivery::End(outcome)) => {
                    self.core.tokens.channel_gone();
                    return Ok((channel, Event::End(outcome)));
                }
                // Another reader of the queue took it between our two looks.
                None => {}
            }
        }
    }
}
