//! What native code in a worker does that is locked in for real, with nothing but the standard library. The raw system calls,
//! one by one, are in the worker's own tests.

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, getppid, kill_process};

/// What the names of gateways begin with whose worker attacks.
pub(crate) const PREFIX: &str = "native-";

/// Does what the id says. One that comes back says what came of it: `worked` or `refused`.
#[expect(clippy::disallowed_methods, reason = "it must not work")]
pub(crate) fn attack(id: &str) {
    let says = |worked: bool| eprintln!("{}", if worked { "worked" } else { "refused" });
    match id.strip_prefix(PREFIX).unwrap_or_default() {
        "does-nothing" => {}
        "opens-a-file" => says(fs::read("/etc/passwd").is_ok()),
        "opens-its-own-memory" => says(fs::File::options().write(true).open("/proc/self/mem").is_ok()),
        "lists-a-directory" => says(fs::read_dir("/").is_ok()),
        "makes-a-file" => says(fs::write(Path::new("/tmp/sandgate-was-here"), "x").is_ok()),
        "connects" => says(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], 1))).is_ok()),
        "sends-a-datagram" => says(UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).is_ok()),
        "executes" => says(Command::new("/bin/true").spawn().is_ok()),
        "signals-its-parent" => says(getppid().is_some_and(|parent| kill_process(parent, Signal::URG).is_ok())),
        other => eprintln!("no attack is called `{other}`"),
    }
}
