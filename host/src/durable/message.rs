//! Messages of a queue: tasks and results. Whoever may write to a stream can put anything there, so decoding is total, and what
//! it gives takes no more than a few times the message's own bytes.
//!
//! Both begin with four bytes that say what they are, and go on in postcard.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::pool::OutcomeKind;

const TASK: [u8; 4] = *b"sgT1";
const RESULT: [u8; 4] = *b"sgR1";

/// The longest name of an input, in bytes; a longer one is cut.
pub const MAX_NAME_BYTES: usize = 4096;
/// Most arguments of a program.
const MAX_ARGUMENTS: usize = 4096;
/// The longest text of an error, in bytes; a longer one is cut.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// What a message takes besides its input or result: names, headers, subjects.
pub(super) const OVERHEAD_BYTES: usize = 16 << 10;

/// A message that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("it does not begin as one")]
    Magic,
    #[error("it is damaged or cut off")]
    Damaged,
    #[error("it has a name or arguments that are too long")]
    TooLong,
    #[error("it has an outcome that there is not")]
    Outcome,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
    /// What messages call it, such as the name of a file; at most [`MAX_NAME_BYTES`].
    pub name: Option<String>,
    /// The program's own arguments, instead of the job's.
    pub argv: Option<Vec<String>>,
    /// What the task takes: a program's standard input, or the arguments of a task as they are encoded
    /// ([`encode_arguments`](crate::schema::encode_arguments)).
    pub bytes: Vec<u8>,
}

/// How an input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// It was run.
    Ran(OutcomeKind),
    /// It was never run: it is nothing that the task takes.
    BadInput,
}

/// The one result of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobResult {
    /// Which of the jobs that have had its id.
    pub(super) run: u64,
    /// The input's position in its job, from 0.
    pub index: u64,
    /// What messages call the input.
    pub name: Option<String>,
    /// How it ended.
    pub ending: Ending,
    /// Why it failed.
    pub error: Option<String>,
    /// What a program printed, or the bytes of a task's value ([`decode_result`](crate::schema::decode_result)).
    pub value: Vec<u8>,
    /// What a program wrote to standard error.
    pub stderr: Vec<u8>,
    /// A program's exit code, if it came to its end.
    pub exit_code: Option<i32>,
    /// Whether a program printed more than it may.
    pub truncated: bool,
    /// How many runs of it ended, in the worker that has its result.
    pub attempts: u32,
    /// How long its last run took.
    pub run_time: Duration,
    /// The name of the worker that ran it, and of its gateway.
    pub worker: String,
}

#[derive(Serialize, Deserialize)]
struct WireTask<'a> {
    run: u64,
    index: u64,
    #[serde(borrow)]
    name: Option<&'a str>,
    argv: Option<Vec<String>>,
    input: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct WireResult<'a> {
    run: u64,
    index: u64,
    #[serde(borrow)]
    name: Option<&'a str>,
    ending: u8,
    error: Option<&'a str>,
    value: &'a [u8],
    stderr: &'a [u8],
    exit_code: Option<i32>,
    truncated: bool,
    attempts: u32,
    micros: u64,
    worker: &'a str,
}

/// The number of [`Ending::BadInput`], beyond those of outcomes.
const BAD_INPUT: u8 = 255;

impl Ending {
    /// Whether it has a value.
    pub fn is_success(self) -> bool {
        self == Ending::Ran(OutcomeKind::Returned)
    }

    fn number(self) -> u8 {
        match self {
            Ending::Ran(kind) => kind as u8,
            Ending::BadInput => BAD_INPUT,
        }
    }

    fn of(number: u8) -> Option<Ending> {
        match number {
            BAD_INPUT => Some(Ending::BadInput),
            number => OutcomeKind::ALL.get(usize::from(number)).copied().map(Ending::Ran),
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Ran(kind) => kind.fmt(f),
            Ending::BadInput => f.write_str("bad input"),
        }
    }
}

fn encode(magic: [u8; 4], message: &impl Serialize) -> Bytes {
    // Numbers, texts and bytes alone: there is nothing in it that postcard does not have.
    postcard::to_extend(message, magic.to_vec()).unwrap_or_default().into()
}

/// The first bytes of a text, up to a whole character.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A task of a job as it was begun once: `run` tells it from one that had the same id and was forgotten.
pub(super) fn encode_task(run: u64, index: u64, input: &Input) -> Bytes {
    let name = input.name.as_deref().map(|name| cut(name, MAX_NAME_BYTES));
    encode(TASK, &WireTask { run, index, name, argv: input.argv.clone(), input: &input.bytes })
}

