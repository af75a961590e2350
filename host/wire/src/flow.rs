//! Credits: how much may be under way on one channel in one direction.
//!
//! A sender may *start* a message when it has a message credit and byte credits for it, or for half a window if it is
//! larger than that; sending takes the message's whole length off its credits, below zero if need be. A receiver gives
//! credits back for what its user took, once half a window has gathered. So a channel buffers at most a window and one
//! message, a message larger than the window still goes through, and nobody waits for credits that the other side sits on:
//! if all was taken, less than half a window is withheld.

use crate::limits::{Limits, WINDOW_BYTES, WINDOW_MESSAGES};

/// Credits on their way back to a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Bytes that were taken.
    pub bytes: u64,
    /// Messages that were taken.
    pub messages: u32,
}

impl Credit {
    /// More of it.
    pub fn add(&mut self, more: impl Into<Option<Credit>>) {
        if let Some(Credit { bytes, messages }) = more.into() {
            self.bytes = self.bytes.saturating_add(bytes);
            self.messages = self.messages.saturating_add(messages);
        }
    }
}

/// The peer broke the rules of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// It sent without credit.
    #[error("peer sent a message without credit for it")]
    Overrun,
    /// It gave back more than it got.
    #[error("peer returned more credit than it was sent")]
    Surplus,
}

/// How large a channel's window is, the same in both directions. Both sides take it from the same [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    bytes: i64,
    messages: i64,
}

impl Window {
    /// A window of this many bytes and messages. Of no bytes: one message at a time. It always has room for one message.
    pub fn new(bytes: u64, messages: u32) -> Window {
        Window { bytes: i64::try_from(bytes).unwrap_or(i64::MAX), messages: i64::from(messages.max(1)) }
    }

    fn may_start(self, bytes: i64, messages: i64, length: u64) -> bool {
        let needed = i64::try_from(length).unwrap_or(i64::MAX).min(self.bytes / 2);
        messages > 0 && bytes >= needed
    }
}

impl Default for Window {
    fn default() -> Self {
        Window::new(WINDOW_BYTES, WINDOW_MESSAGES)
    }
}

impl From<&Limits> for Window {
    fn from(limits: &Limits) -> Self {
        Window::new(limits.window_bytes, limits.window_messages)
    }
}

/// The sender's view of a window.
#[derive(Debug, Clone)]
pub struct SendWindow {
    full: Window,
    bytes: i64,
    messages: i64,
}

/// The receiver's view of a window.
#[derive(Debug, Clone)]
pub struct ReceiveWindow {
    full: Window,
    /// What the sender has left, were all credits to arrive at once.
    bytes: i64,
    messages: i64,
    gathered: Credit,
}

impl SendWindow {
    /// A full window.
    pub fn new(full: Window) -> SendWindow {
        SendWindow { full, bytes: full.bytes, messages: full.messages }
    }

    /// Whether there are credits for a message of `length` bytes.
    pub fn may_start(&self, length: u64) -> bool {
        self.full.may_start(self.bytes, self.messages, length)
    }

    /// Takes the credits for a message of `length` bytes, or says that it has to wait.
    pub fn try_start(&mut self, length: u64) -> bool {
        if !self.may_start(length) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub_unsigned(length);
        true
    }

    /// What was sent and not credited yet.
    pub fn under_way(&self) -> Credit {
        // Neither can be negative: `give_back` stops at a full window.
        let bytes = self.full.bytes.saturating_sub(self.bytes).unsigned_abs();
        let messages = u32::try_from(self.full.messages - self.messages).unwrap_or(u32::MAX);
        Credit { bytes, messages }
    }

    /// Takes credits back.
    ///
    /// # Errors
    /// [`FlowError::Surplus`] if that would be more than a full window.
    pub fn give_back(&mut self, credit: Credit) -> Result<(), FlowError> {
        let bytes = self.bytes.checked_add_unsigned(credit.bytes).ok_or(FlowError::Surplus)?;
        let messages = self.messages.checked_add(i64::from(credit.messages)).ok_or(FlowError::Surplus)?;
        if bytes > self.full.bytes || messages > self.full.messages {
            return Err(FlowError::Surplus);
        }
        (self.bytes, self.messages) = (bytes, messages);
        Ok(())
    }
}

impl Default for SendWindow {
    fn default() -> Self {
        SendWindow::new(Window::default())
    }
}

impl ReceiveWindow {
    /// A full window.
    pub fn new(full: Window) -> ReceiveWindow {
        ReceiveWindow { full, bytes: full.bytes, messages: full.messages, gathered: Credit::default() }
    }

