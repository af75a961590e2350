//! Programs that know nothing of sandgate: bytes in, what they print out.

use std::time::Duration;

use sandgate::{Call, Limits, Outcome, OutcomeKind, Pool, PoolBuilder, RetryOn, TaskError};
use sandgate_tests::{LIMIT, builder, group, module, popen};

fn programs(argv: &[&str]) -> PoolBuilder {
    let pool = Pool::builder(&module("wasi_filter")).program().argv(argv.iter().copied());
    pool.group(builder()).spec(popen().env("MODE", "fast")).gateways(2)
}

#[test]
fn each_input_is_the_standard_input_of_a_fresh_program() {
    let pool = programs(&["a", "b c"]).build().unwrap();
    let inputs = (0..200).map(|number| format!("line {number}\nno end"));
    for (number, result) in (0..).zip(pool.map_programs(inputs)) {
        let output = result.value.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("LINE {number}\nNO END"));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), r#"["a", "b c"] ["MODE=fast"]"#);
        assert_eq!((output.exit_code, output.truncated), (Some(0), false));
    }
    assert!(pool.submit_program(Vec::new()).wait().value.unwrap().stdout.is_empty());
    let large: Vec<u8> = (0..3 << 20).map(|i: u32| b'a' + u8::try_from(i % 26).unwrap()).collect();
    assert_eq!(pool.submit_program(large.clone()).wait().value.unwrap().stdout, large.to_ascii_uppercase());
    assert_eq!(pool.map_programs_unordered([b"x"; 50]).filter(|result| result.value.is_ok()).count(), 50);
    let wrong = pool.submit::<u64>(&1_u64).wait().value;
    assert!(matches!(wrong, Err(TaskError::NoValue)), "{wrong:?}");
}

#[test]
fn a_program_that_fails_tells_what_it_had_printed() {
    let failed = |pool: Pool| {
        let result = pool.submit_program(*b"in").wait_timeout(LIMIT).expect("a result in time");
        match (result.value, result.attempts) {
            (Err(TaskError::Program { outcome, output }), attempts) => (outcome, *output, attempts),
            other => panic!("{other:?}"),
        }
    };
    let again = programs(&["exit", "7"]).retries(1, RetryOn::none().and(OutcomeKind::Exited));
    let (outcome, output, attempts) = failed(again.build().unwrap());
    assert_eq!((outcome, output.exit_code, attempts), (Outcome::Exited { code: 7 }, Some(7), 2));
    assert_eq!((&output.stdout[..], output.stderr.starts_with(b"[\"exit\"")), (&b"IN"[..], true));
    let (outcome, output, _) = failed(programs(&["abort"]).build().unwrap());
    assert!(matches!(outcome, Outcome::Trapped { .. }), "{outcome}");
    assert_eq!((&output.stdout[..], output.exit_code), (&b"IN"[..], None));
    let limits = Limits { output_bytes: 100_000, ..Limits::for_tasks() };
    let flood = programs(&["flood"]).limits(limits).deadline(Duration::from_millis(500)).build().unwrap();
    let (outcome, output, _) = failed(flood);
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome}");
    assert_eq!((output.stdout.len() + output.stderr.len(), output.truncated), (100_000, true));
}

#[test]
fn a_call_can_have_input_and_keep_output() {
    let group = group(&["popen"]);
    let call = Call::start().stdin(*b"abc").capture_output();
    let channel = group[0].remote_exec_with(&module("wasi_filter"), &call).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
    let output = channel.take_output().unwrap();
    assert_eq!((output.stdout, output.truncated), (b"ABC".to_vec(), false));
    assert_eq!(channel.take_output().unwrap().stdout, b"", "it is taken once");
    let plain = group[0].remote_exec(&module("wasi_filter")).unwrap();
    plain.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(plain.take_output(), None);
}
