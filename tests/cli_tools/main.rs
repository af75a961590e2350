//! The tools of the command line, as somebody types them: `sandgate check`, `cache`, `new` and `doctor`.

mod cache;
mod check;
mod doctor;
mod new;
mod readme;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use sandgate_tests::{output, worker};

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A directory to work in, and a cache of compiled modules that nobody else uses.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("text").to_owned()
    }

    /// Runs `sandgate` with these arguments.
    fn sandgate(&self, arguments: &[&str]) -> Said {
        let cache = format!("SANDGATE_CACHE={}", self.path("cache").display());
        let program = worker().to_str().expect("text");
        self.run("env", &[&[&cache, program], arguments].concat())
    }

    fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Said {
        said(output(program, arguments, self.directory.path()))
    }
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
