//! Every limit just below, at and just above its value.

use std::time::Duration;

use sandgate::{Channel, LimitName, ModuleLimitName, SendError};
use sandgate_tests::LIMIT;
use wasm_encoder::{BlockType, Instruction, ValType};

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, bytes, row};
use crate::visit;
use crate::wasm::{Binary, bare, program, with_memory};

const BELOW: u32 = 49;
const AT: u32 = 50;
const ABOVE: u32 = 51;

#[test]
fn limits_of_executions_are_exact() {
    check("edges of executions", executions);
}

#[test]
fn limits_of_time_are_kept() {
    check("edges of time", times);
}

#[test]
fn limits_of_modules_are_exact() {
    check("edges of modules", modules);
}

fn executions() -> Vec<Row> {
    const PAGE: u64 = 65536;
    let mut rows = Vec::new();
    for (pages, granted) in [(BELOW, true), (AT, true), (ABOVE, false)] {
        let limited = |row: Row| row.limit(|limits| limits.memory_bytes = u64::from(AT) * PAGE);
        let want = if granted { 1 } else { -1 };
        let grow = format!("(call $want (memory.grow (i32.const {})) (i32.const {want}))", pages - 1);
        rows.push(limited(row(format!("memory grows to {pages} pages of {AT}"), program("", &grow))));
        let minimum =
            limited(row(format!("a minimum of {pages} pages of {AT}"), with_memory(&pages.to_string(), "", "")));
        rows.push(if granted { minimum } else { minimum.expect(Expected::Limit(LimitName::Memory)) });
    }
    for (elements, granted) in [(BELOW, true), (AT, true), (ABOVE, false)] {
        let limited = |row: Row| row.limit(|limits| limits.table_elements = AT.into());
        let want = if granted { 0 } else { -1 };
        let grow = format!(
            "(if (i32.ne (table.grow $t (ref.null func) (i32.const {elements})) (i32.const {want})) (then unreachable))"
        );
        rows.push(limited(row(format!("a table grows to {elements} of {AT}"), bare("(table $t 0 funcref)", &grow))));
        let minimum = limited(row(
            format!("a minimum of {elements} elements of {AT}"),
            bare(&format!("(table {elements} funcref)"), ""),
        ));
        rows.push(if granted { minimum } else { minimum.expect(Expected::Limit(LimitName::Table)) });
    }
    for (length, status) in [(BELOW, 0), (AT, 0), (ABOVE, -6)] {
        let send = format!(
            "(call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const {length}) (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const {status}))"
        );
        rows.push(
            row(format!("a message of {length} bytes of {AT}"), program("", &send))
                .limit(|limits| limits.message_bytes = AT.into()),
        );
        let fits = status == 0;
        rows.push(
            row(format!("a message of {length} bytes of {AT}, from the host"), program("", ""))
                .limit(|limits| limits.message_bytes = AT.into())
                .host(move |channel| sends_once(channel, length as usize, fits)),
        );
    }
    for (channels, granted) in [(BELOW, true), (AT, true), (ABOVE, false)] {
        // One of them is the execution's own.
        let last = if granted {
            "(i32.lt_s (call $channel_new) (i32.const 0))"
        } else {
            "(i32.ne (call $channel_new) (i32.const -7))"
        };
        let make = format!(
            "(local.set $i (i32.const {}))
             (loop $l
                (if (i32.lt_s (call $channel_new) (i32.const 0)) (then unreachable))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
             (if {last} (then unreachable))",
            channels - 2
        );
        rows.push(row(format!("{channels} channels of {AT}"), program("", &make)).limit(|limits| limits.channels = AT));
    }
    // Sends without waiting until there is no credit, and tells how often that went well.
    let counts = |length: u32| {
        program(
            "",
            &format!(
                "(loop $l
                    (if (i32.eqz (call $channel_send (i32.const 0) (i32.const 64) (i32.const {length}) (i32.const 0) (i32.const 0) (i64.const 0)))
                        (then (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $l))))
                 (call $proc_exit (local.get $i))"
            ),
        )
    };
    rows.push(
        row("a window of 50 messages", counts(1))
            .limit(|limits| limits.window_messages = AT)
            .host(visit::ignores)
            .expect(Expected::Exited(50)),
    );
    rows.push(
        row("a window of 64 KiB", counts(1024))
            .limit(|limits| limits.window_bytes = 65536)
            .host(visit::ignores)
            .expect(Expected::Exited(64)),
    );
    for messages in [1_u32, 2, AT] {
        rows.push(
            row(format!("a window of {messages} messages, from the host"), bare("", "(loop $l (br $l))"))
                .limit(|limits| limits.window_messages = messages)
                .host(move |channel| fills(channel, messages))
                .times_out()
                .timeout(Duration::from_millis(300)),
        );
    }
    rows
}

