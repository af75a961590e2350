//! Where rows run, and what must hold after each of them, whatever it tried.
//!
//! ```text
//!  this process ──┬── gateway of the row ──┬── the row
//!                 │                        └── a sibling on the same worker ◄─┐
//!                 ├── a sibling gateway ◄───────────────────────────────────────┴─ the watch, all the time
//!                 └── a tree of canaries
//! ```
//!
//! 1. A census of this process; the watch begins to ask both siblings, again and again.
//! 2. The row runs. Its end is held against what was expected, its time against its bound.
//! 3. The watch stops. Its worst answer is held against a bound.
//! 4. The next task runs on the same gateway, or on the one that replaces it. Nothing of the row runs any more.
//! 5. Memory, descriptors, threads and children are what they were, there is no zombie, and the canaries are untouched.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandgate::{Call, Channel, Gateway, Group, Limits, Module, WaitError};
use sandgate_tests::{Census, LIMIT, builder, eventually, resident_bytes, run, sibling, spec, wat, within};

use crate::canary::Canary;
use crate::expected::{End, text_problems};
use crate::row::Row;
use crate::watch::Watch;

/// The next task's time, an instance and its end.
const NEXT_BOUND: Duration = Duration::from_secs(5);
/// How long the kernel may take to clear up after a row.
const SETTLE: Duration = Duration::from_secs(8);

/// What a module leaves for each way it was compiled.
const KEPT_ARTEFACT: &str = "/memfd:sandgate-artefact";

/// The one thread that looks at wall times. It sleeps until the earliest that it was told of, also if that is past.
const WATCHING: &str = r#"1 more: thread "sandgate-watch""#;

/// Rows of different tests count the same process, so they run one after the other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the rows of a section and fails with all that went wrong. They are made here, since some are large, and other tests
/// count what this process holds.
#[track_caller]
pub(crate) fn check(section: &str, rows: impl FnOnce() -> Vec<Row>) {
    let _alone = alone();
    let rows = rows();
    let mut house = House::new();
    let count = rows.len();
    let mut failures = Vec::new();
    for row in rows {
        let name = row.name.clone();
        let problems = house.run(row);
        if !problems.is_empty() {
            failures.push(format!("{name}:\n    {}", problems.join("\n    ")));
        }
    }
    drop(house);
    assert!(failures.is_empty(), "{section}: {} of {count} rows fail\n  {}", failures.len(), failures.join("\n  "));
}

pub(crate) struct House {
    group: Group,
    /// Of the rows that ask for nothing.
    shared: Gateway,
    neighbour: Channel,
    canary: Canary,
    next: Module,
}

/// A gateway for one row, and what is there beside the row.
struct Room {
    gateway: Gateway,
    sibling: Option<Channel>,
    is_shared: bool,
}

