//! Groups, gateways and modules as tests make them: of the worker under test, with a cache of compiled modules that is the
//! tests' own and not the user's.

use std::path::PathBuf;
use std::time::Duration;

use guest_protocol::{Action, Answer, Op};
use sandgate::{Call, Channel, Gateway, Group, GroupBuilder, Module, OutputSink, Spec};
use serde::Serialize;

use crate::fixtures::{guest, repository, worker};

/// How long anything may take that takes milliseconds on an idle machine. A wait that lasts longer is a test that fails.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A gateway of this machine that runs the worker under test.
pub fn popen() -> Spec {
    Spec::popen().worker(worker())
}

/// The spec that `text` says, with the worker under test.
///
/// # Panics
///
/// When `text` is no spec.
#[track_caller]
pub fn spec(text: &str) -> Spec {
    match text.parse::<Spec>() {
        Ok(spec) => spec.worker(worker()),
        Err(error) => panic!("{error}"),
    }
}

/// The start of a group with the tests' own cache, whose guests print into the void: most of them are made to fail.
pub fn builder() -> GroupBuilder {
    Group::builder().cache(Some(cache_dir())).default_spec(popen()).output(OutputSink::Discard)
}

/// A group with a gateway for each of `specs`.
///
/// # Panics
///
/// When one of them cannot be made.
#[track_caller]
pub fn group(specs: &[&str]) -> Group {
    let group = builder().build();
    match group.make_gateways(specs.iter().map(|text| spec(text))) {
        Ok(_) => group,
        Err(error) => panic!("no group of {specs:?}: {error:?}"),
    }
}

/// The module of the guest `name`.
///
/// # Panics
///
/// When there is no such guest.
#[track_caller]
pub fn module(name: &str) -> Module {
    Module::from_file(guest(name)).expect("a module that was built")
}

/// Runs the guest `name` on `gateway`.
///
/// # Panics
///
/// When the gateway does not accept it.
#[track_caller]
pub fn run(gateway: &Gateway, name: &str) -> Channel {
    gateway.remote_exec(&module(name)).unwrap_or_else(|error| panic!("`{name}` does not run: {error:?}"))
}

/// Runs the guest `name` on `gateway` with an argument.
///
/// # Panics
///
/// When the gateway does not accept it.
#[track_caller]
pub fn run_with<T: Serialize>(gateway: &Gateway, name: &str, argument: &T) -> Channel {
    let call = Call::start().args(argument).expect("an argument that can be sent");
    gateway.remote_exec_with(&module(name), &call).unwrap_or_else(|error| panic!("`{name}` does not run: {error:?}"))
}

/// The guest `ops`, which does what it is told.
#[derive(Debug)]
pub struct Ops {
    /// Its task channel. `ops` takes operations from it and answers each of them.
    pub channel: Channel,
}

impl Ops {
    /// Starts it on `gateway`.
    ///
    /// # Panics
    ///
    /// When the gateway does not accept it.
    #[track_caller]
    pub fn start(gateway: &Gateway) -> Ops {
        Ops { channel: run(gateway, "ops") }
    }

    /// Sends an operation and does not wait for the answer.
    ///
    /// # Panics
    ///
    /// When it cannot be sent.
    #[track_caller]
    pub fn tell(&self, op: Op<Channel>) {
        self.channel.send_timeout(&op, LIMIT).expect("`ops` takes an operation");
    }

    /// Waits for the answer to an operation.
    ///
    /// # Panics
    ///
    /// When none comes.
    #[track_caller]
    pub fn answer(&self) -> Answer<Channel> {
        self.channel.receive_timeout(LIMIT).expect("`ops` answers")
    }

    /// Has an operation done.
    ///
    /// # Panics
    ///
    /// When no answer comes.
    #[track_caller]
    pub fn ask(&self, op: Op<Channel>) -> Answer<Channel> {
        self.tell(op);
        self.answer()
    }

    /// Does something with the channel at a position of the guest's list; see [`Op::On`].
    ///
    /// # Panics
    ///
    /// When no answer comes.
    #[track_caller]
    pub fn on(&self, position: u32, action: Action) -> Answer<Channel> {
        self.ask(Op::On(position, action))
    }

    /// Passes a channel, which then is at the end of the guest's list.
    ///
    /// # Panics
    ///
    /// When the guest does not take it.
    #[track_caller]
    pub fn take(&self, channel: &Channel) {
        assert_eq!(self.ask(Op::Take(channel.clone())), Answer::Done);
    }

    /// Has the guest make a channel, which then is at the end of its list.
    ///
    /// # Panics
    ///
    /// When it makes none.
    #[track_caller]
    pub fn new_channel(&self) -> Channel {
        match self.ask(Op::New) {
            Answer::Channel(channel) => channel,
            other => panic!("`ops` makes no channel: {other:?}"),
        }
    }

    /// Has the guest return, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    #[track_caller]
    pub fn finish(&self) {
        self.tell(Op::Return);
        self.channel.wait_close_timeout(LIMIT).expect("`ops` returns");
    }
}

/// Where the tests keep compiled modules.
pub fn cache_dir() -> PathBuf {
    repository().join("target").join("test-fixtures").join("artefacts")
}
