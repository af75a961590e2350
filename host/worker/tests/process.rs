//! Real processes: this program starts itself as a worker and as a compiler, and plays their host.
#![expect(clippy::unwrap_used, reason = "the whole program is a test")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sandgate_wire::frame::FrameReader;
use sandgate_wire::grants::{ExecutionGrants, Grants};
use sandgate_wire::isolation::{Demand, Layer, Policy, Report};
use sandgate_wire::launch::{COMPILER_ARGUMENT, WORKER_ARGUMENT, current_executable_is_worker};
use sandgate_wire::message::{Codegen, Compile, Compiled, Encoded, Entry, Execute, HostHello};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket};
use sandgate_wire::{ChannelId, Limits, ModuleId, ModuleLimits, Outbox, Outcome, Profile, ToHost, ToWorker};
use sandgate_worker::exit_code;
use sha2::{Digest, Sha256};

#[path = "process/lockdown.rs"]
mod lockdown;
#[path = "process/native.rs"]
mod native;

/// The second argument of a worker that runs the native code that its gateway's id names.
const NATIVE_ARGUMENT: &str = "native";

const DEADLINE: Duration = Duration::from_secs(20);

const TALKATIVE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 10))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $stat (i32.const 1) (i32.const 64)))
        (drop (call $prestat (i32.const 3) (i32.const 64)))
        (drop (call $time (i32.const 0) (i64.const 0) (i32.const 64)))
        (drop (call $environ (i32.const 64) (i32.const 68)))
        (drop (call $random (i32.const 128) (i32.const 1000)))
        (memory.fill (i32.const 64) (i32.const 0) (i32.const 64))
        (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000))
        (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 8)))
        (drop (call $close (i32.const 1)))))"#;

const ENDLESS: &str = r#"(module (func (export "_start") (loop $again (br $again))))"#;

fn main() {
    if std::env::args().nth(2).as_deref() == Some(NATIVE_ARGUMENT) {
        let parent = std::os::unix::process::parent_id();
        sandgate_worker::testing::run_if_taken_over(|gateway| native::attack(gateway, parent));
    }
    sandgate_worker::run_if_worker();
    assert!(current_executable_is_worker());
    let tests: [(&str, fn()); 12] = [
        ("a worker process runs a guest", a_worker_runs_a_guest),
        ("no process outlives its connection", no_process_outlives_its_connection),
        ("strangers are refused", strangers_are_refused),
        ("a compiler process compiles", a_compiler_compiles),
        ("a compiler process refuses", a_compiler_refuses),
        ("a compiler process that is not locked in as it must be refuses", a_compiler_keeps_to_the_policy),
        ("native code is stopped", lockdown::attacks),
        ("native code is stopped in the second stage", lockdown::attacks_in_the_second_stage),
        ("each layer by itself", lockdown::each_layer_by_itself),
        ("what is reported is so", lockdown::what_is_reported_is_so),
        ("inherited descriptors are closed", lockdown::inherited_descriptors_are_closed),
        ("as an ordinary user", lockdown::as_an_ordinary_user),
    ];
    let trials = tests
        .map(|(name, test)| {
            Trial::test(name.replace(' ', "_"), move || {
                test();
                Ok(())
            })
        })
        .into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

struct Process {
    child: Child,
    outbox: Arc<Outbox>,
    reader: FrameReader,
    report: Option<Report>,
}

fn start(argument: &str) -> Process {
    start_with(&[argument], false)
}

#[expect(clippy::disallowed_methods, reason = "this program is its own host; every process is waited for")]
fn start_with(arguments: &[&str], has_environment: bool) -> Process {
    let (ours, theirs) = socket_pair().unwrap();
    let canary = has_environment.then_some(("CANARY", "a secret of the host's"));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env_clear()
        .envs(canary)
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, receive) = unix_socket(ours, Descriptors::Refuse);
    let outbox = Arc::new(Outbox::new(Box::new(send)));
    Process { child, outbox, reader: FrameReader::new(Box::new(receive)), report: None }
}

fn hello(policy: Policy) -> HostHello {
    HostHello {
        gateway: "test".to_owned(),
        host_pid: std::process::id(),
        max_executions: 4,
        nice: 1,
        grants: Grants::default(),
        policy,
        limits: Limits::default(),
        one_module: false,
    }
}

