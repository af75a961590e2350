//! All rows, in the order of the table, with whom they compare and what they aim at.

use crate::calls::{FreshCall, SessionCall};
use crate::copies::TwoCopies;
use crate::first_result::FirstResult;
use crate::fresh::FreshInstances;
use crate::idle::{HostMemory, IdleMemory, IdleProcessor, IdleWakeUps};
use crate::interpreter::{BareInterpreter, Interpreter};
use crate::ping_pong::{EchoLarge, PingPong};
use crate::remote_exec::RemoteExec;
use crate::rows::{Effort, Plot, Row, Unit};
use crate::saturation::{BareThreads, FarAway, OneGateway, Saturation};
use crate::script::FreshScript;
use crate::stats::Statistic;
use crate::streams::{StreamToCallback, StreamToGuest, StreamToHost};
use crate::tasks::{Pooled, Tasks};
use crate::terminate::Terminate;

const EXECNET: &str = "execnet_peer.py";
const MIB: u32 = 1 << 20;
const SMALL_BYTES: u32 = 16;
/// Rounds of what takes long, and of what is only plotted.
const FEW: u32 = 3;
const ALL_LAYERS_OFF: &str = "popen//sandbox=off//epochs=off";

/// All of them.
pub(crate) fn all(effort: Effort) -> Vec<Row> {
    let mut rows = talking(effort);
    rows.extend(tasks(effort));
    rows.extend(saturation(effort));
    rows.extend(standing(effort));
    rows.extend(curves(effort));
    rows
}

/// Gateways, channels and messages.
fn talking(effort: Effort) -> Vec<Row> {
    use Statistic::{Mean, Median, P99};
    let (count, size) = (effort.of(30_000, 200_000), SMALL_BYTES);
    let echo = |size, count| EchoLarge { count, warm_up: 3, size };
    let mib = || echo(MIB, effort.of(20, 100));
    // Ten are over in a tenth of a second, in which a machine with other users is of one mood.
    let mib_16 = || echo(16 * MIB, effort.of(3, 50));
    vec![
        Row::new(
            "first-result",
            "new gateway, module cached: first result",
            Unit::Seconds,
            FirstResult { count: effort.of(3, 10), warm_up: 1 },
        )
        .against(EXECNET, "first_result")
        .times(10.0),
        Row::new(
            "remote-exec",
            "`remote_exec` on a warm gateway, one result, its end",
            Unit::Seconds,
            RemoteExec { count: effort.of(200, 1000), warm_up: 50 },
        )
        .statistics(&[Median, Mean])
        .against(EXECNET, "remote_exec")
        .times(15.0)
        .note("ours is a fresh instance, the peer's an `exec` in the same interpreter"),
        Row::new(
            "ping-pong",
            "16 bytes to a task and back",
            Unit::Seconds,
            PingPong { count: effort.of(1000, 5000), warm_up: 100, size },
        )
        .statistics(&[Median, Mean, P99])
        .against(EXECNET, "ping_pong")
        .times(60.0)
        .point(Plot::Latency, 0, 1.0, "sandgate", "execnet"),
        Row::new("stream-to-host", "16-byte messages, task to host", Unit::PerSecond, StreamToHost { count, size })
            .against(EXECNET, "stream_to_host")
            .times(40.0),
        Row::new(
            "stream-to-callback",
            "16-byte messages, task to a callback",
            Unit::PerSecond,
            StreamToCallback { count, size },
        )
        .against(EXECNET, "stream_to_callback"),
        Row::new("stream-to-guest", "16-byte messages, host to task", Unit::PerSecond, StreamToGuest { count, size })
            .against(EXECNET, "stream_to_guest")
            .times(40.0),
        Row::new("echo-1m", "1 MiB to a task and back", Unit::MegabytesPerSecond, mib())
            .against(EXECNET, "echo_large")
            .times(8.0),
        Row::new("echo-16m", "16 MiB to a task and back", Unit::MegabytesPerSecond, mib_16())
            .against(EXECNET, "echo_large")
            .times(8.0),
        Row::new("echo-1m-copies", "1 MiB to a task and back", Unit::MegabytesPerSecond, mib())
            .beside("two memcpys", TwoCopies::of(MIB, effort))
            .times(0.5)
            .note("both ways are copied at least once, so two copies of the same size are the machine's limit"),
        Row::new("echo-16m-copies", "16 MiB to a task and back", Unit::MegabytesPerSecond, mib_16())
            .beside("two memcpys", TwoCopies::of(16 * MIB, effort))
            .times(0.5),
    ]
}

