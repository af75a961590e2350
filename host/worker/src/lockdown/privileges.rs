//! Steps 8 and 10: no program gives this process rights, and nobody looks into it.
//!
//! `no_new_privs` needs no right and cannot be taken back. It comes before Landlock and seccomp, which demand it of whoever
//! has no capability. Being undumpable is reset by a change of credentials, so it comes after the user id.

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{no_new_privs, set_no_new_privs};
use sandgate_wire::isolation::{Layer, Report, State};

use super::because;

pub(super) fn renounce() -> State {
    match set_no_new_privs(true).and_then(|()| no_new_privs()) {
        Ok(true) => State::Enforced("set for good".to_owned()),
        Ok(false) => State::Missing("the kernel took the request and forgot it".to_owned()),
        Err(error) => because("`no_new_privs` cannot be set", error),
    }
}

/// Landlock and seccomp bring `no_new_privs` along, asked for or not; the report says what is.
pub(super) fn correct(report: &mut Report) {
    // Not asked of the kernel: behind seccomp that would be a forbidden call.
    let brought_along = report.is_enforced(Layer::Landlock) || report.is_enforced(Layer::Seccomp);
    if brought_along
        && let Some((_, state)) = report.layers.iter_mut().find(|(layer, _)| *layer == Layer::NoNewPrivileges)
    {
        *state = State::Enforced("not asked for; landlock and seccomp bring it along".to_owned());
    }
}

pub(super) fn hide() -> State {
    match set_dumpable_behavior(DumpableBehavior::NotDumpable).and_then(|()| dumpable_behavior()) {
        Ok(DumpableBehavior::NotDumpable) => State::Enforced("no debugger, no core dump, `/proc` is root's".to_owned()),
        Ok(_) => State::Missing("the kernel took the request and forgot it".to_owned()),
        Err(error) => because("the process stays dumpable", error),
    }
}