fn start_worker(host_pid: u32) -> Process {
    let mut process = start(WORKER_ARGUMENT);
    let hello = HostHello { host_pid, ..hello(Policy::default()) };
    if host_pid == std::process::id() {
        process.greet(&hello);
    } else {
        process.send(ToWorker::Hello(hello).encode());
    }
    process
}

impl Process {
    /// Says hello and waits for the answer.
    fn greet(&mut self, hello: &HostHello) {
        self.send(ToWorker::Hello(hello.clone()).encode());
        self.report = Some(self.next(lockdown::of_hello));
    }

    /// What the process said of its isolation.
    fn report(&self) -> &Report {
        self.report.as_ref().expect("it was greeted")
    }

    fn send(&self, message: Encoded) {
        self.outbox.push(message).unwrap();
    }

    fn next<R>(&mut self, pick: impl Fn(ToHost<'_>) -> Option<R>) -> R {
        loop {
            let frame = self.reader.read_frame().unwrap().expect("the process lives");
            if let Some(result) = pick(ToHost::decode(frame).unwrap()) {
                return result;
            }
        }
    }

    fn load(&self, text: &str) -> ModuleId {
        let wasm = wat::parse_str(text).unwrap();
        let artefact = sandgate_worker::compile(&wasm).unwrap().artefact;
        let file = memory_file(&artefact);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).unwrap();
        let module = digest(&wasm);
        let bytes = artefact.len() as u64;
        self.outbox
            .push_with_descriptors(
                ToWorker::Load { module, codegen: Codegen::default(), bytes }.encode(),
                vec![file.into()],
            )
            .unwrap();
        module
    }

    fn execute(&self, id: u64, module: ModuleId) {
        let execute = Execute {
            module,
            codegen: Codegen::default(),
            entry: Entry::Start,
            has_arguments: false,
            argv: Vec::new(),
            limits: Limits::default(),
            grants: ExecutionGrants::default(),
            stdin: false,
            patient: false,
        };
        self.send(ToWorker::Execute(ChannelId(id), execute).encode());
    }

    fn done(&mut self) -> Outcome {
        self.next(|message| match message {
            ToHost::Done(_, outcome) => Some(outcome),
            _ => None,
        })
    }

    /// The exit code, how long it took, and what stood on standard error.
    fn end(mut self, what: &str) -> (Option<i32>, Duration, String) {
        let start = Instant::now();
        let (status, text) = self.status(what);
        (status.code(), start.elapsed(), text)
    }

    fn status(&mut self, what: &str) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < DEADLINE, "waited for {what} to end");
            std::thread::yield_now();
        };
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        (status, text)
    }
}

fn digest(bytes: &[u8]) -> ModuleId {
    ModuleId(Sha256::digest(bytes).into())
}

fn memory_file(bytes: &[u8]) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("test", flags).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fn a_worker_runs_a_guest() {
    let mut process = start_worker(std::process::id());
    let module = process.load(TALKATIVE);
    for id in [1, 3] {
        process.execute(id, module);
        assert_eq!(process.done(), Outcome::Returned);
    }
    let directory = format!("/proc/{}", process.child.id());
    for descriptor in [0, 1] {
        // Only root can look into a worker.
        match fs::read_link(format!("{directory}/fd/{descriptor}")) {
            Ok(target) => assert_eq!(target.to_str(), Some("/dev/null")),
            Err(error) => assert!(!lockdown::is_root(), "{error}"),
        }
    }
    // An ordinary guest starts no thread of anybody else's. Its processor time has a limit by default, which the clock keeps.
    let threads: BTreeSet<String> = fs::read_dir(format!("{directory}/task"))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .collect();
    let program = fs::read_to_string(format!("{directory}/comm")).unwrap();
    for thread in threads {
        let ours = thread == program || ["writer\n", "clock\n"].contains(&&thread[..]) || thread.starts_with("exec-");
        assert!(ours, "unexpected thread {thread}");
    }
    process.send(ToWorker::Terminate { kill: false }.encode());
    let (code, _, text) = process.end("a worker that was asked to");
    assert_eq!((code, &text[..]), (Some(exit_code::DONE), ""));
}

fn no_process_outlives_its_connection() {
    let process = start_worker(std::process::id());
    let module = process.load(ENDLESS);
    for id in [1, 3, 5, 7, 9] {
        process.execute(id, module);
    }
    process.outbox.shutdown();
    let (code, took, text) = process.end("a worker without a host");
    assert_eq!((code, &text[..]), (Some(exit_code::DONE), ""));
    assert!(took < Duration::from_secs(1), "it took {took:?}");
}

