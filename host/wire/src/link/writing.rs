//! The thread that writes a link: what is said first, then a turn for each stream that has something.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::core::{Link, LinkEnd, State};
use super::frame::{FrameEncoder, LinkFrame};
use super::message::{LinkEncoded, kind};

/// Bytes that are written in one go, give or take a turn.
const BATCH_BYTES: usize = 128 * 1024;

impl Link {
    /// Writes until the link ends, and the last word then. `frames` has counted what was written before.
    pub fn run_writer(&self, mut frames: FrameEncoder) {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        self.state.lock().writer_is_near = true;
        let mut is_whole = true;
        while self.gather(&mut frames, &mut batch) {
            if self.write(&batch).is_err() {
                is_whole = false;
                // Whoever reads may know better what has happened, if it comes to that.
                self.end(LinkEnd::Ended);
            }
            batch.clear();
        }
        let word = self.ended().and_then(|why| self.last_word(&why)).filter(|_| is_whole);
        if let Some(LinkEncoded { kind, stream, body }) = word.map(|word| word.encode()) {
            frames.append(LinkFrame { kind, stream, payload: &body }, &mut batch);
            // There may be nobody left who reads it.
            let _ = self.write(&batch);
        }
        self.send.shutdown();
    }

    /// Waits for something to write and takes it; false at the link's end.
    fn gather(&self, frames: &mut FrameEncoder, batch: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock();
        let has_work = |state: &State| {
            state.beat_is_due || state.echo.is_some() || !state.controls.is_empty() || !state.listed.is_empty()
        };
        while state.ended.is_none() && !has_work(&state) {
            self.work.wait(&mut state);
        }
        if state.ended.is_some() {
            return false;
        }
        if std::mem::take(&mut state.beat_is_due) {
            frames.append(LinkFrame { kind: kind::BEAT, stream: 0, payload: &self.beat().to_le_bytes() }, batch);
        }
        if let Some(beat) = state.echo.take() {
            frames.append(LinkFrame { kind: kind::ECHO, stream: 0, payload: &beat.to_le_bytes() }, batch);
        }
        while batch.len() < BATCH_BYTES {
            // A stream that was opened meanwhile has something to send once its announcement is here, which goes first.
            if let Some(control) = state.controls.pop_front() {
                frames.append(LinkFrame { kind: control.kind, stream: control.stream, payload: &control.body }, batch);
                continue;
            }
            let Some(stream) = state.listed.pop_front() else { break };
            drop(state);
            let append = |kind, payload: &[u8]| frames.append(LinkFrame { kind, stream: stream.id, payload }, batch);
            let has_more = stream.turn(append);
            if !has_more {
                self.settle(&stream);
            }
            state = self.state.lock();
            if has_more && state.ended.is_none() {
                state.listed.push_back(Arc::clone(&stream));
            }
        }
        true
    }

    fn write(&self, batch: &[u8]) -> io::Result<()> {
        let mut rest = batch;
        while !rest.is_empty() {
            match self.send.try_write(&[IoSlice::new(rest)], None) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_room()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Not once the link has ended: nobody else shuts the transport then.
    fn wait_for_room(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.writer_is_near = false;
        drop(state);
        let waited = self.send.wait_writable();
        self.state.lock().writer_is_near = true;
        waited
    }
}
