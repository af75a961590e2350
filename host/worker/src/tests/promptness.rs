//! How long after its deadline a guest has ended, in every state. The bound here is wide, for a machine that does much else;
//! with `SANDGATE_STOPS=N` each state is stopped *N* times and the distribution is printed.

use std::time::{Duration, Instant};

use sandgate_wire::{Limits, Outcome};

use super::host::*;
use super::stopping::endless;

/// Where the bound is for a machine under any load.
const BOUND: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_millis(25);

/// States beyond those that a kill is tried in. Memory is 1025 pages.
fn more() -> Vec<(&'static str, String)> {
    let large = "(drop (memory.grow (i32.const 1024)))";
    let again = |body: &str| guest(&format!("{large} (loop $again {body} (br $again))"));
    let send = "(drop (call $send (i32.const 0) (i32.const 0) (i32.const 67108864) (i32.const 0) (i32.const 0) (i64.const 0)))";
    let many = "(call $wait (i32.const 0) (i32.const 1024) (i64.const 0))";
    vec![
        ("messages of 64 MiB", again(send)),
        ("64 MiB of random numbers", again("(drop (call $random (i32.const 0) (i32.const 67108864)))")),
        ("waits on 1024 handles", again(&format!("(drop {many})"))),
        (
            "deep recursion",
            guest_with(
                "(func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
                 (func $down (param i32) (result i32) (if (result i32) (i32.eqz (local.get 0)) (then (loop $l (br $l)) (i32.const 0))
                    (else (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))))",
                "(drop (call $down (i32.const 9000)))",
            ),
        ),
        ("touching 64 MiB", again("(memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864))")),
    ]
}

#[test]
fn every_state_ends_soon_after_its_deadline() {
    let runs: usize = std::env::var("SANDGATE_STOPS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    for (name, text) in endless().into_iter().chain(more()) {
        let mut host = Host::new(1);
        host.takes_output = false;
        let module = host.load(&text);
        let mut late: Vec<Duration> = (0..runs)
            .map(|_| {
                let limits = Limits { wall_time: Some(AFTER), ..Limits::default() };
                let start = Instant::now();
                let channel = host.execute(module, Call { limits, ..Call::default() });
                assert_eq!(host.done(channel), Outcome::TimedOut { after: AFTER }, "{name}");
                start.elapsed().saturating_sub(AFTER)
            })
            .collect();
        late.sort_unstable();
        let at = |percent: usize| late[(late.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        if runs > 1 {
            let text = format!("{name:<40} p50 {:>7.2} ms  p99 {:>7.2} ms  max {:>7.2} ms\n", at(50), at(99), at(100));
            std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
        }
        assert!(late[0] < BOUND, "{name}: {late:?}");
    }
}
