//! What the host makes of an initializer's words.

use sandgate_wire::ChannelId;
use sandgate_wire::message::{Output, WorkerStatus};
use sandgate_wire::outcome::WorkerLoss;

use super::*;
use crate::errand::tests::{bytes_of, heard};

fn said(message: &ToHost<'_>, is_compiled: bool) -> Understood<Said> {
    heard(&bytes_of(message), false, |frame| understand(frame, is_compiled)).expect("an answer that is whole")
}

fn stands(initialized: Initialized, is_compiled: bool) -> Understood<Said> {
    said(&ToHost::Initialized(initialized), is_compiled)
}

#[test]
fn an_initializer_says_things_in_order() {
    let out_of_order = Err(Some("it says things out of order".to_owned()));
    let no_answer = Err(Some("it did not answer what it was asked".to_owned()));
    let done = || Initialized::Done { bytes: 3 };
    let ended = || Initialized::Ended(Outcome::Exited { code: 1 });
    let rejected = || Initialized::Rejected(Rejection::Snapshot { message: "no".to_owned() });
    assert_eq!(stands(Initialized::Compiled, false), Ok(Said::Stands(Initialized::Compiled)));
    assert_eq!(stands(Initialized::Compiled, true), out_of_order);
    for last in [done(), ended()] {
        assert_eq!(stands(last.clone(), false), out_of_order);
        assert_eq!(stands(last.clone(), true), Ok(Said::Stands(last)));
    }
    for is_compiled in [false, true] {
        assert_eq!(stands(rejected(), is_compiled), Ok(Said::Stands(rejected())));
        assert_eq!(said(&ToHost::Status(WorkerStatus::default()), is_compiled), no_answer);
    }
    let output = ToHost::Output(ChannelId(1), Output { stream: Stream::Stderr, truncated: true, bytes: b"x" });
    assert_eq!(said(&output, false), no_answer);
    assert_eq!(said(&output, true), Ok(Said::Printed(Stream::Stderr, b"x".to_vec(), true)));
}

#[test]
fn an_init_function_ends_as_a_guest_can_and_its_texts_are_capped() {
    let loss = WorkerLoss {
        gateway: "gw0".to_owned(),
        pid: None,
        cause: LossCause::Exited { code: 0 },
        stderr_tail: String::new(),
    };
    for lie in [
        Outcome::Returned,
        Outcome::Closed,
        Outcome::ClosedWithError { message: String::new() },
        Outcome::CallbackFailed { message: String::new() },
        Outcome::WorkerLost { loss },
        Outcome::Killed { by: sandgate_wire::outcome::KilledBy::Kill, started: true },
    ] {
        let said = stands(Initialized::Ended(lie.clone()), true);
        assert!(matches!(&said, Err(Some(text)) if text.contains("cannot end as it says")), "{lie:?}: {said:?}");
    }
    let long = "\u{1b}[2J".repeat(50_000);
    match stands(Initialized::Ended(Outcome::Failed { message: long }), true) {
        Ok(Said::Stands(Initialized::Ended(outcome))) => {
            let shown = outcome.to_string();
            assert!(shown.len() < 128 << 10 && !shown.contains('\u{1b}'), "{} bytes", shown.len());
        }
        other => panic!("{other:?}"),
    }
    let reason = Rejection::UnknownInit { name: "x".repeat(10_000), available: vec!["x".repeat(2000); 9] };
    match stands(Initialized::Rejected(reason), false) {
        Ok(Said::Stands(Initialized::Rejected(Rejection::UnknownInit { name, available }))) => {
            assert!(name.len() <= 1024 && available.iter().all(|it| it.len() == 1024));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshots_key_is_that_of_all_its_parts() {
    let module = Module::from_bytes(*b"module").unwrap();
    let of = |init, input: &[u8], settings: &[u8], tenant| Key::of_snapshot(&module, init, input, settings, tenant);
    let keys = [
        of("a", b"b", b"c", None),
        of("ab", b"", b"c", None),
        of("a", b"bc", b"", None),
        of("a", b"b", b"cd", None),
        of("a", b"b", b"c", Some("")),
        of("a", b"b", b"c", Some("d")),
        Key::of_snapshot(&Module::from_bytes(*b"other").unwrap(), "a", b"b", b"c", None),
        Key::of(&module, "a", Codegen::default(), None),
    ];
    for (position, key) in keys.iter().enumerate() {
        assert!(!keys[..position].contains(key), "key {position} is another's");
    }
    assert_eq!(of("a", b"b", b"c", None), keys[0]);
}
