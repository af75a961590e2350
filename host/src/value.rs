//! Values and bytes: postcard, with channels inside.
//!
//! A [`Channel`] inside a value is written as its position in the message's list of channels, which travels beside the
//! bytes. While a value is (de)serialised, the list lies in a thread-local; outside of that a channel cannot be
//! serialised.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use postcard::ser_flavors::Flavor;
use sandgate_wire::{ChannelId, Message};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::budget::{Budget, Budgeted};
use crate::channel::Channel;
use crate::connection::Connection;
use crate::error::CodecError;

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

#[derive(Debug)]
enum Scope {
    Encoding(Vec<Channel>),
    Decoding { connection: Arc<Connection>, ids: Vec<ChannelId> },
}

/// A value as bytes, and the channels it holds.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    pub(crate) channels: Vec<Channel>,
}

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Encoded, CodecError> {
    let mut bytes = Vec::new();
    let channels = encode_behind(value, &mut bytes)?;
    Ok(Encoded { bytes: bytes.into(), channels })
}

/// Adds a value to the end of `bytes`, and returns the channels it holds. After an error part of it may be there.
pub(crate) fn encode_behind<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<Vec<Channel>, CodecError> {
    let scope = Entered::new(Scope::Encoding(Vec::new()));
    let encoded = postcard::serialize_with_flavor(value, Behind(bytes));
    let Some(Scope::Encoding(channels)) = scope.leave() else {
        return Err(CodecError::new("values were serialised in a tangle"));
    };
    encoded.map_err(|error| CodecError::new(error.to_string()))?;
    Ok(channels)
}

/// Has a value serialised behind others.
struct Behind<'a>(&'a mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

pub(crate) fn decode<T: DeserializeOwned>(message: &Message, connection: &Arc<Connection>) -> Result<T, CodecError> {
    let scope = Entered::new(Scope::Decoding { connection: Arc::clone(connection), ids: message.channels.clone() });
    let result = decode_plain(&message.bytes);
    scope.leave();
    result
}

/// Decodes a value that holds no channels.
pub(crate) fn decode_plain<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let budget = Budget::new(bytes.len());
    let mut bytes = postcard::Deserializer::from_bytes(bytes);
    let result = T::deserialize(Budgeted::new(&mut bytes, &budget));
    let rest = bytes.finalize().map_or(0, <[u8]>::len);
    match (result, budget.exceeded()) {
        (Err(_), Some(what)) => Err(CodecError::new(what)),
        (Err(error), None) => Err(CodecError::new(error.to_string())),
        (Ok(value), _) if rest == 0 => Ok(value),
        (Ok(_), _) => Err(CodecError::new(format!("{rest} bytes are left over"))),
    }
}

/// A scope that ends with this value, also when a user's (de)serialisation panics: what a thread keeps in its scope, it
/// keeps for ever.
struct Entered {
    outer: Option<Scope>,
    left: bool,
}

impl Entered {
    fn new(scope: Scope) -> Entered {
        Entered { outer: SCOPE.with_borrow_mut(|current| current.replace(scope)), left: false }
    }

    fn leave(mut self) -> Option<Scope> {
        self.left = true;
        self.restore()
    }

    fn restore(&mut self) -> Option<Scope> {
        let outer = self.outer.take();
        SCOPE.with_borrow_mut(|current| std::mem::replace(current, outer))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.left {
            drop(self.restore());
        }
    }
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let position = SCOPE.with_borrow_mut(|scope| match scope {
            Some(Scope::Encoding(channels)) => {
                let position = channels.iter().position(|other| other == self).unwrap_or_else(|| {
                    channels.push(self.clone());
                    channels.len() - 1
                });
                u32::try_from(position).map_err(ser::Error::custom)
            }
            _ => Err(ser::Error::custom("a channel can only be serialised by sending it")),
        })?;
        serializer.serialize_u32(position)
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Channel, D::Error> {
        let position = u32::deserialize(deserializer)?;
        let found = SCOPE.with_borrow(|scope| match scope {
            Some(Scope::Decoding { connection, ids }) => {
                let id = usize::try_from(position).ok().and_then(|position| ids.get(position).copied());
                id.map(|id| (Arc::clone(connection), id))
                    .ok_or_else(|| de::Error::custom(format!("message has no channel number {position}")))
            }
            _ => Err(de::Error::custom("a channel can only be deserialised by receiving it")),
        });
        let (connection, id) = found?;
        connection.claim(id).ok_or_else(|| de::Error::custom(format!("channel {id} does not exist")))
    }
}
