//! ssh to a host where nothing is installed: the agent is found there, or copied there over the same connection.
//!
//! ```text
//!  host                                   the shell of the other side, running the script below
//!   │                                      ├─ an agent of this hash in the cache, whole ──► becomes it
//!   │◄─ NEED platform, installed version ──┤
//!   ├─ path ──────────────────────────────►├─ the installed version is the same ──────────► becomes it
//!   ├─ copy SIZE, the binary ─────────────►├─ writes it, checks its SHA-256, names it ────► becomes it
//!   │◄─ FAIL why ──────────────────────────┤
//! ```
//!
//! The script is a constant. What is added to it on the command line is a hash in hexadecimal and a size, and nothing else: neither a
//! spec nor the other side can write into what a shell reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sandgate_wire::link::message::platform;
use sha2::{Digest, Sha256};

use super::error::ReachError;
use super::launcher::Launched;
use crate::error::LaunchError;
use crate::worker_binary;

/// What ssh has a shell run on the other side. Without single quotes, exclamation marks, backslashes and line breaks, so that
/// every login shell passes it on as it is. Its standard input is read byte by byte up to the first line break, and then to
/// the byte, so that what follows belongs to the agent.
pub(super) const SCRIPT: &str = concat!(
    r#"umask 077; h=$1; l=$2; d="${XDG_CACHE_HOME:-$HOME/.cache}/sandgate/agents"; f="$d/$h"; "#,
    r#"if test -x "$f" && test $(wc -c < "$f") -eq "$l"; then exec "$f" __sandgate-agent; fi; "#,
    r#"echo "SANDGATE NEED $(uname -s) $(uname -m) $(sandgate --version 2>/dev/null)"; "#,
    r#"read -r a n || exit 1; "#,
    r#"case "$a" in path) exec sandgate __sandgate-agent;; copy) ;; *) exit 1;; esac; "#,
    r#"fail() { rm -f "$t"; echo "SANDGATE FAIL $1"; exit 1; }; "#,
    r#"t="$f.$$"; mkdir -p "$d" || fail "cannot make the directory $d"; "#,
    r#"head -c "$n" > "$t" || fail "cannot write the file $t"; "#,
    r#"if command -v sha256sum > /dev/null 2>&1; then s=$(sha256sum < "$t"); "#,
    r#"elif command -v shasum > /dev/null 2>&1; then s=$(shasum -a 256 < "$t"); "#,
    r#"else fail "there is neither sha256sum nor shasum"; fi; "#,
    r#"test "x${s%% *}" = "x$h" || fail "what arrived does not have the SHA-256 of what was sent"; "#,
    r#"chmod 700 "$t" && mv -f "$t" "$f" || fail "cannot name the file $f"; "#,
    r#"exec "$f" __sandgate-agent"#,
);

const NEED: &[u8] = b"SANDGATE NEED ";
const FAIL: &[u8] = b"SANDGATE FAIL ";
/// Longest line of the script that is understood.
const MAX_LINE_BYTES: usize = 4096;
/// What is hashed or sent in one go.
const PIECE_BYTES: usize = 64 * 1024;
/// The hash of a binary that there is not.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The binary that can be copied, if there is one here.
#[derive(Debug)]
pub(super) struct Binary {
    path: Option<PathBuf>,
    hash: String,
    bytes: u64,
    /// Somebody said which one, so it is for the other side's platform.
    is_named: bool,
}

/// What the script says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// No agent is there.
    Need { platform: String, installed: String },
    /// It could not be copied.
    Fail(String),
}

/// The last line of the script's in what was read so far, if all of it is there.
pub(super) fn find(seen: &[u8]) -> Option<(Said, usize)> {
    let mut from = 0;
    loop {
        let end = from + seen[from..].iter().position(|byte| *byte == b'\n')?;
        let line = &seen[from..end];
        let text = |line: &[u8]| String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]).trim().to_owned();
        if let Some(rest) = line.strip_prefix(FAIL) {
            return Some((Said::Fail(text(rest)), end + 1));
        }
        if let Some(rest) = line.strip_prefix(NEED) {
            let rest = text(rest);
            let mut words = rest.splitn(3, ' ');
            let (system, machine) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let platform = format!("{} {machine}", system.to_ascii_lowercase());
            let installed = words.next().unwrap_or_default().trim().to_owned();
            return Some((Said::Need { platform, installed }, end + 1));
        }
        from = end + 1;
    }
}

impl Binary {
    /// The one that is named, or the one that this process would start as its own worker and that can be an agent. Computing
    /// its hash takes a moment, the first time.
    pub(super) fn find(named: Option<&Path>) -> Result<Binary, ReachError> {
        let path = match named {
            Some(named) => Some(std::path::absolute(named).map_err(ReachError::resources)?),
            None => match worker_binary::find_agent() {
                Ok(path) => Some(path),
                Err(LaunchError::Resources(error)) => return Err(ReachError::resources(error)),
                Err(_) => None,
            },
        };
        let (hash, bytes) = match &path {
            Some(path) => hash_of(path).map_err(|source| ReachError::Copy {
                problem: format!("cannot read `{}`: {source}", path.display()),
                words: String::new(),
            })?,
            None => (NO_HASH.to_owned(), 0),
        };
        Ok(Binary { path, hash, bytes, is_named: named.is_some() })
    }

