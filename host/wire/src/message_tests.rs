//! Golden bytes of each message, round trips, and arbitrary bytes.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::frame::Header;
use crate::grants::Directory;
use crate::isolation::{Demand, Layer, State};
use crate::module_limits::{ModuleLimits, Shape};
use crate::outcome::Rejection;
use crate::profile::{Feature, Profile};

fn frame_of(encoded: &Encoded) -> Frame<'_> {
    let Encoded { kind, flags, channel, ref body } = *encoded;
    let header = Header { length: u32::try_from(body.len()).unwrap(), kind, flags, channel };
    Frame { header, payload: body }
}

const LIMITS: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 10, 1, 11, 12, 1, 13];

fn limits() -> Limits {
    Limits {
        memory_bytes: 1,
        table_elements: 2,
        stack_bytes: 3,
        message_bytes: 4,
        channels: 5,
        window_bytes: 6,
        window_messages: 7,
        output_bytes: 8,
        wall_time: Some(Duration::new(9, 10)),
        cpu_time: Some(Duration::new(11, 12)),
        fuel: Some(13),
    }
}

fn check_to_worker(message: ToWorker<'_>, golden: (u8, u8, u64, &[u8])) {
    let encoded = message.encode();
    assert_eq!((encoded.kind, encoded.flags, encoded.channel.0, &encoded.body[..]), golden, "{message:?}");
    assert_eq!(ToWorker::decode(frame_of(&encoded)).unwrap(), message);
}

fn check_to_host(message: ToHost<'_>, golden: (u8, u8, u64, &[u8])) {
    let encoded = message.encode();
    assert_eq!((encoded.kind, encoded.flags, encoded.channel.0, &encoded.body[..]), golden, "{message:?}");
    assert_eq!(ToHost::decode(frame_of(&encoded)).unwrap(), message);
}

#[test]
fn golden_bytes_to_the_worker() {
    let one = ChannelId(1);
    let id = ModuleId([9; 32]);
    let hello = HostHello {
        gateway: "gw0".into(),
        host_pid: 5,
        max_executions: 2,
        nice: 0,
        grants: Grants {
            environment: vec![("A".into(), "b".into())],
            directories: vec![Directory { host: "/h".into(), guest: "/g".into(), writable: true }],
            execution: ExecutionGrants::deterministic(9),
        },
        policy: Policy::all(Demand::Off).with(Layer::Seccomp, Demand::Require),
        limits: limits(),
        one_module: true,
    };
    let body = [
        &b"SANDGATE\x06\x00\x03gw0\x05\x02\x00\x01\x01A\x01b\x01\x02/h\x02/g\x01\x02\x01\x01\x09\x01"[..],
        &[2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0],
        LIMITS,
        &[1],
    ]
    .concat();
    check_to_worker(ToWorker::Hello(hello), (1, 0, 0, &body));
    let load = ToWorker::Load { module: id, codegen: Codegen::Metered, bytes: 3 };
    check_to_worker(load, (2, 0, 0, &[&[9; 32][..], &[1, 3]].concat()));
    check_to_worker(ToWorker::Unload(id), (3, 0, 0, &[9; 32]));
    let execute = Execute {
        module: id,
        codegen: Codegen::Unchecked,
        entry: Entry::Task("t".into()),
        has_arguments: true,
        argv: vec!["p".into()],
        limits: limits(),
        grants: ExecutionGrants::default(),
        stdin: true,
        patient: true,
    };
    let body = [&[9; 32][..], b"\x02\x01\x01t\x01\x01\x01p", LIMITS, &[0, 0, 0xa0, 0x8d, 6, 0, 0, 1, 1]].concat();
    check_to_worker(ToWorker::Execute(one, execute), (5, 0, 1, &body));
    let credit = Credit { bytes: 0x0102, messages: 3 };
    check_to_worker(ToWorker::Credit(one, credit), (7, 0, 1, &[2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]));
    check_to_worker(ToWorker::Open(one), (8, 0, 1, b""));
    check_to_worker(ToWorker::Close(one, Close::default()), (9, 0, 1, b""));
    let close = Close { error: Some("no".into()), sending_only: true };
    check_to_worker(ToWorker::Close(one, close), (9, 3, 1, b"no"));
    check_to_worker(ToWorker::Kill(one, KilledBy::Terminate), (10, 0, 1, &[1]));
    check_to_worker(ToWorker::Kill(one, KilledBy::Recall), (10, 0, 1, &[2]));
    check_to_worker(ToWorker::OutputCredit(one, 2), (13, 0, 1, &[2, 0, 0, 0, 0, 0, 0, 0]));
    check_to_worker(ToWorker::Status, (14, 0, 0, b""));
    check_to_worker(ToWorker::Terminate { kill: true }, (15, 1, 0, b""));
    let module_limits = ModuleLimits {
        module_bytes: 1,
        functions: 2,
        function_bytes: 3,
        locals: 4,
        nesting: 5,
        jump_targets: 6,
        items: 7,
        compile_time: Duration::new(8, 9),
        compile_memory_bytes: 10,
        cache_bytes: 11,
    };
    let (codegen, profile) = (Codegen::Interruptible, Profile::MINIMAL.with(Feature::TailCall));
    let policy = Policy::all(Demand::Prefer);
    let initialize = Initialize {
        module: id,
        bytes: 1,
        input_bytes: 2,
        init: "i".into(),
        codegen,
        limits: limits(),
        grants: ExecutionGrants::deterministic(9),
        module_limits: module_limits.clone(),
        profile,
        policy: policy.clone(),
    };
    let before = [&[9; 32][..], &[1, 2, 1, b'i', 0], LIMITS, &[2, 1, 1, 9, 1]].concat();
    let body = [&before[..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4], &[1; 11]].concat();
    check_to_worker(ToWorker::Initialize(initialize), (19, 0, 0, &body));
    let compile = Compile { module: id, bytes: 1, codegen, limits: module_limits, profile, policy };
    let body = [&[9; 32][..], &[1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4], &[1; 11]].concat();
    check_to_worker(ToWorker::Compile(compile), (16, 0, 0, &body));
}