impl House {
    pub(crate) fn new() -> House {
        let group = builder().build();
        let neighbour = group.make_gateway(spec("popen//id=neighbour")).expect("a gateway");
        let shared = group.make_gateway(spec("popen")).expect("a gateway");
        let next = wat(r#"(module (func (export "_start")))"#);
        // What a process makes once is there before the first count.
        let call = Call::start().limits(Limits { wall_time: Some(LIMIT), ..Limits::default() });
        shared.remote_exec_with(&next, &call).expect("a task").wait_close_timeout(LIMIT).expect("its end");
        House { neighbour: run(&neighbour, "echo"), group, shared, canary: Canary::plant(), next }
    }

    /// Runs a row and says what is wrong.
    pub(crate) fn run(&mut self, row: Row) -> Vec<String> {
        let before = Census::take();
        let room = match self.room(&row) {
            Ok(room) => room,
            Err(problem) => return vec![problem],
        };
        let mut problems = Vec::new();
        // After the room was made, which has its cost, too.
        let host_bytes = resident_bytes();
        let worker_bytes = worker_bytes(&room.gateway);
        let (takes_worker, host_growth, worker_growth) = (row.takes_worker, row.host_growth, row.worker_growth);

        let watch = Watch::start(&self.neighbour, room.sibling.as_ref());
        let attended = catch_unwind(AssertUnwindSafe(|| attend(&room.gateway, row)));
        problems.extend(attended.unwrap_or_else(|panic| {
            // Nothing waits any more for a worker that is gone.
            room.gateway.kill();
            let text = panic.downcast_ref::<String>().map_or("it panics", |text| &text[..]);
            vec![text.to_owned()]
        }));
        problems.extend(watch.stop(takes_worker));

        problems.extend(self.usable(&room, takes_worker));
        if !takes_worker && let Some(before) = worker_bytes {
            let flat = settles(|| self::worker_bytes(&room.gateway).is_some_and(|now| now <= before + worker_growth));
            if !flat {
                let now = self::worker_bytes(&room.gateway);
                problems.push(format!("the worker has grown from {before} to {now:?} bytes"));
            }
        }
        self.leave(room);
        problems.extend(self.aftermath(&before, host_bytes, host_growth));
        problems
    }

    /// Runs something that starts its own gateways and ends them, and says what is wrong with it and with what it leaves.
    pub(crate) fn observe(&mut self, host_growth: u64, body: impl FnOnce(&Group) -> Vec<String>) -> Vec<String> {
        let (before, host_bytes) = (Census::take(), resident_bytes());
        let watch = Watch::start(&self.neighbour, None);
        let mut problems = body(&self.group);
        problems.extend(watch.stop(true));
        problems.extend(self.next_task(&self.shared));
        problems.extend(self.aftermath(&before, host_bytes, host_growth));
        problems
    }

    /// What of this process is not as it was.
    fn aftermath(&self, before: &Census, host_bytes: u64, host_growth: u64) -> Vec<String> {
        let mut problems = Vec::new();
        if !settles(|| resident_bytes() <= host_bytes + host_growth) {
            problems.push(format!("the host has grown from {host_bytes} to {} bytes", resident_bytes()));
        }
        let mut leaks = Vec::new();
        let settled = settles(|| {
            leaks = Census::take().more_than(before);
            // Compiled modules are kept, a bounded number of them.
            leaks.retain(|leak| !leak.contains(KEPT_ARTEFACT) && leak != WATCHING);
            leaks.is_empty()
        });
        if !settled {
            problems.push(format!("left behind: {}", leaks.join(", ")));
        }
        if let Some(zombie) = Census::take().children.iter().find(|child| child.zombie) {
            problems.push(format!("a zombie: {zombie:?}"));
        }
        problems.extend(self.canary.harm());
        problems
    }

    fn room(&mut self, row: &Row) -> Result<Room, String> {
        let is_shared = row.spec.is_empty() && !row.takes_worker;
        if is_shared && !self.shared.is_alive() {
            self.shared = self.group.make_gateway(spec("popen")).map_err(|error| format!("no gateway: {error}"))?;
        }
        let gateway = if is_shared {
            self.shared.clone()
        } else {
            let text = if row.spec.is_empty() { "popen".to_owned() } else { format!("popen//{}", row.spec) };
            self.group.make_gateway(spec(&text)).map_err(|error| format!("no gateway: {error}"))?
        };
        let sibling = row.has_sibling.then(|| sibling(&gateway));
        Ok(Room { gateway, sibling, is_shared })
    }

    /// Whether the gateway takes the next task, and does nothing else.
    fn usable(&mut self, room: &Room, takes_worker: bool) -> Vec<String> {
        if takes_worker && !room.gateway.is_alive() {
            // Replaced by any other: the group has to be able to make one.
            let made = self.group.make_gateway(spec("popen"));
            let problem = made.map(|gateway| {
                let problem = self.next_task(&gateway);
                gateway.terminate(LIMIT);
                problem
            });
            return problem
                .unwrap_or_else(|error| Some(format!("no gateway in its place: {error}")))
                .into_iter()
                .collect();
        }
        let mut problems: Vec<String> = self.next_task(&room.gateway).into_iter().collect();
        let siblings = u32::from(room.sibling.is_some() && !takes_worker);
        if problems.is_empty() && !takes_worker {
            let mut last = String::new();
            let quiet = settles(|| match room.gateway.status() {
                Ok(status) => {
                    last = format!("{status:?}");
                    (status.running, status.queued) == (siblings, 0)
                        && status.host_channels == siblings as usize
                        && status.channels == siblings
                }
                Err(error) => {
                    last = error.to_string();
                    false
                }
            });
            if !quiet {
                problems.push(format!("something of it goes on: {last}"));
            }
        }
        problems
    }

    fn next_task(&self, gateway: &Gateway) -> Option<String> {
        let start = Instant::now();
        let channel = match gateway.remote_exec(&self.next) {
            Ok(channel) => channel,
            Err(error) => return Some(format!("the next task is refused: {error}")),
        };
        match channel.wait_close_timeout(LIMIT) {
            Ok(()) if start.elapsed() <= NEXT_BOUND => None,
            Ok(()) => Some(format!("the next task took {:?}", start.elapsed())),
            Err(error) => Some(format!("the next task failed: {error}")),
        }
    }

    fn leave(&self, room: Room) {
        let Room { gateway, sibling, is_shared } = room;
        if let Some(sibling) = sibling {
            sibling.close_send();
            let _ = sibling.wait_close_timeout(LIMIT);
        }
        if !is_shared {
            gateway.terminate(Duration::from_secs(5));
        }
    }
}

/// Runs a row's guest and says what is wrong with its end.
fn attend(gateway: &Gateway, row: Row) -> Vec<String> {
    let Row { name, module, call, limits, visit, expected, bound, takes_worker, .. } = row;
    let timeout = limits.wall_time.unwrap_or_default();
    let grace = if takes_worker { gateway.spec().grace() } else { Duration::ZERO };
    let call = call.limits(limits);
    let gateway = gateway.clone();
    let (end, took, visited) = within(LIMIT + LIMIT, "the end of a row", move || {
        let asked = Instant::now();
        let channel = match gateway.remote_exec_with(&module, &call) {
            Ok(channel) => channel,
            Err(error) => return (End::Refused(error), asked.elapsed(), Ok(())),
        };
        // Compiling has limits of its own.
        let started = Instant::now();
        let visited = visit(&channel);
        let end = match channel.wait_close_timeout(LIMIT) {
            Ok(()) => Ok(channel.outcome().expect("it has ended")),
            Err(WaitError::Ended(outcome)) => Ok(outcome),
            Err(error) => Err(error.to_string()),
        };
        let took = started.elapsed();
        match end {
            Ok(outcome) => (End::Outcome(outcome), took, visited),
            Err(error) => {
                channel.gateway().kill();
                let outcome = channel.wait_close().err().and_then(|_| channel.outcome());
                (End::Outcome(outcome.unwrap_or(sandgate::Outcome::Closed)), took, visited.and(Err(error)))
            }
        }
    });
    let mut line = format!("{name}: {} after {took:.1?}", end.text());
    if line.len() > 400 {
        line.truncate(line.floor_char_boundary(400));
    }
    println!("{line}");
    let mut problems = Vec::new();
    if !expected.is(&end) {
        let mut problem = format!("ended as: {}; expected: {expected:?}", end.text());
        if let End::Outcome(outcome) = &end {
            let _ = write!(problem, "; {outcome:?}");
        }
        problem.truncate(problem.floor_char_boundary(1500));
        problems.push(problem);
    }
    let most = timeout + grace + bound;
    if matches!(end, End::Outcome(_)) && took > most {
        problems.push(format!("its end came after {took:?}, the bound is {most:?}"));
    }
    if matches!(end, End::Refused(_)) && took > bound {
        problems.push(format!("it was refused after {took:?}, the bound is {bound:?}"));
    }
    problems.extend(visited.err());
    problems.extend(text_problems(&end));
    problems
}

fn worker_bytes(gateway: &Gateway) -> Option<u64> {
    gateway.status().ok()?.memory_bytes
}

/// Whether something comes true within [`SETTLE`].
fn settles(mut condition: impl FnMut() -> bool) -> bool {
    sandgate_tests::comes_true(SETTLE, &mut condition)
}

#[test]
fn a_row_that_is_wrong_is_found_out() {
    use crate::expected::Expected;
    use crate::row::row;
    let _alone = alone();
    let mut house = House::new();
    let problems = house.run(row("returns", r#"(module (func (export "_start")))"#).expect(Expected::TimedOut));
    assert!(problems.len() == 1 && problems[0].starts_with("ended as: task returned"), "{problems:?}");
    let problems = house.run(row("returns", r#"(module (func (export "_start")))"#).says(&[b"x"]));
    assert!(problems.len() == 1 && problems[0].starts_with("the host heard []"), "{problems:?}");
    eventually(LIMIT, "the house to be quiet", || house.shared.status().is_ok_and(|status| status.running == 0));
}
