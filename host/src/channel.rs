//! [`Channel`]: what users send on and receive from.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::assembly::MAX_MESSAGE_CHANNELS;
use sandgate_wire::{Message, Outcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::callback::Callback;
use crate::deadline::Deadline;
use crate::endpoint::{Delivery, Endpoint};
use crate::error::{ConsumerError, ReceiveError, SendError, WaitError};
use crate::gateway::Gateway;
use crate::output::CapturedOutput;
use crate::value::{self, Encoded};

/// One end of a two-way stream of messages between the host and a task.
///
/// Messages arrive in the order they were sent, and before the channel's end; the end comes exactly once and says how
/// the task ended, also when its worker was killed or crashed. Clones are the same channel. When the last clone is
/// dropped the channel is closed, unless a callback takes its messages: then only its sending half is. A receive queue
/// holds clones of its channels. [`detach`](Channel::detach) lets a task go on unattended.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// The users' share of an endpoint. The last one closes it.
#[derive(Debug)]
pub(crate) struct Handle {
    endpoint: Arc<Endpoint>,
}

/// What a callback or a receive queue gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// A message.
    Item(T),
    /// The channel ended. There is exactly one, after all items.
    End(Outcome),
}

impl Handle {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Handle {
        Handle { endpoint }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.endpoint.abandon();
    }
}

impl Channel {
    pub(crate) fn new(endpoint: &Arc<Endpoint>) -> Channel {
        Channel { handle: endpoint.handle() }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.handle.endpoint
    }

    /// The channel's number, unique within its gateway. A number that is even is of a channel that a guest made, and a gateway
    /// that [replaces its worker](crate::Recycle) can have it again.
    pub fn id(&self) -> u64 {
        self.endpoint().id.0
    }

    /// The id of the gateway this channel leads to.
    pub fn gateway_id(&self) -> &str {
        &self.endpoint().connection.id
    }

    /// The gateway this channel leads to.
    pub fn gateway(&self) -> Gateway {
        self.endpoint().connection.gateway()
    }

    // ---- sending ----

