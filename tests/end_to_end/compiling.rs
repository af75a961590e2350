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

/// A number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn sized(content: &[u8]) -> Vec<u8> {
    [&leb(content.len())[..], content].concat()
}

/// A module of `count` functions that take a number and return one, have `locals` and this code.
fn functions(count: usize, locals: usize, code: &[u8]) -> Module {
    let declared = if locals > 0 { [&[1][..], &leb(locals), &[0x7f]].concat() } else { vec![0] };
    let body = sized(&[&declared[..], code, &[0x0b]].concat());
    let section = |id: u8, content: Vec<u8>| [&[id][..], &sized(&content)].concat();
    let bytes = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, [leb(count), vec![0; count]].concat()),
        section(5, vec![1, 0, 1]),
        section(10, [leb(count), body.repeat(count)].concat()),
    ];
    Module::from_bytes(bytes.concat()).unwrap()
}

/// Blocks (2) or loops (3) inside one another, each with a branch, around some code.
fn nested(kind: u8, depth: usize, inner: &[u8]) -> Vec<u8> {
    [&[kind, 0x40, 0x20, 0, 0x0d, 0].repeat(depth)[..], inner, &[0x0b].repeat(depth)].concat()
}

#[test]
fn scratch() {
    let get = [0x20, 0];
    let end = |code: Vec<u8>| [&code[..], &get].concat();
    let adds = |n: usize| [&get[..], &[0x20, 0, 0x6a].repeat(n)].concat();
    let table = |depth: usize, count: usize| {
        let targets: Vec<u8> = (0..count).flat_map(|n| leb(n % depth)).collect();
        end([&[2, 0x40].repeat(depth)[..], &get, &[0x0e], &leb(count), &targets, &[0], &[0x0b].repeat(depth)].concat())
    };
    let spill: Vec<u8> = (0..9000_usize)
        .flat_map(|n| [&[0x20][..], &leb(1 + n * 7919 % 9000), &get, &[0x6a, 0x21], &leb(1 + n)].concat())
        .collect();
    let cases: Vec<(&str, Module)> = vec![
        ("blocks", functions(1, 0, &end(nested(2, 4900, &[]).repeat(30)))),
        ("loops", functions(1, 0, &end(nested(3, 4900, &[]).repeat(30)))),
        ("flat ifs", functions(1, 0, &end([0x20, 0, 0x04, 0x40, 0x20, 0, 0x21, 0, 0x0b].repeat(110_000)))),
        ("add chain", functions(1, 0, &adds(345_000))),
        ("deep expr", functions(1, 0, &[get.repeat(345_000), vec![0x6a; 344_999]].concat())),
        ("loads", functions(1, 0, &[&get[..], &[0x28, 0, 0].repeat(345_000)].concat())),
        ("stores", functions(1, 0, &end([0x20, 0, 0x20, 0, 0x36, 0, 0].repeat(149_000)))),
        ("br_table same", functions(1, 0, &table(1, 990_000))),
        ("br_table all", functions(1, 0, &table(4900, 480_000))),
        ("locals in loops", functions(1, 9_000, &end(nested(3, 4900, &spill)))),
        ("locals in loops x8", functions(1, 9_000, &end(nested(3, 4900, &spill.repeat(8))))),
        ("div", functions(1, 0, &[&get[..], &[0x20, 0, 0x6d].repeat(345_000)].concat())),
        ("calls", functions(1, 0, &[&get[..], &[0x10, 0].repeat(250_000)].concat())),
        ("fills", functions(1, 0, &end([0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 0x0b, 0].repeat(25_000)))),
        ("200k functions", functions(199_000, 0, &get)),
        ("6000 x 9k locals", functions(6000, 9_000, &get)),
        ("64 of add chain", functions(60, 0, &adds(345_000))),
        ("60 of locals", functions(60, 9_000, &end(nested(3, 4900, &spill.repeat(8))))),
    ];
    for (name, module) in cases {
        let directory = tempfile::tempdir().unwrap();
        let group = cached(directory.path(), Spec::popen());
        let start = Instant::now();
        let result = group[0].remote_exec(&module);
        let said = match &result {
            Ok(_) => "ok".to_owned(),
            Err(ExecError::Rejected { reason, .. }) => reason.to_string(),
            Err(other) => format!("{other:?}"),
        };
        let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = usage.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
        eprintln!(
            "BOMB {name}: {} bytes, {:?} (children cpu {} ticks): {}",
            module.bytes().len(),
            start.elapsed(),
            fields[13],
            &said[..said.len().min(300)]
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
