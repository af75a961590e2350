//! What an export made by the `init` attribute does, and what takes the place of `_start` after it.
//!
//! ```text
//! 1 run the constructors: nothing ran before the export
//! 2 take and decode the input          ── fails ──► report BAD_ARGUMENTS, return
//! 3 call the function                  ── panics ─► the hook reports PANIC, trap
//! 4 flush stdout, so that no snapshot holds what was printed
//! 5 report ERROR if there is one, as the last call
//! ```
//!
//! This is public for the expansion of the attribute only.

use std::io::Write;

use sandgate_abi::report;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::task::take_arguments;
use crate::{startup, sys};

/// What an init function can return.
pub trait InitResult {
    /// Nothing, or why there is to be no snapshot.
    fn into_result(self) -> Result<(), Error>;
}

impl InitResult for () {
    fn into_result(self) -> Result<(), Error> {
        Ok(())
    }
}

impl<E: Into<Error>> InitResult for Result<(), E> {
    fn into_result(self) -> Result<(), Error> {
        self.map_err(Into::into)
    }
}

/// Runs one init function; `types` is for the eyes of the caller.
pub fn run_init<A: DeserializeOwned, R: InitResult>(name: &str, types: &str, body: impl FnOnce(A) -> R) {
    startup::run_constructors();
    let result = match take_arguments() {
        Ok(input) => body(input).into_result(),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            sys::task_report(report::BAD_ARGUMENTS, &format!("init function `{name}` takes {types}: {cause}"));
            return;
        }
    };
    // Nobody is left to hear of output that cannot be written.
    let _ = std::io::stdout().flush();
    if let Err(error) = result {
        error.report();
    }
}

/// Runs the program's `main` in a snapshot, where constructors have run. As `_start` does otherwise.
#[cfg(target_arch = "wasm32")]
pub fn run_main() {
    let code = sys::call_main();
    if code != 0 {
        std::process::exit(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::loopback;

    fn reports<R: InitResult>(input: &[u8], body: impl FnOnce((u32,)) -> R) -> Vec<(i32, String)> {
        loopback::worker(|worker| {
            worker.args = Some((input.to_vec(), Vec::new()));
            worker.reports.clear();
        });
        run_init("it", "(u32,)", body);
        loopback::worker(|worker| worker.reports.clone())
    }

    #[test]
    fn the_input_is_decoded_and_an_error_reported() {
        let mut seen = 0;
        assert_eq!(reports(&[7], |(number,)| seen = number), []);
        assert_eq!(seen, 7);
        assert_eq!(reports(&[7], |_| Ok::<(), std::fmt::Error>(())), []);
        let failed = reports(&[7], |_| Err::<(), _>(Error::msg("no model")));
        assert_eq!(failed, [(report::ERROR, "no model".to_owned())]);
        let reports = reports(&[7, 8], |_| ());
        let [(report::BAD_ARGUMENTS, text)] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!(text, "init function `it` takes (u32,): `1` bytes follow the value of type `(u32,)`");
    }
}
