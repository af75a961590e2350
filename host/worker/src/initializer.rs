//! Runs one module's init function and makes a new module of what it left. As a process of its own it reads one INITIALIZE,
//! answers it, and is done.
//!
//! 1. It locks itself in, with all threads that it will have. Nothing of the module was looked at before.
//! 2. The module is checked as a compiler checks it, instrumented ([`snapshot`](crate::snapshot)), compiled and loaded. From
//!    here on no memory becomes executable any more; the host hears of it, for its clock.
//! 3. An instance is made and the init function called, as an executor does with a task, under the limits of an execution.
//!    It has its input and its last word, and no channel.
//! 4. The snapshot is taken and written. It is a module like any other to the host, which trusts this process no more than
//!    one that has run a task.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use sandgate_abi::INIT_EXPORT_PREFIX;
use sandgate_wire::account::cost;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::isolation::Layer;
use sandgate_wire::limits::{LimitName, OUTPUT_WINDOW_BYTES};
use sandgate_wire::message::{Entry, Execute, Initialize, Initialized};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{ChannelId, Limits, Message, Outbox, Outcome, Side, ToHost, ToWorker};
use wasmtime::{Instance, Store};

use crate::clock;
use crate::compiler::{self, on_large_stack, tell_out_of_memory};
use crate::ending::{self, Exit};
use crate::engine::Engines;
use crate::execution::Execution;
use crate::executor::{self, Failure};
use crate::guest::Guest;
use crate::hub::Job;
use crate::modules::{self, LoadedModule};
use crate::process::Surroundings;
use crate::snapshot::Preparation;
use crate::worker::{Worker, WorkerError};
use crate::{hostcalls, imports};

/// The initializer process over the two halves of a transport.
pub(crate) fn run(
    send: Box<dyn SendHalf>,
    receive: Box<dyn ReceiveHalf>,
    surroundings: Option<&Surroundings>,
) -> Result<(), WorkerError> {
    let mut reader = FrameReader::new(receive);
    let request = match reader.read_frame()?.map(ToWorker::decode).transpose()? {
        Some(ToWorker::Initialize(request)) => request,
        _ => return Err(WorkerError::NoHello(None)),
    };
    let (Some(given), Some(out)) = (reader.take_descriptor(), reader.take_descriptor()) else {
        return Err(WorkerError::NoHello(None));
    };
    let engines = Engines::new(1, request.limits.stack_bytes);
    let engines = engines.map_err(|error| WorkerError::Engine(error.into()))?;
    let open = [given.as_raw_fd(), out.as_raw_fd()];
    let enclosure = surroundings.map(|it| it.enclose_initializer(&request, &open)).transpose()?;
    let worker = Worker::alone(engines, Arc::new(Outbox::new(send)), &request.limits);
    let outbox = Arc::clone(&worker.outbox);
    worker.spawn("writer", move || outbox.run_writer());
    clock::start(&worker);
    tell_out_of_memory(request.module_limits.compile_memory_bytes);
    let (sealed, is_sealed) = mpsc::channel();
    let worker_of_thread = Arc::clone(&worker);
    let initializing = on_large_stack(move || {
        let () = is_sealed.recv().ok()?;
        Some(answer(&worker_of_thread, &request, &File::from(given), &File::from(out)))
    })?;
    if let Some(enclosure) = enclosure
        && enclosure.seal_or_refuse()?.is_enforced(Layer::Seccomp)
    {
        worker.second_stage.arm();
    }
    let panicked = || WorkerError::System { what: "initialize", source: io::Error::other("it panicked") };
    sealed.send(()).map_err(|_| panicked())?;
    // A panic has ended the process before.
    let initialized = initializing.join().ok().flatten().ok_or_else(panicked)??;
    let _ = worker.outbox.push(ToHost::Initialized(initialized).encode());
    worker.outbox.flush();
    // The process exits next; nothing is joined or freed.
    worker.outbox.shutdown();
    Ok(())
}

fn answer(worker: &Arc<Worker>, request: &Initialize, given: &File, out: &File) -> Result<Initialized, WorkerError> {
    let system = |what| move |source| WorkerError::System { what, source };
    let module = compiler::read(given, request.module, request.bytes, request.input_bytes);
    let module = match module.map_err(system("read the module"))? {
        Ok(module) => module,
        Err(reason) => return Ok(Initialized::Rejected(reason)),
    };
    let input = read_input(given, request).map_err(system("read the input"))?;
    match initialize(worker, request, &module, input) {
        Ok(snapshot) => {
            out.write_all_at(&snapshot, 0).map_err(system("write the snapshot"))?;
            Ok(Initialized::Done { bytes: snapshot.len() as u64 })
        }
        Err(not) => Ok(not),
    }
}

