//! Programs of the system that some tests run against: an OpenSSH server, what makes networks and makes them fail, a plain way
//! through a network, a NATS server, and what makes certificates for it. Without them those tests are left out, and say so.

use std::path::Path;

use crate::toolchain::{Apt, apt, apt_get};
use crate::workspace::Workspace;

/// What is needed, and the package that has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/sbin/tc", "iproute2"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/socat", "socat"),
    (NATS, "nats-server"),
    ("/usr/bin/openssl", "openssl"),
];
const NATS: &str = "/usr/sbin/nats-server";

/// Tell the tests that these programs have to be there, and where the last one is.
const SSHD_REQUIRED: &str = "SANDGATE_TEST_SSHD";
const NATS_REQUIRED: &str = "SANDGATE_TEST_NATS";

/// Installs what is missing, if this process is root's: in a container, on a machine for tests. Nobody else gets a server without
/// having asked for it. Returns the variables for the tests.
pub(crate) fn install(workspace: &Workspace) -> Vec<(&'static str, &'static str)> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        if !matches!(apt(&workspace.root), Apt::AsRoot) {
            eprintln!("==> tests with real servers: left out; to have them: apt-get install {}", missing.join(" "));
            return Vec::new();
        }
        let update = || apt_get("update the package lists", false, &workspace.root).arg("update").run_aside();
        let install = || -> anyhow::Result<()> {
            apt_get("install servers for tests", false, &workspace.root)
                .args(["install", "--yes", "--no-install-recommends"])
                .args(&missing)
                .run_aside()
        };
        if let Err(error) = update().and_then(|()| install()) {
            eprintln!("==> tests with real servers: left out, they cannot be installed: {error:#}");
            return Vec::new();
        }
    }
    vec![(SSHD_REQUIRED, "1"), (NATS_REQUIRED, NATS)]
}