#[test]
fn golden_bytes_to_the_host() {
    let two = ChannelId(2);
    let isolation = Report { layers: vec![(Layer::Landlock, State::Missing("no".into()))] };
    let hello = WorkerHello { package_version: "0".into(), pid: 1, engine: "e".into(), isolation };
    check_to_host(ToHost::Hello(hello), (1, 0, 0, b"SANDGATE\x06\x00\x010\x01\x01e\x01\x09\x02\x02no"));
    check_to_host(ToHost::Open { channel: two, parent: ChannelId(1) }, (8, 0, 2, &[1, 0, 0, 0, 0, 0, 0, 0]));
    check_to_host(ToHost::CreditWanted(two), (18, 0, 2, b""));
    check_to_host(ToHost::Close(two, Close::default()), (9, 0, 2, b""));
    check_to_host(ToHost::Done(two, Outcome::Returned), (11, 0, 2, &[0]));
    check_to_host(ToHost::Done(two, Outcome::Exited { code: -1 }), (11, 0, 2, &[6, 1]));
    let output = Output { stream: Stream::Stderr, truncated: true, bytes: b"hi" };
    check_to_host(ToHost::Output(two, output), (12, 3, 2, b"hi"));
    let status = WorkerStatus { running: 1, queued: 2, channels: 3, finished: 4 };
    check_to_host(ToHost::Status(status), (14, 0, 0, &[1, 2, 3, 4]));
    let shape = Shape {
        module_bytes: 1,
        functions: 2,
        function_bytes: 3,
        locals: 4,
        nesting: 5,
        jump_targets: 6,
        items: 7,
        features: Profile::MINIMAL.with(Feature::TailCall),
        memory_bytes: 9,
        table_elements: 10,
    };
    let compiled = Compiled::Done { engine: "e".into(), bytes: 2, shape, description: vec![8] };
    check_to_host(ToHost::Compiled(compiled), (17, 0, 0, &[0, 1, b'e', 2, 1, 2, 3, 4, 5, 6, 7, 4, 9, 10, 1, 8]));
    check_to_host(ToHost::Initialized(Initialized::Compiled), (20, 0, 0, &[0]));
    check_to_host(ToHost::Initialized(Initialized::Done { bytes: 3 }), (20, 0, 0, &[1, 3]));
    check_to_host(ToHost::Initialized(Initialized::Ended(Outcome::Exited { code: -1 })), (20, 0, 0, &[3, 6, 1]));
    let reason = Rejection::Snapshot { message: "no".into() };
    check_to_host(ToHost::Initialized(Initialized::Rejected(reason)), (20, 0, 0, &[2, 10, 2, b'n', b'o']));
}

#[test]
fn a_stranger_and_another_version_are_told_apart() {
    let isolation = Report::default();
    let hello = WorkerHello { package_version: "0".into(), pid: 1, engine: "e".into(), isolation };
    let mut encoded = ToHost::Hello(hello).encode();
    encoded.body[8] = 1;
    assert_eq!(ToHost::decode(frame_of(&encoded)), Err(DecodeError::Version { found: 1 }));
    encoded.body[0] = b'X';
    assert_eq!(ToHost::decode(frame_of(&encoded)), Err(DecodeError::Magic));
}

#[test]
fn trailing_bytes_and_wrong_directions_are_refused() {
    let mut encoded = ToHost::Status(WorkerStatus::default()).encode();
    encoded.body.push(0);
    assert_eq!(ToHost::decode(frame_of(&encoded)), Err(DecodeError::Body(kind::STATUS)));
    let kill = ToWorker::Kill(ChannelId(1), KilledBy::Kill).encode();
    assert_eq!(ToHost::decode(frame_of(&kill)), Err(DecodeError::Kind(kind::KILL)));
    let done = ToHost::Done(ChannelId(1), Outcome::Returned).encode();
    assert_eq!(ToWorker::decode(frame_of(&done)), Err(DecodeError::Kind(kind::DONE)));
}

proptest! {
    #[test]
    fn arbitrary_frames_do_not_panic(kind in 0u8..22, flags: u8, channel: u64, payload: Vec<u8>) {
        let length = u32::try_from(payload.len()).unwrap();
        let frame = Frame { header: Header { length, kind, flags, channel: ChannelId(channel) }, payload: &payload };
        let _ = ToWorker::decode(frame);
        let _ = ToHost::decode(frame);
    }

    #[test]
    fn a_close_survives_the_round_trip(error: Option<String>, sending_only: bool, channel: u64) {
        let message = ToHost::Close(ChannelId(channel), Close { error, sending_only });
        let encoded = message.encode();
        prop_assert_eq!(ToHost::decode(frame_of(&encoded)).unwrap(), message);
    }

    #[test]
    fn a_hello_with_any_tail_does_not_over_allocate(tail: Vec<u8>) {
        let body = Bytes::from([&MAGIC[..], &PROTOCOL_VERSION.to_le_bytes(), &tail].concat());
        let header = Header { length: u32::try_from(body.len()).unwrap(), kind: kind::HELLO, flags: 0, channel: ChannelId(0) };
        let _ = ToHost::decode(Frame { header, payload: &body });
    }
}
