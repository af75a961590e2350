//! The machines that a command runs on: `--gateway`, and `--hosts`, a file of them that may change meanwhile.
//!
//! ```text
//!  every 2 s: the file's text ─► another one, and it stays so ─► all of it is right ─► join, leave
//!                                                                └ else a warning, once, and nothing changes
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sandgate::{BadMachine, Looks, Machines, Spec};

use crate::exit::WrongUsage;
use crate::print;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a text has to stay as it is: whoever writes the file may not be done.
const SETTLES_IN: Duration = Duration::from_millis(100);
/// The largest file.
const MAX_BYTES: u64 = 1 << 20;

/// The machines of a command, and who looks after the file of them.
#[derive(Debug)]
pub(crate) struct Hosts {
    machines: Machines,
    file: Option<HostsFile>,
    watcher: Option<Watcher>,
}

/// What was read last.
#[derive(Debug)]
struct HostsFile {
    path: PathBuf,
    /// Those that are not in the file.
    named: Vec<Spec>,
    text: Result<String, String>,
}

/// What is wrong with a file, and on which line if it is one of them.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: Option<usize>,
    what: String,
}

/// The thread that looks at the file; it ends with this.
#[derive(Debug)]
struct Watcher {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hosts {
    /// Those that are named, and those of the file; none is this machine's gateways as they are without. What is wrong with
    /// them is wrong with the command line.
    pub(crate) fn read(gateways: &[String], file: Option<&Path>) -> Result<Hosts> {
        // Not by the parser of the command line, whose errors repeat a value: it may have what is secret.
        let named = gateways.iter().map(|text| machine(text)).collect::<Result<Vec<Spec>, String>>();
        let named = named.map_err(|problem| WrongUsage(format!("`--gateway`: {problem}")))?;
        let Some(path) = file else {
            let machines = Machines::new(named);
            return Ok(Hosts { machines: machines.map_err(|bad| wrong_option(&bad))?, file: None, watcher: None });
        };
        let file = HostsFile { path: path.to_owned(), named, text: read(path) };
        let machines = Machines::new([]).context("an empty list is one")?;
        // What is wrong with options does not become right by a file.
        file.apply(&machines).map_err(|problem| WrongUsage(file.tell(&problem)))?;
        Ok(Hosts { machines, file: Some(file), watcher: None })
    }

    pub(crate) fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Has a look at each machine before there is work: says which one is not there, and goes on as soon as one is.
    pub(crate) fn look(&self, defaults: &Spec) -> Result<()> {
        let mut looks = self.machines.look(defaults)?;
        let mut missing = Vec::new();
        for found in looks.by_ref() {
            match found {
                Ok(_) => {
                    missing.iter().for_each(say_missing);
                    return rest_of(looks);
                }
                Err(error) => missing.push(anyhow::Error::from(error)),
            }
        }
        match missing.len() {
            0 => Ok(()),
            1 => Err(missing.remove(0)).context("no machine is there"),
            _ => {
                missing.iter().for_each(|error| print::complain(&format!("{error:#}")));
                bail!("none of {} machines is there", missing.len())
            }
        }
    }

    /// Looks after the file from now on, until this is dropped. What happens is said.
    pub(crate) fn watch(&mut self, say: impl Fn(&str) + Send + 'static) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let (is_over, machines) = (Arc::new(AtomicBool::new(false)), self.machines.clone());
        let over = Arc::clone(&is_over);
        let body = move || {
            while pause(LOOK_EVERY, &over) {
                if let Some(told) = file.look(&machines, || pause(SETTLES_IN, &over)) {
                    say(&told);
                }
            }
        };
        let thread = std::thread::Builder::new().name("sandgate-hosts".to_owned()).spawn(body);
        self.watcher = Some(Watcher { is_over, thread: Some(thread.context("no thread for the hosts file")?) });
        Ok(())
    }
}

/// Says who else is not there, while others work.
fn rest_of(looks: Looks) -> Result<()> {
    let body = move || looks.filter_map(Result::err).for_each(|error| say_missing(&error.into()));
    let thread = std::thread::Builder::new().name("sandgate-looks".to_owned()).spawn(body);
    thread.map(drop).context("no thread for looks at machines")
}

fn say_missing(error: &anyhow::Error) {
    print::complain(&format!("{error:#}; it is tried again"));
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to give.
            let _ = thread.join();
        }
    }
}

