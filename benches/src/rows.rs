//! The rows of the table: what is asked, how often, and which figure is made of the samples.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::first_result::FirstResult;
use crate::fixtures::Fixtures;
use crate::idle::{IdleMemory, IdleWakeUps};
use crate::ping_pong::{EchoLarge, PingPong};
use crate::remote_exec::RemoteExec;
use crate::stats::Statistic;
use crate::streams::{StreamToCallback, StreamToGuest, StreamToHost};
use crate::tasks::Tasks;
use crate::terminate::Terminate;

/// Something that can be measured here and there. Its fields are its parameters, which both sides get.
pub(crate) trait Question: Serialize {
    /// The function of `peers/execnet_peer.py` that does the same.
    const PEER: &'static str;

    /// Measures sandgate: samples in the unit of the row.
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>>;
}

/// How one side takes its samples.
type Measure = Box<dyn Fn(&Fixtures) -> Result<Vec<f64>>>;

/// One question, and the lines it gets in the table.
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    /// One line of the table for each.
    pub(crate) statistics: &'static [Statistic],
    pub(crate) ours: Measure,
    pub(crate) peer: &'static str,
    pub(crate) parameters: Value,
}

/// What a sample is, and so which of two is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    MegabytesPerSecond,
    Kilobytes,
    SwitchesPerSecond,
}

impl Unit {
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::MegabytesPerSecond)
    }
}

/// How many samples to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effort {
    Quick,
    Full,
}

impl Effort {
    pub(crate) fn rounds(self) -> u32 {
        self.of(3, 7)
    }

    fn of(self, quick: u32, full: u32) -> u32 {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

impl Row {
    fn new<Q: Question + 'static>(
        key: &'static str,
        title: &'static str,
        unit: Unit,
        statistics: &'static [Statistic],
        question: Q,
    ) -> Row {
        let parameters = serde_json::to_value(&question).expect("parameters are numbers with names");
        Row { key, title, unit, statistics, peer: Q::PEER, parameters, ours: Box::new(move |on| question.measure(on)) }
    }
}

const SMALL_BYTES: u32 = 16;
const LARGE_BYTES: u32 = 1 << 20;

/// All rows in the order of the table.
pub(crate) fn all(effort: Effort) -> Vec<Row> {
    use Statistic::{Mean, Median, P99};
    use Unit::{Kilobytes, MegabytesPerSecond, PerSecond, Seconds, SwitchesPerSecond};

    let (count, size) = (effort.of(30_000, 200_000), SMALL_BYTES);
    let task_count = effort.of(3_000, 20_000);
    vec![
        Row::new(
            "first-result",
            "new gateway, module cached: first result",
            Seconds,
            &[Median],
            FirstResult { count: effort.of(3, 10), warm_up: 1 },
        ),
        Row::new(
            "remote-exec",
            "`remote_exec` on a warm gateway, one result, its end",
            Seconds,
            &[Median, Mean],
            RemoteExec { count: effort.of(200, 1000), warm_up: 50 },
        ),
        Row::new(
            "ping-pong",
            "16 bytes to a task and back",
            Seconds,
            &[Median, Mean, P99],
            PingPong { count: effort.of(1000, 5000), warm_up: 100, size: SMALL_BYTES },
        ),
        Row::new(
            "stream-to-host",
            "16-byte messages, task to host",
            PerSecond,
            &[Median],
            StreamToHost { count, size },
        ),
        Row::new(
            "stream-to-callback",
            "16-byte messages, task to a callback",
            PerSecond,
            &[Median],
            StreamToCallback { count, size },
        ),
        Row::new(
            "stream-to-guest",
            "16-byte messages, host to task",
            PerSecond,
            &[Median],
            StreamToGuest { count, size },
        ),
        Row::new(
            "echo-large",
            "1 MiB to a task and back",
            MegabytesPerSecond,
            &[Median],
            EchoLarge { count: effort.of(20, 100), warm_up: 5, size: LARGE_BYTES },
        ),
        Row::new(
            "tasks",
            "trivial tasks over two gateways, one in flight on each",
            PerSecond,
            &[Median],
            Tasks { count: task_count, in_flight: 1 },
        ),
        Row::new(
            "tasks-32",
            "trivial tasks over two gateways, 32 in flight on each",
            PerSecond,
            &[Median],
            Tasks { count: task_count * 3, in_flight: 32 },
        ),
        Row::new(
            "terminate",
            "`terminate` of two gateways, tasks blocked in receive",
            Seconds,
            &[Median],
            Terminate { count: effort.of(3, 7) },
        ),
        Row::new("idle-memory", "memory of an idle gateway (PSS)", Kilobytes, &[Median], IdleMemory {}),
        Row::new(
            "idle-wake-ups",
            "context switches a second of two idle gateways and their host",
            SwitchesPerSecond,
            &[Median],
            IdleWakeUps { seconds: f64::from(effort.of(1, 2)) },
        ),
    ]
}
