//! The command's thread: from results to what is written, until there are no more.
//!
//! For each result: it is rendered, appended to the journal, put in order, written. What is written is flushed when nothing
//! has come for a moment, ten times a second otherwise, and at once on a terminal. While nothing comes, signals and the
//! reader of the output are looked at.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sandgate::{CancelToken, OutcomeKind, TaskResult, TaskResults};

use super::arguments::Format;
use super::journal::{Journal, Record};
use super::ledger::{Fate, Ledger, Meta};
use super::output::Output;
use super::render::{self, Rendered};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::print;
use crate::see::Observer;

/// Nothing has come for a moment: what was gathered is flushed.
const MOMENT: Duration = Duration::from_millis(5);
/// How often signals and the reader of the output are looked at while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Failures that are told one by one.
const MAX_TOLD: u64 = 100;

pub(super) struct Collector {
    pub(super) ledger: Arc<Ledger>,
    pub(super) journal: Option<Arc<Mutex<Journal>>>,
    pub(super) output: Output,
    pub(super) format: Format,
    pub(super) ordered: bool,
    pub(super) fail_fast: bool,
    pub(super) token: CancelToken,
    pub(super) interrupt: Interrupt,
    pub(super) observer: Arc<Observer>,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(super) struct Summary {
    succeeded: u64,
    failed: u64,
    /// Inputs that were cancelled.
    left_out: u64,
    interrupted: Option<Exit>,
}

impl Summary {
    /// The last words, and how to exit.
    pub(super) fn finish(&self, has_journal: bool) -> Exit {
        let Summary { succeeded, failed, .. } = self;
        if let Some(exit) = self.interrupted {
            let go_on = if has_journal { "; go on with `--resume`" } else { "" };
            print::complain(&format!("interrupted after {} results{go_on}", succeeded + failed));
            return exit;
        }
        match failed {
            0 => Exit::Success,
            failed => {
                let all = succeeded + failed;
                let rest = if self.left_out > 0 { ", and the rest was left out" } else { "" };
                print::complain(&format!("{failed} of {all} inputs failed{rest}"));
                Exit::No
            }
        }
    }
}

/// A result on its way out; `None` if there is none.
struct Emission {
    meta: Meta,
    rendered: Option<Rendered>,
}

impl Emission {
    fn bytes(&self) -> usize {
        self.rendered.as_ref().map_or(0, |rendered| rendered.text.len())
    }
}

impl Collector {
    /// Takes results until there are no more. When it fails, nothing more is run.
    pub(super) fn run<T>(
        mut self,
        results: &TaskResults<T>,
        render: impl Fn(&Meta, TaskResult<T>) -> Rendered,
    ) -> Result<Summary> {
        let mut summary = Summary::default();
        let collected = self.collect(results, render, &mut summary);
        if collected.is_err() {
            self.stop();
            self.output.forget();
        }
        let synced = match &self.journal {
            Some(journal) => journal.lock().unwrap_or_else(PoisonError::into_inner).sync(),
            None => Ok(()),
        };
        summary.interrupted = self.interrupt.exit();
        collected?;
        synced?;
        match self.ledger.trouble() {
            Some(error) => Err(error),
            None => Ok(summary),
        }
    }

    fn collect<T>(
        &mut self,
        results: &TaskResults<T>,
        render: impl Fn(&Meta, TaskResult<T>) -> Rendered,
        summary: &mut Summary,
    ) -> Result<()> {
        let mut taken = 0;
        let mut next = 0;
        let mut early: BTreeMap<u64, Emission> = BTreeMap::new();
        let (mut patience, mut flushed) = (MOMENT, Instant::now());
        while self.ledger.last() != Some(taken) {
            match results.recv_timeout(patience) {
                Err(_) => break,
                Ok(None) => {
                    self.idle()?;
                    patience = LOOK_EVERY;
                }
                Ok(Some(result)) => {
                    patience = MOMENT;
                    taken += 1;
                    let Some(emission) = self.take(result, &render)? else { continue };
                    self.ledger.holds(emission.bytes());
                    if !self.ordered {
                        self.emit(emission, summary)?;
                    } else {
                        early.insert(emission.meta.index, emission);
                        while let Some(emission) = early.remove(&next) {
                            next += 1;
                            self.emit(emission, summary)?;
                        }
                    }
                    let at_once = self.output.is_terminal() && results.waiting() == 0;
                    if at_once || flushed.elapsed() >= LOOK_EVERY {
                        self.output.flush()?;
                        flushed = Instant::now();
                    }
                }
            }
        }
        for emission in early.into_values() {
            self.emit(emission, summary)?;
        }
        self.output.flush()
    }

