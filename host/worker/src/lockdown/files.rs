//! Step 11: Landlock, which takes away all paths but those of the guests' directories, all TCP ports, and signals and
//! abstract sockets beyond the process.
//!
//! Before ABI 8 it restricts the calling thread and what that starts, so it comes before the threads. It does not cover
//! UDP, nor asking whether a path exists: the namespaces and seccomp do.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use sandgate_wire::grants::Directory;
use sandgate_wire::isolation::State;

use super::because;

/// Everything this crate knows; what the kernel does not know is left out.
const NEWEST: ABI = ABI::V9;

type Refused = Box<dyn std::error::Error>;

pub(super) fn allow_only(directories: &[Directory]) -> State {
    match restrict(directories) {
        Ok(status) => state(&status, directories.len()),
        Err(error) => because("the rules were refused", error),
    }
}

fn restrict(directories: &[Directory]) -> Result<RestrictionStatus, Refused> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for directory in directories {
        let beneath = PathBeneath::new(PathFd::new(&directory.host)?, access(directory.writable));
        rules = rules.add_rule(beneath)?;
    }
    Ok(rules.restrict_self()?)
}

/// What guests do to files. Nobody executes anything, nor makes devices, sockets or pipes.
fn access(writable: bool) -> BitFlags<AccessFs> {
    let reading = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let writing = make_bitflags!(AccessFs::{
        WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSym | Refer
    });
    if writable { reading | writing } else { reading }
}

fn state(status: &RestrictionStatus, directories: usize) -> State {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
        LandlockStatus::NotEnabled => {
            return State::Missing("the kernel has it switched off (boot parameter `lsm=landlock,...`)".to_owned());
        }
        LandlockStatus::NotImplemented => {
            return State::Missing("the kernel has none: Linux 5.13 and later do".to_owned());
        }
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return State::Missing(format!("ABI {abi} enforces nothing of what was asked"));
    }
    let lacking = lacking(abi);
    let reachable = if directories == 0 { "no path".to_owned() } else { format!("{directories} directories") };
    if lacking.is_empty() {
        State::Enforced(format!("ABI {abi}: {reachable}, no TCP port, no signal or abstract socket beyond the process"))
    } else {
        State::Partial(format!("ABI {abi}: {reachable}; without {}", lacking.join(", ")))
    }
}

/// What an ABI does not have of what the layer is for.
fn lacking(abi: i32) -> Vec<&'static str> {
    let since = [
        (2, "moves between directories (Linux 5.19)"),
        (3, "truncation (Linux 6.2)"),
        (4, "TCP ports (Linux 6.7)"),
        (5, "requests to devices (Linux 6.10)"),
        (6, "signals and abstract sockets (Linux 6.12)"),
    ];
    since.into_iter().filter(|(first, _)| abi < *first).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        assert_eq!(lacking(1).len(), 5);
        assert_eq!(lacking(5), ["signals and abstract sockets (Linux 6.12)"]);
        assert!(lacking(7).is_empty());
    }

    #[test]
    fn a_directory_that_is_read_only_is_only_read() {
        assert!(!access(false).intersects(AccessFs::from_write(NEWEST)));
        let never = make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | MakeSock | MakeFifo | IoctlDev});
        assert!(!access(true).intersects(never));
    }
}
