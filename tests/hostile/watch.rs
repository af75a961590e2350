//! Asks siblings of a row again and again, and takes down how long they take to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sandgate::Channel;

/// How long a sibling may take to answer while a row runs: tens of microseconds on an idle machine. On a busy one a thread
/// may wait for its turn behind a guest that computes, and others that do.
pub(crate) const SIBLING_BOUND: Duration = Duration::from_millis(500);
/// When a sibling is given up.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// One that is asked.
struct Asked {
    name: &'static str,
    channel: Channel,
    worst: Duration,
    answers: u32,
    error: Option<String>,
}

/// The thread that asks.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Asked>>,
}

impl Watch {
    pub(crate) fn start(neighbour: &Channel, sibling: Option<&Channel>) -> Watch {
        let asked = |name, channel: &Channel| Asked {
            name,
            channel: channel.clone(),
            worst: Duration::ZERO,
            answers: 0,
            error: None,
        };
        let mut all = vec![asked("the sibling gateway", neighbour)];
        all.extend(sibling.map(|channel| asked("the sibling on the same worker", channel)));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watch = move || {
            loop {
                // Looked at first, so that each is asked at least once after the row.
                let last = told.load(Ordering::Acquire);
                all.iter_mut().for_each(Asked::ask);
                if last {
                    return all;
                }
                thread::park_timeout(PAUSE);
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(watch).expect("a thread");
        Watch { stop, thread }
    }

    /// What was wrong with the answers. A sibling on a worker that the row has taken is not asked for.
    pub(crate) fn stop(self, takes_worker: bool) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let all = self.thread.join().expect("the watch does not panic");
        let mut problems = Vec::new();
        for Asked { name, worst, answers, error, .. } in all.into_iter().take(if takes_worker { 1 } else { 2 }) {
            if let Some(error) = error {
                problems.push(format!("{name} does not answer any more: {error}"));
            } else if worst > SIBLING_BOUND {
                problems.push(format!(
                    "{name} took {worst:?} for one of {answers} answers, the bound is {SIBLING_BOUND:?}"
                ));
            }
        }
        problems
    }
}

impl Asked {
    fn ask(&mut self) {
        if self.error.is_some() {
            return;
        }
        let start = Instant::now();
        match self.exchange() {
            Ok(()) => self.answers += 1,
            Err(error) => self.error = Some(error),
        }
        self.worst = self.worst.max(start.elapsed());
    }

    fn exchange(&self) -> Result<(), String> {
        self.channel.send_timeout(&self.answers, PATIENCE).map_err(|error| error.to_string())?;
        let answer = self.channel.receive_timeout::<u32>(PATIENCE).map_err(|error| error.to_string())?;
        if answer == self.answers { Ok(()) } else { Err(format!("it says {answer} instead of {}", self.answers)) }
    }
}
