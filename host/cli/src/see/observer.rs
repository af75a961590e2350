//! [`Observer`]: the handle that a command has, and the one thread that takes a pool's events and feeds all consumers.
//!
//! 1. [`Prepared::check`] checks that all files can be written and opens the port; `start` starts the thread.
//! 2. Twenty times a second the thread takes what events there are, and gives each run that has ended to the trace and the
//!    report. Being woken for each event would cost the pool more than telling of it.
//! 3. At its own pace each, it draws progress, asks for memory, writes metrics and lays them out for the endpoint, flushes
//!    the trace.
//! 4. `finish` lets it take what is left and write what is written at the end. Dropping the observer instead ends progress
//!    and trace, and writes neither report nor summary.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{MultiProgress, ProgressDrawTarget};
use sandgate::{EventSink, EventStream, OutcomeKind, OutputSink, PoolEvent, PoolStats, Stream, TaskResult};

use super::endpoint::{Board, Endpoint, Listen};
use super::failures::Failures;
use super::names::{Lock, Names};
use super::options::{Facts, Options, When};
use super::progress::{self, Progress};
use super::report::{self, Recorder};
use super::tally::Tally;
use super::telling::Telling;
use super::trace::Trace;
use super::{files, metrics, summary};
use crate::print;

/// Events that wait to be taken: of over a second at a million tasks a minute, twenty times what there is to take at once.
const QUEUE: usize = 1 << 16;
const TICK: Duration = Duration::from_millis(50);
const METRICS_EVERY: Duration = Duration::from_secs(5);
const BOARD_EVERY: Duration = Duration::from_millis(250);
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at a gateway's memory, and between those at two gateways.
const MEMORY_EVERY: Duration = Duration::from_millis(200);
const MEMORY_STEP: Duration = Duration::from_millis(20);

/// Shows what a pool does; see [`Options`].
#[derive(Debug)]
pub(crate) struct Observer {
    sink: EventSink,
    names: Names,
    failures: Arc<Lock<Failures>>,
    /// Nanoseconds that a task must have taken to be among the slowest.
    floor: AtomicU64,
    terminal: Option<MultiProgress>,
    end: Lock<Option<mpsc::Sender<Box<PoolStats>>>>,
    thread: Lock<Option<JoinHandle<anyhow::Result<()>>>>,
}

/// What is known to be there before any work: files that can be written, a port that is ours.
#[derive(Debug)]
pub(crate) struct Prepared {
    listener: Option<TcpListener>,
}

impl Prepared {
    /// Fails if one of the files cannot be written or is also the `journal`, or the port is in use. Changes no file.
    pub(crate) fn check(options: &Options, journal: Option<&Path>) -> anyhow::Result<Prepared> {
        check_files(options, journal)?;
        Ok(Prepared { listener: options.metrics_listen.as_ref().map(Listen::bind).transpose()? })
    }
}

impl Observer {
    /// Starts to observe.
    pub(crate) fn start(options: &Options, prepared: Prepared, facts: Facts) -> anyhow::Result<Observer> {
        let (sink, events) = EventSink::bounded(QUEUE);
        let progress = progress_of(options, &facts);
        let trace = match &options.trace {
            Some(path) => Some(
                Trace::create(path, &facts.module)
                    .with_context(|| format!("trace `{}` cannot be written", path.display()))?,
            ),
            None => None,
        };
        let terminal = progress.as_ref().and_then(Progress::terminal);
        let names = Names::default();
        let failures = Arc::new(Lock::new(Failures::default()));
        let mut watch = Watch::new(options, facts, events, names.clone(), Arc::clone(&failures));
        (watch.progress, watch.trace) = (progress, trace);
        if let Some(listener) = prepared.listener {
            let endpoint = Endpoint::start(listener, watch.board.insert(Board::default()).clone())?;
            watch.lay_out(Duration::ZERO);
            // Nobody else can tell which port it is.
            if !options.quiet || options.metrics_listen.as_ref().is_some_and(Listen::is_any_port) {
                print::complain(&format!("metrics are at http://{}/metrics", endpoint.address()));
            }
            watch.endpoint = Some(endpoint);
        }
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("observer".to_owned()).spawn(move || watch.run(&ended))?;
        Ok(Observer {
            sink,
            names,
            failures,
            floor: AtomicU64::new(0),
            terminal,
            end: Lock::new(Some(end)),
            thread: Lock::new(Some(thread)),
        })
    }

