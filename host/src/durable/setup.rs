//! What has to be on a server before there is a queue: streams, a bucket, a consumer. Each is made when it is missing; whoever
//! may not make things finds them made by others.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, IntoConsumerConfig, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::error::{Cause, DurableError};
use super::name::{CONSUMER, JobId};
use super::nats::{Attempts, Nats};

/// How long a server knows a message again by its id.
pub(super) const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long results, dead letters and records are kept.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// Makes what is missing for all but workers.
pub(super) async fn streams(nats: &Nats) -> Result<(), DurableError> {
    let names = &nats.names;
    let common = stream::Config {
        storage: StorageType::File,
        num_replicas: nats.settings.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        discard: DiscardPolicy::New,
        ..stream::Config::default()
    };
    let tasks = stream::Config {
        name: names.tasks(),
        subjects: vec![names.subject("task", "*")],
        retention: RetentionPolicy::WorkQueue,
        description: Some("tasks of sandgate that nobody has done".to_owned()),
        ..common.clone()
    };
    let results = stream::Config {
        name: names.results(),
        subjects: vec![names.subject("result", "*")],
        max_age: KEPT,
        description: Some("results of sandgate".to_owned()),
        ..common.clone()
    };
    let dead = stream::Config {
        name: names.dead(),
        subjects: vec![names.subject("dead", "*")],
        max_age: KEPT,
        description: Some("tasks of sandgate that were given up".to_owned()),
        ..common.clone()
    };
    let jobs = stream::Config {
        name: names.jobs(),
        subjects: vec![names.subject("job", "*")],
        max_messages_per_subject: 1,
        max_age: KEPT,
        discard: DiscardPolicy::Old,
        description: Some("jobs of sandgate".to_owned()),
        ..common
    };
    let bucket = names.modules();
    let modules = stream::Config {
        name: format!("OBJ_{bucket}"),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        discard: DiscardPolicy::New,
        num_replicas: nats.settings.replicas,
        allow_rollup: true,
        allow_direct: true,
        description: Some("modules of sandgate".to_owned()),
        ..stream::Config::default()
    };
    for config in [jobs, tasks, results, dead, modules] {
        ensure_stream(nats, config).await?;
    }
    Ok(())
}

async fn ensure_stream(nats: &Nats, config: stream::Config) -> Result<(), DurableError> {
    if has_stream(nats, &config).await? {
        return Ok(());
    }
    let doing = "make a stream";
    match nats.ask::<Value>(doing, format!("STREAM.CREATE.{}", config.name), &config).await? {
        Ok(_) => Ok(()),
        // Somebody else was faster, with other settings: theirs count.
        Err(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(()),
        // So it looks to who is at it at the same time: the other one has the subjects, and not yet the name.
        Err(error) if error.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP && has_stream(nats, &config).await? => {
            Ok(())
        }
        Err(error) => Err(DurableError::Refused { doing, source: Cause::of(&error) }),
    }
}

async fn has_stream(nats: &Nats, config: &stream::Config) -> Result<bool, DurableError> {
    let doing = "look for a stream";
    match nats.ask::<Value>(doing, format!("STREAM.INFO.{}", config.name), &json!({})).await? {
        Ok(_) => Ok(true),
        Err(error) if error.code() == 404 => Ok(false),
        Err(error) => Err(DurableError::Refused { doing, source: Cause::of(&error) }),
    }
}

/// What workers want of the consumer that they share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// How long a task that was given out may go without a sign of life.
    pub(super) ack_wait: Option<Duration>,
    /// Most tasks given out to all workers together.
    pub(super) max_pending: Option<i64>,
}

const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
const DEFAULT_MAX_PENDING: i64 = 1 << 16;
/// Most requests for tasks that wait on the server: a few for each worker.
const MAX_WAITING: i64 = 1 << 16;

/// Makes the consumer, or changes what is asked to be otherwise. Gives the time a task may go without a sign of life.
pub(super) async fn consumer(nats: &Nats, wanted: Wanted) -> Result<Duration, DurableError> {
    let stream = nats.names.tasks();
    let doing = "look for the workers' consumer";
    let info = nats.ask::<consumer::Info>(doing, format!("CONSUMER.INFO.{stream}.{CONSUMER}"), &json!({})).await?;
    let found = match info {
        Ok(info) => Some(info.config),
        Err(error) if error.code() == 404 => None,
        Err(error) => return Err(DurableError::Refused { doing, source: Cause::of(&error) }),
    };
    let (mut ack_wait, mut max_pending) = (DEFAULT_ACK_WAIT, DEFAULT_MAX_PENDING);
    if let Some(found) = &found {
        (ack_wait, max_pending) = (found.ack_wait, found.max_ack_pending);
    }
    (ack_wait, max_pending) = (wanted.ack_wait.unwrap_or(ack_wait), wanted.max_pending.unwrap_or(max_pending));
    if found.is_some_and(|found| found.ack_wait == ack_wait && found.max_ack_pending == max_pending) {
        return Ok(ack_wait);
    }
    let config = pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        description: Some("who has which task".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        // Workers count deliveries themselves: what was given up is told, and not only left where it is.
        max_deliver: -1,
        max_ack_pending: max_pending,
        max_waiting: MAX_WAITING,
        ..pull::Config::default()
    };
    let asked = json!({ "stream_name": stream, "config": config.into_consumer_config() });
    let api = format!("CONSUMER.CREATE.{stream}.{CONSUMER}");
    nats.demand::<Value>("make the workers' consumer", api, &asked).await?;
    Ok(ack_wait)
}

/// Makes a consumer that gives a job's results from this number on, and forgets itself when nobody asks it for a while. Gives its
/// name.
///
/// A cluster may put one on a server that is away, and does not answer then; another one it may put elsewhere.
pub(super) async fn reader(nats: &Nats, subject: &str, from: u64) -> Result<String, DurableError> {
    let doing = "make a consumer of results";
    let mut attempts = Attempts::new(nats, doing);
    let mut wait = FIRST_WAIT;
    loop {
        let name = format!("collect-{}", JobId::random().map_err(DurableError::System)?);
        let (api, asked) = reader_of(nats, subject, &name, from);
        match timeout(wait, nats.demand::<Value>(doing, api, &asked)).await {
            Ok(made) => return made.map(|_| name),
            Err(_) => wait = (wait * 2).min(MOST_WAIT),
        }
        attempts.again(true).await?;
    }
}

/// How long a consumer is waited for before another one is asked for.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const MOST_WAIT: Duration = Duration::from_secs(30);

fn reader_of(nats: &Nats, subject: &str, name: &str, from: u64) -> (String, Value) {
    let stream = nats.names.results();
    let config = pull::Config {
        name: Some(name.to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
        ack_policy: AckPolicy::None,
        filter_subject: subject.to_owned(),
        inactive_threshold: Duration::from_secs(60),
        num_replicas: 1,
        memory_storage: true,
        ..pull::Config::default()
    };
    let asked = json!({ "stream_name": stream, "config": config.into_consumer_config() });
    (format!("CONSUMER.CREATE.{stream}.{name}.{subject}"), asked)
}

/// Forgets the messages of a subject.
pub(super) async fn purge(nats: &Nats, stream: &str, subject: &str) -> Result<(), DurableError> {
    let asked = json!({ "filter": subject });
    nats.demand::<Value>("forget messages", format!("STREAM.PURGE.{stream}"), &asked).await.map(drop)
}
