//! Networks of their own: a network namespace with one address, at the other end of a cable that can be pulled.

use rustix::process::Signal;

use crate::command::output;
use crate::fixtures::repository;
use crate::remote::LIMIT;
use crate::ssh::skip;
use crate::waiting::eventually;
use crate::watched::Watched;

/// A network with one address. What is started in it is a machine, as far as a network can tell.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    cable: String,
    net: String,
}

impl Namespace {
    /// One of several, by number. `None`, and a word about it, where this process may not make one.
    pub fn make(number: u8) -> Option<Namespace> {
        let id = std::process::id();
        let net = format!("10.{}.{}", 213 + number, id % 250);
        let namespace = Namespace { name: format!("sandgate-{id}-{number}"), cable: format!("sg{id}n{number}"), net };
        let Namespace { name, cable, net } = &namespace;
        let steps = [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name inner netns {name}"),
            format!("addr add {net}.1/24 dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} addr add {net}.2/24 dev inner"),
            format!("-n {name} link set inner up"),
        ];
        match steps.iter().all(|step| ip(step)) {
            true => Some(namespace),
            false => {
                skip("no network namespace can be made here; it needs root and iproute2");
                None
            }
        }
    }

    /// What the system calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address in it.
    pub fn address(&self) -> String {
        format!("{}.2", self.net)
    }

    /// This machine's address, as it has it.
    pub fn address_of_this_machine(&self) -> String {
        format!("{}.1", self.net)
    }

    /// Nothing gets in or out any more.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn pull_the_cable(&self) {
        assert!(ip(&format!("link set {} down", self.cable)));
    }

    /// Undoes that.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn plug_it_in(&self) {
        assert!(ip(&format!("link set {} up", self.cable)));
    }

    /// Sends a signal to every process in it.
    pub fn signal(&self, signal: Signal) {
        self.processes().iter().for_each(|process| process.signal(signal));
    }

    /// Kills every process in it, and waits until none is left.
    ///
    /// # Panics
    ///
    /// When one is.
    pub fn kill_all(&self) {
        eventually(LIMIT, "every process of a machine to be gone", || {
            self.signal(Signal::KILL);
            self.processes().is_empty()
        });
    }

    /// Every process in it.
    pub fn processes(&self) -> Vec<Watched> {
        let pids = output("ip", &["netns", "pids", &self.name], repository());
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        pids.lines().filter_map(|pid| pid.trim().parse().ok()).filter_map(Watched::find).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        ip(&format!("link del {}", self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    if !std::path::Path::new("/usr/sbin/ip").exists() && !std::path::Path::new("/sbin/ip").exists() {
        return false;
    }
    let arguments: Vec<&str> = arguments.split(' ').collect();
    output("ip", &arguments, repository()).status.success()
}
