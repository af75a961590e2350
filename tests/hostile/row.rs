//! A row: one thing that a hostile module tries, and what must come of it.

use std::time::Duration;

use sandgate::{Call, Channel, ExecutionGrants, Limits, Module};
use sandgate_tests::{module, wat};

use crate::expected::Expected;
use crate::visit;

/// What an outcome may take beyond the row's timeout, and its grace if it needs the worker's death: nothing on an idle
/// machine. The benchmark `interruption` measures; this only tells a stop from none.
const BOUND: Duration = Duration::from_secs(5);
/// What the host may have grown by after a row.
pub(crate) const HOST_GROWTH: u64 = 24 << 20;
/// What the worker may have grown by after a row. Its allocator keeps a little for each of its threads.
const WORKER_GROWTH: u64 = 48 << 20;

/// What the host does while the guest runs. It returns when it has done its part; the end is awaited for it.
pub(crate) type Visit = Box<dyn Fn(&Channel) -> Result<(), String> + Send>;

/// One line of the corpus.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) module: Module,
    pub(crate) call: Call,
    pub(crate) limits: Limits,
    /// What the row's gateway is to be beyond `popen`; empty for the one that most rows share.
    pub(crate) spec: String,
    pub(crate) visit: Visit,
    pub(crate) expected: Expected,
    /// What the outcome may take beyond the timeout.
    pub(crate) bound: Duration,
    /// The row costs its worker, and the gateway is replaced.
    pub(crate) takes_worker: bool,
    /// Whether a sibling runs on the row's worker, to be disturbed.
    pub(crate) has_sibling: bool,
    pub(crate) host_growth: u64,
    pub(crate) worker_growth: u64,
}

/// Starts a row of a module in the text format.
#[track_caller]
pub(crate) fn row(name: impl Into<String>, text: impl AsRef<str>) -> Row {
    of_module(name, wat(text.as_ref()))
}

/// Starts a row of a module's bytes, which may be anything.
#[track_caller]
pub(crate) fn bytes(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Row {
    of_module(name, Module::from_bytes(bytes).expect("bytes that are not none"))
}

/// Starts a row of a guest in Rust.
#[track_caller]
pub(crate) fn guest(name: &str) -> Row {
    of_module(name, module(name))
}

fn of_module(name: impl Into<String>, module: Module) -> Row {
    Row {
        name: name.into(),
        module,
        call: Call::start(),
        limits: Limits { wall_time: Some(Duration::from_secs(20)), ..Limits::default() },
        spec: String::new(),
        visit: Box::new(visit::listens),
        expected: Expected::Returned,
        bound: BOUND,
        takes_worker: false,
        has_sibling: true,
        host_growth: HOST_GROWTH,
        worker_growth: WORKER_GROWTH,
    }
}

impl Row {
    pub(crate) fn called(self, name: impl Into<String>) -> Row {
        Row { name: name.into(), ..self }
    }

    pub(crate) fn expect(self, expected: Expected) -> Row {
        Row { expected, ..self }
    }

    pub(crate) fn trap(self, kind: sandgate::TrapKind) -> Row {
        self.expect(Expected::Trapped(kind))
    }

    /// The guest is stopped by its deadline, which is soon.
    pub(crate) fn times_out(self) -> Row {
        self.timeout(Duration::from_millis(100)).expect(Expected::TimedOut)
    }

    pub(crate) fn rejected(self, parts: &'static [&'static str]) -> Row {
        self.expect(Expected::Rejected(parts))
    }

    pub(crate) fn timeout(mut self, time: Duration) -> Row {
        self.limits.wall_time = Some(time);
        self
    }

    pub(crate) fn limit(mut self, set: impl FnOnce(&mut Limits)) -> Row {
        set(&mut self.limits);
        self
    }

    pub(crate) fn grants(mut self, grants: ExecutionGrants) -> Row {
        self.call = self.call.grants(grants);
        self
    }

    /// Runs a named task, with bytes that stand for its arguments.
    pub(crate) fn task(self, name: &str) -> Row {
        Row { call: Call::task(name), ..self }
    }

    pub(crate) fn args<T: serde::Serialize>(mut self, arguments: &T) -> Row {
        self.call = self.call.args(arguments).expect("arguments that can be sent");
        self
    }

    /// The row has a gateway of its own.
    pub(crate) fn on(self, spec: impl Into<String>) -> Row {
        Row { spec: spec.into(), ..self }
    }

    pub(crate) fn host(self, visit: impl Fn(&Channel) -> Result<(), String> + Send + 'static) -> Row {
        Row { visit: Box::new(visit), ..self }
    }

    /// Each message has to be one of these, in this order.
    pub(crate) fn says(self, messages: &'static [&'static [u8]]) -> Row {
        self.host(move |channel| visit::hears(channel, messages))
    }

    pub(crate) fn within(self, bound: Duration) -> Row {
        Row { bound, ..self }
    }

    pub(crate) fn takes_worker(self) -> Row {
        Row { takes_worker: true, ..self }
    }

    /// No sibling on the row's worker.
    pub(crate) fn alone(self) -> Row {
        Row { has_sibling: false, ..self }
    }

    /// The host keeps some of what it got, or made for this row.
    pub(crate) fn host_may_grow(self, bytes: u64) -> Row {
        Row { host_growth: bytes, ..self }
    }

    pub(crate) fn worker_may_grow(self, bytes: u64) -> Row {
        Row { worker_growth: bytes, ..self }
    }
}
