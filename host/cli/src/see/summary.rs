//! The summary: a page of text at the end, for people.

use std::fmt::Write as _;
use std::time::Duration;

use sandgate::{OutcomeKind, PoolStats};

use super::failures::{Apart, Failures};
use super::tally::Tally;
use super::text::{self, bytes, count, many, time};

/// Gateways, causes and examples that are listed.
const MOST_GATEWAYS: usize = 16;
const MOST_CAUSES: usize = 10;
const MOST_EXAMPLES: usize = 3;
const MOST_NAME: usize = 60;

/// All of it.
pub(super) fn text(tally: &Tally, failures: &Failures, stats: &PoolStats) -> String {
    let mut page = String::new();
    let Totals { ended, done, failed, cancelled, ran } = Totals::new(stats, failures.apart);
    let wall = tally.last_end;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let rate = ran as f64 / wall.as_secs_f64().max(1e-9);
    let _ = write!(page, "{} in {}: {} done, {} failed", many(ended, "task"), time(wall), count(done), count(failed));
    if stats.retried > 0 {
        let _ = write!(page, ", {} retried", count(stats.retried));
    }
    if cancelled > 0 {
        let _ = write!(page, ", {} cancelled", count(cancelled));
    }
    if stats.unfinished > 0 {
        let _ = write!(page, ", {} not finished", count(stats.unfinished as u64));
    }
    if ran > 0 {
        let _ = write!(page, "; {}", text::rate(rate));
    }
    page.push('\n');
    if failures.apart.known() > 0 {
        let _ = writeln!(page, "  {} of them had their result in the journal", count(failures.apart.known()));
    }
    if stats.dropped_events > 0 {
        let _ =
            writeln!(page, "  {} came too fast and were left out of what follows", many(stats.dropped_events, "event"));
    }
    times(&mut page, tally);
    gateways(&mut page, tally);
    slowest(&mut page, failures);
    causes(&mut page, failures);
    page
}

/// How many inputs came to what, each counted once: those of the pool, which counts exactly also when events were dropped,
/// and those apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// Inputs that have a result: done and failed.
    pub(super) ended: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Inputs that nobody wanted any more.
    pub(super) cancelled: u64,
    /// Tasks that this run has brought to an end.
    pub(super) ran: u64,
}

impl Totals {
    pub(super) fn new(stats: &PoolStats, apart: Apart) -> Totals {
        let is_cancelled = |(kind, _): &&(OutcomeKind, u64)| *kind == OutcomeKind::Cancelled;
        let cancelled = stats.failed.iter().filter(is_cancelled).map(|(_, count)| count).sum();
        let done = (stats.done + apart.known_done).saturating_sub(apart.spoiled);
        let failed = stats.failed() - cancelled + apart.bad + apart.spoiled + apart.known_failed;
        Totals { ended: done + failed, done, failed, cancelled, ran: stats.done + stats.failed() - cancelled }
    }
}

fn times(page: &mut String, tally: &Tally) {
    let quantile = |part| tally.times.quantile(part).map(time);
    if let (Some(p50), Some(p90), Some(p99)) = (quantile(0.5), quantile(0.9), quantile(0.99)) {
        let max = time(tally.times.longest);
        let _ = writeln!(page, "  task time: p50 {p50}, p90 {p90}, p99 {p99}, max {max}");
    }
}

/// The part of the whole time in which a gateway had something to run.
pub(super) fn utilisation(busy: Duration, wall: Duration) -> f64 {
    if wall.is_zero() { 0.0 } else { (busy.as_secs_f64() / wall.as_secs_f64()).min(1.0) }
}

fn gateways(page: &mut String, tally: &Tally) {
    let Some(speed_up) = tally.speed_up() else { return };
    let (busy, wall, number) = (tally.busy(), tally.last_end, tally.gateways.len());
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let all = speed_up / number.max(1) as f64 * 100.0;
    let _ = writeln!(
        page,
        "  {}: {} of task time, speed-up {speed_up:.2}, utilisation {all:.0} %",
        many(number as u64, "gateway"),
        time(busy)
    );
    for (position, place) in tally.gateways.iter().enumerate().take(MOST_GATEWAYS) {
        let part = utilisation(place.busy, wall) * 100.0;
        let _ = write!(page, "    {:<8} {part:>3.0} %  {}", place.name(position), many(place.finished, "task"));
        if place.peak > 0 {
            let _ = write!(page, ", up to {}", bytes(place.peak));
        }
        if place.lost > 0 {
            let _ = write!(page, ", {} lost", many(place.lost, "worker"));
            let links: Vec<String> = place.links.iter().map(link).collect();
            if !links.is_empty() {
                let _ = write!(page, " ({})", links.join("; "));
            }
        }
        if place.recycled > 0 {
            let _ = write!(page, ", {} recycled", many(place.recycled, "worker"));
        }
        if place.failed_starts > 0 {
            let _ = write!(page, ", {}", many(place.failed_starts, "failed start"));
        }
        page.push('\n');
    }
    if number > MOST_GATEWAYS {
        let _ = writeln!(page, "    and {} more", count((number - MOST_GATEWAYS) as u64));
    }
}

