//! What was found, as a table and as JSON.

use std::fmt;

use sandgate::isolation::{Layer, State};
use sandgate_worker::self_test::Expected;
use serde_json::{Value, json};

use super::machine::Machine;
use super::self_test::{Tested, Verdict};
use super::worker::WorkerCheck;

/// All that was found.
#[derive(Debug, Clone)]
pub(crate) struct Diagnosis {
    pub(crate) machine: Machine,
    pub(crate) worker: WorkerCheck,
    pub(crate) layers: Vec<LayerRow>,
}

/// One layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerRow {
    pub(crate) layer: Layer,
    pub(crate) required: bool,
    pub(crate) state: State,
    pub(crate) tests: Vec<Tested>,
}

impl LayerRow {
    /// Why the policy does not hold because of this layer, if it does not.
    fn problem(&self) -> Option<String> {
        let enforced = matches!(self.state, State::Enforced(_));
        if self.required && !enforced {
            return Some(format!("{} is required, and is {}", self.layer, self.state));
        }
        self.tests.iter().find_map(|test| match &test.verdict {
            Verdict::Passed(_) => None,
            // Alone it may lack what other layers bring along; if it claims to be in force it has to be testable.
            Verdict::NotInForce(why) if enforced => Some(format!("{} cannot be tested: {why}", self.layer)),
            Verdict::NotInForce(_) => None,
            Verdict::Failed(what) => Some(format!("{}: {}: {what}", self.layer, test.name)),
        })
    }

    fn advice(&self) -> Option<&'static str> {
        match self.state {
            State::Enforced(_) | State::Off => None,
            _ => Some(advice(self.layer)),
        }
    }
}

/// How to get what a machine lacks.
fn advice(layer: Layer) -> &'static str {
    match layer {
        Layer::Descriptors => "needs `close_range`: Linux 5.9 or newer",
        Layer::ResourceLimits => "the hard limits of the caller are below what a worker needs: see `ulimit -H -a`",
        Layer::ParentDeath => "is on every Linux; a sandbox around this program may forbid `prctl`",
        Layer::OomScore => "needs `/proc`, mounted and writable",
        Layer::Namespaces => {
            "needs root, or user namespaces: `sysctl user.max_user_namespaces`, and on some distributions an AppArmor profile"
        }
        Layer::User => {
            "needs root: workers then run as users of their own. Otherwise run this program as a user that owns nothing"
        }
        Layer::Capabilities => "needs CAP_SETPCAP to empty the bounding set; an ordinary user has nothing to give up",
        Layer::NoNewPrivileges => "is on every Linux; a sandbox around this program may forbid `prctl`",
        Layer::Undumpable => "is on every Linux; a sandbox around this program may forbid `prctl`",
        Layer::Landlock => {
            "needs a kernel with Landlock (`CONFIG_SECURITY_LANDLOCK`, `lsm=landlock,...`); all of it is there from Linux 6.12"
        }
        Layer::Seccomp => "needs a kernel with `CONFIG_SECCOMP_FILTER`, and x86-64 or aarch64",
        _ => "see SECURITY.md",
    }
}

impl Diagnosis {
    /// Why the policy does not hold; empty if it does.
    pub(crate) fn problems(&self) -> Vec<String> {
        let failed =
            |step: &super::worker::Step| step.result.as_ref().err().map(|why| format!("cannot {}: {why}", step.name));
        let steps = self.worker.steps.iter().filter_map(failed);
        steps.chain(self.layers.iter().filter_map(LayerRow::problem)).collect()
    }

    pub(crate) fn holds(&self) -> bool {
        self.worker.passed() && self.problems().is_empty()
    }

    pub(crate) fn to_json(&self) -> String {
        let Machine { system, release, architecture, processors, memory_bytes, user, group } = &self.machine;
        let steps = self.worker.steps.iter().map(|step| {
            let (passed, detail) = match &step.result {
                Ok(detail) => (true, detail),
                Err(detail) => (false, detail),
            };
            json!({ "name": step.name, "passed": passed, "detail": detail })
        });
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "holds": self.holds(),
            "problems": self.problems(),
            "machine": {
                "system": system, "release": release, "architecture": architecture, "processors": processors,
                "memory_bytes": memory_bytes, "user": user, "group": group,
            },
            "worker": steps.collect::<Vec<Value>>(),
            "layers": self.layers.iter().map(layer_json).collect::<Vec<Value>>(),
        });
        format!("{value:#}")
    }
}

fn state_parts(state: &State) -> (&'static str, &str) {
    match state {
        State::Enforced(detail) => ("enforced", detail),
        State::Partial(detail) => ("partial", detail),
        State::Missing(detail) => ("missing", detail),
        _ => ("off", ""),
    }
}

fn layer_json(row: &LayerRow) -> Value {
    let (state, detail) = state_parts(&row.state);
    let tests = row.tests.iter().map(|test| {
        let (verdict, detail) = match &test.verdict {
            Verdict::Passed(detail) => ("passed", detail),
            Verdict::NotInForce(detail) => ("not in force", detail),
            Verdict::Failed(detail) => ("failed", detail),
        };
        json!({ "name": test.name, "expected": expected(test.expected), "verdict": verdict, "detail": detail })
    });
    json!({
        "layer": row.layer.name(),
        "required": row.required,
        "state": state,
        "detail": detail,
        "advice": row.advice(),
        "tests": tests.collect::<Vec<Value>>(),
    })
}

fn expected(expected: Expected) -> &'static str {
    match expected {
        Expected::Works => "works",
        Expected::Refused => "refused",
        Expected::Dies => "dies",
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { system, release, architecture, processors, memory_bytes, user, .. } = &self.machine;
        write!(f, "sandgate {} on {system} {release}, {architecture}, ", env!("CARGO_PKG_VERSION"))?;
        write!(f, "{processors} processors, ")?;
        if let Some(bytes) = memory_bytes {
            write!(f, "{} MiB of memory, ", bytes >> 20)?;
        }
        writeln!(f, "user {user}\n")?;
        for step in &self.worker.steps {
            let (mark, detail) = match &step.result {
                Ok(detail) => ("ok  ", detail),
                Err(detail) => ("FAIL", detail),
            };
            writeln!(f, "{mark}  {:<24} {detail}", step.name)?;
        }
        writeln!(f)?;
        for row in &self.layers {
            let (state, detail) = state_parts(&row.state);
            writeln!(f, "{:<8}  {:<14} {detail}", state.to_uppercase(), row.layer.name())?;
            for test in &row.tests {
                let (mark, detail) = match &test.verdict {
                    Verdict::Passed(detail) => ("ok  ", detail),
                    Verdict::NotInForce(detail) => ("-   ", detail),
                    Verdict::Failed(detail) => ("FAIL", detail),
                };
                writeln!(f, "            {mark}  {}: {detail}", test.name)?;
            }
            if let Some(advice) = row.advice() {
                writeln!(f, "            to have it: {advice}")?;
            }
        }
        writeln!(f)?;
        let problems = self.problems();
        for problem in &problems {
            writeln!(f, "problem: {problem}")?;
        }
        let missing: Vec<&str> =
            self.layers.iter().filter(|row| row.advice().is_some()).map(|row| row.layer.name()).collect();
        match (self.holds(), missing.is_empty()) {
            (true, true) => writeln!(f, "The policy holds: every layer is in force and passed its self-test."),
            (true, false) => {
                writeln!(f, "The policy holds, without what this machine does not have: {}.", missing.join(", "))
            }
            (false, _) => writeln!(f, "The policy does not hold."),
        }
    }
}
