//! Step 12: of the kernel's calls only those of the list ([`super::calls`]), for all threads at once.
//!
//! A filter has one answer for what it matches and one for the rest, and of several filters the strictest answer counts. So
//! there is one that traps what is not on the list, and one for each kind of refusal.

use std::collections::BTreeMap;

use rustix::process::getpid;
use sandgate_wire::isolation::State;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use super::calls::{self, ARCHITECTURE, Answer, Bits, Condition, Entry, Test};
use super::{Role, because, violation};

/// A filter that was not put up.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    #[error("filter cannot be built")]
    Build(#[source] BackendError),
    #[error("filter cannot be put up: {0}")]
    Apply(seccompiler::Error),
}

pub(super) fn first_stage(role: Role) -> State {
    if let Err(error) = violation::report_before_death() {
        return because("SIGSYS has no handler", error);
    }
    let entries = calls::of(role);
    let refusals = [(Answer::NoSuchCall, libc::ENOSYS), (Answer::Denied, libc::EACCES)];
    let refusals = refusals.map(|(answer, errno)| {
        let refused = entries.iter().filter(|entry| entry.answer == answer);
        let errno = SeccompAction::Errno(errno.cast_unsigned());
        build(refused, SeccompAction::Allow, errno)
    });
    let list = build(entries.iter(), SeccompAction::Trap, SeccompAction::Allow);
    // The strictest last, for it forbids putting up filters.
    let put_up = refusals.into_iter().chain([list]).try_for_each(|filter| apply(&filter?));
    match put_up {
        Ok(()) => {
            let allowed = entries.iter().filter(|entry| entry.answer == Answer::Allowed).count();
            let refused = entries.len() - allowed;
            let after = match role {
                Role::Worker { one_module: true, .. } | Role::Initializer => "; fewer once its module is loaded",
                _ => "",
            };
            State::Enforced(format!("{allowed} rules for what is allowed, {refused} for what is refused{after}"))
        }
        Err(error) => because("system calls are not filtered", error),
    }
}

/// A filter that ends a process for what matches these.
pub(super) fn forbidding<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<BpfProgram, FilterError> {
    build(entries, SeccompAction::Allow, SeccompAction::Trap)
}

/// For all threads of the process.
pub(super) fn apply(filter: &BpfProgram) -> Result<(), FilterError> {
    apply_filter_all_threads(filter).map_err(FilterError::Apply)
}

fn build<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for entry in entries {
        let of_call = rules.entry(i64::from(entry.call.id())).or_default();
        // A call without rules matches whatever its arguments are.
        if !entry.when.is_empty() {
            let conditions = entry.when.iter().map(condition).collect::<Result<_, _>>().map_err(FilterError::Build)?;
            of_call.push(SeccompRule::new(conditions).map_err(FilterError::Build)?);
        }
    }
    let filter = SeccompFilter::new(rules, otherwise, matching, ARCHITECTURE).map_err(FilterError::Build)?;
    filter.try_into().map_err(FilterError::Build)
}

fn condition(condition: &Condition) -> Result<SeccompCondition, BackendError> {
    let length = match condition.bits {
        Bits::B32 => SeccompCmpArgLen::Dword,
        Bits::B64 => SeccompCmpArgLen::Qword,
    };
    let (operator, value) = match condition.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::IsNot(value) => (SeccompCmpOp::Ne, value),
        Test::Within(bits) => (SeccompCmpOp::MaskedEq(!bits), 0),
        Test::Masked(mask, value) => (SeccompCmpOp::MaskedEq(mask), value),
        Test::IsThisProcess => (SeccompCmpOp::Eq, u64::from(getpid().as_raw_nonzero().get().cast_unsigned())),
    };
    SeccompCondition::new(condition.argument, length, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_becomes_filters_that_the_kernel_has_room_for() {
        let worker = |has_directories, one_module| Role::Worker { has_directories, one_module };
        for role in [worker(false, false), worker(true, true), Role::Compiler, Role::Initializer] {
            let entries = calls::of(role);
            let filter = build(entries.iter(), SeccompAction::Trap, SeccompAction::Allow).unwrap();
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn no_call_is_refused_under_the_same_condition_as_it_is_allowed() {
        for role in [Role::Worker { has_directories: true, one_module: true }, Role::Compiler, Role::Initializer] {
            let entries = calls::of(role);
            for entry in entries.iter().filter(|entry| entry.answer != Answer::Allowed) {
                let others = entries.iter().filter(|other| other.call == entry.call && other.answer == Answer::Allowed);
                for other in others {
                    assert!(!other.when.is_empty() && !entry.when.is_empty(), "{entry} and {other}");
                }
            }
        }
    }
}