pub(super) fn decode_task(message: &[u8]) -> Result<(u64, u64, Input), BadMessage> {
    let rest = message.strip_prefix(&TASK).ok_or(BadMessage::Magic)?;
    let (task, rest): (WireTask<'_>, _) = postcard::take_from_bytes(rest).map_err(|_| BadMessage::Damaged)?;
    if !rest.is_empty() {
        return Err(BadMessage::Damaged);
    }
    let many = task.argv.as_ref().map_or(0, Vec::len);
    if many > MAX_ARGUMENTS || task.name.is_some_and(|name| name.len() > MAX_NAME_BYTES) {
        return Err(BadMessage::TooLong);
    }
    Ok((
        task.run,
        task.index,
        Input { name: task.name.map(str::to_owned), argv: task.argv, bytes: task.input.to_vec() },
    ))
}

pub(super) fn encode_result(result: &JobResult) -> Bytes {
    let error = result.error.as_deref().map(|error| cut(error, MAX_ERROR_BYTES));
    let name = result.name.as_deref().map(|name| cut(name, MAX_NAME_BYTES));
    let micros = u64::try_from(result.run_time.as_micros()).unwrap_or(u64::MAX);
    let JobResult { run, index, value, stderr, exit_code, truncated, attempts, worker, .. } = result;
    let message = WireResult {
        run: *run,
        index: *index,
        name,
        ending: result.ending.number(),
        error,
        value,
        stderr,
        exit_code: *exit_code,
        truncated: *truncated,
        attempts: *attempts,
        micros,
        worker,
    };
    encode(RESULT, &message)
}

pub(super) fn decode_result(message: &[u8]) -> Result<JobResult, BadMessage> {
    let rest = message.strip_prefix(&RESULT).ok_or(BadMessage::Magic)?;
    let (result, rest): (WireResult<'_>, _) = postcard::take_from_bytes(rest).map_err(|_| BadMessage::Damaged)?;
    if !rest.is_empty() {
        return Err(BadMessage::Damaged);
    }
    if result.name.is_some_and(|name| name.len() > MAX_NAME_BYTES) {
        return Err(BadMessage::TooLong);
    }
    let ending = Ending::of(result.ending).ok_or(BadMessage::Outcome)?;
    Ok(JobResult {
        run: result.run,
        index: result.index,
        name: result.name.map(str::to_owned),
        ending,
        error: result.error.map(str::to_owned),
        value: result.value.to_vec(),
        stderr: result.stderr.to_vec(),
        exit_code: result.exit_code,
        truncated: result.truncated,
        attempts: result.attempts,
        run_time: Duration::from_micros(result.micros),
        worker: result.worker.to_owned(),
    })
}

impl JobResult {
    /// One without a value.
    pub(super) fn failed(run: u64, index: u64, name: Option<String>, ending: Ending, error: String) -> JobResult {
        JobResult {
            run,
            index,
            name,
            ending,
            error: Some(error),
            value: Vec::new(),
            stderr: Vec::new(),
            exit_code: None,
            truncated: false,
            attempts: 0,
            run_time: Duration::ZERO,
            worker: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input() -> impl Strategy<Value = Input> {
        let argv = proptest::option::of(proptest::collection::vec(".{0,8}", 0..4));
        (proptest::option::of(".{0,20}"), argv, proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(name, argv, bytes)| Input { name, argv, bytes })
    }

    proptest! {
        #[test]
        fn tasks_come_back_as_they_went(run: u64, index: u64, input in input()) {
            prop_assert_eq!(decode_task(&encode_task(run, index, &input)), Ok((run, index, input)));
        }

        #[test]
        fn results_come_back_as_they_went(
            index: u64, number in 0_u8..13, value: Vec<u8>, exit_code: Option<i32>, error in proptest::option::of(".{0,20}"),
        ) {
            let ending = Ending::of(if number == 12 { BAD_INPUT } else { number }).unwrap();
            let mut result = JobResult::failed(9, index, Some("a".to_owned()), ending, String::new());
            (result.value, result.exit_code, result.error) = (value, exit_code, error);
            (result.worker, result.run_time) = ("w".to_owned(), Duration::from_micros(7));
            prop_assert_eq!(decode_result(&encode_result(&result)), Ok(result));
        }

        #[test]
        fn anything_at_all_is_decoded_or_refused(mut bytes: Vec<u8>, which: bool) {
            let _ = (decode_task(&bytes), decode_result(&bytes));
            bytes.splice(0..0, if which { TASK } else { RESULT });
            let _ = (decode_task(&bytes), decode_result(&bytes));
        }
    }

    #[test]
    fn the_bytes_of_messages_are_these() {
        // Queues outlive programs: what changes here needs another magic, and a decoder for this one.
        let input = Input { name: None, argv: Some(vec!["x".to_owned()]), bytes: b"ab".to_vec() };
        assert_eq!(&encode_task(5, 300, &input)[..], b"sgT1\x05\xac\x02\x00\x01\x01\x01x\x02ab");
        let result = JobResult::failed(5, 1, None, Ending::BadInput, "no".to_owned());
        assert_eq!(&encode_result(&result)[..], b"sgR1\x05\x01\x00\xff\x01\x02no\x00\x00\x00\x00\x00\x00\x00");
    }

    #[test]
    fn what_is_cut_off_or_goes_on_is_damaged() {
        let whole = encode_task(5, 1, &Input { bytes: b"abc".to_vec(), ..Input::default() });
        for length in 0..whole.len() {
            assert!(decode_task(&whole[..length]).is_err());
        }
        assert_eq!(decode_task(&[&whole[..], b"x"].concat()), Err(BadMessage::Damaged));
        let long = Input { argv: Some(vec![String::new(); MAX_ARGUMENTS + 1]), ..Input::default() };
        assert_eq!(decode_task(&encode_task(5, 1, &long)), Err(BadMessage::TooLong));
    }
}
