//! The threads that read and write all connections when nobody else does: one for every two processors.
//!
//! Each waits for the bells of its connections, reads the one that rings for a few turns, then the next; and writes what
//! senders have left, when there is room or has been gathered for long enough ([`writing`]). With each tick it
//! looks at connections that callers have read and left, and there are no ticks while there is none ([`reading`]). It also
//! ends connections: the worker's process gets half a second for its own end and is killed then. Nothing here waits for
//! anything else, and what panics costs one connection.
//!
//! [`reading`]: crate::reading

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::reading::Ringer;

use crate::callback::panic_message;
use crate::connection::{Connection, REAP_PATIENCE};
use crate::pool::{see_to_pools, sees_to_pools};
use crate::reading::{Reading, Visited};

mod writing;

use writing::Writing;

/// Between two looks at connections that callers read.
const TICK: Duration = Duration::from_millis(1);
/// Least time between two looks at connections that doze, all of them in one go, as often as one of them needs.
const LEAST_LOOK: Duration = Duration::from_millis(1);
/// Bells that are heard in one go.
const MAX_EVENTS: usize = 64;
/// Most threads.
const MAX_THREADS: usize = 8;
/// The key of the thread's own ringer.
const OWN_KEY: u64 = 0;
/// The key of what says that there is room to write.
const ROOM_KEY: u64 = u64::MAX;

/// One of the threads.
#[derive(Debug)]
struct Service {
    epoll: OwnedFd,
    ringer: Arc<Ringer>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_key: u64,
    connections: HashMap<u64, Arc<Connection>>,
    /// Those to look at now.
    pokes: Vec<u64>,
    /// Those whose senders have left something, or that are shut down.
    to_write: Vec<u64>,
    /// Those to look at with each tick from now on.
    listed: Vec<Arc<Connection>>,
    /// The thread ticks anyway.
    ticks: bool,
}

/// The thread of one connection, and its name there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    service: Arc<Service>,
    key: u64,
}

/// A place for a new connection.
///
/// # Errors
/// The system has no thread for it, or no descriptors.
pub(crate) fn place(connection: &Arc<Connection>) -> io::Result<Place> {
    static SERVICES: Mutex<Vec<Arc<Service>>> = Mutex::new(Vec::new());
    let mut services = SERVICES.lock();
    let least = services.iter().min_by_key(|service| service.state.lock().connections.len()).map(Arc::clone);
    let least = least.filter(|service| services.len() == most() || service.state.lock().connections.is_empty());
    let service = match least {
        Some(service) => service,
        None => {
            let service = Service::start(services.len())?;
            services.push(Arc::clone(&service));
            service
        }
    };
    let mut state = service.state.lock();
    state.next_key += 1;
    let key = state.next_key;
    state.connections.insert(key, Arc::clone(connection));
    drop(state);
    Ok(Place { service, key })
}

fn most() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    *MOST.get_or_init(|| (processors() / 2).clamp(1, MAX_THREADS))
}

impl Place {
    /// Has the bell heard, once.
    pub(crate) fn add(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::add(&self.service.epoll, bell, EventData::new_u64(self.key), flags)?)
    }

    /// Has the bell heard again, once.
    pub(crate) fn arm(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::modify(&self.service.epoll, bell, EventData::new_u64(self.key), flags)?)
    }

    /// Has the bell not heard.
    pub(crate) fn disarm(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::modify(&self.service.epoll, bell, EventData::new_u64(self.key), EventFlags::ONESHOT)?)
    }

    pub(crate) fn remove(&self, bell: BorrowedFd<'_>) {
        // It is there, and if not that is as good.
        let _ = epoll::delete(&self.service.epoll, bell);
    }

    /// Gives the place back before anything was read.
    pub(crate) fn give_back(&self) {
        self.service.state.lock().connections.remove(&self.key);
    }

    /// Has the thread look at the connection now.
    pub(crate) fn poke(&self) {
        self.service.state.lock().pokes.push(self.key);
        self.service.ringer.ring();
    }

    /// Has the thread write what senders have left.
    pub(crate) fn poke_to_write(&self) {
        self.service.state.lock().to_write.push(self.key);
        self.service.ringer.ring();
    }

    /// Has the thread look at the connection with each tick.
    pub(crate) fn list(&self, connection: &Arc<Connection>) {
        let mut state = self.service.state.lock();
        state.listed.push(Arc::clone(connection));
        if !state.ticks {
            drop(state);
            self.service.ringer.ring();
        }
    }
}