/// Waits; whether to go on then.
fn pause(time: Duration, is_over: &AtomicBool) -> bool {
    let until = std::time::Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if is_over.load(Ordering::Acquire) {
            return false;
        }
        if left.is_zero() {
            return true;
        }
        std::thread::park_timeout(left);
    }
}

impl HostsFile {
    /// Does what follows from a change, and says what that is. `settle` waits, unless there is no time left.
    fn look(&mut self, machines: &Machines, settle: impl Fn() -> bool) -> Option<String> {
        let mut text = read(&self.path);
        if text == self.text {
            return None;
        }
        loop {
            if !settle() {
                return None;
            }
            let again = read(&self.path);
            if again == text {
                break;
            }
            text = again;
        }
        self.text = text;
        let before = machines.specs();
        match self.apply(machines) {
            Err(problem) => Some(format!("{}; the machines stay as they are", self.tell(&problem))),
            Ok(()) => {
                let now = machines.specs();
                let (joined, left) = (missing_in(&before, &now), missing_in(&now, &before));
                if joined + left == 0 {
                    return None;
                }
                Some(format!("hosts file `{}`: {joined} to join, {left} to leave", self.path.display()))
            }
        }
    }

    fn apply(&self, machines: &Machines) -> Result<(), Problem> {
        let whole = |what: &str| Problem { line: None, what: what.to_owned() };
        let text = self.text.as_ref().map_err(|what| whole(what))?;
        let lines = lines_of(text)?;
        if lines.is_empty() && self.named.is_empty() {
            return Err(whole("it names no machine"));
        }
        self.check_ids(&lines)?;
        let specs = self.named.iter().chain(lines.iter().map(|(_, spec)| spec)).cloned();
        machines.set(specs).map_err(|bad| {
            let at = bad.position.checked_sub(self.named.len()).and_then(|at| lines.get(at));
            Problem { line: at.map(|(line, _)| *line), what: bad.source.to_string() }
        })
    }

    /// Whether each line has an id of its own, if it has one.
    fn check_ids(&self, lines: &[(usize, Spec)]) -> Result<(), Problem> {
        let mut known: HashMap<&str, Option<usize>> =
            self.named.iter().filter_map(|spec| Some((spec.given_id()?, None))).collect();
        for (line, id) in lines.iter().filter_map(|(line, spec)| Some((*line, spec.given_id()?))) {
            if let Some(before) = known.insert(id, Some(line)) {
                let place = before.map_or_else(|| "a `--gateway`".to_owned(), |line| format!("line {line}"));
                let what = format!(
                    "`id={id}` is that of {place} already: give each machine an id of its own, or leave it out"
                );
                return Err(Problem { line: Some(line), what });
            }
        }
        Ok(())
    }

    fn tell(&self, problem: &Problem) -> String {
        let Problem { line, what } = problem;
        let line = line.map_or_else(String::new, |line| format!(", line {line}"));
        format!("hosts file `{}`{line}: {what}", self.path.display())
    }
}

fn wrong_option(bad: &BadMachine) -> anyhow::Error {
    WrongUsage(format!("`--gateway`: {}", bad.source)).into()
}

/// How many of `these` the `others` lack.
fn missing_in(others: &[Spec], these: &[Spec]) -> usize {
    let mut others: Vec<&Spec> = others.iter().collect();
    let is_missing = |spec: &Spec| match others.iter().position(|other| *other == spec) {
        Some(at) => {
            others.swap_remove(at);
            false
        }
        None => true,
    };
    these.iter().map(is_missing).filter(|is_missing| *is_missing).count()
}

fn read(path: &Path) -> Result<String, String> {
    let text = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    match text() {
        Ok(text) if text.len() as u64 > MAX_BYTES => Err(format!("it has more than {MAX_BYTES} bytes")),
        Ok(text) => Ok(text),
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}

/// The specs of a hosts file, with their lines.
fn lines_of(text: &str) -> Result<Vec<(usize, Spec)>, Problem> {
    // A comment begins a line or stands after a space, so that a command can have a `#` in it.
    let without_comment = |line: &str| match line.find(" #") {
        _ if line.starts_with('#') => String::new(),
        Some(at) => line[..at].trim().to_owned(),
        None => line.trim().to_owned(),
    };
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, without_comment(line)));
    let specs = lines.filter(|(_, line)| !line.is_empty());
    specs
        .map(|(at, line)| match machine(&line) {
            Ok(spec) => Ok((at, spec)),
            Err(what) => Err(Problem { line: Some(at), what }),
        })
        .collect()
}

