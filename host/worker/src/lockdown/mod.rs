//! The process locks itself in: what the operating system is asked to keep from a worker, a compiler or an initializer, step
//! by step.
//!
//! ```text
//!  one thread   1 descriptors    only ours are left                  before anything can use another one
//!               2 rlimits        memory, files, no core dump         lowering them needs no right
//!               3 oom-score      the first victim                    needs /proc, and to be dumpable
//!               4 namespaces     no network, no files                needs rights that 6 gives away
//!               5 bounding set   no capability can come back         needs CAP_SETPCAP, which 6 may give away
//!               6 user           an id that owns nothing             needs CAP_SETUID
//!               7 capabilities   none are left                       the last step that needs any is done
//!               8 no-new-privs   no program gives rights             9 and 10 need it
//!               9 parent-death   ends with its host                  the kernel forgets it at 6
//!              10 undumpable     nobody attaches to it               the kernel resets it at 6
//!              11 landlock       no path, port or signal             restricts the calling thread and its children
//!  threads      12 seccomp       only the calls of the list          all threads at once; nothing before would pass it
//!  later        13 second stage  no new native code, no new thread   once the only module is loaded
//! ```
//!
//! Nothing here reads what a guest wrote: steps 1 to 12 are done before the process says hello. A layer that cannot be had
//! is reported, not fatal; the host decides (a compiler or initializer, which has no hello, decides itself).

mod calls;
mod capabilities;
mod descriptors;
mod files;
mod namespaces;
mod oom_score;
mod parent;
mod privileges;
mod rlimits;
mod seccomp;
mod second_stage;
mod sys;
mod user;
mod violation;

use std::os::fd::RawFd;

use sandgate_wire::grants::Directory;
use sandgate_wire::isolation::{Demand, Layer, Policy, Report, State};

pub(crate) use calls::print as print_calls;
pub(crate) use rlimits::Budget;
pub(crate) use second_stage::SecondStage;

use crate::worker::WorkerError;

/// Which process this is, by which the list of its system calls goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs guests.
    Worker {
        /// Guests were given directories.
        has_directories: bool,
        /// Another filter follows when the first module is loaded.
        one_module: bool,
    },
    /// Compiles one module.
    Compiler,
    /// Compiles one module, runs its init function and takes a snapshot. Another filter follows when it is loaded.
    Initializer,
}

/// Descriptors that were open when the process started.
#[derive(Debug)]
pub(crate) enum Inherited<'a> {
    /// Only these are kept, beside 0, 1 and 2.
    Close(&'a [RawFd]),
    /// It was done before, by [`close_inherited`].
    Closed(State),
}

/// What a process is to be locked into.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) role: Role,
    pub(crate) policy: &'a Policy,
    /// The only directories that stay reachable.
    pub(crate) directories: &'a [Directory],
    /// Step 1, or what came of it.
    pub(crate) inherited: Inherited<'a>,
    /// The process that must still be the parent at the end, if it is known.
    pub(crate) host_pid: Option<u32>,
    pub(crate) budget: Budget,
}

/// A process around which all walls stand but the last, which the threads that it still has to start would not get past.
#[derive(Debug)]
pub(crate) struct Enclosure {
    role: Role,
    policy: Policy,
    report: Report,
}

/// Step 1 by itself, for a process that opens something for its guests before the others. Nothing is open yet but what was
/// inherited and the descriptors in `keep`.
pub(crate) fn close_inherited(policy: &Policy, keep: &[RawFd]) -> State {
    match policy.demand(Layer::Descriptors) {
        Demand::Off => State::Off,
        Demand::Require | Demand::Prefer => descriptors::close_others(keep),
    }
}

/// Steps 1 to 11. The process has one thread.
///
/// # Errors
/// When the host is gone. What the system refuses is in the report.
pub(crate) fn enclose(plan: &Plan<'_>) -> Result<Enclosure, WorkerError> {
    // rustix asks the kernel for what it was started with once, whenever it first needs it, by a call that 12 forbids.
    let _ = rustix::param::page_size();
    let demand = |layer| plan.policy.demand(layer);
    let mut report = Report::default();
    let mut put_up = |layer, wall: &mut dyn FnMut() -> State| {
        let state = if demand(layer) == Demand::Off { State::Off } else { wall() };
        report.layers.push((layer, state));
    };
    put_up(Layer::Descriptors, &mut || match &plan.inherited {
        Inherited::Close(keep) => descriptors::close_others(keep),
        Inherited::Closed(state) => state.clone(),
    });
    put_up(Layer::ResourceLimits, &mut || rlimits::set(&plan.budget));
    put_up(Layer::OomScore, &mut oom_score::be_the_first_victim);
    // Before a user id of its own: another user's process could be out of the host's reach.
    let rights = capabilities::Rights::now();
    put_up(Layer::Namespaces, &mut || namespaces::leave(rights, plan.directories.is_empty()));
    let mut bounding = capabilities::Bounding::Kept;
    if demand(Layer::Capabilities) != Demand::Off {
        bounding = capabilities::empty_bounding_set();
    }
    put_up(Layer::User, &mut || user::become_nobody(rights, plan.directories, plan.budget.threads));
    put_up(Layer::Capabilities, &mut || capabilities::give_up(bounding));
    put_up(Layer::NoNewPrivileges, &mut privileges::renounce);
    put_up(Layer::ParentDeath, &mut parent::follow);
    put_up(Layer::Undumpable, &mut privileges::hide);
    put_up(Layer::Landlock, &mut || files::allow_only(plan.directories));
    if demand(Layer::ParentDeath) == Demand::Off {
        parent::unfollow();
    }
    // Whatever was put up, a worker without its host is of no use.
    if let Some(host) = plan.host_pid {
        parent::check(host)?;
    }
    Ok(Enclosure { role: plan.role, policy: plan.policy.clone(), report })
}

impl Enclosure {
    /// Step 12, for all threads that there are. Afterwards the process can say hello.
    pub(crate) fn seal(mut self) -> Report {
        let state = match self.policy.demand(Layer::Seccomp) {
            Demand::Off => State::Off,
            Demand::Require | Demand::Prefer => seccomp::first_stage(self.role),
        };
        self.report.layers.push((Layer::Seccomp, state));
        if self.policy.demand(Layer::NoNewPrivileges) == Demand::Off {
            privileges::correct(&mut self.report);
        }
        self.report.layers.sort_by_key(|(layer, _)| *layer);
        self.report
    }
}

impl Enclosure {
    /// Step 12, for a process that says no hello and so has to judge for itself.
    ///
    /// # Errors
    /// That a layer is required and not wholly in force.
    pub(crate) fn seal_or_refuse(self) -> Result<Report, WorkerError> {
        let policy = self.policy.clone();
        let report = self.seal();
        let missing = report.below(&policy).into_iter().map(|layer| match report.state(layer) {
            Some(state) => format!("{layer}: {state} (`sandbox:{layer}=prefer` goes on without)"),
            None => format!("{layer}: nothing is known"),
        });
        let missing: Vec<String> = missing.collect();
        if missing.is_empty() { Ok(report) } else { Err(WorkerError::BelowPolicy { missing }) }
    }
}

/// What the system said, as an end of a sentence.
fn because(what: &str, error: impl std::fmt::Display) -> State {
    State::Missing(format!("{what}: {error}"))
}
