//! Collecting: exactly one result for each input of a job, in the order of inputs or as they come.
//!
//! ```text
//!  stream of results ─► seen this input before? ─► unordered: given
//!       ▲                                       └► ordered: its turn? given; else held, by number alone beyond 64 MiB
//!       └─ a consumer of our own, made again behind the last message whenever it is lost
//! ```
//!
//! Results stay on the server, so that collecting can begin again at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::error::{Cause, DurableError};
use super::job::{Found, Record};
use super::message::{self, JobResult};
use super::name::JobId;
use super::nats::Nats;
use super::pull::{self, Arrival, End};
use super::queue::Queue;
use super::setup;

/// Results asked for at once, and their bytes.
const BATCH: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;
/// Results that nobody has taken yet.
const WAITING: usize = 1024;
/// Bytes of results that wait for one before them. Beyond that they are fetched again when it is their turn.
const HELD_BYTES: usize = 64 << 20;
/// How often it is looked whether a job has all of its inputs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How results are collected.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CollectionSettings {
    /// Results as they come, instead of in the order of their inputs.
    pub unordered: bool,
    /// Leave out the results of this many first inputs.
    pub skip: u64,
}

/// What comes of a collection.
#[derive(Debug)]
pub enum Collected {
    /// Some results, at least one.
    Results(Vec<JobResult>),
    /// None came in time.
    Nothing,
    /// The job has no more.
    End,
}

/// Results of a job, each once.
#[derive(Debug)]
pub struct Collection<'a> {
    queue: &'a Queue,
    results: Arc<Mutex<mpsc::Receiver<JobResult>>>,
    outcome: oneshot::Receiver<Result<(), DurableError>>,
}

impl Queue {
    /// Begins to collect a job's results, from the first.
    ///
    /// # Errors
    /// [`DurableError::NoJob`]; what the server says.
    pub fn collect(&self, id: &JobId, settings: CollectionSettings) -> Result<Collection<'_>, DurableError> {
        self.job(id)?;
        let (sender, results) = mpsc::channel(WAITING);
        let (done, outcome) = oneshot::channel();
        let reader = Reader::new(self.nats.clone(), id.clone(), settings, sender);
        self.link.start_task(async move {
            let _ = done.send(reader.run().await);
        });
        Ok(Collection { queue: self, results: Arc::new(Mutex::new(results)), outcome })
    }
}

impl Collection<'_> {
    /// The next results, as soon as there are some. Blocks for at most `wait`.
    ///
    /// # Errors
    /// What the server says. No more results come then.
    pub fn next(&mut self, wait: Duration) -> Result<Collected, DurableError> {
        let results = Arc::clone(&self.results);
        let taken = self.queue.wait(async move {
            let mut results = results.lock().await;
            let mut taken = Vec::new();
            match timeout(wait, results.recv_many(&mut taken, WAITING)).await {
                Err(_) => Ok(None),
                Ok(_) => Ok(Some(taken)),
            }
        })?;
        match taken {
            None => Ok(Collected::Nothing),
            Some(taken) if !taken.is_empty() => Ok(Collected::Results(taken)),
            Some(_) => {
                // Whoever gave them is about to say why there are no more.
                let (_, none) = oneshot::channel();
                let outcome = std::mem::replace(&mut self.outcome, none);
                self.queue.wait(async move { outcome.await.unwrap_or(Err(DurableError::Closed)) })?;
                Ok(Collected::End)
            }
        }
    }
}

/// A result that waits for one before it.
#[derive(Debug)]
enum Held {
    Here(JobResult),
    /// By its number in the stream.
    There(u64),
}

struct Reader {
    nats: Nats,
    id: JobId,
    unordered: bool,
    sender: mpsc::Sender<JobResult>,
    /// Which of the jobs of this id it is.
    run: u64,
    /// How many inputs the job has, once that is known.
    inputs: Option<u64>,
    /// All inputs before this one have their result, and these behind it.
    next: u64,
    beyond: BTreeSet<u64>,
    /// Those that were not given yet.
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// The next one to be given in order.
    turn: u64,
    /// Results before this one are left out.
    skip: u64,
    /// The last message of the stream that was seen.
    position: u64,
}

fn size(result: &JobResult) -> usize {
    result.value.len() + result.stderr.len() + result.error.as_ref().map_or(0, String::len) + 200
}

impl Reader {
    fn new(nats: Nats, id: JobId, settings: CollectionSettings, sender: mpsc::Sender<JobResult>) -> Reader {
        Reader {
            nats,
            id,
            unordered: settings.unordered,
            sender,
            run: 0,
            inputs: None,
            next: 0,
            beyond: BTreeSet::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            turn: settings.skip,
            skip: settings.skip,
            position: 0,
        }
    }

