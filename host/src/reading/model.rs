//! Every interleaving of two callers, the service and a worker, on a model of [`Reading`](super::Reading): whatever the order,
//! what the worker has sent reaches whom it is for, and a connection that is left alone ends up attended.
//!
//! The model has a step for each access to what is shared, and names it after the code. What alarms do is not in it: they end
//! waits early and nothing else. Once more with a service that may let the connection doze whenever it has read it, and a worker
//! of which nothing rings then.

use std::collections::HashSet;

/// Messages that each caller waits for, one after the other; and where the connection may doze.
const MESSAGES: u8 = 2;
const MESSAGES_WITH_DOZING: u8 = 1;
const CALLERS: usize = 2;
/// Who has the role, besides the callers.
const SERVICE: usize = CALLERS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Caller {
    /// `try_lead`.
    TryLead,
    /// `Lead::run`: reads, unless there is nothing.
    Leads,
    /// `Lead::drop`, step by step.
    CountLead,
    LookBeside,
    Release,
    LookMissed {
        attended: bool,
    },
    List,
    /// `add_beside`.
    Beside,
    TryAttend,
    ReleaseBeside,
    LookMissedBeside,
    /// Waits on its condition.
    Waits,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Service {
    /// Waits for the bell, a poke, what is listed, or a tick.
    Waits,
    Visit,
    MarkMissed,
    TryAgain,
    Reads,
    Release,
    LookMissed,
    /// `unlist`, step by step.
    Unlist,
    LookLeads,
    VisitFree,
    /// `look`.
    Look,
    ReleaseLook,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    // ---- Reading ----
    role: Option<usize>,
    attended: bool,
    /// It does, and it may.
    dozes: bool,
    may_doze: bool,
    leads: u8,
    listed: bool,
    missed: bool,
    beside: u8,
    // ---- the service's ----
    armed: bool,
    pokes: u8,
    /// Pushed by `Place::list`, and not taken yet.
    notes: u8,
    /// Those that it looks at with each tick, by what it has seen.
    ticks: Vec<u8>,
    /// It is among those that the service looks at when its timer has run out.
    dozing: bool,
    service: Service,
    // ---- the stream ----
    /// Whom the messages are for that nobody has read.
    stream: Vec<usize>,
    unsent: [u8; CALLERS],
    // ---- the callers ----
    callers: [Caller; CALLERS],
    /// Messages that wait for a caller, and how many it still wants.
    queues: [u8; CALLERS],
    wanted: [u8; CALLERS],
}

impl State {
    fn new(messages: u8, may_doze: bool) -> State {
        State {
            role: None,
            attended: true,
            dozes: false,
            may_doze,
            leads: 0,
            listed: false,
            missed: false,
            beside: 0,
            armed: true,
            pokes: 0,
            notes: 0,
            ticks: Vec::new(),
            dozing: false,
            service: Service::Waits,
            stream: Vec::new(),
            unsent: [messages; CALLERS],
            callers: [Caller::TryLead; CALLERS],
            queues: [0; CALLERS],
            wanted: [messages; CALLERS],
        }
    }

    fn read_all(&mut self) {
        for caller in self.stream.drain(..) {
            self.queues[caller] += 1;
        }
    }

    fn attend(&mut self) {
        (self.attended, self.armed, self.dozes) = (true, true, false);
    }

    /// Every state that one step leads to.
    fn next(&self) -> Vec<State> {
        let mut next = Vec::new();
        for caller in 0..CALLERS {
            let mut state = self.clone();
            if state.caller_steps(caller) {
                next.push(state);
            }
            if self.unsent[caller] > 0 {
                let mut state = self.clone();
                state.unsent[caller] -= 1;
                state.stream.push(caller);
                next.push(state);
            }
        }
        self.service_steps(&mut next);
        next
    }

    /// A caller's next step; false if it has to wait for others.
    fn caller_steps(&mut self, me: usize) -> bool {
        self.callers[me] = match self.callers[me] {
            Caller::Done => return false,
            // With its endpoint locked: what has arrived is taken first.
            Caller::TryLead | Caller::Waits if self.queues[me] > 0 => {
                if self.callers[me] == Caller::Waits {
                    self.beside -= 1;
                }
                self.queues[me] -= 1;
                self.wanted[me] -= 1;
                if self.wanted[me] == 0 { Caller::Done } else { Caller::TryLead }
            }
            Caller::Waits => return false,
            Caller::TryLead if self.role.is_some() => Caller::Beside,
            Caller::TryLead => {
                self.role = Some(me);
                // Disarmed, if it was attended.
                (self.attended, self.armed, self.dozes) = (false, false, false);
                Caller::Leads
            }
            Caller::Leads if self.stream.is_empty() && self.queues[me] == 0 => return false,
            Caller::Leads => {
                self.read_all();
                if self.queues[me] > 0 { Caller::CountLead } else { Caller::Leads }
            }
            Caller::CountLead => {
                self.leads += 1;
                Caller::LookBeside
            }
            Caller::LookBeside => {
                if self.beside > 0 {
                    self.attend();
                }
                Caller::Release
            }
            Caller::Release => {
                self.role = None;
                Caller::LookMissed { attended: self.attended }
            }
            Caller::LookMissed { attended } => {
                self.pokes += u8::from(std::mem::take(&mut self.missed));
                if attended { Caller::TryLead } else { Caller::List }
            }
            Caller::List => {
                self.notes += u8::from(!std::mem::replace(&mut self.listed, true));
                Caller::TryLead
            }
            Caller::Beside => {
                self.beside += 1;
                Caller::TryAttend
            }
            Caller::TryAttend if self.role.is_some() => Caller::Waits,
            Caller::TryAttend => {
                self.role = Some(me);
                if !self.attended {
                    self.attend();
                }
                Caller::ReleaseBeside
            }
            Caller::ReleaseBeside => {
                self.role = None;
                Caller::LookMissedBeside
            }
            Caller::LookMissedBeside => {
                self.pokes += u8::from(std::mem::take(&mut self.missed));
                Caller::Waits
            }
        };
        true
    }

    fn service_steps(&self, next: &mut Vec<State>) {
        let mut step = |change: &dyn Fn(&mut State) -> Service| {
            let mut state = self.clone();
            state.service = change(&mut state);
            next.push(state);
        };
        match self.service {
            Service::Waits => {
                if self.dozing {
                    step(&|_| Service::Look);
                }
                if self.armed && !self.dozes && !self.stream.is_empty() {
                    step(&|state| {
                        state.armed = false;
                        Service::Visit
                    });
                }
                if self.pokes > 0 {
                    step(&|state| {
                        state.pokes -= 1;
                        Service::Visit
                    });
                }
                if self.notes > 0 {
                    step(&|state| {
                        state.notes -= 1;
                        state.ticks.push(state.leads);
                        Service::Waits
                    });
                }
                if let Some(seen) = self.ticks.first() {
                    let changed = *seen != self.leads;
                    step(&|state| {
                        state.ticks[0] = state.leads;
                        if changed { Service::Waits } else { Service::Unlist }
                    });
                }
            }
            Service::Visit if self.role.is_none() => step(&|state| {
                state.role = Some(SERVICE);
                Service::Reads
            }),
            Service::Visit => step(&|_| Service::MarkMissed),
            Service::MarkMissed => step(&|state| {
                state.missed = true;
                Service::TryAgain
            }),
            Service::Look if self.role.is_none() => {
                let finds = self.dozes && !self.stream.is_empty();
                step(&|state| {
                    state.role = Some(SERVICE);
                    if finds {
                        return Service::Reads;
                    }
                    if state.dozes {
                        state.attend();
                    }
                    state.dozing = false;
                    Service::ReleaseLook
                });
                if self.dozes && !finds {
                    // It dozes on.
                    step(&|state| {
                        state.role = Some(SERVICE);
                        Service::ReleaseLook
                    });
                }
            }
            Service::Look => step(&|state| {
                state.dozing = false;
                Service::MarkMissed
            }),
            Service::ReleaseLook => step(&|state| {
                state.role = None;
                Service::LookMissed
            }),
            Service::TryAgain | Service::VisitFree if self.role.is_none() => step(&|state| {
                state.role = Some(SERVICE);
                Service::Reads
            }),
            Service::TryAgain | Service::VisitFree => step(&|_| Service::Waits),
            Service::Reads => {
                step(&|state| {
                    state.read_all();
                    state.attend();
                    state.dozing = false;
                    Service::Release
                });
                if self.may_doze {
                    step(&|state| {
                        state.read_all();
                        state.attend();
                        (state.dozes, state.dozing) = (true, true);
                        Service::Release
                    });
                }
            }
            Service::Release => step(&|state| {
                state.role = None;
                Service::LookMissed
            }),
            Service::LookMissed => step(&|state| {
                state.pokes += u8::from(std::mem::take(&mut state.missed));
                Service::Waits
            }),
            Service::Unlist => step(&|state| {
                state.listed = false;
                Service::LookLeads
            }),
            Service::LookLeads => step(&|state| {
                if state.ticks[0] != state.leads && !std::mem::replace(&mut state.listed, true) {
                    return Service::Waits;
                }
                state.ticks.remove(0);
                Service::VisitFree
            }),
        }
    }
}

/// All states that can be reached, each of which has been looked at.
fn explore(first: State, check: impl Fn(&State, bool)) -> usize {
    let mut seen = HashSet::new();
    let mut todo = vec![first];
    while let Some(state) = todo.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let next = state.next();
        check(&state, next.is_empty());
        todo.extend(next);
    }
    seen.len()
}

fn check(first: State) {
    let states = explore(first, |state, stuck| {
        assert!(state.pokes < 9 && state.ticks.len() < 9 && state.notes < 9, "the service is swamped: {state:?}");
        assert!(state.armed || state.role.is_some() || !stuck, "nobody looks after it: {state:?}");
        // A look that is due leads on.
        let is_looked_after = state.dozing || state.missed || state.pokes > 0 || state.role.is_some();
        let is_visited = !matches!(state.service, Service::Waits | Service::Unlist | Service::LookLeads);
        assert!(!state.dozes || is_looked_after || is_visited, "it dozes for ever: {state:?}");
        if stuck {
            assert_eq!(state.callers, [Caller::Done; CALLERS], "somebody waits for ever: {state:?}");
            assert!(state.attended && state.beside == 0 && !state.missed, "{state:?}");
        }
    });
    assert!(states > 10_000, "{states}");
}

#[test]
fn nothing_is_left_lying() {
    check(State::new(MESSAGES, false));
}

#[test]
fn nothing_is_left_lying_where_it_dozes() {
    check(State::new(MESSAGES_WITH_DOZING, true));
}