    /// Where the pool is to tell of what happens.
    pub(crate) fn sink(&self) -> EventSink {
        self.sink.clone()
    }

    /// The input with this number, from 0, is called that. To be told before the pool gets it. Results bear the same number.
    pub(crate) fn input(&self, task: u64, name: impl FnOnce() -> String) {
        self.names.put(task, &name());
    }

    /// A result has come. To be told of each, before it is taken apart: this is where errors and what tasks printed are from.
    pub(crate) fn result<T>(&self, name: impl FnOnce() -> String, result: &TaskResult<T>) {
        let took = u64::try_from(result.timing.run_time().as_nanos()).unwrap_or(u64::MAX);
        if result.value.is_ok() && took <= self.floor.load(Ordering::Relaxed) {
            return;
        }
        let mut failures = self.failures.lock();
        failures.take(&name(), result);
        let floor = u64::try_from(failures.floor().as_nanos()).unwrap_or(u64::MAX);
        self.floor.store(floor, Ordering::Relaxed);
    }

    /// An input was not given to the pool, since it is nothing that the task takes.
    pub(crate) fn rejected(&self, name: &str, task: u64, message: &str) {
        self.failures.lock().rejected(name, task, message);
    }

    /// A task has returned, but not what it has to.
    pub(crate) fn spoiled(&self, name: &str, task: u64, kind: OutcomeKind, message: &str) {
        self.failures.lock().spoiled(name, task, kind, message);
    }

    /// An input has a result from before this run: a value, or a failure.
    pub(crate) fn known(&self, success: bool) {
        let apart = &mut self.failures.lock().apart;
        *(if success { &mut apart.known_done } else { &mut apart.known_failed }) += 1;
    }

    /// Does something with the terminal while the bars are away: prints results.
    pub(crate) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.terminal {
            Some(terminal) => terminal.suspend(print),
            None => print(),
        }
    }

    /// Where lines that guests print go: to standard error, past the bars if there are any, with the name of the input.
    pub(crate) fn guest_output(&self) -> OutputSink {
        let (terminal, names, failures) = (self.terminal.clone(), self.names.clone(), Arc::clone(&self.failures));
        OutputSink::callback(move |line| {
            if let (Some(task), Stream::Stderr) = (line.task, line.stream) {
                failures.lock().printed(task, &line.text);
            }
            // What comes late finds no name.
            let name = |task| names.get(task).map_or_else(|| format!("input {task}"), |name| name.to_string());
            let line = line.task.map_or_else(|| line.to_string(), |task| line.named(&name(task)));
            // Nobody is left to tell when standard error is closed.
            let print = || drop(writeln!(std::io::stderr().lock(), "{line}"));
            match &terminal {
                Some(terminal) => terminal.suspend(print),
                None => print(),
            }
        })
    }

    /// Takes what events are left, ends progress, writes the files and prints the summary. To be told after the last
    /// result, with numbers of the pool from then. Does nothing the second time.
    pub(crate) fn finish(&self, stats: &PoolStats) -> anyhow::Result<()> {
        if let Some(end) = self.end.lock().take() {
            // If the thread has panicked, joining it tells.
            let _ = end.send(Box::new(stats.clone()));
        }
        let thread = self.thread.lock().take();
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the observer's thread has panicked"),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        drop(self.end.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

fn check_files(options: &Options, journal: Option<&Path>) -> anyhow::Result<()> {
    let named = [("report", &options.report), ("trace", &options.trace), ("metrics", &options.metrics)];
    let absolute =
        |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    let mut seen: Vec<(&str, PathBuf)> = journal.map(|path| ("journal", absolute(path))).into_iter().collect();
    for (what, path) in named.into_iter().filter_map(|(what, path)| path.as_ref().map(|path| (what, path))) {
        files::check(what, path)?;
        let absolute = absolute(path);
        let is_file = std::fs::metadata(path).map_or(true, |found| found.is_file());
        if let Some((other, _)) = seen.iter().find(|(_, other)| is_file && *other == absolute) {
            bail!("{other} and {what} cannot both be `{}`", path.display());
        }
        seen.push((what, absolute));
    }
    Ok(())
}

fn progress_of(options: &Options, facts: &Facts) -> Option<Progress> {
    let is_terminal = std::io::stderr().is_terminal();
    let bars = || Progress::bars(facts, ProgressDrawTarget::stderr_with_hz(10));
    match options.progress {
        _ if options.quiet => None,
        When::Never => None,
        // Where lines of progress are not looked at as they come, few of them will do.
        When::Auto if !is_terminal => Some(Progress::lines(facts, progress::QUIET_LINE_EVERY)),
        When::Auto => (!facts.prints_to_terminal).then(bars),
        When::Always => Some(if is_terminal { bars() } else { Progress::lines(facts, progress::LINE_EVERY) }),
    }
}

/// What the thread has.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) facts: Facts,
    pub(super) events: EventStream,
    pub(super) tally: Tally,
    pub(super) names: Names,
    pub(super) failures: Arc<Lock<Failures>>,
    pub(super) progress: Option<Progress>,
    pub(super) recorder: Option<Recorder>,
    pub(super) report: Option<PathBuf>,
    pub(super) trace: Option<Trace<BufWriter<File>>>,
    pub(super) metrics: Option<PathBuf>,
    pub(super) board: Option<Board>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) summary: bool,
    /// What is told of machines.
    pub(super) telling: Telling,
    /// The first file that could not be written; it is not tried again.
    pub(super) error: Option<anyhow::Error>,
    /// When the pool was made, as far as its events tell.
    pub(super) epoch: Instant,
    pub(super) due: Due,
}

