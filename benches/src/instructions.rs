//! Counts the instructions of the hot paths under valgrind. The count is nearly the same in every run, also on a machine
//! that has other things to do, so what became slower shows.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::peer;

/// Each path is taken so often and so often; what starts and ends the process is in both counts.
const TIMES: [u64; 2] = [100, 1100];

/// Counts every path and prints a table.
pub(crate) fn run() -> Result<()> {
    // Cargo builds both into one directory.
    let program = std::env::current_exe()?.with_file_name("sandgate-hot");
    let none: [&str; 0] = [];
    let paths = String::from_utf8(peer::run(&program, &none)?.stdout)?;
    println!("{:<14}{:>14}   of", "", "instructions");
    for (path, what) in paths.lines().filter_map(|line| line.split_once('\t')) {
        let [few, many] = TIMES.map(|times| count(&program, path, times));
        let each = many?.saturating_sub(few?) / (TIMES[1] - TIMES[0]);
        println!("{path:<14}{each:>14}   {what}");
    }
    if cfg!(debug_assertions) {
        println!("\nnot optimised: no count counts");
    }
    Ok(())
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
    fn the_count_is_found() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 123456\n==1==\n"), Some(123_456));
        assert_eq!(collected("==1== nothing\n"), None);
    }
}
