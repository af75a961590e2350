//! The metrics over HTTP, for Prometheus: `GET /metrics` and nothing else.
//!
//! ```text
//!  accepted ──► reading ──► writing ──► draining ──► closed       each until one deadline, which is that of the connection
//! ```
//!
//! 1. One thread serves all, and waits in one place: for the listener, for its connections, for the end. Nobody else waits
//!    for it: the page is laid out by the observer's thread, and is answered as it lies there.
//! 2. Whoever is silent or slow has a deadline; where there are too many at once, the oldest goes; what is accepted in a
//!    moment is bounded. So clients cost the run no more than that.
//! 3. An answer ends the connection. What a client has sent beyond its request is read and dropped, for the system would
//!    otherwise take the answer back.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::names::Lock;

const MOST_CONNECTIONS: usize = 64;
/// Connections that are accepted in one moment, and how long that is.
const MOST_AT_ONCE: usize = 64;
const MOMENT: Duration = Duration::from_millis(100);
/// Time for a request and its answer together, and for what comes behind it.
const PATIENCE: Duration = Duration::from_secs(5);
const DRAINING: Duration = Duration::from_secs(1);
const MOST_HEAD_BYTES: usize = 8 << 10;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    host: String,
    port: u16,
}

impl Listen {
    /// `PORT` and `:PORT` of this machine alone, or `HOST:PORT`.
    pub(super) fn parse(text: &str) -> Result<Listen, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| "is neither a port nor HOST:PORT".to_owned())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare == host && host.contains(':') {
            return Err("is an address without brackets: [HOST]:PORT".to_owned());
        }
        Ok(Listen { host: if bare.is_empty() { "127.0.0.1".to_owned() } else { bare.to_owned() }, port })
    }

    /// Opens the port, so that nobody else has it from now on. Nothing is answered yet.
    pub(super) fn bind(&self) -> anyhow::Result<TcpListener> {
        let Listen { host, port } = self;
        let bind = || {
            let addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
            let listener = TcpListener::bind(&addresses[..])?;
            listener.set_nonblocking(true)?;
            Ok::<_, io::Error>(listener)
        };
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        bind().with_context(|| format!("metrics cannot be served at `{shown}`"))
    }

    /// Whether the system chooses the port.
    pub(super) fn is_any_port(&self) -> bool {
        self.port == 0
    }
}

/// The page that is answered, whoever lays it out.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Lock<Arc<str>>>);

impl Board {
    pub(super) fn put(&self, page: &str) {
        *self.0.lock() = Arc::from(page);
    }

    fn page(&self) -> Arc<str> {
        Arc::clone(&self.0.lock())
    }
}