/// When what is to be done next.
#[derive(Debug, Default)]
pub(super) struct Due {
    memory: Option<Instant>,
    metrics: Option<Instant>,
    board: Option<Instant>,
    flush: Option<Instant>,
}

/// Whether it is time, and if so when it is the next time.
fn is_due(due: &mut Option<Instant>, now: Instant, every: Duration) -> bool {
    let is = due.is_none_or(|due| due <= now);
    if is {
        *due = Some(now + every);
    }
    is
}

impl Watch {
    pub(super) fn new(
        options: &Options,
        facts: Facts,
        events: EventStream,
        names: Names,
        failures: Arc<Lock<Failures>>,
    ) -> Watch {
        Watch {
            tally: Tally::new(facts.gateways),
            facts,
            events,
            names,
            failures,
            progress: None,
            recorder: options.report.is_some().then(Recorder::default),
            report: options.report.clone(),
            trace: None,
            metrics: options.metrics.clone(),
            board: None,
            endpoint: None,
            summary: !options.quiet && !options.no_summary,
            telling: Telling::default(),
            error: None,
            epoch: Instant::now(),
            due: Due::default(),
        }
    }

    fn run(mut self, ended: &mpsc::Receiver<Box<PoolStats>>) -> anyhow::Result<()> {
        loop {
            match ended.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Ok(stats) => return self.finish(&stats),
                Err(RecvTimeoutError::Disconnected) => return self.abandon(),
            }
        }
    }

    pub(super) fn tick(&mut self) {
        self.take_events();
        let now = Instant::now();
        let at = now.saturating_duration_since(self.epoch);
        let gateways = u32::try_from(self.tally.gateways.len()).unwrap_or(u32::MAX);
        if is_due(&mut self.due.memory, now, MEMORY_EVERY.max(MEMORY_STEP.saturating_mul(gateways))) {
            self.look_at_memory(at);
        }
        if let Some(progress) = &mut self.progress {
            progress.tick(at, &self.tally, &self.names);
        }
        if self.metrics.is_some() && is_due(&mut self.due.metrics, now, METRICS_EVERY) {
            self.write_metrics(at);
        }
        if self.board.is_some() && is_due(&mut self.due.board, now, BOARD_EVERY) {
            self.lay_out(at);
        }
        if self.trace.is_some() && is_due(&mut self.due.flush, now, FLUSH_EVERY) {
            self.with_trace(|trace, tally| trace.catch_up(at, tally).and_then(|()| trace.flush()));
        }
    }

    fn take_events(&mut self) {
        let now = Instant::now();
        self.tally.apart = self.failures.lock().apart;
        let mut last = None;
        let wants_runs = self.trace.is_some() || self.recorder.is_some();
        let events: Vec<_> = self.events.drain().take(QUEUE).collect();
        for timed in &events {
            last = Some(timed.at);
            if let Some(told) = self.telling.take(timed) {
                self.say(&told);
            }
            let run = self.tally.take(timed);
            let name = match &timed.event {
                PoolEvent::TaskFinished { task, .. } => self.names.take(*task),
                PoolEvent::TaskRetried { task, .. } if run.is_some() && wants_runs => self.names.get(*task),
                _ => None,
            };
            let Some(run) = run.filter(|_| wants_runs) else { continue };
            if self.trace.is_some() {
                self.with_trace(|trace, _| trace.run(&run, name.as_deref()));
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.run(&run, name.as_deref());
            }
        }
        if let Some(began) = last.and_then(|at| now.checked_sub(at)) {
            self.epoch = self.epoch.min(began);
        }
    }

    fn say(&self, told: &str) {
        match self.progress.as_ref().and_then(Progress::terminal) {
            Some(terminal) => terminal.suspend(|| print::complain(told)),
            None => print::complain(told),
        }
    }

    fn look_at_memory(&mut self, at: Duration) {
        for place in &mut self.tally.gateways {
            let memory = place.pid.and_then(resident_bytes);
            place.memory_is(at, memory);
        }
    }

    /// What the endpoint answers from now on.
    fn lay_out(&self, at: Duration) {
        if let Some(board) = &self.board {
            board.put(&metrics::text(&self.facts, &self.tally, at, self.events.dropped()));
        }
    }

    fn write_metrics(&mut self, at: Duration) {
        let Some(path) = &self.metrics else { return };
        let text = metrics::text(&self.facts, &self.tally, at, self.events.dropped());
        if let Err(error) = files::write(path, |out| out.write_all(text.as_bytes())) {
            let error = anyhow::Error::from(error).context(format!("metrics `{}` cannot be written", path.display()));
            self.metrics = None;
            self.error.get_or_insert(error);
        }
    }

    fn with_trace(&mut self, write: impl FnOnce(&mut Trace<BufWriter<File>>, &Tally) -> std::io::Result<()>) {
        let Some(trace) = &mut self.trace else { return };
        if let Err(error) = write(trace, &self.tally) {
            self.trace = None;
            self.error.get_or_insert(anyhow::Error::from(error).context("trace cannot be written"));
        }
    }

    fn abandon(mut self) -> anyhow::Result<()> {
        self.end_files();
        self.error.map_or(Ok(()), Err)
    }

    /// What is done at the end in any case. The time since the pool was made.
    fn end_files(&mut self) -> Duration {
        self.take_events();
        let at = self.epoch.elapsed();
        self.look_at_memory(at);
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
        self.write_metrics(at);
        self.lay_out(at);
        self.with_trace(|trace, tally| trace.finish(at, tally));
        at
    }

    pub(super) fn finish(mut self, stats: &PoolStats) -> anyhow::Result<()> {
        self.end_files();
        let mut failures = self.failures.lock();
        failures.complete();
        if self.summary {
            let text = summary::text(&self.tally, &failures, stats);
            // Whoever has closed standard error does not want to know.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
        if let (Some(path), Some(recorder)) = (&self.report, self.recorder.take()) {
            let page = report::Page {
                facts: &self.facts,
                tally: &self.tally,
                failures: &failures,
                stats,
                runs: recorder.finish(self.tally.gateways.len()),
            };
            if let Err(error) = files::write(path, |out| page.write(out)) {
                let error =
                    anyhow::Error::from(error).context(format!("report `{}` cannot be written", path.display()));
                self.error.get_or_insert(error);
            }
        }
        drop(failures);
        self.error.map_or(Ok(()), Err)
    }
}

