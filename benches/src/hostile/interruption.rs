//! How long after its deadline each kind of guest is stopped, as its host sees it, and how long siblings take to answer
//! meanwhile.
//!
//! A run takes from the call of `remote_exec` to the outcome; what it takes beyond the timeout is the figure. So the start of
//! the guest and the way of the outcome are in it. A task that returns at once is the first row: it is what the others could
//! not be below.
//!
//! With a [`Bound`], a run fails that names the kinds which are over it, and those that could not be measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sandgate::{Call, Channel, Gateway, Limits, Outcome, OutputSink};

use crate::fixtures::Fixtures;
use crate::hostile::kinds::{BRIEF, ENDLESS, Kind};
use crate::machine::Machine;
use crate::stats::quantile;

/// The time that each guest has.
const TIMEOUT: Duration = Duration::from_millis(20);
/// How often a sibling is asked.
const ASK_EVERY: Duration = Duration::from_millis(2);
const WARM_UP: u32 = 5;

/// What every kind has to keep: so many of its runs end within the time after their deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) time: Duration,
    /// From 0 to 1.
    pub(crate) quantile: f64,
}

impl Bound {
    /// The time that is over it, if it is.
    fn exceeded_by(self, late: &[f64]) -> Option<Duration> {
        let found = quantile(late, self.quantile).unwrap_or(f64::INFINITY);
        // A guest that is stopped too early is none that is late.
        let found = Duration::try_from_secs_f64(found.max(0.0)).unwrap_or(Duration::MAX);
        (found > self.time).then_some(found)
    }
}

/// Seconds of one kind.
struct Measured {
    name: &'static str,
    late: Vec<f64>,
    sibling: Vec<f64>,
    neighbour: Vec<f64>,
}

/// Measures every kind and prints a table; whether all of them could be measured and keep the bound, if there is one.
pub(crate) fn run(fixtures: &Fixtures, runs: u32, only: Option<&str>, bound: Option<Bound>) -> Result<bool> {
    println!("{}", Machine::describe().summary());
    println!(
        "milliseconds beyond a deadline of {TIMEOUT:?}, and answers of siblings meanwhile; {runs} runs of each kind\n"
    );
    let group = fixtures.builder().output(OutputSink::Discard).build();
    let gateway = group.make_gateway("popen")?;
    let neighbour = group.make_gateway("popen")?;
    let echo = fixtures.module("echo")?;
    let siblings = [gateway.remote_exec(&echo)?, neighbour.remote_exec(&echo)?];
    println!(
        "{:<28}{:>8}{:>8}{:>8}{:>8}   {:>24}   {:>24}",
        "", "least", "p50", "p99", "max", "same worker p50/p99/max", "other worker p50/p99/max"
    );
    let returns = &BRIEF[0];
    let mut over = Vec::new();
    for kind in std::iter::once(returns).chain(ENDLESS).filter(|kind| only.is_none_or(|name| kind.name.contains(name)))
    {
        match measure(&gateway, &siblings, kind, runs) {
            Ok(measured) => {
                println!("{}", line(&measured));
                let found = bound.filter(|_| kind.endless).and_then(|bound| bound.exceeded_by(&measured.late));
                over.extend(found.map(|found| format!("{}: {found:.2?}", kind.name)));
            }
            Err(error) => {
                println!("{:<28}{error:#}", kind.name);
                over.push(format!("{}: {error:#}", kind.name));
            }
        }
    }
    if let Some(Bound { time, quantile }) = bound {
        match over.is_empty() {
            true => println!("\nevery kind has ended within {time:?} of its deadline, at the quantile {quantile}"),
            false => {
                println!("\nnot within {time:?} of its deadline, at the quantile {quantile}:\n  {}", over.join("\n  "))
            }
        }
    }
    Ok(over.is_empty())
}

fn measure(gateway: &Gateway, siblings: &[Channel; 2], kind: &Kind, runs: u32) -> Result<Measured> {
    let module = kind.module()?;
    let limits = Limits { wall_time: Some(TIMEOUT), ..Limits::default() };
    let call = Call::start().limits(limits);
    let timeout = if kind.endless { TIMEOUT } else { Duration::ZERO };
    let once = || -> Result<f64> {
        let start = Instant::now();
        let channel = gateway.remote_exec_with(&module, &call)?;
        // Nothing is received: those that send have to wait for credit.
        let _ = channel.wait_close_timeout(Duration::from_secs(30));
        let took = start.elapsed();
        match (channel.outcome(), kind.endless) {
            (Some(Outcome::TimedOut { .. }), true) | (Some(Outcome::Returned), false) => {}
            (other, _) => bail!("it ended as {other:?}"),
        }
        Ok(took.as_secs_f64() - timeout.as_secs_f64())
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    let stop = AtomicBool::new(false);
    let (late, [sibling, neighbour]) = std::thread::scope(|scope| {
        let watches = siblings.each_ref().map(|channel| {
            std::thread::Builder::new().name("watch".to_owned()).spawn_scoped(scope, || watch(channel, &stop))
        });
        let late: Result<Vec<f64>> = (0..runs).map(|_| once()).collect();
        stop.store(true, Ordering::Release);
        let answers = watches.map(|watch| match watch.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) => bail!("a watch panicked"),
            Err(error) => Err(error.into()),
        });
        anyhow::Ok((late?, answers))
    })?;
    let context = "a sibling was disturbed";
    Ok(Measured { name: kind.name, late, sibling: sibling.context(context)?, neighbour: neighbour.context(context)? })
}

/// Asks a sibling until it is told to stop: the seconds of each answer.
fn watch(channel: &Channel, stop: &AtomicBool) -> Result<Vec<f64>> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let start = Instant::now();
        channel.send_timeout(&7_u32, Duration::from_secs(10))?;
        channel.receive_timeout::<u32>(Duration::from_secs(10))?;
        answers.push(start.elapsed().as_secs_f64());
        std::thread::park_timeout(ASK_EVERY);
    }
    Ok(answers)
}

fn line(measured: &Measured) -> String {
    let at = |samples: &[f64], share| quantile(samples, share).unwrap_or(f64::NAN) * 1e3;
    let three =
        |samples: &[f64]| format!("{:.2} / {:.2} / {:.2}", at(samples, 0.5), at(samples, 0.99), at(samples, 1.0));
    let Measured { name, late, sibling, neighbour } = measured;
    let [least, p50, p99, max] = [0.0, 0.5, 0.99, 1.0].map(|share| at(late, share));
    format!("{name:<28}{least:>8.2}{p50:>8.2}{p99:>8.2}{max:>8.2}   {:>24}   {:>24}", three(sibling), three(neighbour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_one_of_the_quantile() {
        let late: Vec<f64> = (0..100).map(|run| f64::from(run) / 1e3).collect();
        let over = |milliseconds, quantile| {
            Bound { time: Duration::from_millis(milliseconds), quantile }.exceeded_by(&late).is_some()
        };
        assert!(over(10, 0.5) && over(90, 1.0));
        assert!(!over(60, 0.5) && !over(99, 1.0));
        let nothing = Bound { time: Duration::from_secs(1), quantile: 0.5 };
        assert!(nothing.exceeded_by(&[]).is_some(), "nothing measured is nothing kept");
        assert!(nothing.exceeded_by(&[-0.001]).is_none());
    }
}
