//! Who reads a connection.
//!
//! ```text
//!               ┌──────── the bell rings: service reads ◄───────┐
//!  attended ────┤                                               │ armed by the service after two ticks,
//!               └─ a caller is about to wait: it leads ─► free ─┘ or at once if somebody else waits
//!                                              ▲           │
//!                                              └───────────┘ it, or another caller, leads again
//! ```
//!
//! A caller that is about to wait for something only the worker can bring reads the connection itself, if nobody does: it
//! *leads*. So an answer costs no other thread. It leads until what it waits for is there, its deadline has come, or somebody
//! [raises the alarm](Alarm). Then the connection is *free*, for a caller that has led once is likely to come back soon, and
//! the [service] would be woken for nothing. It looks after two ticks of a millisecond, unless somebody leads again, and from
//! then on it is woken when something arrives: the connection is *attended*. Whoever waits beside a leader, or is told
//! instead of waiting, sees to it that the connection is attended as soon as nobody leads.
//!
//! While much arrives that can wait, results of a pool's short tasks, an attended connection *dozes*: the service looks at it every
//! few milliseconds, at all that doze in one go, and the bell rings for what cannot wait, and when the worker has nothing more
//! to do. It dozes as long as the pool gives it such tasks ([`may_doze_until`](Reading::may_doze_until)) and results come; then it is
//! attended as any other, so that nothing ticks where nothing happens.
//!
//! Invariant: a connection that is free is listed with the service, or about to be. What is told to a thread in vain costs
//! two milliseconds then, and nothing is lost.
//!
//! Lock order: whoever reads has the role, and locks endpoints and the table with it. The role itself is only tried.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use sandgate_wire::frame::FrameReader;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::reading::{Alarm, Ringer, let_threads_step_aside};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::reader::{Reader, Turn};
use crate::service::Place;

#[cfg(test)]
mod model;

/// Reads of one connection that the service does before others get their turn.
const MAX_TURNS: usize = 4;
/// Looks at a connection that dozes, and that says nothing, before it is attended again.
const LOOKS_IN_VAIN: u32 = 2;

/// What wakes leaders, for so many of them at once; more are made and closed as they are needed. There from the first
/// connection on, so that a call leaves no descriptor behind.
const READY_RINGERS: usize = 8;

static RINGERS: Mutex<Vec<Arc<Ringer>>> = Mutex::new(Vec::new());

/// Makes the ringers that are to be there, without which callers that wait have others read, and lets callers step aside.
fn make_ringers() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        RINGERS.lock().extend((0..READY_RINGERS).map_while(|_| Ringer::event().ok()));
        let_threads_step_aside();
    });
}

fn take_ringer() -> Option<Arc<Ringer>> {
    let ready = RINGERS.lock().pop();
    ready.or_else(|| Ringer::event().ok())
}

fn give_ringer_back(ringer: Arc<Ringer>) {
    let mut ringers = RINGERS.lock();
    if ringers.len() < READY_RINGERS {
        ringers.push(ringer);
    }
}

/// Who reads one connection.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    role: Mutex<Option<Role>>,
    /// Where the service has the connection, from its beginning on.
    place: OnceLock<Place>,
    alarm: Alarm,
    /// How often somebody has led.
    leads: AtomicU64,
    /// The service is woken by the bell. Changed by whoever has the role.
    attended: AtomicBool,
    /// The service looks at it with each tick.
    listed: AtomicBool,
    /// The service was here and found the role taken.
    missed: AtomicBool,
    /// Those who do not read and want it to be read.
    beside: AtomicUsize,
    /// Until when the service may look now and then instead of being woken, in nanoseconds since [`beginning`].
    may_doze_until: AtomicU64,
    /// How often it looks then, in microseconds.
    look_every: AtomicU32,
}

/// The right to read, and what is needed for it.
#[derive(Debug)]
struct Role {
    reader: Reader,
    place: Place,
    /// What wakes whoever leads, kept while callers lead again and again.
    ringer: Option<Arc<Ringer>>,
    /// The service looks now and then, and is woken for what cannot wait: since so many looks in vain.
    dozes: Option<u32>,
    /// The connection is over, and the service is to end it.
    over: Option<Option<LossCause>>,
}

/// A caller that reads the connection from here on.
pub(crate) struct Lead<'a> {
    connection: &'a Arc<Connection>,
    reading: &'a Reading,
    /// Until it is dropped.
    role: Option<MutexGuard<'a, Option<Role>>>,
    ringer: Arc<Ringer>,
}

