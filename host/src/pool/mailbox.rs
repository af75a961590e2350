//! A queue between threads whose receiver sleeps as soon as it is empty, and whose senders may leave that asleep.
//!
//! Channels of crossbeam look again and again before they sleep. Here that would be at the cost of guests, which have the
//! processors: a pool that is busy waits for results all the time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvError, RecvTimeoutError, TryRecvError};
use parking_lot::{Condvar, Mutex};

/// Both ends of a new one, which has no bound.
pub(crate) fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), senders: 1, asleep: false, roused: false, is_over: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), count: AtomicUsize::new(0), came: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Items, for whoever only looks. Changed with the state locked.
    count: AtomicUsize,
    came: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    /// The receiver sleeps, and nobody has woken it yet.
    asleep: bool,
    /// The receiver is to look up though nothing may be there.
    roused: bool,
    /// There is no receiver any more.
    is_over: bool,
}

/// There is no receiver any more. What was to be sent is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// The end that is written to. Clones are further senders.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that is read.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Shared<T> {
    fn wake(&self, state: &mut State<T>) {
        if std::mem::take(&mut state.asleep) {
            self.came.notify_one();
        }
    }

    fn count(&self, state: &State<T>) {
        self.count.store(state.items.len(), Ordering::Release);
    }
}

impl<T> Sender<T> {
    /// Adds an item. Never blocks. Fails if there is no receiver any more.
    pub(crate) fn send(&self, item: T) -> Result<(), Gone> {
        self.add([item], true)
    }

    /// Adds an item and lets the receiver sleep, if it does: others follow, or somebody else takes what is there.
    pub(crate) fn send_quietly(&self, item: T) -> Result<(), Gone> {
        self.add([item], false)
    }

    /// Adds several items at once. Never blocks. Fails if there is no receiver any more.
    pub(crate) fn send_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Gone> {
        self.add(items, true)
    }

    /// The items are made with the mailbox locked, and are not to need it.
    fn add(&self, items: impl IntoIterator<Item = T>, wakes: bool) -> Result<(), Gone> {
        let mut state = self.0.state.lock();
        if state.is_over {
            // Dropping them may do anything.
            drop(state);
            return Err(Gone);
        }
        state.items.extend(items);
        self.0.count(&state);
        if wakes {
            self.0.wake(&mut state);
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item, which is waited for. Fails if there is none, and no sender any more.
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        self.receive(None).map_err(|_| RecvError)
    }

    /// The next item, which is waited for so long.
    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// The next item, if it is there.
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.state.lock();
        match state.items.pop_front() {
            Some(item) => {
                self.0.count(&state);
                Ok(item)
            }
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Moves so many items to the end of `to`.
    pub(crate) fn take(&self, most: usize, to: &mut Vec<T>) {
        let mut state = self.0.state.lock();
        let count = state.items.len().min(most);
        to.extend(state.items.drain(..count));
        self.0.count(&state);
    }

    /// Takes all there is, in exchange for memory of what was taken before.
    pub(crate) fn take_all(&self, to: &mut VecDeque<T>) {
        debug_assert!(to.is_empty(), "what is there is behind what was taken before");
        if !self.is_empty() {
            let mut state = self.0.state.lock();
            std::mem::swap(&mut state.items, to);
            self.0.count(&state);
        }
    }

    /// Waits until something is there or the last sender has gone, `deadline` has come, or it is [roused](Self::rouse).
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut state = self.0.state.lock();
        while state.items.is_empty() && state.senders > 0 && !std::mem::take(&mut state.roused) {
            state.asleep = true;
            let is_late = match deadline {
                None => {
                    self.0.came.wait(&mut state);
                    false
                }
                Some(deadline) => self.0.came.wait_until(&mut state, deadline).timed_out(),
            };
            state.asleep = false;
            if is_late {
                return;
            }
        }
    }

    /// Ends the wait of whoever is in [`wait`](Self::wait), or the next.
    pub(crate) fn rouse(&self) {
        let mut state = self.0.state.lock();
        state.roused = true;
        self.0.wake(&mut state);
    }

    /// How many items there are. Takes no lock.
    pub(crate) fn len(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    /// Whether nothing is there. Takes no lock.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing is there, in one order with all that is added: who adds something afterwards sees what the caller did
    /// before.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.state.lock().items.is_empty()
    }

    fn receive(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        loop {
            match self.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if deadline.is_some_and(|at| at <= Instant::now()) => {
                    return Err(RecvTimeoutError::Timeout);
                }
                Err(TryRecvError::Empty) => self.wait(deadline),
            }
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.state.lock().senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.wake(&mut state);
        }
    }
}

impl<T> Drop for Receiver<T> {
    /// What nobody takes any more is dropped here.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_over = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        drop(items);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn items_come_in_their_order_whoever_wakes_the_receiver() {
        const MANY: u32 = 20_000;
        let (sender, receiver) = mailbox();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..MANY {
                    // Of what is left quietly the last is told of.
                    let sent = if number % 7 == 6 { sender.send(number) } else { sender.send_quietly(number) };
                    sent.unwrap();
                }
            });
            for number in 0..MANY {
                assert_eq!(receiver.recv_timeout(PATIENCE), Ok(number));
            }
            assert_eq!(receiver.recv(), Err(RecvError));
        });
    }

    #[test]
    fn a_wait_ends_by_a_rouse_a_deadline_an_item_and_the_last_sender() {
        let (sender, receiver) = mailbox::<u32>();
        let deadline = Instant::now() + PATIENCE;
        receiver.rouse();
        receiver.wait(Some(deadline));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.wait(Some(deadline)));
            receiver.rouse();
        });
        sender.send_quietly(1).unwrap();
        receiver.wait(Some(deadline));
        assert_eq!((receiver.len(), receiver.try_recv()), (1, Ok(1)));
        sender.send_all([2, 3, 4]).unwrap();
        let mut taken = VecDeque::new();
        receiver.take(1, &mut Vec::new());
        receiver.take_all(&mut taken);
        assert_eq!((taken, receiver.len()), (VecDeque::from([3, 4]), 0));
        drop(sender);
        receiver.wait(Some(deadline));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        assert!(Instant::now() < deadline);
    }

    #[test]
    fn without_a_receiver_nothing_is_kept() {
        let (sender, receiver) = mailbox();
        let (kept, again) = (Arc::new(()), sender.clone());
        sender.send(Arc::clone(&kept)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&kept), 1);
        assert!(again.send(kept).is_err() && sender.send_all([]).is_err());
    }
}