    /// A message of `length` bytes begins to arrive.
    ///
    /// # Errors
    /// [`FlowError::Overrun`] if the sender had no credit for it.
    pub fn arrive(&mut self, length: u64) -> Result<(), FlowError> {
        if !self.full.may_start(self.bytes, self.messages, length) {
            return Err(FlowError::Overrun);
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub_unsigned(length);
        Ok(())
    }

    /// The user took a message of `length` bytes. Returns credits when it is time to send some back.
    pub fn take(&mut self, length: u64) -> Option<Credit> {
        self.gathered.bytes += length;
        self.gathered.messages += 1;
        if self.is_enough(Credit::default()) { self.give_all() } else { None }
    }

    /// Whether credits are due once the user has taken that much more than it has.
    pub fn is_enough(&self, more: Credit) -> bool {
        let gathered = self.gathered.bytes.saturating_add(more.bytes);
        let messages = i64::from(self.gathered.messages).saturating_add(i64::from(more.messages));
        gathered >= self.full.bytes.unsigned_abs() / 2 || messages >= self.full.messages / 2
    }

    /// The user took that much, which is not [enough](Self::is_enough) for credits to be due.
    pub fn took(&mut self, taken: Credit) {
        self.gathered.add(taken);
    }

    /// All credits that have gathered, for a sender that waits for them.
    pub fn give_all(&mut self) -> Option<Credit> {
        let credit = std::mem::take(&mut self.gathered);
        self.bytes = self.bytes.saturating_add_unsigned(credit.bytes);
        self.messages += i64::from(credit.messages);
        (credit.messages > 0).then_some(credit)
    }
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        ReceiveWindow::new(Window::default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_messages_stop_at_the_window() {
        let mut window = SendWindow::default();
        let started = (0..).take_while(|_| window.try_start(0)).count();
        assert_eq!(started, WINDOW_MESSAGES as usize);
        let mut window = SendWindow::default();
        let started = (0..).take_while(|_| window.try_start(4096)).count();
        assert_eq!(started as u64, WINDOW_BYTES / 4096);
    }

    #[test]
    fn a_message_larger_than_the_window_goes_alone() {
        let mut window = SendWindow::default();
        assert!(window.try_start(WINDOW_BYTES * 50));
        assert!(!window.try_start(1), "nothing more until it was taken");
        assert_eq!(window.under_way(), Credit { bytes: WINDOW_BYTES * 50, messages: 1 });
        window.give_back(Credit { bytes: WINDOW_BYTES * 50, messages: 1 }).unwrap();
        assert!(window.try_start(1));
    }

    #[test]
    fn credit_from_nowhere_is_refused() {
        for credit in [
            Credit { bytes: 1, messages: 0 },
            Credit { bytes: 0, messages: 1 },
            Credit { bytes: u64::MAX, messages: 0 },
        ] {
            assert_eq!(SendWindow::default().give_back(credit), Err(FlowError::Surplus));
        }
    }

    #[test]
    fn an_overrun_is_noticed() {
        let mut window = ReceiveWindow::default();
        for _ in 0..WINDOW_MESSAGES {
            window.arrive(0).unwrap();
        }
        assert_eq!(window.arrive(0), Err(FlowError::Overrun));
    }

    #[test]
    fn what_is_not_enough_can_be_told_together() {
        for (bytes, messages, length) in [(1000, 9, 30), (100, 1000, 7), (0, 1, 5), (1 << 20, 1024, 0)] {
            let window = Window::new(bytes, messages);
            let (mut one_by_one, mut together) = (ReceiveWindow::new(window), ReceiveWindow::new(window));
            let mut taken = Credit::default();
            for _ in 0..3000 {
                taken.add(Credit { bytes: length, messages: 1 });
                let credit = one_by_one.take(length);
                assert_eq!(credit.is_some(), together.is_enough(taken), "{window:?}");
                if credit.is_some() {
                    taken = Credit { bytes: taken.bytes - length, messages: taken.messages - 1 };
                    together.took(std::mem::take(&mut taken));
                    assert_eq!(together.take(length), credit);
                }
            }
        }
    }

    proptest! {
        /// Whatever the sizes and however lazily messages are taken, both views agree and the sender never starves.
        #[test]
        fn both_views_agree_and_nobody_starves(
            lengths in prop::collection::vec(0u64..3000, 1..200),
            lag in 0usize..50,
            bytes in 0u64..1200,
            messages in 0u32..9,
        ) {
            let window = Window::new(bytes, messages);
            let (mut sender, mut receiver) = (SendWindow::new(window), ReceiveWindow::new(window));
            let mut queue = std::collections::VecDeque::new();
            for length in lengths {
                while !sender.try_start(length) {
                    let taken = queue.pop_front();
                    prop_assert!(taken.is_some(), "all was taken and still no credit for {length} bytes");
                    if let Some(credit) = taken.and_then(|taken| receiver.take(taken)) {
                        prop_assert!(sender.give_back(credit).is_ok());
                    }
                }
                prop_assert!(receiver.arrive(length).is_ok());
                queue.push_back(length);
                while queue.len() > lag {
                    if let Some(credit) = queue.pop_front().and_then(|taken| receiver.take(taken)) {
                        prop_assert!(sender.give_back(credit).is_ok());
                    }
                }
            }
        }
    }
}
