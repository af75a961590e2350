//! The engine without sandgate around it: what it does alone, in threads of this process. The engine is as a worker makes it,
//! with the same compiler settings and the same pool, so that what differs is sandgate.
#![expect(unsafe_code, reason = "loading what was compiled before is what one of the questions is about")]

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};
use sandgate_worker::testing::worker_engine;
use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_sync};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

/// A module without imports, ready to be instantiated.
pub(crate) struct Tasks {
    engine: Engine,
    instance_pre: InstancePre<()>,
}

impl Tasks {
    /// Compiles a module, for so many instances at once.
    pub(crate) fn compile(wasm: &[u8], instances: usize) -> Result<Tasks> {
        let engine = worker_engine(instances)?;
        let module = Module::new(&engine, wasm)?;
        let instance_pre = Linker::new(&engine).instantiate_pre(&module)?;
        Ok(Tasks { engine, instance_pre })
    }

    /// Runs `_start` so often in all, each time in a fresh instance, on so many threads: times a second. The clock starts
    /// when all threads are there.
    pub(crate) fn per_second(&self, threads: usize, count: u32) -> Result<f64> {
        let (next, barrier) = (AtomicU32::new(0), Barrier::new(threads + 1));
        let work = || -> Result<()> {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                self.run()?;
            }
            Ok(())
        };
        let seconds = std::thread::scope(|scope| -> Result<f64> {
            let spawn = || {
                std::thread::Builder::new().name("bare".to_owned()).spawn_scoped(scope, || {
                    barrier.wait();
                    work()
                })
            };
            let threads: Vec<_> = (0..threads).map(|_| spawn().expect("room for a thread")).collect();
            barrier.wait();
            let start = Instant::now();
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            }
            Ok(start.elapsed().as_secs_f64())
        })?;
        Ok(f64::from(count) / seconds)
    }

    fn run(&self) -> Result<()> {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1);
        let instance = self.instance_pre.instantiate(&mut store)?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())?;
        Ok(())
    }
}

/// A program that was compiled into a file.
pub(crate) struct Program<'a> {
    engine: Engine,
    compiled: &'a Path,
}

impl<'a> Program<'a> {
    /// Compiles a module of the file `wasm` into the file `compiled`, unless that is there already.
    pub(crate) fn compile(wasm: &Path, compiled: &'a Path) -> Result<Program<'a>> {
        let engine = worker_engine(1)?;
        if !compiled.exists() {
            std::fs::write(compiled, engine.precompile_module(&std::fs::read(wasm)?)?)?;
        }
        Ok(Program { engine, compiled })
    }

    /// Deserialises it and runs it with these arguments: what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        // SAFETY: `deserialize_file` asks that the file is what wasmtime made, and that it does not change while it is mapped.
        // `compile` wrote it, into a directory that this process has made for itself and nobody else writes to.
        let module = unsafe { Module::deserialize_file(&self.engine, self.compiled) }?;
        let mut linker: Linker<WasiP1Ctx> = Linker::new(&self.engine);
        add_to_linker_sync(&mut linker, |wasi| wasi)?;
        let printed = MemoryOutputPipe::new(1 << 20);
        let wasi = WasiCtxBuilder::new().args(arguments).stdout(printed.clone()).build_p1();
        let mut store = Store::new(&self.engine, wasi);
        store.set_epoch_deadline(1);
        let instance = linker.instantiate(&mut store, &module)?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())?;
        drop(store);
        Ok(printed.contents().to_vec())
    }
}