/// What only the thread itself has.
struct Rounds {
    /// Connections that may have more to read.
    again: VecDeque<u64>,
    writing: Writing,
    /// Connections that callers read, and how often somebody had led at the last tick.
    listed: Vec<(Arc<Connection>, u64)>,
    last_tick: Option<Instant>,
    /// Connections that doze, and when they are looked at.
    dozing: HashMap<u64, Arc<Connection>>,
    look_at: Option<Instant>,
    /// Connections that are over, whose process may not be.
    dying: HashMap<u64, Dying>,
}

struct Dying {
    connection: Arc<Connection>,
    violation: Option<LossCause>,
    /// When the process is killed, unless that has happened.
    kill_at: Option<Instant>,
}

impl Service {
    fn start(number: usize) -> io::Result<Arc<Service>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let ringer = Ringer::event()?;
        epoll::add(&epoll, ringer.ear(), EventData::new_u64(OWN_KEY), EventFlags::IN)?;
        let service = Arc::new(Service { epoll, ringer, state: Mutex::default() });
        let writing = Writing::new()?;
        epoll::add(&service.epoll, writing.room(), EventData::new_u64(ROOM_KEY), EventFlags::IN)?;
        let of_thread = Arc::clone(&service);
        let run = move || of_thread.run(Rounds::new(writing));
        std::thread::Builder::new().name(format!("sandgate-io-{number}")).spawn(run)?;
        Ok(service)
    }

    fn run(&self, mut rounds: Rounds) {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        sees_to_pools();
        loop {
            self.take_listed(&mut rounds);
            if let Err(error) = self.wait(rounds.timeout(), &mut events) {
                return tracing::error!("workers are not read any more: {error}");
            }
            let again = std::mem::take(&mut rounds.again);
            for event in events.drain(..) {
                match event.data.u64() {
                    OWN_KEY => self.ringer.hush(),
                    ROOM_KEY => rounds.writing.room_is_there(),
                    key => self.visit(&mut rounds, key),
                }
            }
            let (pokes, to_write) = {
                let mut state = self.state.lock();
                (std::mem::take(&mut state.pokes), std::mem::take(&mut state.to_write))
            };
            for key in pokes.into_iter().chain(again) {
                self.visit(&mut rounds, key);
            }
            self.look(&mut rounds);
            see_to_pools();
            for key in rounds.writing.due(to_write) {
                let connection = self.state.lock().connections.get(&key).map(Arc::clone);
                rounds.writing.serve(key, connection.as_ref());
            }
            self.tick(&mut rounds);
            rounds.kill_late();
            see_to_pools();
        }
    }

    fn wait(&self, timeout: Option<Duration>, events: &mut Vec<Event>) -> Result<(), Errno> {
        // What gathers in an outbox is not worth a millisecond, and epoll has no shorter times everywhere.
        let is_short = |timeout: Duration| !timeout.is_zero() && timeout < TICK;
        let timespec = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let waited = if timeout.is_some_and(is_short) {
            let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
            poll(&mut polled, timespec.as_ref())
                .and_then(|_| epoll::wait(&self.epoll, spare_capacity(events), Some(&Timespec::default())))
        } else {
            epoll::wait(&self.epoll, spare_capacity(events), timespec.as_ref())
        };
        match waited {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes over what others have listed. Whoever lists something while there is nothing rings.
    fn take_listed(&self, rounds: &mut Rounds) {
        let mut state = self.state.lock();
        // Led in this moment, or just before.
        rounds.listed.extend(state.listed.drain(..).map(|connection| {
            let seen = connection.reading.leads();
            (connection, seen)
        }));
        state.ticks = !rounds.listed.is_empty();
    }

    fn visit(&self, rounds: &mut Rounds, key: u64) {
        if rounds.dying.contains_key(&key) {
            return self.see_to_end(rounds, key);
        }
        let connection = self.state.lock().connections.get(&key).map(Arc::clone);
        if let Some(connection) = connection {
            self.visit_with(rounds, key, connection, Reading::visit);
        }
    }

    fn visit_with(
        &self,
        rounds: &mut Rounds,
        key: u64,
        connection: Arc<Connection>,
        visit: fn(&Reading, &Arc<Connection>) -> Visited,
    ) {
        let visited = catch_unwind(AssertUnwindSafe(|| visit(&connection.reading, &connection)));
        let visited = visited.unwrap_or_else(|panic| {
            let message = format!("reading it panicked: {}", panic_message(&*panic));
            tracing::error!(gateway = %connection.id, "{message}");
            Visited::Over(Some(LossCause::Unknown { message }))
        });
        match visited {
            Visited::Done => rounds.does_not_doze(key),
            Visited::Dozes => rounds.dozes(key, connection),
            Visited::Again => rounds.again.push_back(key),
            Visited::Over(violation) => {
                rounds.does_not_doze(key);
                connection.hang_up(violation.as_ref());
                let kill_at = Some(Instant::now() + REAP_PATIENCE);
                rounds.dying.insert(key, Dying { connection, violation, kill_at });
                self.see_to_end(rounds, key);
            }
        }
    }

    /// Ends a connection that is over if its process has ended as well; otherwise the process's end is what pokes.
    fn see_to_end(&self, rounds: &mut Rounds, key: u64) {
        if !rounds.dying.get(&key).is_some_and(|dying| dying.connection.process_has_ended()) {
            return;
        }
        self.state.lock().connections.remove(&key);
        rounds.writing.forget(key);
        if let Some(Dying { connection, violation, .. }) = rounds.dying.remove(&key)
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| connection.finish(violation)))
        {
            tracing::error!(gateway = %connection.id, "ending it panicked: {}", panic_message(&*panic));
        }
    }

    /// Looks at the connections that doze, when it is time.
    fn look(&self, rounds: &mut Rounds) {
        let Some(at) = rounds.look_at else { return };
        let now = Instant::now();
        if now < at {
            return;
        }
        let dozing: Vec<_> = rounds.dozing.iter().map(|(key, connection)| (*key, Arc::clone(connection))).collect();
        for (key, connection) in dozing {
            self.visit_with(rounds, key, connection, Reading::look);
        }
        rounds.look_at = rounds.next_look(now);
    }

    /// Reads what callers have left, and has it heard from here on.
    fn tick(&self, rounds: &mut Rounds) {
        if rounds.listed.is_empty() {
            rounds.last_tick = None;
            return;
        }
        let now = Instant::now();
        if rounds.last_tick.is_some_and(|last| now.saturating_duration_since(last) < TICK) {
            return;
        }
        let first = rounds.last_tick.replace(now).is_none();
        if first {
            return;
        }
        let mut left = Vec::new();
        rounds.listed.retain_mut(|(connection, seen)| {
            let leads = connection.reading.leads();
            if std::mem::replace(seen, leads) != leads || connection.reading.unlist(leads) {
                return true;
            }
            left.push(Arc::clone(connection));
            false
        });
        for connection in left {
            // Somebody leads, and lists it again when that is over; or nobody reads it.
            if let Some(key) = connection.place().map(|place| place.key) {
                self.visit_with(rounds, key, connection, Reading::visit_free);
            }
        }
    }
}