    /// Sends a value. Blocks while the peer has this channel's window full of messages it has not taken.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then. A message that was accepted just before the worker died is lost with it.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_encoded(value::encode(value).map_err(SendError::Encode)?, Deadline::NEVER)
    }

    /// [`send`](Self::send) that waits at most `timeout` for the peer.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Timeout`] among them.
    pub fn send_timeout<T: Serialize + ?Sized>(&self, value: &T, timeout: Duration) -> Result<(), SendError> {
        self.send_encoded(value::encode(value).map_err(SendError::Encode)?, Deadline::after(timeout))
    }

    /// [`send`](Self::send) that does not wait: [`SendError::Timeout`] means that the window is full.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn try_send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_timeout(value, Duration::ZERO)
    }

    /// Sends bytes as they are. Blocks as [`send`](Self::send) does.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_bytes(&self, bytes: impl AsRef<[u8]>) -> Result<(), SendError> {
        self.endpoint().send_bytes(bytes.as_ref(), Deadline::NEVER)
    }

    /// [`send_bytes`](Self::send_bytes) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_bytes_timeout(&self, bytes: impl AsRef<[u8]>, timeout: Duration) -> Result<(), SendError> {
        self.endpoint().send_bytes(bytes.as_ref(), Deadline::after(timeout))
    }

    pub(crate) fn send_encoded(&self, encoded: Encoded, deadline: Deadline) -> Result<(), SendError> {
        self.endpoint().send(self.message(encoded)?, deadline)
    }

    /// The message of a value, if its channels may travel here.
    fn message(&self, encoded: Encoded) -> Result<Message, SendError> {
        message_for(&self.endpoint().connection, encoded)
    }

    // ---- receiving ----

    /// Takes the next message as a value. Blocks until there is one or the channel ends; a worker that dies ends it.
    ///
    /// A thread that waits for one quick answer after the other on its worker's processor is moved to another one of those that it may
    /// run on, unless system calls of this process are filtered.
    ///
    /// # Errors
    /// [`ReceiveError`]. What [`ReceiveError::Ended`] says, every later call says too.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T, ReceiveError> {
        self.receive_by(Deadline::NEVER)
    }

    /// [`receive`](Self::receive) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`ReceiveError`]; [`ReceiveError::Timeout`] among them.
    pub fn receive_timeout<T: DeserializeOwned>(&self, timeout: Duration) -> Result<T, ReceiveError> {
        self.receive_by(Deadline::after(timeout))
    }

    /// Takes the next message if there is one; `None` if the channel is open and empty.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<Option<T>, ReceiveError> {
        match self.receive_by(Deadline::after(Duration::ZERO)) {
            Ok(value) => Ok(Some(value)),
            Err(ReceiveError::Timeout(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the next message as bytes. Channels that travelled with it are not claimed.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_bytes(&self) -> Result<Vec<u8>, ReceiveError> {
        Ok(self.endpoint().receive(Deadline::NEVER)?.bytes.into())
    }

    /// [`receive_bytes`](Self::receive_bytes) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, ReceiveError> {
        Ok(self.endpoint().receive(Deadline::after(timeout))?.bytes.into())
    }

    /// All messages until the channel's end. The iteration stops after a regular end; another end is its last item.
    pub fn iter<T: DeserializeOwned>(&self) -> Iter<'_, T> {
        Iter { channel: self, done: false, item: PhantomData }
    }

    pub(crate) fn receive_by<T: DeserializeOwned>(&self, deadline: Deadline) -> Result<T, ReceiveError> {
        let message = self.endpoint().receive(deadline)?;
        value::decode(&message, &self.endpoint().connection)
            .map_err(|source| ReceiveError::Decode { type_name: std::any::type_name::<T>(), source })
    }

    /// Gives all messages, those that wait already first, and then the end to `callback`, one after the other.
    ///
    /// It runs on a thread of its own, never on the one that reads the gateway: it may block, and then harms this
    /// channel alone, whose peer has to wait for credit. If it panics, or a message is not a `T`, the channel is closed
    /// with that error on both sides, and the callback still gets its [`Event::End`].
    ///
    /// # Errors
    /// [`ConsumerError`] if the channel has a callback or feeds a queue already. Whoever waits in
    /// [`receive`](Self::receive) gets [`ReceiveError::HasConsumer`].
    pub fn set_callback<T: DeserializeOwned>(
        &self,
        mut callback: impl FnMut(Event<T>) + Send + 'static,
    ) -> Result<(), ConsumerError> {
        let connection = Arc::clone(&self.endpoint().connection);
        let run = move |delivery| {
            callback(match delivery {
                Delivery::End(outcome) => Event::End(outcome),
                Delivery::Message(message) => Event::Item(value::decode(&message, &connection).map_err(|error| {
                    format!("message cannot be decoded as `{}`: {error}", std::any::type_name::<T>())
                })?),
            });
            Ok(())
        };
        self.endpoint().set_callback(Callback::new(run))
    }

    // ---- ending ----

    /// Closes the channel: the task sees its end after what was sent before, and cannot send any more. Messages that
    /// had arrived can still be received, later ones are dropped. Does not block; closing again does nothing.
    ///
    /// The outcome of a task still arrives: [`wait_close`](Self::wait_close) waits for it.
    pub fn close(&self) {
        self.endpoint().close(None, false);
    }

    /// [`close`](Self::close) that gives the task an error to see.
    pub fn close_with_error(&self, error: &str) {
        self.endpoint().close(Some(error), false);
    }

    /// Says that nothing more will be sent: the task sees the end of its input, and what it sends still arrives.
    pub fn close_send(&self) {
        self.endpoint().close(None, true);
    }

    /// Whether the channel was closed here or has ended. Messages may still wait in it.
    pub fn is_closed(&self) -> bool {
        self.endpoint().is_closed()
    }

    /// What the execution has printed so far and nobody has taken yet, once the channel has ended all of it; `None` if its
    /// call did not ask for it with [`Call::capture_output`](crate::Call::capture_output).
    pub fn take_output(&self) -> Option<CapturedOutput> {
        self.endpoint().take_output()
    }

    /// How the channel ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.endpoint().outcome()
    }

    /// Waits until the channel has ended: the task is over, its worker is gone, or (for a channel that is not a task's
    /// own) either side closed it. If the channel has a callback, waits until that has returned from the end, too.
    /// Messages that wait can still be received afterwards.
    ///
    /// # Errors
    /// [`WaitError::Ended`] if it ended in another way than well, on every call.
    pub fn wait_close(&self) -> Result<(), WaitError> {
        self.wait_close_by(Deadline::NEVER)
    }

    /// [`wait_close`](Self::wait_close) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`WaitError`]; [`WaitError::Timeout`] among them.
    pub fn wait_close_timeout(&self, timeout: Duration) -> Result<(), WaitError> {
        self.wait_close_by(Deadline::after(timeout))
    }

    pub(crate) fn wait_close_by(&self, deadline: Deadline) -> Result<(), WaitError> {
        match self.endpoint().wait_end(deadline)? {
            outcome if outcome.is_success() => Ok(()),
            outcome => Err(WaitError::Ended(outcome)),
        }
    }

    /// Ends the execution that this channel belongs to, and nothing else, and returns its outcome.
    ///
    /// The worker is told to interrupt it. If it does not within the gateway's grace (setting `grace=`, default 1 s),
    /// the worker process is killed, which ends all its executions. Blocks until the outcome is known, that is for
    /// little more than the grace at most. A channel that is not an execution's own is closed.
    ///
    /// # Errors
    /// [`WaitError::InCallback`] when called by the channel's own callback; the kill is under way all the same.
    pub fn kill(&self) -> Result<Outcome, WaitError> {
        let endpoint = self.endpoint();
        endpoint.connection.kill_execution(endpoint)
    }

    /// Lets the task go on to its own end without anybody listening: its input ends, its messages are dropped.
    pub fn detach(self) {
        // A channel that has a callback or feeds a queue goes on with that.
        let _ = self.endpoint().set_callback(Callback::new(|_| Ok(())));
    }
}

