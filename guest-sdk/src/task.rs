//! What an export made by the `task` attribute does: constructors, arguments, the function, its result.
//!
//! ```text
//! 1 run the constructors: nothing ran before the export
//! 2 take and decode the arguments      ── fails ──► report BAD_ARGUMENTS, return
//! 3 call the function                  ── panics ─► the hook reports PANIC, trap
//! 4 by the type of its result: nothing, an error, or a value to send
//! 5 flush stdout, which std does only after `main`
//! 6 report ERROR if there is one, as the last call
//! ```
//!
//! This is public for the expansion of the attribute only.

use std::any::TypeId;
use std::error::Error as _;
use std::io::Write;
use std::marker::PhantomData;

use sandgate_abi::report;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::{Channel, channel};
use crate::error::Error;
use crate::operation::{ArgsError, DecodeCause, DecodeError};
use crate::{args, startup, sys};

/// Runs one task; `types` is for the eyes of the caller.
pub fn run_task<A: DeserializeOwned>(name: &str, types: &str, body: impl FnOnce(Channel, A) -> Result<(), Error>) {
    startup::run_constructors();
    let result = match take_arguments() {
        Ok(arguments) => body(channel(), arguments),
        Err(error) => {
            let cause: &dyn std::error::Error = error.source().unwrap_or(&error);
            sys::task_report(report::BAD_ARGUMENTS, &format!("task `{name}` takes {types}: {cause}"));
            return;
        }
    };
    // Nobody is left to hear of output that cannot be written.
    let _ = std::io::stdout().flush();
    if let Err(error) = result {
        error.report();
    }
}

/// A host that passes nothing passes an empty tuple.
pub(crate) fn take_arguments<A: DeserializeOwned>() -> Result<A, ArgsError> {
    match args() {
        Err(ArgsError::Missing) if size_of::<A>() == 0 => postcard::from_bytes(&[])
            .map_err(|error| ArgsError::Decode(DecodeError::new::<A>(DecodeCause::Codec(error)))),
        taken => taken,
    }
}

/// Selects what to do with a result by its type. `(&&Returned::of(&value)).kind()` finds the more specific of the two traits
/// below, because method lookup tries the type with the most references first.
#[derive(Debug)]
pub struct Returned<T>(PhantomData<fn() -> T>);

impl<T> Returned<T> {
    /// For the type of `value`.
    pub fn of(_value: &T) -> Self {
        Returned(PhantomData)
    }
}

/// `Result`: an error to report, or a value.
pub trait KindOfResult {
    /// Selects it.
    fn kind(&self) -> ResultKind {
        ResultKind
    }
}

impl<T, E> KindOfResult for &Returned<Result<T, E>> {}

/// Anything else: a value.
pub trait KindOfValue {
    /// Selects it.
    fn kind(&self) -> ValueKind {
        ValueKind
    }
}

impl<T> KindOfValue for Returned<T> {}

/// See [`KindOfResult`].
#[derive(Debug)]
pub struct ResultKind;

/// See [`KindOfValue`].
#[derive(Debug)]
pub struct ValueKind;

impl ResultKind {
    /// Ends the task with its value or its error.
    pub fn finish<T: Serialize + 'static, E: Into<Error>>(self, result: Result<T, E>) -> Result<(), Error> {
        ValueKind.finish(result.map_err(Into::into)?)
    }
}

impl ValueKind {
    /// Sends the value as the task's last item, unless it is `()`.
    pub fn finish<T: Serialize + 'static>(self, value: T) -> Result<(), Error> {
        if TypeId::of::<T>() != TypeId::of::<()>() {
            channel().send(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sandgate_abi::report;

    use super::*;
    use crate::sys::loopback;

    /// Runs a task the way the attribute does, and returns the reports.
    macro_rules! run {
        ($args:expr, $types:ty, $body:expr) => {{
            loopback::worker(|worker| {
                worker.args = $args;
                worker.reports.clear();
            });
            run_task("it", stringify!($types), |channel: Channel, arguments: $types| {
                #[allow(clippy::let_unit_value, reason = "as in the attribute")]
                let value = $body(&channel, arguments);
                let kind = (&&Returned::of(&value)).kind();
                kind.finish(value)
            });
            loopback::worker(|worker| worker.reports.clone())
        }};
    }

    fn args(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u32>)> {
        Some((bytes.to_vec(), Vec::new()))
    }

    #[test]
    fn results_are_sent_by_their_type() {
        let sent = || channel().try_receive::<u32>().unwrap();
        assert_eq!(run!(args(&[2, 3]), (u32, u32), |_: &Channel, (a, b)| a + b), []);
        assert_eq!(sent(), Some(5));
        assert_eq!(run!(args(&[2]), (u32,), |_: &Channel, (a,)| Ok::<u32, Error>(a)), []);
        assert_eq!(sent(), Some(2));
        assert_eq!(run!(args(&[]), (), |_: &Channel, ()| ()), []);
        assert_eq!(run!(None, (), |_: &Channel, ()| Ok::<(), std::fmt::Error>(())), []);
        assert_eq!(sent(), None);
    }

    #[test]
    fn an_error_is_reported() {
        let fails = |_: &Channel, ()| Err::<u32, _>(Error::msg("no luck"));
        assert_eq!(run!(None, (), fails), [(report::ERROR, "no luck".to_owned())]);
        assert!(channel().try_receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn arguments_of_another_type_are_reported() {
        let check = |reports: Vec<(i32, String)>, text: &str| {
            assert_eq!(reports, [(report::BAD_ARGUMENTS, format!("task `it` takes {text}"))]);
        };
        fn body<A>(_: &Channel, _: A) {}
        check(
            run!(args(&[2]), (u32, String), body),
            "(u32, String): the message ends within a value of type `(u32, alloc::string::String)`",
        );
        check(run!(None, (u32,), body), "(u32,): no arguments were passed");
        check(run!(args(&[0]), (), body), "(): `1` bytes follow the value of type `()`");
    }
}
