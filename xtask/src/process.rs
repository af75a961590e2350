//! The one place that starts processes. Every process is waited for before the call returns.
//!
//! A [`Step`] is a program with its arguments, never a line for a shell. It can print itself as one, so that whoever sees
//! it fail can run it again by hand.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// One process, with the name under which it succeeds or fails.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    set: Vec<(&'static str, OsString)>,
    unset: Vec<&'static str>,
    dir: PathBuf,
}

impl Step {
    /// A step that runs `program` in the directory `dir`.
    pub(crate) fn new(name: &str, program: impl Into<OsString>, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            set: Vec::new(),
            unset: Vec::new(),
            dir: dir.to_owned(),
        }
    }

    /// A step of the cargo that started xtask, so that all steps use one toolchain.
    pub(crate) fn cargo(name: &str, dir: &Path) -> Self {
        Self::new(name, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), dir)
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.set.push((name, value.into()));
        self
    }

    pub(crate) fn env_remove(mut self, name: &'static str) -> Self {
        self.unset.push(name);
        self
    }

    /// Runs the step, which writes to this process's stdout and stderr.
    pub(crate) fn run(&self) -> Result<()> {
        self.announce();
        self.wait(Stdio::inherit())
    }

    /// Runs the step with its stdout sent to stderr: it is progress, not the answer.
    pub(crate) fn run_aside(&self) -> Result<()> {
        self.announce();
        self.wait(Stdio::from(io::stderr()))
    }

    /// Runs the step and gives back its stdout. What it writes to stderr is shown.
    pub(crate) fn read(&self) -> Result<String> {
        let output = self.command().stderr(Stdio::inherit()).output().with_context(|| self.cannot_start())?;
        if !output.status.success() {
            bail!(self.failure(&output.status));
        }
        String::from_utf8(output.stdout).with_context(|| format!("step `{}` wrote something else than text", self.name))
    }

    /// As [`Step::read`], announced like [`Step::run`].
    pub(crate) fn run_and_read(&self) -> Result<String> {
        self.announce();
        self.read()
    }

    /// Asks without a word on the terminal: `None` when the program is missing or fails.
    pub(crate) fn probe(&self) -> Option<String> {
        let output = self.command().stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn announce(&self) {
        eprintln!("==> {}\n    {self}", self.name);
    }

    fn wait(&self, stdout: Stdio) -> Result<()> {
        let status = self.command().stdout(stdout).status().with_context(|| self.cannot_start())?;
        if !status.success() {
            bail!(self.failure(&status));
        }
        Ok(())
    }

    fn cannot_start(&self) -> String {
        format!("step `{}` cannot start `{}`", self.name, self.program.display())
    }

    fn failure(&self, status: &std::process::ExitStatus) -> String {
        format!("step `{}` failed ({status}); to run it again:\n    {self}", self.name)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place, and each caller waits for the process")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.set.iter().map(|(name, value)| (name, value))).current_dir(&self.dir);
        for name in &self.unset {
            command.env_remove(name);
        }
        command
    }
}

/// The line that does the same in a shell.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elsewhere = std::env::current_dir().map_or(true, |here| here != self.dir);
        if elsewhere {
            write!(f, "cd {} && ", quoted(self.dir.as_os_str()))?;
        }
        let set_here: Vec<_> = self.unset.iter().filter(|name| std::env::var_os(name).is_some()).collect();
        if !set_here.is_empty() {
            f.write_str("env ")?;
        }
        for name in set_here {
            write!(f, "-u {name} ")?;
        }
        for (name, value) in &self.set {
            write!(f, "{name}={} ", quoted(value))?;
        }
        let is_cargo = std::env::var_os("CARGO").is_some_and(|cargo| cargo == self.program);
        f.write_str(&if is_cargo { "cargo".into() } else { quoted(&self.program) })?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_prints_as_the_line_that_does_the_same() {
        let here = std::env::current_dir().expect("a current directory");
        let step = Step::new("docs", "tool", &here).args(["doc", "--no-deps"]).arg("it's").env("FLAGS", "-D warnings");
        assert_eq!(step.to_string(), r"FLAGS='-D warnings' tool doc --no-deps 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_step_and_the_command() {
        let error = Step::new("nothing", "false", Path::new("/")).run().expect_err("`false` fails").to_string();
        assert_eq!(error, "step `nothing` failed (exit status: 1); to run it again:\n    cd / && false");
    }

    #[test]
    fn a_probe_of_a_missing_program_is_none() {
        assert_eq!(Step::new("nothing", "/no/such/program", Path::new("/")).probe(), None);
    }
}
