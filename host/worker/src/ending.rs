//! How an execution ended, from what the engine says and what the guest reported last. The table stands in `sandgate_abi`.

use rustc_demangle::demangle;
use sandgate_abi::report;
use sandgate_wire::Outcome;
use sandgate_wire::limits::LimitName;
use sandgate_wire::outcome::{Rejection, TrapKind};
use wasmtime::{Trap, WasmBacktrace};

use crate::execution::Stop;
use crate::executor::Failure;
use crate::guest::{Guest, Report};

/// Most frames of a backtrace.
const MAX_FRAMES: usize = 20;
/// Longest name of a function in a backtrace.
const MAX_FRAME_BYTES: usize = 512;
/// Longest text of the engine's.
const MAX_ENGINE_TEXT_BYTES: usize = 4096;

/// The guest called `proc_exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("guest exits with code {0}")]
pub(crate) struct Exit(pub(crate) i32);

pub(crate) fn outcome(result: Result<(), Failure>, guest: &mut Guest, tasks: &[String]) -> Outcome {
    let report = guest.report.take().map(|report| with_refusal(report, guest));
    let error = match result {
        Ok(()) => return ended(0, report, Vec::new(), tasks),
        Err(Failure::Instantiation(error)) => return not_instantiated(&error, guest),
        Err(Failure::Run(error)) => error,
    };
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stopped(*stop, guest);
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(names).unwrap_or_default();
    if let Some(Exit(code)) = error.downcast_ref::<Exit>() {
        return ended(*code, report, backtrace, tasks);
    }
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::OutOfFuel) {
        return exceeded(LimitName::Fuel, guest);
    }
    let kind = trap.map_or(TrapKind::Other, kind);
    match (report, guest.growth.denied) {
        (Some(report), _) if report.kind == report::PANIC => panicked(&report.text, backtrace),
        // An allocator that was told no and aborts, as Rust's does.
        (_, Some(limit)) if kind == TrapKind::Unreachable => exceeded(limit, guest),
        _ => {
            let stack_bytes = (kind == TrapKind::StackOverflow).then_some(guest.execution.limits.stack_bytes);
            Outcome::Trapped { kind, backtrace, stack_bytes }
        }
    }
}

/// The report with the limit that the guest has met, if it was refused something: it was told a status, which has neither
/// value nor setting.
fn with_refusal(mut report: Report, guest: &Guest) -> Report {
    if let Some((limit, value)) = guest.refused {
        let setting = limit.setting();
        report.text.push_str(&format!("; its limit of {value} for {limit} was reached (setting `{setting}`)"));
    }
    report
}

fn stopped(stop: Stop, guest: &Guest) -> Outcome {
    let limits = &guest.execution.limits;
    match stop {
        Stop::Killed(by) => Outcome::Killed { by, started: true },
        // Only an execution with a wall time has a deadline.
        Stop::TimedOut => Outcome::TimedOut { after: limits.wall_time.unwrap_or_default() },
        Stop::Limit(limit) => exceeded(limit, guest),
        // Nobody reads it.
        Stop::HostGone => Outcome::Killed { by: sandgate_wire::outcome::KilledBy::Terminate, started: true },
    }
}

fn exceeded(limit: LimitName, guest: &Guest) -> Outcome {
    Outcome::LimitExceeded { limit, value: guest.execution.limits.value(limit) }
}

fn not_instantiated(error: &wasmtime::Error, guest: &Guest) -> Outcome {
    if let Some(limit) = guest.growth.denied {
        return exceeded(limit, guest);
    }
    Outcome::Rejected { reason: Rejection::Instantiation { message: engine_text(error) } }
}

/// The guest returned (code 0) or exited.
fn ended(code: i32, report: Option<Report>, backtrace: Vec<String>, tasks: &[String]) -> Outcome {
    match report {
        Some(Report { kind, text }) if kind == report::BAD_ARGUMENTS => {
            Outcome::Rejected { reason: Rejection::BadArguments { message: text, available: tasks.to_vec() } }
        }
        Some(Report { kind, text }) if kind == report::ERROR => Outcome::Failed { message: text },
        Some(Report { kind, text }) if kind == report::PANIC && code != 0 => panicked(&text, backtrace),
        _ if code == 0 => Outcome::Returned,
        _ => Outcome::Exited { code },
    }
}

fn panicked(text: &str, backtrace: Vec<String>) -> Outcome {
    let (location, message) = text.split_once('\n').unwrap_or(("", text));
    Outcome::Panicked {
        message: message.to_owned(),
        location: (!location.is_empty()).then(|| location.to_owned()),
        backtrace,
    }
}

fn names(backtrace: &WasmBacktrace) -> Vec<String> {
    backtrace
        .frames()
        .iter()
        .take(MAX_FRAMES)
        .map(|frame| match frame.func_name() {
            Some(name) => capped(&format!("{:#}", demangle(name)), MAX_FRAME_BYTES),
            None => format!("function {}", frame.func_index()),
        })
        .collect()
}

fn kind(trap: Trap) -> TrapKind {
    match trap {
        Trap::StackOverflow => TrapKind::StackOverflow,
        Trap::MemoryOutOfBounds => TrapKind::MemoryOutOfBounds,
        Trap::TableOutOfBounds => TrapKind::TableOutOfBounds,
        Trap::IndirectCallToNull => TrapKind::IndirectCallToNull,
        Trap::BadSignature => TrapKind::BadSignature,
        Trap::IntegerOverflow => TrapKind::IntegerOverflow,
        Trap::IntegerDivisionByZero => TrapKind::DivisionByZero,
        Trap::BadConversionToInteger => TrapKind::BadConversionToInteger,
        Trap::UnreachableCodeReached => TrapKind::Unreachable,
        _ => TrapKind::Other,
    }
}

/// What the engine says, with its causes.
pub(crate) fn engine_text(error: &wasmtime::Error) -> String {
    capped(&format!("{error:#}"), MAX_ENGINE_TEXT_BYTES)
}

/// The text, or as much of its beginning as fits into `bytes`.
pub(crate) fn capped(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}
