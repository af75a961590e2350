//! Modules that are pre-initialised: what is in the snapshot, what is not, and that it is kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::InitEnd;
use sandgate::schema::ItemKind;
use sandgate::{Call, Group, Init, InitError, LimitName, Module, Outcome, OutputSink, Rejection, Spec};
use sandgate_tests::{LIMIT, builder, cache_dir, group, module, popen, spec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// With the tests' own worker and cache.
pub(crate) fn init(name: &str) -> Init {
    Init::new(name).spec(popen()).cache(Some(cache_dir())).output(OutputSink::Discard)
}

/// As [`init`], with an input.
pub(crate) fn init_with<T: Serialize>(name: &str, input: &T) -> Init {
    init(name).input(input).unwrap()
}

/// A module of text.
pub(crate) fn wat(text: &str) -> Module {
    Module::from_bytes(wat::parse_str(text).unwrap()).unwrap()
}

fn loaded() -> Module {
    module("warm").preinitialize_with(&init_with("load", &("one two three", 1_u32))).unwrap()
}

fn ask<T: DeserializeOwned>(group: &Group, module: &Module, task: &str, arguments: &impl Serialize) -> T {
    let channel = group[0].remote_exec_fn(module, task, arguments).unwrap();
    let answer = channel.receive_timeout(LIMIT).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
    answer
}

#[test]
fn every_fresh_instance_begins_where_the_init_function_left_off() {
    let group = group(&["popen"]);
    let (cold, warm) = (module("warm"), loaded());
    assert!(!ask::<bool>(&group, &cold, "has", &("two",)));
    assert!(ask::<bool>(&group, &warm, "has", &("two",)));
    assert!(!ask::<bool>(&group, &warm, "has", &("four",)));
    for _ in 0..3 {
        assert_eq!(ask::<u32>(&group, &warm, "runs", &()), 1, "nothing is left of another execution");
        let channel = group[0].remote_exec(&warm).unwrap();
        assert_eq!(channel.receive_timeout::<(u64, u32)>(LIMIT).unwrap(), (3, 1), "`main` runs in a snapshot");
        channel.wait_close_timeout(LIMIT).unwrap();
    }
    let panicked = group[0].remote_exec_fn(&warm, "panics", &()).unwrap().wait_close_timeout(LIMIT).unwrap_err();
    assert!(panicked.to_string().contains("boom after init"), "{panicked}");
    assert_ne!(warm.id(), cold.id());
    assert!(warm.name().ends_with("warm.wasm after load"), "{}", warm.name());
}

#[test]
fn a_snapshot_describes_itself_as_its_module_did() {
    let group = group(&["popen"]);
    let (cold, warm) = (module("warm"), loaded());
    let (cold, warm) = (group.describe(&cold).unwrap(), group.describe(&warm).unwrap());
    assert_eq!((&warm.tasks, &warm.imports, &warm.trouble), (&cold.tasks, &cold.imports, &None));
    let inits = |of: &[sandgate::schema::TaskSchema]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(inits(&cold.inits), ["by_chance()", "ends(how: InitEnd)", "load(text: string, least: u32)"]);
    assert_eq!(inits(&warm.inits), ["by_chance()", "ends(how: InitEnd)"], "it was run");
    assert_eq!(cold.init("load").unwrap().help, "Loads the words of a text.\n\nThey are sorted.");
    let functions = |of: &sandgate::schema::ModuleDescription| -> Vec<String> {
        let functions = of.exports.iter().filter(|export| export.kind == ItemKind::Function);
        functions.map(|export| export.name.clone()).collect()
    };
    let mut expected = functions(&cold);
    expected.retain(|name| name != "sandgate_init:load" && name != "_start");
    expected.iter_mut().filter(|name| *name == "sandgate_start:load").for_each(|name| *name = "_start".to_owned());
    assert_eq!(functions(&warm), expected);
    // Nobody describes what is not exported: a task of the same name would be another matter.
    assert!(warm.init("load").is_none() && warm.task("load").is_none());
}

#[test]
fn a_second_init_function_goes_on_from_the_first() {
    let group = group(&["popen"]);
    let both = loaded().preinitialize_with(&init("by_chance")).unwrap();
    assert!(ask::<bool>(&group, &both, "has", &("two",)));
    assert!(ask::<Option<(u64, u64)>>(&group, &both, "chance", &()).is_some());
    let again = loaded().preinitialize_with(&init_with("load", &("x", 0_u32)));
    assert!(matches!(again, Err(InitError::Rejected { reason: Rejection::UnknownInit { .. }, .. })), "{again:?}");
}

#[test]
fn equal_input_gives_equal_snapshots_and_chance_is_the_same_in_all_instances() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let take = |cache: &Path, spec: Spec| {
        let init = init("by_chance").cache(Some(cache.to_owned())).spec(spec);
        module("warm").preinitialize_with(&init).unwrap()
    };
    let (first, second) = (take(one.path(), popen()), take(other.path(), popen()));
    assert_eq!(first.id(), second.id(), "taken twice, of the same");
    let group = group(&["popen"]);
    let chance = |module: &Module| ask::<Option<(u64, u64)>>(&group, module, "chance", &()).unwrap();
    let (number, time) = chance(&first);
    assert!(time < 1000, "the clock stands still: {time}");
    assert_eq!(chance(&first), (number, time));
    assert_eq!(ask::<u64>(&group, &first, "drawn", &()), ask::<u64>(&group, &first, "drawn", &()));
    let other = take(one.path(), popen().random(sandgate::Random::Seeded(7)));
    assert_ne!(chance(&other).0, number);
    let real = popen().random(sandgate::Random::System).clock(sandgate::Clock::Coarse(Duration::from_millis(1)));
    let (drawn, now) = chance(&take(one.path(), real));
    assert!(drawn != number && now > 1_600_000_000_000_000_000, "{drawn} {now}");
    let refused = init("by_chance").spec(popen().random(sandgate::Random::Off));
    let ended = module("warm").preinitialize_with(&refused).unwrap_err();
    let has_panicked =
        matches!(&ended, InitError::Ended { outcome, .. } if matches!(**outcome, Outcome::Panicked { .. }));
    assert!(has_panicked, "{ended}");
}

