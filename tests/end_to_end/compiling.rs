//! Modules that attack the compiler, the artefact cache, and a program that is as large as real ones are.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandgate::{
    Call, Channel, CompileError, ExecError, Gateway, Group, Module, ModuleLimitName, ModuleLimits, OutputSink,
    Rejection, Spec, cache,
};
use sandgate_tests::{LIMIT, required, wat, worker};

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

/// A module that takes Cranelift many seconds: functions of half a megabyte, each within the limits.
fn bomb(number: u8) -> Module {
    let blocks = nested(2, 900, &[0x41, number, 0x1a]).repeat(80);
    functions(10, 0, &[&blocks[..], &[0x20, 0]].concat())
}

/// Why a module was refused.
#[track_caller]
fn rejection(result: Result<Channel, ExecError>) -> Rejection {
    match result {
        Err(ExecError::Rejected { reason, .. }) => reason,
        other => panic!("not rejected: {other:?}"),
    }
}

fn limits(set: impl FnOnce(&mut ModuleLimits)) -> Spec {
    let mut limits = ModuleLimits::default();
    set(&mut limits);
    Spec::popen().with_module_limits(limits)
}

#[test]
fn a_compile_bomb_costs_what_it_may_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let time = Duration::from_millis(700);
    let group = cached(directory.path(), limits(|limits| limits.compile_time = time));
    std::thread::scope(|scope| {
        let start = Instant::now();
        let bombed = scope.spawn(|| rejection(group[0].remote_exec(&bomb(1))));
        // Another module is compiled meanwhile.
        let module = wat("(module (func (export \"_start\")))");
        group[0].remote_exec(&module).unwrap().wait_close_timeout(LIMIT).unwrap();
        let reason = bombed.join().unwrap();
        assert!(start.elapsed() < time + Duration::from_secs(10), "{:?}", start.elapsed());
        let Rejection::ModuleLimit { limit: ModuleLimitName::CompileTime, value: 700, .. } = reason else {
            panic!("{reason:?}")
        };
        assert!(reason.to_string().contains("compile-time="), "{reason}");
    });
    let group = cached(directory.path(), limits(|limits| limits.compile_memory_bytes = 160 << 20));
    let reason = rejection(group[0].remote_exec(&bomb(2)));
    let Rejection::ModuleLimit { limit: ModuleLimitName::CompileMemory, value, .. } = reason else {
        panic!("{reason:?}")
    };
    assert_eq!(value, 160 << 20);
    assert!(reason.to_string().contains("compile-memory="), "{reason}");
    let entries = cache::entries(directory.path()).unwrap();
    assert_eq!(entries.len(), 1, "nothing of the bombs is kept: {entries:?}");
}

