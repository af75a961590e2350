//! The thread that pulls inputs and gives them to the pool.
//!
//! Inputs that follow each other without a wait go in batches; what was gathered is handed over before anything that may
//! take time, so that a slow source delays nothing that it has given.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use sandgate::TaskFeed;

use super::arguments::Template;
use super::input::{Input, InputError, Inputs};
use super::job::Job;
use super::journal::Journal;
use super::ledger::{Fate, Ledger, Meta};
use crate::see::Observer;

/// Starts it. It ends by itself: at the end of the inputs, or when the ledger is closed and no read is under way. One that
/// waits for standard input ends with the process.
pub(super) fn start(
    inputs: Inputs,
    feed: TaskFeed,
    ledger: &Arc<Ledger>,
    job: &Arc<Job>,
    template: Option<Template>,
    journal: Option<Arc<Mutex<Journal>>>,
    observer: &Arc<Observer>,
) -> Result<()> {
    let (ledger, job, observer) = (Arc::clone(ledger), Arc::clone(job), Arc::clone(observer));
    let body = move || {
        let mut feeder = Feeder { inputs, feed, ledger: &ledger, job: &job, template, journal, observer };
        if let Err(error) = feeder.run() {
            // Before the feed goes, for results end with that.
            feeder.ledger.fail(error);
        }
    };
    std::thread::Builder::new().name("sandgate-inputs".to_owned()).spawn(body).context("no thread for inputs")?;
    Ok(())
}

/// What the pool gets of an input: its bytes, and arguments of its own.
type Payload = (Vec<u8>, Option<Vec<String>>);

struct Feeder<'a> {
    inputs: Inputs,
    feed: TaskFeed,
    ledger: &'a Ledger,
    job: &'a Job,
    template: Option<Template>,
    journal: Option<Arc<Mutex<Journal>>>,
    observer: Arc<Observer>,
}

impl Feeder<'_> {
    fn run(&mut self) -> Result<()> {
        let mut index = 0;
        loop {
            self.ledger.lanes_are(self.feed.gateways());
            if !self.inputs.is_at_hand() || !self.ledger.has_room() {
                self.feed.flush();
            }
            if !self.ledger.wait_for_room() {
                return Ok(());
            }
            let Some(input) = self.inputs.next() else { return Ok(()) };
            let (meta, payload) = match input {
                Ok(input) => self.prepare(input)?,
                Err(error) if error.is_of_one_input() => (unreadable(index, error), None),
                Err(error) => return Err(error.into()),
            };
            if payload.is_some() {
                self.observer.input(index, || meta.plain_name());
            }
            if !self.ledger.add(meta) {
                return Ok(());
            }
            match payload {
                Some((payload, Some(argv))) => self.feed.push_with_argv(payload, argv),
                Some((payload, None)) => self.feed.push(payload),
                None => self.feed.skip(),
            };
            index += 1;
        }
    }

    /// What becomes of an input, and what the pool gets of it.
    fn prepare(&self, input: Input) -> Result<(Meta, Option<Payload>)> {
        let mut meta = Meta { index: input.index, path: None, digest: [0; 16], bytes: 0, fate: Fate::Runs };
        if let Some(journal) = &self.journal {
            meta.digest = input.digest();
            let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = journal.find(input.index, &meta.digest)? {
                (meta.path, meta.fate) = (input.path, Fate::Known(record));
                return Ok((meta, None));
            }
        }
        meta.path = input.path;
        let argv = self.template.as_ref().map(|template| template.filled(meta.path.as_deref())).transpose();
        let payload = match argv.and_then(|argv| Ok((self.job.encode(input.bytes)?, argv))) {
            Ok(payload) => {
                meta.bytes = payload.0.len();
                Some(payload)
            }
            Err(error) => {
                meta.fate = Fate::Bad { error, for_ever: true };
                None
            }
        };
        Ok((meta, payload))
    }
}

/// An input that cannot be had now. Perhaps it can the next time, so the journal does not hear of it.
pub(crate) fn unreadable(index: u64, error: InputError) -> Meta {
    let path = match &error {
        InputError::File { path, .. } => Some(path.clone()),
        _ => None,
    };
    // Whoever tells it says first which input it is.
    let error = match error {
        InputError::File { source, .. } => format!("it cannot be read: {source}"),
        InputError::TooLarge { limit, .. } => format!("it is larger than {limit} bytes (setting `--max-input`)"),
        error => format!("{:#}", anyhow::Error::from(error)),
    };
    Meta { index, path, digest: [0; 16], bytes: 0, fate: Fate::Bad { error, for_ever: false } }
}
