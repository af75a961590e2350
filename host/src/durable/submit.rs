//! Submitting: a job's record and module, then a task for each input.
//!
//! ```text
//!  push ─► channel (64) ─► announced in the record, with their digest ─► window: 1024 tasks and 32 MiB ─► stream
//!                             └ so many are stored: with the next announcement, or once a second
//! ```
//!
//! No input is sent before the record has it in its digest. So a submission that was interrupted, or one beside it, has to
//! have the same inputs up to there, or stores nothing. What may be stored already is stored again by the same id, which the
//! server knows within its window and who collects knows for ever. Inputs for a job that is complete are compared alone.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::error::{Difference, DurableError};
use super::job::{Job, Record};
use super::message::{self, Ending, Input, JobResult, OVERHEAD_BYTES};
use super::name::{JobId, message_id, random};
use super::nats::Nats;
use super::queue::Queue;
use super::{modules, setup};
use crate::module::Module;

/// Inputs that wait to be announced.
const QUEUED_INPUTS: usize = 64;
/// Tasks from the first one on that is not acknowledged.
const WINDOW_TASKS: usize = 1024;
/// Their bytes.
const WINDOW_BYTES: usize = 32 << 20;
/// How often the record says how much is stored.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// An input, or why there is none.
type Pushed = Result<Input, (Option<String>, String)>;

/// A task on its way to the stream: its index.
type Storing = BoxFuture<'static, Result<u64, DurableError>>;

/// A job that is being submitted. If it was begun before, it wants the same inputs, from the first on. Dropping it leaves the job
/// as it is: one that is open can be gone on with.
#[derive(Debug)]
pub struct Submission<'a> {
    queue: &'a Queue,
    inputs: mpsc::Sender<Pushed>,
    outcome: oneshot::Receiver<Result<u64, DurableError>>,
    max_input: usize,
    complete: Option<u64>,
}

impl Queue {
    /// Begins a job, or goes on with it. Blocks until its module and record are stored.
    ///
    /// # Errors
    /// [`DurableError::OtherJob`] if there is one of this id that is not this one; what the server says.
    pub fn submit(&self, id: &JobId, job: Job, module: &Module) -> Result<Submission<'_>, DurableError> {
        let (nats, ours, module) = (self.nats.clone(), id.clone(), module.clone());
        let (record, sequence) = self.wait(async move { begin(&nats, &ours, job, &module).await })?;
        let complete = record.inputs;
        let (inputs, pushed) = mpsc::channel(QUEUED_INPUTS);
        let (sender, outcome) = oneshot::channel();
        let feeder = Feeder::new(self.nats.clone(), id.clone(), record, sequence);
        self.link.start_task(async move {
            let _ = sender.send(feeder.run(pushed).await);
        });
        let max_input = self.nats.max_payload().saturating_sub(OVERHEAD_BYTES);
        Ok(Submission { queue: self, inputs, outcome, max_input, complete })
    }
}

async fn begin(nats: &Nats, id: &JobId, job: Job, module: &Module) -> Result<(Record, u64), DurableError> {
    setup::streams(nats).await?;
    if let Some((record, sequence)) = Record::read(nats, id).await? {
        let other = |what| Err(DurableError::OtherJob { job: id.clone(), what });
        match (&record.job, &job) {
            (there, ours) if there.module != ours.module => return other("module"),
            (there, ours) if there.task != ours.task => return other("task"),
            (there, ours) if there != ours => return other("setting"),
            _ => {}
        }
        if record.inputs.is_none() {
            modules::put(nats, module).await?;
        }
        return Ok((record, sequence));
    }
    // First the module, then the record, then tasks: whoever finds one finds what it needs.
    modules::put(nats, module).await?;
    let record = Record::begun(random().map_err(DurableError::System)?, job);
    let sequence = record.write(nats, id, 0).await?;
    Ok((record, sequence))
}

