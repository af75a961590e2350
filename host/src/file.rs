//! Channels as files: `io::Write` sends bytes, `io::Read` and `io::BufRead` receive them.

use std::io::{self, BufRead, Read, Write};

use crate::channel::Channel;
use crate::error::{ReceiveError, SendError};

/// Most bytes that one message of a [`ChannelWriter`] carries.
const MAX_WRITE_BYTES: usize = 64 * 1024;

/// Writes bytes to a channel, one message per write. `flush` does nothing, since nothing is kept back.
#[derive(Debug)]
pub struct ChannelWriter {
    channel: Channel,
}

/// Reads the bytes of a channel's messages one after the other; its end is the end of the file.
#[derive(Debug)]
pub struct ChannelReader {
    channel: Channel,
    message: Vec<u8>,
    taken: usize,
}

impl Channel {
    /// This channel as a file to write to. The guest receives bytes.
    pub fn writer(&self) -> ChannelWriter {
        ChannelWriter { channel: self.clone() }
    }

    /// This channel as a file to read from. The guest sends bytes.
    pub fn reader(&self) -> ChannelReader {
        ChannelReader { channel: self.clone(), message: Vec::new(), taken: 0 }
    }
}

impl Write for ChannelWriter {
    /// Blocks as [`Channel::send_bytes`] does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_WRITE_BYTES);
        match self.channel.send_bytes(&bytes[..count]) {
            Ok(()) => Ok(count),
            Err(error @ (SendError::Ended(_) | SendError::Closed)) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BufRead for ChannelReader {
    /// Blocks as [`Channel::receive_bytes`] does. An end that is no success is an error.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.message.len() {
            match self.channel.receive_bytes() {
                Ok(message) => (self.message, self.taken) = (message, 0),
                Err(error) if error.is_end() => break,
                Err(error @ ReceiveError::Ended(_)) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, error));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(&self.message[self.taken..])
    }

    fn consume(&mut self, count: usize) {
        self.taken = self.message.len().min(self.taken + count);
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = self.fill_buf()?;
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.consume(count);
        Ok(count)
    }
}
