//! How a thread waits for the stream on its own behalf: until there is something to read, or somebody has another reason
//! for it to look up.
//!
//! ```text
//!  leader:  asleep = true ─► raised? ─no─► poll(bell, ringer) ─► asleep = false
//!  others:  raised = true ─► asleep? ─yes─► ring
//! ```
//!
//! Both write before they look, in one total order, so that one of them sees the other. A ring that comes too late makes
//! the next wait a short one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg};

pub use crate::spin::let_threads_step_aside;
use crate::transport::socket_pair;

/// What a ring is made with.
#[derive(Debug)]
pub enum Ringer {
    /// An eventfd, which is a descriptor less.
    Event(OwnedFd),
    /// Two ends of a socket, which need no system calls but those of a connection.
    Sockets(OwnedFd, OwnedFd),
}

impl Ringer {
    /// One that is an eventfd.
    ///
    /// # Errors
    /// The system's, usually for want of descriptors.
    pub fn event() -> io::Result<Arc<Ringer>> {
        Ok(Arc::new(Ringer::Event(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// One that is a pair of sockets.
    ///
    /// # Errors
    /// The system's, usually for want of descriptors.
    pub fn sockets() -> io::Result<Arc<Ringer>> {
        let (ear, mouth) = socket_pair()?;
        Ok(Arc::new(Ringer::Sockets(ear, mouth)))
    }

    /// What becomes readable by a ring.
    pub fn ear(&self) -> &OwnedFd {
        match self {
            Ringer::Event(both) => both,
            Ringer::Sockets(ear, _) => ear,
        }
    }

    /// Makes it readable. Never blocks.
    pub fn ring(&self) {
        // If there is no room it is readable already.
        match self {
            Ringer::Event(both) => {
                let _ = rustix::io::write(both, &1_u64.to_ne_bytes());
            }
            Ringer::Sockets(_, mouth) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let _ = sendmsg(mouth, &[io::IoSlice::new(&[0])], &mut SendAncillaryBuffer::default(), flags);
            }
        }
    }

    /// Makes it silent again. Never blocks.
    pub fn hush(&self) {
        let mut taken = [0; 64];
        match self {
            Ringer::Event(both) => {
                let _ = rustix::io::read(both, &mut taken[..8]);
            }
            Ringer::Sockets(ear, _) => {
                let mut buffers = [io::IoSliceMut::new(&mut taken)];
                let _ = recvmsg(ear, &mut buffers, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT);
            }
        }
    }
}

/// Wakes the one thread that waits for the stream, for a reason that does not come out of the stream.
#[derive(Debug, Default)]
pub struct Alarm {
    raised: AtomicBool,
    asleep: AtomicBool,
    /// What wakes the thread that is asleep.
    ringer: Mutex<Option<Arc<Ringer>>>,
}

impl Alarm {
    /// The thread that reads is to look up, whatever it does. Costs nothing if it is the caller.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && let Some(ringer) = &*self.ringer.lock()
        {
            ringer.ring();
        }
    }

    /// Whether it was raised since it was lowered.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Whether the thread that reads sleeps.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Before the thread that reads looks whether it has to.
    pub fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    /// Sleeps until the bell rings, the alarm is raised, or `deadline` has come. May return early.
    pub(crate) fn sleep(
        &self,
        bell: BorrowedFd<'_>,
        ringer: &Arc<Ringer>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        *self.ringer.lock() = Some(Arc::clone(ringer));
        self.asleep.store(true, Ordering::SeqCst);
        let result = if self.is_raised() { Ok(()) } else { wait(bell, ringer, deadline) };
        self.asleep.store(false, Ordering::SeqCst);
        // Who finds none here has raised the alarm before this thread looks.
        *self.ringer.lock() = None;
        result
    }
}

fn wait(bell: BorrowedFd<'_>, ringer: &Ringer, deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
    let mut polled =
        [PollFd::from_borrowed_fd(bell, PollFlags::IN), PollFd::from_borrowed_fd(ringer.ear().as_fd(), PollFlags::IN)];
    match poll(&mut polled, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    if !polled[1].revents().is_empty() {
        ringer.hush();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::wait;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
        let start = Instant::now();
        while !happened() {
            assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
            std::thread::yield_now();
        }
    }

    fn ringers() -> [Arc<Ringer>; 2] {
        [Ringer::event().unwrap(), Ringer::sockets().unwrap()]
    }

    #[test]
    fn a_ring_is_heard_until_it_is_hushed() {
        let heard = |ringer: &Ringer| wait(ringer.ear().as_fd(), PollFlags::IN, Some(Duration::ZERO)).unwrap();
        for ringer in ringers() {
            assert!(!heard(&ringer));
            // More than a socket has room for.
            (0..10_000).for_each(|_| ringer.ring());
            assert!(heard(&ringer));
            while heard(&ringer) {
                ringer.hush();
            }
        }
    }

    #[test]
    fn an_alarm_ends_a_sleep_before_and_while_it_lasts() {
        for ringer in ringers() {
            let alarm = Alarm::default();
            let (bell, _other_end) = socket_pair().unwrap();
            let deadline = Instant::now() + PATIENCE;
            alarm.raise();
            alarm.sleep(bell.as_fd(), &ringer, Some(deadline)).unwrap();
            alarm.lower();
            std::thread::scope(|scope| {
                let sleeping = scope.spawn(|| alarm.sleep(bell.as_fd(), &ringer, Some(deadline)));
                eventually("the thread to sleep", || alarm.is_asleep());
                alarm.raise();
                sleeping.join().unwrap().unwrap();
            });
            assert!(alarm.is_raised() && Instant::now() < deadline);
        }
    }

    #[test]
    fn the_bell_and_the_deadline_end_a_sleep() {
        let (alarm, ringer) = (Alarm::default(), Ringer::event().unwrap());
        let (bell, other_end) = socket_pair().unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        alarm.sleep(bell.as_fd(), &ringer, Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline);
        drop(other_end);
        alarm.sleep(bell.as_fd(), &ringer, Some(Instant::now() + PATIENCE)).unwrap();
        assert!(Instant::now() < deadline + PATIENCE);
    }

    #[test]
    fn alarms_and_sleeps_never_miss_each_other() {
        let (alarm, ringer) = (Alarm::default(), Ringer::event().unwrap());
        let (bell, _other_end) = socket_pair().unwrap();
        let said = std::sync::atomic::AtomicU32::new(0);
        let deadline = Instant::now() + PATIENCE;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=20_000 {
                    said.store(number, Ordering::SeqCst);
                    alarm.raise();
                    eventually("the number to be taken", || said.load(Ordering::SeqCst) == 0);
                }
            });
            let mut taken = 0;
            while taken < 20_000 {
                alarm.lower();
                let number = said.swap(0, Ordering::SeqCst);
                if number == 0 {
                    alarm.sleep(bell.as_fd(), &ringer, Some(deadline)).unwrap();
                    assert!(Instant::now() < deadline, "an alarm was missed");
                } else {
                    taken = number;
                }
            }
        });
    }
}