impl Submission<'_> {
    /// How many inputs the job has, if all of it was there already. Then nothing is changed: inputs that are pushed are
    /// compared with those, and other ones are an error, at the latest from [`finish`](Self::finish).
    pub fn complete(&self) -> Option<u64> {
        self.complete
    }

    /// Adds an input. One that is [too large](Self::too_large) has failed. Blocks while as much is under way as may be, and while
    /// the queue is full.
    ///
    /// # Errors
    /// Whatever has ended the submission. No more inputs are taken then.
    pub fn push(&mut self, input: Input) -> Result<(), DurableError> {
        match self.too_large(&input) {
            Some(problem) => self.refuse(input.name, problem),
            None => self.send(Ok(input)),
        }
    }

    /// What is to be said of an input that is larger than the server takes. If it is pushed all the same, that is its result.
    pub fn too_large(&self, input: &Input) -> Option<String> {
        let argv: usize = input.argv.iter().flatten().map(|argument| argument.len() + 10).sum();
        let bytes = input.bytes.len().saturating_add(argv);
        (bytes > self.max_input).then(|| {
            format!(
                "it has {bytes} bytes, and the NATS server takes {}: its setting `max_payload`, less 16 KiB; raise that, or make \
                 the input smaller",
                self.max_input
            )
        })
    }

    /// Adds an input that cannot be run: its result is there at once, and says why.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn refuse(&mut self, name: Option<String>, error: String) -> Result<(), DurableError> {
        self.send(Err((name, error)))
    }

    fn send(&mut self, pushed: Pushed) -> Result<(), DurableError> {
        if self.inputs.blocking_send(pushed).is_ok() {
            return Ok(());
        }
        // It takes no more, and is about to say why.
        let (_, none) = oneshot::channel();
        let outcome = std::mem::replace(&mut self.outcome, none);
        match self.queue.wait(async move { outcome.await.unwrap_or(Err(DurableError::Closed)) }) {
            Ok(_) => Err(DurableError::Closed),
            Err(error) => Err(error),
        }
    }

    /// There are no more inputs. Blocks until all of them are stored, and gives their number.
    ///
    /// # Errors
    /// Whatever has ended the submission; it can be gone on with by the same id.
    pub fn finish(self) -> Result<u64, DurableError> {
        let Submission { queue, inputs, outcome, .. } = self;
        drop(inputs);
        queue.wait(async move { outcome.await.unwrap_or(Err(DurableError::Closed)) })
    }
}

/// Sends inputs, and keeps the record.
struct Feeder {
    nats: Nats,
    id: JobId,
    record: Record,
    /// The record's number in its stream.
    sequence: u64,
    /// The next input's index.
    next: u64,
    /// The digest of all inputs up to it.
    digest: [u8; 32],
    /// Inputs of which not all before them are stored: their sizes, and whether they are stored, by index.
    open: BTreeMap<u64, (usize, bool)>,
    /// All of their sizes.
    bytes: usize,
    /// Tasks that are to be announced, or wait for all that was announced before to be compared.
    waiting: Vec<Storing>,
    /// Whether the record is behind.
    is_behind: bool,
}

/// The digest of a message and all before it.
fn chained(before: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update((message.len() as u64).to_le_bytes());
    hash.update(message);
    hash.finalize().into()
}

