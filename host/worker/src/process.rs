//! Everything that touches the process itself: which role it has, its descriptors, its parent, its end.
//!
//! 1. The connection is standard input, or begins with it. It moves to a descriptor above 2, and `/dev/null` takes its place and that of
//!    standard output; standard error stays, for the host keeps its last lines.
//! 2. The kernel is asked to kill this process when its parent ends, and the parent is compared with the host that the
//!    hello names, in case it ended before.
//! 3. What was inherited is given up, and what is not needed is locked away ([`lockdown`](crate::lockdown)).
//! 4. When the connection ends the process exits at once, whatever its threads are doing.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Signal, getppid, nice, set_parent_process_death_signal};
use rustix::stdio;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::isolation::{Policy, State};
use sandgate_wire::launch::{
    COMPILER_ARGUMENT, CONFINED_ARGUMENT, INITIALIZER_ARGUMENT, PRINT_SECCOMP_ARGUMENT, WORKER_ARGUMENT,
    register_current_executable,
};
use sandgate_wire::message::{Compile, HostHello, Initialize};
use sandgate_wire::ring::{Accepted, accept};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};

use crate::lockdown::{self, Budget, Enclosure, Inherited, Plan, Role};
use crate::quit::quit;
use crate::worker::{Worker, WorkerError};
use crate::{compiler, initializer, main_loop, self_test, worker};

/// Codes that a worker or compiler process exits with.
pub mod exit_code {
    /// The connection ended, or all that was asked for is done.
    pub const DONE: i32 = 0;
    /// The first message was not that of a host, or not of this process's parent.
    pub const NO_HOST: i32 = 2;
    /// The host broke the protocol.
    pub const PROTOCOL: i32 = 3;
    /// The system refused something that a worker cannot do without.
    pub const SYSTEM: i32 = 4;
    /// A bug in the worker; standard error has the panic.
    pub const BUG: i32 = 5;
    /// A compiler or an initializer was refused memory.
    pub const OUT_OF_MEMORY: i32 = 6;
}

/// Becomes a worker, a compiler or an initializer if this process was started to be one, and does not return then. Otherwise notes that
/// this executable can be a worker, and returns.
///
/// Call it first in `main`, before threads are started and before standard input is touched.
///
/// ```no_run
/// sandgate_worker::run_if_worker();
/// // The program itself follows.
/// ```
pub fn run_if_worker() {
    self_test::run_if_probe();
    let role = std::env::args_os().nth(1).unwrap_or_default();
    let result = if role == WORKER_ARGUMENT {
        let prints = std::env::args_os().nth(2).is_some_and(|argument| argument == PRINT_SECCOMP_ARGUMENT);
        if prints { print_seccomp() } else { serve() }
    } else if role == COMPILER_ARGUMENT {
        with_connection(compiler::run)
    } else if role == INITIALIZER_ARGUMENT {
        with_connection(initializer::run)
    } else {
        register_current_executable();
        return;
    };
    exit(result)
}

/// Ends the process with the code that says how it went.
pub(crate) fn exit(result: Result<(), WorkerError>) -> ! {
    let code = match result {
        Ok(()) => exit_code::DONE,
        Err(error) => {
            complain(&chain(&error));
            code(&error)
        }
    };
    quit(code)
}

/// Ends the process because of something that must not happen.
pub(crate) fn abort(message: &str) -> ! {
    complain(message);
    quit(exit_code::BUG);
}

fn serve() -> Result<(), WorkerError> {
    let (worker, reader) = start_worker()?;
    // The process exits next; nothing is joined or freed.
    main_loop::run(&worker, reader).map(drop)
}

/// The worker of this process, locked in, once it has said hello.
pub(crate) fn start_worker() -> Result<(Arc<Worker>, FrameReader), WorkerError> {
    end_on_panic();
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system("watch its parent"))?;
    let (send, receive, surroundings) = connection()?;
    worker::start(send, receive, Some(&surroundings))
}

/// A role over the two halves of a transport.
type Errand = fn(Box<dyn SendHalf>, Box<dyn ReceiveHalf>, Option<&Surroundings>) -> Result<(), WorkerError>;

/// Runs a role that does one thing.
fn with_connection(role: Errand) -> Result<(), WorkerError> {
    end_on_panic();
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system("watch its parent"))?;
    let (send, receive, surroundings) = connection()?;
    role(send, receive, Some(&surroundings))
}

/// The process around a worker, a compiler or an initializer.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The descriptors of its connection.
    connection: Vec<RawFd>,
    /// Whoever started it trusts the host with guests alone.
    is_confined: bool,
}

