//! I. Information: what a guest can learn, and what is told about it. That texts tell no path and no address is checked for
//! every row of every section.

use std::path::Path;

use sandgate::{Clock, ExecutionGrants, Random};
use sandgate_tests::{LIMIT, builder, run, spec};

use crate::expected::Expected;
use crate::house::{alone, check};
use crate::row::{Row, row};
use crate::wasm::program;

#[test]
fn guests_learn_what_they_are_told() {
    check("I", rows);
}

/// Reads a clock a thousand times and ends with 66 if a reading is no multiple of so many nanoseconds.
fn is_coarse(clock: u32, nanoseconds: u32) -> String {
    program(
        "",
        &format!(
            "(call $want (call $clock_res_get (i32.const {clock}) (i32.const 0)) (i32.const 0))
             (if (i64.ne (i64.load (i32.const 0)) (i64.const {nanoseconds})) (then (call $proc_exit (i32.const 65))))
             (local.set $i (i32.const 1000))
             (loop $l
                (call $want (call $clock_time_get (i32.const {clock}) (i64.const 0) (i32.const 0)) (i32.const 0))
                (if (i64.ne (i64.rem_u (i64.load (i32.const 0)) (i64.const {nanoseconds})) (i64.const 0))
                    (then (call $proc_exit (i32.const 66))))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
        ),
    )
}

fn rows() -> Vec<Row> {
    let random =
        "(if (i32.eqz (call $random_get (i32.const 0) (i32.const 8))) (then (call $proc_exit (i32.const 66))))";
    let time = "(if (i32.eqz (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 0))) (then (call $proc_exit (i32.const 66))))";
    let says_random = program(
        "",
        "(call $want (call $random_get (i32.const 0) (i32.const 4)) (i32.const 0)) (call $say (i32.const 0))",
    );
    let same = |channel: &sandgate::Channel| {
        let bytes = channel.receive_bytes_timeout(LIMIT).map_err(|error| error.to_string())?;
        static FIRST: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let first = FIRST.get_or_init(|| bytes.clone());
        if bytes == *first { Ok(()) } else { Err(format!("seeded randomness is {first:?}, then {bytes:?}")) }
    };
    vec![
        row("the wall clock is coarse", is_coarse(0, 100_000)),
        row("the monotonic clock is coarse", is_coarse(1, 100_000)),
        row("a clock of a millisecond", is_coarse(1, 1_000_000)).on("clock=1ms"),
        row("no clock", program("", time)).on("clock=off"),
        row("no clock, by call", program("", time))
            .grants(ExecutionGrants { clock: Clock::Off, ..ExecutionGrants::default() }),
        row("no randomness", program("", random)).on("random=off"),
        row("no randomness, by call", program("", random))
            .grants(ExecutionGrants { random: Random::Off, ..ExecutionGrants::default() }),
        row("seeded randomness", &says_random).on("random=7").host(same),
        row("seeded randomness, again", &says_random).on("random=7").host(same),
        row(
            "a trap inside a function with a secret's name",
            r#"(module (func $\2fetc\2fpasswd unreachable) (func (export "_start") (call 0)))"#,
        )
        .expect(Expected::AnyOf(vec![Expected::Trapped(sandgate::TrapKind::Unreachable), Expected::Rejected(&[])])),
    ]
}

/// What the kernel shows of a worker to others, and what a worker was left with.
#[test]
fn a_worker_has_nothing_of_its_hosts() {
    let _alone = alone();
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen")).expect("a gateway");
    run(&gateway, "noop").wait_close_timeout(LIMIT).expect("a task");
    let pid = gateway.pid().expect("a process");
    let at = |name: &str| format!("/proc/{pid}/{name}");
    let environment = std::fs::read(at("environ")).unwrap_or_default();
    assert!(environment.is_empty(), "the worker has an environment: {}", String::from_utf8_lossy(&environment));
    let command = std::fs::read(at("cmdline")).expect("its arguments");
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    assert!(command.trim_end().ends_with("__sandgate-worker"), "{command}");
    // Root may look at it, and sees nothing but what a worker needs.
    let Ok(descriptors) = std::fs::read_dir(at("fd")) else { return };
    for entry in descriptors.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let name = target.display().to_string();
        let is_own =
            ["socket:", "pipe:", "/dev/null", "/memfd:", "anon_inode:"].iter().any(|own| name.starts_with(own));
        // Which of its own pages were written to, so that they are set back for the next guest.
        let is_own = is_own || name == at("pagemap");
        assert!(is_own, "the worker has `{name}` open");
        assert!(!Path::new(&name).is_dir(), "the worker has a directory open");
    }
}