fn strangers_are_refused() {
    let process = start_worker(1);
    let (code, _, text) = process.end("a worker of another host");
    assert_eq!(code, Some(exit_code::NO_HOST));
    assert!(text.contains("the host is process 1"), "{text}");
    let process = start(WORKER_ARGUMENT);
    process.send(ToWorker::Status.encode());
    let (code, _, text) = process.end("a worker without a hello");
    assert_eq!(code, Some(exit_code::NO_HOST));
    assert!(text.contains("hello"), "{text}");
    let process = start_worker(std::process::id());
    process.send(ToWorker::Open(ChannelId(2)).encode());
    let (code, _, text) = process.end("a worker whose host breaks the protocol");
    assert_eq!(code, Some(exit_code::PROTOCOL));
    assert!(text.contains("opened twice"), "{text}");
}

fn compile(wasm: &[u8], module: ModuleId) -> (Compiled, Vec<u8>) {
    let (mut process, artefact) = ask_compiler(wasm, module, Policy::default());
    let compiled = process.next(|message| match message {
        ToHost::Compiled(compiled) => Some(compiled),
        _ => None,
    });
    let (code, _, text) = process.end("a compiler that is done");
    assert_eq!((code, &text[..]), (Some(exit_code::DONE), ""));
    let mut bytes = vec![0; artefact.metadata().unwrap().len().try_into().unwrap()];
    artefact.read_exact_at(&mut bytes, 0).unwrap();
    (compiled, bytes)
}

fn ask_compiler(wasm: &[u8], module: ModuleId, policy: Policy) -> (Process, File) {
    ask(start(COMPILER_ARGUMENT), wasm, module, policy)
}

fn ask(process: Process, wasm: &[u8], module: ModuleId, policy: Policy) -> (Process, File) {
    let artefact = memory_file(b"");
    let request = Compile {
        module,
        bytes: wasm.len() as u64,
        codegen: Codegen::default(),
        limits: ModuleLimits::default(),
        profile: Profile::MINIMAL,
        policy,
    };
    let descriptors: Vec<OwnedFd> = vec![memory_file(wasm).into(), artefact.try_clone().unwrap().into()];
    process.outbox.push_with_descriptors(ToWorker::Compile(request).encode(), descriptors).unwrap();
    // The second descriptor needs a write of its own, which waits for the writer if there is no room.
    process.outbox.flush();
    (process, artefact)
}

fn a_compiler_keeps_to_the_policy() {
    // An environment that was not cleared is what a host can always provide.
    let wasm = wat::parse_str(TALKATIVE).unwrap();
    let policy = Policy::default().with(Layer::Descriptors, Demand::Require);
    let (process, artefact) = ask_compiler(&wasm, digest(&wasm), policy.clone());
    let (code, _, text) = process.end("a compiler");
    assert_eq!((code, &text[..]), (Some(exit_code::DONE), ""));
    assert!(artefact.metadata().unwrap().len() > 0);
    let (process, artefact) = ask(start_with(&[COMPILER_ARGUMENT], true), &wasm, digest(&wasm), policy);
    let (code, _, text) = process.end("a compiler with an environment");
    assert_eq!(code, Some(exit_code::SYSTEM), "{text}");
    assert!(text.contains("descriptors: partly enforced") && text.contains("`sandbox:descriptors=prefer`"), "{text}");
    assert_eq!(artefact.metadata().unwrap().len(), 0);
}

fn a_compiler_compiles() {
    let wasm = wat::parse_str(TALKATIVE).unwrap();
    let (compiled, artefact) = compile(&wasm, digest(&wasm));
    let here = sandgate_worker::compile(&wasm).unwrap();
    let (engine, shape, description) = (here.engine, here.shape, here.description);
    let bytes = here.artefact.len() as u64;
    assert_eq!(compiled, Compiled::Done { engine, bytes, shape, description });
    assert_eq!(artefact, here.artefact);
}

fn a_compiler_refuses() {
    let wasm = wat::parse_str(TALKATIVE).unwrap();
    for (module, id) in [(&wasm[..], ModuleId([0; 32])), (b"text", digest(b"text"))] {
        let (compiled, artefact) = compile(module, id);
        let rejected = matches!(compiled, Compiled::Rejected(Rejection::InvalidModule { .. }));
        assert!(rejected, "{compiled:?}");
        assert!(artefact.is_empty());
    }
}
