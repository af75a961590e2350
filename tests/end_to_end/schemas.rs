//! Modules that describe their tasks: to the host, to JSON, and to a call that is checked before it runs.

use std::collections::BTreeMap;

use guest_protocol::{Age, Animal, Zoo};
use sandgate::schema::{Mismatch, decode_result};
use sandgate::{Call, ExecError, Module};
use sandgate_tests::{LIMIT, group, module};
use serde_json::{Value, json};

fn zoo() -> Zoo {
    let inner = Zoo {
        small_numbers: (-1, 2, -3, 4, i32::MIN),
        large: u64::MAX,
        larger: -5,
        floats: [0.1, -1e300],
        single: 0.1,
        letter: 'é',
        name: "inner".to_owned(),
        maybe: None,
        animals: vec![],
        counts: BTreeMap::from([(10, true), (9, false)]),
        nothing: (),
    };
    let members = vec![Animal::None, Animal::Named("cat".to_owned()), Animal::Pair(1, Age(7))];
    let animals = vec![Animal::Group { name: "all".to_owned(), members }];
    Zoo { maybe: Some(Box::new(inner.clone())), animals, name: "outer".to_owned(), ..inner }
}

#[test]
fn a_module_says_what_its_tasks_take_and_give() {
    let group = group(&["popen"]);
    let described = group.describe(&module("typed")).unwrap();
    let tasks: Vec<String> = described.tasks.iter().map(ToString::to_string).collect();
    assert_eq!(
        tasks,
        [
            "age(animal: Animal) -> Age?",
            "echo(zoo: Zoo) -> Zoo",
            "number(text: string) -> i64",
            "repeat(name: string, count: u32) -> u64",
            "undescribed(value: opaque `Undescribed`) -> opaque `Result<Undescribed, ParseIntError>`",
        ]
    );
    let echo = described.task("echo").unwrap();
    assert_eq!((echo.help.as_str(), echo.takes_channel), ("Gives the zoo back.\n\nWith all its animals.", false));
    assert!(described.task("repeat").unwrap().takes_channel);
    assert_eq!(described.trouble, None);
    let shape = &described.shape;
    assert!(shape.functions > 100 && shape.module_bytes > 10_000 && shape.locals > 5, "{shape:?}");
    assert_eq!(sandgate::Profile::MINIMAL.lacks(shape.features), None);
    let mut names: Vec<&str> = described.task_names().collect();
    names.sort_unstable();
    assert_eq!(names, ["age", "echo", "number", "repeat", "undescribed"]);
    assert!(described.exports.iter().any(|export| export.name == "memory"));
    assert!(
        described.imports.iter().any(|import| (&import.module[..], &import.name[..]) == ("sandgate_v1", "call_args"))
    );
    // A second group finds it in the cache.
    let again = self::group(&["popen"]);
    assert_eq!(again[0].describe(&module("typed")).unwrap(), described);
}

#[test]
fn json_goes_in_and_comes_out() {
    let group = group(&["popen"]);
    let module = module("typed");
    let described = group.describe(&module).unwrap();
    let run = |task: &str, arguments: &Value| {
        let schema = described.task(task).unwrap();
        let call = Call::task(task).json_args(schema, arguments).unwrap();
        let channel = group[0].remote_exec_with(&module, &call).unwrap();
        let mut last = None;
        while let Ok(bytes) = channel.receive_bytes_timeout(LIMIT) {
            last = Some(bytes);
        }
        channel.wait_close_timeout(LIMIT).unwrap();
        decode_result(schema, &last.unwrap()).unwrap()
    };
    let json = serde_json::to_value(zoo()).unwrap();
    let expected = {
        let mut expected = json.clone();
        // Serde's JSON has the neighbour of 0.1 in an f64.
        expected["single"] = json!(0.1);
        expected["maybe"]["single"] = json!(0.1);
        expected
    };
    assert_eq!(run("echo", &json), expected);
    assert_eq!(run("repeat", &json!(["ab", 3])), json!(6));
    assert_eq!(run("repeat", &json!({"count": 2, "name": "abc"})), json!(6));
    assert_eq!(run("age", &json!({"Pair": [1, 70]})), json!(70));
    assert_eq!(run("age", &json!("None")), json!(null));
    assert_eq!(run("number", &json!("-12")), json!(-12));

    let repeat = described.task("repeat").unwrap();
    let error = Call::task("repeat").json_args(repeat, &json!(["a", "x"])).unwrap_err();
    assert_eq!(error.to_string(), "argument 2 (`count`): expected u32, found \"x\"");
    let undescribed = described.task("undescribed").unwrap();
    let error = Call::task("undescribed").json_args(undescribed, &json!(1)).unwrap_err();
    assert_eq!(error.to_string(), "argument 1 (`value`): expected opaque `Undescribed`, which has no schema, found 1");
}

