//! The arguments of an execution.

use serde::de::DeserializeOwned;

use crate::message;
use crate::operation::ArgsError;
use crate::{startup, sys};

/// The arguments that the host passed, for a module that is run by its `main`. They can be taken once.
///
/// A named task gets its arguments as the parameters of its function instead: see [`task`](macro@crate::task).
///
/// ```no_run
/// # fn main() -> sandgate_guest::Result<()> {
/// let (name, count): (String, u32) = sandgate_guest::args()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// * [`ArgsError::Missing`] when the host passed none, or they were taken before.
/// * [`ArgsError::Decode`] when they are not a `T`. They are gone then.
/// * [`ArgsError::TooManyChannels`] when they bring more channels than the task may have.
pub fn args<T: DeserializeOwned>() -> Result<T, ArgsError> {
    startup::ensure_linked();
    message::decode(sys::call_args).map_err(ArgsError::from_status)?.map_err(ArgsError::Decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::loopback;

    #[test]
    fn arguments_are_taken_once() {
        assert!(matches!(args::<u8>(), Err(ArgsError::Missing)));
        loopback::worker(|worker| worker.args = Some((vec![7, 1, b'x'], vec![])));
        assert_eq!(args::<(u8, String)>().unwrap(), (7, "x".to_owned()));
        assert!(matches!(args::<(u8, String)>(), Err(ArgsError::Missing)));
    }

    #[test]
    fn a_tuple_of_one_is_its_value() {
        loopback::worker(|worker| worker.args = Some((vec![7], vec![])));
        assert_eq!(args::<(u8,)>().unwrap(), (7,));
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        loopback::worker(|worker| worker.args = Some((vec![7, 8], vec![])));
        assert!(matches!(args::<u8>(), Err(ArgsError::Decode(_))));
    }
}