#[test]
fn a_snapshot_is_kept_for_its_module_function_input_settings_and_tenant_alone() {
    let cache = tempfile::tempdir().unwrap();
    let files = || {
        let named = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path();
        let files = std::fs::read_dir(cache.path()).unwrap().map(named);
        files.filter(|path| path.extension().is_some_and(|it| it == "artefact")).count()
    };
    let at = |init: Init| init.cache(Some(cache.path().to_owned()));
    let warm = module("warm");
    let first = warm.preinitialize_with(&at(init_with("load", &("a b", 1_u32)))).unwrap();
    assert_eq!(files(), 1);
    let again = warm.preinitialize_with(&at(init_with("load", &("a b", 1_u32)))).unwrap();
    assert_eq!((again.id(), files()), (first.id(), 1));
    let others = [
        init_with("load", &("a c", 1_u32)),
        init("by_chance"),
        init_with("load", &("a b", 1_u32)).spec(popen().memory(64 << 20)),
        init_with("load", &("a b", 1_u32)).spec(popen().deterministic(1)),
    ];
    for (at_least, other) in (2..).zip(others) {
        warm.preinitialize_with(&at(other)).unwrap();
        assert_eq!(files(), at_least);
    }
    // What the policy says is no part of what comes of it.
    let loose = popen().sandbox(sandgate::isolation::Demand::Prefer);
    warm.preinitialize_with(&at(init_with("load", &("a b", 1_u32)).spec(loose))).unwrap();
    assert_eq!(files(), 5);
    for (at_least, tenant) in (6..).zip(["a", "b"]) {
        let group = builder().cache(Some(cache.path().to_owned())).tenant(tenant).build();
        let theirs = group.preinitialize(&warm, &init_with("load", &("a b", 1_u32))).unwrap();
        assert_eq!((theirs.id(), files()), (first.id(), at_least));
    }
}

#[test]
fn one_that_is_there_is_read_and_no_process_started() {
    let cache = tempfile::tempdir().unwrap();
    let at = |init: Init| init.cache(Some(cache.path().to_owned()));
    let first = module("warm").preinitialize_with(&at(init_with("load", &("a b", 1_u32)))).unwrap();
    // A worker that there is not: whoever starts one fails. Another process would find it on disk, as this directory's store
    // does under its second name.
    let nobody = || init_with("load", &("a b", 1_u32)).spec(Spec::popen().worker("/nonexistent/worker"));
    assert_eq!(module("warm").preinitialize_with(&at(nobody())).unwrap().id(), first.id());
    let link = cache.path().join("..").join(cache.path().file_name().unwrap());
    let from_disk = module("warm").preinitialize_with(&nobody().cache(Some(link.clone()))).unwrap();
    assert_eq!(from_disk.bytes(), first.bytes());
    let fails = module("warm").preinitialize_with(&at(nobody()).input(&("other", 1_u32)).unwrap()).unwrap_err();
    assert!(matches!(fails, InitError::Process { .. }), "{fails}");
    // One that was changed is not believed.
    let file = std::fs::read_dir(cache.path()).unwrap().map(|it| it.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|it| it == "artefact")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let third = link.join(".");
    let fails = module("warm")
        .preinitialize_with(&nobody().cache(Some(third.join("..").join(cache.path().file_name().unwrap()))));
    assert!(fails.is_err(), "{fails:?}");
}