fn machine(text: &str) -> Result<Spec, String> {
    text.parse().map_err(|error: sandgate::SpecError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(texts: &[&str]) -> Vec<Spec> {
        texts.iter().map(|text| machine(text).unwrap()).collect()
    }

    #[test]
    fn a_hosts_file_has_a_machine_on_each_line() {
        let text = "# ours\npopen\n\n  ssh=me@big//heartbeat=5s # the big one\nexec=run '#1' agent\n";
        let (lines, found): (Vec<usize>, Vec<Spec>) = lines_of(text).unwrap().into_iter().unzip();
        assert_eq!(found, specs(&["popen", "ssh=me@big//heartbeat=5s", "exec=run '#1' agent"]));
        assert_eq!(lines, [2, 4, 5]);
        assert_eq!(lines_of("popen\nssh=-x\n").unwrap_err().line, Some(2));
    }

    #[test]
    fn a_file_that_changes_is_followed_and_one_that_is_wrong_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write("popen\nexec=a\n");
        let hosts = Hosts::read(&["exec=named".to_owned()], Some(file.path())).unwrap();
        let (machines, mut hosts) = (hosts.machines, hosts.file.unwrap());
        let mut check = |text: Option<&str>, told: Option<&str>, expected: &[&str]| {
            match text {
                Some(text) => write(text),
                None => std::fs::remove_file(file.path()).unwrap(),
            }
            let said = hosts.look(&machines, || true);
            assert_eq!(said.is_some(), told.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(told.unwrap_or_default()));
            assert_eq!(machines.specs(), specs(expected));
            assert_eq!(hosts.look(&machines, || true), None, "it is said once");
        };
        check(Some("popen\nexec=a\n"), None, &["exec=named", "popen", "exec=a"]);
        check(Some("exec=a\npopen # the same\n"), None, &["exec=named", "exec=a", "popen"]);
        check(Some("exec=b\npopen\npopen"), Some("2 to join, 1 to leave"), &["exec=named", "exec=b", "popen", "popen"]);
        let now = ["exec=named", "exec=b", "popen", "popen"];
        check(Some("popen\n\nnonsense=1\n"), Some(", line 3: "), &now);
        check(Some("popen\nexec=c//via=nobody\n"), Some(", line 2: "), &now);
        check(None, Some("cannot be read"), &now);
        check(Some("# nobody\n"), Some("0 to join, 3 to leave"), &["exec=named"]);
    }

    #[test]
    fn what_is_wrong_with_the_first_is_wrong_with_the_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |text: &str, expected: &str| {
            std::fs::write(file.path(), text).unwrap();
            let error = Hosts::read(&[], Some(file.path())).unwrap_err();
            assert!(error.is::<WrongUsage>() && error.to_string().contains(expected), "{error}");
        };
        check("", "names no machine");
        check("popen\nssh=-x\n", ", line 2: ");
        check("popen\n\npopen//via=x\n", ", line 3: ");
        let twice = ", line 3: `id=a` is that of line 1 already: give each machine an id of its own, or leave it out";
        check("popen//id=a\nexec=b//id=b\nexec=c//id=a\n", twice);
        std::fs::write(file.path(), "popen//id=a\n").unwrap();
        let error = Hosts::read(&["exec=a//id=a".to_owned()], Some(file.path())).unwrap_err().to_string();
        assert!(error.contains(", line 1: `id=a` is that of a `--gateway` already"), "{error}");
        let both = ["exec=a//id=a".to_owned(), "exec=b//id=a".to_owned()];
        let error = Hosts::read(&both, None).unwrap_err();
        assert!(error.is::<WrongUsage>() && error.to_string().contains("already a gateway `a`"), "{error}");
        assert!(Hosts::read(&[], Some(Path::new("/nonexistent"))).unwrap_err().is::<WrongUsage>());
        assert!(Hosts::read(&["popen//via=x".to_owned()], None).unwrap_err().is::<WrongUsage>());
    }
}
