//! [`serve`]: many inputs, one after the other, in one instance.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::Channel;
use crate::error::Result;

/// Answers each message on `channel` with what `answer` makes of it, until the host closes the channel.
///
/// This is what a pool that reuses instances (`reuse` of its builder) runs. An answer that tells of failure is a value like
/// any other, as in `Result<u32, String>`; a panic ends the execution, and the pool starts another one for the next input.
///
/// ```no_run
/// use sandgate_guest::{Channel, Result, serve, task};
///
/// #[task]
/// fn words(channel: Channel) -> Result {
///     let expensive = std::env::vars().count();
///     serve(&channel, |line: String| line.split_whitespace().count() + expensive)
/// }
///
/// fn main() {}
/// ```
///
/// # Errors
///
/// A message that is not an `I`, an answer that cannot be encoded, or a channel that ended otherwise than well.
pub fn serve<I, O>(channel: &Channel, mut answer: impl FnMut(I) -> O) -> Result
where
    I: DeserializeOwned,
    O: Serialize,
{
    for input in channel.iter::<I>() {
        channel.send(&answer(input?))?;
    }
    Ok(())
}
