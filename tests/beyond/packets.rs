//! What becomes of packets on their way to another machine and back: dropped, refused, changed, lost now and then, held up.
//! The kernel does it, in a namespace between the two: nft does the first four, a queue of tc the last. Where it has no nft
//! these tests say so and check nothing.
//!
//! ```text
//!  this test ── ssh, socat ── the road, and its rules ── sshd, socat ── agent, workers
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use sandgate::{Channel, GatewayError, Group, LinkProblem, ReachError, Spec};
use sandgate_tests::{
    Fate, LIMIT, Machine, Road, Running, State, Watched, Way, builder, children_of, comes_true, eventually, installed,
    run, skip, start, within, worker,
};

use crate::places::{HEARTBEAT, Script, agent_of, all_go, assert_echoes, exec, family, group, lost_link};

/// How long it takes at most until what is not there is missed, and what belongs to it is gone.
const MISSED: Duration = HEARTBEAT.saturating_mul(4);
const PORT: u16 = 4000;

/// A machine at the end of a road, and what is on it before anybody came.
struct Far {
    machine: Machine,
    first: BTreeSet<u32>,
}

impl Far {
    /// `None`, and a word about it, where there can be none.
    fn make() -> Option<Far> {
        // Those before are other tests'.
        static NEXT: AtomicU8 = AtomicU8::new(10);
        let machine = Machine::make(NEXT.fetch_add(1, Ordering::Relaxed))?;
        machine.road()?;
        let first = machine.network.processes().iter().map(Watched::pid).collect();
        Some(Far { machine, first })
    }

    fn road(&self) -> &Road {
        self.machine.road().expect("it was looked for")
    }

    fn ssh(&self) -> Spec {
        self.machine.server.spec().with_heartbeat(HEARTBEAT)
    }

    /// What is there that was not there first, or was made here to get there.
    fn left(&self) -> Vec<String> {
        let far = self.machine.network.processes().into_iter().map(|it| it.pid());
        let address = self.machine.network.address();
        let near = children_of(std::process::id()).into_iter().map(|it| it.pid);
        let line = |pid: u32| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
        };
        let near = near.filter(|pid| line(*pid).contains(&address));
        far.filter(|pid| !self.first.contains(pid)).chain(near).map(|pid| format!("{pid} {}", line(pid))).collect()
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert!(comes_true(LIMIT, || self.left().is_empty()), "{:?}", self.left());
    }
}

/// A machine whose agents answer at a port, without ssh: nothing between them and the packets looks at what they carry.
struct Plain {
    far: Far,
    _listener: Running,
    _script: Script,
}

impl Plain {
    fn make() -> Option<Plain> {
        if let Err(why) = installed("/usr/bin/socat", "socat") {
            skip(&why);
            return None;
        }
        let mut far = Far::make()?;
        let network = &far.machine.network;
        let script = Script::new(&format!("exec '{}' agent", worker().display()));
        let listen = format!("TCP-LISTEN:{PORT},reuseaddr,fork");
        let agent = format!("EXEC:{}", script.path());
        let path = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".as_ref())];
        let listener = start("ip", &["netns", "exec", network.name(), "socat", &listen, &agent], &path);
        eventually(LIMIT, "somebody who listens", || std::net::TcpStream::connect((network.address(), PORT)).is_ok());
        // The agent of that connection sees its end.
        far.first.insert(listener.pid());
        far.nothing_is_left();
        Some(Plain { far, _listener: listener, _script: script })
    }

    fn spec(&self) -> Spec {
        let address = format!("TCP:{}:{PORT}", self.far.machine.network.address());
        Spec::exec(["socat", "-", &address]).unwrap().with_heartbeat(HEARTBEAT)
    }
}

/// Messages of many sizes to an echo and back, each of which has other bytes; as many as there are, one after the other.
#[track_caller]
fn each_comes_back(channel: &Channel, messages: std::ops::Range<usize>) {
    for number in messages {
        let bytes: Vec<u8> = (0..number * 997 % 20_000 + 1).map(|at| (at * 31 + number).to_le_bytes()[0]).collect();
        channel.send_bytes_timeout(bytes.clone(), LIMIT).unwrap();
        assert!(channel.receive_bytes_timeout(LIMIT).unwrap() == bytes, "message {number}");
    }
}

