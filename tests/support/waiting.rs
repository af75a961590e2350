//! Waits that end. A test that would hang fails instead, and says what it was waiting for.

use std::panic;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long [`eventually`] waits between two looks: short against any limit, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs `body` on a thread named after `what` and gives back what it returns. A panic in `body` goes on in the caller.
///
/// # Panics
///
/// When `body` is not back within `limit`. Its thread is left behind, because a thread cannot be ended from outside: it
/// goes with the test process.
pub fn within<T: Send + 'static>(limit: Duration, what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(what.to_owned())
        .spawn(move || {
            // The receiver is gone when the limit has passed, and nobody wants the value any more.
            let _ = done.send(body());
        })
        .expect("a thread for the wait");
    match wait.recv_timeout(limit) {
        Ok(value) => {
            thread.join().expect("the thread has done all its work");
            value
        }
        Err(RecvTimeoutError::Timeout) => panic!("waited {limit:?} in vain: {what}"),
        Err(RecvTimeoutError::Disconnected) => {
            panic::resume_unwind(thread.join().expect_err("a thread that sends nothing has panicked"))
        }
    }
}

/// Waits until `condition` holds, by looking at it again and again.
///
/// For what cannot be waited for: processes, file descriptors and threads that others must have given back. Where there is
/// an event, wait for the event, with [`within`].
///
/// # Panics
///
/// When `condition` does not hold within `limit`. It is looked at once more after that, so that a machine which did not
/// run us for a while is no failure.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(limit, condition), "waited {limit:?} in vain: {what}");
}

/// As [`eventually`], for callers who have more to say about a failure.
pub fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        let late = start.elapsed() >= limit;
        if condition() {
            return true;
        }
        if late {
            return false;
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with which `body` panics.
    fn panic_text(body: impl FnOnce() + panic::UnwindSafe) -> String {
        let payload = panic::catch_unwind(body).expect_err("a panic");
        payload
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| (*payload.downcast_ref::<&str>().expect("a text")).to_owned())
    }

    #[test]
    fn a_body_in_time_gives_its_value_from_a_thread_with_its_name() {
        let name = within(Duration::from_secs(10), "the name", || thread::current().name().map(str::to_owned));
        assert_eq!(name.as_deref(), Some("the name"));
    }

    #[test]
    fn a_body_that_is_late_is_named() {
        let (_open, never) = mpsc::channel::<()>();
        let text = panic_text(panic::AssertUnwindSafe(move || {
            let _ = within(Duration::from_millis(5), "a message", move || never.recv());
        }));
        assert_eq!(text, "waited 5ms in vain: a message");
    }

    #[test]
    fn a_panic_of_the_body_is_the_caller_s() {
        assert_eq!(panic_text(|| within(Duration::from_secs(10), "nothing", || panic!("from inside"))), "from inside");
    }

    #[test]
    fn a_condition_is_looked_at_until_it_holds_or_the_limit_has_passed() {
        let mut looks = 0;
        eventually(Duration::from_secs(10), "three looks", || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
        let text = panic_text(|| eventually(Duration::from_millis(5), "the impossible", || false));
        assert_eq!(text, "waited 5ms in vain: the impossible");
    }
}
