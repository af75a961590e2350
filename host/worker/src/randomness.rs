//! Where a guest's random numbers come from.

use sandgate_wire::grants::Random;
use sha2::{Digest, Sha256};

/// Fills bytes with random numbers.
pub(crate) type Fill = dyn FnMut(&mut [u8]) + Send;

/// The source that was granted; none if none was.
pub(crate) fn source(random: Random) -> Option<Box<Fill>> {
    match random {
        Random::Seeded(seed) => {
            let mut seeded = Seeded::new(seed);
            Some(Box::new(move |bytes| seeded.fill(bytes)))
        }
        Random::Off => None,
        // And what a later version may add is not for this one to weaken.
        _ => {
            let mut random = wasmtime_wasi::random::thread_rng();
            Some(Box::new(move |bytes| random.fill_bytes(bytes)))
        }
    }
}

/// SHA-256 in counter mode: block *n* is the hash of `sandgate random`, the seed and *n*, both as 8 little-endian bytes.
struct Seeded {
    seed: u64,
    next: u64,
    block: [u8; 32],
    used: usize,
}

impl Seeded {
    fn new(seed: u64) -> Seeded {
        Seeded { seed, next: 0, block: [0; 32], used: 32 }
    }

    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.used == self.block.len() {
                let mut hash = Sha256::new();
                hash.update(b"sandgate random");
                hash.update(self.seed.to_le_bytes());
                hash.update(self.next.to_le_bytes());
                self.block = hash.finalize().into();
                self.next += 1;
                self.used = 0;
            }
            let count = bytes.len().min(self.block.len() - self.used);
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(&self.block[self.used..self.used + count]);
            self.used += count;
            bytes = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_however_they_are_asked_for() {
        let (mut whole, mut parts, mut other) = ([0; 100], [0; 100], [0; 100]);
        Seeded::new(7).fill(&mut whole);
        let mut seeded = Seeded::new(7);
        parts.chunks_mut(7).for_each(|part| seeded.fill(part));
        Seeded::new(8).fill(&mut other);
        assert_eq!(whole, parts);
        assert_ne!(whole, other);
        let first = Sha256::digest([&b"sandgate random"[..], &7_u64.to_le_bytes(), &0_u64.to_le_bytes()].concat());
        assert_eq!(whole[..32], first[..]);
    }
}
