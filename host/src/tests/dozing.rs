//! A connection that the service looks at now and then, over rings: what can wait is read, what cannot is read at once, and
//! nobody looks any more when nothing comes.

use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_wire::message::kind;
use sandgate_wire::ring::{self, Accepted};
use sandgate_wire::transport::socket_pair;

use crate::artefact::ArtefactStore;
use crate::channel::Channel;
use crate::connection::{Common, Connection};
use crate::deadline::Deadline;
use crate::fake_worker::{ENGINE, PATIENCE, bytes_of, done, eventually, frame, hello, module};
use crate::output::{OutputRouter, OutputSink};
use crate::spec::Spec;
use crate::{Outcome, WaitError};

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(1000);

struct Stage {
    connection: Arc<Connection>,
    worker: Accepted,
    task: Channel,
    /// Messages that were said, and not taken.
    said: Cell<usize>,
}

impl Stage {
    /// A worker that runs something.
    fn new() -> Stage {
        let (ours, theirs) = socket_pair().unwrap();
        let (send, receive) = ring::offer(ours).map_err(|(error, _)| error).unwrap();
        let output = OutputRouter::new("gw0".to_owned(), OutputSink::Discard);
        let common = Common::new(output, ArtefactStore::holding(&module(), ENGINE), None);
        let (spec, transport) = (Spec::popen().id("gw0"), (Box::new(send) as _, Box::new(receive) as _));
        let connection = Connection::start("gw0".to_owned(), spec, transport, None, common).unwrap();
        let worker = ring::accept(theirs).unwrap();
        worker.send.try_write(&[IoSlice::new(&bytes_of(&hello()))], None).unwrap();
        connection.wait_ready(Deadline::after(PATIENCE)).expect("a hello makes the connection ready");
        let task = connection.gateway().remote_exec(&module()).unwrap();
        Stage { connection, worker, task, said: Cell::new(0) }
    }

    fn data(&self) -> Vec<u8> {
        frame(kind::DATA, 0, self.task.id(), b"x")
    }

    fn say(&self) {
        self.said.set(self.said.get() + 1);
        self.worker.send.try_write(&[IoSlice::new(&self.data())], None).unwrap();
    }

    fn say_lazily(&self) {
        self.said.set(self.said.get() + 1);
        self.worker.send.try_write_lazily(&[IoSlice::new(&self.data())], None).unwrap();
    }

    fn end_lazily(&self, outcome: &Outcome) {
        let done = bytes_of(&done(self.task.id(), outcome.clone()));
        self.worker.send.try_write_lazily(&[IoSlice::new(&done)], None).unwrap();
    }

    /// Waits until all is read that was said.
    fn is_told(&self) {
        eventually("a message", || self.task.endpoint().waiting().0 == self.said.get());
    }

    fn takes(&self) {
        assert_eq!(self.task.receive_bytes_timeout(PATIENCE).unwrap(), b"x");
        self.said.set(self.said.get() - 1);
    }

    /// Says something until it dozes, which it does for a few milliseconds.
    fn dozes(&self) {
        self.connection.reading.may_doze_until(Instant::now() + LONG, LOOK);
        eventually("the connection to doze", || {
            self.say();
            self.is_told();
            self.connection.reading.dozes()
        });
    }

    /// The worker ends, and has said that the task has returned.
    fn ends(self, outcome: &Outcome) {
        drop(self.worker);
        match self.task.wait_close_timeout(PATIENCE) {
            Ok(()) => assert_eq!(*outcome, Outcome::Returned),
            Err(WaitError::Ended(ended)) => assert_eq!(ended, *outcome),
            Err(other) => panic!("{other}"),
        }
        assert!(self.connection.wait_ended(Deadline::after(PATIENCE)).is_some());
        self.connection.join();
    }
}

#[test]
fn what_can_wait_is_read_by_who_looks_and_who_finds_nothing_is_woken_again() {
    let stage = Stage::new();
    stage.dozes();
    for _ in 0..30 {
        // Rung for or looked for, whichever it finds.
        stage.say_lazily();
        stage.is_told();
    }
    eventually("the connection to be attended", || {
        !stage.connection.reading.dozes() && stage.connection.reading.is_attended()
    });
    stage.say_lazily();
    stage.is_told();
    stage.end_lazily(&Outcome::Returned);
    stage.ends(&Outcome::Returned);
}

#[test]
fn what_cannot_wait_is_read_while_it_dozes() {
    let stage = Stage::new();
    for _ in 0..20 {
        stage.dozes();
        stage.say_lazily();
        stage.worker.send.wake_peer().unwrap();
        stage.is_told();
        stage.say();
        stage.is_told();
    }
    stage.end_lazily(&Outcome::Returned);
    stage.ends(&Outcome::Returned);
}

#[test]
fn what_a_worker_has_said_before_its_end_is_read_although_it_dozes() {
    for _ in 0..20 {
        let stage = Stage::new();
        stage.dozes();
        stage.say_lazily();
        let outcome = Outcome::Exited { code: 3 };
        stage.end_lazily(&outcome);
        stage.ends(&outcome);
    }
}

#[test]
fn a_caller_that_waits_reads_what_dozes() {
    let stage = Stage::new();
    stage.dozes();
    while stage.said.get() > 0 {
        stage.takes();
    }
    std::thread::scope(|scope| {
        let task = &stage.task;
        let waiting = scope.spawn(|| task.receive_bytes_timeout(PATIENCE));
        eventually("a caller to lead", || stage.connection.reading.has_sleeping_leader());
        // It does not doze: it is rung for.
        stage.say_lazily();
        assert_eq!(waiting.join().unwrap().unwrap(), b"x");
    });
    stage.said.set(0);
    stage.dozes();
    stage.end_lazily(&Outcome::Returned);
    stage.ends(&Outcome::Returned);
}
