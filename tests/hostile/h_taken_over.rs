//! H. Workers and compilers that were taken over, as real processes: the program `taken-over` in the place of the worker.
//!
//! The host drops such a worker, ends its channels with a typed error within a bound, and all else goes on. What native code
//! can do behind a real lock-down is in [`native`](crate::native).

use std::time::{Duration, Instant};

use sandgate::{Channel, ExecError, Gateway, GatewayError, Module, Outcome, Spec, Transport, WaitError};
use sandgate_tests::{LIMIT, builder, within};

use crate::expected::{End, text_problems};
use crate::house::{House, alone};
use crate::row::HOST_GROWTH;

/// What an end may take once it is due.
const BOUND: Duration = Duration::from_secs(2);
/// What all gateways of these rows have.
const GRACE: Duration = Duration::from_millis(300);
const HELLO: Duration = Duration::from_millis(700);

/// What the host does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It waits: the end is due at once.
    Waits,
    /// It waits, for a flood to become too much.
    Endures,
    /// It kills the task; the end is due after the grace.
    Kills,
    /// The task has a timeout; the end is due after that and the grace.
    TimesOut,
    /// It terminates the gateway; the end is due then.
    Terminates,
}

/// What comes of the task.
#[derive(Debug, Clone, Copy)]
enum Comes {
    /// There never is a gateway: the error says this.
    NoGateway(&'static str),
    /// The worker is lost, and the text says this.
    Lost(&'static str),
    Killed,
    TimedOut,
    /// The task ends as the worker says, and the gateway lives.
    AsSaid,
    /// It is lost or killed.
    Any,
}

/// A way to misbehave, which is the id of the gateway.
type Row = (&'static str, Then, Comes);

const ROWS: &[Row] = {
    use Comes::{Any, AsSaid, Killed, Lost, NoGateway, TimedOut};
    use Then::{Endures, Kills, Terminates, TimesOut, Waits};
    &[
        ("never-says-hello", Waits, NoGateway("no hello within")),
        ("says-garbage-for-hello", Waits, NoGateway("broke the protocol")),
        ("says-half-a-hello", Waits, NoGateway("no hello within")),
        ("begins-with-something-else", Waits, NoGateway("did not begin with a hello")),
        ("is-of-another-version", Waits, NoGateway("99.0.0")),
        ("speaks-another-protocol", Waits, NoGateway("broke the protocol")),
        ("crashes-before-hello", Waits, NoGateway("exited with code 9")),
        ("has-an-engine-with-a-long-name", Kills, NoGateway("engine")),
        ("reports-a-lot", Kills, NoGateway("report")),
        ("says-hello-twice", Waits, Lost("a second hello")),
        ("writes-garbage", Waits, Lost("broke the protocol")),
        ("announces-4-gib", Waits, Lost("frame of 4294967295 bytes")),
        ("announces-a-message-of-2-to-the-64", Waits, Lost("larger than the maximum")),
        ("writes-to-a-channel-that-is-not", Waits, Lost("channel 4711 does not exist")),
        ("writes-to-the-connection", Waits, Lost("channel 0 does not exist")),
        ("ends-a-channel-that-is-not", Waits, Lost("execution 4711 does not run")),
        ("ends-a-plain-channel", Waits, Lost("is no execution")),
        ("ends-twice", Waits, AsSaid),
        ("closes-twice", Waits, Lost("cannot be closed")),
        ("gives-negative-credit", Waits, Lost("more credit")),
        ("gives-credit-beyond-the-window", Waits, Lost("more credit")),
        ("writes-without-credit", Waits, Lost("without credit")),
        ("writes-much-without-credit", Waits, Lost("without credit")),
        ("prints-without-credit", Waits, Lost("output without credit")),
        ("prints-more-than-it-may", Kills, Any),
        ("prints-escapes", Waits, AsSaid),
        ("opens-without-end", Endures, Lost("channels")),
        // How many it takes until it is dropped is the business of the host's own tests.
        ("opens-and-closes-without-reading", Kills, Any),
        ("opens-the-hosts-channels", Waits, Lost("out of order")),
        ("tells-a-status-that-nobody-asked-for", Waits, Lost("nobody asked for")),
        ("makes-up-a-status", Kills, Killed),
        ("ends-with-a-long-text", Waits, AsSaid),
        ("ends-with-a-long-backtrace", Waits, AsSaid),
        ("ends-with-many-tasks", Waits, AsSaid),
        ("ends-as-the-host-alone-can-say", Waits, Lost("cannot end as it says")),
        ("writes-half-a-frame", Kills, Killed),
        ("writes-half-a-frame", TimesOut, TimedOut),
        ("writes-half-a-frame", Terminates, Killed),
        ("writes-a-byte-at-a-time", Kills, Killed),
        ("writes-a-byte-at-a-time", TimesOut, TimedOut),
        ("writes-a-byte-at-a-time", Terminates, Killed),
        ("closes-its-end", Waits, Lost("signal 9")),
        ("closes-its-writing-end", Waits, Lost("signal 9")),
        ("stops-itself", Kills, Killed),
        ("stops-itself", TimesOut, TimedOut),
        ("stops-itself", Terminates, Killed),
        ("ignores-everything", Kills, Killed),
        ("ignores-everything", TimesOut, TimedOut),
        ("ignores-everything", Terminates, Killed),
        ("leaves-a-child-with-the-connection", Waits, Lost("exited with code 0")),
        ("crashes-and-leaves-a-child-with-the-connection", Waits, Lost("signal 9")),
        ("exits", Waits, Lost("exited with code 0")),
        ("exits-with-a-code", Waits, Lost("exited with code 77")),
        ("floods-its-last-words", Waits, Lost("exited with code 3")),
        ("attaches-descriptors", Waits, AsSaid),
        ("says-what-no-message-is", Waits, Lost("does not exist")),
        ("says-what-only-a-host-says", Waits, Lost("does not exist")),
        ("says-what-only-a-compiler-says", Waits, Lost("broke the protocol")),
    ]
};

/// What a worker does to its rings, whatever the transport of all other tests is.
const RING_ROWS: &[Row] = {
    use Comes::{Any, Killed, Lost};
    use Then::{Kills, Waits};
    &[
        ("ring-tail-goes-back", Waits, Lost("position 1 in the ring is not between")),
        ("ring-tail-leaps-ahead", Waits, Lost("in the ring is not between")),
        ("ring-tail-is-at-the-end-of-numbers", Waits, Lost("position 18446744073709551615 in the ring")),
        ("ring-head-goes-back-and-leaps", Kills, Any),
        ("ring-is-scribbled-over", Waits, Lost("in the ring is not between")),
        ("ring-is-scribbled-over-for-ever", Waits, Lost("in the ring is not between")),
        ("ring-wakes-its-host-for-ever", Kills, Killed),
        ("ring-never-lets-its-host-wake", Kills, Killed),
        ("ring-says-that-it-sleeps-for-ever", Kills, Killed),
        ("ring-closes-the-bell-for-room", Kills, Killed),
    ]
};

#[test]
fn a_worker_that_was_taken_over_is_dropped_and_nobody_else_notices() {
    check(ROWS);
}

#[test]
fn a_worker_that_spoils_shared_memory_is_dropped_and_nobody_else_notices() {
    check(RING_ROWS);
}

fn check(rows: &[Row]) {
    let _alone = alone();
    let mut house = House::new();
    let mut failures = Vec::new();
    for row in rows {
        let problems = house.observe(growth(row.1), |_| misbehaves(row));
        if !problems.is_empty() {
            failures.push(format!("{}, {:?}:\n    {}", row.0, row.1, problems.join("\n    ")));
        }
    }
    assert!(failures.is_empty(), "H: {} of {} rows fail\n  {}", failures.len(), rows.len(), failures.join("\n  "));
}

/// A gateway whose worker is the program `taken-over`.
pub(crate) fn spec_of(id: &str) -> Spec {
    let spec = Spec::popen().id(id).worker(env!("CARGO_BIN_EXE_taken-over"));
    let spec = if id.starts_with("ring-") { spec.transport(Transport::Ring) } else { spec };
    spec.with_grace(GRACE).with_hello_deadline(HELLO)
}

/// What the host may keep of a row. Of what a flood took its allocator gives not all back.
fn growth(then: Then) -> u64 {
    if then == Then::Endures { 96 << 20 } else { HOST_GROWTH }
}

/// What is wrong with what comes of a row.
fn misbehaves(&(id, then, comes): &Row) -> Vec<String> {
    // Of its own, since the same id comes more than once.
    let group = builder().build();
    let asked = Instant::now();
    let gateway = match (group.make_gateway(spec_of(id)), comes) {
        (Ok(gateway), _) => gateway,
        (Err(error), Comes::NoGateway(part)) => {
            println!("{id}: {} after {:.1?}", short(&error.to_string()), asked.elapsed());
            return handshake_problems(&error, part, asked.elapsed());
        }
        (Err(error), _) => return vec![format!("there is no gateway: {error:?}")],
    };
    let timeout = Duration::from_millis(200);
    let most = BOUND
        + match then {
            Then::Waits | Then::Terminates => Duration::ZERO,
            Then::Endures => Duration::from_secs(20),
            Then::Kills => GRACE,
            Then::TimesOut => timeout + GRACE,
        };
    let body = {
        let gateway = gateway.clone();
        move || attend(&gateway, then, timeout, most)
    };
    let (started, ends) = within(LIMIT, "the ends of a worker that was taken over", body);
    let took = started.elapsed();
    let mut problems = Vec::new();
    if took > most {
        problems.push(format!("the end came after {took:?}, the bound is {most:?}"));
    }
    match ends {
        Err(error) => problems.push(error),
        Ok(ends) => {
            println!("{id}, {then:?}: {} after {took:.1?}", short(&ends[0].text()));
            problems.extend(end_problems(&ends[0], comes));
            problems.extend(ends.iter().flat_map(text_problems));
        }
    }
    let ending = gateway.terminate(Duration::from_millis(500));
    if !gateway.join(Duration::ZERO) {
        problems.push(format!("the worker is not gone: {ending:?}"));
    }
    problems
}

/// Runs a task and opens a channel, does what is to be done, and waits for the ends of both.
fn attend(gateway: &Gateway, then: Then, timeout: Duration, most: Duration) -> (Instant, Result<Vec<End>, String>) {
    let module = Module::from_bytes(*b"any bytes are a module to it").expect("bytes");
    let call = sandgate::Call::start();
    let call = match then {
        Then::TimesOut => call.limits(sandgate::Limits { wall_time: Some(timeout), ..sandgate::Limits::default() }),
        _ => call,
    };
    let started = Instant::now();
    let both = gateway.remote_exec_with(&module, &call).and_then(|task| Ok((task, gateway.new_channel()?)));
    let (task, plain) = match both {
        Ok(both) => both,
        // It was quicker.
        Err(error @ ExecError::GatewayClosed { .. }) => return (started, Ok(vec![End::Refused(error)])),
        Err(error) => return (started, Err(format!("nothing runs: {error:?}"))),
    };
    let started = Instant::now();
    match then {
        Then::Waits | Then::Endures | Then::TimesOut => {}
        Then::Kills => drop(task.kill()),
        Then::Terminates => drop(gateway.terminate(Duration::ZERO)),
    }
    let end = |channel: &Channel| match channel.wait_close_timeout(most + BOUND) {
        Ok(()) => Ok(channel.outcome().expect("it has ended")),
        Err(WaitError::Ended(outcome)) => Ok(outcome),
        Err(error) => Err(error.to_string()),
    };
    let task_end = end(&task);
    let ended = Instant::now();
    let started = started + (Instant::now() - ended);
    // A plain channel of a worker that lives on ends when somebody closes it.
    plain.close();
    let ends = task_end.and_then(|task| Ok(vec![End::Outcome(task), End::Outcome(end(&plain)?)]));
    (started, ends)
}

fn handshake_problems(error: &GatewayError, part: &str, took: Duration) -> Vec<String> {
    let mut problems = Vec::new();
    let text = error.to_string();
    if !text.contains(part) {
        problems.push(format!("`{part}` was expected, not: {text}"));
    }
    if took > HELLO + BOUND {
        problems.push(format!("it was refused after {took:?}"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        problems.push(format!("its text tells a terminal what to do: {text:?}"));
    }
    if text.len() > 16 * 1024 {
        problems.push(format!("its text has {} bytes", text.len()));
    }
    problems
}

fn end_problems(end: &End, comes: Comes) -> Vec<String> {
    let mut problems = Vec::new();
    let text = end.text();
    let is_right = match (comes, end) {
        (
            Comes::Lost(part),
            End::Outcome(Outcome::WorkerLost { .. }) | End::Refused(ExecError::GatewayClosed { .. }),
        ) => text.contains(part),
        (Comes::Killed, End::Outcome(Outcome::Killed { .. }))
        | (Comes::TimedOut, End::Outcome(Outcome::TimedOut { .. })) => true,
        (Comes::Any, End::Outcome(Outcome::WorkerLost { .. } | Outcome::Killed { .. })) => true,
        (Comes::AsSaid, End::Outcome(outcome)) => !outcome.is_worker_lost(),
        _ => false,
    };
    if !is_right {
        problems.push(format!("{comes:?} was expected, not: {}", short(&text)));
    }
    // A frame holds 256 KiB, and nobody wants to read that.
    if text.len() > 32 * 1024 {
        problems.push(format!("its text has {} bytes", text.len()));
    }
    problems
}

fn short(text: &str) -> String {
    text.escape_debug().take(300).collect()
}

/// Modules that take the compiler over, and what the host says about it.
const COMPILERS: &[(&str, &str)] = &[
    ("says nothing", "compil"),
    ("stops itself", "compil"),
    ("crashes", "signal 5"),
    ("exits", "exited with code 0"),
    ("writes garbage", "broke the protocol"),
    ("announces more than it wrote", "announced"),
    ("is for another engine", "compiled for"),
    ("answers and does not end", ""),
    ("answers and goes on writing", ""),
    ("refuses at length", "cannot be compiled"),
];

#[test]
fn a_compiler_that_was_taken_over_costs_its_module_alone() {
    let _alone = alone();
    let mut house = House::new();
    let mut failures = Vec::new();
    for (name, part) in COMPILERS {
        let problems = house.observe(HOST_GROWTH, |_| compiles(name, part));
        if !problems.is_empty() {
            failures.push(format!("{name}:\n    {}", problems.join("\n    ")));
        }
    }
    assert!(
        failures.is_empty(),
        "H, compilers: {} of {} rows fail\n  {}",
        failures.len(),
        COMPILERS.len(),
        failures.join("\n  ")
    );
}

fn compiles(name: &str, part: &str) -> Vec<String> {
    let group = builder().build();
    let gateway = match group.make_gateway(spec_of("ignores-everything")) {
        Ok(gateway) => gateway,
        Err(error) => return vec![format!("there is no gateway: {error:?}")],
    };
    let module = Module::from_bytes(format!("compiler: {name}")).expect("bytes");
    let call = sandgate::Call::start().compile_timeout(Duration::from_millis(800));
    let asked = Instant::now();
    let result = gateway.remote_exec_with(&module, &call);
    let took = asked.elapsed();
    let mut problems = Vec::new();
    match result {
        // It has made something, and a worker can do with it what it likes.
        Ok(_) if part.is_empty() => {}
        Ok(_) => problems.push("it was compiled".to_owned()),
        Err(error) => {
            let end = End::Refused(error);
            println!("{name}: {} after {took:.1?}", short(&end.text()));
            if !end.text().contains(part) {
                problems.push(format!("`{part}` was expected, not: {}", short(&end.text())));
            }
            if end.text().len() > 32 * 1024 {
                problems.push(format!("its text has {} bytes", end.text().len()));
            }
            problems.extend(text_problems(&end));
        }
    }
    if took > Duration::from_millis(800) + Duration::from_secs(3) {
        problems.push(format!("it took {took:?}"));
    }
    gateway.terminate(Duration::ZERO);
    problems
}