/// Many tasks, fresh instances, and calls.
fn tasks(effort: Effort) -> Vec<Row> {
    let count = effort.of(3_000, 20_000);
    let calls = effort.of(200, 2000);
    vec![
        Row::new(
            "tasks-loop",
            "trivial tasks over two gateways, 32 in flight on each, by channels",
            Unit::PerSecond,
            Tasks { count: count * 2, in_flight: 32 },
        )
        .against(EXECNET, "tasks"),
        Row::new(
            "tasks-execnet",
            "trivial tasks over two gateways, by a pool",
            Unit::PerSecond,
            Pooled { count: count * 3, gateways: 2 },
        )
        .against_with(EXECNET, "tasks", &Tasks { count: count * 2, in_flight: 32 })
        .times(20.0)
        .note("a task processor sits on each gateway; execnet's is fed from its receive queue, 32 in flight on each"),
        Row::new(
            "tasks-multiprocessing",
            "trivial tasks over two gateways, by a pool",
            Unit::PerSecond,
            Pooled { count: count * 10, gateways: 2 },
        )
        .against("multiprocessing_peer.py", "pooled")
        .ahead()
        .note("`Pool(2).map` of the standard library of Python with chunksize 64"),
        Row::new(
            "fresh-extism",
            "a fresh instance per task, one gateway",
            Unit::PerSecond,
            FreshInstances { count: effort.of(2000, 20_000), warm_up: 100 },
        )
        .against_with("extism_peer.py", "fresh_instances", &FreshInstances::of_peer(effort.of(200, 1000), 10))
        .ahead()
        .note(
            "the same module, compiled before; the peer's is a new `Plugin` of a `CompiledPlugin`, in its own process",
        ),
        Row::new(
            "fresh-wasmtime-run",
            "a fresh instance per task, one gateway",
            Unit::PerSecond,
            FreshInstances { count: effort.of(2000, 20_000), warm_up: 100 },
        )
        .against_with("wasmtime_peer.py", "fresh_processes", &FreshInstances::of_peer(effort.of(20, 100), 4))
        .times(100.0)
        .note("`wasmtime run` under xargs, as many at once as there are cores, of the same module compiled before"),
        Row::new(
            "call-session",
            "one call of a task that is there",
            Unit::Seconds,
            SessionCall { count: calls, warm_up: 50 },
        )
        .against("monty_peer.py", "session_call")
        .times(10.0)
        .note("a number to a compiled task and the answer; the peer evaluates `1 + 2` by `feed_run` in a session"),
        Row::new(
            "call-fresh",
            "one call in a fresh instance",
            Unit::Seconds,
            FreshCall { count: calls / 2, warm_up: 50 },
        )
        .against("monty_peer.py", "fresh_call")
        .times(10.0)
        .note(
            "a compiled task that adds two numbers; the peer checks a session out, evaluates `1 + 2`, and returns it",
        ),
        Row::new(
            "script",
            "a fresh, pre-initialised script interpreter: first result",
            Unit::Seconds,
            FreshScript { count: effort.of(20, 200), warm_up: 5 },
        )
        .against_with("eryx_peer.py", "fresh_script", &FreshScript { count: effort.of(5, 20), warm_up: 2 })
        .times(4.0)
        .note("Rhai here, which evaluates `1`; Python there, a fresh `Sandbox` and `print(1)`"),
        Row::new(
            "interpreter",
            "CPython as a module of 26 MB, cached: `print(1)`",
            Unit::Seconds,
            Interpreter { count: effort.of(1, 3) },
        )
        .beside("bare wasmtime", BareInterpreter { count: effort.of(1, 3) })
        .times(1.0 / 1.2)
        .note("a gateway that has not seen the module; the bare engine deserialises it from a file, in this process"),
    ]
}

/// How much of the processors the tasks get.
fn saturation(effort: Effort) -> Vec<Row> {
    let seconds = effort.of(0.2, 1.0);
    let lanes = cores();
    let mut rows = Vec::new();
    for (micros, target) in [(10_000, 0.99), (1_000, 0.98), (100, 0.95), (10, 0.80)] {
        rows.push(
            Row::new(
                format!("saturation-{micros}"),
                format!("tasks of {} on {lanes} gateways", length(micros)),
                Unit::PerSecond,
                Saturation::new(micros, lanes, seconds),
            )
            .beside("threads of bare wasmtime", BareThreads { micros, threads: lanes, seconds })
            .times(target)
            .note("a fresh instance per task on both sides, from an equal engine; as many threads as gateways, which is one for each core")
            .point(Plot::TaskLength, micros, f64::from(micros) * 1e-6 / lanes as f64, "sandgate", "bare threads"),
        );
    }
    rows.push(
        Row::new(
            "scaling",
            format!("tasks of 1 ms on {lanes} gateways"),
            Unit::PerSecond,
            Saturation::new(1_000, lanes, seconds),
        )
        .beside("one gateway, times as many", OneGateway { micros: 1_000, times: lanes, seconds })
        .times(0.97),
    );
    // The way there and back is a part of the time, so there has to be some.
    let seconds = effort.of(2.0, 4.0);
    rows.push(
        Row::new(
            "far-away",
            format!("tasks of 10 ms on {lanes} gateways of a machine 20 ms away"),
            Unit::PerSecond,
            FarAway { micros: 10_000, gateways: lanes, seconds, delay_ms: 20 },
        )
        .beside("gateways of this machine", Saturation::new(10_000, lanes, seconds))
        .times(0.9)
        .note("20 ms in each direction, by a launcher that holds everything back; agent and workers are on the same cores"),
    );
    rows.push(
        Row::new(
            "layers",
            "tasks of 100 µs on one gateway, all layers on",
            Unit::PerSecond,
            Saturation::new(100, 1, seconds),
        )
        .beside("all off", Saturation { spec: ALL_LAYERS_OFF, ..Saturation::new(100, 1, seconds) })
        .times(1.0 / 1.05)
        .note("off: no sandbox of the operating system, and code without epochs; `layers` takes them one by one"),
    );
    rows
}

