//! The error a task ends with, and how it gets to the host.

use std::error::Error as StdError;
use std::fmt;

use sandgate_abi::report;

use crate::{startup, sys};

/// What a task returns: its `main`, or a function with the [`task`](macro@crate::task) attribute.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error, as a task's way to fail. `?` makes it of every error that implements [`std::error::Error`].
///
/// When `main` or a named task returns it, the host sees a failed task with the text of the error and of its sources,
/// separated by `: `.
///
/// ```no_run
/// fn main() -> sandgate_guest::Result {
///     let channel = sandgate_guest::channel();
///     let text: String = channel.receive()?;
///     let number: u32 = text.parse()?;
///     if number == 0 {
///         return Err(sandgate_guest::Error::msg("zero is not served"));
///     }
///     channel.send(&(100 / number))?;
///     Ok(())
/// }
/// ```
///
/// # Formatting
///
/// `{}` is the text of the error alone, `{:#}` is followed by its sources. `{:?}` is as `{:#}` and more: inside a worker,
/// it announces that the task ends with this error. The announcement is void as soon as the task uses a channel again.
pub struct Error {
    // Errors are `Send` as elsewhere, which also keeps channels out of them: dropping one after the report would void it.
    inner: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// An error that is a text.
    #[must_use]
    pub fn msg(text: impl fmt::Display) -> Self {
        Error { inner: text.to_string().into() }
    }

    /// The error and its sources, the outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let first: &(dyn StdError + 'static) = &*self.inner;
        std::iter::successors(Some(first), |&error| error.source())
    }

    /// The error as what it was made of.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.inner.downcast_ref()
    }

    /// Tells the host that the task ends with this error, and returns the text. It must be the last word: see
    /// `sandgate-abi`.
    pub(crate) fn report(&self) -> String {
        // A `main` that returns this error type refers to this function, whether it fails or not.
        startup::ensure_linked();
        let text = format!("{self:#}");
        sys::task_report(report::ERROR, &text);
        text
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Error { inner: Box::new(error) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "{}", self.inner);
        }
        for (position, error) in self.chain().enumerate() {
            let separator = if position == 0 { "" } else { ": " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// Of a `main` that returns an error, std only shows the `Debug` form, on stderr, before it exits with code 1. So this is
/// the one place where the error can be told to the host. Who prints an error and goes on is safe: the worker forgets the
/// report at the next call.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: on stderr, where std formats to, each piece is a call of the system.
        f.write_str(&self.report())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::ReceiveError;
    use crate::sys::loopback;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("line `3` is not a number")
        }
    }

    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn outer() -> Error {
        Outer("x".parse::<u32>().unwrap_err()).into()
    }

    #[test]
    fn the_chain_is_shown_on_demand() {
        assert_eq!(outer().to_string(), "line `3` is not a number");
        assert_eq!(format!("{:#}", outer()), "line `3` is not a number: invalid digit found in string");
        assert_eq!(outer().chain().count(), 2);
        assert!(outer().downcast_ref::<Outer>().is_some());
        assert!(loopback::worker(|worker| worker.reports.is_empty()));
    }

    #[test]
    fn debug_reports_as_std_uses_it_when_main_returns() {
        let shown = format!("{:?}", outer());
        assert_eq!(shown, "line `3` is not a number: invalid digit found in string");
        assert_eq!(loopback::worker(|worker| worker.reports.clone()), [(report::ERROR, shown)]);
    }

    #[test]
    fn a_text_and_an_operation_are_errors() {
        assert_eq!(Error::msg("no luck").to_string(), "no luck");
        let error: Error = ReceiveError::Closed.into();
        assert!(matches!(error.downcast_ref(), Some(ReceiveError::Closed)));
    }
}
