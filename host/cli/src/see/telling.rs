//! What is told of a pool's gateways while it runs: which machine is not there, and how a link was lost. It is no part of progress
//! or summary: whoever wants neither wants to know it all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sandgate::{LossCause, PoolEvent, TimedEvent};

/// Machines that are told of while they are missing; of more it is said only that there are more.
const MOST_MISSING: usize = 16;
/// A gateway whose link was lost may get a worker that was kept ready on that very link: what is lost so soon after is nothing new.
const THE_SAME: Duration = Duration::from_secs(2);
/// Links that are remembered.
const MOST_LINKS: usize = 1000;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    names: BTreeMap<usize, Arc<str>>,
    /// When each gateway got its present worker.
    began: BTreeMap<usize, Duration>,
    /// Machines that are not there, as far as it was told.
    missing: BTreeSet<String>,
    /// How links were lost, and when that was told last.
    lost: BTreeMap<String, Duration>,
}

impl Telling {
    /// What is to be told of an event.
    pub(super) fn take(&mut self, timed: &TimedEvent) -> Option<String> {
        match &timed.event {
            PoolEvent::GatewayStarting { gateway, id } => {
                self.names.insert(*gateway, Arc::clone(id));
            }
            PoolEvent::GatewayStarted { gateway, .. } | PoolEvent::GatewayReplaced { gateway, .. } => {
                self.missing.remove(&self.machine(*gateway));
                self.began.insert(*gateway, timed.at);
            }
            PoolEvent::GatewayFailed { gateway, error, .. } if self.missing.insert(self.machine(*gateway)) => {
                return match self.missing.len() {
                    ..=MOST_MISSING => Some(format!("{error}; it is tried again")),
                    count if count == MOST_MISSING + 1 => Some("more gateways are not there".to_owned()),
                    _ => None,
                };
            }
            PoolEvent::GatewayLost { gateway, loss } => {
                let LossCause::Link { problem, message } = &loss.cause else { return None };
                return self.link_lost(timed.at, *gateway, format!("{problem}: {message}"));
            }
            _ => {}
        }
        None
    }

    /// Every gateway of a machine loses its worker with the link, some of them later than others. One that got its worker before it
    /// was told says nothing new.
    fn link_lost(&mut self, at: Duration, gateway: usize, how: String) -> Option<String> {
        let began = self.began.get(&gateway).copied().unwrap_or_default();
        if self.lost.get(&how).is_some_and(|told| began <= *told || at < *told + THE_SAME) {
            return None;
        }
        let text = format!("machine of gateway `{}` is lost, its link {how}", self.machine(gateway));
        if self.lost.len() >= MOST_LINKS {
            self.lost.clear();
        }
        self.lost.insert(how, at);
        Some(format!("{text}; what ran there is run again"))
    }

    /// What a gateway's machine is called: its first gateway has the name alone, the others a number behind it.
    fn machine(&self, gateway: usize) -> String {
        let Some(id) = self.names.get(&gateway) else { return format!("gw{gateway}") };
        let base = id.rsplit_once('.').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
        let base = base.filter(|(base, _)| self.names.values().any(|name| **name == **base));
        base.map_or_else(|| id.to_string(), |(base, _)| base.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandgate::{LinkProblem, WorkerLoss};

    #[derive(Default)]
    struct Told(Telling);

    impl Told {
        #[track_caller]
        fn check(&mut self, at: u64, event: PoolEvent, expected: Option<&str>) {
            let told = self.0.take(&TimedEvent { at: Duration::from_millis(at), event });
            assert_eq!(told.as_deref(), expected);
        }
    }

    fn starting(gateway: usize, id: &str) -> PoolEvent {
        PoolEvent::GatewayStarting { gateway, id: id.into() }
    }

    fn replaced(gateway: usize) -> PoolEvent {
        PoolEvent::GatewayReplaced { gateway, pid: None, workers: 2 }
    }

    fn lost(gateway: usize, cause: LossCause) -> PoolEvent {
        let loss = WorkerLoss { gateway: String::new(), pid: None, cause, stderr_tail: String::new() };
        PoolEvent::GatewayLost { gateway, loss: Box::new(loss) }
    }

    fn cut() -> LossCause {
        let problem = LinkProblem::Silent { after: Duration::from_secs(2) };
        LossCause::Link { problem, message: "`ssh=big`".to_owned() }
    }

    const CUT: &str = "machine of gateway `big` is lost, its link was silent for 2s (setting `heartbeat=`): `ssh=big`; what ran there \
                       is run again";

    #[test]
    fn a_lost_link_is_told_once() {
        let mut told = Told::default();
        for (gateway, id) in [(0, "big"), (1, "big.1"), (2, "small.1")] {
            told.check(0, starting(gateway, id), None);
            told.check(1, PoolEvent::GatewayStarted { gateway, id: id.into(), pid: None }, None);
        }
        told.check(5, lost(0, LossCause::Signaled { signal: 9 }), None);
        told.check(10, lost(1, cut()), Some(CUT));
        told.check(10, lost(0, cut()), None);
        told.check(20, replaced(1), None);
        // It was on the same link, and nobody has noticed it until now.
        told.check(25, lost(0, cut()), None);
        // A worker that was kept ready was on it as well.
        told.check(30, lost(1, cut()), None);
        told.check(3000, replaced(1), None);
        told.check(4000, lost(1, cut()), Some(CUT));
        let other = LossCause::Link { problem: LinkProblem::Corrupt, message: "`exec=x`".to_owned() };
        let text = "machine of gateway `small.1` is lost, its link is corrupt: `exec=x`; what ran there is run again";
        told.check(4040, lost(2, other), Some(text));
    }

    #[test]
    fn a_missing_machine_is_told_until_it_is_there() {
        let mut told = Told::default();
        let failed = |gateway| {
            let (error, again_in) = ("not reached".to_owned(), Duration::ZERO);
            PoolEvent::GatewayFailed { gateway, error, again_in }
        };
        told.check(0, starting(0, "big"), None);
        told.check(0, starting(1, "big.1"), None);
        told.check(1, failed(0), Some("not reached; it is tried again"));
        told.check(2, failed(0), None);
        told.check(2, failed(1), None);
        told.check(3, replaced(0), None);
        told.check(4, failed(0), Some("not reached; it is tried again"));
        for gateway in 2..17 {
            told.check(5, failed(gateway), Some("not reached; it is tried again"));
        }
        told.check(5, failed(17), Some("more gateways are not there"));
        told.check(5, failed(18), None);
    }
}
