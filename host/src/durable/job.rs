//! Jobs: what is run for all inputs of one submission, and the record of it on the server.
//!
//! ```text
//! begun ──► inputs: null, stored: 0 … n, announced: some more ──► inputs: n (complete)
//! ```
//!
//! A record is JSON, so that people can read it with the server's own tools.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use sandgate_wire::ModuleId;
use serde::{Deserialize, Serialize};

use super::error::{Cause, DurableError};
use super::name::JobId;
use super::nats::{Nats, Stored};

/// The largest record.
const MAX_RECORD_BYTES: usize = 256 << 10;
/// Most retries that workers allow a job.
pub const MAX_RETRIES: u32 = 100;
/// The format of records.
const VERSION: u32 = 1;

/// What is run for each input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Job {
    /// Its module.
    pub module: ModuleId,
    /// What the module is called.
    pub module_name: String,
    /// The task of a module made with the SDK, or none for a program.
    pub task: Option<String>,
    /// Whether inputs and results are JSON where they are shown.
    pub json: bool,
    /// A program's arguments after its own name.
    pub argv: Vec<String>,
    /// Time for each task. Workers may have a shorter limit of their own.
    pub timeout: Option<Duration>,
    /// How often a task that failed is run again: at most [`MAX_RETRIES`] times.
    pub retries: u32,
}

impl Job {
    /// A program of this module.
    pub fn new(module: &crate::Module) -> Job {
        Job {
            module: module.id(),
            module_name: module.name().to_owned(),
            task: None,
            json: false,
            argv: Vec::new(),
            timeout: None,
            retries: 0,
        }
    }
}

/// What the server knows of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Tells this job from one that had its id and was forgotten.
    pub(super) run: u64,
    pub(super) job: Job,
    /// How many inputs it has, once all of them are stored.
    pub(super) inputs: Option<u64>,
    /// How many of its first inputs are stored for certain.
    pub(super) stored: u64,
    /// How many of its first inputs may be stored: none is sent before it was counted here.
    pub(super) announced: u64,
    /// The digest of those.
    pub(super) digest: [u8; 32],
}

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    version: u32,
    run: String,
    module: String,
    module_name: String,
    task: Option<String>,
    json: bool,
    argv: Vec<String>,
    timeout_ms: Option<u64>,
    retries: u32,
    inputs: Option<u64>,
    stored: u64,
    announced: u64,
    digest: String,
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Record {
    pub(super) fn begun(run: u64, job: Job) -> Record {
        Record { run, job, inputs: None, stored: 0, announced: 0, digest: [0; 32] }
    }

    fn encode(&self) -> Bytes {
        let Record { run, job, inputs, stored, announced, digest } = self;
        let wire = Wire {
            version: VERSION,
            run: format!("{run:016x}"),
            module: hex(&job.module.0),
            module_name: job.module_name.clone(),
            task: job.task.clone(),
            json: job.json,
            argv: job.argv.clone(),
            timeout_ms: job.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            retries: job.retries,
            inputs: *inputs,
            stored: *stored,
            announced: *announced,
            digest: hex(digest),
        };
        // Numbers and texts alone: there is nothing in it that JSON does not have.
        serde_json::to_vec(&wire).unwrap_or_default().into()
    }

    fn decode(bytes: &[u8]) -> Result<Record, Cause> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Cause::text(&format!("it has more than {MAX_RECORD_BYTES} bytes")));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| Cause::of(&error))?;
        if wire.version != VERSION {
            return Err(Cause::text(&format!("it has format {}, and this program knows {VERSION}", wire.version)));
        }
        let digest_of = |text: &str| unhex(text).ok_or_else(|| Cause::text("it has a digest that is none"));
        let job = Job {
            module: ModuleId(digest_of(&wire.module)?),
            module_name: wire.module_name,
            task: wire.task,
            json: wire.json,
            argv: wire.argv,
            timeout: wire.timeout_ms.map(Duration::from_millis),
            retries: wire.retries,
        };
        let run = u64::from_str_radix(&wire.run, 16).map_err(|error| Cause::of(&error))?;
        let digest = digest_of(&wire.digest)?;
        Ok(Record { run, job, inputs: wire.inputs, stored: wire.stored, announced: wire.announced, digest })
    }

    /// The record of a job and its number in the stream, if there is one.
    pub(super) async fn read(nats: &Nats, id: &JobId) -> Result<Option<(Record, u64)>, DurableError> {
        let subject = nats.names.subject("job", id.as_str());
        let asked = serde_json::json!({ "last_by_subj": subject });
        let api = format!("STREAM.MSG.GET.{}", nats.names.jobs());
        let found: RawMessage = match nats.ask::<Found>("read the record of a job", api, &asked).await? {
            Ok(found) => found.message,
            Err(error) if error.code() == 404 => return Ok(None),
            Err(error) => {
                return Err(DurableError::Refused { doing: "read the record of a job", source: Cause::of(&error) });
            }
        };
        let bad = |source| DurableError::BadJob { job: id.clone(), source };
        let bytes = BASE64_STANDARD.decode(&found.data).map_err(|error| bad(Cause::of(&error)))?;
        Ok(Some((Record::decode(&bytes).map_err(bad)?, found.seq)))
    }

    /// Writes a record in the place of the one with this number, 0 for none, and gives its own. What was written and not
    /// acknowledged is recognised.
    pub(super) async fn write(&self, nats: &Nats, id: &JobId, instead_of: u64) -> Result<u64, DurableError> {
        let payload = self.encode();
        let bytes = payload.len();
        let message = PublishMessage::build().payload(payload).expected_last_subject_sequence(instead_of);
        let subject = nats.names.subject("job", id.as_str());
        match nats.store("store the record of a job", subject, message, bytes).await? {
            Stored::At(sequence) => Ok(sequence),
            Stored::Conflict => match Record::read(nats, id).await? {
                Some((record, sequence)) if record == *self => Ok(sequence),
                _ => Err(DurableError::Busy { job: id.clone() }),
            },
        }
    }
}

/// A message of a stream, as the server gives single ones.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) message: RawMessage,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawMessage {
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) data: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_nothing_else_does() {
        let mut job = Job::new(&crate::Module::from_bytes(*b"abc").unwrap());
        (job.task, job.timeout) = (Some("t".to_owned()), Some(Duration::from_secs(3)));
        let mut record = Record::begun(7, job);
        (record.inputs, record.stored, record.announced, record.digest) = (Some(7), 7, 7, [9; 32]);
        let text = record.encode();
        assert_eq!(Record::decode(&text), Ok(record));
        let text = String::from_utf8(text.to_vec()).unwrap();
        for damaged in ["", "null", "{}", &text.replace("\"version\":1", "\"version\":2"), &text.replace("09", "zz")] {
            assert!(Record::decode(damaged.as_bytes()).is_err(), "{damaged}");
        }
        assert!(Record::decode(&vec![b' '; MAX_RECORD_BYTES + 1]).is_err());
    }
}