fn read_input(given: &File, request: &Initialize) -> io::Result<Bytes> {
    let mut input = vec![0; usize::try_from(request.input_bytes).map_err(io::Error::other)?];
    given.read_exact_at(&mut input, request.bytes)?;
    Ok(input.into())
}

/// The snapshot, or what there is instead of it.
fn initialize(worker: &Arc<Worker>, request: &Initialize, module: &[u8], input: Bytes) -> Result<Vec<u8>, Initialized> {
    let preparation = Preparation::of(module, &request.init, &request.module_limits, request.profile);
    let preparation = preparation.map_err(Initialized::Rejected)?;
    let loaded = worker.second_stage.load(|| load(worker, request, &preparation)).map_err(Initialized::Rejected)?;
    let _ = worker.outbox.push(ToHost::Initialized(Initialized::Compiled).encode());
    worker.outbox.about_to_wait();
    let (mut store, instance) = run_init(worker, request, &loaded, input).map_err(Initialized::Ended)?;
    preparation.snapshot(&mut store, instance).map_err(Initialized::Rejected)
}

fn load(worker: &Worker, request: &Initialize, preparation: &Preparation<'_>) -> Result<LoadedModule, Rejection> {
    let serving = worker.engines.get(request.codegen);
    let refused = |error: &wasmtime::Error| compiler::failed(error, &request.module_limits);
    let mut linker = serving.linker.clone();
    hostcalls::refuse_channels(&mut linker).map_err(|error| refused(&error))?;
    let module = wasmtime::Module::new(&serving.engine, preparation.instrumented());
    let module = module.map_err(|error| refused(&error))?;
    let instance_pre = imports::link(&linker, &module)?;
    let tasks = modules::names(&module, INIT_EXPORT_PREFIX);
    let loaded = LoadedModule::new(instance_pre, tasks);
    if loaded.entry(&preparation.entry()).is_none() {
        let name = ending::capped(&request.init, modules::MAX_NAME_BYTES);
        return Err(Rejection::UnknownInit { name, available: loaded.tasks });
    }
    Ok(loaded)
}

/// Runs the init function to its end; an end that is no return is the error.
fn run_init(
    worker: &Arc<Worker>,
    request: &Initialize,
    loaded: &LoadedModule,
    input: Bytes,
) -> Result<(Store<Guest>, Instance), Outcome> {
    // What it prints is never waited for.
    let limits =
        Limits { output_bytes: request.limits.output_bytes.min(OUTPUT_WINDOW_BYTES), ..request.limits.clone() };
    let execution = Arc::new(Execution::new(ChannelId::first(Side::Host), limits.clone(), &Arc::default()));
    let exceeded = |limit| Outcome::LimitExceeded { limit, value: limits.value(limit) };
    if input.len() as u64 > limits.message_bytes {
        return Err(exceeded(LimitName::Message));
    }
    if !execution.account.arrived(cost(input.len() as u64)) {
        return Err(exceeded(LimitName::Memory));
    }
    worker.hub.lock().run_alone(&execution);
    let entry =
        loaded.entry(&format!("{INIT_EXPORT_PREFIX}{}", request.init)).expect("it was there when it was loaded");
    let execute = Arc::new(Execute {
        module: request.module,
        codegen: request.codegen,
        entry: Entry::Task(request.init.clone()),
        has_arguments: true,
        argv: vec![request.init.clone()],
        limits: limits.clone(),
        grants: request.grants.clone(),
        stdin: false,
        patient: false,
    });
    let arguments = Some(Message { bytes: input, channels: Vec::new() });
    let job = Job { execution: Arc::clone(&execution), execute, arguments };
    let now = Instant::now();
    let _deadline = clock::arm(worker, &execution, now);
    let engine = &worker.engines.get(request.codegen).engine;
    let mut store = Store::new(engine, Guest::new(Arc::clone(worker), job, now));
    let result = executor::call(&execution, request.codegen, loaded, entry, &mut store);
    let (result, instance) = match result {
        Ok(instance) => (Ok(()), Some(instance)),
        Err(failure) => (Err(failure), None),
    };
    let exited = matches!(&result, Err(Failure::Run(error)) if error.is::<Exit>());
    let outcome = ending::outcome(result, store.data_mut(), &loaded.tasks);
    let guest = store.data_mut();
    // A stop during the last flush loses output, not the outcome.
    let _ = guest.output.flush(worker, &execution);
    execution.set_finished();
    match (outcome, instance) {
        (Outcome::Returned, Some(instance)) => Ok((store, instance)),
        // It has said that it is done for, so there is nothing to go on from.
        (Outcome::Returned, None) if exited => Err(Outcome::Exited { code: 0 }),
        (outcome, _) => Err(outcome),
    }
}