/// The echo ends well, and so does everything else.
#[track_caller]
fn ends_well(channel: &Channel, group: Group, far: &Far) {
    channel.close_send();
    channel.wait_close_timeout(LIMIT).expect("an echo that ends");
    let report = group.terminate(LIMIT);
    assert!(report.is_clean(), "{report:?}");
    drop(group);
    far.nothing_is_left();
}

/// What becomes of guests on a machine when this becomes of packets: how the link was lost, and what is known of it. It is
/// noticed in time on both sides, and nothing is left.
#[track_caller]
fn loses_its_link(far: &Far, spec: Spec, fate: Fate, ways: &[Way]) -> (LinkProblem, String) {
    let group = group([spec, exec()]);
    let channels = [State::Computes.enter(&group[0]), State::Receives.enter(&group[0])];
    let family = family(&agent_of(&group[0]));
    assert!(family.len() >= 2, "an agent and a worker");
    far.road().let_packets_be(fate, ways);
    let since = Instant::now();
    let lost = channels.each_ref().map(lost_link);
    let noticed = since.elapsed();
    all_go(&family);
    let gone = since.elapsed();
    assert!(noticed < MISSED && gone < MISSED, "noticed after {noticed:?}, gone after {gone:?}: {lost:?}");
    assert!(far.road().met() > 0, "packets have met their fate");
    assert_echoes(&group[1]);
    drop(group);
    // Processes of a server that waits for packets have clocks of their own, which are not ours to look at.
    far.road().clear();
    far.nothing_is_left();
    let [lost, other] = lost;
    assert_eq!(lost, other);
    lost
}

/// Over ssh packets are dropped these ways.
#[track_caller]
fn is_cut(ways: &'static [Way]) {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        let (problem, message) = loses_its_link(&far, far.ssh(), Fate::Dropped, ways);
        assert_eq!(problem, LinkProblem::Silent { after: HEARTBEAT }, "{message}");
    });
}

#[test]
fn a_road_that_is_closed_is_a_link_that_is_silent() {
    is_cut(&Way::BOTH);
}

#[test]
fn a_road_that_is_closed_on_the_way_there_is_a_link_that_is_silent() {
    is_cut(&[Way::There]);
}

#[test]
fn a_road_that_is_closed_on_the_way_back_is_a_link_that_is_silent() {
    is_cut(&[Way::Back]);
}

#[test]
fn who_cannot_be_reached_is_told_in_time() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "errors", move || {
        let failure = |fate, ways: &[Way]| {
            far.road().let_packets_be(fate, ways);
            let started = Instant::now();
            let error = builder().build().make_gateway(far.ssh().with_hello_deadline(PATIENCE)).unwrap_err();
            assert!(started.elapsed() < PATIENCE * 4, "{:?}", started.elapsed());
            assert!(far.road().met() > 0);
            far.road().clear();
            far.nothing_is_left();
            let GatewayError::Reach { source, .. } = error else { panic!("{error:?}") };
            source
        };
        for ways in [&Way::BOTH[..], &[Way::There], &[Way::Back]] {
            let dropped = failure(Fate::Dropped, ways);
            assert!(matches!(dropped, ReachError::Silent { after, .. } if after == PATIENCE), "{dropped:?}");
        }
        let refused = failure(Fate::Reset, &[Way::There]);
        assert!(matches!(&refused, ReachError::Refused { words } if words.contains("refused")), "{refused:?}");
        let changed = failure(Fate::Changed, &[Way::Back]);
        assert!(matches!(&changed, ReachError::Ended { words, .. } if !words.is_empty()), "{changed:?}");
    });
}

#[test]
fn connections_that_are_reset_end_in_the_words_of_ssh() {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        let (problem, message) = loses_its_link(&far, far.ssh(), Fate::Reset, &Way::BOTH);
        assert_eq!(problem, LinkProblem::Ended, "{message}");
        // Which of them depends on whether the client was reading or writing when it was told.
        let is_told = ["Connection reset by peer", "Broken pipe"].iter().any(|words| message.contains(words));
        assert!(is_told && message.contains("code 255"), "{message}");
    });
}

/// Over ssh the first byte of what each packet carries is another one.
#[track_caller]
fn is_changed(way: Way, expected: LinkProblem, words: &'static [&'static str]) {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        let (problem, message) = loses_its_link(&far, far.ssh(), Fate::Changed, &[way]);
        assert_eq!(problem, expected, "{message}");
        assert!(words.iter().any(|it| message.contains(it)), "{message}");
    });
}