/// Somebody who waits for what is read, and does not read.
pub(crate) struct Beside<'a>(&'a Reading);

/// What the service is to do after its look at a connection.
#[derive(Debug)]
pub(crate) enum Visited {
    /// Nothing until it is woken.
    Done,
    /// To [look](Reading::look) in a moment, and nothing else until it is woken.
    Dozes,
    /// To come back, after others.
    Again,
    /// To end it.
    Over(Option<LossCause>),
}

impl Role {
    /// Has the service woken when something arrives; false if something may be here.
    fn attend(&mut self, reading: &Reading) -> bool {
        self.dozes = None;
        self.reader.frames.about_to_wait() && self.arm(reading)
    }

    /// Has the service woken when something arrives that cannot wait; false if something may be here. None if it is to be woken
    /// for anything.
    fn doze(&mut self, reading: &Reading) -> Option<bool> {
        if !reading.may_doze() {
            return None;
        }
        let dozes = self.reader.frames.about_to_doze()? && self.arm(reading);
        self.dozes = dozes.then_some(0);
        Some(dozes)
    }

    /// Has the service hear the bell, unless it does.
    fn arm(&mut self, reading: &Reading) -> bool {
        let Some(bell) = self.reader.frames.bell() else { return false };
        let attended = reading.attended.load(Ordering::SeqCst) || self.place.arm(bell).is_ok();
        reading.attended.store(attended, Ordering::SeqCst);
        attended
    }
}

/// What moments are counted from.
fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}

fn since_beginning(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(beginning()).as_nanos()).unwrap_or(u64::MAX)
}

impl Reading {
    /// The service reads it from here on.
    pub(crate) fn begin(&self, frames: FrameReader, place: Place) -> io::Result<()> {
        make_ringers();
        let mut role = self.role.lock();
        let reader = Reader::new(frames);
        place.add(reader.frames.bell().ok_or(io::ErrorKind::Unsupported)?)?;
        let _ = self.place.set(place.clone());
        let role_of_it = role.insert(Role { reader, place, ringer: None, dozes: None, over: None });
        // What is here already has rung no bell.
        let look = (!role_of_it.attend(self)).then(|| role_of_it.place.clone());
        self.release(role);
        if let Some(place) = look {
            place.poke();
        }
        Ok(())
    }

    /// The caller reads from here on, unless somebody does or that cannot be. Tried with endpoints locked.
    pub(crate) fn try_lead<'a>(&'a self, connection: &'a Arc<Connection>) -> Option<Lead<'a>> {
        let mut role = self.role.try_lock()?;
        let ready = role.as_mut().filter(|role| role.over.is_none() && role.reader.is_greeted());
        let Some(ringer) = ready.and_then(|role| role.ringer.take().or_else(take_ringer)) else {
            self.release(role);
            return None;
        };
        self.alarm.lower();
        Some(Lead { connection, reading: self, role: Some(role), ringer })
    }

    /// Whoever leads is to look whether it still has to.
    pub(crate) fn raise(&self) {
        self.alarm.raise();
    }

