//! `sandgate cache`: the compiled modules that are kept on disk, as a list, and fewer of them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use sandgate::ModuleLimits;
use sandgate::cache::{Entry, Pruned, default_directory, entries, prune};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::print;

const EXAMPLES: &str = "\
Examples:
  sandgate cache list
  sandgate cache list --json | jq '.entries | length'
  sandgate cache prune                     down to the 2 GiB that it may hold anyway
  sandgate cache prune --to 500M           what was not used for the longest time goes first
  sandgate cache prune --all
  sandgate cache list --dir /var/cache/gates

The directory is `$SANDGATE_CACHE`, else `sandgate` in the user's cache directory. Nothing in it is lost for good: a \
module that is needed again is compiled again. Programs that are at work keep what they have.

Exit codes: 0 if it was done, 2 for a wrong command line, 3 if the directory cannot be read or a file not be removed.";

/// List or remove the compiled modules that are kept on disk
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Prune(Prune),
}

/// List the compiled modules, the least recently used first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct List {
    #[command(flatten)]
    common: Common,
}

/// Remove the least recently used compiled modules, and what killed processes have left
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Prune {
    /// Bytes that may be left, as in `65536`, `500M` or `2G`
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "all")]
    to: Option<u64>,
    /// Remove all of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The directory, if not the usual one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn directory(&self) -> Result<PathBuf> {
        self.dir.clone().or_else(default_directory).context(
            "there is no usual directory, for neither `SANDGATE_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set: use `--dir`",
        )
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    match &arguments.action {
        Action::List(List { common }) => {
            let directory = common.directory()?;
            let entries = entries(&directory).with_context(|| cannot("read", &directory))?;
            print::result(&if common.json {
                list_json(&directory, &entries)
            } else {
                list_text(&directory, &entries)
            })?;
        }
        Action::Prune(Prune { to, all, common }) => {
            let directory = common.directory()?;
            let bytes = if *all { 0 } else { to.unwrap_or_else(|| ModuleLimits::default().cache_bytes) };
            let pruned = prune(&directory, bytes).with_context(|| cannot("prune", &directory))?;
            let left = entries(&directory).with_context(|| cannot("read", &directory))?;
            let text = if common.json { pruned_json(&directory, pruned, &left) } else { pruned_text(pruned, &left) };
            print::result(&text)?;
        }
    }
    Ok(Exit::Success)
}

fn cannot(what: &str, directory: &Path) -> String {
    format!("cannot {what} the cache `{}`", directory.display())
}

fn total(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

fn list_text(directory: &Path, entries: &[Entry]) -> String {
    let mut text = String::new();
    if !entries.is_empty() {
        text = format!("{:<14} {:>10}  {}\n", "last use", "size", "key");
    }
    for Entry { key, bytes, last_use, .. } in entries {
        text += &format!("{:<14} {:>10}  {key}\n", ago(*last_use), bytes_text(*bytes));
    }
    text + &format!("{} in `{}`\n", count_text(entries.len(), total(entries)), directory.display())
}

fn pruned_text(pruned: Pruned, left: &[Entry]) -> String {
    let removed = count_text(pruned.entries, pruned.bytes);
    format!("removed {removed}; {} left\n", count_text(left.len(), total(left)))
}

fn count_text(count: usize, bytes: u64) -> String {
    let modules = if count == 1 { "module" } else { "modules" };
    format!("{count} compiled {modules}, {}", bytes_text(bytes))
}

fn list_json(directory: &Path, entries: &[Entry]) -> String {
    let list = entries.iter().map(|entry| {
        let last_use = entry.last_use.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        json!({ "key": entry.key, "bytes": entry.bytes, "last_use": last_use })
    });
    let list: Vec<Value> = list.collect();
    let value = json!({ "directory": directory.to_string_lossy(), "bytes": total(entries), "entries": list });
    format!("{value:#}\n")
}

fn pruned_json(directory: &Path, pruned: Pruned, left: &[Entry]) -> String {
    let value = json!({
        "directory": directory.to_string_lossy(),
        "removed": { "entries": pruned.entries, "bytes": pruned.bytes },
        "left": { "entries": left.len(), "bytes": total(left) },
    });
    format!("{value:#}\n")
}

/// A size as specs have them: bytes, or with `K`, `M` or `G`.
fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "it is no size such as `65536`, `500M` or `2G`".to_owned())
}

/// A number of bytes for people, as in `1.5 MiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        None if bytes == 1 => "1 byte".to_owned(),
        None => format!("{bytes} bytes"),
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

/// How long ago something was, for people, as in `3 hours ago`.
fn ago(then: SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    let units = [("day", 24 * 60 * 60), ("hour", 60 * 60), ("minute", 60)];
    match units.into_iter().find(|(_, length)| seconds >= *length) {
        None => "just now".to_owned(),
        Some((unit, length)) => {
            let count = seconds / length;
            format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("0", Some(0)), ("65536", Some(65536)), ("3K", Some(3072)), ("2G", Some(2 << 30))] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn times_are_shown() {
        for (seconds, text) in [(0, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (86_400, "1 day ago")] {
            assert_eq!(ago(SystemTime::now() - Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(SystemTime::now() + Duration::from_secs(60)), "just now");
    }
}
