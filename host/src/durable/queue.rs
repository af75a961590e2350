//! [`Queue`]: a connection and its thread.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::DurableError;
use super::job::{Job, Record};
use super::link::Link;
use super::modules;
use super::name::JobId;
use super::nats::Nats;
use super::settings::Settings;
use super::setup;
use crate::module::Module;

/// A queue on a server. All of its functions block, at most for the settings' patience unless they say otherwise.
///
/// Dropping it closes the connection.
///
/// ```no_run
/// use sandgate::Module;
/// use sandgate::durable::{Input, Job, JobId, Queue, Settings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::connect(Settings::new("nats://queue.example")?)?;
/// let module = Module::from_file("upper.wasm")?;
/// let mut submission = queue.submit(&"words".parse()?, Job::new(&module), &module)?;
/// submission.push(Input { bytes: b"some words".to_vec(), ..Input::default() })?;
/// submission.finish()?;
/// # Ok(())
/// # }
/// ```
pub struct Queue {
    pub(super) nats: Nats,
    pub(super) link: Link,
}

impl Queue {
    /// Connects to a server. A server that is not there yet is waited for, up to 10 seconds.
    ///
    /// # Errors
    /// [`DurableError`]: an address or file that cannot be used, a server that is not there, refuses these credentials, or
    /// with which no TLS connection can be made.
    pub fn connect(settings: Settings) -> Result<Queue, DurableError> {
        // Settings may be used again; a connection is closed once.
        let settings = Settings { is_closing: Arc::default(), ..settings };
        let link = Link::start().map_err(DurableError::System)?;
        let nats = link.wait(Nats::connect(settings)).unwrap_or(Err(DurableError::Closed))?;
        Ok(Queue { nats, link })
    }

    /// The job of this id, and the number of its inputs if all of them are stored.
    ///
    /// # Errors
    /// [`DurableError::NoJob`]; what the server says.
    pub fn job(&self, id: &JobId) -> Result<(Job, Option<u64>), DurableError> {
        let (nats, ours) = (self.nats.clone(), id.clone());
        let record = self.wait(async move { Record::read(&nats, &ours).await })?;
        let (record, _) = record.ok_or_else(|| DurableError::NoJob { job: id.clone() })?;
        Ok((record.job, record.inputs))
    }

    /// The module of a job, of at most `maximum` bytes, from the object store; what is given has the job's hash.
    ///
    /// # Errors
    /// [`DurableError`]: it is not there, too large, or something else is in its place.
    pub fn module(&self, job: &Job, maximum: u64) -> Result<Module, DurableError> {
        let (nats, id, name) = (self.nats.clone(), job.module, job.module_name.clone());
        self.wait(async move { modules::get(&nats, id, &name, maximum).await })
    }

    /// Makes what is missing on the server, for whoever comes later and may not make it.
    ///
    /// # Errors
    /// What the server says.
    pub fn prepare(&self) -> Result<(), DurableError> {
        let nats = self.nats.clone();
        self.wait(async move { setup::streams(&nats).await })
    }

    /// Forgets a job: its record, its results and the tasks that nobody has done. Its module and dead letters stay.
    ///
    /// # Errors
    /// What the server says.
    pub fn forget(&self, id: &JobId) -> Result<(), DurableError> {
        let (nats, id) = (self.nats.clone(), id.clone());
        self.wait(async move {
            let names = &nats.names;
            let places = [("task", names.tasks()), ("result", names.results()), ("job", names.jobs())];
            for (kind, stream) in places {
                setup::purge(&nats, &stream, &names.subject(kind, id.as_str())).await?;
            }
            Ok(())
        })
    }

    pub(super) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, DurableError>> + Send + 'static,
    ) -> Result<T, DurableError> {
        self.link.wait(future).unwrap_or(Err(DurableError::Closed))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.nats.settings.is_closing.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Queue at {}>", self.nats.settings.servers())
    }
}
