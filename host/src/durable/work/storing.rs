//! Storing what a task has come to: its dead letter if it is one, its result, and then the acknowledgement, in this order.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, message::PublishMessage};
use bytes::Bytes;

use super::flight::Key;
use crate::durable::error::{Cause, DurableError};
use crate::durable::message::{self, Ending, JobResult, OVERHEAD_BYTES, cut};
use crate::durable::name::{JobId, NO_JOB, message_id};
use crate::durable::nats::Nats;
use crate::pool::OutcomeKind;

/// A task, and why it may be a dead letter.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) job: Option<JobId>,
    /// None for what is no task.
    pub(super) key: Option<Key>,
    pub(super) reason: String,
    pub(super) message: Arc<jetstream::Message>,
}

/// The header that says why.
const REASON: &str = "Sandgate-Reason";
/// The header that says that the rest is missing.
const CUT: &str = "Sandgate-Cut";
/// The longest reason.
const MAX_REASON_BYTES: usize = 512;

/// Stores a result and acknowledges its task.
pub(super) async fn result(nats: &Nats, letter: Letter, result: JobResult, is_dead: bool) -> Result<(), DurableError> {
    if is_dead {
        dead_letter(nats, &letter).await?;
    }
    if let Some(Key { job, run, index }) = &letter.key {
        let payload = fitting(result, nats.max_payload().saturating_sub(OVERHEAD_BYTES));
        let bytes = payload.len();
        let message = PublishMessage::build().payload(payload).message_id(message_id(job, *run, *index));
        nats.store("store a result", nats.names.subject("result", job.as_str()), message, bytes).await?;
    }
    acknowledge(&letter.message).await;
    Ok(())
}

/// Makes a dead letter of what is no task, and acknowledges it.
pub(super) async fn bury(nats: &Nats, letter: Letter) -> Result<(), DurableError> {
    dead_letter(nats, &letter).await?;
    acknowledge(&letter.message).await;
    Ok(())
}

/// One that is lost is made good for by another delivery, whose result is known then.
async fn acknowledge(message: &jetstream::Message) {
    if let Err(error) = message.ack().await {
        tracing::debug!(%error, "an acknowledgement was not sent");
    }
}

async fn dead_letter(nats: &Nats, letter: &Letter) -> Result<(), DurableError> {
    let most = nats.max_payload().saturating_sub(OVERHEAD_BYTES / 2);
    let whole = &letter.message.payload;
    let payload = whole.slice(..whole.len().min(most));
    let mut headers = HeaderMap::new();
    // A header is one line of ASCII.
    let reason: String =
        Cause::text(&letter.reason).to_string().chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    headers.insert(REASON, cut(&reason, MAX_REASON_BYTES));
    if payload.len() < whole.len() {
        headers.insert(CUT, whole.len().to_string().as_str());
    }
    let mut message = PublishMessage::build().headers(headers).payload(payload.clone());
    if let Some(Key { job, run, index }) = &letter.key {
        message = message.message_id(message_id(job, *run, *index));
    }
    let job = letter.job.as_ref().map_or(NO_JOB, JobId::as_str);
    nats.store("store a dead letter", nats.names.subject("dead", job), message, payload.len()).await.map(drop)
}

/// A result as the server takes it. Of one that is too large only its failure is left.
fn fitting(mut result: JobResult, most: usize) -> Bytes {
    if result.value.len() + result.stderr.len() > most {
        let printed = result.value.len();
        result.stderr.truncate(most / 4);
        result.value = Vec::new();
        if result.ending.is_success() {
            result.ending = Ending::Ran(OutcomeKind::LimitExceeded);
            result.error =
                Some(format!("result of {printed} bytes is larger than the NATS server takes, which is {most} bytes"));
        }
    }
    message::encode_result(&result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_too_large_has_failed() {
        let of = |bytes: usize| {
            let mut result = JobResult::failed(1, 3, None, Ending::Ran(OutcomeKind::Returned), String::new());
            (result.error, result.value) = (None, vec![b'x'; bytes]);
            message::decode_result(&fitting(result, 1000)).unwrap()
        };
        assert!(of(1000).ending.is_success());
        let large = of(1001);
        assert_eq!((large.ending, large.value.len()), (Ending::Ran(OutcomeKind::LimitExceeded), 0));
        assert!(large.error.unwrap().starts_with("result of 1001 bytes"));
    }
}
