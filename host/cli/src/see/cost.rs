//! What observing costs: how much of a core the thread uses at a million tasks a minute. It is printed, and has to stay
//! below a bound that a build without optimisation meets too.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sandgate::{EventSink, OutcomeKind, PoolEvent, TimedEvent};

use super::names::{Lock, Names};
use super::observer::Watch;
use super::options::{Facts, Options};
use super::progress::Progress;
use super::trace::Trace;

const PER_SECOND: u64 = 1_000_000 / 60;
const SECONDS: u64 = 10;
const TICKS: u64 = 20;
const GATEWAYS: u64 = 8;

/// This thread's time on a processor for that much of a run.
fn cost(options: &Options, trace: bool) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let (sink, events) = EventSink::bounded(1 << 16);
    let names = Names::default();
    let facts = Facts { gateways: 8, inputs: Some(10_000_000), ..Facts::default() };
    let failures = Arc::new(Lock::default());
    let mut watch = Watch::new(options, facts.clone(), events, names, failures);
    watch.progress = Some(Progress::bars(&facts, indicatif::ProgressDrawTarget::hidden()));
    watch.trace = trace.then(|| Trace::create(&dir.path().join("trace"), "module").unwrap());
    let (mut task, mut used) = (0, Duration::ZERO);
    for tick in 0..SECONDS * TICKS {
        let at = Duration::from_millis(tick * 1000 / TICKS);
        let tell = |event| sink.tell(TimedEvent { at, event });
        for _ in 0..PER_SECOND / TICKS {
            let gateway = usize::try_from(task % GATEWAYS).unwrap();
            tell(PoolEvent::TaskQueued { task });
            tell(PoolEvent::TaskStarted { task, gateway, attempt: 1 });
            let (outcome, duration) = (OutcomeKind::Returned, Duration::from_micros(480));
            tell(PoolEvent::TaskFinished { task, gateway: Some(gateway), outcome, attempts: 1, duration });
            task += 1;
        }
        let before = clock();
        watch.tick();
        used += clock() - before;
    }
    assert_eq!(watch.tally.finished(), task, "events were lost");
    used
}

fn clock() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

#[test]
fn a_million_tasks_a_minute_cost_little() {
    let all = Options { report: Some("report.html".into()), ..Options::default() };
    for (what, options, trace) in
        [("progress and counts", Options::default(), false), ("and report and trace", all, true)]
    {
        let used = cost(&options, trace);
        let part = used.as_secs_f64() / (SECONDS as f64) * 100.0;
        let _ = writeln!(io::stderr(), "{what}: {part:.2} % of a core at a million tasks a minute");
        assert!(part < 50.0, "{what}: {part}");
    }
}
