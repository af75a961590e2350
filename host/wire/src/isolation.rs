//! What the operating system is asked to keep from a worker, and what it really does.
//!
//! A [`Policy`] goes to the worker with the host's hello; a [`Report`] comes back with the worker's. The host refuses a worker
//! whose report is below the policy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One wall that the operating system builds around a worker or a compiler, in the order in which they are put up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layer {
    /// No descriptor but the connection, `/dev/null` and the pipe for last words; an empty environment.
    Descriptors,
    /// Resource limits: memory, files, processes, no core dumps.
    ResourceLimits,
    /// The kernel kills the process when its host ends.
    ParentDeath,
    /// The first victim when memory runs out.
    OomScore,
    /// Network, IPC, host name and user namespaces of its own.
    Namespaces,
    /// A user id that owns nothing.
    User,
    /// No capability, and none to be had.
    Capabilities,
    /// `no_new_privs`: no program it could execute gives it more rights.
    NoNewPrivileges,
    /// Nobody of the same user can read its memory or attach to it.
    Undumpable,
    /// No file, no TCP port, no signal to others (Landlock).
    Landlock,
    /// Only the system calls a worker needs (seccomp).
    Seccomp,
}

impl Layer {
    /// All layers, in the order in which they are put up.
    pub const ALL: [Layer; 11] = [
        Layer::Descriptors,
        Layer::ResourceLimits,
        Layer::ParentDeath,
        Layer::OomScore,
        Layer::Namespaces,
        Layer::User,
        Layer::Capabilities,
        Layer::NoNewPrivileges,
        Layer::Undumpable,
        Layer::Landlock,
        Layer::Seccomp,
    ];

    /// The name it has in specs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Descriptors => "descriptors",
            Layer::ResourceLimits => "rlimits",
            Layer::ParentDeath => "parent-death",
            Layer::OomScore => "oom-score",
            Layer::Namespaces => "namespaces",
            Layer::User => "user",
            Layer::Capabilities => "capabilities",
            Layer::NoNewPrivileges => "no-new-privs",
            Layer::Undumpable => "undumpable",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layer {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Layer, UnknownName> {
        Layer::ALL.into_iter().find(|layer| layer.name() == name).ok_or_else(|| UnknownName(name.to_owned()))
    }
}

/// A name that is no layer and no demand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not known")]
pub struct UnknownName(pub String);

/// How much a layer matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Demand {
    /// Without it there is no worker.
    Require,
    /// As much of it as this machine has.
    #[default]
    Prefer,
    /// Not at all.
    Off,
}

impl Demand {
    /// The name it has in specs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Demand::Require => "require",
            Demand::Prefer => "prefer",
            Demand::Off => "off",
        }
    }
}

impl FromStr for Demand {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Demand, UnknownName> {
        let all = [Demand::Require, Demand::Prefer, Demand::Off];
        all.into_iter().find(|demand| demand.name() == name).ok_or_else(|| UnknownName(name.to_owned()))
    }
}

/// What is demanded of each layer. Default: all are preferred.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// In the order of [`Layer::ALL`].
    demands: [Demand; Layer::ALL.len()],
}

impl Policy {
    /// The same demand for every layer.
    pub fn all(demand: Demand) -> Policy {
        Policy { demands: [demand; Layer::ALL.len()] }
    }

    /// Another demand for one layer.
    #[must_use]
    pub fn with(mut self, layer: Layer, demand: Demand) -> Policy {
        self.demands[layer as usize] = demand;
        self
    }

    /// Whether some layer is not wanted.
    pub fn leaves_out_any(&self) -> bool {
        self.demands.contains(&Demand::Off)
    }

    /// What is demanded of a layer.
    pub fn demand(&self, layer: Layer) -> Demand {
        self.demands[layer as usize]
    }
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum State {
    /// In force; with what it consists of.
    Enforced(String),
    /// Partly in force; with what is missing and why.
    Partial(String),
    /// Not in force; with what the system said and how to get it.
    Missing(String),
    /// Not asked for.
    Off,
}

/// What is in force around a process, layer by layer, as the process found it.
///
/// A worker writes it before it has seen any guest's code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were put up; each layer at most once.
    pub layers: Vec<(Layer, State)>,
}

impl Report {
    /// What became of a layer.
    pub fn state(&self, layer: Layer) -> Option<&State> {
        self.layers.iter().find(|(found, _)| *found == layer).map(|(_, state)| state)
    }

    /// Whether a layer is wholly in force.
    pub fn is_enforced(&self, layer: Layer) -> bool {
        matches!(self.state(layer), Some(State::Enforced(_)))
    }

    /// The layers that the policy requires and that are not wholly in force.
    pub fn below(&self, policy: &Policy) -> Vec<Layer> {
        let missing = |layer: &Layer| policy.demand(*layer) == Demand::Require && !self.is_enforced(*layer);
        Layer::ALL.into_iter().filter(missing).collect()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Enforced(what) => write!(f, "enforced: {what}"),
            State::Partial(what) => write!(f, "partly enforced: {what}"),
            State::Missing(why) => write!(f, "missing: {why}"),
            State::Off => f.write_str("off"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (layer, state)) in self.layers.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{layer}: {state}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_positions_are_those_of_the_list() {
        for (position, layer) in Layer::ALL.into_iter().enumerate() {
            assert_eq!(layer as usize, position);
            assert_eq!(layer.name().parse(), Ok(layer));
        }
        for demand in [Demand::Require, Demand::Prefer, Demand::Off] {
            assert_eq!(demand.name().parse(), Ok(demand));
        }
        assert!("seccmop".parse::<Layer>().is_err());
    }

    #[test]
    fn a_report_is_below_a_policy_that_requires_more() {
        let policy = Policy::default().with(Layer::Seccomp, Demand::Require).with(Layer::Landlock, Demand::Require);
        let report = Report {
            layers: vec![
                (Layer::Landlock, State::Partial("ABI 1".into())),
                (Layer::Seccomp, State::Enforced("60 calls".into())),
            ],
        };
        assert_eq!(report.below(&policy), [Layer::Landlock]);
        assert_eq!(report.below(&Policy::default()), []);
        assert_eq!(Report::default().below(&Policy::all(Demand::Require)), Layer::ALL);
    }
}