/// How links were lost, and how often.
fn link((problem, times): (&String, &u64)) -> String {
    if *times == 1 { format!("its link {problem}") } else { format!("its link {problem}, {times} times") }
}

fn slowest(page: &mut String, failures: &Failures) {
    if failures.slowest.len() < 2 {
        return;
    }
    let _ = writeln!(page, "  slowest:");
    for (took, _, name) in failures.slowest.iter().take(5) {
        let _ = writeln!(page, "    {:>8}  {}", time(*took), text::one_line(name, MOST_NAME));
    }
}

fn causes(page: &mut String, failures: &Failures) {
    let causes = failures.causes();
    if causes.is_empty() {
        return;
    }
    let _ = writeln!(page, "  failures:");
    for cause in causes.iter().take(MOST_CAUSES) {
        let _ = writeln!(page, "    {:>8}  {}", count(cause.count), cause.text);
        let names: Vec<String> =
            cause.examples.iter().take(MOST_EXAMPLES).map(|failure| text::one_line(&failure.name, MOST_NAME)).collect();
        if !names.is_empty() {
            let _ = writeln!(page, "              as in {}", names.join(", "));
        }
    }
    if causes.len() > MOST_CAUSES {
        let rest: u64 = causes.iter().skip(MOST_CAUSES).map(|cause| cause.count).sum();
        let _ = writeln!(page, "    {:>8}  of {} more causes", count(rest), causes.len() - MOST_CAUSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::see::synthetic::Synthetic;
    use sandgate::{LinkProblem, LossCause, PoolEvent, TimedEvent, WorkerLoss};

    #[test]
    fn a_summary_says_what_was_fast_what_was_slow_and_what_went_wrong() {
        let run = Synthetic::new(1000, 2);
        let mut tally = Tally::new(2);
        for event in &run.events {
            tally.take(event);
        }
        tally.gateways[0].peak = 34 << 20;
        assert_eq!(text(&tally, &run.failures, &run.stats), SUMMARY);
    }

    #[test]
    fn a_summary_says_how_links_were_lost() {
        let mut tally = Tally::new(2);
        let tell = |tally: &mut Tally, event| tally.take(&TimedEvent { at: Duration::from_secs(1), event });
        for (gateway, id) in ["there", "missing"].into_iter().enumerate() {
            tell(&mut tally, PoolEvent::GatewayStarting { gateway, id: id.into() });
        }
        let (outcome, duration) = (OutcomeKind::Returned, Duration::from_secs(1));
        tell(&mut tally, PoolEvent::TaskFinished { task: 0, gateway: Some(0), outcome, attempts: 1, duration });
        for problem in [LinkProblem::Ended, LinkProblem::Corrupt, LinkProblem::Corrupt] {
            let cause = LossCause::Link { problem, message: String::new() };
            let loss = WorkerLoss { gateway: String::new(), pid: None, cause, stderr_tail: String::new() };
            tell(&mut tally, PoolEvent::GatewayLost { gateway: 0, loss: Box::new(loss) });
        }
        let page = text(&tally, &Failures::default(), &PoolStats::default());
        let expected = "1 task, 3 workers lost (its link ended; its link is corrupt, 2 times)\n";
        assert!(page.contains(expected) && page.contains("\n    missing "), "{page}");
    }

    #[test]
    fn a_summary_of_nothing_is_a_line() {
        let nothing = text(&Tally::new(1), &Failures::default(), &PoolStats::default());
        assert_eq!(nothing, "0 tasks in 0 µs: 0 done, 0 failed\n");
    }

    const SUMMARY: &str = r#"1,000 tasks in 1.04 s: 988 done, 12 failed, 7 retried; 962/s
  task time: p50 1.01 ms, p90 1.63 ms, p99 39.9 ms, max 56.5 ms
  2 gateways: 1.74 s of task time, speed-up 1.68, utilisation 84 %
    gw0       79 %  425 tasks, up to 34 MiB, 4 workers lost
    gw1       89 %  575 tasks, 3 workers lost
  slowest:
     56.5 ms  corpus/270/input-581.json
     54.5 ms  corpus/258/input-880.json
     52.3 ms  corpus/059/input-681.json
     45.0 ms  corpus/042/input-664.json
     44.4 ms  corpus/190/input-501.json
  failures:
           5  task failed: no such key `</script><script>document.title='owned'</script><img src=x onerror="fail('owned')">`
              as in corpus/076/input-76.json, corpus/142/input-142.json, corpus/297/input-297.json
           3  task exited with code 3
              as in corpus/010/input-10.json, corpus/152/input-774.json, corpus/218/input-840.json
           2  task panicked at src/parse.rs:N:N: index out of bounds: the len is N but the index is N
              as in corpus/272/input-272.json, corpus/241/input-552.json
           1  task trapped: stack overflow in `descend<N>` (limit of N bytes, setting `stack=`)
              as in corpus/060/input-371.json
           1  task reached its deadline of 50ms (setting `timeout=`)
              as in corpus/031/input-653.json
"#;
}