    /// What the script is told of it.
    pub(super) fn arguments(&self) -> String {
        format!("{} {}", self.hash, self.bytes)
    }

    /// Answers the script: it is to take what is installed, or gets the binary.
    pub(super) fn provide(
        &self,
        launched: &Launched,
        theirs: &str,
        installed: &str,
        patience: Duration,
    ) -> Result<(), ReachError> {
        if installed.strip_prefix("sandgate ") == Some(env!("CARGO_PKG_VERSION")) {
            return launched.write(b"path 0\n").map_err(|_| launched.has_ended());
        }
        let ours = platform();
        if theirs != ours && !self.is_named {
            let theirs = theirs.to_owned();
            return Err(launched.refuse(ReachError::Platform { theirs, ours }));
        }
        let failed = |problem: String| launched.refuse(ReachError::Copy { problem, words: String::new() });
        let Some(path) = &self.path else {
            return Err(failed("there is no `sandgate` binary here to be copied (setting `agent=`)".to_owned()));
        };
        let unreadable = |error: io::Error| failed(format!("cannot read `{}`: {error}", path.display()));
        let mut file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        tracing::info!("copying `{}`, {bytes} bytes, to a host that does not have it", path.display());
        let watchdog = &Watchdog::default();
        let (sending, launcher) = (&*launched.send, &launched.launcher);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                watchdog.watch(patience, || {
                    sending.shutdown();
                    launcher.kill();
                });
            });
            let result = send(launched, &mut file, bytes, watchdog);
            watchdog.done();
            match result {
                Ok(()) => Ok(()),
                Err(Sending::Read(error)) => Err(unreadable(error)),
                Err(Sending::Write) if watchdog.has_bitten() => Err(launched.is_silent(patience)),
                Err(Sending::Write) => Err(launched.has_ended()),
            }
        })
    }
}

enum Sending {
    Read(io::Error),
    Write,
}

fn send(launched: &Launched, file: &mut File, bytes: u64, watchdog: &Watchdog) -> Result<(), Sending> {
    launched.write(format!("copy {bytes}\n").as_bytes()).map_err(|_| Sending::Write)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let count = file.read(&mut buffer[..most]).map_err(Sending::Read)?;
        if count == 0 {
            return Err(Sending::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        launched.write(&buffer[..count]).map_err(|_| Sending::Write)?;
        left -= count as u64;
        watchdog.progress();
    }
    Ok(())
}

/// Bites when there was no progress for a while.
#[derive(Debug, Default)]
struct Watchdog {
    state: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    steps: u64,
    is_done: bool,
    has_bitten: bool,
}

impl Watchdog {
    fn watch(&self, patience: Duration, bite: impl FnOnce()) {
        let mut state = self.state.lock();
        let mut seen = state.steps;
        while !state.is_done {
            if self.changed.wait_for(&mut state, patience).timed_out() {
                if state.steps == seen && !state.is_done {
                    state.has_bitten = true;
                    drop(state);
                    return bite();
                }
                seen = state.steps;
            }
        }
    }

    fn progress(&self) {
        self.state.lock().steps += 1;
    }

    fn done(&self) {
        self.state.lock().is_done = true;
        self.changed.notify_all();
    }

    fn has_bitten(&self) -> bool {
        self.state.lock().has_bitten
    }
}

/// The SHA-256 of a file, in hexadecimal, and its size. The last one is kept.
fn hash_of(path: &Path) -> io::Result<(String, u64)> {
    type Last = Option<(PathBuf, std::time::SystemTime, u64, String)>;
    static LAST: OnceLock<Mutex<Last>> = OnceLock::new();
    let mut last = LAST.get_or_init(Mutex::default).lock();
    let metadata = std::fs::metadata(path)?;
    let (changed, bytes) = (metadata.modified()?, metadata.len());
    if let Some((known, at, length, hash)) = &*last
        && (known, *at, *length) == (&path.to_owned(), changed, bytes)
    {
        return Ok((hash.clone(), bytes));
    }
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    let hash: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    *last = Some((path.to_owned(), changed, bytes, hash.clone()));
    Ok((hash, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent;

    #[test]
    fn the_script_stays_within_its_quotes() {
        assert!(!SCRIPT.contains(['\'', '!', '\\', '\n']), "every login shell reads it the same way");
        assert!(SCRIPT.matches(agent::AGENT_ARGUMENT).count() == 3);
    }

    #[test]
    fn what_the_script_says_is_found_among_noise() {
        let need = |platform: &str, installed: &str| Said::Need {
            platform: platform.to_owned(),
            installed: installed.to_owned(),
        };
        let check = |seen: &[u8], expected: Option<Said>| assert_eq!(find(seen).map(|(said, _)| said), expected);
        check(b"motd\nSANDGATE NEED Linux x86_64 sandgate 0.1.0\n", Some(need("linux x86_64", "sandgate 0.1.0")));
        check(b"SANDGATE NEED Darwin arm64 \n", Some(need("darwin arm64", "")));
        check(b"SANDGATE NEED Linux\n", Some(need("linux ", "")));
        check(b"a\nSANDGATE FAIL no room\n", Some(Said::Fail("no room".to_owned())));
        check(b"SANDGATE NEED Linux x86_64", None);
        check(b" SANDGATE NEED Linux x86_64\n\n", None);
        check(b"", None);
    }
}
