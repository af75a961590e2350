//! The trace: events in Chrome's format, one a line, written as they happen.
//!
//! It is the form that is an array of events. Viewers take it without its last bracket too, so that a run that is killed
//! leaves a trace of what it did.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::tally::{Mark, Run, Tally};

/// What viewers call a process; there is one.
const PROCESS: u32 = 1;

/// Writes events.
#[derive(Debug)]
pub(super) struct Trace<W: Write> {
    out: W,
    marks: usize,
    named: Vec<Option<String>>,
    memory: Vec<Option<u64>>,
}

impl Trace<BufWriter<File>> {
    /// Begins the file.
    pub(super) fn create(path: &Path, module: &str) -> io::Result<Trace<BufWriter<File>>> {
        let mut trace = Trace::new(BufWriter::with_capacity(1 << 18, File::create(path)?), module)?;
        trace.flush()?;
        Ok(trace)
    }
}

impl<W: Write> Trace<W> {
    pub(super) fn new(mut out: W, module: &str) -> io::Result<Trace<W>> {
        out.write_all(b"[\n")?;
        let mut trace = Trace { out, marks: 0, named: Vec::new(), memory: Vec::new() };
        let name = format!("sandgate map {module}");
        trace.event(&json!({"ph": "M", "name": "process_name", "pid": PROCESS, "args": {"name": name}}))?;
        Ok(trace)
    }

    /// Adds a run.
    pub(super) fn run(&mut self, run: &Run, name: Option<&str>) -> io::Result<()> {
        // Written by hand, since there is one for each task; the name alone may need escapes.
        let name = match name {
            Some(name) => serde_json::to_string(name)?,
            None => format!("\"task {}\"", run.task),
        };
        let (start, took) = (micros(run.start), micros(run.end.saturating_sub(run.start)));
        let color = match (run.again, run.outcome == sandgate::OutcomeKind::Returned) {
            (false, true) => "good",
            (true, _) => "bad",
            (false, false) => "terrible",
        };
        writeln!(
            self.out,
            "{{\"ph\":\"X\",\"name\":{name},\"cat\":\"task\",\"pid\":{PROCESS},\"tid\":{},\"ts\":{start},\"dur\":{took},\
             \"cname\":\"{color}\",\"args\":{{\"task\":{},\"attempt\":{},\"outcome\":\"{}\",\"again\":{}}}}},",
            run.gateway + 1,
            run.task,
            run.attempt,
            run.outcome,
            run.again
        )
    }

    /// Adds what happened to gateways since the last time, and their memory.
    pub(super) fn catch_up(&mut self, at: Duration, tally: &Tally) -> io::Result<()> {
        for gateway in 0..tally.gateways.len() {
            let name = tally.gateways[gateway].name(gateway);
            if self.named.len() <= gateway {
                self.named.resize(gateway + 1, None);
                self.memory.resize(gateway + 1, None);
            }
            if self.named[gateway].as_deref() != Some(&name) {
                let tid = gateway + 1;
                let args = json!({"name": name});
                self.event(&json!({"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": tid, "args": args}))?;
                let args = json!({"sort_index": tid});
                self.event(&json!({"ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": tid, "args": args}))?;
                self.named[gateway] = Some(name);
            }
        }
        for mark in tally.marks.iter().skip(self.marks) {
            self.mark(mark)?;
        }
        self.marks = tally.marks.len();
        for (gateway, place) in tally.gateways.iter().enumerate() {
            if self.memory[gateway] != place.memory {
                self.memory[gateway] = place.memory;
                let name = format!("memory {}", place.name(gateway));
                let args = json!({"bytes": place.memory.unwrap_or(0)});
                self.event(&json!({"ph": "C", "name": name, "pid": PROCESS, "ts": micros(at), "args": args}))?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        let name = format!("gateway {}", mark.what.word());
        self.event(&json!({
            "ph": "i", "s": "t", "name": name, "cat": "gateway", "pid": PROCESS, "tid": mark.gateway + 1,
            "ts": micros(mark.at), "args": {"text": mark.text},
        }))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the array.
    pub(super) fn finish(&mut self, at: Duration, tally: &Tally) -> io::Result<()> {
        self.catch_up(at, tally)?;
        // The event before ends with a comma.
        let end = json!({"ph": "i", "s": "g", "name": "end", "pid": PROCESS, "tid": 0, "ts": micros(at)});
        writeln!(self.out, "{end}\n]")?;
        self.flush()
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        writeln!(self.out, "{event},")
    }
}

fn micros(time: Duration) -> u128 {
    time.as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandgate::{OutcomeKind, PoolEvent, TimedEvent};

    fn traced(finish: bool) -> String {
        let mut out = Vec::new();
        let mut trace = Trace::new(&mut out, "a \"module\"").unwrap();
        let mut tally = Tally::new(1);
        let at = Duration::from_millis(2);
        let started = PoolEvent::GatewayStarted { gateway: 0, id: "gw0".into(), pid: Some(7) };
        tally.take(&TimedEvent { at, event: started });
        trace.catch_up(at, &tally).unwrap();
        let (start, end, outcome) = (at, Duration::from_millis(5), OutcomeKind::Panicked);
        let run = Run { task: 3, gateway: 0, attempt: 1, start, end, outcome, again: false };
        trace.run(&run, Some("in\"put\n")).unwrap();
        trace.run(&run, None).unwrap();
        if finish {
            trace.finish(end, &tally).unwrap();
        }
        drop(trace);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_trace_is_an_array_of_events() {
        let events: Vec<Value> = serde_json::from_str(&traced(true)).unwrap();
        let phases: Vec<&str> = events.iter().map(|event| event["ph"].as_str().unwrap()).collect();
        assert_eq!(phases, ["M", "M", "M", "i", "X", "X", "i"]);
        assert_eq!(
            events[4],
            json!({"ph": "X", "name": "in\"put\n", "cat": "task", "pid": 1, "tid": 1, "ts": 2000, "dur": 3000,
                "cname": "terrible", "args": {"task": 3, "attempt": 1, "outcome": "panicked", "again": false}})
        );
        assert_eq!(events[5]["name"], "task 3");
    }

    #[test]
    fn a_trace_that_was_cut_off_is_whole_up_to_its_last_line() {
        let text = traced(false);
        for line in text.lines().skip(1) {
            serde_json::from_str::<Value>(line.strip_suffix(',').unwrap()).unwrap();
        }
    }
}