    /// For a caller that waits for what is read and does not read.
    pub(crate) fn beside(&self) -> Beside<'_> {
        self.add_beside();
        Beside(self)
    }

    /// Somebody is told of what is read, without a call that waits, until [`end_beside`](Self::end_beside).
    pub(crate) fn add_beside(&self) {
        self.beside.fetch_add(1, Ordering::SeqCst);
        self.attend_for_others();
    }

    /// Has the service woken from here on, unless somebody reads or it is.
    fn attend_for_others(&self) {
        let Some(mut role) = self.role.try_lock() else { return };
        let mut look = None;
        if let Some(role) = &mut *role
            && !self.attended.load(Ordering::SeqCst)
            && role.over.is_none()
            && !role.attend(self)
        {
            look = Some(role.place.clone());
        }
        self.release(role);
        if let Some(place) = look {
            place.poke();
        }
    }

    /// As [`add_beside`](Self::add_beside). Whoever has been there before has seen to it that it is attended, or had somebody who
    /// leads see to it.
    pub(crate) fn add_one_beside(&self) {
        if self.beside.fetch_add(1, Ordering::SeqCst) == 0 {
            self.attend_for_others();
        }
    }

    pub(crate) fn end_beside(&self) {
        self.beside.fetch_sub(1, Ordering::SeqCst);
    }

    fn release(&self, role: MutexGuard<'_, Option<Role>>) {
        drop(role);
        if self.missed.load(Ordering::SeqCst)
            && self.missed.swap(false, Ordering::SeqCst)
            && let Some(place) = self.place.get()
        {
            place.poke();
        }
    }

    /// For the service: reads what is here, and has it woken when there is more. If somebody else reads, that one pokes the
    /// service when it leaves.
    pub(crate) fn visit(&self, connection: &Arc<Connection>) -> Visited {
        self.try_role().map_or(Visited::Done, |role| self.visit_with(role, connection))
    }

    /// For the service: as [`visit`](Self::visit), if nobody reads.
    pub(crate) fn visit_free(&self, connection: &Arc<Connection>) -> Visited {
        self.role.try_lock().map_or(Visited::Done, |role| self.visit_with(role, connection))
    }

    /// For the service, at a connection that dozes: reads what is here, if it still does. If somebody else has the role, that one
    /// pokes the service when it leaves.
    pub(crate) fn look(&self, connection: &Arc<Connection>) -> Visited {
        let Some(mut guard) = self.try_role() else { return Visited::Done };
        let looked = guard.as_mut().map_or(Looked::Done, |role| role.look(self));
        match looked {
            Looked::Found => self.visit_with(guard, connection),
            Looked::Dozes | Looked::Done => {
                self.release(guard);
                if looked == Looked::Dozes { Visited::Dozes } else { Visited::Done }
            }
        }
    }

    /// Until then much arrives that can wait for so long: the service need not be woken for it.
    pub(crate) fn may_doze_until(&self, until: Instant, every: Duration) {
        self.look_every.store(u32::try_from(every.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.may_doze_until.store(since_beginning(until), Ordering::Relaxed);
    }

    /// How long after one look the next one is due.
    pub(crate) fn look_every(&self) -> Duration {
        Duration::from_micros(self.look_every.load(Ordering::Relaxed).into())
    }

    fn may_doze(&self) -> bool {
        let until = self.may_doze_until.load(Ordering::Relaxed);
        until > 0 && since_beginning(Instant::now()) < until
    }

    fn visit_with(&self, mut role: MutexGuard<'_, Option<Role>>, connection: &Arc<Connection>) -> Visited {
        let visited = match &mut *role {
            None => Visited::Done,
            Some(role) => role.visit(connection, self),
        };
        if let Visited::Over(_) = visited {
            // Nothing is read any more.
            *role = None;
        }
        self.release(role);
        visited
    }

    /// The role, or a mark for whoever has it.
    fn try_role(&self) -> Option<MutexGuard<'_, Option<Role>>> {
        self.role.try_lock().or_else(|| {
            self.missed.store(true, Ordering::SeqCst);
            // Who has let it go before the mark was there does not see it.
            self.role.try_lock()
        })
    }

    // ---- ticks ----

    /// How often somebody has led.
    pub(crate) fn leads(&self) -> u64 {
        self.leads.load(Ordering::SeqCst)
    }

    /// For the service: nobody has led anew since the last tick, so either somebody leads and goes on, or nobody reads. True
    /// if it is to be listed all the same.
    pub(crate) fn unlist(&self, seen: u64) -> bool {
        self.listed.store(false, Ordering::SeqCst);
        self.leads() != seen && !self.listed.swap(true, Ordering::SeqCst)
    }
}

#[cfg(test)]
impl Reading {
    /// Whether a caller leads and has nothing to do.
    pub(crate) fn has_sleeping_leader(&self) -> bool {
        self.alarm.is_asleep()
    }

    /// Whether nobody reads, and all that has arrived was read. For a socket.
    pub(crate) fn has_read_all(&self) -> bool {
        self.is(|role| {
            let bell = role.reader.frames.bell();
            bell.is_none_or(|socket| rustix::io::ioctl_fionread(socket).is_ok_and(|count| count == 0))
        })
    }

    /// Whether the service looks at it now and then.
    pub(crate) fn dozes(&self) -> bool {
        self.is(|role| role.dozes.is_some())
    }

    /// Whether that holds, if nobody reads. The service may have come in vain meanwhile.
    fn is(&self, what: impl Fn(&Role) -> bool) -> bool {
        let Some(role) = self.role.try_lock() else { return false };
        let is = role.as_ref().is_some_and(what);
        self.release(role);
        is
    }