#[test]
fn what_is_changed_on_the_way_back_is_told_in_the_words_of_ssh() {
    let words = &["Corrupted MAC on input", "Bad packet length", "message authentication code incorrect"];
    is_changed(Way::Back, LinkProblem::Corrupt, words);
}

#[test]
fn what_is_changed_on_the_way_there_makes_the_server_hang_up_without_a_word() {
    is_changed(Way::There, LinkProblem::Ended, &["closed by remote host", "Connection reset by peer", "Broken pipe"]);
}

#[test]
fn what_is_changed_where_nobody_else_looks_is_found_by_the_link() {
    let Some(plain) = Plain::make() else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        for way in Way::BOTH {
            let (problem, message) = loses_its_link(&plain.far, plain.spec(), Fate::Changed, &[way]);
            assert_eq!(problem, LinkProblem::Corrupt, "{way:?}: {message}");
            assert!(message.contains("checksum"), "{way:?}: {message}");
        }
    });
}

#[test]
fn packets_that_are_lost_are_sent_again() {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "messages over a bad road", move || {
        let group = group([far.ssh().with_heartbeat(LIMIT)]);
        let channel = run(&group[0], "echo");
        each_comes_back(&channel, 0..1);
        far.road().let_packets_be(Fate::LostNowAndThen, &Way::BOTH);
        each_comes_back(&channel, 1..60);
        assert!(far.road().met() > 0, "some were lost");
        far.road().clear();
        ends_well(&channel, group, &far);
    });
}

#[test]
fn a_road_that_is_closed_for_a_while_loses_nothing() {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "messages over a road that was closed", move || {
        let group = group([far.ssh().with_heartbeat(HEARTBEAT * 3)]);
        let (channel, computes) = (run(&group[0], "echo"), State::Computes.enter(&group[0]));
        each_comes_back(&channel, 0..5);
        far.road().let_packets_be(Fate::Dropped, &Way::BOTH);
        channel.send_bytes(b"sent while nothing gets through").unwrap();
        // Longer than packets wait before they are sent again, much shorter than a link may be silent.
        assert!(channel.receive_bytes_timeout(HEARTBEAT / 2).is_err());
        assert!(far.road().met() > 0, "some were dropped");
        far.road().clear();
        assert_eq!(channel.receive_bytes_timeout(LIMIT).unwrap(), b"sent while nothing gets through");
        each_comes_back(&channel, 5..10);
        assert_eq!(computes.outcome(), None);
        computes.kill().unwrap();
        ends_well(&channel, group, &far);
    });
}

#[test]
fn a_narrow_road_holds_up_and_loses_nothing() {
    const BYTES: u32 = 300_000;
    const KBYTES_PER_SECOND: u32 = 125;
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "messages over a narrow road", move || {
        let spec = far.ssh().with_heartbeat(HEARTBEAT * 3);
        let group = group([spec.clone(), spec]);
        let (bulk, channel) = (run(&group[0], "echo"), run(&group[1], "echo"));
        each_comes_back(&channel, 0..3);
        far.road().narrow(KBYTES_PER_SECOND);
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 3).to_le_bytes()[0]).collect();
        let started = Instant::now();
        bulk.send_bytes(bytes.clone()).unwrap();
        // They go behind what is on its way already, and so do beats.
        let mut longest = Duration::ZERO;
        for number in 3..6 {
            let sent = Instant::now();
            each_comes_back(&channel, number..number + 1);
            longest = longest.max(sent.elapsed());
        }
        assert!(bulk.receive_bytes_timeout(LIMIT).unwrap() == bytes);
        let took = started.elapsed();
        // Both are what the rate makes of it, and less.
        assert!(longest > HEARTBEAT / 20, "small messages were held up by no more than {longest:?}");
        assert!(took > Duration::from_millis((BYTES / KBYTES_PER_SECOND / 2).into()), "{took:?}");
        each_comes_back(&channel, 6..8);
        bulk.close_send();
        bulk.wait_close_timeout(LIMIT).unwrap();
        ends_well(&channel, group, &far);
    });
}

#[test]
fn packets_that_are_late_out_of_order_or_there_twice_change_nothing() {
    let Some(far) = Far::make() else { return };
    within(LIMIT * 2, "messages over a rough road", move || {
        let group = group([far.ssh()]);
        let channel = run(&group[0], "echo");
        each_comes_back(&channel, 0..1);
        if !far.road().roughen() {
            return skip("this kernel has no netem, so packets are neither put out of order nor sent twice here");
        }
        each_comes_back(&channel, 1..30);
        ends_well(&channel, group, &far);
    });
}
