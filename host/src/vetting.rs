//! What a worker's words may be: texts that it sends are capped before they are kept.
//!
//! A frame holds 256 KiB, which can decode to a list of as many empty strings. An honest worker stays far below these caps
//! (`host/worker/src/ending.rs`). What is over is cut and not refused, since it may be a guest's doing: its error text.
//! Terminals are safe from all of it, because the texts of outcomes are escaped when they are shown.

use std::collections::HashSet;

use sandgate_wire::Profile;
use sandgate_wire::description::MAX_DESCRIPTION_BYTES;
use sandgate_wire::isolation::State;
use sandgate_wire::message::{Compiled, Initialized, WorkerHello};
use sandgate_wire::outcome::{Outcome, Rejection};
use sandgate_wire::text::is_active;

/// Longest text of an outcome or of a close.
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Longest name, and most names, in a list of an outcome.
const MAX_NAME_BYTES: usize = 1024;
const MAX_NAMES: usize = 64;
/// Longest texts of a hello. The engine's is part of a key.
const MAX_VERSION_BYTES: usize = 64;
const MAX_ENGINE_BYTES: usize = 256;
const MAX_STATE_BYTES: usize = 4096;

/// Says what is wrong with a hello. It was written before the worker saw a guest, so all that is odd in it is refused.
pub(crate) fn hello(hello: &WorkerHello) -> Result<(), String> {
    let WorkerHello { package_version, pid: _, engine, isolation } = hello;
    word("version", package_version, MAX_VERSION_BYTES)?;
    word("engine", engine, MAX_ENGINE_BYTES)?;
    let mut seen = HashSet::new();
    for (layer, state) in &isolation.layers {
        if !seen.insert(*layer) {
            return Err(format!("its hello reports the layer `{layer}` twice"));
        }
        match state {
            State::Enforced(text) | State::Partial(text) | State::Missing(text) => {
                word("report", text, MAX_STATE_BYTES)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn word(what: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("its hello has a {what} of {} bytes, the maximum is {most}", text.len()));
    }
    if text.contains(is_active) {
        return Err(format!("its hello has a {what} with control characters"));
    }
    Ok(())
}

/// A compiler's answer about a module of this size with its texts capped, or what is wrong with it.
pub(crate) fn compiled(mut compiled: Compiled, module_bytes: u64) -> Result<Compiled, String> {
    match &mut compiled {
        Compiled::Rejected(reason) => rejection(reason),
        Compiled::Done { engine, bytes: _, shape, description } => {
            // It is compared with what it has to be, and shown if it is another.
            cap(engine, MAX_ENGINE_BYTES);
            if description.len() > MAX_DESCRIPTION_BYTES {
                return Err(format!("it described the module with {} bytes", description.len()));
            }
            let known = shape.features.features().fold(Profile::MINIMAL, Profile::with);
            if shape.features != known {
                return Err("it found features that do not exist".to_owned());
            }
            // The shape is kept, and decides who takes the module; this much of it is known here.
            shape.module_bytes = shape.module_bytes.max(module_bytes);
        }
    }
    Ok(compiled)
}

/// How far an initializer says to have come, with its texts capped, or what is wrong with it.
pub(crate) fn initialized(initialized: Initialized) -> Result<Initialized, String> {
    Ok(match initialized {
        Initialized::Rejected(mut reason) => {
            rejection(&mut reason);
            Initialized::Rejected(reason)
        }
        Initialized::Ended(ended) => match outcome(ended) {
            ended @ (Outcome::Failed { .. }
            | Outcome::Panicked { .. }
            | Outcome::Trapped { .. }
            | Outcome::Exited { .. }
            | Outcome::Rejected { .. }
            | Outcome::TimedOut { .. }
            | Outcome::LimitExceeded { .. }) => Initialized::Ended(ended),
            other => return Err(format!("an init function cannot end as it says: {other}")),
        },
        other => other,
    })
}

/// The outcome with its texts capped.
pub(crate) fn outcome(mut outcome: Outcome) -> Outcome {
    match &mut outcome {
        Outcome::Failed { message } | Outcome::ClosedWithError { message } | Outcome::CallbackFailed { message } => {
            cap(message, MAX_TEXT_BYTES);
        }
        Outcome::Panicked { message, location, backtrace } => {
            cap(message, MAX_TEXT_BYTES);
            location.iter_mut().for_each(|text| cap(text, MAX_NAME_BYTES));
            cap_all(backtrace);
        }
        Outcome::Trapped { backtrace, .. } => cap_all(backtrace),
        Outcome::Rejected { reason } => rejection(reason),
        // No texts, or none of the worker's: those that have are refused from a worker.
        _ => {}
    }
    outcome
}

/// Caps the texts of a rejection.
pub(crate) fn rejection(reason: &mut Rejection) {
    match reason {
        Rejection::InvalidModule { message }
        | Rejection::Instantiation { message }
        | Rejection::Compilation { message } => cap(message, MAX_TEXT_BYTES),
        Rejection::UnknownImport { import, hint } => {
            cap(import, MAX_NAME_BYTES);
            cap(hint, MAX_NAME_BYTES);
        }
        Rejection::AbiVersion { found, supported } => {
            cap(found, MAX_NAME_BYTES);
            cap(supported, MAX_NAME_BYTES);
        }
        Rejection::UnknownTask { name, available } => {
            cap(name, MAX_NAME_BYTES);
            cap_all(available);
        }
        Rejection::BadArguments { message, available } => {
            cap(message, MAX_TEXT_BYTES);
            cap_all(available);
        }
        Rejection::ModuleLimit { item, .. } => cap(item, MAX_NAME_BYTES),
        Rejection::Feature { feature, .. } => cap(feature, MAX_NAME_BYTES),
        Rejection::UnknownInit { name, available } => {
            cap(name, MAX_NAME_BYTES);
            cap_all(available);
        }
        Rejection::Snapshot { message } => cap(message, MAX_TEXT_BYTES),
        _ => {}
    }
}

/// Cuts a text, and gives back the memory of what was cut.
pub(crate) fn cap(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.shrink_to_fit();
    }
}

fn cap_all(names: &mut Vec<String>) {
    names.truncate(MAX_NAMES);
    names.shrink_to_fit();
    names.iter_mut().for_each(|name| cap(name, MAX_NAME_BYTES));
}
