//! Does what it is told, one [`Op`] after the other from its task channel, and sends an [`Answer`] to each (none to
//! `Return` and `Fail`). For tests of what an operation answers in a certain state.

use std::time::Duration;

use guest_protocol::{Action, Answer, Op, OpError};
use sandgate_guest::{
    Channel, CloseError, Error, ReceiveError, SendError, WaitError, channel, new_channel, wait, wait_timeout,
};

fn main() -> sandgate_guest::Result {
    let task = channel();
    let mut channels = vec![task.clone()];
    for op in task.iter::<Op<Channel>>() {
        let answer = match op? {
            Op::Take(channel) => {
                channels.push(channel);
                Answer::Done
            }
            Op::New => match new_channel() {
                Ok(channel) => {
                    channels.push(channel.clone());
                    Answer::Channel(channel)
                }
                Err(error) => Answer::Error(OpError::Other(error.to_string())),
            },
            Op::On(position, action) => match channels.get(position as usize) {
                Some(channel) => act(channel, action).unwrap_or_else(Answer::Error),
                None => Answer::Error(OpError::Other("no such position".to_owned())),
            },
            Op::DropAll => {
                channels.truncate(1);
                Answer::Done
            }
            Op::Wait { positions, timeout_nanos } => {
                let waiting: Vec<&Channel> = positions.iter().filter_map(|&at| channels.get(at as usize)).collect();
                let ready = match timeout_nanos {
                    Some(nanos) => wait_timeout(&waiting, Duration::from_nanos(nanos)),
                    None => wait(&waiting),
                };
                match ready {
                    Ok(index) => Answer::Ready(positions[index]),
                    Err(WaitError::Timeout) => Answer::Error(OpError::Timeout),
                    Err(error) => Answer::Error(OpError::Other(error.to_string())),
                }
            }
            Op::Return => break,
            Op::Fail(text) => return Err(Error::msg(text)),
        };
        task.send(&answer)?;
    }
    Ok(())
}

fn act(channel: &Channel, action: Action) -> Result<Answer<Channel>, OpError> {
    let nanos = Duration::from_nanos;
    match action {
        Action::Send(value) => channel.send(&value).map_err(send_error)?,
        Action::TrySend(value) => channel.try_send(&value).map_err(send_error)?,
        Action::SendTimeout(value, timeout) => channel.send_timeout(&value, nanos(timeout)).map_err(send_error)?,
        Action::SendBytes(bytes) => channel.send_bytes(&bytes).map_err(send_error)?,
        Action::Receive => {
            return Ok(Answer::Value(Some(channel.receive().map_err(receive_error)?)));
        }
        Action::TryReceive => {
            return Ok(Answer::Value(channel.try_receive().map_err(receive_error)?));
        }
        Action::ReceiveTimeout(timeout) => {
            let value = channel.receive_timeout(nanos(timeout)).map_err(receive_error)?;
            return Ok(Answer::Value(Some(value)));
        }
        Action::ReceiveBytes => {
            return Ok(Answer::Bytes(channel.receive_bytes().map_err(receive_error)?));
        }
        Action::Drain => {
            let values: Result<Vec<u32>, ReceiveError> = channel.iter().collect();
            return Ok(Answer::Values(values.map_err(receive_error)?));
        }
        Action::Close => channel.close().map_err(close_error)?,
        Action::CloseWithError(text) => channel.close_with_error(&text).map_err(close_error)?,
    }
    Ok(Answer::Done)
}

fn send_error(error: SendError) -> OpError {
    match error {
        SendError::Closed => OpError::Closed,
        SendError::Timeout => OpError::Timeout,
        SendError::TooLarge => OpError::TooLarge,
        SendError::NotAllowed => OpError::NotAllowed,
        error => OpError::Other(error.to_string()),
    }
}

fn receive_error(error: ReceiveError) -> OpError {
    match error {
        ReceiveError::Closed => OpError::Closed,
        ReceiveError::Timeout => OpError::Timeout,
        ReceiveError::TooManyChannels => OpError::TooManyChannels,
        ReceiveError::NotAllowed => OpError::NotAllowed,
        ReceiveError::Decode(error) => OpError::Decode(error.to_string()),
        ReceiveError::Peer(text) => OpError::Peer(text),
        error => OpError::Other(error.to_string()),
    }
}

fn close_error(error: CloseError) -> OpError {
    match error {
        CloseError::NotAllowed => OpError::NotAllowed,
        error => OpError::Other(error.to_string()),
    }
}