    /// Whether the service is woken by the bell.
    pub(crate) fn is_attended(&self) -> bool {
        self.attended.load(Ordering::SeqCst)
    }

    /// Whether the service comes when it is woken by the bell, and not before: it is in nobody's way who is about to lead.
    pub(crate) fn is_left_alone(&self) -> bool {
        let is_quiet = !self.listed.load(Ordering::SeqCst) && !self.missed.load(Ordering::SeqCst);
        is_quiet && self.is_attended() && !self.role.is_locked()
    }
}

/// What came of a look at a connection that dozes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// There is something to read.
    Found,
    /// Nothing, and it dozes on.
    Dozes,
    /// It does not doze any more, and is attended or read by somebody else.
    Done,
}

impl Role {
    fn look(&mut self, reading: &Reading) -> Looked {
        let Some(in_vain) = self.dozes else { return Looked::Done };
        if self.reader.frames.may_have_something() {
            return Looked::Found;
        }
        if in_vain < LOOKS_IN_VAIN && reading.may_doze() {
            self.dozes = Some(in_vain + 1);
            return Looked::Dozes;
        }
        if self.attend(reading) { Looked::Done } else { Looked::Found }
    }

    fn visit(&mut self, connection: &Arc<Connection>, reading: &Reading) -> Visited {
        reading.attended.store(false, Ordering::SeqCst);
        if self.dozes.take().is_some()
            && let Err(error) = self.reader.frames.has_dozed()
        {
            tracing::debug!(gateway = %connection.id, "its bell cannot be heard: {error}");
        }
        if let Some(ringer) = self.ringer.take() {
            give_ringer_back(ringer);
        }
        let mut turns = 0;
        while self.over.is_none() {
            if turns == MAX_TURNS {
                return Visited::Again;
            }
            turns += 1;
            match self.reader.turn(connection) {
                Turn::More => {}
                Turn::Nothing => match self.doze(reading) {
                    Some(true) => return Visited::Dozes,
                    Some(false) => {}
                    None if self.attend(reading) => return Visited::Done,
                    None => {}
                },
                Turn::Over(why) => self.over = Some(why),
            }
        }
        if let Some(bell) = self.reader.frames.bell() {
            self.place.remove(bell);
        }
        Visited::Over(self.over.take().flatten())
    }
}

impl Lead<'_> {
    /// Reads until the alarm is raised, `deadline` has come, or the connection is over.
    pub(crate) fn run(mut self, deadline: Deadline) {
        let alarm = &self.reading.alarm;
        let role = self.role.as_deref_mut().and_then(Option::as_mut);
        let Some(Role { reader, place, dozes, over, .. }) = role else { return };
        *dozes = None;
        if self.reading.attended.load(Ordering::SeqCst)
            && let Some(bell) = reader.frames.bell()
        {
            self.reading.attended.store(false, Ordering::SeqCst);
            // If that fails the service looks in vain.
            let _ = place.disarm(bell);
        }
        loop {
            if reader.frames.wait(alarm, &self.ringer, deadline.at()).is_err() {
                break;
            }
            match reader.turn(self.connection) {
                Turn::More | Turn::Nothing => {}
                Turn::Over(why) => {
                    *over = Some(why);
                    break;
                }
            }
            if alarm.is_raised() || deadline.is_over() {
                break;
            }
        }
    }
}

impl Drop for Lead<'_> {
    /// Leaves the connection to others.
    fn drop(&mut self) {
        let Some(mut guard) = self.role.take() else { return };
        let reading = self.reading;
        let (Some(role), Some(place)) = (&mut *guard, reading.place.get()) else { return };
        role.ringer = Some(Arc::clone(&self.ringer));
        if std::thread::panicking() && role.over.is_none() {
            role.over = Some(Some(LossCause::Unknown { message: "reading it panicked".to_owned() }));
        }
        let over = role.over.is_some();
        reading.leads.fetch_add(1, Ordering::SeqCst);
        let attended = !over && reading.beside.load(Ordering::SeqCst) > 0 && role.attend(reading);
        reading.release(guard);
        if over {
            place.poke();
        } else if !attended && !reading.listed.load(Ordering::SeqCst) && !reading.listed.swap(true, Ordering::SeqCst) {
            place.list(self.connection);
        }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        self.0.end_beside();
    }
}