impl Rounds {
    fn new(writing: Writing) -> Rounds {
        Rounds {
            again: VecDeque::new(),
            writing,
            listed: Vec::new(),
            last_tick: None,
            dozing: HashMap::new(),
            look_at: None,
            dying: HashMap::new(),
        }
    }

    fn dozes(&mut self, key: u64, connection: Arc<Connection>) {
        let look = Instant::now() + connection.reading.look_every().max(LEAST_LOOK);
        self.dozing.insert(key, connection);
        self.look_at = Some(self.look_at.map_or(look, |at| at.min(look)));
    }

    /// When those that doze are looked at next, if they have just been.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let every = self.dozing.values().map(|connection| connection.reading.look_every()).min()?;
        Some(now + every.max(LEAST_LOOK))
    }

    fn does_not_doze(&mut self, key: u64) {
        if self.dozing.remove(&key).is_some() && self.dozing.is_empty() {
            self.look_at = None;
        }
    }

    /// How long nothing has to be looked at.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() || self.writing.has_more() {
            return Some(Duration::ZERO);
        }
        let kill_at = self.dying.values().filter_map(|dying| dying.kill_at).min();
        let at = kill_at.into_iter().chain(self.writing.next()).chain(self.look_at).min();
        let left = at.map(|at| at.saturating_duration_since(Instant::now()));
        left.into_iter().chain((!self.listed.is_empty()).then_some(TICK)).min()
    }

    fn kill_late(&mut self) {
        if self.dying.is_empty() {
            return;
        }
        let now = Instant::now();
        for dying in self.dying.values_mut() {
            if dying.kill_at.is_some_and(|at| at <= now) {
                dying.kill_at = None;
                dying.connection.kill_late();
            }
        }
    }
}
