//! Progress: bars on a terminal, a line every ten seconds elsewhere, on standard error. Drawn from the tally, ten times a
//! second at most.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::names::Names;
use super::options::Facts;
use super::tally::{Place, Tally};
use super::text::{self, bytes, count, time};

/// Gateways that have a line of their own.
const MOST_LINES: usize = 16;
/// Between two lines where there is no terminal, if that was asked for and if not, and two drawings where there is one.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(2);
pub(super) const QUIET_LINE_EVERY: Duration = Duration::from_secs(10);
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Over how long the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(5);

/// Shows how far a pool is.
#[derive(Debug)]
pub(super) struct Progress {
    shape: Shape,
    inputs: Option<u64>,
    rate: Rate,
    next: Option<Instant>,
}

#[derive(Debug)]
enum Shape {
    Bars { all: MultiProgress, main: ProgressBar, gateways: Vec<ProgressBar>, rest: Option<ProgressBar> },
    Lines { every: Duration },
}

impl Progress {
    pub(super) fn bars(facts: &Facts, target: ProgressDrawTarget) -> Progress {
        let all = MultiProgress::with_draw_target(target);
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("━╸─"))
        };
        let main = match facts.inputs {
            Some(inputs) => ProgressBar::new(inputs).with_style(style("{bar:24.green} {msg}")),
            None => ProgressBar::no_length().with_style(style("{msg}")),
        };
        let main = all.add(main);
        let mut shape = Shape::Bars { all, main, gateways: Vec::new(), rest: None };
        shape.has_lines_for(facts.gateways);
        Progress::new(shape, facts)
    }

    pub(super) fn lines(facts: &Facts, every: Duration) -> Progress {
        Progress::new(Shape::Lines { every }, facts)
    }

    fn new(shape: Shape, facts: &Facts) -> Progress {
        Progress { shape, inputs: facts.inputs, rate: Rate::default(), next: None }
    }

    /// The bars, to be hidden while something else is printed.
    pub(super) fn terminal(&self) -> Option<MultiProgress> {
        match &self.shape {
            Shape::Bars { all, .. } => Some(all.clone()),
            Shape::Lines { .. } => None,
        }
    }

    /// Draws if it is time to.
    pub(super) fn tick(&mut self, at: Duration, tally: &Tally, names: &Names) {
        let now = Instant::now();
        let (every, is_lines) = match self.shape {
            Shape::Lines { every } => (every, true),
            Shape::Bars { .. } => (DRAW_EVERY, false),
        };
        match self.next {
            Some(next) if now < next => return,
            // The first line comes when there is something to tell.
            None if is_lines => return self.next = Some(now + every),
            _ => self.next = Some(now + every),
        }
        self.rate.update(at, tally.ended());
        self.shape.has_lines_for(tally.gateways.len());
        let line = main_line(at, tally, self.inputs, self.rate.per_second());
        match &self.shape {
            Shape::Lines { .. } => {
                // Whoever has closed standard error does not want to know.
                let _ = writeln!(std::io::stderr().lock(), "sandgate: {line}; {}", gateways_line(tally));
            }
            Shape::Bars { main, gateways, rest, .. } => {
                for (position, (bar, place)) in gateways.iter().zip(&tally.gateways).enumerate() {
                    bar.set_message(gateway_line(at, position, place, names));
                }
                if let Some(rest) = rest {
                    let more = tally.gateways.len().saturating_sub(gateways.len());
                    let busy = tally.gateways.iter().skip(gateways.len()).filter(|place| !place.tasks.is_empty());
                    rest.set_message(format!("and {more} more, {} busy", busy.count()));
                }
                main.set_position(tally.ended());
                main.set_message(line);
            }
        }
    }

    /// Takes it all away.
    pub(super) fn finish(self) {
        if let Shape::Bars { all, main, gateways, rest } = self.shape {
            gateways.iter().chain(&rest).chain([&main]).for_each(ProgressBar::finish_and_clear);
            // Nobody is there to see it if that fails.
            let _ = all.clear();
        }
    }
}

