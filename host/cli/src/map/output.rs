//! Where results go: lines on standard output, or a file for each.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ledger::Meta;

/// What is written at once.
const BUFFER_BYTES: usize = 1 << 16;

/// The longest name that file systems take.
const MAX_NAME_BYTES: usize = 255;

/// Where results go.
#[derive(Debug)]
pub(crate) enum Output {
    Stream { out: BufWriter<File>, is_terminal: bool },
    Files(PathBuf),
}

impl Output {
    /// Standard output, or a directory. That files can be made in it, and that no two results go to the same, is found out
    /// here.
    pub(crate) fn open(directory: Option<&Path>, inputs: &[PathBuf]) -> Result<Output> {
        let Some(directory) = directory else {
            let stdout = io::stdout();
            let is_terminal = stdout.is_terminal();
            let file = stdout.as_fd().try_clone_to_owned().context("standard output cannot be used")?;
            return Ok(Output::Stream { out: BufWriter::with_capacity(BUFFER_BYTES, file.into()), is_terminal });
        };
        let failed = || format!("directory `{}` cannot be written to", directory.display());
        fs::create_dir_all(directory).with_context(failed)?;
        tempfile::Builder::new().prefix(".sandgate-").tempfile_in(directory).with_context(failed)?;
        check_places(directory, inputs)?;
        Ok(Output::Files(directory.to_owned()))
    }

    /// Writes a result.
    pub(crate) fn write(&mut self, meta: &Meta, result: &[u8]) -> Result<()> {
        match self {
            Output::Stream { out, .. } => {
                let written = out.write_all(result).and_then(|()| match result.last() {
                    None | Some(b'\n') => Ok(()),
                    Some(_) => out.write_all(b"\n"),
                });
                written.context("standard output cannot be written to")
            }
            Output::Files(directory) => {
                let path = directory.join(place(meta.path.as_deref(), meta.index));
                write_whole(&path, result).with_context(|| format!("`{}` cannot be written", path.display()))
            }
        }
    }

    /// Whether what is written is looked at right away.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Output::Stream { is_terminal: true, .. })
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        match self {
            Output::Stream { out, .. } => out.flush().context("standard output cannot be written to"),
            Output::Files(_) => Ok(()),
        }
    }

    /// Whether nobody reads it any more.
    pub(crate) fn is_hung_up(&self) -> bool {
        let Output::Stream { out, .. } = self else { return false };
        let mut looked_at = [PollFd::new(out.get_ref(), PollFlags::empty())];
        let ready = poll(&mut looked_at, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        ready.is_ok_and(|ready| ready > 0) && looked_at[0].revents().contains(PollFlags::ERR)
    }

    /// Forgets what is not written yet.
    pub(crate) fn forget(&mut self) {
        if let Output::Stream { out, .. } = self
            && let Ok(file) = out.get_ref().try_clone()
        {
            let (_, rest) = std::mem::replace(out, BufWriter::new(file)).into_parts();
            drop(rest);
        }
    }
}

/// Fails if two results would be the same file, one would be where another needs a directory, or one could not have its name.
fn check_places(directory: &Path, inputs: &[PathBuf]) -> Result<()> {
    let mut places: HashMap<PathBuf, &PathBuf> = HashMap::new();
    for input in inputs {
        let place = place(Some(input), 0);
        if place.file_name().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            bail!("the result of `{}` cannot have its name: it has more than {MAX_NAME_BYTES} bytes", input.display());
        }
        if directory.join(&place).is_dir() {
            bail!("the result of `{}` cannot be written: its file is a directory", input.display());
        }
        if let Some(other) = places.insert(place, input) {
            bail!("results of `{}` and `{}` would be the same file", other.display(), input.display());
        }
    }
    let mut folders: HashSet<&Path> = HashSet::new();
    for (place, input) in &places {
        for folder in place.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty()) {
            if !folders.insert(folder) {
                break;
            }
            if let Some(other) = places.get(folder) {
                let (input, other) = (input.display(), other.display());
                bail!("the result of `{other}` would be a file where that of `{input}` needs a directory");
            }
            if directory.join(folder).is_file() {
                bail!(
                    "the result of `{}` needs a directory where there is a file: `{}`",
                    input.display(),
                    folder.display()
                );
            }
        }
    }
    Ok(())
}

/// Where the result of an input lies within the directory: beneath it, whatever the input is called.
fn place(input: Option<&Path>, index: u64) -> PathBuf {
    let Some(input) = input else { return PathBuf::from(format!("{index}.out")) };
    let mut place = PathBuf::new();
    for component in input.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => place.push("__"),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".out");
    place.with_file_name(name)
}

/// A file with this content, or none.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new().prefix(".sandgate-").permissions(ordinary()).tempfile_in(directory)?;
    // Not by the temporary file itself, whose errors name it: nobody knows that name.
    file.as_file_mut().write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// As any file that is made; the user's umask has its say.
fn ordinary() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_lie_beneath_the_directory() {
        let check = |input: &str, expected: &str| assert_eq!(place(Some(Path::new(input)), 0), Path::new(expected));
        check("a.txt", "a.txt.out");
        check("./a/b.c.txt", "a/b.c.txt.out");
        check("/etc/passwd", "etc/passwd.out");
        check("../../x", "__/__/x.out");
        assert_eq!(place(None, 17), Path::new("17.out"));
    }

    #[test]
    fn a_file_is_whole_and_two_results_have_two() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new/dir");
        let inputs = ["x/a", "x/./a"].map(PathBuf::from);
        assert!(Output::open(Some(&root), &inputs).is_err());
        Output::open(Some(&root), &inputs[..1]).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "the test of the directory leaves nothing");
        let refused = |inputs: &[PathBuf]| Output::open(Some(&root), inputs).unwrap_err().to_string();
        let clash = refused(&["a.out/b/c".into(), "a".into()]);
        assert_eq!(clash, "the result of `a` would be a file where that of `a.out/b/c` needs a directory");
        assert!(refused(&[format!("x/{}", "n".repeat(252)).into()]).ends_with("it has more than 255 bytes"));
        Output::open(Some(&root), &[format!("x/{}", "n".repeat(251)).into()]).unwrap();
        fs::create_dir_all(root.join("folder.out")).unwrap();
        assert!(refused(&["folder".into()]).ends_with("its file is a directory"));
        fs::write(root.join("file"), "").unwrap();
        assert!(refused(&["file/x".into()]).ends_with("needs a directory where there is a file: `file`"));
        write_whole(&root.join("x/a.out"), b"abc").unwrap();
        write_whole(&root.join("x/a.out"), b"ab").unwrap();
        assert_eq!(fs::read(root.join("x/a.out")).unwrap(), b"ab");
        assert!(Output::open(Some(Path::new("/dev/null/x")), &[]).is_err());
    }
}
