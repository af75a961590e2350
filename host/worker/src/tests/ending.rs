//! The table of `sandgate_abi`: how an execution ends.

use sandgate_wire::Outcome;
use sandgate_wire::outcome::{Rejection, TrapKind};

use super::host::*;

fn outcome(text: &str) -> Outcome {
    let mut host = Host::new(1);
    let channel = host.start(text, Call::default());
    host.done(channel)
}

#[test]
fn exit_codes() {
    for code in [0, 1, 2, 125, 126, 255, -1, i32::MAX, i32::MIN] {
        let expected = match code {
            0 => Outcome::Returned,
            code => Outcome::Exited { code },
        };
        let from_start = guest(&format!("(call $exit (i32.const {code}))"));
        assert_eq!(outcome(&from_start), expected);
        let nested = guest_with(
            &format!(
                "(func $deep (param i32) (if (local.get 0)
                    (then (call $deep (i32.sub (local.get 0) (i32.const 1))))
                    (else (call $exit (i32.const {code})))))"
            ),
            "(call $deep (i32.const 100)) unreachable",
        );
        assert_eq!(outcome(&nested), expected);
    }
}

#[test]
fn traps_have_their_kind() {
    use TrapKind::*;
    let table = "(table $t 2 funcref) (elem (i32.const 0) $f) (func $f)";
    let recursion = "(func $f (param i32) (result i32) (i32.add (call $f (local.get 0)) (call $new)))";
    for (items, body, expected) in [
        ("", "unreachable", Unreachable),
        ("", "(drop (i32.load (i32.const -1)))", MemoryOutOfBounds),
        ("", "(drop (i32.load offset=4294967295 (i32.const -1)))", MemoryOutOfBounds),
        ("", "(memory.fill (i32.const 0) (i32.const 0) (i32.const 65537))", MemoryOutOfBounds),
        ("", "(drop (i32.div_u (i32.const 1) (i32.const 0)))", DivisionByZero),
        ("", "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", IntegerOverflow),
        ("", "(drop (i32.trunc_f32_s (f32.const nan)))", BadConversionToInteger),
        (table, "(call_indirect (i32.const 1))", IndirectCallToNull),
        (table, "(call_indirect (i32.const 2))", TableOutOfBounds),
        (table, "(call_indirect (param i32) (i32.const 0) (i32.const 0))", BadSignature),
        (recursion, "(drop (call $f (i32.const 0)))", StackOverflow),
        (
            "(table $t 1 funcref) (elem (i32.const 0) $f) (func $f (call_indirect (i32.const 0)))",
            "(call $f)",
            StackOverflow,
        ),
        ("(func $start unreachable) (start $start)", "", Unreachable),
        (r#"(func (export "_initialize") unreachable)"#, "", Unreachable),
        (r#"(data (i32.const 65536) "x")"#, "", MemoryOutOfBounds),
    ] {
        match outcome(&guest_with(items, body)) {
            Outcome::Trapped { kind, backtrace, stack_bytes } => {
                assert_eq!(kind, expected, "{items} {body}");
                assert_eq!(stack_bytes, (kind == StackOverflow).then_some(1 << 20), "{items} {body}");
                assert!(backtrace.len() <= 20);
            }
            other => panic!("{items} {body}: {other:?}"),
        }
    }
}

#[test]
fn backtraces_have_demangled_names_innermost_first() {
    let text = r#"(module
        (func $_ZN4core6option13unwrap_failed17h0123456789abcdefE unreachable)
        (func $middle (call $_ZN4core6option13unwrap_failed17h0123456789abcdefE))
        (func (export "_start") (call $middle)))"#;
    match outcome(text) {
        Outcome::Trapped { backtrace, .. } => {
            assert_eq!(backtrace[..2], ["core::option::unwrap_failed", "middle"]);
            assert_eq!(backtrace.len(), 3);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn reports_decide_together_with_the_end() {
    const ERROR: u32 = 1;
    const PANIC: u32 = 2;
    const BAD: u32 = 3;
    let failed = Outcome::Failed { message: "a:1\nb".to_owned() };
    let bad = Outcome::Rejected {
        reason: Rejection::BadArguments { message: "a:1\nb".to_owned(), available: vec!["_start".to_owned()] },
    };
    let panicked = |outcome: &Outcome| matches!(outcome, Outcome::Panicked { message, location: Some(at), .. } if message == "b" && at == "a:1");
    let trapped = |outcome: &Outcome| matches!(outcome, Outcome::Trapped { .. });
    let is = |expected: Outcome| move |outcome: &Outcome| *outcome == expected;
    let exit = "(call $exit (i32.const 3))";
    let exited = || is(Outcome::Exited { code: 3 });
    let other_call = "(drop (call $new))";
    type Check<'a> = Box<dyn Fn(&Outcome) -> bool + 'a>;
    let cases: Vec<(Vec<u32>, &str, &str, Check<'_>)> = vec![
        (vec![], "", "", Box::new(is(Outcome::Returned))),
        (vec![ERROR], "", "", Box::new(is(failed.clone()))),
        (vec![ERROR], "", exit, Box::new(is(failed.clone()))),
        (vec![ERROR], "", "unreachable", Box::new(trapped)),
        (vec![ERROR], other_call, "", Box::new(is(Outcome::Returned))),
        (vec![ERROR], other_call, exit, Box::new(exited())),
        (vec![PANIC], "", exit, Box::new(panicked)),
        (vec![PANIC], "", "unreachable", Box::new(panicked)),
        (vec![PANIC], other_call, "unreachable", Box::new(panicked)),
        (vec![BAD], "", "", Box::new(is(bad.clone()))),
        (vec![BAD], "", exit, Box::new(is(bad.clone()))),
        (vec![PANIC, ERROR], "", exit, Box::new(is(failed.clone()))),
        (vec![ERROR, PANIC], "", exit, Box::new(panicked)),
    ];
    for (reports, between, end, expected) in cases {
        let told: String = reports
            .iter()
            .map(|kind| format!("(drop (call $report (i32.const {kind}) (i32.const 2048) (i32.const 5)))"))
            .collect();
        let text = guest_with(r#"(data (i32.const 2048) "a:1\nb")"#, &format!("{told} {between} {end}"));
        let outcome = outcome(&text);
        assert!(expected(&outcome), "{reports:?} {between} {end}: {outcome:?}");
    }
}

#[test]
fn a_long_report_is_cut_at_a_character() {
    let text = guest_with(
        "",
        "(loop $again
            (i32.store16 (i32.add (local.get $i) (i32.const 1025)) (i32.const 0xa4c3))
            (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 2))) (i32.const 30000))))
         (i32.store8 (i32.const 1024) (i32.const 0x78))
         (drop (call $report (i32.const 1) (i32.const 1024) (i32.const 30000)))",
    );
    match outcome(&text) {
        Outcome::Failed { message } => {
            assert!(message.len() <= 16 * 1024 && message.len() > 16 * 1024 - 4);
            assert!(message.ends_with('ä') && message.starts_with("xä"));
        }
        other => panic!("{other:?}"),
    }
}