/// What gateways cost that do nothing, and how they end.
fn standing(effort: Effort) -> Vec<Row> {
    let terminate = |gateways: u32, count: u32| {
        let title = format!("`terminate` of {gateways} gateways, tasks blocked in receive");
        Row::new(format!("terminate-{gateways}"), title, Unit::Seconds, Terminate { count, gateways })
            .against(EXECNET, "terminate")
            .ahead()
    };
    vec![
        terminate(2, effort.of(3, 7)),
        terminate(16, effort.of(1, 2)),
        terminate(256, 1).at_most(0.050).most_rounds(effort.of(1, FEW)),
        Row::new("idle-memory", "memory of an idle gateway (PSS)", Unit::Kilobytes, IdleMemory {})
            .against(EXECNET, "idle_memory")
            .times(2.0),
        Row::new(
            "host-memory",
            "memory of the host per gateway (PSS), of 64",
            Unit::Kilobytes,
            HostMemory { gateways: 64 },
        )
        .against_with(EXECNET, "idle_memory", &IdleMemory {})
        .times(2.0)
        .most_rounds(FEW)
        .note("in a process of its own; against execnet's process of a gateway, whatever execnet's host takes"),
        Row::new(
            "idle-wake-ups",
            "context switches a second of two idle gateways and their host",
            Unit::SwitchesPerSecond,
            IdleWakeUps { seconds: effort.of(1.0, 2.0) },
        )
        .against(EXECNET, "idle_wake_ups")
        .most_rounds(FEW),
        Row::new(
            "idle-processor",
            format!("processor time of 64 idle gateways and their host in {} s", effort.of(1, 10)),
            Unit::Seconds,
            IdleProcessor { gateways: 64, seconds: effort.of(1.0, 10.0) },
        )
        .at_most(0.001)
        .most_rounds(effort.of(1, 2))
        .note("met below 1 ms: a tenth of what the system's own clock of processor time can tell"),
    ]
}

/// What is plotted only.
fn curves(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [16, 256, 4 << 10, 64 << 10, MIB, 16 * MIB] {
        let count = (effort.of(64, 256) * MIB / size).clamp(effort.of(2, 50), effort.of(50, 1000));
        let echo = || EchoLarge { count, warm_up: 3, size };
        let row = |key: &str| {
            Row::new(
                format!("{key}-{size}"),
                format!("{size} bytes to a task and back"),
                Unit::MegabytesPerSecond,
                echo(),
            )
            .most_rounds(FEW)
            .only_plotted()
        };
        rows.push(row("size").against(EXECNET, "echo_large").point(
            Plot::PayloadSize,
            size,
            1.0,
            "sandgate",
            "execnet",
        ));
        let copies = row("copies").beside("two memcpys", TwoCopies::of(size, effort));
        rows.push(copies.point(Plot::PayloadSize, size, 1.0, "", "two memcpys"));
    }
    let seconds = effort.of(0.1, 0.5);
    let most = u32::try_from(2 * cores()).unwrap_or(u32::MAX);
    for gateways in (0..).map(|power| 1 << power).take_while(|&gateways| gateways <= most) {
        let lanes = gateways as usize;
        rows.push(
            Row::new(
                format!("gateways-{gateways}"),
                format!("tasks of 100 µs on {gateways} gateways"),
                Unit::PerSecond,
                Saturation::new(100, lanes, seconds),
            )
            .beside("threads of bare wasmtime", BareThreads { micros: 100, threads: lanes, seconds })
            .most_rounds(FEW)
            .point(Plot::Gateways, gateways, 1.0, "sandgate", "bare threads")
            .only_plotted(),
        );
    }
    rows
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn length(micros: u32) -> String {
    if micros >= 1000 { format!("{} ms", micros / 1000) } else { format!("{micros} µs") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        for effort in [Effort::Quick, Effort::Full] {
            let rows = all(effort);
            let keys: BTreeSet<_> = rows.iter().map(|row| &row.key).collect();
            assert_eq!(keys.len(), rows.len());
            for row in rows {
                assert!(row.in_table || row.point.is_some(), "{} is shown nowhere", row.key);
                let compares = row.target.ratio.is_some() || row.target.ahead;
                assert!(!compares || !matches!(row.other, crate::rows::Other::Nobody), "{} aims at nobody", row.key);
            }
        }
    }
}
