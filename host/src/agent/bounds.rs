//! How far an agent trusts its host: what it does for it at most, and what it does not do at all.
//!
//! A host that has reached an agent has the rights of the account that the agent runs as, if not by the agent, then by what has
//! started it: ssh runs anything. So an agent as it is by default keeps nothing from a host but numbers without end. One that is
//! *confined*, and that the host can start in no other way (a forced command of ssh, a container), gives it guests and nothing else.

use sandgate_wire::isolation::Policy;

use super::Start;

/// Most processes that an agent has at once, workers and launchers together.
pub const DEFAULT_PROCESSES: usize = 1024;
/// Most compilations that it has taken on at once; they take turns.
pub(super) const MAX_COMPILATIONS: usize = 256;
/// Most modules that are sent to it at once.
pub(super) const MAX_UPLOADS: usize = MAX_COMPILATIONS;
/// Most artefacts that have a number; a host forgets its own above 256.
pub(super) const MAX_ARTEFACTS: usize = 1024;
/// Streams besides those of processes: modules, and streams of which the host has not said yet that they are over.
const MORE_STREAMS: usize = 2 * MAX_COMPILATIONS;
/// The largest module that is taken, whatever limits the host names.
pub(super) const MAX_MODULE_BYTES: u64 = 1 << 30;

/// How far an agent trusts its host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Most processes at once. Default: [`DEFAULT_PROCESSES`].
    pub processes: usize,
    /// Whether it starts guests and nothing else: its own binary as worker and compiler, in the directory it is in, with every
    /// layer of the sandbox that the machine has, and without directories for guests. Default: no, so it also starts launchers of
    /// further links, and binaries that the host names, as the account that it runs as may.
    pub is_confined: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { processes: DEFAULT_PROCESSES, is_confined: false }
    }
}

impl Bounds {
    /// A confined agent's.
    pub fn confined() -> Bounds {
        Bounds { is_confined: true, ..Bounds::default() }
    }

    pub(super) fn streams(&self) -> usize {
        self.processes.saturating_add(MORE_STREAMS)
    }

    /// Why this is not started.
    pub(super) fn refuses(&self, start: &Start, running: usize) -> Option<String> {
        if running >= self.processes {
            return Some(format!("agent has {running} processes, and may have {} (`--max-processes`)", self.processes));
        }
        let what = match start {
            _ if !self.is_confined => return None,
            Start::Launcher { .. } => "starts no other programs",
            Start::Worker { program: Some(_), .. } => "starts its own binary alone (`worker=`)",
            Start::Worker { directory: Some(_), .. } => "starts workers where it is (`chdir=`)",
            Start::Worker { .. } => return None,
        };
        Some(format!("agent there is `--confined`: it {what}"))
    }

    /// Why this is not compiled.
    pub(super) fn refuses_compiler(&self, program: Option<&[u8]>, policy: &Policy) -> Option<&'static str> {
        match program {
            _ if !self.is_confined => None,
            Some(_) => Some("agent there is `--confined`: it starts its own binary alone (`worker=`)"),
            None if policy.leaves_out_any() => Some("agent there is `--confined`: no layer of the sandbox is left out"),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::isolation::Demand;

    use super::*;

    #[test]
    fn what_a_confined_agent_refuses() {
        let worker = |program: Option<&[u8]>, directory: Option<&[u8]>| Start::Worker {
            program: program.map(<[u8]>::to_vec),
            directory: directory.map(<[u8]>::to_vec),
        };
        let check = |bounds: &Bounds, start: Start, running, expected: Option<&str>| {
            let found = bounds.refuses(&start, running);
            match expected {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.as_deref().is_some_and(|text| text.contains(part)), "{found:?}"),
            }
        };
        let (open, confined) = (Bounds::default(), Bounds::confined());
        let launcher = || Start::Launcher { command: vec!["sh".to_owned()] };
        for start in [worker(None, None), worker(Some(b"/x"), None), worker(None, Some(b"/")), launcher()] {
            check(&open, start.clone(), 0, None);
            check(&open, start.clone(), 1023, None);
            check(&open, start, 1024, Some("--max-processes"));
        }
        check(&confined, worker(None, None), 0, None);
        check(&confined, worker(Some(b"/x"), None), 0, Some("worker="));
        check(&confined, worker(None, Some(b"/")), 0, Some("chdir="));
        check(&confined, launcher(), 0, Some("no other programs"));

        let (all, none) = (Policy::all(Demand::Prefer), Policy::all(Demand::Off));
        assert_eq!(open.refuses_compiler(Some(b"/x"), &none), None);
        assert_eq!(confined.refuses_compiler(None, &all), None);
        assert!(confined.refuses_compiler(Some(b"/x"), &all).is_some());
        assert!(confined.refuses_compiler(None, &none).is_some());
    }
}
