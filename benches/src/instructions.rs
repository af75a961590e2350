//! Counts the instructions of the hot paths under valgrind, and compares them with those of `benches/instructions.json`. A count
//! is nearly the same in every run, also on a machine that has other things to do, so what became slower shows.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::peer;

/// Each path is taken so often and so often; what starts and ends the process is in both counts.
const TIMES: [u64; 2] = [100, 1100];

/// Instructions by path.
type Counts = BTreeMap<String, u64>;

/// Counts every path, prints a table, and says whether none has grown by more than `most` percent. The counts are to be compared with
/// from then on, if they are to be written.
pub(crate) fn run(write: bool, most: Option<f64>) -> Result<bool> {
    if cfg!(debug_assertions) && (write || most.is_some()) {
        bail!("not optimised, so no count counts: `cargo xtask bench instructions` builds in release");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let before = read(&file)?;
    // Cargo builds both into one directory.
    let program = std::env::current_exe()?.with_file_name("sandgate-hot");
    let none: [&str; 0] = [];
    let paths = String::from_utf8(peer::run(&program, &none)?.stdout)?;
    let (mut counts, mut grown) = (Counts::new(), Vec::new());
    println!("{:<14}{:>14}{:>14}{:>9}   of", "", "before", "instructions", "");
    for (path, what) in paths.lines().filter_map(|line| line.split_once('\t')) {
        let [few, many] = TIMES.map(|times| count(&program, path, times));
        let each = many?.saturating_sub(few?) / (TIMES[1] - TIMES[0]);
        let known = before.get(path).copied();
        let change = known.map(|before| percent(before, each));
        let (known, shown) = (known.map(|before| before.to_string()), change.map(|change| format!("{change:+.1} %")));
        println!("{path:<14}{:>14}{each:>14}{:>9}   {what}", known.unwrap_or_default(), shown.unwrap_or_default());
        if let (Some(change), Some(most)) = (change, most)
            && change > most
        {
            grown.push(format!("{path} by {change:.1} %"));
        }
        counts.insert(path.to_owned(), each);
    }
    if cfg!(debug_assertions) {
        println!("\nnot optimised: no count counts");
    }
    if write {
        let text = serde_json::to_string_pretty(&counts)? + "\n";
        std::fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    if !grown.is_empty() {
        eprintln!("more instructions than in `{}`: {}", file.display(), grown.join(", "));
    }
    Ok(grown.is_empty())
}

/// The counts to compare with. There are none yet if there is no file.
fn read(file: &PathBuf) -> Result<Counts> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("`{}` is damaged", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Counts::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", file.display())),
    }
}

/// By how many percent of `before` it has grown.
fn percent(before: u64, now: u64) -> f64 {
    100.0 * (now as f64 / before.max(1) as f64 - 1.0)
}

/// Instructions of a process that takes a path so often.
fn count(program: &Path, path: &str, times: u64) -> Result<u64> {
    let times = times.to_string();
    let arguments: [&OsStr; 5] = [
        "--tool=callgrind".as_ref(),
        "--callgrind-out-file=/dev/null".as_ref(),
        program.as_ref(),
        path.as_ref(),
        times.as_ref(),
    ];
    let output =
        peer::run(Path::new("valgrind"), &arguments).context("Debian and Ubuntu: `apt-get install valgrind`")?;
    if !output.status.success() {
        bail!("valgrind failed ({}): {}", output.status, peer::last_line(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    collected(&said).with_context(|| format!("valgrind names no count: {}", peer::last_line(&output.stderr)))
}

/// The number in callgrind's line `==123== Collected : 456`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_is_told_in_percent() {
        for (before, now, expected) in [(100, 103, 3.0), (200, 100, -50.0), (0, 1, 0.0), (7, 7, 0.0)] {
            assert!((percent(before, now) - expected).abs() < 1e-9, "{before} {now}");
        }
    }

    #[test]
    fn the_count_is_found() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 123456\n==1==\n"), Some(123_456));
        assert_eq!(collected("==1== nothing\n"), None);
    }
}