/// Sends one message, which fits or does not.
fn sends_once(channel: &Channel, length: usize, fits: bool) -> Result<(), String> {
    match channel.send_bytes_timeout(vec![1; length], LIMIT) {
        // The guest does not wait for it.
        Ok(()) | Err(SendError::Ended(_)) if fits => Ok(()),
        Err(SendError::TooLarge { limit, .. }) if !fits && limit == u64::from(AT) => Ok(()),
        other => Err(format!("a message of {length} bytes: {other:?}")),
    }
}

/// Sends as many messages as the window has, and not one more.
fn fills(channel: &Channel, messages: u32) -> Result<(), String> {
    for number in 0..=messages {
        match (channel.send_bytes_timeout([1], Duration::from_millis(20)), number < messages) {
            (Ok(()), true) | (Err(SendError::Timeout(_)), false) => {}
            (other, _) => return Err(format!("message {number} of a window of {messages}: {other:?}")),
        }
    }
    Ok(())
}

fn times() -> Vec<Row> {
    let sleep = |milliseconds: u32| {
        program(
            "",
            &format!("(drop (call $channel_wait (i32.const 0) (i32.const 0) (i64.const {milliseconds}000000)))"),
        )
    };
    let spin = || bare("", "(loop $l (br $l))");
    let mut rows = vec![
        row("a sleep that is shorter than the timeout", sleep(20)).timeout(Duration::from_millis(1000)),
        row("a sleep that is longer than the timeout", sleep(5000))
            .timeout(Duration::from_millis(60))
            .expect(Expected::TimedOut),
        row("a timeout of nothing", spin()).timeout(Duration::ZERO).expect(Expected::TimedOut),
        row("a timeout of a nanosecond", spin()).timeout(Duration::from_nanos(1)).expect(Expected::TimedOut),
        row("no timeout, killed", spin())
            .limit(|limits| limits.wall_time = None)
            .host(visit::kills)
            .expect(Expected::Killed),
        row("a timeout of for ever, killed", spin())
            .timeout(Duration::MAX)
            .host(visit::kills)
            .expect(Expected::Killed)
            .within(Duration::ZERO),
        row("processor time that is used up", spin())
            .limit(|limits| limits.cpu_time = Some(Duration::from_millis(60)))
            .timeout(Duration::from_secs(2))
            .expect(Expected::Limit(LimitName::CpuTime)),
        row("processor time in host calls", program("", "(loop $l (drop (call $sched_yield)) (br $l))"))
            .limit(|limits| limits.cpu_time = Some(Duration::from_millis(60)))
            .timeout(Duration::from_secs(4))
            .expect(Expected::Limit(LimitName::CpuTime)),
        row("processor time in start", r#"(module (func $s (loop $l (br $l))) (func (export "_start")) (start $s))"#)
            .limit(|limits| limits.cpu_time = Some(Duration::from_millis(60)))
            .timeout(Duration::from_secs(2))
            .expect(Expected::Limit(LimitName::CpuTime)),
        row("a sleep takes no processor time", sleep(200))
            .limit(|limits| limits.cpu_time = Some(Duration::from_millis(60))),
        row("fuel that is used up", spin())
            .limit(|limits| limits.fuel = Some(1_000_000))
            .timeout(Duration::from_secs(4))
            .expect(Expected::Limit(LimitName::Fuel)),
        row("no fuel at all", spin()).limit(|limits| limits.fuel = Some(0)).expect(Expected::Limit(LimitName::Fuel)),
        row("all the fuel there is", bare("", "")).limit(|limits| limits.fuel = Some(u64::MAX)),
        row("a guest that cannot be interrupted", spin())
            .on("epochs=off//grace=200ms")
            .takes_worker()
            .timeout(Duration::from_millis(200))
            .expect(Expected::TimedOut),
        row("a guest that cannot be interrupted, killed", spin())
            .on("epochs=off//grace=200ms")
            .takes_worker()
            .host(visit::kills)
            .expect(Expected::Killed),
    ];
    for (limit, setting) in [("memory", "memory=64M"), ("stack", "stack=256K")] {
        let row = row(format!("a call that asks for more {limit} than its gateway has"), bare("", "")).on(setting);
        rows.push(
            row.limit(|limits| {
                limits.memory_bytes = if limit == "memory" { 128 << 20 } else { 32 << 20 };
                limits.stack_bytes = if limit == "stack" { 1 << 20 } else { 128 << 10 };
            })
            .expect(Expected::Refused(if limit == "memory" { &["memory="] } else { &["stack="] })),
        );
    }
    rows
}

/// A module that has exactly so many of what a limit counts.
type Build = fn(&mut Binary, u32);

fn modules() -> Vec<Row> {
    use ModuleLimitName as Name;
    // What an empty module has already is told by the limit's setting.
    let limits: [(&str, Name, Build); 5] = [
        // `_start` is one of them.
        ("functions", Name::Functions, |binary, count| binary.empty_functions(count - 1)),
        ("locals", Name::Locals, |binary, count| {
            binary.function(&[(count, ValType::I32)], |function| {
                function.instruction(&Instruction::End);
            });
        }),
        // The size of the body: no locals (1 byte), instructions, and their end.
        ("function", Name::FunctionBytes, |binary, count| {
            binary.function(&[], |function| {
                (0..count - 2).for_each(|_| {
                    function.instruction(&Instruction::Nop);
                });
                function.instruction(&Instruction::End);
            });
        }),
        ("nesting", Name::Nesting, |binary, count| {
            binary.function(&[], |function| {
                (0..count).for_each(|_| {
                    function.instruction(&Instruction::Block(BlockType::Empty));
                });
                (0..=count).for_each(|_| {
                    function.instruction(&Instruction::End);
                });
            });
        }),
        // One type, one export, and the segments.
        ("items", Name::Items, |binary, count| binary.data(count - 2, 1)),
    ];
    let mut rows = Vec::new();
    for (setting, name, build) in limits {
        for count in [BELOW, AT, ABOVE] {
            let mut binary = Binary::new();
            build(&mut binary, count);
            let row = bytes(format!("{setting}: {count} of {AT}"), binary.finish()).on(format!("{setting}={AT}"));
            rows.push(if count > AT { row.expect(Expected::Module(name)).alone() } else { row.alone() });
        }
    }
    for targets in [BELOW, AT, ABOVE] {
        let mut binary = Binary::new();
        binary.function(&[], |function| {
            function.instruction(&Instruction::I32Const(0));
            // The default is a target, too.
            function.instruction(&Instruction::BrTable(vec![0; targets as usize - 1].into(), 0));
            function.instruction(&Instruction::End);
        });
        let row = bytes(format!("jumps: {targets} of {AT}"), binary.finish()).on(format!("jumps={AT}")).alone();
        rows.push(match targets {
            ABOVE => row.expect(Expected::Module(Name::JumpTargets)),
            _ => row,
        });
    }
    // Larger than the task that comes next.
    let mut large = Binary::new();
    large.custom("padding", 500);
    let module = large.finish();
    for (spare, fits) in [(1, true), (0, true), (-1, false)] {
        let limit = i64::try_from(module.len()).unwrap_or(0) + spare;
        let row = bytes(format!("module: {} of {limit} bytes", module.len()), module.clone())
            .on(format!("module={limit}"))
            .alone();
        rows.push(if fits { row } else { row.expect(Expected::Module(Name::ModuleBytes)) });
    }
    rows
}