#[test]
fn a_checked_call_of_other_types_does_not_run() {
    let group = group(&["popen"]);
    let module = module("typed");
    let mismatch = |call: Call| match group[0].remote_exec_with(&module, &call) {
        Err(ExecError::Mismatch { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    };
    let call = Call::task("echo").checked_args(&(zoo(),)).unwrap().checked_result::<Zoo>();
    let channel = group[0].remote_exec_with(&module, &call).unwrap();
    assert_eq!(channel.receive_timeout::<Zoo>(LIMIT).unwrap(), zoo());

    let call = Call::task("repeat").checked_args(&("a", 1_u64)).unwrap();
    let text = "arguments of task `repeat` differ at argument 2 (`count`): `u64` here, `u32` there";
    assert_eq!(mismatch(call), text);
    let call = Call::task("repeat").checked_args(&("a",)).unwrap();
    assert_eq!(mismatch(call), "arguments of task `repeat` differ `1 argument` here, `2 arguments` there");
    let call = Call::task("age").checked_args(&(Animal::None,)).unwrap().checked_result::<Age>();
    assert_eq!(mismatch(call), "result of task `age` differs `Age` here, `Age?` there");
    assert_eq!(mismatch(Call::task("no such").checked_result::<()>()), "it describes no task `no such`");
    assert_eq!(mismatch(Call::start().checked_args(&()).unwrap()), "only named tasks have types");
    let status = group[0].status_timeout(LIMIT).unwrap();
    assert_eq!(u64::from(status.running + status.queued) + status.finished, 1, "none of these ran");
}

#[test]
fn a_module_that_describes_itself_badly_is_described_without_tasks_and_runs() {
    let group = group(&["popen"]);
    let describe = |section: &str| {
        let text = format!(
            r#"(module (memory (export "memory") 1) (func (export "sandgate_task:t")) (@custom "sandgate.tasks" "{section}"))"#
        );
        let module = Module::from_bytes(wat::parse_str(text).unwrap()).unwrap();
        let described = group.describe(&module).unwrap();
        let run = |call: Call| group[0].remote_exec_with(&module, &call);
        run(Call::task("t")).unwrap().wait_close_timeout(LIMIT).unwrap();
        let refused = run(Call::task("t").checked_args(&()).unwrap());
        let is_trouble =
            matches!(&refused, Err(ExecError::Mismatch { source, .. }) if matches!(**source, Mismatch::Trouble(_)));
        assert_eq!(is_trouble, described.trouble.is_some(), "{refused:?}");
        assert_eq!(described.task_names().collect::<Vec<_>>(), ["t"]);
        described
    };
    assert!(describe("nonsense").trouble.is_some());
    assert!(describe(&"x".repeat(100_000)).trouble.is_some());
    assert!(describe(r"\02\01\00\00\00x").tasks.is_empty(), "of another version");
    // A task that it does not have, of a type that it does not decode: its own word.
    let lies = describe(r"\01\09\00\00\00\04lies\00\00\00\09");
    assert_eq!((lies.tasks.len(), lies.trouble), (1, None));
}
