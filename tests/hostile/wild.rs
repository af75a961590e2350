//! Every function that a guest can call with wild pointers, lengths, handles and numbers, in every pair of places: it answers
//! with a status that there is, or ends the task; the worker lives.
//!
//! A guest takes calls from its channel and makes them, one after the other. A call that waits for ever is killed, and
//! another guest goes on with the next.

use std::fmt::{self, Write as _};
use std::time::Duration;

use sandgate::{Channel, Gateway, Limits, Module, Outcome, ReceiveError};
use sandgate_tests::{LIMIT, builder, spec, wat};

use crate::house::{House, alone};
use crate::row::HOST_GROWTH;
use crate::wasm::{ABI, ABI_FUNCTIONS, WASI, WASI_FUNCTIONS, imports};

/// Of 32 bits: nothing, everything, the signs, the ends of memory, large, negative and unaligned ones.
const WILD: [i32; 12] = [0, 1, 3, -1, i32::MIN, i32::MAX, 65535, 65536, 65537, 0x1000, -65536, 0x7fff_fff8];
/// Of 64 bits.
const WILD_LONG: [i64; 5] = [0, 1, -1, i64::MIN, i64::MAX];
/// What a parameter is where it is not wild: a place in memory where there is room, or a small number.
const TAME: i32 = 1024;
/// How long a call may take before it counts as one that waits for ever.
const PATIENCE: Duration = Duration::from_millis(120);
/// Bytes of a call: the function, and up to nine parameters.
const CALL_BYTES: usize = 80;

/// One call.
#[derive(Clone)]
struct WildCall {
    name: &'static str,
    function: usize,
    arguments: Vec<i64>,
}

impl fmt::Display for WildCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.name, self.arguments)
    }
}

/// How a function may answer.
#[derive(Debug, Clone, Copy)]
struct Wild {
    is_status: fn(i32) -> bool,
    /// Whether a call may also end the task with a trap.
    may_trap: bool,
}

#[test]
fn functions_of_the_abi_with_wild_arguments() {
    let wild = Wild { is_status: |status| (-9..=65536).contains(&status), may_trap: false };
    check(ABI, &ABI_FUNCTIONS, 0, wild);
}

#[test]
fn functions_of_wasi_with_wild_arguments() {
    // Where wasmtime-wasi serves a call, a pointer that leaves memory is a trap.
    let wild = Wild { is_status: |status| (0..=76).contains(&status), may_trap: true };
    check(WASI, &WASI_FUNCTIONS, ABI_FUNCTIONS.len(), wild);
}

