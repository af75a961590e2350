//! What things are called on a server: streams, subjects, buckets, the consumer, message ids. All begin with one prefix, so that
//! several queues can share a server.
//!
//! | what | name | holds |
//! |---|---|---|
//! | stream | `PREFIX_jobs` | the last record of each job, on `PREFIX.job.JOB` |
//! | stream | `PREFIX_tasks` | tasks that nobody has done, on `PREFIX.task.JOB`; id `JOB.RUN.INDEX` |
//! | consumer | `workers` of it | who has which of them |
//! | stream | `PREFIX_results` | a result for each input, on `PREFIX.result.JOB`; id `JOB.RUN.INDEX` |
//! | stream | `PREFIX_dead` | tasks that were given up, on `PREFIX.dead.JOB`; id `JOB.RUN.INDEX` |
//! | bucket | `PREFIX_modules` | modules by their SHA-256 |

use std::fmt;
use std::str::FromStr;

/// The longest prefix, and the longest id of a job.
const MAX_NAME_BYTES: usize = 64;

/// The consumer that all workers share.
pub(super) const CONSUMER: &str = "workers";

/// Where a task goes that belongs to no job.
pub(super) const NO_JOB: &str = "_";

/// The prefix that is used unless settings say otherwise.
pub const DEFAULT_PREFIX: &str = "sandgate";

/// A name that is none: it has to be 1 to 64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has to be 1 to 64 letters, digits, `-` and `_`")]
pub struct BadName;

fn check(text: &str) -> Result<(), BadName> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let length = text.len();
    if length == 0 || length > MAX_NAME_BYTES || !text.bytes().all(is_fine) || text == NO_JOB {
        return Err(BadName);
    }
    Ok(())
}

/// The id of a job: 1 to 64 letters, digits, `-` and `_`, but not `_` alone.
///
/// ```
/// use sandgate::durable::JobId;
///
/// assert_eq!("nightly-7".parse::<JobId>().unwrap().as_str(), "nightly-7");
/// assert!("a.b".parse::<JobId>().is_err() && "".parse::<JobId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// An id that no other job has.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> std::io::Result<JobId> {
        Ok(JobId(format!("{:016x}{:08x}", random()?, random()? >> 32)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<JobId, BadName> {
        check(text)?;
        Ok(JobId(text.to_owned()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number that nobody knows before.
pub(super) fn random() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What begins all names of a queue: as a [`JobId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl FromStr for Prefix {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Prefix, BadName> {
        check(text)?;
        Ok(Prefix(text.to_owned()))
    }
}

impl Prefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix(DEFAULT_PREFIX.to_owned())
    }
}

/// What a queue's things are called. Clones are cheap enough.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &Prefix) -> Names {
        Names { prefix: prefix.0.clone() }
    }

    pub(super) fn jobs(&self) -> String {
        format!("{}_jobs", self.prefix)
    }

    pub(super) fn tasks(&self) -> String {
        format!("{}_tasks", self.prefix)
    }

    pub(super) fn results(&self) -> String {
        format!("{}_results", self.prefix)
    }

    pub(super) fn dead(&self) -> String {
        format!("{}_dead", self.prefix)
    }

    pub(super) fn modules(&self) -> String {
        format!("{}_modules", self.prefix)
    }

    /// The subject of one kind of a job's messages, or of all jobs' with `*`.
    pub(super) fn subject(&self, kind: &str, job: &str) -> String {
        format!("{}.{kind}.{job}", self.prefix)
    }

    /// The job of a task, by its subject.
    pub(super) fn job_of(&self, subject: &str) -> Option<JobId> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".task.")?;
        rest.parse().ok()
    }
}

/// The id by which a server knows a message again, of a task, its result and its dead letter.
pub(super) fn message_id(job: &JobId, run: u64, index: u64) -> String {
    format!("{job}.{run:016x}.{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_subjects_name_jobs() {
        let names = Names::new(&"q1".parse().unwrap());
        let job = |subject: &str| names.job_of(subject).map(|job| job.to_string());
        assert_eq!(job(&names.subject("task", "a-b")).as_deref(), Some("a-b"));
        for subject in ["q1.task.", "q1.task.a.b", "q1.task.*", "q12.task.a", "q1.result.a", "", "q1.task._"] {
            assert_eq!(job(subject), None, "{subject}");
        }
    }

    #[test]
    fn random_ids_are_ids() {
        let (one, other) = (JobId::random().unwrap(), JobId::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
    }
}
