//! When a message waits for others before it is written, and who sees to it that it does not wait for long.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::queues::State;
use super::{Outbox, OutboxClosed, Place};
use crate::message::Encoded;

/// Small messages in quick succession that are written one by one before the next ones are gathered.
const STREAK: u32 = 3;
/// The streak of a sender that has waited since.
const WAITED: u32 = u32::MAX;
/// Two messages closer together than this are in quick succession.
const STREAK_GAP: Duration = Duration::from_micros(50);
/// Bytes that are gathered at most.
pub(super) const GATHER_BYTES: usize = 8 * 1024;
/// How long a message is gathered at most, give or take what the system's timers need.
pub(super) const GATHER_TIME: Duration = Duration::from_micros(100);
/// How long a message is gathered by a patient outbox, if none follows it. The writer thread looks that often while some do, at
/// the cost of those who compute.
pub(super) const PATIENT_TIME: Duration = Duration::from_millis(5);
/// A patient outbox writes what it has gathered with the first message after this time, and with an end of an execution. It looks at
/// the clock with each message by which it has gathered so many bytes more.
const PATIENT_ENOUGH: Duration = Duration::from_micros(1600);
const LOOK_BYTES: usize = 256;

impl Outbox {
    /// From here on what is small is gathered whether or not it comes in quick succession, and wakes no peer that dozes; or no more.
    /// For a side where one thread has something to say, since it holds for all.
    pub fn be_patient(&self, patient: bool) {
        self.patient.store(patient, Ordering::Relaxed);
    }

