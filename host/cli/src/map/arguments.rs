//! The command line of `sandgate map`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::options::{Sandbox, setting};

/// Run a task for each input, on all cores, each in a sandbox of its own
///
/// An input is a line of standard input, or a file, and a task either a program for wasm32-wasip1, which reads the input on
/// its standard input and prints the result, or a task of a module made with the SDK (--task), which takes it as its
/// argument. A program gets its line without the line break. Every input has exactly one result, in the order of the inputs.
///
/// An input that fails is told on standard error, and the others go on. A program's standard error is shown where it fails;
/// with `--output json` all of it is in the result.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate map upper.wasm < words.txt                        each line through a program
  sandgate map jq.wasm --arg .name --files 'in/*.json' --output-dir out
  sandgate map -I {} lint.wasm --arg --name={} --files src   each program is told which file it reads
  find . -name '*.png' -print0 | sandgate map --nul --task describe images.wasm
  sandgate map --json --task add tools.wasm < pairs.jsonl    typed arguments, a JSON value a line
  sandgate map --gateway popen --gateway ssh=me@big --gateway ssh=me@bigger words.wasm < books.txt
  sandgate map --journal run.journal big.wasm < all.txt > results.txt
  sandgate map --journal run.journal --resume big.wasm < all.txt > results.txt

With --output json, each result is one line: an object with `index` (from 0), `input` (a file's path, or null), `outcome`
(`returned`, `failed`, `panicked`, `trapped`, `exited`, `timed out`, `limit exceeded`, `rejected`, `no value`, `worker lost`,
`bad input`), `result` (`result_base64` if a program printed something that is not UTF-8), `error`, `stderr`, `attempts`,
`milliseconds`, `gateway`.

With --journal, a result is in the journal before it is printed. A run that was interrupted, in whatever way, goes on with
--resume and the same inputs: it prints the results that the journal has and those that were missing, each once.

Exit codes:
  0    every input has its result; a pipe that is closed by its reader counts as well
  1    some inputs failed
  2    the command line, or the file of --hosts, is wrong
  3    it could not be run, or its results could not be written, as standard error says
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP")]
pub(crate) struct Arguments {
    /// The module's file
    pub(crate) module: PathBuf,
    /// The task of a module made with the SDK [default: the module's `_start`, as a program]
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// An argument for the program, after its own name
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,
    /// Put the file's name in the place of this text in each --arg, as in `--replace {} --arg --name={}`
    #[arg(long, short = 'I', value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    #[arg(requires = "files", requires = "arg", conflicts_with = "task")]
    pub(crate) replace: Option<String>,

    /// Files as inputs, instead of lines: names, patterns, and directories with all that is in them
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Inputs", conflicts_with = "nul")]
    pub(crate) files: Vec<OsString>,
    /// Inputs end with NUL bytes, not with line breaks
    #[arg(long, help_heading = "Inputs")]
    pub(crate) nul: bool,
    /// Inputs are JSON: the argument of a task that takes one, else an array or object of them. Results are JSON too
    #[arg(long, help_heading = "Inputs", requires = "task")]
    pub(crate) json: bool,
    /// The largest input, as in 1M; a larger one has failed [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = setting("message"), help_heading = "Inputs")]
    pub(crate) max_input: Option<String>,

    /// Tasks at once, without --gateway and --hosts, whose machines have one for each of their cores [default: one for each core]
    #[arg(long, short, value_name = "COUNT", value_parser = jobs, help_heading = "Execution")]
    pub(crate) jobs: Option<usize>,
    /// A machine that takes tasks, as many at once as it has cores: `popen` is this one, `ssh=me@host` and `exec=COMMAND` are
    /// others; can be given again. A spec says what else a gateway is, as in `ssh=me@host//heartbeat=5s`
    #[arg(long, value_name = "SPEC", help_heading = "Execution", conflicts_with = "jobs")]
    pub(crate) gateway: Vec<String>,
    /// A file with a SPEC on each line, as for --gateway; what follows a `#` is a comment. It is looked at every 2 seconds while
    /// this runs: machines on new lines join, those whose lines are gone leave once what runs there is done
    #[arg(long, value_name = "FILE", help_heading = "Execution", conflicts_with = "jobs")]
    pub(crate) hosts: Option<PathBuf>,
    /// Time for each task, as in 10s, or `off` [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = setting("timeout"), help_heading = "Execution")]
    pub(crate) timeout: Option<String>,
    /// How often a task that failed is run again. One whose worker was lost is in any case, up to three times
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Execution")]
    pub(crate) retries: u32,
    /// Results in the order of their inputs; the default
    #[arg(long, help_heading = "Execution", conflicts_with = "unordered")]
    ordered: bool,
    /// Results as soon as they are there
    #[arg(long, help_heading = "Execution")]
    pub(crate) unordered: bool,
    /// Stop as soon as an input fails: what runs then is cancelled
    #[arg(long, help_heading = "Execution")]
    pub(crate) fail_fast: bool,
    /// Go on when inputs fail; the default
    #[arg(long, help_heading = "Execution", conflicts_with = "fail_fast")]
    keep_going: bool,

    /// What a result looks like
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Lines, help_heading = "Output")]
    pub(crate) output: Format,
    /// A file for each result, written whole or not at all: `INPUT.out` for a file, `INDEX.out` for a line
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) output_dir: Option<PathBuf>,
    /// The most that a program may print, as in 1M; one that prints more has failed [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = setting("output"), help_heading = "Output")]
    pub(crate) max_output: Option<String>,
    /// Keeps every result in this file, so that a run that was interrupted can go on
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) journal: Option<PathBuf>,
    /// Goes on with the journal of a run that was interrupted
    #[arg(long, help_heading = "Output", requires = "journal")]
    pub(crate) resume: bool,

    #[command(flatten)]
    pub(crate) sandbox: Sandbox,
    #[command(flatten)]
    pub(crate) see: crate::see::Options,
}