impl Feeder {
    fn new(nats: Nats, id: JobId, record: Record, sequence: u64) -> Feeder {
        let (open, digest) = (BTreeMap::new(), [0; 32]);
        Feeder { nats, id, record, sequence, next: 0, digest, open, bytes: 0, waiting: Vec::new(), is_behind: false }
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Pushed>) -> Result<u64, DurableError> {
        let mut under_way = FuturesUnordered::new();
        let mut is_over = false;
        let mut checkpoint = Instant::now() + CHECKPOINT_EVERY;
        while !is_over || !under_way.is_empty() {
            tokio::select! {
                pushed = inputs.recv(), if !is_over && self.has_room() => {
                    is_over = pushed.is_none();
                    let mut next = pushed;
                    while let Some(pushed) = next {
                        self.take(pushed)?;
                        next = if self.has_room() { inputs.try_recv().ok() } else { None };
                    }
                    self.announce().await?;
                    under_way.extend(self.take_waiting());
                }
                Some(stored) = under_way.next(), if !under_way.is_empty() => {
                    self.stored(stored?);
                }
                () = sleep_until(checkpoint), if self.is_behind => {
                    self.sequence = self.record.write(&self.nats, &self.id, self.sequence).await?;
                    self.is_behind = false;
                    checkpoint = Instant::now() + CHECKPOINT_EVERY;
                }
            }
        }
        if self.next < self.record.announced {
            return Err(self.differ(Difference::Fewer));
        }
        if self.record.inputs.is_some() {
            return Ok(self.next);
        }
        (self.record.inputs, self.record.stored) = (Some(self.next), self.next);
        self.record.write(&self.nats, &self.id, self.sequence).await?;
        Ok(self.next)
    }

    /// Whether one more input can be taken. Those that were announced before have to be, to be compared.
    fn has_room(&self) -> bool {
        self.open.len() < WINDOW_TASKS && self.bytes < WINDOW_BYTES || self.next < self.record.announced
    }

    /// Has the record count all that were taken.
    async fn announce(&mut self) -> Result<(), DurableError> {
        if self.next > self.record.announced {
            (self.record.announced, self.record.digest) = (self.next, self.digest);
            self.sequence = self.record.write(&self.nats, &self.id, self.sequence).await?;
            self.is_behind = false;
        }
        Ok(())
    }

    /// What may be sent by now.
    fn take_waiting(&mut self) -> Vec<Storing> {
        if self.next < self.record.announced { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }

    /// Takes an input, unless it is stored already.
    fn take(&mut self, pushed: Pushed) -> Result<(), DurableError> {
        let (run, index) = (self.record.run, self.next);
        if self.record.inputs.is_some_and(|inputs| index >= inputs) {
            return Err(self.differ(Difference::More));
        }
        let (kind, payload) = match pushed {
            Ok(input) => ("task", message::encode_task(run, index, &input)),
            Err((name, error)) => {
                ("result", message::encode_result(&JobResult::failed(run, index, name, Ending::BadInput, error)))
            }
        };
        self.digest = chained(&self.digest, &payload);
        self.next += 1;
        if self.next == self.record.announced && self.digest != self.record.digest {
            return Err(self.differ(Difference::NotTheSame));
        }
        if index < self.record.stored {
            return Ok(());
        }
        let (nats, bytes) = (self.nats.clone(), payload.len());
        self.open.insert(index, (bytes, false));
        self.bytes += bytes;
        let subject = nats.names.subject(kind, self.id.as_str());
        let message = PublishMessage::build().payload(payload).message_id(message_id(&self.id, run, index));
        self.waiting.push(Box::pin(async move {
            nats.store("store a task", subject, message, bytes).await?;
            Ok(index)
        }));
        Ok(())
    }

    fn differ(&self, difference: Difference) -> DurableError {
        DurableError::OtherInputs { job: self.id.clone(), inputs: self.record.announced, difference }
    }

    /// An input is stored.
    fn stored(&mut self, index: u64) {
        if let Some((_, is_stored)) = self.open.get_mut(&index) {
            *is_stored = true;
        }
        while let Some(first) = self.open.first_entry().filter(|first| first.get().1) {
            let (index, (bytes, _)) = first.remove_entry();
            self.bytes -= bytes;
            self.record.stored = index + 1;
            self.is_behind = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_every_input_and_their_order() {
        let of = |messages: &[&[u8]]| messages.iter().fold([0; 32], |digest, message| chained(&digest, message));
        let all = [of(&[]), of(&[b"a", b"b"]), of(&[b"b", b"a"]), of(&[b"ab"]), of(&[b"a", b"b", b""])];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
    }
}
