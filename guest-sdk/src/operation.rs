//! What each operation on a channel can fail with.
//!
//! The variant `Unexpected` of each error holds a status that the contract does not give to this operation: the worker
//! and this SDK disagree. It is an error and not a panic, because a guest may prefer to go on.

use std::error::Error;
use std::fmt;

use sandgate_abi::{MAX_MESSAGE_CHANNELS, status};

/// Why a message was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The channel can no longer send: either side closed it.
    Closed,
    /// There was no room for the message in the time given.
    Timeout,
    /// The message exceeds the limit of this execution.
    TooLarge,
    /// The value could not be encoded.
    Encode(EncodeError),
    /// This channel, or one in the value, cannot be used so; or there is no task: an init function runs, or the
    /// program runs natively, without a worker.
    NotAllowed,
    /// A status that sending does not have.
    Unexpected(i32),
}

/// Why no message was received.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The channel has ended.
    Closed,
    /// No message came in the time given.
    Timeout,
    /// The host closed the channel with this error.
    Peer(String),
    /// The message is not a value of the type asked for.
    Decode(DecodeError),
    /// The message brings more channels than this execution may have.
    TooManyChannels,
    /// There is no task: an init function runs, or the program runs natively, without a worker.
    NotAllowed,
    /// A status that receiving does not have.
    Unexpected(i32),
}

/// Why a channel was not closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseError {
    /// The task's own channel ends by returning from the task. Or there is none: an init
    /// function runs, or the program runs natively, without a worker.
    NotAllowed,
    /// A status that closing does not have.
    Unexpected(i32),
}

/// Why there is no new channel.
#[derive(Debug)]
#[non_exhaustive]
pub enum NewChannelError {
    /// The execution has as many channels as it may.
    TooMany,
    /// There is no task: an init function runs, or the program runs natively, without a worker.
    NotAllowed,
    /// A status that making a channel does not have.
    Unexpected(i32),
}

/// Why waiting named no channel.
#[derive(Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// Nothing happened on any of the channels in the time given.
    Timeout,
    /// There is no task: an init function runs, or the program runs natively, without a worker.
    NotAllowed,
    /// A status that waiting does not have.
    Unexpected(i32),
}

/// Why there are no arguments.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArgsError {
    /// The host passed none, or they were taken before.
    Missing,
    /// They are not a value of the type asked for.
    Decode(DecodeError),
    /// They bring more channels than this execution may have.
    TooManyChannels,
    /// There is no task: an init function runs, or the program runs natively, without a worker.
    NotAllowed,
    /// A status that taking arguments does not have.
    Unexpected(i32),
}

/// A value that could not be encoded. Its text says which type and why.
#[derive(Debug)]
pub struct EncodeError {
    type_name: &'static str,
    cause: EncodeCause,
}

/// A message that is not a value of the type asked for. Its text says which type and why.
#[derive(Debug)]
pub struct DecodeError {
    type_name: &'static str,
    cause: DecodeCause,
}

#[derive(Debug)]
pub(crate) enum EncodeCause {
    TooManyChannels,
    Codec(postcard::Error),
}

#[derive(Debug)]
pub(crate) enum DecodeCause {
    Trailing(usize),
    NoSuchChannel { index: u32, count: usize },
    Codec(postcard::Error),
}

impl SendError {
    pub(crate) fn check(code: i32) -> Result<(), Self> {
        Err(match code {
            status::OK => return Ok(()),
            status::CLOSED => SendError::Closed,
            status::TIMEOUT => SendError::Timeout,
            status::TOO_LARGE => SendError::TooLarge,
            status::NOT_ALLOWED => SendError::NotAllowed,
            code => SendError::Unexpected(code),
        })
    }
}

impl ReceiveError {
    pub(crate) fn from_status(code: i32) -> Self {
        match code {
            status::CLOSED => ReceiveError::Closed,
            status::TIMEOUT => ReceiveError::Timeout,
            status::LIMIT => ReceiveError::TooManyChannels,
            status::NOT_ALLOWED => ReceiveError::NotAllowed,
            code => ReceiveError::Unexpected(code),
        }
    }
}

impl CloseError {
    pub(crate) fn check(code: i32) -> Result<(), Self> {
        match code {
            status::OK => Ok(()),
            status::NOT_ALLOWED => Err(CloseError::NotAllowed),
            code => Err(CloseError::Unexpected(code)),
        }
    }
}

impl NewChannelError {
    pub(crate) fn from_status(code: i32) -> Self {
        match code {
            status::LIMIT => NewChannelError::TooMany,
            status::NOT_ALLOWED => NewChannelError::NotAllowed,
            code => NewChannelError::Unexpected(code),
        }
    }
}

impl WaitError {
    pub(crate) fn from_status(code: i32) -> Self {
        match code {
            status::TIMEOUT => WaitError::Timeout,
            status::NOT_ALLOWED => WaitError::NotAllowed,
            code => WaitError::Unexpected(code),
        }
    }
}

impl ArgsError {
    pub(crate) fn from_status(code: i32) -> Self {
        match code {
            status::CLOSED => ArgsError::Missing,
            status::LIMIT => ArgsError::TooManyChannels,
            status::NOT_ALLOWED => ArgsError::NotAllowed,
            code => ArgsError::Unexpected(code),
        }
    }
}

