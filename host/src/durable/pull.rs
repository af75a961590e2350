//! One request for messages of a consumer, from when it is sent to when the server has nothing more to say to it.
//!
//! ```text
//! request(n) ──► message … message ──► status: expired ──► Ended(rest of n)
//!      └──── connection lost, or no heartbeat for too long ──►┘
//!      └──── told to stop: withdraw, take what is on its way ─────►┘
//! ```
//!
//! Each has an inbox of its own, so that what it may still bring is known at every moment. One that is withdrawn loses nothing of
//! what the server has sent: see [`withdraw`].

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

/// Messages on a subscription besides what was asked for: heartbeats that were not seen yet when the request is withdrawn.
const SPARE: usize = 8;
/// What the server answers at once, for it is no request, and how.
const NO_REQUEST: &[u8] = b"{";
const BAD_REQUEST: u16 = 400;

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
    let inbox = nats.client.new_inbox();
    let Some(mut subscriber) = send(&nats, &request, &inbox).await else { return end(left, End::Lost) };
    let mut heard = 0;
    let mut given_up = Instant::now() + SILENCE;
    let mut is_stopping = false;
    loop {
        tokio::select! {
            message = subscriber.next() => match message {
                None if is_stopping => return end(left, End::Stopped),
                None => return end(left, End::Lost),
                Some(message) => {
                    given_up = Instant::now() + SILENCE;
                    heard += 1;
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
                    // Answers to what is no request.
                    Some(status) if is_stopping && status.as_u16() == BAD_REQUEST => {}
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
                // Nobody takes what it may still bring.
                if arrivals.is_closed() {
                    return;
                }
                tokio::select! {
                    withdrawn = withdraw(&nats, &request, &inbox, &mut subscriber, (heard, left)) => if withdrawn.is_none() {
                        return end(left, End::Stopped);
                    },
                    () = lost(&mut standing, generation) => return end(left, End::Lost),
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

async fn send(nats: &Nats, request: &Request, inbox: &str) -> Option<Subscriber> {
    let subscriber = nats.client.subscribe(inbox.to_owned()).await.ok()?;
    let expires = u64::try_from(EXPIRES.as_nanos()).unwrap_or(u64::MAX);
    let heartbeat = u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX);
    let asked = json!({
        "batch": request.messages, "max_bytes": request.bytes, "expires": expires, "idle_heartbeat": heartbeat,
    });
    nats.client.publish_with_reply(request.subject(), inbox.to_owned(), asked.to_string().into()).await.ok()?;
    Some(subscriber)
}

/// Withdraws a request that has brought `heard` messages and may bring `left` more.
///
/// The client library forgets a subscription at once when it is to drain, and drops what the server had sent before it did: such
/// tasks would be with nobody until the ack wait is over. So the subscription gets a number of messages after which it is over,
/// by which the server and the client mean the same ones; more than the request may still bring. What it does not bring is filled
/// up with answers to requests that are none.
async fn withdraw(
    nats: &Nats,
    request: &Request,
    inbox: &str,
    subscriber: &mut Subscriber,
    (heard, left): (usize, usize),
) -> Option<()> {
    let more = left + SPARE;
    subscriber.unsubscribe_after((heard + more) as u64).await.ok()?;
    for _ in 0..more {
        let asked = nats.client.publish_with_reply(request.subject(), inbox.to_owned(), NO_REQUEST.into());
        asked.await.ok()?;
    }
    Some(())
}

impl Request {
    /// Where it is asked.
    fn subject(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;
    use crate::durable::settings::Settings;

    const LIMIT: Duration = Duration::from_secs(20);
    const ASKED: usize = 5;

    /// A server that has sent two tasks when it hears that a request is withdrawn. The second is on its way until `goes_on`.
    struct FakeServer {
        reader: BufReader<TcpStream>,
        writer: TcpStream,
        goes_on: Receiver<()>,
        /// The subscription of the request: its subject, its number, messages on it so far and at most.
        request: (String, String),
        sent: usize,
        most: usize,
    }

    impl FakeServer {
        fn start(goes_on: Receiver<()>) -> u16 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let body = move || {
                let (stream, _) = listener.accept().unwrap();
                let writer = stream.try_clone().unwrap();
                let (reader, request) = (BufReader::new(stream), Default::default());
                FakeServer { reader, writer, goes_on, request, sent: 0, most: usize::MAX }.serve(port);
            };
            std::thread::Builder::new().name("fake-server".to_owned()).spawn(body).unwrap();
            port
        }

        fn say(&mut self, text: &str) {
            self.writer.write_all(text.as_bytes()).unwrap();
        }

        /// One more message on the subscription of the request, unless that is over.
        fn bring(&mut self, status: Option<&str>) {
            if self.sent < self.most {
                let (subject, sid) = self.request.clone();
                self.sent += 1;
                self.say(&match status {
                    None => format!("MSG {subject} {sid} $JS.ACK.s.c.1.1.1.1.0 4\r\ntask\r\n"),
                    Some(status) => format!("HMSG {subject} {sid} {0} {0}\r\n{status}\r\n", status.len()),
                });
            }
        }

        fn serve(mut self, port: u16) {
            let info = format!(
                "{{\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.9.10\",\"go\":\"\",\"host\":\"127.0.0.1\",\
                 \"port\":{port},\"headers\":true,\"max_payload\":1048576,\"proto\":1,\"client_id\":1}}"
            );
            self.say(&format!("INFO {info}\r\n"));
            loop {
                let mut line = String::new();
                if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["PING"] => self.say("PONG\r\n"),
                    ["SUB", subject, sid] => self.request = (subject.to_owned(), sid.to_owned()),
                    ["PUB", .., length] => {
                        let mut payload = vec![0; length.parse::<usize>().unwrap() + 2];
                        self.reader.read_exact(&mut payload).unwrap();
                        if payload == b"{\r\n" {
                            self.bring(Some("NATS/1.0 400 Bad Request\r\n\r\n"));
                        }
                    }
                    ["UNSUB", sid, ref most @ ..] if sid == self.request.1 => {
                        self.bring(None);
                        self.goes_on.recv_timeout(LIMIT).expect("the first task arrives");
                        self.bring(None);
                        self.most =
                            most.first().map_or(self.sent, |most| most.parse::<usize>().unwrap().max(self.sent));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Withdraws a request, and says what it brings.
    async fn withdrawn(port: u16, go_on: Sender<()>) -> Vec<Arrival> {
        let nats = Nats::connect(Settings::new(&format!("nats://127.0.0.1:{port}")).unwrap()).await.unwrap();
        let request = Request { stream: "s".to_owned(), consumer: "c".to_owned(), messages: ASKED, bytes: 1 << 20 };
        let (sender, mut arrivals) = mpsc::unbounded_channel();
        let (_stop, told_to_stop) = watch::channel(true);
        tokio::spawn(run(nats, request, sender, told_to_stop));
        let mut came = Vec::new();
        while let Some(arrival) = arrivals.recv().await {
            came.push(arrival);
            let _ = go_on.send(());
        }
        came
    }

    #[test]
    fn what_was_on_its_way_to_a_request_that_is_withdrawn_arrives() {
        let (go_on, goes_on) = channel();
        let port = FakeServer::start(goes_on);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let came = runtime.block_on(async { timeout(LIMIT, withdrawn(port, go_on)).await });
        match &came.expect("the end of the request")[..] {
            [Arrival::Message(_), Arrival::Message(_), Arrival::Ended { unused, why: End::Stopped }] => {
                assert_eq!(*unused, ASKED - 2);
            }
            other => panic!("{other:?}"),
        }
    }
}
