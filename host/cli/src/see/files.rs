//! Files that are written: whether they can be is found out before any work, and the old one stays until the new one is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Fails if the file could not be written now. Changes nothing.
pub(super) fn check(what: &str, path: &Path) -> anyhow::Result<()> {
    let said = || format!("{what} `{}` cannot be written", path.display());
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => bail!("{}: it is a directory", said()),
        Ok(_) => drop(OpenOptions::new().append(true).open(path).with_context(said)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(said),
    }
    if replaces(path) {
        tempfile::NamedTempFile::new_in(directory(path)).with_context(said)?;
    }
    Ok(())
}

/// Writes a whole file: under another name first, unless it is something like a pipe or a terminal.
pub(super) fn write(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if !replaces(path) {
        let mut out = io::BufWriter::new(OpenOptions::new().write(true).open(path)?);
        write(&mut out)?;
        return out.flush();
    }
    // Where a link points to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let file = tempfile::Builder::new().prefix(".sandgate-").tempfile_in(directory(&path))?;
    let mut out = io::BufWriter::with_capacity(1 << 18, file);
    write(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).map_or(0o644, |found| found.permissions().mode());
        file.as_file().set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    }
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

/// Whether it is a file, or will be one.
fn replaces(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file())
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_found_out_and_what_can_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        check("report", &file).unwrap();
        assert!(!file.exists());
        fs::write(&file, "old").unwrap();
        check("report", &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert!(check("report", dir.path()).unwrap_err().to_string().contains("it is a directory"));
        assert!(check("report", &dir.path().join("no/file")).is_err());
        check("report", Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_when_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        let failed = write(&file, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        write(&file, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write(Path::new("/dev/null"), |out| out.write_all(b"new")).unwrap();
    }
}