#[test]
fn a_caller_waits_no_longer_than_it_wants() {
    let directory = tempfile::tempdir().unwrap();
    let group = cached(directory.path(), Spec::popen());
    let call = Call::start().compile_timeout(Duration::from_millis(300));
    match group[0].remote_exec_with(&bomb(3), &call) {
        Err(ExecError::Compile { source: CompileError::Timeout(timeout), .. }) => {
            assert_eq!(timeout, Duration::from_millis(300));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_and_profiles_hold_for_what_is_compiled_already() {
    let directory = tempfile::tempdir().unwrap();
    let module = wat("(module (func (param v128)) (func (export \"_start\")))");
    let simd = Spec::popen().profile("simd".parse().unwrap());
    let run = |spec: Spec| cached(directory.path(), spec)[0].remote_exec(&module);
    run(simd.clone()).unwrap();
    for _ in 0..2 {
        let reason = rejection(run(Spec::popen()));
        assert!(
            matches!(&reason, Rejection::Feature { feature, offered: true, .. } if feature == "simd"),
            "{reason:?}"
        );
    }
    let narrow = ModuleLimits { functions: 1, ..ModuleLimits::default() };
    let call = Call::start().module_limits(narrow.clone());
    let by_call = cached(directory.path(), simd.clone())[0].remote_exec_with(&module, &call);
    for reason in [by_call, run(simd.with_module_limits(narrow))].map(rejection) {
        let expected = (ModuleLimitName::Functions, 2, 1);
        assert!(
            matches!(reason, Rejection::ModuleLimit { limit, found, value, .. } if (limit, found, value) == expected),
            "{reason:?}"
        );
    }
    assert_eq!(cache::entries(directory.path()).unwrap().len(), 1);
}

/// Each limit of modules is set on the group, the gateway and the call; met, it names itself, its value and its setting.
#[test]
fn limits_of_modules_are_set_in_three_places_and_say_so() {
    use ModuleLimitName as Name;
    let small = || wat(r#"(module (func (export "_start") (local i32 i32) (block (block (block)))) (func) (func))"#);
    let jumps = || wat(r#"(module (func (export "_start") (block (br_table 0 0 0 0 (i32.const 0)))))"#);
    let ms = Duration::from_millis;
    type Case = (&'static str, ModuleLimits, Name, u64, Module);
    let with = |set: fn(&mut ModuleLimits)| {
        let mut limits = ModuleLimits::default();
        set(&mut limits);
        limits
    };
    let cases: [Case; 9] = [
        ("module=20", with(|it| it.module_bytes = 20), Name::ModuleBytes, 20, small()),
        ("functions=2", with(|it| it.functions = 2), Name::Functions, 2, small()),
        ("function=5", with(|it| it.function_bytes = 5), Name::FunctionBytes, 5, small()),
        ("locals=1", with(|it| it.locals = 1), Name::Locals, 1, small()),
        ("nesting=2", with(|it| it.nesting = 2), Name::Nesting, 2, small()),
        ("jumps=3", with(|it| it.jump_targets = 3), Name::JumpTargets, 3, jumps()),
        ("items=1", with(|it| it.items = 1), Name::Items, 1, small()),
        (
            "compile-time=300ms",
            ModuleLimits { compile_time: ms(300), ..ModuleLimits::default() },
            Name::CompileTime,
            300,
            bomb(4),
        ),
        (
            "compile-memory=160M",
            with(|it| it.compile_memory_bytes = 160 << 20),
            Name::CompileMemory,
            160 << 20,
            bomb(5),
        ),
    ];
    for (setting, limits, name, value, module) in cases {
        let own: Spec = format!("popen//{setting}").parse().unwrap();
        in_each_place(&own, &limits, |place, _, gateway, call| {
            let reason = rejection(gateway.remote_exec_with(&module, call));
            let text = reason.to_string();
            let Rejection::ModuleLimit { limit, value: told, .. } = reason else {
                panic!("{setting} of {place}: {text}")
            };
            assert_eq!((limit, told), (name, value), "{setting} of {place}");
            for part in [&name.to_string(), &value.to_string(), name.setting()] {
                assert!(text.contains(part), "{setting} of {place}: {text} lacks {part}");
            }
        });
    }
}

/// Hands on a gateway and a call with limits that were set on the group, on the gateway, and for the call, each time with a
/// cache of its own.
fn in_each_place(own: &Spec, limits: &ModuleLimits, check: impl Fn(&str, &Path, &Gateway, &Call)) {
    for (place, of_group, of_gateway, of_call) in [
        ("the group", own.clone(), Spec::popen(), None),
        ("the gateway", Spec::popen(), own.clone(), None),
        ("the call", Spec::popen(), Spec::popen(), Some(limits.clone())),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let group = Group::builder().cache(Some(directory.path().to_owned())).defaults(of_group).build();
        let gateway = group.make_gateway(of_gateway.worker(worker())).unwrap();
        let call = of_call.into_iter().fold(Call::start(), Call::module_limits);
        check(place, directory.path(), &gateway, &call);
    }
}

/// The cache has no moment at which somebody is told: it stays within its limit, wherever that is set.
#[test]
fn the_limit_of_the_cache_is_set_in_three_places() {
    let bound = 64 << 10;
    let own: Spec = format!("popen//cache={bound}").parse().unwrap();
    let limits = ModuleLimits { cache_bytes: bound, ..ModuleLimits::default() };
    in_each_place(&own, &limits, |place, cache_directory, gateway, call| {
        for number in 0..12 {
            let module = wat(&format!("(module (func (export \"_start\")) (func (export \"f{number}\")))"));
            gateway.remote_exec_with(&module, call).unwrap();
        }
        let kept = cache::entries(cache_directory).unwrap();
        let bytes = kept.iter().map(|entry| entry.bytes).sum::<u64>();
        assert!(bytes <= bound && !kept.is_empty() && kept.len() < 12, "{place}: {bytes} bytes, {kept:?}");
    });
}

#[test]
fn one_module_is_compiled_once_and_many_stay_within_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let bound = 256 << 10;
    let group = Group::builder().cache(Some(directory.path().to_owned())).build();
    let spec: Spec = format!("popen//cache={bound}").parse().unwrap();
    group.make_gateway(spec.worker(worker())).unwrap();
    let module = wat("(module (func (export \"_start\")))");
    for _ in 0..10_000 {
        group[0].remote_exec(&module).unwrap();
    }
    let first = cache::entries(directory.path()).unwrap();
    assert_eq!(first.len(), 1);
    // A compiler for each of the corpus's 10,000 would take minutes; the library's own test puts as many keys into a cache.
    let distinct = std::env::var("SANDGATE_DISTINCT_MODULES").ok();
    let distinct = distinct.map_or(60, |number| number.parse().expect("SANDGATE_DISTINCT_MODULES is a number"));
    for number in 0..distinct {
        group[0]
            .remote_exec(&wat(&format!("(module (func (export \"_start\")) (func (export \"f{number}\")))")))
            .unwrap();
    }
    let kept = cache::entries(directory.path()).unwrap();
    assert!(kept.iter().map(|entry| entry.bytes).sum::<u64>() <= bound && kept.len() > 5, "{kept:?}");
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, kept.len(), "no locks are left");
}

#[test]
fn an_artefact_that_was_tampered_with_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let module = wat("(module (func (export \"_start\")))");
    let path = |entry: &cache::Entry| directory.path().join(&entry.key).with_extension("artefact");
    let compile = || {
        // A store is shared by groups of one directory, so the directory is named in another way each time.
        static NAMES: AtomicUsize = AtomicUsize::new(0);
        let name = directory.path().file_name().unwrap();
        let again = (0..NAMES.fetch_add(1, Ordering::Relaxed))
            .fold(directory.path().to_owned(), |path, _| path.join("..").join(name));
        let group = cached(&again, Spec::popen());
        group[0].remote_exec(&module).unwrap().wait_close_timeout(LIMIT).unwrap();
        let entries = cache::entries(directory.path()).unwrap();
        std::fs::read(path(&entries[0])).unwrap()
    };
    let good = compile();
    let entries = cache::entries(directory.path()).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for tampered in [&bad[..], &good[..good.len() / 2], b"", b"\x7fELF"] {
        std::fs::write(path(&entries[0]), tampered).unwrap();
        assert!(compile() == good, "{} bytes were believed", tampered.len());
    }
}

#[test]
fn a_whole_cpython_needs_no_flag() {
    let Some(path) = required("CPYTHON") else { return };
    let directory = tempfile::tempdir().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let of_sink = Arc::clone(&lines);
    let sink = OutputSink::callback(move |line| of_sink.lock().unwrap().push(line.text));
    let group = Group::builder().cache(Some(directory.path().to_owned())).output(sink).build();
    group.make_gateway(Spec::popen().worker(worker())).unwrap();
    let module = Module::from_file(path).unwrap();
    let call = Call::start().argv(["-I", "-S", "-c", "print(sum(range(10)))"]);
    group[0].remote_exec_with(&module, &call).unwrap().wait_close_timeout(LIMIT).unwrap();
    assert_eq!(*lines.lock().unwrap(), ["45"]);
}
