//! The report: one page that needs nothing but a browser, with timeline, latencies, memory and failures.
//!
//! ```text
//!  Runs ─► columns ┐
//!  Tally ─► meta   ├─► base64 in <script type="text/plain"> ─► page.js: typed arrays, canvas, textContent
//!  Failures ─► meta┘
//! ```
//!
//! All that comes from guests and inputs stands in the page as base64, and gets into the document as text, never as markup.
//! The page's policy lets the browser run this one script and load nothing.

mod runs;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use base64::display::Base64Display;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use sandgate::{OutcomeKind, PoolStats};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::runs::micros;
pub(super) use self::runs::{Recorder, Runs};
use super::failures::{Cause, Failure, Failures};
use super::options::Facts;
use super::summary::{Totals, utilisation};
use super::tally::{Place, Tally};
use super::text::{self, bytes, count, many, time};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const BODY: &str = include_str!("page.html");

/// All that a report shows.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) facts: &'a Facts,
    pub(super) tally: &'a Tally,
    pub(super) failures: &'a Failures,
    pub(super) stats: &'a PoolStats,
    pub(super) runs: Runs,
}

impl Page<'_> {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let title = escape(&text::one_line(&self.facts.module, 200));
        let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
        let (style, script) = (hash(STYLE), hash(SCRIPT));
        writeln!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-{script}'; \
             style-src 'sha256-{style}'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>sandgate: {title}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>sandgate map <b>{title}</b></h1>"
        )?;
        out.write_all(self.tiles().as_bytes())?;
        out.write_all(self.notes().as_bytes())?;
        out.write_all(BODY.replace("{{GATEWAYS}}", &self.gateways()).as_bytes())?;
        self.data(out)?;
        writeln!(out, "<script>{SCRIPT}</script>\n</body></html>")
    }

    /// The numbers at the top.
    fn tiles(&self) -> String {
        let (tally, stats) = (self.tally, self.stats);
        let Totals { ended, done, failed, ran, .. } = Totals::new(stats, self.failures.apart);
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let rate = ran as f64 / tally.last_end.as_secs_f64().max(1e-9);
        let exact = self.exact_times();
        let quantile = |part| match exact.is_empty() {
            true => tally.times.quantile(part).map_or_else(|| "–".to_owned(), time),
            false => time(Duration::from_secs_f32(rank(&exact, part) / 1e6)),
        };
        let speed_up = tally.speed_up().map_or_else(|| "–".to_owned(), |factor| format!("{factor:.2}×"));
        let tiles: [(&str, &str, String, &str); 10] = [
            ("tasks", "tasks", count(ended), "tasks that ended"),
            ("done", "done", count(done), "tasks that have a value"),
            ("failed", "failed", count(failed), "tasks that have none"),
            ("retried", "runs repeated", count(stats.retried), "runs that were repeated"),
            ("lost", "workers lost", count(stats.lost_workers), "workers that were lost"),
            ("wall", "time", time(tally.last_end), "from the start of the pool to the end of the last task"),
            ("rate", "rate", text::rate(rate), "tasks that ended per second"),
            ("speed-up", "speed-up", speed_up, "time of all tasks over time passed"),
            ("p50", "median", quantile(0.5), "half of the tasks took no longer"),
            ("p99", "99 % within", quantile(0.99), "99 % of the tasks took no longer"),
        ];
        let mut html = "<dl class=\"tiles\">".to_owned();
        for (name, label, value, title) in tiles {
            let bad = if name == "failed" && value != "0" { " class=\"bad\"" } else { "" };
            let _ = write!(html, "<div title=\"{title}\"><dt>{label}</dt><dd id=\"n-{name}\"{bad}>{value}</dd></div>");
        }
        html.push_str("</dl>\n");
        html
    }

    /// Times of tasks' last runs in order, if the page has all of them.
    fn exact_times(&self) -> Vec<f32> {
        if self.runs.left_out > 0 {
            return Vec::new();
        }
        let runs = self.runs.outcome.iter().zip(&self.runs.took_us);
        let mut times: Vec<f32> = runs
            .filter(|(outcome, _)| **outcome & runs::AGAIN == 0 && **outcome != OutcomeKind::Cancelled as u8)
            .map(|(_, took)| *took)
            .collect();
        times.sort_by(f32::total_cmp);
        times
    }

    /// What the page lacks.
    fn notes(&self) -> String {
        let mut html = String::new();
        let mut note = |number: u64, what: &str, rest: &str| {
            if number > 0 {
                let _ = writeln!(html, "<p class=\"note\">{} {rest}.</p>", many(number, what));
            }
        };
        note(self.stats.unfinished as u64, "task", "had not ended when this page was written");
        note(self.failures.apart.known(), "result", "came from the journal");
        note(Totals::new(self.stats, self.failures.apart).cancelled, "task", "were cancelled");
        note(self.stats.dropped_events, "event", "came too fast and are missing from timeline and distribution");
        note(self.runs.left_out, "run", "beyond the first million are left out of the timeline");
        note(self.tally.marks_left_out, "event", "of gateways are left out of the timeline");
        html
    }

    fn gateways(&self) -> String {
        let mut html = String::new();
        for (position, place) in self.tally.gateways.iter().enumerate() {
            let part = utilisation(place.busy, self.tally.last_end) * 100.0;
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td><meter max=\"100\" value=\"{part:.1}\"></meter> {part:.0} %</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&place.name(position)),
                time(place.busy),
                count(place.finished),
                count(place.failed),
                if place.peak > 0 { bytes(place.peak) } else { "–".to_owned() },
                count(place.lost),
                count(place.recycled)
            );
        }
        html
    }

    fn data(&self, out: &mut dyn Write) -> io::Result<()> {
        let runs = &self.runs;
        let meta = serde_json::to_vec(&self.meta())?;
        let mut block = |name: &str, bytes: &[u8]| {
            let text = Base64Display::new(bytes, &BASE64_STANDARD);
            writeln!(out, "<script type=\"text/plain\" id=\"d-{name}\">{text}</script>")
        };
        block("meta", &meta)?;
        block("start", &little(&runs.start_us, |n| n.to_le_bytes()))?;
        block("took", &little(&runs.took_us, |n| n.to_le_bytes()))?;
        block("task", &little(&runs.task, |n| n.to_le_bytes()))?;
        block("name", &little(&runs.name, |n| n.to_le_bytes()))?;
        block("outcome", &runs.outcome)?;
        block("attempt", &runs.attempt)?;
        block("ends", &little(&runs.ends, |n| n.to_le_bytes()))?;
        block("names", &runs.names)?;
        let samples = || self.tally.gateways.iter().flat_map(|place| &place.samples);
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        let columns: (Vec<f64>, Vec<f64>) = samples().map(|(at, bytes)| (micros(*at) as f64, *bytes as f64)).unzip();
        block("mem-at", &little(&columns.0, |n| n.to_le_bytes()))?;
        block("mem", &little(&columns.1, |n| n.to_le_bytes()))
    }

    fn meta(&self) -> Value {
        let tally = self.tally;
        let names: Vec<String> = OutcomeKind::ALL.iter().map(ToString::to_string).collect();
        let end = tally.gateways.iter().map(|place| place.last_end).max().unwrap_or_default().max(tally.last_end);
        let marks: Vec<Value> = tally
            .marks
            .iter()
            .map(|mark| json!([micros(mark.at), mark.gateway, mark.what.word(), mark.text]))
            .collect();
        let mut sample = 0;
        let mut samples = vec![0];
        samples.extend(tally.gateways.iter().map(|place| {
            sample += place.samples.len();
            sample
        }));
        let slowest: Vec<Value> = self
            .failures
            .slowest
            .iter()
            .map(|(took, task, name)| json!({"us": micros(*took), "task": task, "name": name}))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "module": self.facts.module,
            "end": micros(end),
            "kinds": names,
            "counts": tally.outcomes.to_vec(),
            "gateways": tally.gateways.iter().enumerate().map(|(at, place)| gateway(at, place)).collect::<Vec<Value>>(),
            "offsets": self.runs.offsets,
            "samples": samples,
            "marks": marks,
            "failures": self.failures.count,
            "causes": self.failures.causes().into_iter().map(cause).collect::<Vec<Value>>(),
            "slowest": slowest,
        })
    }
}

/// What this part of all does not exceed.
fn rank(times: &[f32], part: f64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^53")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and clamped by the cast")]
    let rank = (part * times.len() as f64).ceil() as usize;
    times[rank.clamp(1, times.len()) - 1]
}

fn gateway(position: usize, place: &Place) -> Value {
    json!({"name": place.name(position), "busy": micros(place.busy), "finished": place.finished})
}

fn cause(cause: &Cause) -> Value {
    let examples: Vec<Value> = cause.examples.iter().map(failure).collect();
    json!({"kind": cause.kind.to_string(), "text": cause.text, "count": cause.count, "examples": examples})
}

fn failure(failure: &Failure) -> Value {
    json!({
        "task": failure.task,
        "name": failure.name,
        "kind": failure.kind.to_string(),
        "message": failure.message,
        "location": failure.location,
        "backtrace": failure.backtrace,
        "stderr": failure.stderr,
        "attempts": failure.attempts,
        "gateway": failure.gateway,
        "us": micros(failure.took),
        "at": micros(failure.at),
    })
}

fn little<T: Copy, const N: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| bytes(*number)).collect()
}

/// Text as markup that shows it.
fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}
