//! Who reads the connection: the main thread, or an executor that waits for what only the host can bring.
//!
//! ```text
//!                ┌── woke the only one that waits ──► free ◄── leads ends ──┐
//!  main: standing│                                     │                    │
//!                └── two ticks without a lead ◄────────┴──► an executor leads
//! ```
//!
//! An executor that is about to wait, for an event of its guest or for its next execution, reads the connection itself if
//! nobody does: it *leads*. So what it waits for costs no other thread. When it has that, the connection is *free*: the next
//! to wait leads, and the main thread, which looks once a millisecond while executors lead, takes over if none does. It does
//! so at once if another guest waits, and stays for as long as several do. Nothing ticks while a leader sleeps.
//!
//! All of it is decided under the hub's lock, and nobody reads while holding that. Nobody leads before [`main_loop::run`] has
//! begun. Beyond what the main thread does when it reads, a leader does nothing: no code of a guest runs.
//!
//! While the only executor runs one execution after the other, the main thread need not be woken for the next ones: it *dozes*,
//! which the host sees, and the executor looks itself when its queue is empty ([`glance`]). What cannot wait (a kill, data for a
//! guest) wakes the main thread, and from when the executor has nothing to do anything does.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::PollFlags;
use sandgate_wire::frame::{Arrived, FrameReader};
use sandgate_wire::reading::{Alarm, Ringer};
use sandgate_wire::transport::wait;

use crate::hub::HubGuard;
use crate::main_loop;
use crate::worker::{Ended, Worker, WorkerError};

mod straight;

#[cfg(test)]
pub(crate) use straight::PUT_BACK;
pub(crate) use straight::Strip;
use straight::Until;

/// Between two looks of the main thread.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Role {
    /// The main thread, or nobody yet.
    #[default]
    Standing,
    /// Nobody. The main thread looks after it.
    Free,
    /// An executor, on behalf of a guest.
    Guest,
    /// An executor that has no execution.
    Idle,
    /// Nobody any more.
    Over,
}

/// The part of it that the hub keeps.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) role: Role,
    /// How often somebody has led.
    leads: u64,
    /// The main thread is to read as soon as nobody does.
    wanted: bool,
    /// The main thread waits until it is told.
    asleep: bool,
    /// The main thread stands and dozes: the executor looks at the connection before it waits for work.
    dozes: bool,
    /// How the reading ended, for the main thread.
    ended: Option<Result<Ended, WorkerError>>,
}

/// Those who wait for what is read. Changed under the hub's lock.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    alarm: Alarm,
    /// Guests that wait and do not lead.
    asleep: AtomicUsize,
    /// Threads that were woken since the main thread looked, or are awake as if they had been, and do not sleep again.
    woken: AtomicUsize,
}

/// What an execution's thread waits on, together with the hub's lock.
#[derive(Debug)]
pub(crate) struct Waker {
    condition: Condvar,
    waiters: Arc<Waiters>,
    leads: AtomicBool,
    asleep: AtomicBool,
}

impl Waiters {
    /// An executor is awake that reads what it waits for next: it was given work, or takes a message while that arrives.
    pub(crate) fn executor_is_awake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    /// An executor waits for work without leading: it does not come by to read.
    pub(crate) fn executor_sleeps(&self) {
        let _ = self.woken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |woken| woken.checked_sub(1));
    }

    /// For the main thread, with the hub locked: whether somebody else comes by to read, so that it need not. Asked once for each
    /// time that somebody was woken.
    fn somebody_comes(&self) -> bool {
        self.woken.swap(0, Ordering::Relaxed) > 0 && self.asleep.load(Ordering::Relaxed) == 0
    }

    /// The leader is to look whether it still has to lead.
    pub(crate) fn raise(&self) {
        self.alarm.raise();
    }
}

impl Waker {
    pub(crate) fn new(waiters: &Arc<Waiters>) -> Waker {
        Waker {
            condition: Condvar::new(),
            waiters: Arc::clone(waiters),
            leads: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        }
    }

