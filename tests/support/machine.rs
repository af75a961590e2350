//! A machine, as far as a network can tell: a network of its own with an OpenSSH server in it, which can fail in several ways.
//! Between it and this one lies a [`Road`], where that can be.

use std::ffi::OsStr;
use std::fs;

use rustix::process::Signal;

use crate::command::{Running, start};
use crate::fixtures::worker;
use crate::namespace::Namespace;
use crate::road::{Fate, Road, Way};
use crate::shipped::variables;
use crate::ssh::{SshServer, skip};
use crate::watched::Watched;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing in it runs.
    Frozen,
    /// Nothing gets in or out, and nobody is told.
    CutOff,
    /// All of its processes are gone.
    Killed,
    /// Nothing gets in.
    Deaf,
    /// Nothing gets out.
    Mute,
}

impl Failure {
    /// All there are.
    pub const ALL: [Failure; 5] = [Failure::Frozen, Failure::CutOff, Failure::Killed, Failure::Deaf, Failure::Mute];
}

/// A network of its own with a server in it.
#[derive(Debug)]
pub struct Machine {
    /// The network.
    pub network: Namespace,
    /// The server.
    pub server: SshServer,
    /// The way to it, or why it is a mere cable.
    road: Result<Road, String>,
}

impl Machine {
    /// One of several, by number. `None`, and a word about it, where this process may not make one.
    pub fn make(number: u8) -> Option<Machine> {
        let (network, road) = match Road::make(number)? {
            Ok((road, network)) => (network, Ok(road)),
            Err(why) => (Namespace::make(number)?, Err(why)),
        };
        let server = SshServer::start_in(network.name(), &network.address())?;
        Some(Machine { network, server, road })
    }

    /// The road to it; `None`, and a word about it, where there can be none.
    pub fn road(&self) -> Option<&Road> {
        match &self.road {
            Ok(road) => Some(road),
            Err(why) => {
                skip(why);
                None
            }
        }
    }

    /// Starts `sandgate` in it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self, words: &[&str]) -> Running {
        let worker = worker().to_str().expect("a path that is text");
        let words = [&["netns", "exec", self.network.name(), worker], words].concat();
        let path: [(&str, &OsStr); 1] = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".as_ref())];
        start("ip", &words, &[&variables()[..], &path].concat())
    }

    /// Lets it fail.
    ///
    /// # Panics
    ///
    /// When the system refuses, or a process is left of one that is killed.
    pub fn fail(&self, failure: Failure) {
        match failure {
            Failure::Frozen => self.network.signal(Signal::STOP),
            Failure::CutOff => self.cut(&Way::BOTH),
            Failure::Deaf => self.cut(&[Way::There]),
            Failure::Mute => self.cut(&[Way::Back]),
            Failure::Killed => self.network.kill_all(),
        }
    }

    /// Where there is no road the whole cable is pulled.
    fn cut(&self, ways: &[Way]) {
        match &self.road {
            Ok(road) => road.let_packets_be(Fate::Dropped, ways),
            Err(_) => self.network.pull_the_cable(),
        }
    }

    /// It is there again; of what was killed the server alone.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn recover(&mut self, failure: Failure) {
        match failure {
            Failure::Frozen => self.network.signal(Signal::CONT),
            Failure::CutOff | Failure::Deaf | Failure::Mute => match &self.road {
                Ok(road) => road.clear(),
                Err(_) => self.network.plug_it_in(),
            },
            Failure::Killed => self.server.start_again(),
        }
    }

    /// The processes in it whose command line has this word.
    pub fn processes_with(&self, word: &str) -> Vec<Watched> {
        let has_it = |process: &Watched| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|it| String::from_utf8_lossy(it).contains(word))
        };
        self.network.processes().into_iter().filter(has_it).collect()
    }
}
