//! What shows that a wall stands: for each layer of the lock-down, something that must still work behind it and something
//! that must not. `sandgate doctor` runs each probe in a process of its own, with that layer alone, so that no other layer
//! answers for it.
//!
//! 1. The probe gets ready what it will try, while nothing is locked.
//! 2. The process locks itself in, by the one layer. If the layer is not wholly in force, it says so and ends.
//! 3. It tries, and its exit code says what came of it; a probe that the kernel ends has none.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{DumpableBehavior, Signal, dumpable_behavior, parent_process_death_signal};
use rustix::thread::no_new_privs;
use sandgate_wire::grants::Grants;
use sandgate_wire::isolation::{Demand, Layer, Policy, State};
use sandgate_wire::message::HostHello;
use sandgate_wire::{Limits, ModuleLimits};

use crate::lockdown::{self, Budget, Inherited, Plan, Role};
use crate::quit::quit;

/// The first argument of a process that is a probe; the layer, the probe's position among [`PROBES`] and its own argument
/// follow.
pub const ARGUMENT: &str = "__sandgate-probe";

/// Codes that a probe exits with.
pub mod exit_code {
    /// What was tried worked.
    pub const WORKED: i32 = 0;
    /// The system refused it.
    pub const REFUSED: i32 = 1;
    /// The layer is not in force; standard output says why.
    pub const NOT_IN_FORCE: i32 = 2;
    /// The probe could not be run; standard output says why.
    pub const BROKEN: i32 = 3;
}

/// What must come of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It works as ever.
    Works,
    /// The system says no.
    Refused,
    /// The kernel ends the process.
    Dies,
}

/// What a probe needs of whoever starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The path of a file that only its caller may read.
    PrivateFile,
    /// The address of a TCP socket that listens on this machine.
    Listener,
}

/// One thing to try.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The layer that is alone in force.
    pub layer: Layer,
    /// What is tried.
    pub name: &'static str,
    /// What must come of it.
    pub expected: Expected,
    /// Its argument.
    pub needs: Needs,
    role: Role,
    prepare: fn(&str) -> io::Result<Attempt>,
}

type Attempt = Box<dyn FnOnce() -> io::Result<()>>;

const WORKER: Role = Role::Worker { has_directories: false, one_module: false };

const fn probe(
    layer: Layer,
    expected: Expected,
    name: &'static str,
    needs: Needs,
    prepare: fn(&str) -> io::Result<Attempt>,
) -> Probe {
    Probe { layer, name, expected, needs, role: WORKER, prepare }
}

/// All probes, in the order of the layers.
pub const PROBES: [Probe; 21] = {
    use Expected::{Dies, Refused, Works};
    use Needs::{Listener, Nothing, PrivateFile};
    [
        probe(Layer::Descriptors, Works, "write to standard output", Nothing, |_| now(|| io::stdout().flush())),
        probe(Layer::Descriptors, Refused, "use a descriptor that was open before", Nothing, inherited_descriptor),
        probe(Layer::ResourceLimits, Works, "take 16 MiB", Nothing, |_| now(|| take(16 << 20))),
        probe(Layer::ResourceLimits, Refused, "take 4 GiB, as a worker for 64 MiB", Nothing, |_| now(|| take(4 << 30))),
        probe(Layer::ParentDeath, Works, "be ended with the host", Nothing, |_| now(follows_its_parent)),
        probe(Layer::OomScore, Works, "be the first victim", Nothing, |_| now(is_first_victim)),
        probe(Layer::Namespaces, Works, "use a pair of sockets", Nothing, |_| now(|| UnixStream::pair().map(drop))),
        probe(Layer::Namespaces, Refused, "connect to a port of this machine", Listener, connect),
        probe(Layer::User, Works, "open `/dev/null`", Nothing, |_| now(|| File::open("/dev/null").map(drop))),
        probe(Layer::User, Refused, "open a private file of the host's user", PrivateFile, open),
        probe(Layer::Capabilities, Works, "start a thread", Nothing, |_| now(start_thread)),
        probe(Layer::Capabilities, Refused, "change the root directory", Nothing, |_| now(change_root)),
        probe(Layer::NoNewPrivileges, Works, "be without new privileges", Nothing, |_| now(has_no_new_privileges)),
        probe(Layer::Undumpable, Works, "be hidden from debuggers", Nothing, |_| now(is_undumpable)),
        probe(Layer::Landlock, Works, "make a file in memory", Nothing, |_| now(make_memory_file)),
        probe(Layer::Landlock, Refused, "open a file", PrivateFile, open),
        probe(Layer::Landlock, Refused, "listen on a TCP port", Nothing, |_| now(listen)),
        probe(Layer::Seccomp, Works, "start a thread, take memory and read the clock", Nothing, ordinary_work),
        probe(Layer::Seccomp, Dies, "make a socket", Nothing, |_| now(make_socket)),
        Probe {
            role: Role::Compiler,
            ..probe(Layer::Seccomp, Dies, "make a socket, as a compiler", Nothing, |_| now(make_socket))
        },
        Probe {
            role: Role::Initializer,
            ..probe(Layer::Seccomp, Dies, "make a socket, as an initializer", Nothing, |_| now(make_socket))
        },
    ]
};

