//! A connection to a server, and what is asked of it: everything is tried again until it is done, or the server was away for
//! longer than the settings' patience.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind, RequestErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::{self, BACKOFF, Standing};
use super::error::{Cause, DurableError};
use super::name::Names;
use super::settings::{Notice, Settings};

/// How long JetStream has for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The first time of silence that is worth a notice.
const WORTH_A_NOTICE: Duration = Duration::from_secs(3);

/// A connection. Clones are the same one, and cost nothing: there is one for each message.
#[derive(Debug, Clone)]
pub(super) struct Nats(Arc<Connection>);

/// What there is of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) names: Names,
    pub(super) settings: Settings,
    pub(super) standing: watch::Receiver<Standing>,
}

/// What became of a message that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// It has this number in its stream. It may have been there before.
    At(u64),
    /// Its subject's last message is not the one that was expected.
    Conflict,
}

impl std::ops::Deref for Nats {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Nats {
    /// Connects, and finds out whether there is JetStream.
    pub(super) async fn connect(settings: Settings) -> Result<Nats, DurableError> {
        let (client, standing) = connect::connect(&settings).await?;
        let context = ContextBuilder::new().timeout(ANSWER).build(client.clone());
        let names = Names::new(&settings.prefix);
        Ok(Nats(Arc::new(Connection { client, context, names, settings, standing })))
    }

    /// The largest payload that the server takes.
    pub(super) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Asks JetStream, and gives its answer, which may be a refusal.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        subject: String,
        payload: &impl Serialize,
    ) -> Result<Result<T, jetstream::Error>, DurableError> {
        let mut attempts = Attempts::new(self, doing);
        loop {
            self.connected(&attempts).await?;
            let answer = self.context.request::<_, _, Response<T>>(subject.clone(), payload);
            match self.unless_denied(&attempts, &subject, answer).await? {
                Ok(Response::Ok(answer)) => return Ok(Ok(answer)),
                Ok(Response::Err { error }) => match error.error_code() {
                    ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                        return Err(DurableError::NoJetStream);
                    }
                    // It is about to be there, or to be led by somebody.
                    _ if error.code() == 503 => {}
                    _ => return Ok(Err(error)),
                },
                // Nobody listens: there is none, or it is just starting.
                Err(error) if error.kind() == RequestErrorKind::NoResponders => attempts.nobody = true,
                Err(error) if error.kind() == RequestErrorKind::TimedOut => {}
                Err(error) => return Err(DurableError::Refused { doing, source: Cause::of(&error) }),
            }
            attempts.again(true).await?;
        }
    }

    /// As [`ask`](Self::ask), where a refusal is an error.
    pub(super) async fn demand<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        subject: String,
        payload: &impl Serialize,
    ) -> Result<T, DurableError> {
        let answer = self.ask(doing, subject, payload).await?;
        answer.map_err(|error| DurableError::Refused { doing, source: Cause::of(&error) })
    }

    /// Stores a message: waits until a stream says that it has it, or had it before. A stream that is full is waited for as long
    /// as it takes.
    pub(super) async fn store(
        &self,
        doing: &'static str,
        subject: String,
        message: PublishMessage,
        bytes: usize,
    ) -> Result<Stored, DurableError> {
        let mut attempts = Attempts::new(self, doing);
        loop {
            self.connected(&attempts).await?;
            let publish = async {
                match self.context.send_publish(subject.clone(), message.clone()).await {
                    Ok(acknowledged) => acknowledged.await,
                    Err(error) => Err(error),
                }
            };
            let error = match self.unless_denied(&attempts, &subject, publish).await? {
                Ok(ack) => return Ok(Stored::At(ack.sequence)),
                Err(error) => error,
            };
            let is_timed = match (error.kind(), code_of(&error)) {
                (PublishErrorKind::WrongLastSequence, _) => return Ok(Stored::Conflict),
                (PublishErrorKind::MaxPayloadExceeded, _) => {
                    return Err(DurableError::TooLarge { bytes, maximum: self.max_payload() });
                }
                (_, Some((_, ErrorCode::STREAM_STORE_FAILED | ErrorCode::INSUFFICIENT_RESOURCES))) => {
                    attempts.tell(Notice::Full);
                    false
                }
                (_, Some((503, _)))
                | (PublishErrorKind::TimedOut | PublishErrorKind::StreamNotFound | PublishErrorKind::BrokenPipe, _) => {
                    true
                }
                _ => return Err(DurableError::Refused { doing, source: Cause::of(&error) }),
            };
            attempts.again(is_timed).await?;
        }
    }

    /// Waits for an answer, unless the server says that what was asked is not permitted: then none comes.
    async fn unless_denied<T>(
        &self,
        attempts: &Attempts<'_>,
        subject: &str,
        answer: impl IntoFuture<Output = T>,
    ) -> Result<T, DurableError> {
        let mut standing = self.standing.clone();
        let is_meant = |standing: &Standing| {
            let denied = standing.denied.as_ref().filter(|(at, _)| *at >= attempts.started);
            denied.is_some_and(|(_, problem)| is_about(problem, subject))
        };
        tokio::select! {
            biased;
            answer = answer.into_future() => Ok(answer),
            Ok(standing) = standing.wait_for(is_meant) => {
                let problem = standing.denied.as_ref().map(|(_, problem)| problem.clone()).unwrap_or_default();
                Err(DurableError::NotPermitted { problem })
            }
        }
    }

    /// Waits until there is a connection.
    async fn connected(&self, attempts: &Attempts<'_>) -> Result<(), DurableError> {
        let mut standing = self.standing.clone();
        let left = self.settings.patience.saturating_sub(attempts.started.elapsed());
        match timeout(left, standing.wait_for(|standing| standing.is_up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(DurableError::Closed),
            Err(_) => Err(attempts.given_up()),
        }
    }
}