    /// Has the thread look at what it waits for. With the hub locked.
    pub(crate) fn wake(&self) {
        if self.leads.load(Ordering::Relaxed) {
            self.waiters.alarm.raise();
            return;
        }
        if self.gets_up() {
            self.waiters.woken.fetch_add(1, Ordering::Relaxed);
        }
        self.condition.notify_all();
    }

    /// Waits once, leading if nobody reads. A message that then arrives and has a `strip` lands there.
    pub(crate) fn wait(
        &self,
        worker: &Arc<Worker>,
        hub: &mut HubGuard<'_>,
        deadline: Option<Instant>,
        strip: Option<&mut Strip<'_>>,
    ) {
        if hub.reading.role == Role::Free {
            self.leads.store(true, Ordering::Relaxed);
            lead(worker, hub, Role::Guest, deadline, strip);
            self.leads.store(false, Ordering::Relaxed);
            return;
        }
        self.asleep.store(true, Ordering::Relaxed);
        self.waiters.asleep.fetch_add(1, Ordering::Relaxed);
        hub.wait(&self.condition, deadline);
        self.gets_up();
    }

    /// Counts it out of those that are asleep.
    fn gets_up(&self) -> bool {
        let was_asleep = self.asleep.swap(false, Ordering::Relaxed);
        if was_asleep {
            self.waiters.asleep.fetch_sub(1, Ordering::Relaxed);
        }
        was_asleep
    }
}

/// The connection, and what the threads need that take turns at it.
#[derive(Debug)]
pub(crate) struct Reading {
    waiters: Arc<Waiters>,
    /// Whoever has the role has this.
    frames: Mutex<Option<FrameReader>>,
    /// What wakes a leader; without it nobody leads.
    ringer: Option<Arc<Ringer>>,
    main: Condvar,
}

impl Reading {
    pub(crate) fn new(waiters: Arc<Waiters>, ringer: Option<Arc<Ringer>>) -> Reading {
        Reading { waiters, frames: Mutex::default(), ringer, main: Condvar::new() }
    }

    /// Has the main thread read as soon as nobody else does.
    pub(crate) fn attend(&self, hub: &mut HubGuard<'_>) {
        hub.reading.wanted = true;
        self.wake_main(hub);
    }

    fn wake_main(&self, hub: &mut HubGuard<'_>) {
        hub.reading.asleep = false;
        self.main.notify_one();
    }

    /// Reads on behalf of the caller.
    fn run(
        &self,
        worker: &Arc<Worker>,
        deadline: Option<Instant>,
        mut strip: Option<&mut Strip<'_>>,
    ) -> Option<Result<Ended, WorkerError>> {
        let mut frames = self.frames.lock();
        let (frames, ringer) = (frames.as_mut()?, self.ringer.as_ref()?);
        let until = Until { alarm: &self.waiters.alarm, ringer, deadline };
        loop {
            let end = turn(worker, frames, until, strip.as_deref_mut());
            if let Some(end) = end.transpose() {
                return Some(end);
            }
            if strip.as_ref().is_some_and(|strip| strip.is_done()) || until.is_over() {
                return None;
            }
        }
    }
}

/// Waits, reads once, and does what that says.
fn turn(
    worker: &Arc<Worker>,
    frames: &mut FrameReader,
    until: Until<'_>,
    strip: Option<&mut Strip<'_>>,
) -> Result<Option<Ended>, WorkerError> {
    until.wait(frames)?;
    match (frames.read_here()?, strip) {
        (Arrived::Bytes { .. }, None) => main_loop::take_all(worker, frames),
        (Arrived::Bytes { .. }, Some(strip)) => straight::take_all(worker, frames, strip, until),
        (Arrived::Nothing, _) => Ok(None),
        (Arrived::End, _) => Ok(Some(main_loop::end_of_stream(worker))),
    }
}

