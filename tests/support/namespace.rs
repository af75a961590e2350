//! Networks of their own: a network namespace with one address, at the other end of a cable that can be pulled. The other end
//! is this machine, or another namespace.

use std::process::Output;

use rustix::process::Signal;

use crate::command::output;
use crate::fixtures::repository;
use crate::remote::LIMIT;
use crate::ssh::skip;
use crate::waiting::eventually;
use crate::watched::Watched;

/// Nets of 24 bits that cables are laid in, from 10.213.0.0 on.
const NETS: u32 = 10_000;
/// Cables of others that may be in the way.
const ATTEMPTS: u32 = 8;

/// A network with one address. What is started in it is a machine, as far as a network can tell.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// How `ip` is told of this end of the cable's namespace, if it is not this process's.
    outside: String,
    cable: String,
    net: String,
    /// The end of the address in it.
    inside: u8,
}

impl Namespace {
    /// One of several, by number. `None`, and a word about it, where this process may not make one.
    pub fn make(number: u8) -> Option<Namespace> {
        let id = std::process::id();
        let name = format!("sandgate-{id}-{number}");
        // Other processes make some too. A cable has its name once, and with it the net is taken.
        let first = id + u32::from(number) * 97;
        let mut nets = (first..first + ATTEMPTS).map(|net| net % NETS);
        let net =
            ip(&format!("netns add {name}")).then(|| nets.find(|net| lay_cable("", &cable_of(*net), &name))).flatten();
        let made = net.map(|net| Namespace {
            name: name.clone(),
            outside: String::new(),
            cable: cable_of(net),
            net: format!("10.{}.{}", 213 + net / 250, net % 250),
            inside: 2,
        });
        let made = made.filter(|it| it.set_up(1, 24));
        if made.is_none() {
            ip(&format!("netns del {name}"));
            skip("no network namespace can be made here; it needs root and iproute2");
        }
        made
    }

    /// One behind this one, which then passes packets on between it and this machine; `None` where that cannot be. At this
    /// one's end of the cable, the cable is called `far`.
    pub(crate) fn make_behind(&self) -> Option<Namespace> {
        let Namespace { name: router, net, .. } = self;
        let namespace = Namespace {
            name: format!("{router}-far"),
            outside: format!("-n {router} "),
            cable: "far".to_owned(),
            net: net.clone(),
            inside: 6,
        };
        let Namespace { name, outside, cable, .. } = &namespace;
        let made = ip(&format!("netns add {name}"))
            && lay_cable(outside, cable, name)
            && namespace.set_up(5, 30)
            && ip(&format!("-n {name} route add default via {net}.5"))
            && ip(&format!("route add {net}.4/30 via {net}.2"))
            && self.output(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).status.success();
        made.then_some(namespace)
    }

    /// Gives both ends of the cable their addresses; the one outside ends with `outer`.
    fn set_up(&self, outer: u8, prefix: u8) -> bool {
        let Namespace { name, outside, cable, net, inside } = self;
        let steps = [
            format!("{outside}addr add {net}.{outer}/{prefix} dev {cable}"),
            format!("{outside}link set {cable} up"),
            format!("-n {name} addr add {net}.{inside}/{prefix} dev inner"),
            format!("-n {name} link set inner up"),
        ];
        steps.iter().all(|step| ip(step))
    }

    /// Runs a command in it to its end.
    pub(crate) fn output(&self, command: &[&str]) -> Output {
        output("ip", &[&["netns", "exec", &self.name][..], command].concat(), repository())
    }

    /// What the system calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address in it.
    pub fn address(&self) -> String {
        format!("{}.{}", self.net, self.inside)
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
        assert!(ip(&format!("{}link set {} down", self.outside, self.cable)));
    }

    /// Undoes that.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn plug_it_in(&self) {
        assert!(ip(&format!("{}link set {} up", self.outside, self.cable)));
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
        ip(&format!("{}link del {}", self.outside, self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

/// The name of the cable that a net has.
fn cable_of(net: u32) -> String {
    format!("sandgate{net}")
}

/// False if there is one of its name.
fn lay_cable(outside: &str, cable: &str, namespace: &str) -> bool {
    ip(&format!("{outside}link add {cable} type veth peer name inner netns {namespace}"))
}

fn ip(arguments: &str) -> bool {
    if !std::path::Path::new("/usr/sbin/ip").exists() && !std::path::Path::new("/sbin/ip").exists() {
        return false;
    }
    let arguments: Vec<&str> = arguments.split(' ').collect();
    output("ip", &arguments, repository()).status.success()
}