#[test]
fn many_ask_for_one_and_it_is_taken_once() {
    let cache = tempfile::tempdir().unwrap();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let init = init_with("load", &("a b c", 2_u32)).cache(Some(cache.path().to_owned()));
            module("warm").preinitialize_with(&init).unwrap().id()
        };
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    let files = std::fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(files, 1);
}

#[test]
fn what_an_init_function_prints_goes_to_the_sink() {
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&lines);
    let sink = OutputSink::callback(move |line| kept.lock().unwrap().push(line.to_string()));
    let init = init_with("load", &("a b", 7_u32)).output(sink);
    let ended = module("warm").preinitialize_with(&init).unwrap_err();
    let text = "init function `load` of module `warm.wasm` did not return: task failed: 2 words are too few";
    assert_eq!(ended.to_string(), text);
    assert_eq!(*lines.lock().unwrap(), ["[load #0 stdout] 2 words are loaded"]);
}

#[test]
fn a_wrong_name_or_input_is_named() {
    let warm = module("warm");
    let error = warm.preinitialize_with(&init("lod")).unwrap_err().to_string();
    let text = "module `warm.wasm` cannot be pre-initialised: no init function `lod`; the module has `by_chance`, `ends`, `load`";
    assert_eq!(error, text);
    let error = module("tasks").preinitialize_with(&init("load")).unwrap_err().to_string();
    assert!(error.ends_with("no init function `load`; the module has none"), "{error}");
    let error = warm.preinitialize_with(&init_with("load", &("a",))).unwrap_err().to_string();
    assert!(error.contains("init function `load` takes (String, u32): the message ends within"), "{error}");
    let error = warm.preinitialize_with(&init_with("load", &("a", 1_u32, 2_u8))).unwrap_err().to_string();
    assert!(error.contains("`1` bytes follow the value"), "{error}");
    let group = group(&["popen"]);
    let described = group.describe(&warm).unwrap();
    let schema = described.init("load").unwrap();
    let init = init("load").json_input(schema, &serde_json::json!(["one two three", 1])).unwrap();
    assert_eq!(warm.preinitialize_with(&init).unwrap().id(), loaded().id());
    let wrong = self::init("load").json_input(schema, &serde_json::json!([1, 1])).unwrap_err();
    assert_eq!(wrong.to_string(), "argument 1 (`text`): expected string, found 1");
    let with_channel = group[0].new_channel().unwrap();
    assert!(self::init("load").input(&(with_channel,)).is_err());
}

#[test]
fn large_input_and_a_large_snapshot() {
    let text: String = (0..100_000).map(|n| format!("w{n} ")).collect();
    let large = module("warm").preinitialize_with(&init_with("load", &(&text, 100_000_u32))).unwrap();
    assert!(large.bytes().len() > 1 << 20, "{}", large.bytes().len());
    let group = group(&["popen"]);
    assert!(ask::<bool>(&group, &large, "has", &("w99999",)));
    assert!(!ask::<bool>(&group, &large, "has", &("w100000",)));
    let kept = module("warm").preinitialize_with(&init_with("ends", &(InitEnd::Keep(8 << 20),))).unwrap();
    assert!(kept.bytes().len() > 8 << 20);
    assert_eq!(ask::<u64>(&group, &kept, "kept", &()), 8 << 20);
}

