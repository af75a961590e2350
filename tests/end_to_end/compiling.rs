//! Modules that attack the compiler, the artefact cache, and a program that is as large as real ones are.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandgate::{Call, CompileError, ExecError, Group, Module, ModuleLimits, Outcome, Rejection, Spec, cache};
use sandgate_tests::{LIMIT, cpython, group, guest, wat, worker};

/// A group with a cache of its own.
fn cached(directory: &Path, spec: Spec) -> Group {
    let group = Group::builder().cache(Some(directory.to_owned())).build();
    group.make_gateway(spec.worker(worker())).unwrap();
    group
}

/// A valid module of `count` functions, each with many loops inside one another, which take Cranelift long.
fn bomb(count: usize) -> Module {
    let body = format!("{}{}", "(loop (br_if 0 (local.get 0)) ".repeat(100), ")".repeat(100));
    let function = format!("(func (param i32) {body})");
    wat(&format!("(module {} (func (export \"_start\")))", function.repeat(count)))
}

#[test]
fn scratch() {
    let func = |n: usize, locals: usize, body: &str| {
        let locals = if locals > 0 { format!("(local {})", "i32 ".repeat(locals)) } else { String::new() };
        let one = format!("(func (param i32) (result i32) {locals} {body})");
        wat(&format!("(module (memory 1) (table 1 funcref) {} (func (export \"_start\")))", one.repeat(n)))
    };
    let nest = |depth: usize, inner: &str| {
        format!("{}{}{}", "block (br_if 0 (local.get 0)) ".repeat(depth), inner, " end".repeat(depth))
    };
    let loops = |depth: usize, inner: &str| {
        format!("{}{}{}", "loop (br_if 0 (local.get 0)) ".repeat(depth), inner, " end".repeat(depth))
    };
    let cases: Vec<(&str, Module)> = vec![
        ("nested blocks 1MiB", func(1, 0, &format!("{} local.get 0", nest(4900, "").repeat(24)))),
        ("nested loops 1MiB", func(1, 0, &format!("{} local.get 0", loops(4900, "").repeat(24)))),
        ("add chain 1MiB", func(1, 0, &format!("local.get 0 {}", "local.get 0 i32.add ".repeat(345_000)))),
        ("deep expr", func(1, 0, &format!("{} {}", "local.get 0 ".repeat(340_000), "i32.add ".repeat(339_999)))),
        ("loads", func(1, 0, &format!("local.get 0 {}", "i32.load ".repeat(345_000)))),
        (
            "br_table",
            func(
                1,
                0,
                &format!(
                    "block {} end {} {} local.get 0",
                    "nop",
                    "block ".repeat(1),
                    format!("(br_table {} (local.get 0)) end", "0 ".repeat(990_000))
                ),
            ),
        ),
        (
            "br_table 100 depth",
            func(
                1,
                0,
                &format!(
                    "{} (br_table {} (local.get 0)) {} local.get 0",
                    "block ".repeat(4900),
                    (0..4900).cycle().take(500_000).map(|n| format!("{n} ")).collect::<String>(),
                    "end ".repeat(4900)
                ),
            ),
        ),
        (
            "locals in loops",
            func(
                1,
                9900,
                &format!(
                    "{} local.get 0",
                    loops(
                        4900,
                        &(0..9900)
                            .map(|n| format!(
                                "(local.set {} (i32.add (local.get {}) (local.get 0)))",
                                n + 1,
                                (n * 7919) % 9900 + 1
                            ))
                            .collect::<String>()
                    )
                ),
            ),
        ),
        ("div/rem traps", func(1, 0, &format!("local.get 0 {}", "local.get 0 i32.div_s ".repeat(345_000)))),
        ("calls", func(1, 0, &format!("local.get 0 {}", "call 0 ".repeat(300_000)))),
        (
            "fills",
            func(
                1,
                0,
                &format!("{} local.get 0", "(memory.fill (local.get 0) (local.get 0) (local.get 0))".repeat(24_000)),
            ),
        ),
        ("200k functions", func(199_000, 0, "local.get 0")),
        ("6000 x 9k locals", func(6000, 9_000, "local.get 0")),
    ];
    for (name, module) in cases {
        let directory = tempfile::tempdir().unwrap();
        let group = cached(directory.path(), Spec::popen());
        let start = Instant::now();
        let result = group[0].remote_exec(&module);
        eprintln!(
            "BOMB {name}: {} bytes, {:?}: {}",
            module.bytes().len(),
            start.elapsed(),
            match &result {
                Ok(_) => "ok".to_owned(),
                Err(e) => format!("{e}: {:?}", std::error::Error::source(e).map(ToString::to_string)),
            }
        );
    }
}

#[test]
fn a_whole_cpython_needs_no_flag() {
    let Some(path) = cpython() else { return };
    let directory = tempfile::tempdir().unwrap();
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let of_sink = std::sync::Arc::clone(&lines);
    let sink = sandgate::OutputSink::callback(move |line| of_sink.lock().unwrap().push(line.text));
    let group = Group::builder().cache(Some(directory.path().to_owned())).output(sink).build();
    group.make_gateway(Spec::popen().worker(worker())).unwrap();
    let module = Module::from_file(path).unwrap();
    let start = Instant::now();
    let call = Call::start().argv(["-I", "-S", "-c", "print(sum(range(10)))"]);
    let channel = group[0].remote_exec_with(&module, &call).unwrap();
    eprintln!("compiled in {:?}", start.elapsed());
    let outcome = channel.wait_close_timeout(LIMIT);
    eprintln!("ran in {:?}: {outcome:?} {:?}", start.elapsed(), lines.lock().unwrap());
    eprintln!("{:?}", cache::entries(directory.path()));
}
