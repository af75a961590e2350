//! A pool's thread: it makes the pool, hands on its results, and drops it once no more can come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Maker;
use super::pools::{Ends, PoolNote, Trouble};
use super::report::{self, Fate};
use crate::durable::job::{Job, MAX_RETRIES};
use crate::error::ExecError;
use crate::module::Module;
use crate::pool::{Pool, PoolError, RetryOn, TaskFeed, TaskResult, TaskResults};

/// Looked at no more often than this for the end of a pool that nothing happens in.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What the thread is told.
pub(super) struct Serving {
    pub(super) id: u64,
    pub(super) job: Arc<Job>,
    pub(super) maker: Maker,
    pub(super) max_timeout: Option<Duration>,
    pub(super) worker: String,
    pub(super) notes: mpsc::UnboundedSender<PoolNote>,
}

impl Serving {
    pub(super) fn start(self, module: Module) -> std::io::Result<()> {
        let body = move || self.serve(&module);
        std::thread::Builder::new().name("sandgate-work".to_owned()).spawn(body).map(drop)
    }

    /// Makes the pool and hands on its results.
    fn serve(&self, module: &Module) {
        let pool = match self.make(module) {
            Ok(pool) => pool,
            Err(trouble) => {
                let _ = self.notes.send(PoolNote::Built { pool: self.id, built: Err(trouble) });
                return;
            }
        };
        match &self.job.task {
            None => {
                let (feed, results) = pool.stream_programs();
                self.hand_on(&pool, feed, &results, |result| report::of_program(result, &self.worker));
            }
            Some(_) => {
                let (feed, results) = pool.stream_encoded();
                self.hand_on(&pool, feed, &results, |result| report::of_task(result, &self.worker));
            }
        }
    }

    fn make(&self, module: &Module) -> Result<Pool, Trouble> {
        let job = &self.job;
        let made = (self.maker)(module);
        let builder = made.map_err(|error| Trouble::Job { text: report::told(&*error), is_dead: true })?;
        let mut builder = builder.retries(job.retries.min(MAX_RETRIES), RetryOn::any_failure());
        let timeout = match (job.timeout, self.max_timeout) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        if let Some(timeout) = timeout {
            builder = builder.deadline(timeout);
        }
        builder = match &job.task {
            Some(task) => builder.task(task),
            None => builder.argv(&job.argv).program(),
        };
        builder.build().map_err(|error| trouble_of(&error))
    }

    fn hand_on<T>(
        &self,
        pool: &Pool,
        feed: TaskFeed,
        results: &TaskResults<T>,
        report: impl Fn(TaskResult<T>) -> Fate,
    ) {
        let ends = Ends { feed, token: pool.cancel_token() };
        if self.notes.send(PoolNote::Built { pool: self.id, built: Ok(ends) }).is_err() {
            return;
        }
        while let Ok(result) = results.recv_timeout(LOOK_EVERY) {
            let Some(result) = result else { continue };
            let (index, took) = (result.index, result.timing.run_time());
            let note = PoolNote::Finished { pool: self.id, index, fate: report(result), took };
            if self.notes.send(note).is_err() {
                return;
            }
        }
    }
}

/// Whether it is the module that is no good, or this machine.
fn trouble_of(error: &PoolError) -> Trouble {
    let text = report::told(error);
    match error {
        PoolError::Module(
            ExecError::Rejected { .. }
            | ExecError::Compile { .. }
            | ExecError::Mismatch { .. }
            | ExecError::LimitTooHigh { .. },
        ) => Trouble::Job { text, is_dead: false },
        _ => Trouble::Worker(text),
    }
}