/// Becomes a probe if this process was started to be one, and does not return then.
pub(crate) fn run_if_probe() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return;
    }
    let number = arguments.next().and_then(|number| number.parse::<usize>().ok());
    let probe = number.and_then(|number| PROBES.get(number));
    let (code, text) = match probe {
        None => (exit_code::BROKEN, "there is no such probe".to_owned()),
        Some(probe) => match run(probe, &arguments.next().unwrap_or_default()) {
            Ok(Ok(())) => (exit_code::WORKED, String::new()),
            Ok(Err(refused)) => (exit_code::REFUSED, refused.to_string()),
            Err(Failure::NotInForce(state)) => (exit_code::NOT_IN_FORCE, state),
            Err(Failure::Broken(why)) => (exit_code::BROKEN, why),
        },
    };
    // Whoever reads this has the exit code, too.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    quit(code)
}

enum Failure {
    NotInForce(String),
    Broken(String),
}

impl Failure {
    fn broken(error: &dyn Error) -> Failure {
        Failure::Broken(error.to_string())
    }
}

fn run(probe: &Probe, argument: &str) -> Result<io::Result<()>, Failure> {
    let attempt = (probe.prepare)(argument).map_err(|error| Failure::broken(&error))?;
    let budget = match probe.role {
        Role::Compiler => Budget::of_compiler(&ModuleLimits::default()),
        Role::Worker { .. } | Role::Initializer => Budget::of_worker(&hello()),
    };
    let plan = Plan {
        role: probe.role,
        policy: &policy(probe.layer),
        directories: &[],
        inherited: Inherited::Close(&[]),
        host_pid: None,
        budget,
    };
    let report = lockdown::enclose(&plan).map_err(|error| Failure::broken(&error))?.seal();
    match report.state(probe.layer) {
        Some(State::Enforced(_)) => Ok(attempt()),
        Some(state) => Err(Failure::NotInForce(state.to_string())),
        None => Err(Failure::NotInForce("nothing is known of it".to_owned())),
    }
}

/// The layer alone, with what it cannot be had without.
fn policy(layer: Layer) -> Policy {
    let alone = Policy::all(Demand::Off).with(layer, Demand::Require);
    match layer {
        // An ordinary user has rights to give up in a user namespace only.
        Layer::Capabilities => alone.with(Layer::Namespaces, Demand::Prefer),
        _ => alone,
    }
}

fn hello() -> HostHello {
    HostHello {
        gateway: "self-test".to_owned(),
        host_pid: 0,
        max_executions: 1,
        nice: 0,
        grants: Grants::default(),
        policy: Policy::default(),
        limits: Limits { memory_bytes: 64 << 20, ..Limits::default() },
        one_module: false,
    }
}

// ---- what is tried ----

#[expect(clippy::unnecessary_wraps, reason = "all probes are prepared alike, and some can fail")]
fn now(attempt: fn() -> io::Result<()>) -> io::Result<Attempt> {
    Ok(Box::new(attempt))
}

fn verify(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other("it is not so")) }
}

fn inherited_descriptor(_: &str) -> io::Result<Attempt> {
    let mut file = File::options().write(true).open("/dev/null")?;
    Ok(Box::new(move || {
        let written = file.write_all(b"x");
        // Its descriptor is not its own any more, so it must not close it.
        std::mem::forget(file);
        written
    }))
}

fn take(bytes: usize) -> io::Result<()> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(bytes).map_err(io::Error::other)?;
    memory.resize(bytes, 1);
    verify(memory.iter().step_by(4096).all(|byte| *byte == 1))
}

fn follows_its_parent() -> io::Result<()> {
    verify(parent_process_death_signal()? == Some(Signal::KILL))
}

fn is_first_victim() -> io::Result<()> {
    verify(std::fs::read_to_string("/proc/self/oom_score_adj")?.trim() == "1000")
}

fn connect(address: &str) -> io::Result<Attempt> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    Ok(Box::new(move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop)))
}

fn open(path: &str) -> io::Result<Attempt> {
    let path = path.to_owned();
    File::open(&path)?;
    Ok(Box::new(move || File::open(path).map(drop)))
}

fn start_thread() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(|| 1)?;
    verify(thread.join().is_ok_and(|one| one == 1))
}

fn change_root() -> io::Result<()> {
    Ok(rustix::process::chroot("/")?)
}

fn has_no_new_privileges() -> io::Result<()> {
    verify(no_new_privs()?)
}

fn is_undumpable() -> io::Result<()> {
    verify(dumpable_behavior()? == DumpableBehavior::NotDumpable)
}

fn make_memory_file() -> io::Result<()> {
    Ok(rustix::fs::memfd_create("self-test", MemfdFlags::CLOEXEC).map(drop)?)
}

fn listen() -> io::Result<()> {
    TcpListener::bind(("127.0.0.1", 0)).map(drop)
}

fn ordinary_work(_: &str) -> io::Result<Attempt> {
    // As in a worker: with its first thread the C library makes calls that it never makes again.
    start_thread()?;
    now(|| {
        start_thread()?;
        take(1 << 20)?;
        verify(std::time::SystemTime::now() > std::time::SystemTime::UNIX_EPOCH)
    })
}

fn make_socket() -> io::Result<()> {
    Ok(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_probe_and_they_stand_in_order() {
        assert!(PROBES.is_sorted_by_key(|probe| probe.layer));
        for layer in Layer::ALL {
            assert!(PROBES.iter().any(|probe| probe.layer == layer), "{layer}");
        }
    }
}
