//! The metrics, as text in Prometheus' format: for a file that the text file collector of its node exporter reads, and for
//! the endpoint.

use std::fmt::Write as _;
use std::time::Duration;

use sandgate::OutcomeKind;

use super::options::Facts;
use super::tally::{BOUNDS, Tally};

/// All of it.
pub(super) fn text(facts: &Facts, tally: &Tally, elapsed: Duration, dropped: u64) -> String {
    let mut page = Page::default();
    page.family("sandgate_info", "gauge", "What runs.");
    page.row("sandgate_info", &[("module", &facts.module), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.family("sandgate_elapsed_seconds", "gauge", "Time since the pool was made.");
    page.row("sandgate_elapsed_seconds", &[], elapsed.as_secs_f64());
    if let Some(inputs) = facts.inputs {
        page.family("sandgate_inputs", "gauge", "Inputs of the run.");
        page.count("sandgate_inputs", &[], inputs);
    }
    page.family(
        "sandgate_inputs_total",
        "counter",
        "Inputs that have a result, those included that the pool never got.",
    );
    page.count("sandgate_inputs_total", &[("result", "done")], tally.done());
    page.count("sandgate_inputs_total", &[("result", "failed")], tally.failed());
    page.family("sandgate_tasks_queued_total", "counter", "Tasks that the pool was given.");
    page.count("sandgate_tasks_queued_total", &[], tally.queued);
    page.family("sandgate_tasks_total", "counter", "Tasks that have ended, by outcome.");
    for kind in OutcomeKind::ALL {
        page.count("sandgate_tasks_total", &[("outcome", &label(kind))], tally.outcomes[kind as usize]);
    }
    page.family("sandgate_task_retries_total", "counter", "Runs that were repeated, by how they had ended.");
    for kind in OutcomeKind::ALL.into_iter().filter(|kind| tally.retried[*kind as usize] > 0) {
        page.count("sandgate_task_retries_total", &[("cause", &label(kind))], tally.retried[kind as usize]);
    }
    page.family("sandgate_tasks_unfinished", "gauge", "Tasks that wait or run.");
    page.count("sandgate_tasks_unfinished", &[], tally.queued.saturating_sub(tally.finished()));
    histogram(&mut page, tally);
    gateways(&mut page, tally);
    page.family("sandgate_events_dropped_total", "counter", "Events that these numbers lack.");
    page.count("sandgate_events_dropped_total", &[], dropped);
    page.text
}

fn histogram(page: &mut Page, tally: &Tally) {
    page.family("sandgate_task_seconds", "histogram", "Time of tasks' last runs.");
    let mut sum = 0;
    for (at, count) in tally.buckets.iter().enumerate() {
        sum += count;
        let bound = BOUNDS.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        page.count("sandgate_task_seconds_bucket", &[("le", &bound)], sum);
    }
    page.row("sandgate_task_seconds_sum", &[], tally.times.total.as_secs_f64());
    page.count("sandgate_task_seconds_count", &[], sum);
}

fn gateways(page: &mut Page, tally: &Tally) {
    let names: Vec<String> = tally.gateways.iter().enumerate().map(|(at, place)| place.name(at)).collect();
    let places = || names.iter().zip(&tally.gateways);
    page.family("sandgate_gateway_up", "gauge", "Whether the gateway has a worker.");
    for (name, place) in places() {
        page.count("sandgate_gateway_up", &[("gateway", name)], u64::from(place.pid.is_some()));
    }
    page.family("sandgate_gateway_restarts_total", "counter", "Workers that took the place of another, by why.");
    for (name, place) in places() {
        for (reason, count) in [("lost", place.lost), ("recycled", place.recycled), ("failed", place.failed_starts)] {
            page.count("sandgate_gateway_restarts_total", &[("gateway", name), ("reason", reason)], count);
        }
    }
    page.family("sandgate_gateway_busy_seconds_total", "counter", "Time in which the gateway ran tasks.");
    for (name, place) in places() {
        page.row("sandgate_gateway_busy_seconds_total", &[("gateway", name)], place.busy.as_secs_f64());
    }
    page.family("sandgate_gateway_tasks_total", "counter", "Tasks that ended on the gateway.");
    for (name, place) in places() {
        page.count("sandgate_gateway_tasks_total", &[("gateway", name)], place.finished);
    }
    page.family("sandgate_gateway_in_flight", "gauge", "Tasks that the gateway was given and that have not ended.");
    for (name, place) in places() {
        page.count("sandgate_gateway_in_flight", &[("gateway", name)], place.tasks.len() as u64);
    }
    page.family("sandgate_gateway_resident_bytes", "gauge", "Resident memory of the gateway's worker.");
    for (name, place) in places() {
        if let Some(memory) = place.memory {
            page.count("sandgate_gateway_resident_bytes", &[("gateway", name)], memory);
        }
    }
}

/// An outcome as the value of a label: `timed out` is `timed_out`.
fn label(kind: OutcomeKind) -> String {
    kind.to_string().replace(' ', "_")
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn count(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.start(name, labels);
        let _ = writeln!(self.text, " {value}");
    }

    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.start(name, labels);
        let _ = writeln!(self.text, " {value}");
    }

    fn start(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandgate::{PoolEvent, TimedEvent};

    #[test]
    fn metrics_have_conventional_names_and_escaped_labels() {
        let facts = Facts { module: "a\"b\\\n".to_owned(), inputs: Some(9), ..Facts::default() };
        let mut tally = Tally::new(1);
        (tally.apart.known_done, tally.apart.bad) = (2, 1);
        let (gateway, outcome, attempts) = (Some(0), OutcomeKind::TimedOut, 1);
        for (task, ms) in [(0, 2), (1, 400), (2, 100_000)] {
            tally.take(&TimedEvent { at: Duration::ZERO, event: PoolEvent::TaskQueued { task } });
            let duration = Duration::from_millis(ms);
            let event = PoolEvent::TaskFinished { task, gateway, outcome, attempts, duration };
            tally.take(&TimedEvent { at: Duration::from_secs(100), event });
        }
        let text = text(&facts, &tally, Duration::from_millis(1500), 3);
        for line in [
            r#"sandgate_info{module="a\"b\\\n",version="0.1.0"} 1"#,
            "sandgate_elapsed_seconds 1.5",
            "# TYPE sandgate_tasks_total counter",
            r#"sandgate_inputs_total{result="done"} 2"#,
            r#"sandgate_inputs_total{result="failed"} 4"#,
            r#"sandgate_tasks_total{outcome="returned"} 0"#,
            r#"sandgate_tasks_total{outcome="timed_out"} 3"#,
            r#"sandgate_task_seconds_bucket{le="0.0025"} 1"#,
            r#"sandgate_task_seconds_bucket{le="0.5"} 2"#,
            r#"sandgate_task_seconds_bucket{le="60"} 2"#,
            r#"sandgate_task_seconds_bucket{le="+Inf"} 3"#,
            "sandgate_task_seconds_sum 100.402",
            "sandgate_task_seconds_count 3",
            r#"sandgate_gateway_restarts_total{gateway="gw0",reason="lost"} 0"#,
            "sandgate_events_dropped_total 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let is_row =
            |line: &str| line.starts_with("# ") || line.rsplit_once(' ').is_some_and(|(_, n)| n.parse::<f64>().is_ok());
        assert!(text.lines().all(is_row), "{text}");
    }
}
