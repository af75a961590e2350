//! A run that never was: events and results of as many tasks as a test wants, with failures, kills and restarts. The same
//! each time.

use std::time::Duration;

use sandgate::{
    LossCause, Outcome, OutcomeKind, PoolEvent, PoolStats, ProgramOutput, TaskError, TimedEvent, Timing, TrapKind,
    WorkerLoss,
};

use super::failures::{Failures, Seen};

/// A run, event by event.
#[derive(Debug)]
pub(super) struct Synthetic {
    pub(super) events: Vec<TimedEvent>,
    pub(super) failures: Failures,
    pub(super) stats: PoolStats,
    pub(super) names: Vec<String>,
}

/// What a hostile input would like to be in the page.
pub(super) const EVIL: &str = "</script><script>document.title='owned'</script><img src=x onerror=\"fail('owned')\">";

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

impl Synthetic {
    pub(super) fn new(tasks: u64, gateways: usize) -> Synthetic {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut it = Synthetic {
            events: Vec::new(),
            failures: Failures::default(),
            stats: PoolStats::default(),
            names: Vec::new(),
        };
        let us = Duration::from_micros;
        it.tell(us(0), PoolEvent::PoolStarted { gateways });
        let mut clocks: Vec<u64> = (0..gateways as u64).map(|gateway| 12_000 + gateway * 2500).collect();
        for (gateway, &at) in clocks.iter().enumerate() {
            let id = format!("gw{gateway}").into();
            it.tell(us(at), PoolEvent::GatewayStarted { gateway, id, pid: None });
        }
        for task in 0..tasks {
            let gateway = (0..gateways).min_by_key(|&gateway| clocks[gateway]).unwrap();
            let begin = clocks[gateway] + 20 + random.below(60);
            let took = 200 + random.below(1500) + if random.below(40) == 0 { random.below(60_000) } else { 0 };
            let mut end = begin + took;
            it.tell(us(begin.saturating_sub(3000)), PoolEvent::TaskQueued { task });
            it.tell(us(begin), PoolEvent::TaskStarted { task, gateway, attempt: 1 });
            let name = if task == 7 { EVIL.to_owned() } else { format!("corpus/{:03}/input-{task}.json", task % 311) };
            let mut attempts = 1;
            if random.below(tasks.min(2000) / 8) == 0 {
                end = it.lose(gateway, task, end, &mut random);
                attempts = 2;
                end += took;
            }
            let error = (random.below(60) == 0).then(|| error(random.below(6), task));
            let outcome = error.as_ref().map_or(OutcomeKind::Returned, TaskError::kind);
            let duration = us(took);
            it.tell(us(end), PoolEvent::TaskFinished { task, gateway: Some(gateway), outcome, attempts, duration });
            let mut timing = Timing::default();
            (timing.queued, timing.started, timing.finished) = (us(begin), Some(us(end - took)), us(end));
            let id = format!("gw{gateway}");
            let gateway_id = Some(id.as_str());
            it.failures
                .note(&name, &Seen { index: task, error: error.as_ref(), attempts, gateway: gateway_id, timing });
            it.names.push(name);
            match error {
                None => it.stats.done += 1,
                Some(_) => match it.stats.failed.iter_mut().find(|(kind, _)| *kind == outcome) {
                    Some((_, count)) => *count += 1,
                    None => it.stats.failed.push((outcome, 1)),
                },
            }
            clocks[gateway] = end;
        }
        it.stats.queued = tasks;
        let end = clocks.iter().max().copied().unwrap_or_default();
        it.tell(us(end + 3000), PoolEvent::PoolFinished);
        it.events.sort_by_key(|event| event.at);
        it
    }

    /// The worker dies under the task, which is begun again: when.
    fn lose(&mut self, gateway: usize, task: u64, at: u64, random: &mut Random) -> u64 {
        let us = Duration::from_micros;
        let loss = WorkerLoss {
            gateway: format!("gw{gateway}"),
            pid: Some(4242),
            cause: LossCause::Signaled { signal: 9 },
            stderr_tail: format!("memory is used up\n{EVIL}\n"),
        };
        self.tell(us(at), PoolEvent::GatewayLost { gateway, loss: Box::new(loss) });
        let cause = OutcomeKind::WorkerLost;
        self.tell(us(at), PoolEvent::TaskRetried { task, gateway, cause, attempts: 1 });
        let up = at + 9000 + random.below(60_000);
        self.tell(us(up), PoolEvent::GatewayReplaced { gateway, pid: None, workers: 2 });
        self.tell(us(up), PoolEvent::TaskStarted { task, gateway, attempt: 2 });
        self.stats.retried += 1;
        self.stats.lost_workers += 1;
        up
    }

    fn tell(&mut self, at: Duration, event: PoolEvent) {
        self.events.push(TimedEvent { at, event });
    }
}

fn error(which: u64, task: u64) -> TaskError {
    match which {
        0 => TaskError::Ended(Outcome::TimedOut { after: Duration::from_millis(50) }),
        1 => TaskError::Ended(Outcome::Panicked {
            message: format!("index out of bounds: the len is 4 but the index is {task}"),
            location: Some("src/parse.rs:88:14".to_owned()),
            backtrace: ["core::panicking::panic_bounds_check", "parser::parse_header", "parser::main"]
                .map(String::from)
                .to_vec(),
        }),
        2 => TaskError::Ended(Outcome::Trapped {
            kind: TrapKind::StackOverflow,
            backtrace: (0..40).map(|depth| format!("descend<{depth}>")).collect(),
            stack_bytes: Some(1 << 20),
        }),
        3 => TaskError::Ended(Outcome::Failed { message: format!("no such key `{EVIL}`") }),
        _ => {
            let mut output = ProgramOutput::default();
            output.stderr =
                format!("tool: input {task}: unexpected end of file\nusage: tool [options]\n\u{1b}[31m{EVIL}\n")
                    .into_bytes();
            output.exit_code = Some(3);
            TaskError::Program { outcome: Outcome::Exited { code: 3 }, output: Box::new(output) }
        }
    }
}
