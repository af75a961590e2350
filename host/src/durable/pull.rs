//! One request for messages of a consumer, from when it is sent to when the server has nothing more to say to it.
//!
//! ```text
//! request(n) ──► message … message ──► status: expired ──► Ended(rest of n)
//!      └──── connection lost, or no heartbeat for too long ──►┘
//!      └──── told to stop: unsubscribe, take what is on its way ──►┘
//! ```
//!
//! Each has an inbox of its own, so that what it may still bring is known at every moment.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{StatusCode, Subscriber};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::connect::Standing;
use super::nats::Nats;

/// How long a request waits on the server.
const EXPIRES: Duration = Duration::from_secs(20);
/// How often the server says that it is still there while a request waits: it may have been forgotten, by a cluster in which
/// another server leads the consumer now.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long nothing may be heard before it is given up here.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a consumer that is not there is left alone: it may be between two leaders.
pub(super) const BETWEEN_LEADERS: Duration = Duration::from_millis(250);

/// What a request brings.
#[derive(Debug)]
pub(super) enum Arrival {
    Message(Arc<jetstream::Message>),
    /// It brings nothing more; so many of what it asked for have not come.
    Ended {
        unused: usize,
        why: End,
    },
}

/// Why a request brings nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It had its time, or all it asked for.
    Served,
    /// The connection was lost meanwhile, or the server was silent.
    Lost,
    /// There is no such consumer.
    Gone,
    /// It was told to stop.
    Stopped,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) stream: String,
    pub(super) consumer: String,
    pub(super) messages: usize,
    /// Bytes of messages after which the server stops.
    pub(super) bytes: usize,
}

/// Asks, and hands on what comes. Ends once [`Arrival::Ended`] was handed on, or nobody takes it.
pub(super) async fn run(
    nats: Nats,
    request: Request,
    arrivals: mpsc::UnboundedSender<Arrival>,
    mut stop: watch::Receiver<bool>,
) {
    let mut standing = nats.standing.clone();
    let generation = standing.borrow_and_update().generation;
    let mut left = request.messages;
    let end = |unused, why| drop(arrivals.send(Arrival::Ended { unused, why }));
    let Some(mut subscriber) = send(&nats, &request).await else { return end(left, End::Lost) };
    let mut given_up = Instant::now() + SILENCE;
    let mut is_stopping = false;
    loop {
        tokio::select! {
            message = subscriber.next() => match message {
                None if is_stopping => return end(left, End::Stopped),
                None => return end(left, End::Lost),
                Some(message) => {
                    given_up = Instant::now() + SILENCE;
                    match message.status {
                    None | Some(StatusCode::OK) => {
                        left = left.saturating_sub(1);
                        let message = jetstream::Message { message, context: nats.context.clone() };
                        if arrivals.send(Arrival::Message(Arc::new(message))).is_err() {
                            return;
                        }
                        if left == 0 {
                            return end(0, End::Served);
                        }
                    }
                    Some(StatusCode::IDLE_HEARTBEAT) => {}
                    Some(StatusCode::TIMEOUT) => return end(left, End::Served),
                    Some(StatusCode::NO_RESPONDERS) => return end(left, End::Gone),
                    // The consumer is gone, or has no room for one more request, or the request had all its bytes.
                    Some(_) => {
                        let text = message.description.as_deref().unwrap_or_default().to_ascii_lowercase();
                        let why = if text.contains("deleted") { End::Gone } else { End::Served };
                        return end(left, why);
                    }
                }}
            },
            () = told(&mut stop), if !is_stopping => {
                is_stopping = true;
                if subscriber.drain().await.is_err() {
                    return end(left, End::Stopped);
                }
            }
            () = lost(&mut standing, generation) => return end(left, End::Lost),
            () = sleep_until(given_up) => return end(left, End::Lost),
        }
    }
}

/// Told to stop, or whoever could tell is gone.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The connection is not the one that it was.
async fn lost(standing: &mut watch::Receiver<Standing>, generation: u64) {
    let _ = standing.wait_for(|standing| standing.generation != generation || !standing.is_up).await;
}

async fn send(nats: &Nats, request: &Request) -> Option<Subscriber> {
    let inbox = nats.client.new_inbox();
    let subscriber = nats.client.subscribe(inbox.clone()).await.ok()?;
    let expires = u64::try_from(EXPIRES.as_nanos()).unwrap_or(u64::MAX);
    let heartbeat = u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX);
    let asked = json!({
        "batch": request.messages, "max_bytes": request.bytes, "expires": expires, "idle_heartbeat": heartbeat,
    });
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", request.stream, request.consumer);
    nats.client.publish_with_reply(subject, inbox, asked.to_string().into()).await.ok()?;
    Some(subscriber)
}