impl Surroundings {
    /// Looks whether the hello is from whoever started this process, takes its place among others, and closes what was
    /// inherited; what is opened afterwards stays. Returns what came of the last.
    pub(crate) fn greet(&self, hello: &HostHello) -> Result<State, WorkerError> {
        let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
        let host = hello.host_pid;
        if parent != host {
            return Err(WorkerError::NotOurHost { parent, host });
        }
        if self.is_confined && (!hello.grants.directories.is_empty() || hello.policy.leaves_out_any()) {
            return Err(WorkerError::Confined);
        }
        if hello.nice != 0 {
            nice(hello.nice).map_err(system("lower its priority"))?;
        }
        Ok(lockdown::close_inherited(&hello.policy, &self.connection))
    }

    /// Locks a worker in, which has one thread. `inherited` is what [`greet`](Self::greet) said.
    pub(crate) fn enclose(hello: &HostHello, inherited: State) -> Result<Enclosure, WorkerError> {
        let directories = &hello.grants.directories;
        lockdown::enclose(&Plan {
            role: Role::Worker { has_directories: !directories.is_empty(), one_module: hello.one_module },
            policy: &hello.policy,
            directories,
            inherited: Inherited::Closed(inherited),
            host_pid: Some(hello.host_pid),
            budget: Budget::of_worker(hello),
        })
    }

    /// Locks a compiler in. It has one thread, and `open` are the descriptors that came with its request.
    pub(crate) fn enclose_compiler(&self, request: &Compile, open: &[RawFd]) -> Result<Enclosure, WorkerError> {
        self.enclose_for(Role::Compiler, &request.policy, Budget::of_compiler(&request.limits), open)
    }

    /// Locks an initializer in, as [`enclose_compiler`](Self::enclose_compiler) does a compiler.
    pub(crate) fn enclose_initializer(&self, request: &Initialize, open: &[RawFd]) -> Result<Enclosure, WorkerError> {
        self.enclose_for(Role::Initializer, &request.policy, Budget::of_initializer(request), open)
    }

    fn enclose_for(
        &self,
        role: Role,
        policy: &Policy,
        budget: Budget,
        open: &[RawFd],
    ) -> Result<Enclosure, WorkerError> {
        let inherited = Inherited::Close(&[&self.connection, open].concat());
        lockdown::enclose(&Plan { role, policy, directories: &[], inherited, host_pid: None, budget })
    }
}

/// Both halves of the transport, and what else there is of it.
type Connection = (Box<dyn SendHalf>, Box<dyn ReceiveHalf>, Surroundings);

fn connection() -> Result<Connection, WorkerError> {
    let accepted = move_standard_input().and_then(accept);
    let Accepted { send, receive, descriptors } =
        accepted.map_err(|source| WorkerError::System { what: "take over its connection", source })?;
    Ok((send, receive, Surroundings { connection: descriptors, is_confined: is_confined() }))
}

fn is_confined() -> bool {
    std::env::args_os().nth(2).is_some_and(|argument| argument == CONFINED_ARGUMENT)
}

fn move_standard_input() -> io::Result<OwnedFd> {
    let socket = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    Ok(socket)
}

/// For whoever wants to know what a worker may do.
fn print_seccomp() -> Result<(), WorkerError> {
    let mut list = Vec::new();
    lockdown::print_calls(&mut list)
        .and_then(|()| io::stdout().write_all(&list))
        .and_then(|()| io::stdout().flush())
        .map_err(|source| WorkerError::System { what: "print its list", source })
}

/// A thread that is gone would leave others waiting for it.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        quit(exit_code::BUG);
    }));
}

fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> WorkerError {
    move |errno| WorkerError::System { what, source: errno.into() }
}

fn code(error: &WorkerError) -> i32 {
    match error {
        WorkerError::NoHello(_) | WorkerError::NotOurHost { .. } => exit_code::NO_HOST,
        WorkerError::Frame(_) | WorkerError::Decode(_) | WorkerError::Violation(_) => exit_code::PROTOCOL,
        WorkerError::Engine(_)
        | WorkerError::Directory(_)
        | WorkerError::System { .. }
        | WorkerError::Confined
        | WorkerError::BelowPolicy { .. } => exit_code::SYSTEM,
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[expect(clippy::print_stderr, reason = "standard error is how a worker reaches its host when its connection cannot")]
fn complain(message: &str) {
    eprintln!("sandgate worker: {message}");
}
