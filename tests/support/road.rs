//! The road to another machine: a network namespace of its own that passes packets on between that machine and this one, as a
//! router does, until the kernel's filter (nft) and queues (tc) are told to do something else with them.
//!
//! ```text
//!  this machine ── cable ── inner [ the road: rules, queues ] far ── cable ── inner [ the machine ]
//! ```
//!
//! Neither machine is told of what happens in between, and neither kernel knows more of it than it would of a real network.

use crate::namespace::Namespace;
use crate::ssh::installed;

const NFT: &str = "/usr/sbin/nft";
/// Packets of a hundred that are lost, where some are.
const LOST_OF_A_HUNDRED: u32 = 8;

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those to the machine.
    There,
    /// Those that it sends.
    Back,
}

impl Way {
    /// Both ways.
    pub const BOTH: [Way; 2] = [Way::There, Way::Back];

    /// Where they come in.
    fn interface(self) -> &'static str {
        match self {
            Way::There => "inner",
            Way::Back => "far",
        }
    }

    /// Where they leave.
    fn leaves_by(self) -> &'static str {
        match self {
            Way::There => "far",
            Way::Back => "inner",
        }
    }
}

/// What becomes of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are gone, and nobody is told.
    Dropped,
    /// They are gone, and their sender is told that the connection is reset.
    Reset,
    /// The first byte of their data is 255, and their checksum fits it.
    Changed,
    /// Eight of a hundred are gone.
    LostNowAndThen,
}

impl Fate {
    /// As a rule of nft, with a count of the packets that met it.
    fn rule(self) -> String {
        match self {
            Fate::Dropped => "counter drop".to_owned(),
            // An answer to a reset would go to and fro.
            Fate::Reset => "tcp flags & rst != rst counter reject with tcp reset".to_owned(),
            Fate::Changed => "meta l4proto tcp @ih,0,8 set 0xff counter".to_owned(),
            Fate::LostNowAndThen => format!("numgen random mod 100 < {LOST_OF_A_HUNDRED} counter drop"),
        }
    }
}

/// What lies between this machine and another.
#[derive(Debug)]
pub struct Road {
    router: Namespace,
}

impl Road {
    /// One of several, by number, and the network at its far end; or why it cannot be. `None`, and a word about it, where
    /// there can be no networks at all.
    ///
    /// # Panics
    ///
    /// When `nft` is missing where it has to be there.
    pub(crate) fn make(number: u8) -> Option<Result<(Road, Namespace), String>> {
        if let Err(why) = installed(NFT, "nftables") {
            return Some(Err(why));
        }
        let road = Road { router: Namespace::make(number)? };
        let table = "add table ip road; add chain ip road forward { type filter hook forward priority 0; }";
        if !road.nft(table) {
            return Some(
                Err("this kernel has no nf_tables, so packets are not dropped, refused or changed".to_owned()),
            );
        }
        let network = road.router.make_behind().map(|network| (road, network));
        Some(network.ok_or_else(|| "no namespace passes packets on here".to_owned()))
    }

    /// From now on this becomes of the packets that go these ways, too.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn let_packets_be(&self, fate: Fate, ways: &[Way]) {
        let rule = |way: &Way| format!("add rule ip road forward iifname {} {}; ", way.interface(), fate.rule());
        let rules: String = ways.iter().map(rule).collect();
        assert!(self.nft(&rules), "{rules}");
    }

    /// From now on all packets get through.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn clear(&self) {
        assert!(self.nft("flush chain ip road forward"));
    }

    /// How many packets have met their fate since the road was clear.
    ///
    /// # Panics
    ///
    /// When the system does not tell.
    pub fn met(&self) -> u64 {
        let listed = self.router.output(&[NFT, "list", "chain", "ip", "road", "forward"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let counts = text.split("counter packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")).sum()
    }

    /// From now on so many bytes of 1000 get through in a second, each way. The others wait, up to 400 ms; those for which the
    /// queue is too long by then are dropped.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn narrow(&self, kbytes_per_second: u32) {
        let rate = format!("{}kbit", kbytes_per_second * 8);
        assert!(self.queue(&["tbf", "rate", &rate, "burst", "8kb", "latency", "400ms"]), "a queue with a rate");
    }

    /// From now on packets take 20 ms more each way, give or take 10, some overtake others and some come twice; false where
    /// the kernel cannot do that.
    pub fn roughen(&self) -> bool {
        self.queue(&["netem", "delay", "20ms", "10ms", "reorder", "10%", "duplicate", "5%"])
    }

    fn queue(&self, words: &[&str]) -> bool {
        Way::BOTH.iter().all(|way| {
            let place = ["tc", "qdisc", "replace", "dev", way.leaves_by(), "root"];
            self.router.output(&[&place[..], words].concat()).status.success()
        })
    }

    fn nft(&self, rules: &str) -> bool {
        self.router.output(&[NFT, rules]).status.success()
    }
}
