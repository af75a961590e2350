//! A guest's standard output and error on their way to the host: gathered into lines, within a window and a cap.
//!
//! Bytes are sent at line ends, when a few KiB have gathered, and at the end. The host returns credit for what it took; a
//! guest without credit waits here and can be stopped. What goes beyond the cap is dropped: the last frame says so, and
//! the guest goes on.

use std::sync::Arc;

use sandgate_wire::message::{Output, Stream};
use sandgate_wire::{ChannelId, ToHost};

use crate::execution::{Execution, Stop};
use crate::worker::Worker;

/// Bytes that may gather before they are sent without a line end.
const GATHER_BYTES: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct GuestOutput {
    left: u64,
    truncated: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl GuestOutput {
    pub(crate) fn new(cap_bytes: u64) -> GuestOutput {
        GuestOutput { left: cap_bytes, truncated: false, stdout: Vec::new(), stderr: Vec::new() }
    }

    /// Whether all further bytes are dropped.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Takes bytes that the guest wrote; callers hand over a few KiB at a time.
    pub(crate) fn write(
        &mut self,
        worker: &Arc<Worker>,
        execution: &Arc<Execution>,
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        if self.truncated {
            return Ok(());
        }
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        let buffer = self.buffer(stream);
        buffer.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            // The last frame is the one that says so: the other stream goes first.
            self.send(worker, execution, other(stream), false)?;
            self.truncated = true;
            return self.send(worker, execution, stream, true);
        }
        if buffer.len() >= GATHER_BYTES || bytes.contains(&b'\n') {
            self.send(worker, execution, stream, false)?;
        }
        Ok(())
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&mut self, worker: &Arc<Worker>, execution: &Arc<Execution>) -> Result<(), Stop> {
        self.send(worker, execution, Stream::Stdout, false)?;
        self.send(worker, execution, Stream::Stderr, false)
    }

    fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn send(
        &mut self,
        worker: &Arc<Worker>,
        execution: &Arc<Execution>,
        stream: Stream,
        truncated: bool,
    ) -> Result<(), Stop> {
        let bytes = std::mem::take(self.buffer(stream));
        let mut rest = &bytes[..];
        if rest.is_empty() && truncated {
            push(worker, execution.id, stream, rest, truncated);
        }
        while !rest.is_empty() {
            let wanted = rest.len() as u64;
            let credit = worker.wait(execution, None, |hub| hub.take_output_credit(execution.id, wanted))?;
            let taken = usize::try_from(credit.unwrap_or(0)).unwrap_or(0);
            let (now, later) = rest.split_at(taken.min(rest.len()));
            rest = later;
            push(worker, execution.id, stream, now, truncated && rest.is_empty());
        }
        // The allocation is used again.
        let buffer = self.buffer(stream);
        *buffer = bytes;
        buffer.clear();
        Ok(())
    }
}

fn push(worker: &Worker, channel: ChannelId, stream: Stream, bytes: &[u8], truncated: bool) {
    let output = Output { stream, truncated, bytes };
    // Without a connection there is nobody to tell.
    let _ = worker.outbox.push(ToHost::Output(channel, output).encode());
}

fn other(stream: Stream) -> Stream {
    match stream {
        Stream::Stdout => Stream::Stderr,
        Stream::Stderr => Stream::Stdout,
    }
}