/// Makes every call to `functions`, and looks at each answer.
fn check(module: &str, functions: &[(&'static str, &'static str, &'static str)], first: usize, wild: Wild) {
    let _alone = alone();
    let mut house = House::new();
    let mut count = 0;
    let problems = house.observe(2 * HOST_GROWTH, |_| {
        let group = builder().build();
        let gateway = group.make_gateway(spec("popen")).expect("a gateway");
        let caller = wat(&caller());
        let mut problems = Vec::new();
        for (position, (name, parameters, _)) in functions.iter().enumerate() {
            let calls = calls(name, parameters, first + position);
            count += calls.len();
            problems.extend(make(&gateway, &caller, &calls, wild));
        }
        problems
    });
    println!("{module}: {count} calls of {} functions", functions.len());
    assert!(
        problems.is_empty(),
        "{module}: {} problems\n  {}",
        problems.len(),
        problems[..problems.len().min(40)].join("\n  ")
    );
}

/// The calls of a function: every pair of parameters with every pair of wild values, the others tame.
fn calls(name: &'static str, parameters: &str, function: usize) -> Vec<WildCall> {
    let kinds: Vec<char> = parameters.chars().collect();
    let wild = |kind: char| -> Vec<i64> { if kind == 'i' { WILD.map(i64::from).to_vec() } else { WILD_LONG.to_vec() } };
    let tame: Vec<i64> = kinds.iter().map(|kind| if *kind == 'i' { TAME.into() } else { 0 }).collect();
    let mut calls = vec![WildCall { name, function, arguments: tame.clone() }];
    let mut add = |changes: &[(usize, i64)]| {
        let mut arguments = tame.clone();
        changes.iter().for_each(|(place, value)| arguments[*place] = *value);
        calls.push(WildCall { name, function, arguments });
    };
    for (one, kind) in kinds.iter().enumerate() {
        for value in wild(*kind) {
            add(&[(one, value)]);
            for (other, kind) in kinds.iter().enumerate().skip(one + 1) {
                wild(*kind).into_iter().for_each(|second| add(&[(one, value), (other, second)]));
            }
        }
    }
    calls
}

/// Makes calls one after the other and says which were answered wrongly.
fn make(gateway: &Gateway, caller: &Module, calls: &[WildCall], wild: Wild) -> Vec<String> {
    let mut problems = Vec::new();
    let mut guest: Option<Channel> = None;
    for call in calls {
        let channel = guest.get_or_insert_with(|| {
            let limits = Limits { channels: 64, ..Limits::default() };
            gateway.remote_exec_with(caller, &sandgate::Call::start().limits(limits)).expect("a guest that calls")
        });
        let mut bytes = vec![0; CALL_BYTES];
        bytes[..4].copy_from_slice(&u32::try_from(call.function).expect("a small number").to_le_bytes());
        for (place, argument) in call.arguments.iter().enumerate() {
            bytes[8 + 8 * place..16 + 8 * place].copy_from_slice(&argument.to_le_bytes());
        }
        let answer = channel
            .send_bytes_timeout(bytes, LIMIT)
            .map_err(|error| error.to_string())
            .and_then(|()| answer(channel, wild));
        match answer {
            Ok(Some(status)) if (wild.is_status)(status) => {}
            Ok(Some(status)) => problems.push(format!("{call} gives {status}")),
            // It waits, or the task is over.
            Ok(None) => guest = None,
            Err(problem) => {
                problems.push(format!("{call}: {problem}"));
                guest = None;
            }
        }
        if !gateway.is_alive() {
            problems.push(format!("{call} has cost the worker: {:?}", gateway.exit_cause()));
            return problems;
        }
    }
    problems
}

/// The status of a call, or nothing if it has ended the task in order.
fn answer(channel: &Channel, wild: Wild) -> Result<Option<i32>, String> {
    loop {
        let message = match channel.receive_bytes_timeout(PATIENCE) {
            Ok(message) => message,
            Err(ReceiveError::Timeout(_)) => {
                return match channel.kill() {
                    Ok(Outcome::Killed { .. } | Outcome::Returned | Outcome::Exited { .. }) => Ok(None),
                    other => Err(format!("it waits, and its kill says: {other:?}")),
                };
            }
            Err(ReceiveError::Ended(Outcome::Returned | Outcome::Exited { .. })) => return Ok(None),
            Err(ReceiveError::Ended(Outcome::Trapped { .. })) if wild.may_trap => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        // What `channel_send` sends has no mark.
        if let [b'w', b'i', b'l', b'd', status @ ..] = &message[..]
            && let Ok(status) = <[u8; 4]>::try_from(status)
        {
            return Ok(Some(i32::from_le_bytes(status)));
        }
    }
}

/// A guest that makes the calls it is sent, and sends each status back behind a mark. What a call overwrites is put right.
fn caller() -> String {
    let all: Vec<_> = ABI_FUNCTIONS.iter().chain(&WASI_FUNCTIONS).collect();
    let (mut labels, mut cases) = (String::new(), String::new());
    for (number, (name, parameters, results)) in all.iter().enumerate() {
        let mut arguments = String::new();
        for (place, kind) in parameters.chars().enumerate() {
            let load = if kind == 'i' { "i32.load" } else { "i64.load" };
            let _ = write!(arguments, "({load} offset={} (i32.const 61440)) ", 8 + 8 * place);
        }
        let call = format!("(call ${name} {arguments})");
        let call = if results.is_empty() { call } else { format!("(local.set $status {call})") };
        let _ = writeln!(cases, ") {call} (br $done)");
        let _ = write!(labels, "{number} ");
    }
    let blocks = "(block ".repeat(all.len());
    let imports = imports();
    format!(
        r#"(module
        {imports}
        (memory (export "memory") 1)
        (func (export "_start") (local $status i32)
            (loop $next
                (if (call $channel_receive (i32.const 0) (i32.const 61440) (i32.const {CALL_BYTES}) (i32.const 0) (i32.const 0)
                        (i32.const 63000) (i64.const -1))
                    (then (return)))
                (local.set $status (i32.const 0))
                (block $done {blocks} (br_table {labels} (i32.load (i32.const 61440)))
                {cases})
                (i32.store (i32.const 63100) (i32.const 0x646c6977))
                (i32.store (i32.const 63104) (local.get $status))
                (drop (call $channel_send (i32.const 0) (i32.const 63100) (i32.const 8) (i32.const 0) (i32.const 0) (i64.const -1)))
                (br $next))))"#
    )
}