#[test]
fn all_state_of_an_instance_is_kept_and_nothing_runs_twice() {
    // Counts what runs: the start function, `_initialize`, the init function, and `_start`, which there are two of.
    let module = wat(r#"(module
        (import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 8) "abcd")
        (global $started (mut i32) (i32.const 0))
        (global $long (mut i64) (i64.const 1))
        (global $single (mut f32) (f32.const 1))
        (global $double (export "double") (mut f64) (f64.const 1))
        (global $constant i32 (i32.const 7))
        (table 2 funcref) (elem (i32.const 0) $initialize $init)
        (type $nothing (func))
        (func $began (global.set $started (i32.add (global.get $started) (i32.const 1))))
        (start $began)
        (func $initialize (export "_initialize") (global.set $started (i32.add (global.get $started) (i32.const 10))))
        (func $init (export "sandgate_init:go")
            (global.set $started (i32.add (global.get $started) (i32.const 100)))
            (global.set $long (i64.const -5))
            (global.set $single (f32.const 0.5))
            (global.set $double (f64.const nan:0x8000000000001))
            (drop (memory.grow (i32.const 3)))
            (i32.store8 (i32.const 9) (i32.const 88))
            (i32.store (i32.const 262140) (i32.const -1)))
        (func $tell
            (i32.store (i32.const 1000) (global.get $started))
            (i64.store (i32.const 1004) (global.get $long))
            (f32.store (i32.const 1012) (global.get $single))
            (f64.store (i32.const 1016) (global.get $double))
            (i32.store (i32.const 1024) (memory.size))
            (i32.store (i32.const 1028) (i32.load (i32.const 262140)))
            (i32.store (i32.const 1032) (i32.load (i32.const 8)))
            (i32.store (i32.const 1036) (global.get $constant))
            (drop (call $send (i32.const 0) (i32.const 1000) (i32.const 40) (i32.const 0) (i32.const 0) (i64.const -1))))
        (func (export "_start") (global.set $started (i32.const 9999)) (call $tell))
        (func (export "sandgate_start:go") (call $tell))
        (func (export "sandgate_task:table") (call_indirect (type $nothing) (i32.const 1)) (call $tell))
        (@custom "mine" "kept"))"#);
    let snapshot = module.preinitialize_with(&init("go")).unwrap();
    assert!(snapshot.bytes().windows(8).any(|part| part == b"minekept"));
    let group = group(&["popen"]);
    let told = |call: Call| {
        let channel = group[0].remote_exec_with(&snapshot, &call).unwrap();
        let bytes = channel.receive_bytes_timeout(LIMIT).unwrap();
        channel.wait_close_timeout(LIMIT).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let double = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let long = i64::from_le_bytes(bytes[4..12].try_into().unwrap());
        assert_eq!((long, f32::from_bits(number(12))), (-5, 0.5));
        assert_eq!(double, 0x7ff8_0000_0000_0001, "a NaN with its payload");
        (number(0), number(24), number(28), bytes[32..36].to_vec(), number(36))
    };
    assert_eq!(told(Call::start()), (111, 4, u32::MAX, b"aXcd".to_vec(), 7));
    // A function pointer is still one.
    assert_eq!(told(Call::task("table")).0, 211);
}

#[test]
fn tables_that_may_change_and_the_like_are_refused() {
    let check = |body: &str, words: &str| {
        let text = format!(
            r#"(module (memory (export "memory") 1) (table $t 4 funcref) {body} (func (export "sandgate_init:go")))"#
        );
        match wat(&text).preinitialize_with(&init("go")) {
            Err(InitError::Rejected { reason: reason @ Rejection::Snapshot { .. }, .. }) => {
                assert!(reason.to_string().contains(words), "{reason}");
            }
            other => panic!("{words}: {other:?}"),
        }
    };
    check("(func (table.set $t (i32.const 0) (ref.null func)))", "table.set");
    check("(func (drop (table.grow $t (ref.null func) (i32.const 1))))", "table.grow");
    check("(data $d \"x\") (func (data.drop $d))", "data.drop");
    check("(global (mut funcref) (ref.null func))", "reference");
    check("(func (export \"__wizer_memory_0\"))", "__wizer_");
}

#[test]
fn the_caller_decides_how_long_it_waits() {
    let init = init_with("ends", &(InitEnd::Loop,)).timeout(Duration::from_millis(300));
    let began = Instant::now();
    let error = module("warm").preinitialize_with(&init).unwrap_err();
    assert!(matches!(error, InitError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < LIMIT);
    assert_eq!(error.to_string(), "module `warm.wasm` was not pre-initialised within 300ms");
}

#[test]
fn a_group_gives_its_defaults() {
    let defaults = spec("popen//memory=64M");
    let group = builder().defaults(defaults).build();
    let ended = group.preinitialize(&module("warm"), &Init::new("ends").input(&(InitEnd::Bomb,)).unwrap());
    match ended {
        Err(InitError::Ended { outcome, .. }) => {
            assert_eq!(*outcome, Outcome::LimitExceeded { limit: LimitName::Memory, value: 64 << 20 });
        }
        other => panic!("{other:?}"),
    }
    let names: BTreeMap<&str, usize> = BTreeMap::new();
    assert!(Init::new("x").input(&names).is_ok());
}