/// Reads on behalf of the caller until it is woken or `deadline` has come. The hub is let go meanwhile. Returns early if
/// there was something to write. Only to be called while nobody reads.
pub(crate) fn lead(
    worker: &Arc<Worker>,
    hub: &mut HubGuard<'_>,
    role: Role,
    deadline: Option<Instant>,
    strip: Option<&mut Strip<'_>>,
) {
    if hub.write_placed() {
        return;
    }
    let reading = &worker.reading;
    reading.waiters.alarm.lower();
    hub.reading.role = role;
    let mut ended = None;
    hub.unlocked(|| ended = reading.run(worker, deadline, strip));
    hub.reading.leads += 1;
    hub.reading.role = Role::Free;
    if ended.is_some() {
        hub.reading.role = Role::Over;
        hub.reading.ended = ended;
        reading.wake_main(hub);
    } else if reading.waiters.asleep.load(Ordering::Relaxed) > 0 {
        reading.attend(hub);
    } else if hub.reading.asleep {
        reading.wake_main(hub);
    }
}

/// The main thread: reads, and stands by while executors do. Returns how the connection ended.
pub(crate) fn stand(worker: &Arc<Worker>, frames: FrameReader) -> Result<Ended, WorkerError> {
    let reading = &worker.reading;
    let shares = reading.ringer.is_some() && frames.bell().is_some();
    *reading.frames.lock() = Some(frames);
    loop {
        if let Some(end) = read_standing(worker, shares).transpose() {
            worker.hub.lock().reading.role = Role::Over;
            return end;
        }
        if let Some(end) = stand_by(worker) {
            return end;
        }
    }
}

/// Reads until it is better that executors do.
fn read_standing(worker: &Arc<Worker>, shares: bool) -> Result<Option<Ended>, WorkerError> {
    let waiters = &worker.reading.waiters;
    let mut frames = worker.reading.frames.lock();
    loop {
        let has_dozed = match doze(worker, &mut frames)? {
            Dozed::Not => false,
            Dozed::UntilEnd(end) => return end.map(Some),
            Dozed::UntilRung => true,
        };
        let Some(reader) = frames.as_mut() else { return Ok(Some(Ended::HostGone)) };
        let is_open = if has_dozed { reader.read_here()? != Arrived::End } else { reader.wait_for_frame()? };
        if !is_open {
            return Ok(Some(main_loop::end_of_stream(worker)));
        }
        let end = main_loop::take_all(worker, reader)?;
        if end.is_some() {
            return Ok(end);
        }
        if !shares {
            continue;
        }
        let mut hub = worker.hub.lock();
        if waiters.somebody_comes() && !hub.reading.wanted {
            // Before anybody can lead.
            drop(frames);
            hub.reading.role = Role::Free;
            return Ok(None);
        }
        hub.reading.wanted = false;
    }
}

/// What came of dozing.
enum Dozed {
    /// It could not be.
    Not,
    /// Something is to be read, or not any more.
    UntilRung,
    /// The executor has met the end.
    UntilEnd(Result<Ended, WorkerError>),
}

/// Sleeps until something arrives that cannot wait, if the only executor is at work. The reader is let go meanwhile.
fn doze(worker: &Arc<Worker>, frames: &mut MutexGuard<'_, Option<FrameReader>>) -> Result<Dozed, WorkerError> {
    let Some(reader) = frames.as_mut() else { return Ok(Dozed::Not) };
    let bell = {
        let mut hub = worker.hub.lock();
        let is_at_work = worker.max_executions == 1 && hub.executors == 1 && hub.idle_executors == 0;
        if !is_at_work || hub.closed || reader.about_to_doze() != Some(true) {
            return Ok(Dozed::Not);
        }
        // With the hub locked, so that the executor sees it before it waits for work.
        hub.reading.dozes = true;
        reader.own_bell()
    };
    let waited = bell.map(|bell| {
        MutexGuard::unlocked(frames, || {
            let waited = wait(bell.as_fd(), PollFlags::IN, None);
            worker.hub.lock().reading.dozes = false;
            waited
        })
    });
    if let Some(end) = worker.hub.lock().reading.ended.take() {
        return Ok(Dozed::UntilEnd(end));
    }
    waited.transpose().map_err(|source| WorkerError::System { what: "wait for its connection", source })?;
    if let Some(reader) = frames.as_mut() {
        reader.has_dozed()?;
    }
    Ok(Dozed::UntilRung)
}

