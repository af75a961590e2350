//! Names of things on the wire. Each is a newtype, so that one cannot stand where another is meant.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};

/// Names a channel within one connection, and the execution whose own channel it is.
///
/// Ids are never used twice within a connection, so a late kill cannot reach a later execution. The host makes odd ids,
/// the worker even ones; 0 names the connection itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChannelId(pub u64);

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Makes odd channel ids.
    Host,
    /// Makes even channel ids.
    Worker,
}

impl ChannelId {
    /// The connection itself, for messages that belong to no channel.
    pub const CONNECTION: ChannelId = ChannelId(0);

    /// The first id that `side` gives out.
    pub const fn first(side: Side) -> ChannelId {
        match side {
            Side::Host => ChannelId(1),
            Side::Worker => ChannelId(2),
        }
    }

    /// The id that the same side gives out next.
    pub const fn next(self) -> ChannelId {
        // 2^63 ids last for ages; wrapping is still better than a panic that a peer could cause.
        ChannelId(self.0.wrapping_add(2))
    }

    /// The side that gave this id out.
    pub const fn side(self) -> Side {
        if self.0 % 2 == 1 { Side::Host } else { Side::Worker }
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A map of what belongs to channels.
pub type ChannelMap<V> = HashMap<ChannelId, V, ChannelHashes>;

/// Hashes channel ids with two multiplications, since each message is looked up by its id. A peer that chooses ids does not
/// know the seed, so it cannot choose those that collide.
#[derive(Debug, Clone, Copy)]
pub struct ChannelHashes {
    seed: u64,
}

/// The hash of one id.
#[derive(Debug)]
pub struct ChannelHash(u64);

impl Default for ChannelHashes {
    fn default() -> ChannelHashes {
        ChannelHashes { seed: RandomState::new().hash_one(0_u64) }
    }
}

impl BuildHasher for ChannelHashes {
    type Hasher = ChannelHash;

    fn build_hasher(&self) -> ChannelHash {
        ChannelHash(self.seed)
    }
}

impl Hasher for ChannelHash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = fold(self.0 ^ number, FACTOR ^ self.0.rotate_left(32) | 1);
    }

    fn finish(&self) -> u64 {
        // Once more: ids follow each other at one distance, and some seeds would leave few values of the low bits.
        fold(self.0, FACTOR)
    }
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of a product of 128 bits: each of its bits depends on many of both factors.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    let (low, high) = (product & u128::from(u64::MAX), product >> 64);
    u64::try_from(low ^ high).expect("both halves have 64 bits")
}

/// The SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleId(pub [u8; 32]);

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_gives_out_its_own_ids() {
        let mut host = ChannelId::first(Side::Host);
        let mut worker = ChannelId::first(Side::Worker);
        for _ in 0..100 {
            assert_eq!((host.side(), worker.side()), (Side::Host, Side::Worker));
            host = host.next();
            worker = worker.next();
        }
        assert_eq!(ChannelId::CONNECTION.side(), Side::Worker, "a host never gives out the connection's id");
    }

    #[test]
    fn hashes_of_ids_differ_and_depend_on_the_seed() {
        for seed in 0..100 {
            let one = ChannelHashes { seed: fold(seed + 1, FACTOR) };
            let other = ChannelHashes::default();
            let mut buckets = vec![0; 1 << 12];
            for number in 0..1_u64 << 14 {
                let id = ChannelId(number * 2);
                buckets[usize::try_from(one.hash_one(id) % (1 << 12)).unwrap()] += 1;
                assert_ne!(one.hash_one(id), other.hash_one(id));
            }
            let most = buckets.iter().max().unwrap();
            assert!(*most < 32, "seed {:x} has {most} in one of them; four each, had they been dealt out", one.seed);
        }
    }

    #[test]
    fn a_module_id_prints_all_of_its_digits() {
        let id = ModuleId([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(format!("{id:?}"), "abababababab…");
    }
}