    /// As [`push`](Self::push), but a [patient](Self::be_patient) outbox wakes no peer for it that dozes. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_patiently(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        let lazy = self.patient.load(Ordering::Relaxed);
        let state = self.enqueue_control(encoded, VecDeque::new(), Place::Lane { lazy })?;
        if lazy {
            self.owes_waking.store(true, Ordering::Release);
        }
        self.start(state);
        Ok(())
    }

    /// Whether [`about_to_wait`](Self::about_to_wait) would write.
    pub fn is_gathering(&self) -> bool {
        self.gathering.load(Ordering::Acquire) || self.owes_waking.load(Ordering::Acquire)
    }

    /// For a sender that is about to wait, perhaps for an answer: what was gathered is sent, and the peer woken for what was said
    /// patiently. Never blocks, and costs next to nothing when nothing was.
    pub fn about_to_wait(&self) {
        self.streak.store(WAITED, Ordering::Relaxed);
        if !self.is_gathering() {
            return;
        }
        let mut state = self.state.lock();
        // Whoever writes now, or next, wakes the peer behind that.
        state.wakes_peer |= self.owes_waking.swap(false, Ordering::AcqRel);
        if state.closed || state.writing || state.writer_wanted {
            return;
        }
        if state.has_work() || state.wakes_peer {
            state.writing = true;
            self.write_inline(state);
        }
    }

    /// Waits once, and says whether what is gathered has to be written now.
    pub(super) fn watch(&self, state: &mut MutexGuard<'_, State>) -> bool {
        if !state.writer_watches {
            self.wake_writer.wait(state);
            return false;
        }
        let Some(since) = state.gathered_since else {
            let quiet = state.last_small.is_none_or(|last| last.elapsed() > state.gather_time());
            if quiet {
                state.writer_watches = false;
            } else {
                let time = state.gather_time();
                self.wake_writer.wait_for(state, time);
            }
            return false;
        };
        if state.writing {
            // It takes what is gathered along. Looking again without letting go of the lock would keep it from doing so.
            self.wake_writer.wait_for(state, GATHER_TIME);
            return false;
        }
        let until = since + state.gather_time();
        if until <= Instant::now() {
            return true;
        }
        self.wake_writer.wait_until(state, until);
        false
    }

    /// Decides whether a small message that was just queued is to wait for others.
    pub(super) fn gather(&self, state: &mut State, bytes: usize) -> bool {
        let patient = self.patient.load(Ordering::Relaxed);
        if patient {
            self.owes_waking.store(true, Ordering::Release);
        }
        let gathered = state.gathered_bytes + bytes;
        let looks = patient && gathered / LOOK_BYTES != state.gathered_bytes / LOOK_BYTES;
        if state.gathered_since.is_some() && !looks && !state.writing && !state.writer_wanted {
            // Whoever watches writes in time, so that nobody need look at the clock for each.
            state.gathered_bytes = gathered;
            return gathered < GATHER_BYTES;
        }
        if !patient && self.streak.load(Ordering::Relaxed) == WAITED {
            // It is the first after a wait, so nobody need look at the clock.
            self.streak.store(0, Ordering::Relaxed);
            return false;
        }
        let now = Instant::now();
        let quick = state.last_small.is_some_and(|last| now.saturating_duration_since(last) < STREAK_GAP);
        state.last_small = Some(now);
        let before = self.streak.load(Ordering::Relaxed);
        let streak = if quick && before != WAITED { (before + 1).min(STREAK) } else { 0 };
        self.streak.store(streak, Ordering::Relaxed);
        if state.writing || state.writer_wanted {
            return false;
        }
        state.gathered_bytes = gathered;
        let enough = |since: Instant| patient && now.saturating_duration_since(since) >= PATIENT_ENOUGH;
        if streak < STREAK && !patient
            || state.gathered_bytes >= GATHER_BYTES
            || state.gathered_since.is_some_and(enough)
        {
            return false;
        }
        if state.gathered_since.is_none() {
            state.gathers_patiently = patient;
            state.gathered_since = Some(now);
            self.gathering.store(true, Ordering::Release);
        }
        if !state.writer_watches {
            state.writer_watches = true;
            self.call_writer();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Throttled, control, message, with_writer};
    use super::*;
    use crate::ids::ChannelId;
    use crate::message::kind;

    /// Sends so many messages of 5 bytes as fast as it can, on channel 1.
    fn stream(outbox: &Outbox, count: usize) {
        for _ in 0..count {
            outbox.push_message(ChannelId(1), message(5)).unwrap();
        }
    }

    #[test]
    fn a_stream_is_gathered_and_sent_when_its_sender_waits() {
        let transport = Throttled::default();
        transport.open(usize::MAX / 2);
        let outbox = Outbox::new(Box::new(transport.clone()));
        stream(&outbox, 1000);
        outbox.about_to_wait();
        assert!(!outbox.is_gathering());
        assert_eq!(transport.frames(), vec![(kind::DATA, 1, 5); 1000]);
        let writes = transport.writes();
        assert!(writes < 500, "{writes} writes for 1000 messages in quick succession");
    }

    #[test]
    fn what_is_gathered_is_sent_before_anything_else() {
        let transport = Throttled::default();
        transport.open(usize::MAX / 2);
        let outbox = Outbox::new(Box::new(transport.clone()));
        stream(&outbox, 20);
        outbox.push(control(kind::CLOSE, 1)).unwrap();
        let frames = transport.frames();
        assert_eq!(frames[..20], [(kind::DATA, 1, 5); 20]);
        assert_eq!(frames[20..], [(kind::CLOSE, 1, 3)]);
    }

    /// Each message is late enough to be no part of a stream.
    #[test]
    fn a_patient_outbox_gathers_what_does_not_come_in_quick_succession() {
        with_writer(|outbox, transport| {
            transport.open(usize::MAX / 2);
            let say = |outbox: &Outbox| outbox.push_message(ChannelId(1), message(5)).unwrap();
            say(outbox);
            assert_eq!(transport.frames().len(), 1, "it is not patient yet");
            outbox.be_patient(true);
            let said = Instant::now();
            say(outbox);
            let is_kept = outbox.is_gathering() && transport.frames().len() == 1;
            assert!(is_kept || said.elapsed() >= PATIENT_TIME);
            let deadline = Instant::now() + Duration::from_secs(10);
            while transport.frames().len() < 2 {
                assert!(Instant::now() < deadline, "waited in vain for the writer thread");
                std::thread::yield_now();
            }
            say(outbox);
            outbox.about_to_wait();
            assert_eq!(transport.frames().len(), 3);
            say(outbox);
            outbox.push(control(kind::CLOSE, 3)).unwrap();
            assert_eq!(transport.frames()[3..], [(kind::DATA, 1, 5), (kind::CLOSE, 3, 3)]);
            // It is no stream either.
            outbox.about_to_wait();
            outbox.be_patient(false);
            say(outbox);
            assert_eq!(transport.frames().len(), 6);
        });
    }

    /// Ends of executions, with what was said before them.
    #[test]
    fn a_patient_outbox_writes_ends_without_waking_a_peer_and_wakes_it_before_it_waits() {
        let transport = Throttled::default();
        transport.open(usize::MAX / 2);
        let outbox = Outbox::new(Box::new(transport.clone()));
        let end = |outbox: &Outbox| outbox.push_patiently(control(kind::DONE, 1)).unwrap();
        end(&outbox);
        assert_eq!((transport.frames().len(), transport.lazy_writes()), (1, (0, 0)), "it is not patient yet");
        outbox.about_to_wait();
        outbox.be_patient(true);
        outbox.push_message(ChannelId(1), message(5)).unwrap();
        end(&outbox);
        end(&outbox);
        assert_eq!((transport.frames().len(), transport.lazy_writes()), (4, (2, 0)));
        assert!(outbox.is_gathering());
        outbox.about_to_wait();
        assert!(!outbox.is_gathering());
        assert_eq!(transport.lazy_writes(), (2, 1));
        outbox.about_to_wait();
        assert_eq!(transport.lazy_writes(), (2, 1), "once is enough");
        // What was only gathered, too.
        outbox.push_message(ChannelId(1), message(5)).unwrap();
        outbox.about_to_wait();
        assert_eq!((transport.frames().len(), transport.lazy_writes()), (5, (3, 1)));
        // What is urgent is not written lazily, whatever goes with it.
        outbox.push_message(ChannelId(1), message(5)).unwrap();
        outbox.push(control(kind::CLOSE, 3)).unwrap();
        assert_eq!((transport.frames().len(), transport.lazy_writes()), (7, (3, 1)));
    }

    #[test]
    fn what_is_gathered_is_sent_although_its_sender_does_something_else() {
        with_writer(|outbox, transport| {
            transport.open(usize::MAX / 2);
            for round in 1..=50 {
                stream(outbox, 20);
                let deadline = Instant::now() + Duration::from_secs(10);
                while transport.frames().len() < 20 * round {
                    assert!(Instant::now() < deadline, "waited in vain for the writer thread");
                    std::thread::yield_now();
                }
            }
        });
    }

    /// The sender and the writer thread take what was gathered at the same moment, again and again.
    #[test]
    fn sender_and_writer_do_not_wait_for_each_other() {
        with_writer(|outbox, transport| {
            transport.open(usize::MAX / 2);
            for round in 0..3000_u32 {
                stream(outbox, 8);
                let start = Instant::now();
                while start.elapsed() < GATHER_TIME + Duration::from_micros(u64::from(round % 100)) {
                    std::hint::spin_loop();
                }
                outbox.about_to_wait();
            }
            outbox.flush();
            assert_eq!(transport.frames().len(), 8 * 3000);
        });
    }
}
