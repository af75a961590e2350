//! Steps 5 and 7: no capability is left, and none can be had again.
//!
//! The bounding set and the secure bits need CAP_SETPCAP, so they go before the user id does. The sets themselves go last,
//! after the last step that needs one. In a user namespace of its own an ordinary user's process has all capabilities
//! over it, which go the same way.

use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
};
use sandgate_wire::isolation::State;

use super::because;

/// What the process may do at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    held: CapabilitySet,
}

impl Rights {
    pub(super) fn now() -> Rights {
        Rights { held: capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective) }
    }

    /// Namespaces can be left without a user namespace.
    pub(super) fn to_administer(self) -> bool {
        self.held.contains(CapabilitySet::SYS_ADMIN)
    }

    /// The user can be changed, and whoever has the same rights (the host) can still end the process then.
    pub(super) fn to_change_user(self) -> Result<(), &'static str> {
        let needed = [
            (CapabilitySet::SETUID, "only root can give it a user id of its own"),
            (CapabilitySet::SETGID, "only root can give it a group id of its own"),
            (CapabilitySet::KILL, "a host without CAP_KILL could not end a process of another user"),
        ];
        needed.into_iter().find(|(needed, _)| !self.held.contains(*needed)).map_or(Ok(()), |(_, why)| Err(why))
    }
}

/// What became of the capabilities that could be had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bounding {
    Emptied,
    Kept,
}

/// The secure bits that make a user id of 0 mean nothing, each locked.
const SECURE_BITS: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// Step 5.
pub(super) fn empty_bounding_set() -> Bounding {
    let mut kept = false;
    // One by one, as the kernel takes them. It says INVAL to the first number it does not know.
    for number in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else { continue };
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(_) => {
                kept = true;
                break;
            }
        }
    }
    kept |= set_capabilities_secure_bits(SECURE_BITS).is_err();
    if kept { Bounding::Kept } else { Bounding::Emptied }
}

/// Step 7.
pub(super) fn give_up(bounding: Bounding) -> State {
    // The kernel clears the ambient set with the others; an old one that has none says INVAL.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let found = set_capabilities(None, nothing).and_then(|()| capabilities(None));
    match (found, bounding) {
        (Ok(sets), _) if sets != nothing => State::Missing("the kernel took the request and forgot it".to_owned()),
        (Ok(_), Bounding::Emptied) => {
            State::Enforced("all sets are empty, the bounding set too; bits locked".to_owned())
        }
        (Ok(_), Bounding::Kept) => State::Partial(
            "all sets are empty but the bounding set, which only root or a user namespace can empty".to_owned(),
        ),
        (Err(error), _) => because("capabilities cannot be given up", error),
    }
}