impl Shape {
    /// Machines may join.
    fn has_lines_for(&mut self, count: usize) {
        let Shape::Bars { all, gateways, rest, .. } = self else { return };
        let style = ProgressStyle::with_template("  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let line = || all.add(ProgressBar::no_length().with_style(style.clone()));
        while gateways.len() < count.min(MOST_LINES) {
            gateways.push(line());
        }
        if count > MOST_LINES && rest.is_none() {
            *rest = Some(line());
        }
    }
}

fn main_line(at: Duration, tally: &Tally, inputs: Option<u64>, rate: f64) -> String {
    let mut line = match inputs {
        Some(inputs) => format!("{} of {}", count(tally.ended()), count(inputs)),
        None => format!("{} ended", count(tally.ended())),
    };
    let _ = write!(line, ", {} done, {} failed", count(tally.done()), count(tally.failed()));
    if tally.retried() > 0 {
        let _ = write!(line, ", {} retried", count(tally.retried()));
    }
    if tally.lost() > 0 {
        let _ = write!(line, ", {} lost", text::many(tally.lost(), "worker"));
    }
    let _ = write!(line, ", {}, {}", text::rate(rate), time(at));
    if let Some(left) = inputs.and_then(|inputs| left(inputs, tally.ended(), rate)) {
        let _ = write!(line, ", {} left", time(left));
    }
    line
}

fn left(inputs: u64, finished: u64, rate: f64) -> Option<Duration> {
    let rest = inputs.checked_sub(finished).filter(|rest| *rest > 0)?;
    #[expect(clippy::cast_precision_loss, reason = "a guess")]
    Duration::try_from_secs_f64((rest as f64 / rate).round()).ok().filter(|left| left.as_secs() < 100 * 3600)
}

fn gateways_line(tally: &Tally) -> String {
    let busy = tally.gateways.iter().filter(|place| !place.tasks.is_empty()).count();
    format!("{busy} of {} busy, {}", text::many(tally.gateways.len() as u64, "gateway"), bytes(tally.memory()))
}

fn gateway_line(at: Duration, position: usize, place: &Place, names: &Names) -> String {
    let mut line = format!("{:<6}", place.name(position));
    match place.memory {
        Some(memory) => {
            let _ = write!(line, "{:>9}", bytes(memory));
        }
        None => line.push_str("         "),
    }
    match (place.pid, place.current()) {
        (Some(_), Some((task, since))) => {
            let name = names.get(task).map_or_else(|| format!("task {task}"), |name| name.to_string());
            let _ = write!(line, "  {:>8}  {name}", time(at.saturating_sub(since)));
        }
        (Some(_), None) => line.push_str("            idle"),
        (None, _) if place.workers == 0 => line.push_str("            starting"),
        (None, _) => line.push_str("            restarting"),
    }
    line
}

/// Ends per second, of late.
#[derive(Debug, Default)]
struct Rate {
    at: Duration,
    finished: u64,
    mean: f64,
    weight: f64,
}

impl Rate {
    fn update(&mut self, at: Duration, finished: u64) {
        let elapsed = at.saturating_sub(self.at).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let now = finished.saturating_sub(self.finished) as f64 / elapsed;
        let keep = (-elapsed / RATE_OVER.as_secs_f64()).exp();
        self.mean = self.mean * keep + now * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
        (self.at, self.finished) = (at, finished);
    }

    fn per_second(&self) -> f64 {
        if self.weight > 0.0 { self.mean / self.weight } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandgate::{OutcomeKind, PoolEvent, TimedEvent};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_lines_say_how_far_it_is_and_what_each_gateway_does() {
        let (mut tally, names) = (Tally::new(2), Names::default());
        let mut take = |event| tally.take(&TimedEvent { at: at(1), event });
        take(PoolEvent::GatewayStarted { gateway: 0, id: "gw0".into(), pid: Some(1) });
        for (task, outcome) in [(0, OutcomeKind::Returned), (1, OutcomeKind::Returned), (2, OutcomeKind::TimedOut)] {
            take(PoolEvent::TaskFinished { task, gateway: Some(0), outcome, attempts: 1, duration: at(1) });
        }
        take(PoolEvent::TaskRetried { task: 3, gateway: 0, cause: OutcomeKind::Failed, attempts: 1 });
        take(PoolEvent::TaskStarted { task: 3, gateway: 0, attempt: 2 });
        names.put(3, "a\x1bfile");
        tally.gateways[0].memory = Some(34 << 20);
        assert_eq!(
            main_line(at(90), &tally, Some(1003), 10.0),
            "3 of 1,003, 2 done, 1 failed, 1 retried, 10/s, 1m30s, 1m40s left"
        );
        assert_eq!(main_line(at(90), &tally, None, 0.0), "3 ended, 2 done, 1 failed, 1 retried, 0.0/s, 1m30s");
        assert_eq!(gateways_line(&tally), "1 of 2 gateways busy, 34 MiB");
        assert_eq!(gateway_line(at(3), 0, &tally.gateways[0], &names), "gw0      34 MiB    2.00 s  a\\u{1b}file");
        assert_eq!(gateway_line(at(3), 1, &tally.gateways[1], &names), "gw1                        starting");
    }

    #[test]
    fn the_rate_is_that_of_late() {
        let mut rate = Rate::default();
        (1..=10).for_each(|second| rate.update(at(second), second * 100));
        assert!((rate.per_second() - 100.0).abs() < 1e-6);
        (11..=40).for_each(|second| rate.update(at(second), 1000 + (second - 10) * 10));
        assert!((9.0..12.0).contains(&rate.per_second()), "{rate:?}");
        assert_eq!(left(10, 10, 1.0), None);
        assert_eq!(left(10, 0, 0.0), None);
    }
}
