//! The files to audit, and the crates they belong to.
//!
//! A directory with a `Cargo.toml` is a crate; what lies in none belongs to the directory that was asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// One Rust source file.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// Position of its crate in [`Sources::crates`].
    pub(crate) krate: usize,
}

impl AsRef<Path> for SourceFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// All files, the largest first, so that at the end nobody is left alone with one.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The directories of the crates.
    pub(crate) crates: Vec<PathBuf>,
    pub(crate) files: Vec<SourceFile>,
}

impl Sources {
    /// All Rust files below these directories.
    pub(crate) fn find(directories: &[PathBuf]) -> Result<Sources> {
        let mut sources = Sources::default();
        for directory in directories {
            let krate = sources.add_crate(directory);
            sources.walk(directory, krate).with_context(|| format!("cannot list `{}`", directory.display()))?;
        }
        sources.files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        ensure!(!sources.files.is_empty(), "there is no `.rs` file in {directories:?}");
        Ok(sources)
    }

    fn add_crate(&mut self, directory: &Path) -> usize {
        self.crates.push(directory.to_owned());
        self.crates.len() - 1
    }

    fn walk(&mut self, directory: &Path, krate: usize) -> std::io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() && !is_left_out(&path) {
                let krate = if path.join("Cargo.toml").is_file() { self.add_crate(&path) } else { krate };
                self.walk(&path, krate)?;
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
                self.files.push(SourceFile { bytes: entry.metadata()?.len(), path, krate });
            }
        }
        Ok(())
    }

    /// Keeps `count` files at most, of all sizes.
    pub(crate) fn limit(&mut self, count: usize) {
        self.files = sample(&self.files, count);
    }

    /// What the crate is called in a table.
    pub(crate) fn crate_name(&self, krate: usize) -> String {
        let directory = &self.crates[krate];
        directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned()
    }
}

/// `count` files at most, evenly spread over all.
pub(crate) fn sample(files: &[SourceFile], count: usize) -> Vec<SourceFile> {
    let count = count.min(files.len());
    (0..count).map(|number| files[number * files.len() / count].clone()).collect()
}

/// What cargo writes, and what is hidden.
fn is_left_out(directory: &Path) -> bool {
    let hidden = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    hidden || directory.join("CACHEDIR.TAG").is_file()
}

/// The directories to which cargo has unpacked the crates of registries.
pub(crate) fn registries() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("there is no home directory")?;
    let sources = home.join("registry").join("src");
    let entries = std::fs::read_dir(&sources)
        .with_context(|| format!("cargo has unpacked nothing in `{}`; name a directory to audit", sources.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
