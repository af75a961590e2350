//! A tree of files that nobody was given, and that has to stay as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The tree. It is removed with this.
#[derive(Debug)]
pub(crate) struct Canary {
    directory: TempDir,
    planted: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Plants a file, a directory, a link out of the tree and a hard link.
    pub(crate) fn plant() -> Canary {
        let directory = tempfile::tempdir().expect("a directory for canaries");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("granted/inside")).expect("a directory");
        fs::write(at("secret"), "the canary sings").expect("a file");
        fs::write(at("granted/inside/plain"), "plain").expect("a file");
        fs::hard_link(at("secret"), at("granted/hard")).expect("a link");
        symlink(at("secret"), at("granted/out")).expect("a link");
        symlink("../secret", at("granted/up")).expect("a link");
        symlink("/", at("granted/root")).expect("a link");
        let planted = Canary::look(directory.path());
        Canary { directory, planted }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What was done to the tree.
    pub(crate) fn harm(&self) -> Vec<String> {
        let now = Canary::look(self.path());
        let mut harm = Vec::new();
        for (path, was) in &self.planted {
            match now.get(path) {
                None => harm.push(format!("canary `{}` is gone", path.display())),
                Some(is) if is != was => harm.push(format!("canary `{}` was {was} and is {is}", path.display())),
                Some(_) => {}
            }
        }
        let new = now.keys().filter(|path| !self.planted.contains_key(*path));
        harm.extend(new.map(|path| format!("`{}` is new among the canaries", path.display())));
        harm
    }

    fn look(root: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).expect("a directory of the tree") {
                let path = entry.expect("an entry").path();
                let metadata = fs::symlink_metadata(&path).expect("what is there");
                let content = if metadata.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
                let description = format!(
                    "mode {:o}, owner {}, {} links, {} bytes, changed {}.{:09}, {}",
                    metadata.mode(),
                    metadata.uid(),
                    metadata.nlink(),
                    metadata.len(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    String::from_utf8_lossy(&content),
                );
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                found.insert(path.strip_prefix(root).expect("beneath it").to_owned(), description);
            }
        }
        found
    }
}

#[test]
fn harm_is_seen() {
    let canary = Canary::plant();
    assert_eq!(canary.harm(), Vec::<String>::new());
    fs::write(canary.path().join("granted/hard"), "it does not").expect("a file");
    fs::write(canary.path().join("new"), "").expect("a file");
    let harm = canary.harm();
    assert!(
        harm.iter().any(|line| line.contains("`secret` was")) && harm.iter().any(|line| line.contains("`new`")),
        "{harm:?}"
    );
}
