//! Step 6: a user id that owns nothing, of which the process is the only one.
//!
//! After the namespaces, which take rights that this step gives away. Guests' directories are reached with the id that the
//! host has, so with directories it stays.

use rustix::process::{Gid, Uid, getgid, getpid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sandgate_wire::grants::Directory;
use sandgate_wire::isolation::State;

use super::capabilities::Rights;
use super::{because, rlimits};

/// Ids from here on belong to no user of any known system; the process id makes them unique on the machine.
const FIRST_ID: u32 = 0x6000_0000;
/// `nobody`, for containers in which so high ids do not exist.
const NOBODY: u32 = 65_534;

pub(super) fn become_nobody(rights: Rights, directories: &[Directory], threads: u64) -> State {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    if !directories.is_empty() {
        return State::Partial(format!("stays user {uid}, who can reach the directories that guests were given"));
    }
    if let Err(why) = rights.to_change_user() {
        return State::Missing(format!("stays user {uid}: {why}"));
    }
    let own = FIRST_ID + getpid().as_raw_nonzero().get().cast_unsigned() % FIRST_ID;
    // One thread so far, and the threads that follow inherit its ids.
    if let Err(error) = set_thread_groups(&[]) {
        return because("supplementary groups cannot be given up", error);
    }
    let Err(refused) = change(own) else {
        // Nobody else has this id, so what it may have is this process's alone.
        return match rlimits::limit_threads(threads) {
            Ok(()) => State::Enforced(format!("user and group {own}, of this process alone; {threads} threads")),
            Err(error) => State::Partial(format!("user and group {own}, without a limit of threads: {error}")),
        };
    };
    match change(NOBODY) {
        Ok(()) => State::Partial(format!("user and group {NOBODY}, which others may have too; {own}: {refused}")),
        Err(error) => because(&format!("stays user {uid} and group {gid}"), error),
    }
}

fn change(id: u32) -> rustix::io::Result<()> {
    // The group first: a change of user may take the right to change it.
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}