/// For the only executor, before it waits for work: while the main thread dozes it takes what is here, or has the main thread
/// woken for anything from here on if that is nothing. Whether it is to look again for work, and for whether that dozes.
pub(crate) fn glance(worker: &Arc<Worker>, hub: &mut HubGuard<'_>) -> bool {
    if hub.reading.dozes {
        hub.unlocked(|| look(worker));
        return true;
    }
    false
}

fn look(worker: &Arc<Worker>) {
    let Some(mut frames) = worker.reading.frames.try_lock() else {
        // The main thread is about to let them go, or to say that it does not doze any more.
        return std::thread::yield_now();
    };
    let Some(reader) = frames.as_mut() else { return };
    if !reader.may_have_something() {
        let mut hub = worker.hub.lock();
        // The main thread may be up by now, and may have queued something.
        hub.reading.dozes &= !(hub.queue.is_empty() && reader.sleeps_from_here());
        return;
    }
    let end = match reader.read_here() {
        Ok(Arrived::Bytes { .. }) => main_loop::take_without_bell(worker, reader),
        Ok(Arrived::Nothing | Arrived::End) => {
            // The main thread is told of the end as well.
            worker.hub.lock().reading.dozes = false;
            return;
        }
        Err(error) => Err(error.into()),
    };
    let Some(end) = end.transpose() else { return };
    let is_orderly = end.is_ok();
    {
        // While nobody else reads, so that nobody finds another end. That of the connection wakes the main thread.
        let mut hub = worker.hub.lock();
        hub.reading.dozes = false;
        hub.reading.ended.get_or_insert(end);
    }
    drop(frames);
    if is_orderly {
        worker.outbox.flush();
    }
    worker.outbox.shutdown();
}

/// Waits until the main thread is to read; or the end, if a leader has met it.
fn stand_by(worker: &Arc<Worker>) -> Option<Result<Ended, WorkerError>> {
    let main = &worker.reading.main;
    let mut hub = worker.hub.lock();
    let mut seen = hub.reading.leads;
    let mut tick = Instant::now() + TICK;
    loop {
        let is_free = hub.reading.role == Role::Free;
        if let Some(end) = hub.reading.ended.take() {
            return Some(end);
        }
        if is_free && std::mem::take(&mut hub.reading.wanted) {
            hub.reading.role = Role::Standing;
            return None;
        }
        if Instant::now() >= tick {
            if hub.reading.leads == seen {
                if is_free {
                    hub.reading.role = Role::Standing;
                    return None;
                }
                if worker.startup_pages.give_back(&mut hub) {
                    continue;
                }
                hub.reading.asleep = true;
                while hub.reading.asleep {
                    hub.wait(main, None);
                }
            }
            seen = hub.reading.leads;
            tick = Instant::now() + TICK;
            continue;
        }
        hub.wait(main, Some(tick));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_that_sleeps_again_does_not_come_by() {
        let waiters = Waiters::default();
        waiters.executor_is_awake();
        assert!(waiters.somebody_comes() && !waiters.somebody_comes());
        waiters.executor_is_awake();
        waiters.executor_sleeps();
        assert!(!waiters.somebody_comes());
        waiters.executor_sleeps();
        waiters.executor_is_awake();
        assert!(waiters.somebody_comes(), "who was not woken cannot take that back");
    }
}