    fn idle(&mut self) -> Result<()> {
        self.output.flush()?;
        if let Some(journal) = &self.journal {
            journal.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        }
        if self.output.is_hung_up() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(())
    }

    /// Ends what is under way, and lets nothing more in.
    fn stop(&self) {
        self.ledger.close();
        self.token.cancel();
    }

    /// A result, in the journal and ready to be written.
    fn take<T>(
        &mut self,
        result: TaskResult<T>,
        render: impl Fn(&Meta, TaskResult<T>) -> Rendered,
    ) -> Result<Option<Emission>> {
        let Some(mut meta) = self.ledger.take(result.index) else { return Ok(None) };
        let (rendered, is_new) = match std::mem::replace(&mut meta.fate, Fate::Runs) {
            Fate::Known(record) => {
                self.observer.known(record.success);
                (Some(Rendered::of(record)), false)
            }
            Fate::Bad { error, for_ever } => {
                self.observer.rejected(&meta.plain_name(), meta.index, &error);
                (Some(render::bad(self.format, &meta, &error)), for_ever)
            }
            Fate::Runs => {
                self.observer.result(|| meta.plain_name(), &result);
                match result.value.as_ref().err().map(|error| (error, error.kind())) {
                    Some((_, OutcomeKind::Cancelled)) => (None, false),
                    Some((error, OutcomeKind::NoGateway)) => bail!(anyhow::Error::new(error.clone())),
                    _ => {
                        let rendered = render(&meta, result);
                        if let Some((kind, message)) = &rendered.spoiled {
                            self.observer.spoiled(&meta.plain_name(), meta.index, *kind, message);
                        }
                        (Some(rendered), true)
                    }
                }
            }
        };
        if self.fail_fast && rendered.as_ref().is_some_and(|rendered| !rendered.success) {
            // Not when its turn to be written comes: what is before it may take long.
            self.stop();
        }
        if let (Some(rendered), Some(journal), true) = (&rendered, &self.journal, is_new) {
            let Rendered { success, text, .. } = rendered;
            let record = Record { index: meta.index, input: meta.digest, success: *success, result: text.clone() };
            journal.lock().unwrap_or_else(PoisonError::into_inner).append(&record)?;
        }
        Ok(Some(Emission { meta, rendered }))
    }

    fn emit(&mut self, emission: Emission, summary: &mut Summary) -> Result<()> {
        let bytes = emission.bytes();
        match &emission.rendered {
            None => summary.left_out += 1,
            Some(Rendered { success: true, text, .. }) => {
                summary.succeeded += 1;
                self.output.write(&emission.meta, text)?;
            }
            Some(Rendered { success: false, text, .. }) => {
                summary.failed += 1;
                match self.format {
                    Format::Json => self.output.write(&emission.meta, text)?,
                    Format::Lines if summary.failed <= MAX_TOLD => {
                        self.observer.suspend(|| print::complain(&String::from_utf8_lossy(text)));
                    }
                    Format::Lines if summary.failed == MAX_TOLD + 1 => {
                        self.observer.suspend(|| {
                            print::complain("more failures are counted, not told; `--output json` has all of them")
                        });
                    }
                    Format::Lines => {}
                }
            }
        }
        self.ledger.written(bytes);
        Ok(())
    }
}