/// The thread that answers, until this is dropped.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: SocketAddr,
    end: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(super) fn start(listener: TcpListener, board: Board) -> anyhow::Result<Endpoint> {
        Endpoint::with_patience(listener, board, PATIENCE)
    }

    fn with_patience(listener: TcpListener, board: Board, patience: Duration) -> anyhow::Result<Endpoint> {
        let address = listener.local_addr()?;
        let (end, ended) = UnixStream::pair()?;
        let server =
            Server { listener, ended, board, patience, connections: Vec::new(), accepted: 0, since: Instant::now() };
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(move || server.run())?;
        Ok(Endpoint { address, end, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.end.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    listener: TcpListener,
    ended: UnixStream,
    board: Board,
    patience: Duration,
    /// Oldest first.
    connections: Vec<Connection>,
    /// Connections that were accepted since this moment began.
    accepted: usize,
    since: Instant,
}

impl Server {
    fn run(mut self) {
        while let Ok(ready) = self.wait() {
            let (ended, acceptable) = (ready[0], ready[1]);
            if !ended.is_empty() {
                return;
            }
            let (now, board) = (Instant::now(), &self.board);
            let mut ready = ready[2..].iter();
            self.connections.retain_mut(|connection| {
                let is_ready = ready.next().is_some_and(|ready| !ready.is_empty());
                connection.deadline > now && (!is_ready || connection.go_on(board))
            });
            if !acceptable.is_empty() {
                self.accept(now);
            }
        }
    }

    /// Waits until something can be done; what: for the end, the listener, and each connection.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let now = Instant::now();
        let may_accept = self.accepted < MOST_AT_ONCE || self.since + MOMENT <= now;
        let listening = if may_accept { PollFlags::IN } else { PollFlags::empty() };
        let mut all = vec![PollFd::new(&self.ended, PollFlags::IN), PollFd::new(&self.listener, listening)];
        all.extend(self.connections.iter().map(|connection| PollFd::new(&connection.stream, connection.waits_for())));
        let next_moment = (!may_accept).then(|| self.since + MOMENT);
        let next = self.connections.iter().map(|connection| connection.deadline).chain(next_moment).min();
        // Rounded up, so that it is over when it has passed.
        let left = next.map(|next| next.saturating_duration_since(now) + Duration::from_millis(1));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut all, left.as_ref()) {
            Ok(_) => Ok(all.iter().map(PollFd::revents).collect()),
            Err(rustix::io::Errno::INTR) => Ok(vec![PollFlags::empty(); all.len()]),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.since + MOMENT <= now {
            (self.since, self.accepted) = (now, 0);
        }
        while self.accepted < MOST_AT_ONCE {
            self.accepted += 1;
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    if self.connections.len() >= MOST_CONNECTIONS {
                        self.connections.remove(0);
                    }
                    let (deadline, state) = (now + self.patience, State::Reading(Vec::new()));
                    self.connections.push(Connection { stream, deadline, state });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // There are no more descriptors, say. The next moment may be better.
                Err(_) => self.accepted = MOST_AT_ONCE,
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    deadline: Instant,
    state: State,
}

enum State {
    /// What there is of the request.
    Reading(Vec<u8>),
    /// What is left of the answer.
    Writing(Vec<u8>),
    Draining,
}

impl Connection {
    fn waits_for(&self) -> PollFlags {
        match self.state {
            State::Reading(_) | State::Draining => PollFlags::IN,
            State::Writing(_) => PollFlags::OUT,
        }
    }

    /// Does what can be done without waiting; `false` if it is over.
    fn go_on(&mut self, board: &Board) -> bool {
        match self.step(board) {
            Ok(stays) => stays,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    fn step(&mut self, board: &Board) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        if let State::Reading(head) = &mut self.state {
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(false);
            }
            head.extend_from_slice(&buffer[..read]);
            let Some(answer) = answer(head, board) else { return Ok(true) };
            self.state = State::Writing(answer);
        }
        if let State::Writing(answer) = &mut self.state {
            while !answer.is_empty() {
                let written = self.stream.write(answer)?;
                answer.drain(..written);
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.state = State::Draining;
            self.deadline = self.deadline.min(Instant::now() + DRAINING);
        }
        Ok(self.stream.read(&mut buffer)? > 0)
    }
}

/// The answer to a request, as soon as there is enough of it to be answered.
fn answer(head: &[u8], board: &Board) -> Option<Vec<u8>> {
    if !head.first().is_some_and(u8::is_ascii_uppercase) {
        return Some(refusal("400 Bad Request", ""));
    }
    let Some(line) = head.iter().position(|&byte| byte == b'\n') else {
        return (head.len() >= MOST_HEAD_BYTES).then(|| refusal("414 URI Too Long", ""));
    };
    let Some((method, target)) = request(&head[..line]) else { return Some(refusal("400 Bad Request", "")) };
    let is_whole = head.windows(2).any(|pair| pair == b"\n\n") || head.windows(4).any(|four| four == b"\r\n\r\n");
    if !is_whole {
        return (head.len() >= MOST_HEAD_BYTES).then(|| refusal("431 Request Header Fields Too Large", ""));
    }
    let path = target.split('?').next().unwrap_or_default();
    Some(match (path, method) {
        ("/metrics", "GET" | "HEAD") => {
            let page = board.page();
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            respond("200 OK", "", kind, &page, method == "GET")
        }
        ("/metrics", _) => refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n"),
        _ => refusal("404 Not Found", ""),
    })
}

/// Method and target of a request line.
fn request(line: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_plain = method.bytes().all(|byte| byte.is_ascii_uppercase()) && target.starts_with('/');
    let is_http = version.strip_prefix("HTTP/1.").is_some_and(|minor| matches!(minor, "0" | "1"));
    (is_plain && is_http && words.next().is_none()).then_some((method, target))
}

fn refusal(status: &str, more: &str) -> Vec<u8> {
    respond(status, more, "text/plain; charset=utf-8", &format!("{status}; metrics are at /metrics\n"), true)
}

fn respond(status: &str, more: &str, kind: &str, body: &str, with_body: bool) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    );
    let body = if with_body { body.as_bytes() } else { &[] };
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
