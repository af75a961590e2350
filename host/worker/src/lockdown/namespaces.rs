//! Step 4: a network without interfaces, IPC, a host name and mounts of its own, and a root directory with nothing in it.
//!
//! Root leaves the namespaces directly; everybody else first makes a user namespace, in which it has the rights to do so.
//! The empty root is what Landlock does not give: it does not keep anybody from asking whether a file exists. Guests'
//! directories are paths of the old root, so with directories it stays and Landlock alone is in front of it.
//!
//! Before the user id, since it takes rights; after everything that needs `/proc`.

use std::fs;
use std::io;

use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;
use sandgate_wire::isolation::State;

use super::capabilities::Rights;
use super::{because, sys};

const NAMESPACES: [(UnshareFlags, &str); 5] = [
    (UnshareFlags::NEWNET, "network"),
    (UnshareFlags::NEWIPC, "IPC"),
    (UnshareFlags::NEWUTS, "host name"),
    (UnshareFlags::NEWNS, "mounts"),
    (UnshareFlags::NEWCGROUP, "cgroup"),
];

pub(super) fn leave(rights: Rights, empty_root: bool) -> State {
    let (left, refused) = if rights.to_administer() { directly() } else { through_user_namespace() };
    if left.is_empty() {
        let hint = "root has them, or anybody where user namespaces are allowed (`user.max_user_namespaces`, AppArmor)";
        return because(
            &format!("no namespace of its own ({hint})"),
            refused.map_or(String::new(), |error| error.to_string()),
        );
    }
    let root = match (left.contains(&"mounts") && empty_root).then(empty_the_root) {
        None => None,
        Some(Ok(())) => Some("an empty root directory".to_owned()),
        Some(Err(error)) => {
            return State::Partial(format!("{}; but the root directory stays: {error}", left.join(", ")));
        }
    };
    let text = root.into_iter().fold(left.join(", "), |text, root| text + " and " + &root);
    match refused {
        None => State::Enforced(text),
        Some(error) => State::Partial(format!("{text}; the others: {error}")),
    }
}

fn directly() -> (Vec<&'static str>, Option<io::Error>) {
    let all = NAMESPACES.iter().fold(UnshareFlags::empty(), |all, (flag, _)| all | *flag);
    if sys::unshare(all).is_ok() {
        return (NAMESPACES.map(|(_, name)| name).to_vec(), None);
    }
    let mut refused = None;
    let mut left = Vec::new();
    for (flag, name) in NAMESPACES {
        match sys::unshare(flag) {
            Ok(()) => left.push(name),
            Err(error) => refused = Some(error),
        }
    }
    (left, refused)
}

fn through_user_namespace() -> (Vec<&'static str>, Option<io::Error>) {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let all = NAMESPACES.iter().fold(UnshareFlags::NEWUSER, |all, (flag, _)| all | *flag);
    if let Err(error) = sys::unshare(all) {
        return (Vec::new(), Some(error));
    }
    // Only itself is mapped, to itself, so that its own files stay its own. Groups are mapped only by who cannot change
    // them any more.
    let mapped = fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
        .and_then(|()| fs::write("/proc/self/setgroups", "deny"))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
    let mut left = vec!["user"];
    left.extend(NAMESPACES.map(|(_, name)| name));
    (left, mapped.err())
}

/// Puts an empty file system in the place of everything. The connection and other open descriptors are not affected.
fn empty_the_root() -> io::Result<()> {
    // Otherwise the mount would appear outside as well.
    sys::make_mounts_private()?;
    // Any directory will do that is there on every system and that nothing needs any more.
    sys::mount_nothing(c"/dev")?;
    rustix::process::chdir(c"/dev")?;
    sys::make_current_directory_the_root()?;
    Ok(rustix::process::chdir(c"/")?)
}
