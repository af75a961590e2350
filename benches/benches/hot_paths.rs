//! Microbenchmarks of the hot paths, by criterion: `cargo bench -p sandgate-benches`.
//!
//! The paths without a process are those whose instructions are counted. Beside them stand a fresh instance from a worker's
//! engine, and a message to a guest and back within this process.

#[path = "support/in_memory.rs"]
mod in_memory;

#[path = "../src/hot.rs"]
mod hot;

use criterion::{Criterion, criterion_group, criterion_main};
use sandgate_worker::testing::worker_engine;
use wasmtime::{Linker, Module, Store};

fn paths(criterion: &mut Criterion) {
    for path in hot::PATHS {
        criterion.bench_function(&format!("{}: {}", path.name, path.what), |bencher| {
            let mut body = (path.make)();
            bencher.iter(&mut body);
        });
    }
}

fn instance(criterion: &mut Criterion) {
    let engine = worker_engine(1).expect("an engine");
    let text =
        r#"(module (memory (export "memory") 17) (data (i32.const 1048576) "some data") (func (export "_start")))"#;
    let module = Module::new(&engine, wat::parse_str(text).expect("the text of a module")).expect("a module");
    let instance_pre = Linker::new(&engine).instantiate_pre(&module).expect("no imports");
    criterion.bench_function("instance", |bencher| {
        bencher.iter(|| {
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let instance = instance_pre.instantiate(&mut store).expect("room for one");
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("a start");
            start.call(&mut store, ()).expect("it does nothing");
        });
    });
}

fn echo(criterion: &mut Criterion) {
    let mut guest = in_memory::Echo::start();
    for size in [16, 64 << 10] {
        criterion.bench_function(&format!("echo-in-memory-{size}"), |bencher| {
            bencher.iter(|| assert_eq!(guest.echo(size), size));
        });
    }
    guest.end();
}

criterion_group!(all, paths, instance, echo);
criterion_main!(all);