/// Whether what the server does not permit is to publish to this subject, or to hear of any answer.
fn is_about(problem: &str, subject: &str) -> bool {
    let problem = problem.to_ascii_lowercase();
    problem.contains("subscription to") || problem.contains(&format!("{}\"", subject.to_ascii_lowercase()))
}

/// JetStream's codes for a publication that it has refused.
fn code_of(error: &PublishError) -> Option<(usize, ErrorCode)> {
    let source = std::error::Error::source(error)?;
    let error = source.downcast_ref::<jetstream::Error>()?;
    Some((error.code(), error.error_code()))
}

/// When to try again, and when no more.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    nats: &'a Nats,
    doing: &'static str,
    started: Instant,
    pause: Duration,
    told: Option<Notice>,
    /// Nobody was there to answer, so far.
    nobody: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(nats: &'a Nats, doing: &'static str) -> Attempts<'a> {
        Attempts { nats, doing, started: Instant::now(), pause: BACKOFF.0, told: None, nobody: false }
    }

    fn tell(&mut self, notice: Notice) {
        if self.told != Some(notice) {
            self.told = Some(notice);
            self.nats.settings.tell(notice);
        }
    }

    fn given_up(&self) -> DurableError {
        match self.nobody {
            true => DurableError::NoJetStream,
            false => DurableError::Gone { doing: self.doing, waited: self.nats.settings.patience },
        }
    }

    /// Waits before the next one; an error if there is to be none. Time counts only where the server is to blame.
    pub(super) async fn again(&mut self, is_timed: bool) -> Result<(), DurableError> {
        let denied = self.nats.standing.borrow().denied.clone();
        if let Some((_, problem)) = denied.filter(|(at, _)| *at >= self.started) {
            return Err(DurableError::NotPermitted { problem });
        }
        match is_timed {
            true if self.started.elapsed() >= self.nats.settings.patience => return Err(self.given_up()),
            true if self.started.elapsed() >= WORTH_A_NOTICE => self.tell(Notice::Silent),
            true => {}
            false => self.started = Instant::now(),
        }
        let left = self.nats.settings.patience.saturating_sub(self.started.elapsed());
        sleep(if is_timed { self.pause.min(left) } else { self.pause }).await;
        self.pause = (self.pause * 2).min(BACKOFF.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_permitted_is_what_was_asked() {
        let check =
            |problem: &str, subject: &str, expected| assert_eq!(is_about(problem, subject), expected, "{problem}");
        let publish = "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.sandgate_jobs\"";
        check(publish, "STREAM.INFO.sandgate_jobs", true);
        check(publish, "STREAM.INFO.sandgate", false);
        check(publish, "STREAM.INFO.sandgate_tasks", false);
        check("Permissions Violation for Subscription to \"_INBOX.x.*\"", "STREAM.INFO.sandgate_jobs", true);
    }
}