/// What a result looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// What a program printed, or a task's value, on a line of its own; failures on standard error
    Lines,
    /// A JSON object a line, failures too
    Json,
}

impl Arguments {
    /// What besides the module decides a result.
    pub(crate) fn fingerprint(&self) -> String {
        let Arguments { task, arg, json, nul, output, .. } = self;
        let (files, to_files) = (!self.files.is_empty(), self.output_dir.is_some());
        let replace = self.replace.as_ref().map(|text| format!(" replace={text:?}")).unwrap_or_default();
        format!(
            "task={task:?} arg={arg:?} json={json} nul={nul} files={files} output={output:?} output-dir={to_files} {}{replace}",
            self.sandbox.fingerprint()
        )
    }

    /// The arguments of a program, if they depend on its file.
    pub(crate) fn template(&self) -> Option<Template> {
        Template::new(self.replace.as_deref(), &self.arg)
    }
}

/// Arguments with places for the name of a file.
#[derive(Debug)]
pub(crate) struct Template {
    placeholder: String,
    arg: Vec<String>,
}

impl Template {
    pub(crate) fn new(placeholder: Option<&str>, arg: &[String]) -> Option<Template> {
        placeholder.map(|placeholder| Template { placeholder: placeholder.to_owned(), arg: arg.to_vec() })
    }

    /// The arguments for a file, or what is wrong with its name.
    pub(crate) fn filled(&self, path: Option<&Path>) -> Result<Vec<String>, String> {
        let name = path.and_then(Path::to_str).ok_or("its name is not UTF-8, so it cannot be an argument")?;
        Ok(self.arg.iter().map(|arg| arg.replace(&self.placeholder, name)).collect())
    }
}

pub(crate) fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=1024) => Ok(jobs),
        _ => Err("is not a number from 1 to 1024".to_owned()),
    }
}
