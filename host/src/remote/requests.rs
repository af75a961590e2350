//! Compilations that agents were asked for, and whoever waits for what comes of them.

use std::collections::{HashMap, VecDeque};

use parking_lot::{Condvar, Mutex};
use sandgate_wire::link::message::RemoteCompiled;

use crate::deadline::Deadline;

/// What an agent says about a compilation.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It does not have the module.
    Need,
    Compiled(Box<RemoteCompiled>),
    /// The link is gone.
    Over,
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// Those that somebody waits for, and what has come.
    waiting: HashMap<u64, VecDeque<Answer>>,
    over: bool,
}

impl Requests {
    /// The number of a new request.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let request = state.last;
        state.waiting.insert(request, VecDeque::new());
        request
    }

    /// Waits for the next answer; `None` if there is none by the deadline.
    pub(crate) fn next(&self, request: u64, deadline: Deadline) -> Option<Answer> {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = state.waiting.get_mut(&request).and_then(VecDeque::pop_front) {
                return Some(answer);
            }
            if state.over {
                return Some(Answer::Over);
            }
            deadline.wait(&self.changed, &mut state).ok()?;
        }
    }

    /// Nobody waits for it any more.
    pub(crate) fn give_up(&self, request: u64) {
        self.state.lock().waiting.remove(&request);
    }

    pub(crate) fn need(&self, request: u64) -> Result<(), String> {
        self.came(request, Answer::Need)
    }

    pub(crate) fn answer(&self, request: u64, compiled: RemoteCompiled) -> Result<(), String> {
        self.came(request, Answer::Compiled(Box::new(compiled)))
    }

    fn came(&self, request: u64, answer: Answer) -> Result<(), String> {
        let mut state = self.state.lock();
        if request == 0 || request > state.last {
            return Err("an answer that nobody asked for".to_owned());
        }
        if let Some(answers) = state.waiting.get_mut(&request) {
            // It is asked for the module, and once more if the first one did not arrive; then comes what was made of it.
            if answers.len() >= 4 {
                return Err("many answers to one question".to_owned());
            }
            answers.push_back(answer);
            self.changed.notify_all();
        }
        Ok(())
    }

    pub(crate) fn end(&self) {
        self.state.lock().over = true;
        self.changed.notify_all();
    }
}