/// The message of an encoded value on a connection, if its channels are that connection's own.
pub(crate) fn message_for(
    connection: &Arc<crate::connection::Connection>,
    encoded: Encoded,
) -> Result<Message, SendError> {
    let Encoded { bytes, channels } = encoded;
    if channels.len() > MAX_MESSAGE_CHANNELS {
        return Err(SendError::TooManyChannels { count: channels.len(), maximum: MAX_MESSAGE_CHANNELS });
    }
    if let Some(foreign) = channels.iter().find(|channel| !Arc::ptr_eq(&channel.endpoint().connection, connection)) {
        let mut theirs = foreign.gateway_id().to_owned();
        if theirs == connection.id {
            theirs.push_str(" (of its replaced worker)");
        }
        return Err(SendError::ForeignChannel { ours: connection.id.clone(), theirs });
    }
    Ok(Message { bytes, channels: channels.iter().map(|channel| channel.endpoint().id).collect() })
}

impl PartialEq for Channel {
    /// Whether both are handles of the same channel.
    fn eq(&self, other: &Channel) -> bool {
        Arc::ptr_eq(self.endpoint(), other.endpoint())
    }
}

impl Eq for Channel {}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_closed() { "closed" } else { "open" };
        write!(f, "<Channel id={} of {} {state}>", self.id(), self.gateway_id())
    }
}

/// Iterator over a channel's messages; see [`Channel::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    channel: &'a Channel,
    done: bool,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, ReceiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.channel.receive() {
            Err(error @ ReceiveError::Decode { .. }) => Some(Err(error)),
            Err(error) => {
                self.done = true;
                (!error.is_end()).then_some(Err(error))
            }
            Ok(value) => Some(Ok(value)),
        }
    }
}