/// Memory of a worker that is really there, as the system counts it.
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::see::synthetic::Synthetic;
    use serde_json::Value;

    fn in_dir(dir: &tempfile::TempDir) -> Options {
        let path = |name| Some(dir.path().join(name));
        Options { quiet: true, report: path("r.html"), trace: path("t.json"), metrics: path("m"), ..Options::default() }
    }

    fn facts() -> Facts {
        Facts { module: "m.wasm".to_owned(), gateways: 2, inputs: Some(500), ..Facts::default() }
    }

    fn start(options: &Options) -> anyhow::Result<Observer> {
        Observer::start(options, Prepared::check(options, None)?, facts())
    }

    fn tell_all(observer: &Observer, run: &Synthetic) {
        for (task, name) in (0..).zip(&run.names) {
            observer.input(task, || name.clone());
        }
        let sink = observer.sink();
        run.events.iter().for_each(|event| sink.tell(event.clone()));
    }

    #[test]
    fn progress_is_shown_unless_nobody_wants_it() {
        let shown = |options: &Options| progress_of(options, &facts()).is_some();
        assert!(shown(&Options::default()), "lines, where there is no terminal");
        assert!(!shown(&Options { quiet: true, ..Options::default() }));
        assert!(!shown(&Options { progress: When::Never, ..Options::default() }));
    }

    #[test]
    fn all_files_are_written_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let run = Synthetic::new(500, 2);
        let observer = start(&in_dir(&dir)).unwrap();
        tell_all(&observer, &run);
        assert_eq!(observer.suspend(|| 7), 7);
        observer.finish(&run.stats).unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let (report, trace, metrics) = (read("r.html"), read("t.json"), read("m"));
        assert!(report.ends_with("</html>\n") && report.contains("id=\"n-tasks\">500<"));
        let events: Vec<Value> = serde_json::from_str(&trace).unwrap();
        let runs: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(runs.iter().filter(|run| run["args"]["again"] == false).count(), 500);
        assert_eq!(runs.iter().filter(|run| run["args"]["again"] == true).count() as u64, run.stats.retried);
        assert!(runs.iter().any(|run| run["name"] == "corpus/003/input-3.json"));
        assert!(metrics.contains(&format!("sandgate_tasks_total{{outcome=\"returned\"}} {}\n", run.stats.done)));
        assert!(metrics.contains("sandgate_task_seconds_count 500\n"));
    }

    #[test]
    fn an_observer_that_is_dropped_leaves_a_whole_trace_and_no_report() {
        let dir = tempfile::tempdir().unwrap();
        let observer = start(&in_dir(&dir)).unwrap();
        tell_all(&observer, &Synthetic::new(100, 2));
        drop(observer);
        let trace = std::fs::read_to_string(dir.path().join("t.json")).unwrap();
        assert!(serde_json::from_str::<Vec<Value>>(&trace).unwrap().len() > 100);
        assert!(!dir.path().join("r.html").exists());
    }

    #[test]
    fn what_cannot_be_written_is_told_before_any_work() {
        let dir = tempfile::tempdir().unwrap();
        let check = |change: &dyn Fn(&mut Options), expected: &str| {
            let mut options = in_dir(&dir);
            change(&mut options);
            let error = format!("{:#}", start(&options).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        let place = dir.path().to_owned();
        let missing = place.join("missing").join("file");
        check(&|options| options.report = Some(place.clone()), "it is a directory");
        check(&|options| options.report = Some(missing.clone()), "cannot be written");
        check(&|options| options.trace = Some(missing.clone()), "cannot be written");
        check(&|options| options.metrics = Some(missing.clone()), "cannot be written");
        check(&|options| options.trace.clone_from(&options.report), "report and trace cannot both be");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_full_disk_is_told_at_the_end_and_stops_nothing() {
        if !std::path::Path::new("/dev/full").exists() {
            return;
        }
        let full = || Some(PathBuf::from("/dev/full"));
        for options in [
            Options { quiet: true, report: full(), ..Options::default() },
            Options { quiet: true, metrics: full(), ..Options::default() },
            Options { quiet: true, trace: full(), ..Options::default() },
        ] {
            let run = Synthetic::new(100, 2);
            // A trace is begun at once.
            let result = start(&options).and_then(|observer| {
                tell_all(&observer, &run);
                observer.finish(&run.stats)
            });
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("cannot be written: ") && error.contains("No space left"), "{error}");
        }
    }
}