    async fn run(mut self) -> Result<(), DurableError> {
        // Dropped with the reader: requests end then.
        let (stop, stopped) = watch::channel(false);
        let (arrivals, mut arrived) = mpsc::unbounded_channel();
        let subject = self.nats.names.subject("result", self.id.as_str());
        let (mut looked, mut consumer): (Option<Instant>, Option<String>) = (None, None);
        let mut under_way = false;
        loop {
            if self.inputs.is_none() && looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                let found = Record::read(&self.nats, &self.id).await?;
                let (record, _) = found.ok_or_else(|| DurableError::NoJob { job: self.id.clone() })?;
                (self.run, self.inputs, looked) = (record.run, record.inputs, Some(Instant::now()));
            }
            if self.is_complete() || self.sender.is_closed() {
                break;
            }
            if !under_way {
                let name = match &consumer {
                    Some(name) => name.clone(),
                    None => {
                        let name = setup::reader(&self.nats, &subject, self.position + 1).await?;
                        consumer.insert(name).clone()
                    }
                };
                let bytes = BATCH_BYTES.max(2 * self.nats.max_payload());
                let request =
                    pull::Request { stream: self.nats.names.results(), consumer: name, messages: BATCH, bytes };
                tokio::spawn(pull::run(self.nats.clone(), request, arrivals.clone(), stopped.clone()));
                under_way = true;
            }
            let arrival = tokio::select! {
                arrival = arrived.recv() => arrival,
                () = sleep(LOOK_EVERY) => continue,
                () = self.sender.closed() => break,
            };
            match arrival {
                None => return Err(DurableError::Closed),
                Some(Arrival::Message(message)) => self.take(&message).await?,
                Some(Arrival::Ended { why, .. }) => {
                    under_way = false;
                    if matches!(why, End::Gone | End::Lost) {
                        // What was on its way comes again, from a consumer that begins behind what was seen.
                        consumer = None;
                        sleep(pull::BETWEEN_LEADERS).await;
                        while arrived.try_recv().is_ok() {}
                    }
                }
            }
        }
        drop(stop);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.inputs.is_some_and(|inputs| self.next >= inputs)
    }

    async fn take(&mut self, message: &async_nats::jetstream::Message) -> Result<(), DurableError> {
        let Ok(info) = message.info() else { return Ok(()) };
        if info.stream_sequence <= self.position {
            return Ok(());
        }
        self.position = info.stream_sequence;
        let result = match message::decode_result(&message.payload) {
            Ok(result) => result,
            Err(error) => {
                tracing::warn!(%error, sequence = self.position, "a message among the results is none");
                return Ok(());
            }
        };
        let index = result.index;
        // One of a job that was forgotten, and begun again.
        if result.run != self.run {
            return Ok(());
        }
        if index < self.next || self.inputs.is_some_and(|inputs| index >= inputs) || !self.beyond.insert(index) {
            return Ok(());
        }
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
        if index < self.skip {
            return Ok(());
        }
        if self.unordered {
            let _ = self.sender.send(result).await;
            return Ok(());
        }
        let bytes = size(&result);
        let held = match self.held_bytes + bytes <= HELD_BYTES || index == self.turn {
            true => {
                self.held_bytes += bytes;
                Held::Here(result)
            }
            false => Held::There(self.position),
        };
        self.held.insert(index, held);
        while let Some(held) = self.held.remove(&self.turn) {
            let result = match held {
                Held::Here(result) => {
                    self.held_bytes -= size(&result);
                    result
                }
                Held::There(sequence) => self.fetch(sequence).await?,
            };
            self.turn += 1;
            let _ = self.sender.send(result).await;
        }
        Ok(())
    }

    /// A result that was seen before, by its number in the stream.
    async fn fetch(&self, sequence: u64) -> Result<JobResult, DurableError> {
        let doing = "give a result again";
        let asked = serde_json::json!({ "seq": sequence });
        let api = format!("STREAM.MSG.GET.{}", self.nats.names.results());
        let found: Found = self.nats.demand(doing, api, &asked).await?;
        let refused =
            |error: &(dyn std::error::Error + 'static)| DurableError::Refused { doing, source: Cause::of(error) };
        let bytes = BASE64_STANDARD.decode(&found.message.data).map_err(|error| refused(&error))?;
        message::decode_result(&bytes).map_err(|error| refused(&error))
    }
}
