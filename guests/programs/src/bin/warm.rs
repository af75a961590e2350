//! A module that is pre-initialised: what its init functions leave is there for `main` and the tasks, in each fresh instance.
//!
//! `main` sends how many words were loaded, and how often it has run in this instance.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::InitEnd;
use sandgate_guest::{Error, Result, channel, init, task};

static WORDS: OnceLock<Vec<String>> = OnceLock::new();
static CHANCE: OnceLock<(u64, u64)> = OnceLock::new();
static KEPT: OnceLock<Vec<u8>> = OnceLock::new();
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Loads the words of a text.
///
/// They are sorted.
#[init]
fn load(text: String, least: u32) -> Result {
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    words.sort();
    println!("{} words are loaded", words.len());
    if (words.len() as u64) < u64::from(least) {
        return Err(Error::msg(format!("{} words are too few", words.len())));
    }
    WORDS.set(words).map_err(|_| Error::msg("words were loaded before"))
}

/// Keeps a random number, and the time in nanoseconds.
#[init]
fn by_chance() {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let _ = CHANCE.set((RandomState::new().hash_one(1_u8), time));
}

/// Ends as it is told.
#[init]
fn ends(how: InitEnd) -> Result {
    match how {
        InitEnd::Panic(text) => panic!("{text}"),
        InitEnd::Exit(code) => std::process::exit(code),
        InitEnd::Fail(text) => return Err(Error::msg(text)),
        InitEnd::Receive => channel().receive::<()>()?,
        InitEnd::Send => channel().send(&1_u8)?,
        InitEnd::NewChannel => drop(sandgate_guest::new_channel()?),
        InitEnd::Loop => loop {
            std::hint::spin_loop();
        },
        InitEnd::Sleep => std::thread::sleep(Duration::from_secs(3600)),
        InitEnd::Bomb => {
            let mut bomb = Vec::new();
            loop {
                bomb.push(vec![1_u8; 1 << 20]);
            }
        }
        InitEnd::Recurse => {
            println!("{}", recurse(1));
        }
        InitEnd::Print => loop {
            println!("{}", "x".repeat(1000));
        },
        InitEnd::Keep(bytes) => {
            let _ = KEPT.set((0..bytes).map(|byte| byte.to_le_bytes()[0] | 1).collect());
        }
    }
    Ok(())
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    recurse(std::hint::black_box(depth) + 1) + depth
}

/// Whether a word was loaded.
#[task]
fn has(word: String) -> bool {
    WORDS.get().is_some_and(|words| words.binary_search(&word).is_ok())
}

/// How often a task or `main` has run in this instance.
#[task]
fn runs() -> u32 {
    RUNS.fetch_add(1, Ordering::Relaxed) + 1
}

/// The random number and the time that the init function has kept.
#[task]
fn chance() -> Option<(u64, u64)> {
    CHANCE.get().copied()
}

/// A random number of now.
#[task]
fn drawn() -> u64 {
    // Its keys are drawn once in a thread, which is before the snapshot.
    RandomState::new().hash_one(1_u8)
}

/// How many bytes were kept.
#[task]
fn kept() -> u64 {
    KEPT.get().map_or(0, |kept| kept.len() as u64)
}

/// Panics, to see that the host is told.
#[task]
fn panics() {
    panic!("boom after init");
}

fn main() -> Result {
    let words = WORDS.get().map_or(0, Vec::len) as u64;
    channel().send(&(words, runs()))?;
    Ok(())
}