impl EncodeError {
    pub(crate) fn new<T: ?Sized>(cause: EncodeCause) -> Self {
        EncodeError { type_name: std::any::type_name::<T>(), cause }
    }
}

impl DecodeError {
    pub(crate) fn new<T: ?Sized>(cause: DecodeCause) -> Self {
        DecodeError { type_name: std::any::type_name::<T>(), cause }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed => f.write_str("the channel to send on is closed"),
            SendError::Timeout => {
                f.write_str("no room to send in the time given (settings `window=` and `window-messages=`)")
            }
            SendError::TooLarge => {
                f.write_str("the message to send is larger than the limit of this execution (setting `message=`)")
            }
            SendError::Encode(_) => f.write_str("the value to send could not be encoded"),
            SendError::NotAllowed => f.write_str("sending so is not allowed, and not at all outside of a task"),
            SendError::Unexpected(code) => unexpected(f, "sending", *code),
        }
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiveError::Closed => f.write_str("the channel to receive from has ended"),
            ReceiveError::Timeout => f.write_str("nothing to receive in the time given"),
            ReceiveError::Peer(text) => {
                write!(f, "the host closed the channel with an error: {text}")
            }
            ReceiveError::Decode(_) => f.write_str("the message received could not be decoded"),
            ReceiveError::TooManyChannels => f.write_str(
                "the message to receive brings more channels than this execution may have (setting `channels=`)",
            ),
            ReceiveError::NotAllowed => f.write_str("receiving is not allowed outside of a task"),
            ReceiveError::Unexpected(code) => unexpected(f, "receiving", *code),
        }
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseError::NotAllowed => f.write_str("the task's own channel cannot be closed: it ends with the task"),
            CloseError::Unexpected(code) => unexpected(f, "closing a channel", *code),
        }
    }
}

impl fmt::Display for NewChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewChannelError::TooMany => {
                f.write_str("this execution has as many channels as it may (setting `channels=`)")
            }
            NewChannelError::NotAllowed => f.write_str("making a channel is not allowed outside of a task"),
            NewChannelError::Unexpected(code) => unexpected(f, "making a channel", *code),
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Timeout => f.write_str("nothing happened on the channels in the time given"),
            WaitError::NotAllowed => f.write_str("waiting is not allowed outside of a task"),
            WaitError::Unexpected(code) => unexpected(f, "waiting", *code),
        }
    }
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgsError::Missing => f.write_str("no arguments were passed"),
            ArgsError::Decode(_) => f.write_str("the arguments could not be decoded"),
            ArgsError::TooManyChannels => {
                f.write_str("the arguments bring more channels than this execution may have (setting `channels=`)")
            }
            ArgsError::NotAllowed => f.write_str("taking arguments is not allowed"),
            ArgsError::Unexpected(code) => unexpected(f, "taking arguments", *code),
        }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let type_name = self.type_name;
        match &self.cause {
            EncodeCause::TooManyChannels => {
                write!(f, "more than `{MAX_MESSAGE_CHANNELS}` channels in a value of type `{type_name}`")
            }
            EncodeCause::Codec(error) => {
                write!(f, "a value of type `{type_name}` cannot be encoded: {}", codec_text(error))
            }
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let type_name = self.type_name;
        match &self.cause {
            DecodeCause::Trailing(count) => {
                write!(f, "`{count}` bytes follow the value of type `{type_name}`")
            }
            DecodeCause::NoSuchChannel { index, count } => {
                write!(f, "channel `{index}` of the value is not among the `{count}` channels of its message")
            }
            DecodeCause::Codec(postcard::Error::DeserializeUnexpectedEnd) => {
                write!(f, "the message ends within a value of type `{type_name}`")
            }
            DecodeCause::Codec(error) => write!(f, "not a value of type `{type_name}`: {}", codec_text(error)),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SendError::Encode(error) => Some(error),
            _ => None,
        }
    }
}

impl Error for ReceiveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReceiveError::Decode(error) => Some(error),
            _ => None,
        }
    }
}

impl Error for ArgsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ArgsError::Decode(error) => Some(error),
            _ => None,
        }
    }
}

impl Error for CloseError {}
impl Error for NewChannelError {}
impl Error for WaitError {}
impl Error for EncodeError {}
impl Error for DecodeError {}

fn unexpected(f: &mut fmt::Formatter<'_>, operation: &str, code: i32) -> fmt::Result {
    write!(f, "{operation} ended in status `{code}`, which it does not have")
}

/// The codec's own texts are sentences; these fit behind a colon. A type's own message does not come through the codec.
fn codec_text(error: &postcard::Error) -> &'static str {
    use postcard::Error::*;
    match error {
        WontImplement => "its type needs a format that describes itself",
        SerializeSeqLengthUnknown => "a sequence of unknown length",
        DeserializeUnexpectedEnd => "it ends early",
        DeserializeBadVarint => "a number that is too long",
        DeserializeBadBool => "a bool that is not 0 or 1",
        DeserializeBadChar => "a char that is none",
        DeserializeBadUtf8 => "text that is not UTF-8",
        DeserializeBadOption => "an option that is neither none nor some",
        DeserializeBadEnum => "a variant that does not exist",
        SerdeSerCustom | SerdeDeCustom => "its type refuses it",
        _ => "the codec refuses it",
    }
}
